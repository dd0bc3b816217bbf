package workers

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var limits = Limits{TTL: 4 * time.Second, Renew: time.Second, Margin: time.Second}

// said is what is on its way to the log, or there.
type said struct {
	by      *actor
	record  Record
	leave   bool
	again   bool    // a copy
	sent    Instant // by the clock of its sender
	arrives time.Duration
}

// actor is a worker with its own clock and its own view of the log.
type actor struct {
	*Worker
	name    string
	skew    time.Duration
	table   *Table
	read    int
	waits   *said // sent, and not read back
	paused  bool
	stands  stands        // while it is paused
	asleep  time.Duration // for which its clocks stood still
	frozen  time.Duration // of that, CLOCK_BOOTTIME as well
	dead    bool
	leaving bool
	away    bool // it holds nothing, and comes again
}

// stands says which clocks of a machine do.
type stands int

const (
	suspended stands = iota + 1 // CLOCK_MONOTONIC
	frozen                      // CLOCK_BOOTTIME, too: people, or NTP, set the wall clock right
)

// world is several workers and the log between them.
type world struct {
	t      *testing.T
	random *rand.Rand
	at     time.Duration
	log    []said
	sent   []said // on the way
	actors []*actor
	keys   []string
	taken  int
	whole  int // times that one took it
}

func (w *world) now(a *actor) Instant {
	up := time.Hour + w.at + a.skew
	return Instant{Wall: time.Unix(1_000_000, 0).Add(up), Mono: up - a.asleep, Boot: up - a.frozen}
}

// pass lets time go on.
func (w *world) pass(d time.Duration) {
	w.at += d
	for _, a := range w.actors {
		if a.stands != 0 {
			a.asleep += d
		}
		if a.stands == frozen {
			a.frozen += d
		}
	}
}

func (w *world) start() {
	name := fmt.Sprintf("worker-%d", len(w.actors))
	skew := time.Duration(w.random.Int64N(int64(2 * time.Hour)))
	w.actors = append(w.actors, &actor{Worker: New(name, "", "", limits, func(string, string) bool { return true }), name: name, skew: skew, table: Empty()})
}

// send lets something arrive some time later, not before what its sender sent before;
// some of it arrives twice.
func (w *world) send(s said, most time.Duration) {
	s.arrives = w.at + time.Duration(w.random.Int64N(int64(most)))
	for _, before := range w.sent {
		if before.by == s.by && !before.again {
			s.arrives = max(s.arrives, before.arrives)
		}
	}
	w.sent = append(w.sent, s)
	if w.random.IntN(10) == 0 {
		s.again = true
		s.arrives += time.Duration(w.random.Int64N(int64(8 * time.Second)))
		w.sent = append(w.sent, s)
	}
}

func (w *world) arrive() {
	slices.SortStableFunc(w.sent, func(a, b said) int { return int(a.arrives - b.arrives) })
	for len(w.sent) > 0 && w.sent[0].arrives <= w.at {
		w.log = append(w.log, w.sent[0])
		w.sent = w.sent[1:]
	}
}

// reads applies the next records of the log.
func (w *world) reads(a *actor, most int) {
	for ; most > 0 && a.read < len(w.log); most-- {
		s := w.log[a.read]
		if s.leave {
			a.table = a.table.Without(int64(a.read), s.by.name)
		} else {
			a.table = a.table.With(int64(a.read), s.record)
		}
		a.read++
		if a.waits != nil && !s.leave && s.record.Worker == a.name && !s.record.Evict && s.record.Beat == a.waits.record.Beat && s.record.Term == a.waits.record.Term {
			a.Heard(a.waits.record, a.waits.sent, w.now(a), a.table)
			a.waits = nil
		}
	}
}

