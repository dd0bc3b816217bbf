package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/mirror/maptopic"
)

func threeCopies(policy string, after time.Duration) func(*spillway.FailoverGroup) {
	return func(g *spillway.FailoverGroup) {
		g.Ack = spillway.AckPolicy{Sites: 3, OnShortfall: policy, ShortfallAfter: after}
	}
}

func (w *world) counts() (acked, weak int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, offsets := range w.acked {
		acked += len(offsets)
	}
	return acked, w.weak
}

// newest is the newest offset of each partition that was acknowledged.
func (w *world) newest() map[spillway.TopicPartition]spillway.Offset {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := map[spillway.TopicPartition]spillway.Offset{}
	for tp, offsets := range w.acked {
		for o := range offsets {
			newest[tp] = max(newest[tp], o)
		}
	}
	return newest
}

// checkCopies finds what was acknowledged at standbys: below their marks now, and in
// what they show, which follows when their map says so.
func (w *world) checkCopies(newest map[spillway.TopicPartition]spillway.Offset, standbys ...spillway.SiteID) {
	w.t.Helper()
	for _, id := range standbys {
		ends := w.sites[id].mirror.Ends(spillway.ShareID{Group: "orders"})
		for tp, o := range newest {
			if ends[tp] <= o {
				w.t.Errorf("%s: offset %d was acknowledged, %s has %d", tp, o, id, ends[tp])
			}
			w.eventually(fmt.Sprintf("%s shows offset %d of %s", id, o, tp), func() bool { _, ok := w.visible(id, tp)[o]; return ok })
		}
	}
}

// With block nothing is acknowledged while a site is missing, and everything goes
// on when it is back; the share was never degraded.
func TestShortfallBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: threeCopies("block", time.Second)})
	w.settled(1)
	stop := w.load()
	w.loaded(20)
	w.kill("west")
	w.eventually("a reason", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.ContainsFunc(w.waits, func(why string) bool {
			return why == "producers wait: no durable marks from west, ack.sites is 3"
		})
	})
	before, _ := w.counts()
	time.Sleep(2 * time.Second) // twice what a degrade would need
	if now, weak := w.counts(); now != before || weak != 0 || w.record().Degrades != 0 {
		t.Fatalf("%d records acknowledged without west, %d by fewer sites, degraded %d times", now-before, weak, w.record().Degrades)
	}
	w.sites["west"].restart()
	w.loaded(20)
	stop()
	if _, weak := w.counts(); weak != 0 {
		t.Errorf("%d acknowledgements by fewer sites", weak)
	}
	w.checkCopies(w.newest(), "west", "north")
}

// With degrade it is in the store before the first weaker acknowledgement, which no
// fault of the store brings forward, and survives the loop that wrote it. It ends
// only when the standbys have everything that was acknowledged meanwhile.
func TestShortfallDegradesAndIsRestored(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	w := newWorld(t, options{store: store, group: threeCopies("degrade", 3*time.Second)})
	w.settled(1)
	stop := w.load()
	w.loaded(20)
	var refused, killed atomic.Bool
	var refusals atomic.Int64
	refused.Store(true)
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.BeforeRead || !strings.Contains(ops[0].Key, "/shares/") {
			return nil
		}
		s, err := failover.Decode(ops[0].Value)
		if err != nil || !s.Degraded || s.Restoring {
			return nil
		}
		if when == coordtest.BeforeWrite && refused.Load() {
			refusals.Add(1)
			return errors.New("the write of the degrade is lost")
		}
		if when == coordtest.AfterWrite && !killed.Swap(true) {
			w.sites["east"].endLoop() // whoever wrote it gets no answer, and one loop dies
			return errors.New("the answer is lost")
		}
		return nil
	})
	w.eventually("all sites give marks", func() bool { return !w.record().Degraded })
	before := w.record().Degrades // a slow start may have been one
	_, early := w.counts()
	w.kill("west")
	w.eventually("two attempts", func() bool { return refusals.Load() > 2 })
	if _, weak := w.counts(); weak != early {
		t.Fatalf("%d acknowledgements by fewer sites before that was in the store", weak)
	}
	refused.Store(false)
	w.loaded(20)
	share := w.record()
	_, weak := w.counts()
	if !share.Degraded || share.Degrades != before+1 || weak == early || !killed.Load() {
		t.Fatalf("%+v, %d acknowledgements by fewer sites", share, weak)
	}
	w.sites["east"].anew()
	w.sites["west"].restart()
	var newest map[spillway.TopicPartition]spillway.Offset
	w.eventually("the end of the degrade", func() bool {
		newest = w.newest()
		return !w.record().Degraded
	})
	w.checkCopies(newest, "west", "north") // from here on RPO 0 is claimed
	stop()
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) <= before || history[before].Kind != failover.Degrade || history[before].Ended.IsZero() || !strings.Contains(history[before].Why, "no durable marks from west") {
		t.Errorf("%+v, %v", history, err)
	}
	w.eventually("the gap log", func() bool {
		return slices.ContainsFunc(w.sites["east"].maps.Gaps(), func(g maptopic.Gap) bool {
			return g.Kind == maptopic.GapDegrade && strings.Contains(g.Detail, "group orders: no durable marks from west") && strings.Contains(g.Detail, "; over at ")
		})
	})
	var told []string
	for len(w.acks) > 0 {
		i := <-w.acks
		told = append(told, map[bool]string{true: "degraded", false: "whole"}[i.Degraded]+map[bool]string{true: " restoring"}[i.Restoring])
	}
	if !slices.Contains(told, "degraded restoring") || !slices.Contains(told, "whole") {
		t.Errorf("told: %q", told)
	}
}

