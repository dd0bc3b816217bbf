package adopt

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// slice is a log in memory.
type slice struct{ records []Record }

func (s *slice) Next() (Record, bool, error) {
	if len(s.records) == 0 {
		return Record{}, false, nil
	}
	r := s.records[0]
	s.records = s.records[1:]
	return r, true, nil
}

func content(n int) (d Digest) {
	binary.BigEndian.PutUint64(d[:], uint64(n))
	return d
}

// copied is a record of a target, with the source offset that it was copied from.
type copied struct {
	Record
	from    int64 // −1: from nowhere
	foreign bool
}

// world is a source and what a mirror made of it at a target, and how.
type world struct {
	t       *rapid.T
	source  []Record
	byFrom  map[int64]Record
	target  []copied
	next    int64 // offset at the target
	dropped map[int64]bool
}

// shape says what may happen.
type shape struct {
	repeats, foreign, drops, cutSource, cutTarget bool
	committedOnly                                 bool
}

func draw(t *rapid.T, s shape) *world {
	w := &world{t: t, byFrom: make(map[int64]Record), dropped: make(map[int64]bool)}
	offset := int64(0)
	for i := range rapid.IntRange(0, 60).Draw(t, "source records") {
		offset += int64(rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "hole"))
		c := i + 1
		if s.repeats {
			c = rapid.IntRange(1, 8).Draw(t, "content")
		}
		r := Record{Offset: offset, Digest: content(c), Aborted: rapid.IntRange(0, 4).Draw(t, "aborted") == 0}
		w.source = append(w.source, r)
		w.byFrom[offset] = r
		offset++
	}
	w.copyAll(s)
	if s.cutTarget && len(w.target) > 0 {
		w.target = w.target[rapid.IntRange(0, len(w.target)).Draw(t, "deleted at the target"):]
	}
	if s.cutSource && len(w.source) > 0 {
		w.source = w.source[rapid.IntRange(0, len(w.source)).Draw(t, "deleted at the source"):]
	}
	return w
}

func (w *world) append(r Record, from int64, foreign bool) {
	w.next += int64(rapid.SampledFrom([]int{0, 0, 0, 0, 2}).Draw(w.t, "hole at the target"))
	r.Offset, r.Aborted = w.next, false
	w.target = append(w.target, copied{r, from, foreign})
	w.next++
}

// copyAll copies as MirrorMaker 2 does, and is stopped somewhere.
func (w *world) copyAll(s shape) {
	i, stop := 0, rapid.IntRange(0, len(w.source)).Draw(w.t, "copied")
	restarts := rapid.IntRange(0, 4).Draw(w.t, "restarts")
	for i < stop {
		r := w.source[i]
		switch {
		case s.committedOnly && r.Aborted:
		case s.drops && rapid.IntRange(0, 9).Draw(w.t, "drop") == 0:
			w.dropped[r.Offset] = true
		default:
			w.append(r, r.Offset, false)
		}
		if s.foreign && rapid.IntRange(0, 9).Draw(w.t, "foreign") == 0 {
			w.append(Record{Digest: content(1_000_000 + int(w.next))}, -1, true)
		}
		i++
		if restarts > 0 && rapid.IntRange(0, 9).Draw(w.t, "restart") == 0 {
			restarts--
			i = rapid.IntRange(max(0, i-20), i).Draw(w.t, "goes on at")
		}
	}
}

// matched runs Match and checks what holds whatever happened (A, B, D).
func (w *world) matched(limits Limits) (pairs map[int64]int64, result Result) {
	w.t.Helper()
	return w.matchedFrom(limits, 0)
}

