//go:build e2e

package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway"
	"spillway/federation/coordination/consul"
	"spillway/federation/failover"
	"spillway/federation/history"
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
	counted := newCounting(store)
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
	}
	logSteps(t, history)
	slices.Sort(held)
	for _, line := range counted.chain(share.Epoch) {
		t.Log(line)
	}
	fmt.Printf("measured: embedded sites with a real Consul: %d records, holds in ms: %v\n", acked, held)
}

// logSteps prints how long each step of a hold took, over all moves.
func logSteps(t *testing.T, history []history.Record) {
	t.Helper()
	took := map[failover.State][]int64{}
	for _, r := range history {
		for i, p := range r.Passages[1:] {
			took[p.State] = append(took[p.State], p.At.Sub(r.Passages[i].At).Milliseconds())
		}
	}
	for _, s := range []failover.State{failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open, failover.Stable} {
		slices.Sort(took[s])
		t.Logf("until %-9s ms: %v", s, took[s])
	}
}
