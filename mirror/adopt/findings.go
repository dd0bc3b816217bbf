package adopt

import (
	"cmp"
	"slices"
)

// Kind is why a record has no pair.
type Kind string

// Kinds of records at the target that have no pair.
const (
	Duplicate  Kind = "duplicate"  // a further copy of one that has, or gets one when it is mirrored
	Aborted    Kind = "aborted"    // a copy of what an aborted transaction wrote
	Older      Kind = "older"      // it lies before all pairs, and the source has deleted its beginning
	Superseded Kind = "superseded" // compacted: the source may have removed it since
	Unknown    Kind = "unknown"    // it is no record of the source
)

// Kinds of committed records of the source that have no pair.
const (
	Before  Kind = "before"  // it lies before all pairs
	Missing Kind = "missing" // it lies among pairs
)

// Kinds lists all of them.
var Kinds = []Kind{Duplicate, Aborted, Older, Superseded, Unknown, Before, Missing}

// AtSource tells whose offsets a finding of the kind has.
func (k Kind) AtSource() bool { return k == Before || k == Missing }

// FindingsMax is how many findings of a kind are told apart. The last one spans all
// that follow it, and Records says how many those are.
const FindingsMax = 1000

// Finding is a row of offsets, [From, To), in which Records records have no pair.
type Finding struct {
	Kind    Kind  `json:"kind"`
	From    int64 `json:"from"`
	To      int64 `json:"to"`
	Records int64 `json:"records"`
}

// Whole tells whether all records of the row are meant.
func (f Finding) Whole() bool { return f.To-f.From == f.Records }

// Findings are all records without a pair, by kind and offset.
type Findings struct {
	Rows   []Finding
	Counts map[Kind]int64
}

type findings struct {
	rows   map[Kind][]Finding
	counts map[Kind]int64
}

func newFindings() *findings {
	return &findings{rows: make(map[Kind][]Finding), counts: make(map[Kind]int64)}
}

func (f *findings) add(kind Kind, from, records int64) {
	f.counts[kind] += records
	rows := f.rows[kind]
	if n := len(rows); n > 0 && rows[n-1].To == from {
		rows[n-1].To += records
		rows[n-1].Records += records
		return
	}
	// The rows may come out of order, so there is room for some more before the
	// last ones have to become one.
	if f.rows[kind] = append(rows, Finding{kind, from, from + records, records}); len(rows) >= 4*FindingsMax {
		f.rows[kind] = pack(f.rows[kind])
	}
}

// pack sorts rows, joins those that touch, and makes one of all that are too many.
func pack(rows []Finding) []Finding {
	slices.SortFunc(rows, func(a, b Finding) int { return cmp.Compare(a.From, b.From) })
	packed := rows[:0]
	for _, r := range rows {
		n := len(packed)
		if n > 0 && (packed[n-1].To >= r.From || n == FindingsMax) {
			last := &packed[n-1]
			last.To = max(last.To, r.To)
			last.Records += r.Records
			continue
		}
		packed = append(packed, r)
	}
	return packed
}

func (f *findings) sorted() Findings {
	all := Findings{Counts: f.counts}
	for _, k := range Kinds {
		all.Rows = append(all.Rows, pack(f.rows[k])...)
	}
	return all
}