// matchedFrom expects pairs from a source offset on.
func (w *world) matchedFrom(limits Limits, from int64) (pairs map[int64]int64, result Result) {
	w.t.Helper()
	var target []Record
	bySite := map[int64]copied{}
	for _, c := range w.target {
		target = append(target, c.Record)
		bySite[c.Offset] = c
	}
	pairs = make(map[int64]int64)
	lastSource, lastTarget := from-1, int64(-1)
	result, err := Match(limits, &slice{w.source}, &slice{target}, func(r Range) {
		if r.Source <= lastSource || r.Target <= lastTarget || r.Length < 1 {
			w.t.Fatalf("%+v comes behind %d, %d", r, lastSource, lastTarget)
		}
		for i := range r.Length {
			s, ok := w.byFrom[r.Source+i]
			c, there := bySite[r.Target+i]
			if !ok || !there || s.Digest != c.Digest || s.Aborted {
				w.t.Fatalf("pair %d, %d: %+v and %+v", r.Source+i, r.Target+i, s, c)
			}
			pairs[r.Source+i] = r.Target + i
		}
		lastSource, lastTarget = r.Source+r.Length-1, r.Target+r.Length-1
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if result.Records != int64(len(pairs)) {
		w.t.Fatalf("%d pairs, the result says %d", len(pairs), result.Records)
	}
	w.allAccounted(from, pairs, result)
	return pairs, result
}

// allAccounted checks that each record is in a pair or in one finding (D).
func (w *world) allAccounted(from int64, pairs map[int64]int64, result Result) {
	w.t.Helper()
	kinds := map[bool]map[int64]Kind{true: {}, false: {}}
	for _, f := range result.Rows {
		if !f.Whole() {
			continue // rows across holes are never made of so few
		}
		for o := f.From; o < f.To; o++ {
			if _, twice := kinds[f.Kind.AtSource()][o]; twice {
				w.t.Fatalf("offset %d is in two findings: %+v", o, result.Rows)
			}
			kinds[f.Kind.AtSource()][o] = f.Kind
		}
	}
	paired := map[int64]bool{}
	for s, t := range pairs {
		paired[t] = true
		if k, also := kinds[true][s]; also {
			w.t.Fatalf("source %d has a pair, and is %s", s, k)
		}
	}
	for _, c := range w.target {
		if k, also := kinds[false][c.Offset]; also == paired[c.Offset] {
			w.t.Fatalf("target %d: in a pair %v, finding %q", c.Offset, paired[c.Offset], k)
		}
	}
	for _, s := range w.source {
		_, has := pairs[s.Offset]
		if _, also := kinds[true][s.Offset]; !s.Aborted && s.Offset >= from && s.Offset < result.SourceEnd && also == has {
			w.t.Fatalf("source %d: pair %v, finding %v", s.Offset, has, also)
		}
	}
}

var small = Limits{Behind: 64, Ahead: 64, TargetAhead: 16}

// A copy with repeated runs, of all or of committed records, is mapped exactly.
func TestCopiesAreMappedExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t, shape{committedOnly: rapid.Bool().Draw(t, "read_committed")})
		pairs, result := w.matched(small)
		last := map[int64]int64{} // of each committed record that was copied
		for _, c := range w.target {
			if !w.byFrom[c.from].Aborted {
				last[c.from] = c.Offset
			}
		}
		for from := range last { // C
			if _, ok := pairs[from]; !ok {
				t.Fatalf("source %d was copied and has no pair", from)
			}
		}
		if n := result.Counts[Unknown] + result.Counts[Missing] + result.Counts[Older] + result.Counts[Before]; n > 0 {
			t.Fatalf("there are only copies: %+v", result.Rows)
		}
		for _, f := range result.Rows {
			for o := f.From; f.Kind == Aborted && o < f.To; o++ {
				if i := w.at(o); !w.byFrom[w.target[i].from].Aborted {
					t.Fatalf("target %d is taken for an aborted one", o)
				}
			}
		}
		w.latest(pairs)
	})
}

func (w *world) at(offset int64) int {
	for i, c := range w.target {
		if c.Offset == offset {
			return i
		}
	}
	return -1
}

