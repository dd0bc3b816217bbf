package workers

import (
	"maps"
	"slices"
	"strings"
)

// Record is what a worker says of itself again and again, or another one of it.
type Record struct {
	Worker string `json:"worker"`
	Term   int64  `json:"term"` // rises when it comes back after it was put out
	Beat   int64  `json:"beat"` // rises with each record of a term
	// Seen is the position of the log by which the worker acts: it holds nothing but
	// what was its own there or behind, and Keeps.
	Seen  int64    `json:"seen"`
	Keeps []string `json:"keeps,omitempty"` // keys that belong to others and are still in work here
	// Means says which keys the worker is there for at all; the caller understands it.
	Means   string `json:"means,omitempty"`
	Process string `json:"process,omitempty"` // that runs the worker, as far as others can look it up
	// Rank puts the worker before all of a lower one: they own nothing. It may rise and
	// fall within a term.
	Rank int64 `json:"rank,omitempty"`
	// Evict puts the worker out, if this Term and Beat are the last that it said.
	Evict bool `json:"evict,omitempty"`
}

// Means tells whether a worker that says so is there for a key.
type Means func(means, key string) bool

// Whole is the key that stands for all of them: who holds it is alone. It belongs to the
// worker of the highest rank, if that is one worker.
const Whole = "*"

// Table is who is there at one position of the log. It never changes.
type Table struct {
	position int64 // of the last record
	version  int64 // rises with all that may decide over a key
	members  map[string]Record
	terms    map[string]int64 // of workers that are not there any more
	history  []crew           // oldest first; the last one is there now
	cut      bool             // older ones were forgotten
}

// crew is who was there from a position on.
type crew struct {
	from    int64
	members []Record // sorted; only Worker, Means and Rank count
}

// Bounds of what a Table remembers.
const (
	historyMax = 64
	termsMax   = 256
)

// Empty is the table of an empty log.
func Empty() *Table { return &Table{position: -1} }

// Forgotten is the empty table after the log was lost: its versions go on.
func (t *Table) Forgotten() *Table { return &Table{position: -1, version: t.version + 1} }

// Position is that of the last record that the table knows, −1 of none.
func (t *Table) Position() int64 { return t.position }

// Version changes with everything that may decide over a key. Workers that only say
// that they live change nothing.
func (t *Table) Version() int64 { return t.version }

// Members are the workers that are there, sorted.
func (t *Table) Members() []string { return slices.Sorted(maps.Keys(t.members)) }

// Member is what a worker said last; false if it is not there.
func (t *Table) Member(worker string) (Record, bool) {
	r, ok := t.members[worker]
	return r, ok
}

// With is the table after the next record of the log.
func (t *Table) With(position int64, r Record) *Table {
	last, there := t.members[r.Worker]
	next := *t
	next.position = position
	switch {
	case r.Evict && there && last.Term == r.Term && last.Beat == r.Beat:
		next.leave(r.Worker)
	case r.Evict: // it has said something since, or is not there
	case there && r.Term == last.Term && r.Beat > last.Beat:
		r.Means, r.Seen = last.Means, max(r.Seen, last.Seen)
		next.members = maps.Clone(t.members)
		next.members[r.Worker] = r
		switch {
		case r.Rank != last.Rank:
			next.changed()
		case !slices.Equal(r.Keeps, last.Keeps) || t.changedBetween(last.Seen, r.Seen):
			next.version++
		}
	case !there && r.Term > t.terms[r.Worker], there && r.Term > last.Term:
		r.Seen = max(r.Seen, position) // who comes holds nothing
		next.members = maps.Clone(t.members)
		if next.members == nil {
			next.members = make(map[string]Record)
		}
		next.members[r.Worker] = r
		next.changed()
	}
	return &next
}

// Without is the table after a worker has said good-bye.
func (t *Table) Without(position int64, worker string) *Table {
	next := *t
	next.position = position
	if _, there := t.members[worker]; there {
		next.leave(worker)
	}
	return &next
}

