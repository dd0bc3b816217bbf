package workers

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var start = Instant{Wall: time.Unix(100, 0), Mono: time.Hour, Boot: 2 * time.Hour}

// Add is when all clocks went on by a time.
func (i Instant) Add(d time.Duration) Instant {
	return Instant{i.Wall.Add(d), i.Mono + d, i.Boot + d}
}

// one is a worker that came, in a table of its own, at a time.
func one(t *testing.T, at Instant) (*Worker, *Table) {
	t.Helper()
	w, now := New("one", "", "", limits, prefix), Empty()
	r, due := w.Next(at, now)
	if !due {
		t.Fatal("it does not say that it comes")
	}
	now = now.With(0, r)
	if !w.Heard(r, at, at, now) || !w.Acts(at) {
		t.Fatal("it was heard, and may not act")
	}
	return w, now
}

// A worker acts as long as it was heard, counted from when it spoke.
func TestAWorkerActsForATime(t *testing.T) {
	t.Parallel()
	at := start
	w, now := one(t, at)
	if w.Acts(at.Add(limits.TTL)) || !w.Acts(at.Add(limits.TTL-1)) || w.Take(at.Add(limits.TTL), now, "key") {
		t.Error("it acts longer than its time, or shorter")
	}
	if _, due := w.Next(at.Add(limits.Renew-1), now); due {
		t.Error("it speaks though nothing is due")
	}
	sent := at.Add(limits.Renew)
	r, due := w.Next(sent, now)
	now = now.With(1, r)
	late := sent.Add(3 * limits.TTL)
	if w.Heard(r, sent, late, now); !due || w.Acts(late) || !w.Acts(sent.Add(limits.TTL-1)) {
		t.Error("what was heard late counts from when it was sent")
	}
}

// Who may have died is put out when its time has run out, sooner if its process is
// known to have ended, and not as long as it speaks.
func TestWhoIsSilentIsPutOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		gone bool
		out  time.Duration // after the worker was seen
	}{"silent": {false, limits.TTL + limits.Margin}, "ended": {true, limits.Margin}} {
		at := start
		w, now := one(t, at)
		now = now.With(1, beat("two", 1, 1, 0))
		gone := func(string) bool { return c.gone }
		looks := func(after time.Duration) []Record { return w.Evictions(at.Add(after), now, gone) }
		if early := slices.Concat(looks(0), looks(c.out)); len(early) > 0 {
			t.Errorf("%s: put out too early: %v", name, early)
		}
		now = now.With(2, beat("two", 1, 2, 1))
		if early := slices.Concat(looks(c.out+1), looks(2*c.out+1)); len(early) > 0 {
			t.Errorf("%s: put out though it has spoken: %v", name, early)
		}
		out := looks(2*c.out + 2)
		if len(out) != 1 || !out[0].Evict || out[0].Worker != "two" || out[0].Beat != 2 {
			t.Fatalf("%s: %v", name, out)
		}
		if now = now.With(3, out[0]); !slices.Equal(now.Members(), []string{"one"}) {
			t.Errorf("%s: %v are there", name, now.Members())
		}
	}
}

// A machine that was suspended, or stood still without a clock that counted, does not let
// its worker act longer, nor put others out sooner.
func TestClocksThatStandStill(t *testing.T) {
	t.Parallel()
	long := limits.TTL + 2*limits.Margin
	later := start.Add(limits.Margin / 2)
	for name, at := range map[string]Instant{
		"suspended":      {later.Wall.Add(long), later.Mono, later.Boot + long},
		"stood still":    {later.Wall.Add(long), later.Mono, later.Boot},
		"set right":      {later.Wall.Add(-long), later.Mono, later.Boot},
		"boot runs fast": {later.Wall, later.Mono, later.Boot + long},
	} {
		w, now := one(t, start)
		now = now.With(1, beat("two", 1, 1, 0))
		ended := func(string) bool { return false }
		w.Evictions(start, now, ended)
		if w.Acts(at) || w.Take(at, now, "key") {
			t.Errorf("%s: the worker acts", name)
		}
		if out := w.Evictions(at, now, ended); len(out) > 0 {
			t.Errorf("%s: another one is put out: %+v", name, out)
		}
		if out := w.Evictions(at.Add(long), now, ended); len(out) != 1 {
			t.Errorf("%s: another one is not put out when its time is over: %+v", name, out)
		}
	}
}

