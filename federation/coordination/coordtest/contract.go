// Package coordtest holds the contract that every coordinator store passes.
package coordtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/federation/coordination"
)

// Contract runs all rules. open returns a store whose keys under a prefix that
// nobody else uses are empty, and that prefix.
func Contract(t *testing.T, open func(t *testing.T) (coordination.Store, string)) {
	t.Helper()
	for _, rule := range []struct {
		name string
		run  func(*testing.T, coordination.Store, string)
	}{
		{"compare and set", compareAndSet},
		{"versions rise over deletion", versionsRise},
		{"list is sorted and keeps to its prefix", listKeepsToPrefix},
		{"transaction is all or nothing", txnAllOrNothing},
		{"limits", limits},
		{"one of many writers wins", oneWins},
		{"watch tells the content and each change", watchTells},
		{"watch ends with its context", watchEnds},
		{"deadline is honoured", deadline},
		{"lease passes from one owner to the next", leasePasses},
	} {
		t.Run(rule.name, func(t *testing.T) {
			store, prefix := open(t)
			rule.run(t, store, prefix)
		})
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, s coordination.Store, key, value string, version uint64) uint64 {
	t.Helper()
	v, err := s.Put(within(t), key, []byte(value), version)
	if err != nil {
		t.Fatalf("put %s at version %d: %v", key, version, err)
	}
	return v
}

func compareAndSet(t *testing.T, s coordination.Store, p string) {
	ctx := within(t)
	if _, err := s.Get(ctx, p+"a"); !errors.Is(err, coordination.ErrNotFound) {
		t.Fatalf("read of an absent key: %v", err)
	}
	v1 := put(t, s, p+"a", "1", 0)
	if _, err := s.Put(ctx, p+"a", []byte("x"), 0); !errors.Is(err, coordination.ErrConflict) {
		t.Fatalf("created twice: %v", err)
	}
	v2 := put(t, s, p+"a", "2", v1)
	if v2 <= v1 {
		t.Fatalf("version went from %d to %d", v1, v2)
	}
	if _, err := s.Put(ctx, p+"a", []byte("x"), v1); !errors.Is(err, coordination.ErrConflict) {
		t.Fatalf("an old version was accepted: %v", err)
	}
	if _, err := s.Put(ctx, p+"b", []byte("x"), v1); !errors.Is(err, coordination.ErrConflict) {
		t.Fatalf("an absent key was written at version %d: %v", v1, err)
	}
	e, err := s.Get(ctx, p+"a")
	if err != nil || string(e.Value) != "2" || e.Version != v2 || e.Key != p+"a" {
		t.Fatalf("read %+v, %v; want 2 at version %d", e, err, v2)
	}
	if err := s.Delete(ctx, p+"a", v1); !errors.Is(err, coordination.ErrConflict) {
		t.Fatalf("deleted at an old version: %v", err)
	}
	if err := s.Delete(ctx, p+"a", v2); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if _, err := s.Get(ctx, p+"a"); !errors.Is(err, coordination.ErrNotFound) {
		t.Fatalf("read of a deleted key: %v", err)
	}
}

func versionsRise(t *testing.T, s coordination.Store, p string) {
	last := uint64(0)
	for i := range 5 {
		v := put(t, s, p+"k", strconv.Itoa(i), 0)
		if v <= last {
			t.Fatalf("version %d after %d", v, last)
		}
		last = v
		if err := s.Delete(within(t), p+"k", v); err != nil {
			t.Fatal(err)
		}
	}
}

func listKeepsToPrefix(t *testing.T, s coordination.Store, p string) {
	for _, k := range []string{"d/b", "d/a", "d/a/x", "da", "d", "c"} {
		put(t, s, p+k, k, 0)
	}
	got, err := s.List(within(t), p+"d/")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d/a", "d/a/x", "d/b"}
	for i, e := range got {
		if i >= len(want) || e.Key != p+want[i] || string(e.Value) != want[i] || e.Version == 0 {
			t.Fatalf("listed %+v, want %v", got, want)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("listed %d keys, want %v", len(got), want)
	}
	if one, err := s.List(within(t), p+"d"); err != nil || len(one) != 1 || one[0].Key != p+"d" {
		t.Fatalf("listed %v, %v: a prefix without / at its end is one key", one, err)
	}
	if none, err := s.List(within(t), p+"no"); err != nil || len(none) != 0 {
		t.Fatalf("listed %v, %v", none, err)
	}
	if none, err := s.List(within(t), p+"nothing/"); err != nil || len(none) != 0 {
		t.Fatalf("listed %v, %v", none, err)
	}
}

func txnAllOrNothing(t *testing.T, s coordination.Store, p string) {
	ctx := within(t)
	va := put(t, s, p+"a", "1", 0)
	vb := put(t, s, p+"b", "1", 0)
	err := s.Txn(ctx, []coordination.Op{
		{Key: p + "a", Value: []byte("2"), Version: va},
		{Key: p + "b", Value: []byte("2"), Version: vb + 1000},
	})
	if !errors.Is(err, coordination.ErrConflict) || !strings.Contains(err.Error(), p+"b") {
		t.Fatalf("conflict must name %sb: %v", p, err)
	}
	for _, check := range []coordination.Op{
		{Key: p + "a", Version: 0, Check: true},
		{Key: p + "absent", Version: va, Check: true},
		{Key: p + "a", Version: va + 1000, Check: true},
		{Key: p + "a", Version: va + 1000, Delete: true},
	} {
		err := s.Txn(ctx, []coordination.Op{{Key: p + "c", Value: []byte("1")}, check})
		if !errors.Is(err, coordination.ErrConflict) {
			t.Fatalf("%+v passed: %v", check, err)
		}
	}
	if list, err := s.List(ctx, p); err != nil || len(list) != 2 || string(list[0].Value) != "1" {
		t.Fatalf("a refused transaction left %v, %v", list, err)
	}
	err = s.Txn(ctx, []coordination.Op{
		{Key: p + "a", Value: []byte("2"), Version: va},
		{Key: p + "absent", Version: 0, Check: true},
		{Key: p + "b", Version: vb, Delete: true},
		{Key: p + "c", Value: []byte("1"), Version: 0},
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx, p)
	if err != nil || len(list) != 2 || string(list[0].Value) != "2" || string(list[1].Value) != "1" {
		t.Fatalf("after the transaction: %v, %v", list, err)
	}
	if list[0].Version <= vb {
		t.Fatalf("version %d of a changed key is not above %d", list[0].Version, vb)
	}
	if err := s.Txn(ctx, nil); err != nil {
		t.Fatalf("empty transaction: %v", err)
	}
}

func limits(t *testing.T, s coordination.Store, p string) {
	ctx := within(t)
	large := make([]byte, coordination.ValueBytesMax)
	for i := range large {
		large[i] = byte(i * 7)
	}
	v, err := s.Put(ctx, p+"large", large, 0)
	if err != nil {
		t.Fatalf("value of %d bytes: %v", len(large), err)
	}
	if v, err = s.Put(ctx, p+"large", large[1:], v); err != nil {
		t.Fatalf("second large value: %v", err)
	}
	if e, err := s.Get(ctx, p+"large"); err != nil || e.Version != v || string(e.Value) != string(large[1:]) {
		t.Fatalf("large value came back with %d bytes, version %d, %v", len(e.Value), e.Version, err)
	}
	if _, err := s.Put(ctx, p+"large", large, v+1000); !errors.Is(err, coordination.ErrConflict) {
		t.Fatalf("large value at a wrong version: %v", err)
	}
	if _, err := s.Put(ctx, p+"more", append(large, 0), 0); err == nil || errors.Is(err, coordination.ErrUnavailable) {
		t.Fatalf("a value over the limit must be refused for good: %v", err)
	}
	ops := make([]coordination.Op, coordination.OpsMax+1)
	for i := range ops {
		ops[i] = coordination.Op{Key: fmt.Sprintf("%sop/%02d", p, i), Value: []byte{1}}
	}
	if err := s.Txn(ctx, ops); err == nil {
		t.Fatal("65 changes were taken")
	}
	if err := s.Txn(ctx, ops[:coordination.OpsMax]); err != nil {
		t.Fatalf("64 changes: %v", err)
	}
	if err := s.Txn(ctx, []coordination.Op{{Key: p + "t", Value: []byte{1}}, {Key: p + "t", Value: []byte{2}}}); err == nil {
		t.Fatal("one key twice was taken")
	}
	if _, err := s.Put(ctx, p+"empty", nil, 0); err != nil {
		t.Fatalf("empty value: %v", err)
	}
	if e, err := s.Get(ctx, p+"empty"); err != nil || len(e.Value) != 0 {
		t.Fatalf("empty value came back as %v, %v", e, err)
	}
}

func oneWins(t *testing.T, s coordination.Store, p string) {
	const writers, rounds = 4, 15
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < rounds; {
				n, version := 0, uint64(0)
				e, err := s.Get(within(t), p+"counter")
				switch {
				case err == nil:
					n, _ = strconv.Atoi(string(e.Value))
					version = e.Version
				case !errors.Is(err, coordination.ErrNotFound):
					t.Error(err)
					return
				}
				_, err = s.Put(within(t), p+"counter", []byte(strconv.Itoa(n+1)), version)
				switch {
				case err == nil:
					done++
				case !errors.Is(err, coordination.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if e, err := s.Get(within(t), p+"counter"); err != nil || string(e.Value) != strconv.Itoa(writers*rounds) {
		t.Fatalf("counter is %s, want %d, %v", e.Value, writers*rounds, err)
	}
}

// watching runs a watch and hands over what it told.
func watching(t *testing.T, s coordination.Store, prefix string) <-chan string {
	ctx, cancel := context.WithCancel(context.Background())
	told, ended := make(chan string, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Watch(ctx, prefix, func(entries []coordination.Entry, err error) { // ends with ctx
			var b strings.Builder
			for _, e := range entries {
				fmt.Fprintf(&b, "%s=%s ", strings.TrimPrefix(e.Key, prefix), e.Value)
			}
			if err != nil {
				b.WriteString(err.Error())
			}
			told <- strings.TrimSpace(b.String())
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return told
}

func expect(t *testing.T, told <-chan string, want string) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	last := "nothing"
	for {
		select {
		case last = <-told:
			if last == want { // several changes may come as one
				return
			}
		case <-deadline:
			t.Fatalf("watch told %q at last, want %q", last, want)
		}
	}
}

func watchTells(t *testing.T, s coordination.Store, p string) {
	empty, full := watching(t, s, p+"none/"), watching(t, s, p+"w/")
	expect(t, empty, "")
	expect(t, full, "")
	va := put(t, s, p+"w/a", "1", 0)
	expect(t, full, "a=1")
	put(t, s, p+"elsewhere", "1", 0)
	put(t, s, p+"w/b", "1", 0)
	expect(t, full, "a=1 b=1")
	va = put(t, s, p+"w/a", "2", va)
	expect(t, full, "a=2 b=1")
	if err := s.Delete(within(t), p+"w/a", va); err != nil {
		t.Fatal(err)
	}
	expect(t, full, "b=1")
	select {
	case got := <-empty:
		t.Fatalf("a change elsewhere was told: %q", got)
	default:
	}
	one := watching(t, s, p+"one")
	expect(t, one, "")
	put(t, s, p+"one-more", "1", 0)
	put(t, s, p+"one/more", "1", 0)
	vo := put(t, s, p+"one", "1", 0)
	expect(t, one, "=1")
	if err := s.Delete(within(t), p+"one", vo); err != nil {
		t.Fatal(err)
	}
	expect(t, one, "")
	late := watching(t, s, p+"w/")
	expect(t, late, "b=1")
}

func watchEnds(t *testing.T, s coordination.Store, p string) {
	ctx, cancel := context.WithCancel(context.Background())
	first, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, p, func([]coordination.Entry, error) { first <- struct{}{} })
	}()
	<-first
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("watch ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("watch outlives its context")
	}
}

func deadline(t *testing.T, s coordination.Store, p string) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Get(ctx, p+"a"); !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Put(ctx, p+"a", nil, 0); !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("write: %v", err)
	}
	if _, err := s.List(ctx, p); !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("list: %v", err)
	}
	if err := s.Txn(ctx, []coordination.Op{{Key: p + "a"}}); !errors.Is(err, coordination.ErrUnavailable) {
		t.Errorf("transaction: %v", err)
	}
}

func owner(value []byte) string {
	who, _, _ := strings.Cut(string(value), " ")
	return who
}

func leasePasses(t *testing.T, s coordination.Store, p string) {
	const ttl, every, margin = 800 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond
	hold := func(self string) (*coordination.Lease, func()) {
		l := coordination.NewLease(coordination.LeaseConfig{
			Store: s, Key: p + "lease", Self: self, Owner: owner, Exclusive: true, TTL: ttl, Every: every, Margin: margin,
			Value: func(beat uint64) []byte { return fmt.Appendf(nil, "%s %d", self, beat) },
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		stop := sync.OnceFunc(func() { cancel(); <-done })
		t.Cleanup(stop)
		return l, stop
	}
	until := func(l *coordination.Lease, want bool) {
		t.Helper()
		for limit := time.Now().Add(15 * time.Second); l.Valid() != want; {
			if time.Now().After(limit) {
				t.Fatalf("lease did not become %v", want)
			}
			time.Sleep(time.Millisecond)
		}
	}
	first, stop := hold("first")
	until(first, true)
	second, _ := hold("second")
	for end := time.Now().Add(2 * (ttl + margin)); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if second.Valid() {
			t.Fatal("two owners")
		}
	}
	if !first.Valid() {
		t.Fatal("a lease that is renewed ended")
	}
	stop()
	if first.Valid() {
		t.Fatal("lease outlives Run")
	}
	until(second, true)
}
