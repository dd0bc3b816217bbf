package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
)

// ended takes an open move to its end at a time.
func ended(t *testing.T, s Share, kind Kind, at time.Time, l Limits) Share {
	t.Helper()
	v, _ := healthy()
	v.Now, v.InState = at, time.Hour
	s.State, s.Kind, s.Epoch = Open, kind, s.Epoch+1
	s.Terms = append(slices.Clone(s.Terms), Term{Epoch: s.Epoch, Site: s.Active, Lossy: kind == Failover})
	if s, _ = opened(s, v, l); s.State != Stable {
		t.Fatalf("%s", s.State)
	}
	return s
}

// The record tells when failovers ended, as many as the rate limit may ask for, and no
// history is needed to count them.
func TestTheRecordCountsFailovers(t *testing.T) {
	t.Parallel()
	_, l := healthy()
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	s := stable()
	for i, kind := range []Kind{Failover, Switchover, Failover, Switchover, Failover} {
		s = ended(t, s, kind, at.Add(time.Duration(i)*30*time.Minute), l)
		back, err := Decode(s.Encode())
		if err != nil || back.Failovers == nil {
			t.Fatalf("%v, %v", back.Failovers, err)
		}
		s = back
	}
	for after, want := range map[time.Duration]int{-time.Minute: 3, 0: 2, time.Hour: 1, 2 * time.Hour: 0} {
		if n := s.FailoversAfter(at.Add(after)); n != want {
			t.Errorf("%d failovers after %s, want %d", n, after, want)
		}
	}
	for _, perHourMax := range []int{1, 40, 1000} {
		l.Group.Failover.PerHourMax = perHourMax
		for range 150 {
			s = ended(t, s, Failover, at, l)
		}
		if n := s.FailoversAfter(at.Add(-time.Minute)); n < min(perHourMax, failoversMost) || n > failoversMost || perHourMax == 1 && n != failoversLeast {
			t.Errorf("%d failovers are kept for a limit of %d", n, perHourMax)
		}
	}
}

// A version that did not keep the times wrote the record, or had a part in the move: the
// failovers that it tells of count as if they had ended with the last move.
func TestOldRecordsCountFailovers(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	old := stable()
	old.Since, old.Epoch, old.Terms = at, 5, []Term{{Epoch: 1, Site: "east"}, {Epoch: 2, Site: "west", Lossy: true}, {Epoch: 3, Site: "east"}, {Epoch: 5, Site: "east", Lossy: true}}
	if strings.Contains(string(old.Encode()), "failovers") {
		t.Fatalf("%s", old.Encode())
	}
	if before, now := old.FailoversAfter(at), old.FailoversAfter(at.Add(-time.Second)); before != 0 || now != 2 {
		t.Errorf("%d, and %d in the last second, want 0 and 2", before, now)
	}
	// They are carried into the next move, and count no longer than that.
	begun, err := Begin(old, Request{Kind: Failover, Target: "west", Who: "test", LossMax: -1}, v, l)
	if err != nil {
		t.Fatal(err)
	}
	later := ended(t, begun, Failover, at.Add(30*time.Minute), l)
	if n, m := later.FailoversAfter(at.Add(-time.Second)), later.FailoversAfter(at); n != 3 || m != 1 {
		t.Errorf("%d and %d after the next failover, want 3 and 1", n, m)
	}
	// The old version drops them during a move: never fewer count than there were.
	begun.Failovers = nil
	if n := ended(t, begun, Failover, at.Add(30*time.Minute), l).FailoversAfter(at); n != 3 {
		t.Errorf("%d, want 3: two that are known of and the one that ended", n)
	}
}

// A failover that a person gave up is not one that automation counts against itself: the next
// loss would ask a person though nothing went round.
func TestWhatAPersonGivesUpDoesNotCount(t *testing.T) {
	for _, gone := range [][]spillway.SiteID{nil, {"west"}} {
		s := Share{
			Group: "shop", Kind: Failover, Automatic: true, State: Fencing, Epoch: 2, Active: "east", Target: "west", Gone: gone, Abort: "given up",
			Terms: []Term{{Epoch: 1, Site: "east"}}, Failovers: []time.Time{},
		}
		now := time.Now()
		next, _ := s.giveUp(View{Now: now}, Limits{})
		if got := next.FailoversAfter(now.Add(-time.Hour)); next.State != Stable || got != len(gone) {
			t.Errorf("gone %v: %d failovers count in %s", gone, got, next.State)
		}
	}
}
