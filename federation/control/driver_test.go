package control

import (
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// Of three loops that see the same, one writes: the others would take their turns in
// the store while clients are held.
func TestTheTargetsLoopGoesFirst(t *testing.T) {
	const takeover, drain = 700 * time.Millisecond, 3 * time.Second
	group := spillway.FailoverGroup{Name: "orders", Sites: []spillway.SiteID{"east", "west", "north"}, GroupDrain: drain}
	for _, row := range []struct {
		state failover.State
		site  spillway.SiteID
		after time.Duration // that the record stood still
	}{
		{failover.Stable, "east", 0},
		{failover.Stable, "west", 0},
		{failover.Draining, "west", 0},
		{failover.Draining, "east", drain + takeover},
		{failover.Draining, "north", drain + 2*takeover},
		{failover.Fencing, "west", 0},
		{failover.Fencing, "east", takeover},
		{failover.Fencing, "north", 2 * takeover},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &Control{cfg: Config{Site: row.site, TakeoverAfter: takeover, Clock: coordination.GoClock{}}}
			d := newDriver(c, group, spillway.ShareID{Group: group.Name})
			d.share, d.seen = failover.Share{State: row.state, Target: "west"}, c.cfg.Clock.Now()
			if row.after > 0 {
				time.Sleep(row.after - time.Millisecond)
				if d.mine() {
					t.Errorf("%s at %s drives after less than %s", row.state, row.site, row.after)
				}
				time.Sleep(time.Millisecond)
			}
			if !d.mine() {
				t.Errorf("%s at %s does not drive after %s", row.state, row.site, row.after)
			}
		})
	}
}

// No lease wakes a driver: how soon it looks by itself is how soon it sees what leases say.
func TestHowSoonADriverLooksAgain(t *testing.T) {
	for _, row := range []struct {
		state  failover.State
		urgent bool
		sites  int // that acknowledge
		want   time.Duration
	}{
		{failover.Stable, false, 0, idleTick},
		{failover.Stable, false, 1, idleTick},
		{failover.Stable, false, 2, marksTick},
		{failover.Stable, true, 2, movingTick},
		{failover.Stable, true, 1, movingTick},
		{failover.Fencing, false, 1, movingTick},
	} {
		d := newDriver(&Control{}, spillway.FailoverGroup{Name: "orders", Ack: spillway.AckPolicy{Sites: row.sites}}, spillway.ShareID{Group: "orders"})
		d.share.State, d.urgent = row.state, row.urgent
		if got := d.tick(); got != row.want || row.sites > 1 && got > marksStall/8 {
			t.Errorf("%+v: %v", row, got)
		}
	}
}
