package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// The dry run of a failover says which offsets may be lost, and how many records the
// old site has of them as long as it answers.
func TestDryRunSaysWhatWouldBeLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{}
	for id, s := range w.sites {
		w.operator.Sites[id] = s.cluster
	}
	w.settled(1)
	began, times := time.Now().Truncate(time.Millisecond), []failover.Loss{}
	w.produce("east", "a", 10)
	dry := func(to spillway.SiteID) Plan {
		t.Helper()
		plan, err := w.operator.Failover(within(t), "orders", to, -1, "test", "", true)
		if err != nil {
			t.Fatal(err)
		}
		times = slices.Clone(plan.Losses)
		for i, l := range plan.Losses {
			plan.Losses[i].First, plan.Losses[i].Last, plan.Losses[i].Kept = time.Time{}, time.Time{}, time.Time{}
			if l.Last.Before(l.First) || !l.Kept.IsZero() && (l.Kept.Before(began) || !l.First.IsZero() && l.First.Before(l.Kept)) {
				t.Errorf("%+v", l)
			}
		}
		return plan
	}
	reserved := spillway.Offset(1050) // the first record reserved so far
	w.eventually("both standbys have the ten", func() bool {
		have := func(site spillway.SiteID) bool { // of equals the target counts
			return slices.Equal(dry(site).Losses, []failover.Loss{{Topic: "orders", Site: site, From: 1010, To: reserved, LogEnd: 1010, Records: 0}})
		}
		return have("north") && have("west")
	})
	// The flows end, and nobody says so.
	w.sites["west"].mirror.Close()
	w.sites["north"].mirror.Close()
	w.produce("east", "b", 7)
	plan := dry("west")
	want := []failover.Loss{{Topic: "orders", Site: "west", From: 1010, To: reserved, LogEnd: 1017, Records: 7}}
	if !slices.Equal(plan.Losses, want) || plan.LostMost != 40 || plan.LostLeast != 0 || len(plan.Unread) != 0 {
		t.Errorf("%+v", plan)
	}
	if s := w.record(); s.State != failover.Stable || s.Epoch != 1 {
		t.Errorf("a dry run changed the share: %+v", s)
	}
	if l := times[0]; l.Kept.IsZero() || l.First.IsZero() {
		t.Errorf("when was it written? %+v", l)
	}
	// More than may be lost by itself: a person is told before anybody is held.
	w.produce("east", "more", 60)
	w.eventually("a failover would be refused", func() bool {
		plan, err := w.operator.Failover(within(t), "orders", "west", 39, "test", "", true)
		if err != nil || len(plan.Refused) == 0 || plan.LostLeast != 40 {
			return false
		}
		err = plan.Refusal()
		return errors.Is(err, failover.ErrRefused) && strings.Contains(err.Error(), "at least 40 records are not replicated and would be lost, 90 at most; go on with --accept-loss 40")
	})
	w.eventually("as much as is accepted is not refused", func() bool {
		plan, err := w.operator.Failover(within(t), "orders", "west", 40, "test", "", true)
		return err == nil && len(plan.Refused) == 0
	})
	if s := w.record(); s.State != failover.Stable || s.Epoch != 1 {
		t.Errorf("what was refused changed the share: %+v", s)
	}
	reserved = 1100
	// The old site is gone: what it had is not known, but where that ends.
	w.kill("east")
	w.eventually("east is found dead", func() bool { return slices.Contains(dry("").Silent, "site east is down") })
	plan = dry("")
	want[0].To, want[0].LogEnd, want[0].Records = reserved, -1, -1
	if !slices.Equal(plan.Losses, want) || plan.LostMost != 90 || len(plan.Unread) != 1 {
		t.Errorf("%+v", plan)
	}
	if l := times[0]; l.Kept.IsZero() || !l.First.IsZero() {
		t.Errorf("what can be known of when it was written: %+v", l)
	}
	// Without a way to the sites only the sums are known.
	w.operator.Sites = nil
	if plan = dry("west"); plan.Losses != nil || plan.LostLeast != -1 {
		t.Errorf("%+v", plan)
	}
}
