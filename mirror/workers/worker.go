package workers

import (
	"maps"
	"slices"
	"time"
)

// Limits are the times of workers.
type Limits struct {
	TTL    time.Duration // for which a worker may act, from when it sent what it said last
	Renew  time.Duration // how often it says that it lives
	Margin time.Duration // others wait longer by it, from when they saw what it said last
}

// KeepsMax is how many keys of others a worker may name. With more it says nothing new,
// and whoever waits for them goes on waiting.
const KeepsMax = 256

// Worker is one worker: what it said, and what it holds. It is for one goroutine at a
// time. It counts its own time by the clock that went further, and that of others by the
// one that went less far: so it stops before they go on, also where a machine was
// suspended.
type Worker struct {
	name, means, process string
	limits               Limits
	covers               Means

	rank       int64   // to be said
	term, beat int64   // said last
	acts       Instant // from when it may for the TTL; zero: it may not
	sent       Instant // when it said something last
	said       Record  // what it said last, and read
	left       bool    // it has put itself out, as far as it knows
	held       map[string]bool
	foreign    map[string]bool // those of held that belong to others
	foreignAt  int64           // version of the table by which they do
	others     map[string]sighting
}

// sighting is since when another worker has said nothing new.
type sighting struct {
	term, beat int64
	since      Instant
	told       Instant // when it was put out, as far as this worker can
}

// New makes a worker that is not there yet.
func New(name, means, process string, limits Limits, covers Means) *Worker {
	return &Worker{name: name, means: means, process: process, limits: limits, covers: covers, held: make(map[string]bool), foreign: make(map[string]bool), foreignAt: -1, others: make(map[string]sighting)}
}

// member tells whether the table has the worker in its present term.
func (w *Worker) member(t *Table) bool {
	r, there := t.Member(w.name)
	return there && r.Term == w.term
}

// Next is what the worker has to say now, if anything: that it comes, that it lives, or
// that it has let keys go. It must be sent at once.
func (w *Worker) Next(now Instant, t *Table) (r Record, due bool) {
	if w.left && w.member(t) {
		return w.Leave(now, t) // what it said may have been lost
	}
	if !w.member(t) {
		w.acts = Instant{}
		// Until it holds nothing others could be wrong about it (C).
		if len(w.held) > 0 || w.sent.longest(now) < w.limits.Renew/4 {
			return r, false
		}
		last, _ := t.Member(w.name)
		w.left = false
		w.term, w.beat = max(w.term, t.terms[w.name], last.Term)+1, 0
		return w.say(now, t.position, nil), true
	}
	keeps := w.keeps(t)
	seen := t.position
	if len(keeps) > KeepsMax {
		seen, keeps = w.said.Seen, w.said.Keeps
	}
	waited := t.changedBetween(w.said.Seen, seen) || len(keeps) < len(w.said.Keeps) || w.rank != w.said.Rank
	if !waited && w.sent.longest(now) < w.limits.Renew {
		return r, false
	}
	return w.say(now, seen, keeps), true
}

// Leave puts the worker out by its own word, if it holds nothing. It does not act any
// more, and may come again with Next. Unlike a good-bye that may come late, it is void
// once the worker has come again.
func (w *Worker) Leave(now Instant, t *Table) (r Record, due bool) {
	if len(w.held) > 0 || !w.member(t) || w.left && w.sent.longest(now) < w.limits.Renew/4 {
		return r, false
	}
	last, _ := t.Member(w.name)
	w.acts, w.left, w.sent = Instant{}, true, now
	return Record{Worker: w.name, Term: last.Term, Beat: last.Beat, Evict: true}, true
}

func (w *Worker) say(now Instant, seen int64, keeps []string) Record {
	w.beat++
	w.sent = now
	return Record{Worker: w.name, Term: w.term, Beat: w.beat, Seen: seen, Keeps: keeps, Means: w.means, Process: w.process, Rank: w.rank}
}

// SetRank sets what the worker is to say of its rank. Others count it from when it is in
// the table.
func (w *Worker) SetRank(rank int64) { w.rank = rank }

// keeps are the keys that the worker holds and that belong to others, sorted.
func (w *Worker) keeps(t *Table) []string {
	if w.foreignAt != t.Version() { // there may be many, and this is asked again and again
		w.foreignAt = t.Version()
		clear(w.foreign)
		for key := range w.held {
			if t.Owner(key, w.covers) != w.name {
				w.foreign[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(w.foreign))
}

// Heard notes that a record of Next, sent at a time, is in the table. It tells whether
// the worker may act again, which it could not before.
func (w *Worker) Heard(r Record, sent, now Instant, t *Table) (again bool) {
	last, there := t.Member(w.name)
	if r.Evict || w.left || !there || last.Term != r.Term || r.Term != w.term || last.Beat < r.Beat {
		return false
	}
	again = !w.Acts(now)
	w.acts, w.said = sent, last
	return again
}

// Acts tells whether the worker may act now. After a time for which no clock can be
// believed it may not until it is heard again.
func (w *Worker) Acts(now Instant) bool {
	return w.acts.longest(now) < w.limits.TTL && !w.acts.jumped(now)
}

// Term is the worker's, for what it took during it.
func (w *Worker) Term() int64 { return w.term }

// Take takes a key if it may (C). It holds it until Release.
func (w *Worker) Take(now Instant, t *Table, key string) bool {
	if !w.Acts(now) || !w.member(t) || !t.Free(w.name, key, w.covers) {
		return false
	}
	w.held[key] = true
	delete(w.foreign, key)
	return true
}

// Release lets a key go: nothing of it is on its way any more (D).
func (w *Worker) Release(key string) {
	delete(w.held, key)
	delete(w.foreign, key)
}

// Holds are the keys that the worker holds, sorted.
func (w *Worker) Holds() []string { return slices.Sorted(maps.Keys(w.held)) }

// Evictions put those out that have said nothing for so long that they do not act any
// more by their own clocks. gone tells whether a process is known to have ended: then
// only what it had sent has to arrive.
func (w *Worker) Evictions(now Instant, t *Table, gone func(process string) bool) []Record {
	var all []Record
	for _, name := range t.Members() {
		r, _ := t.Member(name)
		seen, known := w.others[name]
		switch {
		case name == w.name:
			continue
		case !known || seen.term != r.Term || seen.beat != r.Beat || seen.since.jumped(now):
			w.others[name] = sighting{term: r.Term, beat: r.Beat, since: now}
			continue
		case seen.told.shortest(now) < w.limits.Renew:
			continue
		}
		patience := w.limits.TTL + w.limits.Margin
		if gone(r.Process) {
			patience = w.limits.Margin
		}
		if seen.since.shortest(now) > patience {
			seen.told = now
			w.others[name] = seen
			all = append(all, Record{Worker: name, Term: r.Term, Beat: r.Beat, Evict: true})
		}
	}
	maps.DeleteFunc(w.others, func(name string, _ sighting) bool { _, there := t.Member(name); return !there })
	return all
}
