package federation

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/router"
)

// A renewal reads the records of shares. An answer that a watch has overtaken is older than
// what is known: taken, it would open a share again that was confirmed to be drained (promise
// A). One that is older than what was known before it was asked for is of a store that was put
// back, and counts.
func TestAReadThatAWatchOvertookIsDropped(t *testing.T) {
	id := spillway.ShareID{Group: "g"}
	share := router.NewShare(id, spillway.FailoverGroup{Name: "g"})
	g := &Gateway{config: Config{Store: coordtest.NewMemory()}, keys: "test", shares: map[spillway.ShareID]*router.Share{id: share}}
	g.mu.versions = make(map[spillway.ShareID]uint64)
	g.layout = newLayoutKeeper(g)
	record := func(version uint64, state failover.State) []coordination.Entry {
		s := failover.Share{Group: "g", Epoch: 2, State: state, Active: "east", Target: "west", Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
		return []coordination.Entry{{Key: g.keys.Share(id), Value: s.Encode(), Version: version}}
	}
	is := func(when string, want failover.State) {
		t.Helper()
		if got := share.Record().State; got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	g.seeShares(record(7, failover.Draining))
	before := g.seenVersions()
	g.seeShares(record(8, failover.Fencing))
	g.takeShares(record(7, failover.Draining), before)
	is("a read that began before FENCING was seen", failover.Fencing)
	g.seeShares(record(7, failover.Draining))
	is("a watch that is late", failover.Fencing)
	g.takeShares(record(3, failover.Draining), g.seenVersions())
	is("a read of a store that was put back", failover.Draining)
}

// hangs is a store in which what concerns one share hangs.
type hangs struct {
	coordination.Store
	key string
}

func (h hangs) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	if key == h.key {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return h.Store.Put(ctx, key, value, version)
}

// All shares move at once when a site is lost: the confirmation of one that cannot be written
// holds up no other one.
func TestConfirmationsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := coordtest.NewMemory()
		keys := failover.Keys("test")
		stuck := spillway.ShareID{Group: "stuck"}
		g := &Gateway{config: Config{ID: "east-1", Store: hangs{store, keys.GatewayReport(stuck, 2, "east-1")}}, keys: keys, shares: make(map[spillway.ShareID]*router.Share)}
		g.shares[stuck] = nil
		for i := range 20 {
			g.shares[spillway.ShareID{Group: fmt.Sprintf("group-%d", i)}] = nil
		}
		r := newReports(g)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.run(ctx) }()
		for id := range g.shares {
			r.update(id, 2, func(report *failover.GatewayReport) { report.Drained = true })
		}
		synctest.Wait() // no time passes meanwhile
		for id := range g.shares {
			if written := len(store.Peek(keys.GatewayReport(id, 2, "east-1"))); written == 0 && id != stuck {
				t.Errorf("%s waits for the share whose confirmation hangs", id)
			}
		}
		cancel()
		<-done
	})
}
