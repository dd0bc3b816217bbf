package control

import (
	"sync"
	"testing"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// A site goes away the moment before another one opens, and comes back after two
// moves: the record has no offsets of the term that ended its own any more. It finds
// them in the history, and shows what all others show.
func TestASiteThatComesBackLateFindsWhereItsTimeEnded(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	w := newWorld(t, options{store: store})
	w.settled(1)
	w.produce("east", "a", 20)
	w.sites["east"].endLoop() // which might be the one that opens the other: it could not wait for its own end
	var once sync.Once
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when != coordtest.BeforeWrite {
			return nil
		}
		if s, err := failover.Decode(ops[0].Value); err == nil && s.State == failover.Open {
			once.Do(w.sites["east"].stop)
		}
		return nil
	})
	for _, to := range []spillway.SiteID{"west", "north"} {
		plan := w.switchover(to, "")
		share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
		if err != nil || share.Active != to {
			t.Fatalf("%v: %+v", err, share)
		}
		w.settled(share.Epoch)
		w.write(to, orders0, "at "+string(to))
	}
	if share := w.record(); !share.Terms[1].Trimmed {
		t.Fatalf("epoch 2 is not trimmed, the test proves nothing: %+v", share.Terms)
	}
	if _, open := w.sites["east"].maps.View(orders0).Open(); !open {
		t.Fatal("east has closed its epoch already, the test proves nothing")
	}
	w.sites["east"].start()
	share := w.settled(3)
	w.eventually("east shows what north shows", func() bool { return len(w.visible("east", orders0)) == 22 && len(w.visible("north", orders0)) == 22 })
	if missing := w.check("east", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
	// It kept what it had, and did not hide it and fetch it anew.
	ends, err := w.sites["east"].cluster.Admin().LogEnds(within(t), []spillway.TopicPartition{orders0})
	if err != nil || ends[orders0] != 22 || len(w.sites["east"].mirror.Map().Gaps()) > 0 {
		t.Errorf("log end %d, %v; gaps %+v", ends[orders0], err, w.sites["east"].mirror.Map().Gaps())
	}
}