// A failover of a degraded share claims no RPO 0: it opens above everything that was
// handed out, and announces what may be missing.
func TestFailoverOfADegradedShareIsLossy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: threeCopies("degrade", 3*time.Second)})
	w.settled(1)
	stop := w.load()
	w.loaded(20)
	// West is lost, and north takes nothing any more until east is lost too.
	w.kill("west")
	w.eventually("the degrade", func() bool { r := w.record(); return r.Degraded && !r.Restoring })
	w.sites["north"].stop()
	w.loaded(20)
	w.kill("east")
	w.sites["north"].start()
	if _, err := w.operator.Failover(within(t), "orders", "north", -1, "test", "", false); err != nil {
		t.Fatal(err)
	}
	share := w.settled(2)
	stop()
	missing := w.check("north", share)
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) < 2 {
		t.Fatalf("%+v, %v", history, err)
	}
	move := history[len(history)-1]
	if !share.Degraded || !share.Current().Lossy || missing == 0 || move.Kind != failover.Failover || int64(missing) > move.LostMost {
		t.Errorf("%d are missing, %d announced; %+v", missing, move.LostMost, share)
	}
	for _, p := range move.Passages {
		if strings.Contains(p.Why, "nothing acknowledged is missing") {
			t.Errorf("RPO 0 was claimed: %s", p.Why)
		}
	}
}

// A topic begins anew at west, and east dies before anything of it is copied. West has told of
// each record that it was there, so all of them were acknowledged. The failover does not take
// what west has now for all there is: it says what is missing, and gives none of its offsets
// out again (promises B, D).
func TestAFailoverWhileATopicIsCopiedAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) {
		g.Ack = spillway.AckPolicy{Sites: 2, OnShortfall: "block"}
	}})
	w.settled(1)
	stop := w.load()
	w.loaded(60)
	stop()
	acked, _ := w.counts()
	w.kill("east")
	west := w.sites["west"].cluster.Admin()
	if err := errors.Join(west.DeleteTopic(within(t), "orders"), west.CreateTopic(within(t), "orders", partitions, 1, nil)); err != nil {
		t.Fatal(err)
	}
	plan, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "", false)
	if err != nil {
		t.Fatal(err)
	}
	share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%v: %+v; faults %q", err, share, last(w.failed, 5))
	}
	if missing := w.check("west", share); missing != acked {
		t.Errorf("%d of %d are missing", missing, acked)
	}
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) == 0 {
		t.Fatalf("%+v, %v", history, err)
	}
	if lost := history[0].LostMost; lost < int64(acked) {
		t.Errorf("%d are missing, and %d are announced", acked, lost)
	}
}