// A worker that was put out comes again when it has let everything go, with another term.
func TestAWorkerComesAgainWithNothing(t *testing.T) {
	t.Parallel()
	at := start
	w, now := one(t, at)
	if !w.Take(at, now, "key") {
		t.Fatal("its own key is not free")
	}
	now = now.With(1, Record{Worker: "one", Term: 1, Beat: 1, Evict: true})
	at = at.Add(time.Second)
	if r, due := w.Next(at, now); due || w.Acts(at) {
		t.Errorf("it holds a key, and says %+v", r)
	}
	w.Release("key")
	r, due := w.Next(at, now)
	if !due || r.Term != 2 || r.Beat != 1 {
		t.Fatalf("it comes again with %+v", r)
	}
	if now = now.With(2, r); !w.Heard(r, at, at, now) || !w.Take(at, now, "key") {
		t.Error("it came again, and may not act")
	}
}

// With more keys than can be named a worker says nothing new, and says it when few
// enough are left.
func TestManyKeysAreLetGoStepByStep(t *testing.T) {
	t.Parallel()
	at := start
	w, now := one(t, at)
	all := make([]string, 4*KeepsMax)
	for i := range all {
		all[i] = fmt.Sprintf("key-%d", i)
		if !w.Take(at, now, all[i]) {
			t.Fatal("its own key is not free")
		}
	}
	now = now.With(1, beat("two", 1, 1, 0))
	moved := slices.DeleteFunc(all, func(key string) bool { return now.Owner(key, prefix) != "two" })
	said := func(position int64) Record {
		at = at.Add(limits.Renew)
		r, due := w.Next(at, now)
		if !due {
			t.Fatal("nothing is said")
		}
		now = now.With(position, r)
		w.Heard(r, at, at, now)
		return r
	}
	if r := said(2); len(r.Keeps) > 0 || r.Seen >= 1 || now.Free("two", moved[0], prefix) {
		t.Errorf("it obeys %d, and keeps %d", r.Seen, len(r.Keeps))
	}
	for _, key := range moved[1+KeepsMax/2:] {
		w.Release(key)
	}
	if r := said(3); r.Seen < 1 || len(r.Keeps) != 1+KeepsMax/2 || now.Free("two", moved[0], prefix) || !now.Free("two", moved[KeepsMax], prefix) {
		t.Errorf("it obeys %d, and keeps %d", r.Seen, len(r.Keeps))
	}
}

// A worker that steps back does nothing from then on, and its word is void once it has
// come again.
func TestAWorkerStepsBackAndComesAgain(t *testing.T) {
	t.Parallel()
	at := start
	w, now := one(t, at)
	if !w.Take(at, now, "key") {
		t.Fatal("its own key is not free")
	}
	if r, due := w.Leave(at, now); due {
		t.Errorf("it steps back with a key: %+v", r)
	}
	w.Release("key")
	out, due := w.Leave(at, now)
	if !due || !out.Evict || w.Acts(at) || w.Take(at, now, "key") {
		t.Fatalf("it stepped back with %+v, and acts", out)
	}
	if _, due := w.Next(at, now); due {
		t.Error("it speaks at once again")
	}
	if again, due := w.Next(at.Add(limits.Renew), now); !due || !again.Evict {
		t.Errorf("what may have been lost is not said again: %+v", again)
	}
	now = now.With(1, out)
	at = at.Add(2 * limits.Renew)
	r, due := w.Next(at, now)
	if now = now.With(2, r).With(3, out); !due || !w.Heard(r, at, at, now) || !w.Take(at, now, "key") {
		t.Errorf("it came again with %+v, and may not act", r)
	}
}