// latest checks E: whoever resumes at a record that was copied again, in a run that came to
// where the copies were, finds no earlier record there.
func (w *world) latest(pairs map[int64]int64) {
	w.t.Helper()
	for s, target := range pairs {
		highest := int64(-1) // before the last copy of s
		end := -1
		for i, c := range w.target {
			if c.from == s {
				end = i
			}
		}
		for _, c := range w.target[:end] {
			if !w.byFrom[c.from].Aborted {
				highest = max(highest, c.from)
			}
		}
		// The run of the last copy: does it come beyond what was copied before it?
		reached := int64(-1)
		for i := end; i < len(w.target); i++ {
			if i > end && w.target[i].from <= w.target[i-1].from {
				break
			}
			if !w.byFrom[w.target[i].from].Aborted {
				reached = w.target[i].from
			}
		}
		if reached >= highest && target != w.target[end].Offset {
			w.t.Fatalf("source %d is at %d, its last copy at %d goes on to %d", s, target, w.target[end].Offset, reached)
		}
	}
}

// Whatever else is there, nothing is paired wrongly, and what has no pair is told.
func TestPairsAreTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := shape{foreign: true, drops: rapid.Bool().Draw(t, "drops"), committedOnly: rapid.Bool().Draw(t, "read_committed"),
			cutSource: rapid.Bool().Draw(t, "source cut"), cutTarget: rapid.Bool().Draw(t, "target cut")}
		w := draw(t, s)
		limits := small
		limits.SourceDeleted = s.cutSource
		pairs, result := w.matched(limits)
		for source, target := range pairs {
			if w.target[w.at(target)].from != source {
				t.Fatalf("target %d was copied from %d and is paired with %d", target, w.target[w.at(target)].from, source)
			}
		}
		for _, f := range result.Rows {
			for o := f.From; o < f.To; o++ {
				foreign := !f.Kind.AtSource() && w.target[w.at(o)].foreign
				if f.Kind == Duplicate && foreign || f.Kind == Aborted && foreign || f.Kind == Unknown && !foreign && !s.cutSource {
					t.Fatalf("target %d is %s: %+v", o, f.Kind, w.target[w.at(o)])
				}
			}
		}
	})
}

// Records that are equal may stand for each other, and never for others.
func TestRepeatedContents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t, shape{repeats: true, foreign: true, drops: true, committedOnly: rapid.Bool().Draw(t, "read_committed"), cutSource: true, cutTarget: true})
		w.matched(small)
	})
}

// Small windows find less, and nothing that is wrong.
func TestSmallWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t, shape{foreign: true, drops: true, cutSource: true})
		w.matched(Limits{Behind: rapid.IntRange(1, 8).Draw(t, "behind"), Ahead: rapid.IntRange(1, 8).Draw(t, "ahead"), TargetAhead: rapid.IntRange(1, 4).Draw(t, "target ahead"), SourceDeleted: true})
	})
}

// What is taken over in two parts is mapped as well, wherever the parts meet.
func TestInTwoParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := draw(t, shape{committedOnly: rapid.Bool().Draw(t, "read_committed")})
		all := w.target
		at := rapid.IntRange(0, len(all)).Draw(t, "first part")
		w.target = all[:at]
		first, result := w.matched(small)
		limits := small
		limits.Resumes, limits.Known = true, max(0, result.SourceEnd)
		w.target = all[at:]
		second, again := w.matchedFrom(limits, result.SourceEnd)
		if n := again.Counts[Unknown] + again.Counts[Missing] + again.Counts[Before] + again.Counts[Older]; n > 0 {
			t.Fatalf("%+v", again.Rows)
		}
		for _, c := range all {
			_, before := first[c.from]
			_, after := second[c.from]
			if !w.byFrom[c.from].Aborted && before == after {
				t.Fatalf("source %d: mapped by the first part %v, by the second %v", c.from, before, after)
			}
		}
	})
}
