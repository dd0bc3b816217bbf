package coordination_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
)

// Who takes a virtual cluster for another one reads nothing, writes nothing and hears of
// nothing, until the store agrees.
func TestIdentified(t *testing.T) {
	store := coordtest.NewMemory()
	ctx := t.Context()
	early := coordination.Identified(store, "identity", []byte("red"), false)
	if _, err := early.List(ctx, "shares/"); err != nil {
		t.Errorf("before anybody has said who it is: %v", err)
	}
	red := coordination.Identified(store, "identity", []byte("red"), true)
	if _, err := red.Put(ctx, "shares/a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for name, create := range map[string]bool{"may create": true, "may not": false} {
		t.Run(name, func(t *testing.T) {
			blue := coordination.Identified(store, "identity", []byte("blue"), create)
			_, errGet := blue.Get(ctx, "shares/a")
			_, errList := blue.List(ctx, "shares/")
			_, errPut := blue.Put(ctx, "shares/b", []byte("1"), 0)
			errDelete := blue.Delete(ctx, "shares/a", 1)
			errTxn := blue.Txn(ctx, []coordination.Op{{Key: "shares/b", Value: []byte("1")}})
			for what, err := range map[string]error{"get": errGet, "list": errList, "put": errPut, "delete": errDelete, "txn": errTxn} {
				if !errors.Is(err, coordination.ErrOther) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	if all, err := red.List(ctx, "shares/"); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := make(chan error, 10)
	done := make(chan error)
	go func() {
		blue := coordination.Identified(store, "identity", []byte("blue"), false)
		done <- blue.Watch(ctx, "shares/", func(entries []coordination.Entry, err error) {
			if err == nil && len(entries) != 1 {
				err = errors.New("it heard of something else")
			}
			heard <- err
		})
	}()
	if err := <-heard; !errors.Is(err, coordination.ErrOther) {
		t.Errorf("a watch: %v", err)
	}
	select {
	case err := <-heard:
		t.Errorf("a watch was told: %v", err)
	case <-time.After(300 * time.Millisecond): // it asks again meanwhile
	}
	entry, err := store.Get(ctx, "identity")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(ctx, "identity", []byte("blue"), entry.Version); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil {
		t.Errorf("a watch, now that it is right: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the end of a watch: %v", err)
	}
}