// acts lets a worker do what it does all the time.
func (w *world) acts(a *actor, most time.Duration) {
	now := w.now(a)
	if a.waits != nil && a.waits.sent.longest(now) > limits.TTL {
		a.waits = nil // it gave up to wait
	}
	if a.waits == nil && !a.leaving {
		next := a.Next
		if a.away && len(a.Holds()) == 0 {
			next = a.Leave
		}
		if r, due := next(now, a.table); due {
			s := said{by: a, record: r, sent: now}
			if !r.Evict {
				a.waits = &s
			}
			w.send(s, most)
		}
		for _, r := range a.Evictions(now, a.table, func(string) bool { return false }) {
			w.send(said{by: a, record: r}, most)
		}
	}
	for _, key := range a.Holds() {
		if (key == Whole || a.leaving || a.away || !a.Acts(now) || a.table.Owner(key, a.covers) != a.name) && w.random.IntN(3) == 0 {
			a.Release(key)
		}
	}
	if a.leaving {
		if len(a.Holds()) == 0 && a.waits == nil {
			w.send(said{by: a, leave: true}, most)
			a.dead = true
		}
		return
	}
	for range 4 {
		if !a.away && a.Take(now, a.table, w.keys[w.random.IntN(len(w.keys))]) {
			w.taken++
		}
	}
	if !a.away && w.random.IntN(3) == 0 && a.Take(now, a.table, Whole) {
		w.whole++
	}
}

// judge finds two that may work on the same key, or one beside who holds the whole. One
// that is paused may go on at any moment.
func (w *world) judge() {
	w.t.Helper()
	owner := make(map[string]string)
	working := make(map[string]bool)
	for _, a := range w.actors {
		if a.dead || !a.Acts(w.now(a)) {
			continue
		}
		working[a.name] = len(a.Holds()) > 0
		for _, key := range a.Holds() {
			if other, both := owner[key]; both {
				w.t.Fatalf("after %s: %s and %s work on %s", w.at, other, a.name, key)
			}
			owner[key] = a.name
		}
	}
	alone, whole := owner[Whole]
	for name, works := range working {
		if whole && works && name != alone {
			w.t.Fatalf("after %s: %s holds the whole, and %s works", w.at, alone, name)
		}
	}
}

func (w *world) living() (living []*actor) {
	for _, a := range w.actors {
		if !a.dead && !a.leaving {
			living = append(living, a)
		}
	}
	return living
}

func (w *world) happens() {
	living := w.living()
	a := living[w.random.IntN(len(living))]
	switch w.random.IntN(120) {
	case 0:
		if len(living) < 5 && len(w.actors) < 30 {
			w.start()
		}
	case 1:
		if len(living) > 1 {
			a.dead = true // kill -9: what it sent arrives
		}
	case 2:
		if len(living) > 1 {
			a.leaving, a.paused, a.stands = true, false, 0
		}
	case 3, 4:
		a.paused = true
	case 5, 6, 7, 8:
		a.paused, a.stands = false, 0
	case 9, 10:
		a.away = !a.away
	case 14:
		a.paused, a.stands = true, suspended
	case 15:
		a.paused, a.stands = true, frozen
	case 11, 12, 13:
		a.SetRank(w.random.Int64N(3))
	}
}

// Workers come, go, die, and stand still for a while; each reads the log with its own
// delay, and what they say comes late or twice. No two work on a key at the same time
// (C), and when it is quiet again everything is with the one to which it belongs.
func TestNoTwoWorkersHoldAKey(t *testing.T) {
	t.Parallel()
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := &world{t: t, random: rand.New(rand.NewPCG(seed, 17)), keys: keys(12)}
			w.start()
			w.start()
			for range 4000 {
				w.pass(time.Duration(w.random.Int64N(int64(200 * time.Millisecond))))
				w.arrive()
				w.happens()
				for _, a := range w.actors {
					if a.dead || a.paused || w.random.IntN(3) == 0 {
						continue
					}
					w.reads(a, w.random.IntN(6))
					w.acts(a, 1500*time.Millisecond)
					w.judge()
				}
			}
			for _, a := range w.living() {
				a.paused, a.stands, a.away = false, 0, false
				a.SetRank(7)
			}
			for range 3000 {
				w.pass(10 * time.Millisecond)
				w.arrive()
				for _, a := range w.actors {
					if !a.dead {
						w.reads(a, 100)
						w.acts(a, 5*time.Millisecond)
						w.judge()
					}
				}
			}
			held := 0
			for _, a := range w.living() {
				for _, key := range a.Holds() {
					if key == Whole && len(w.living()) == 1 {
						continue
					}
					held++
					if want := w.living()[0].table.Owner(key, a.covers); want != a.name {
						t.Errorf("%s is with %s, and belongs to %s", key, a.name, want)
					}
				}
			}
			if held != len(w.keys) {
				t.Errorf("%d of %d keys are with somebody", held, len(w.keys))
			}
			if w.taken < 50 || w.whole < 5 {
				t.Errorf("only %d keys changed hands, and the whole was taken %d times", w.taken, w.whole)
			}
		})
	}
}
