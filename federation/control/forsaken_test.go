package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// The site to which automation fails over dies as well, when nobody serves the share
// any more: the failover is given up and begun anew with another site, and loses no
// more than it announces.
func TestAFailoverGoesOnWithoutItsTarget(t *testing.T) {
	t.Parallel()
	held := &heldStore{Store: coordtest.NewMemory()}
	w := newWorld(t, options{store: held, sites: []spillway.SiteID{"east", "west", "north", "south", "centre"}, group: func(g *spillway.FailoverGroup) {
		g.Failover = spillway.AutomaticFailover{Enabled: true, After: 200 * time.Millisecond, LossRecordsMax: 1000, PerHourMax: 1}
	}})
	w.settled(1)
	stop := w.load()
	w.loaded(20)
	held.hold(failover.Fenced)
	w.kill("east")
	w.eventually("the failover is in FENCED", func() bool { s := w.record(); return s.State == failover.Fenced && s.Epoch == 2 })
	first := w.record().Target
	w.kill(first)
	held.hold("")
	share := w.settled(4)
	if share.Epoch != 4 || share.Active == first || share.Active == "east" || share.Kind != failover.Failover || share.Gone != nil {
		t.Fatalf("%s", share.Encode())
	}
	w.loaded(10)
	stop()
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 2 || !strings.Contains(history[0].Aborted, "target "+string(first)+" went away in ") || !strings.Contains(history[0].Aborted, "it is begun anew to "+string(share.Active)) || history[1].Who != "automation" {
		t.Fatalf("%+v, %v", history, err)
	}
	if missing := w.check(share.Active, share); int64(missing) > history[1].LostMost {
		t.Errorf("%d are missing, %d were announced", missing, history[1].LostMost)
	}
}

// A person asked for the failover, so a person is asked what to do when its target dies,
// and what is said works.
func TestAPersonIsAskedWhenTheTargetOfHisFailoverDies(t *testing.T) {
	t.Parallel()
	held := &heldStore{Store: coordtest.NewMemory()}
	w := newWorld(t, options{store: held, sites: []spillway.SiteID{"east", "west", "north", "south", "centre"}})
	w.settled(1)
	w.produce("east", "a", 20)
	w.eventually("north has all", func() bool { return len(w.visible("north", orders0)) == 20 })
	held.hold(failover.Fenced)
	w.kill("east")
	if _, err := w.operator.Failover(within(t), "orders", "west", -1, "ann", "east is gone", false); err != nil {
		t.Fatal(err)
	}
	w.eventually("the failover is in FENCED", func() bool { s := w.record(); return s.State == failover.Fenced && s.Epoch == 2 })
	w.kill("west")
	held.hold("")
	w.eventually("the question", func() bool {
		s := w.record()
		return strings.HasPrefix(s.Asking, "target west went away in ") && strings.HasSuffix(s.Asking, "a person must decide: ann asked for this failover; wait for west, or spillway abort orders, then spillway failover orders --to north")
	})
	if err := w.operator.Abort(within(t), "orders", "ann", "west is gone too"); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is given up", func() bool { s := w.record(); return s.State == failover.Stable && s.Epoch == 3 })
	plan, err := w.operator.Failover(within(t), "orders", "north", -1, "ann", "west is gone too", false)
	if err != nil {
		t.Fatal(err)
	}
	share := w.settled(plan.Epoch)
	if share.Active != "north" || !slices.Contains(plan.Silent, "site west is down") {
		t.Fatalf("%s, %q", share.Encode(), plan.Silent)
	}
	if missing := w.check("north", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
}