func (t *Table) leave(worker string) {
	gone := t.members[worker]
	t.members = maps.Clone(t.members)
	delete(t.members, worker)
	t.terms = maps.Clone(t.terms)
	if t.terms == nil || len(t.terms) >= termsMax { // what these said late was said long ago
		t.terms = make(map[string]int64)
	}
	t.terms[worker] = gone.Term
	t.changed()
}

// changed notes who is there now.
func (t *Table) changed() {
	t.version++
	now := crew{from: t.position}
	for _, r := range t.members {
		now.members = append(now.members, Record{Worker: r.Worker, Means: r.Means, Rank: r.Rank})
	}
	slices.SortFunc(now.members, func(a, b Record) int { return strings.Compare(a.Worker, b.Worker) })
	t.history = append(slices.Clone(t.history), now)
	if n := len(t.history) - historyMax; n > 0 {
		t.history, t.cut = t.history[n:], true
	}
}

// changedBetween tells whether somebody came or went at a position in (after, to].
func (t *Table) changedBetween(after, to int64) bool {
	return slices.ContainsFunc(t.history, func(c crew) bool { return after < c.from && c.from <= to })
}

// highest are the members of the highest rank.
func (c crew) highest() (first []Record) {
	for _, r := range c.members {
		switch {
		case len(first) == 0 || r.Rank > first[0].Rank:
			first = []Record{r}
		case r.Rank == first[0].Rank:
			first = append(first, r)
		}
	}
	return first
}

func (c crew) owner(key string, means Means) string {
	first := c.highest()
	if key == Whole {
		if len(first) != 1 {
			return ""
		}
		return first[0].Worker
	}
	names := make([]string, 0, len(first))
	for _, r := range first {
		if means(r.Means, key) {
			names = append(names, r.Worker)
		}
	}
	return Owner(names, key)
}

// mayOwn tells whether a worker owns a key, or, of the whole, any key.
func (c crew) mayOwn(worker, key string, means Means) bool {
	if key != Whole {
		return c.owner(key, means) == worker
	}
	return slices.ContainsFunc(c.highest(), func(r Record) bool { return r.Worker == worker })
}

// Owner is the worker to which a key belongs (A); "" if nobody is there for it.
func (t *Table) Owner(key string, means Means) string {
	if len(t.history) == 0 {
		return ""
	}
	return t.history[len(t.history)-1].owner(key, means)
}

// Rank is the highest one of all that are there, 0 of nobody.
func (t *Table) Rank() int64 {
	if len(t.members) == 0 {
		return 0
	}
	return t.history[len(t.history)-1].highest()[0].Rank
}

// RankBeside is the highest one of all but a worker, 0 of nobody: what that one said
// itself may be over.
func (t *Table) RankBeside(worker string) (rank int64) {
	for name, r := range t.members {
		if name != worker {
			rank = max(rank, r.Rank)
		}
	}
	return rank
}

// Highest are the workers of the highest rank, sorted: all keys are theirs.
func (t *Table) Highest() (names []string) {
	if len(t.history) > 0 {
		for _, r := range t.history[len(t.history)-1].highest() {
			names = append(names, r.Worker)
		}
	}
	return names
}

// MayHold tells whether a worker may be at work on a key: it was its own at the
// position that the worker acts by, or has become so since, or the worker says that
// it keeps it. Of the whole: whether it may be at work on any key.
func (t *Table) MayHold(worker, key string, means Means) bool {
	r, there := t.members[worker]
	if !there {
		return false
	}
	keeps := slices.Contains(r.Keeps, key) || slices.Contains(r.Keeps, Whole) || key == Whole && len(r.Keeps) > 0
	if keeps || t.cut && r.Seen < t.history[0].from {
		return true
	}
	for i, c := range t.history {
		if last := i == len(t.history)-1; (last || t.history[i+1].from > r.Seen) && c.mayOwn(worker, key, means) {
			return true
		}
	}
	return false
}

// Free tells whether a worker may take a key: it belongs to it, and no other one may
// hold it (C).
func (t *Table) Free(worker, key string, means Means) bool {
	if t.Owner(key, means) != worker {
		return false
	}
	for other := range t.members {
		if other != worker && t.MayHold(other, key, means) {
			return false
		}
	}
	return true
}
