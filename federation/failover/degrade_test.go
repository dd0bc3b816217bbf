package failover

import (
	"strings"
	"testing"
	"time"

	"spillway"
)

// The way into a degrade and back, one condition after the other: each step is in
// the record before the next, and nothing is skipped (C17).
func TestDegradeAndBack(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Ack = spillway.AckPolicy{Sites: 2, OnShortfall: "degrade", ShortfallAfter: 10 * time.Second}
	l.Lease = 5 * time.Second
	v.Now = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	marks := func(sites ...spillway.SiteID) {
		for _, id := range []spillway.SiteID{"west", "north"} {
			sv := v.Sites[id]
			sv.Marks = false
			for _, s := range sites {
				sv.Marks = sv.Marks || s == id
			}
			v.Sites[id] = sv
		}
	}
	s := stable()
	stays := func(want string) {
		t.Helper()
		same, actions := Step(s, v, l)
		if string(same.Encode()) != string(s.Encode()) {
			t.Fatalf("the record changed: %+v", same)
		}
		if want != "" && (len(actions) != 1 || !strings.Contains(actions[0].Why, want)) {
			t.Fatalf("%+v, want %q", actions, want)
		}
	}
	becomes := func(sites int, degraded bool) {
		t.Helper()
		next, actions := Step(s, v, l)
		if string(next.Encode()) == string(s.Encode()) || len(actions) != 1 || actions[0].Why == "" {
			t.Fatalf("nothing changed: %+v", actions)
		}
		if next.AckSites(2) != sites || next.Degraded != degraded || next.State != Stable || next.Epoch != s.Epoch {
			t.Fatalf("producers wait for %d sites, degraded %v: %+v", next.AckSites(2), next.Degraded, next)
		}
		s = next
	}
	restored := func(site spillway.SiteID, count int) {
		sv := v.Sites[site]
		sv.Report = &SiteReport{Site: site, Restored: count}
		v.Sites[site] = sv
	}

	marks("north")
	v.MarksFor = time.Hour
	stays("") // one standby is enough for ack.sites 2
	marks()
	v.MarksFor = 9 * time.Second
	stays("producers wait: no durable marks from west, north for 9s, degraded after 10s")
	v.MarksFor = 10 * time.Second
	becomes(1, true)
	if s.Degrades != 1 || s.DegradedAt != v.Now || !strings.Contains(s.DegradedWhy, "no durable marks from west, north for 10s") {
		t.Fatalf("%+v", s)
	}
	v.MarksFor = time.Hour
	stays("degraded: no durable marks")
	marks("west")
	v.MarksFor = 9 * time.Second
	stays("degraded: no durable marks from north")
	v.MarksFor = 10 * time.Second
	becomes(2, true) // gateways wait for two again, but RPO 0 is not claimed
	v.RestoringFor = 4 * time.Second
	stays("degraded until every gateway waits for 2 sites again")
	v.RestoringFor = 5 * time.Second
	if _, actions := Step(s, v, l); actions[0].Kind != ReadEnds || actions[0].Site != "east" {
		t.Fatalf("%+v", actions)
	}
	v.LogEnds = PartitionOffsets{"t": {70}}
	becomes(2, true)
	stays("degraded until west, north have what was acknowledged meanwhile")
	restored("north", 0)
	stays("") // the word of an earlier degrade counts for nothing
	restored("west", 1)
	becomes(2, false)
	if s.DegradedEnd != v.Now || s.Restore != nil {
		t.Fatalf("%+v", s)
	}

	// A second shortfall while the first is being restored goes back.
	s.Degraded, s.Restoring, s.Degrades = true, true, 2
	marks()
	v.MarksFor = 10 * time.Second
	becomes(1, true)
	// A move begins the way back anew at its new site.
	s.Restoring, s.Restore = true, PartitionOffsets{"t": {70}}
	moving, err := Begin(s, Request{Kind: Switchover, Target: "west", Who: "ann"}, v, l)
	if err != nil || !moving.Degraded || moving.Restoring || moving.Restore != nil {
		t.Fatalf("%+v, %v", moving, err)
	}
}

func TestShortfallBlocksProducers(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Ack = spillway.AckPolicy{Sites: 3, OnShortfall: "block"}
	v.MarksFor = time.Hour
	sv := v.Sites["west"]
	sv.Marks = true
	v.Sites["west"] = sv
	same, actions := Step(stable(), v, l)
	if same.Degraded || len(actions) != 1 || actions[0].Why != "producers wait: no durable marks from north, ack.sites is 3" {
		t.Fatalf("%+v, %+v", same, actions)
	}
	// A share that was degraded under another policy goes back at once.
	s := stable()
	s.Degraded, s.Degrades = true, 1
	if next, _ := Step(s, v, l); next.AckSites(3) != 3 || !next.Degraded {
		t.Fatalf("%+v", next)
	}
	// Who is found dead is failed over, not degraded.
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true}}
	l.Group.Ack.OnShortfall = "degrade"
	if next, _ := Step(stable(), v, l); next.Degraded {
		t.Fatalf("%+v", next)
	}
}
