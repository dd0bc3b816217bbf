package control

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// Who wrote that a move ended has a clock that is an hour ahead, or behind. A loop that saw
// the move end counts by its own clock. One that came later has the record, and what it has
// seen itself: a clock that is ahead holds nothing down for longer than that, and is told.
func TestSinceTheLastMoveByTheLoopsOwnClock(t *testing.T) {
	t.Parallel()
	clock := &movable{}
	c := &Control{cfg: Config{Clock: clock}}
	entry := func(state failover.State, epoch spillway.Epoch, since time.Duration) coordination.Entry {
		s := failover.Share{Group: "orders", State: state, Epoch: epoch, Active: "east", Target: "west", Terms: []failover.Term{{Epoch: 1, Site: "east"}}, Since: time.Now().Add(since)}
		return coordination.Entry{Value: s.Encode(), Version: uint64(epoch)}
	}
	for name, at := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		saw, late := &driver{c: c}, &driver{c: c}
		saw.take(entry(failover.Open, 2, 0))
		saw.take(entry(failover.Stable, 3, at))
		late.take(entry(failover.Stable, 3, at))
		clock.forward(20 * time.Second)
		if since, ahead := saw.sinceMove(clock.Now()); since < 19*time.Second || since > 25*time.Second || ahead != 0 {
			t.Errorf("%s: %v since the move that it saw, %v ahead", name, since, ahead)
		}
		since, ahead := late.sinceMove(clock.Now())
		if at > 0 && (since < 19*time.Second || since > 25*time.Second || ahead < 59*time.Minute) {
			t.Errorf("%s: %v since the move, %v ahead", name, since, ahead)
		}
		if at < 0 && (since < time.Hour || ahead != 0) {
			t.Errorf("%s: %v since the move, %v ahead", name, since, ahead)
		}
	}
}

// The reason for which a person is asked changes, and so does the record; numbers that
// count up change nothing, nor do loops that take turns faster than the votes come.
func TestTheQuestionInTheRecordIsTheNewest(t *testing.T) {
	t.Parallel()
	_, d := newDeniable(t, "west")
	clock := d.c.cfg.Clock.(*movable)
	d.record(t, failover.Share{Group: "orders", State: failover.Fenced, Kind: failover.Failover, Epoch: 2, Active: "east", Target: "west", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
	for _, c := range []struct {
		why  string
		wait time.Duration
		want string
	}{
		{"2 sites were heard, 3 needed", 0, "2 sites were heard, 3 needed"},
		{"1 sites were heard, 3 needed", time.Minute, "2 sites were heard, 3 needed"},
		{"500 records are missing; accept more", 0, "500 records are missing; accept more"},
		{"2 sites were heard, 3 needed", time.Second, "500 records are missing; accept more"},
		{"2 sites were heard, 3 needed", askedFor, "2 sites were heard, 3 needed"},
		{"", time.Second, "2 sites were heard, 3 needed"},
		{"", askedFor, ""},
		// A site is dead in other words at each probe.
		{"east is down to north: refused; a person must decide", 0, "east is down to north: refused; a person must decide"},
		{"east is down to north: no route; a person must decide", askedFor, "east is down to north: refused; a person must decide"},
		{"east is down to west: no route; a person must decide", 0, "east is down to west: no route; a person must decide"},
		{"east is down to west: refused; a person must decide", evidenceFor, "east is down to west: refused; a person must decide"},
	} {
		d.evidence = []string{"refused", "no route"}
		clock.forward(c.wait)
		var actions []failover.Action
		if c.why != "" {
			actions = append(actions, failover.Action{Kind: failover.Ask, Why: c.why})
		}
		if err := d.ask(t.Context(), actions); err != nil {
			t.Fatal(err)
		}
		if d.stored.Asking != c.want {
			t.Errorf("asked %q, the record says %q, want %q", c.why, d.stored.Asking, c.want)
		}
	}
}

// What was read of the gateways' leases a moment ago is what is gone by, and not what a
// watch has, which may be older.
func TestLatelyIsWhatWasRead(t *testing.T) {
	t.Parallel()
	store, keys := coordtest.NewMemory(), failover.Keys("shop")
	h := newHub(store, keys, coordination.SystemClock{}, testTTL, testTTL/4)
	h.take(keys.Gateways(), nil)
	value, err := json.Marshal(layout.GatewayLease{ID: "east-gw", Boot: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), keys.Gateway("east-gw"), value, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := h.gateways(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leases, ok := h.lately(time.Minute); !ok || len(leases) != 1 {
		t.Errorf("%+v, %v", leases, ok)
	}
}

// A record of reserved ends that nobody can read is no promise that nothing is lost.
func TestAPlanDoesNotReckonWithWhatItCannotRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	w.settled(1)
	key := failover.Keys("shop").Reserved(spillway.ShareID{Group: "orders"})
	if _, err := w.store.Put(within(t), key, []byte("{"), 0); err != nil {
		t.Fatal(err)
	}
	if plan, err := w.operator.Failover(within(t), "orders", "west", -1, "ann", "", true); err == nil || !strings.Contains(err.Error(), "reserved ends "+key+" cannot be read") {
		t.Errorf("%d lost at most, %v", plan.LostMost, err)
	}
}
