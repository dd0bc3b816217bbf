//go:build e2e

package control

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
	"spillway/federation/failover"
	server "spillway/tests/cluster/consul"
)

func init() {
	// The keeper of child processes lives as long as the test process.
	leakOptions = append(leakOptions, goleak.IgnoreAnyFunction("spillway/tests/cluster/process.init.func1.1"))
}

// The hold of a planned move is store writes, watches and the mirror's last
// step; with Consul on the same machine it must stay short.
func TestSwitchoversOnRealConsul(t *testing.T) {
	c := server.ForTest(t, 1)
	store, err := consul.New(consul.Config{Address: c.Servers[0].HTTP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	counted := &counting{Store: store}
	w := newWorld(t, options{store: counted, group: func(g *spillway.FailoverGroup) { g.GroupDrain = 100 * time.Millisecond }})
	share := w.settled(1)
	stop := w.load()
	var held []int64
	for i := range 8 {
		to := []spillway.SiteID{"west", "north", "east"}[i%3]
		plan, err := w.operator.Switchover(within(t), "orders", to, "test", "exercise", false)
		if err != nil {
			t.Fatalf("%v; faults %q", err, w.failed)
		}
		if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != to {
			t.Fatalf("%v: %+v; faults %q", err, share, last(w.failed, 5))
		}
		w.settled(share.Epoch)
	}
	acked := stop()
	if missing := w.check(share.Active, share); missing > 0 || acked < 100 {
		t.Errorf("%d of %d acknowledged records are missing", missing, acked)
	}
	history, err := w.operator.History(within(t), "orders")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range history {
		held = append(held, r.HeldMillis)
		var at time.Time
		for _, p := range r.Passages {
			if p.State != failover.Draining && p.State != failover.Fencing {
				t.Logf("  %s after %v", p.State, p.At.Sub(at).Round(time.Millisecond))
			}
			at = p.At
		}
	}
	slices.Sort(held)
	t.Logf("requests: %d lists, %d gets, %d writes, %d polls told something", counted.lists.Load(), counted.gets.Load(), counted.writes.Load(), counted.told.Load())
	t.Logf("%d records, holds in ms: %v", acked, held)
	if median := held[len(held)/2]; median >= 150 {
		t.Errorf("the median hold is %d ms", median)
	}
}

// counting tells how busy the store was.
type counting struct {
	coordination.Store
	lists, gets, writes, told atomic.Int64
}

func (c *counting) Get(ctx context.Context, key string) (coordination.Entry, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, key)
}

func (c *counting) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	c.lists.Add(1)
	return c.Store.List(ctx, prefix)
}

func (c *counting) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	c.writes.Add(1)
	return c.Store.Put(ctx, key, value, version)
}

func (c *counting) Txn(ctx context.Context, ops []coordination.Op) error {
	c.writes.Add(1)
	return c.Store.Txn(ctx, ops)
}

func (c *counting) Watch(ctx context.Context, prefix string, fn func([]coordination.Entry, error)) error {
	return c.Store.Watch(ctx, prefix, func(e []coordination.Entry, err error) { c.told.Add(1); fn(e, err) })
}
