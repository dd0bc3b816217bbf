//go:build e2e

package consul_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
	"spillway/federation/coordination/coordtest"
	server "spillway/tests/cluster/consul"
)

func TestRealConsulKeepsTheContract(t *testing.T) {
	c := server.ForTest(t, 1)
	var n atomic.Int64
	coordtest.Contract(t, func(t *testing.T) (coordination.Store, string) {
		s, err := consul.New(consul.Config{Address: c.Servers[0].HTTP})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s, fmt.Sprintf("spillway/t%d/", n.Add(1))
	})
}

// One of three servers dies, the leader or not: writes go on at another server,
// nothing answered is lost, and versions go on rising.
func TestRealConsulOutlivesOneOfThreeServers(t *testing.T) {
	c := server.ForTest(t, 3)
	var stores []coordination.Store
	for _, s := range c.Servers {
		store, err := consul.New(consul.Config{Address: s.HTTP})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		stores = append(stores, store)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	version, err := stores[1].Put(ctx, "spillway/t/k", []byte("before"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Servers[0].Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for {
		next, err := stores[1].Put(ctx, "spillway/t/k", []byte("after"), version)
		if err == nil {
			if next <= version {
				t.Fatalf("version %d after %d", next, version)
			}
			break
		}
		if !errors.Is(err, coordination.ErrUnavailable) {
			// The write of an attempt that was not answered counts.
			if e, getErr := stores[1].Get(ctx, "spillway/t/k"); getErr == nil && string(e.Value) == "after" {
				break
			}
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatal("no write succeeded after one of three servers died")
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Logf("writes went on after %v", time.Since(began))
	if e, err := stores[2].Get(ctx, "spillway/t/k"); err != nil || string(e.Value) != "after" {
		t.Fatalf("the third server reads %q, %v", e.Value, err)
	}
}
