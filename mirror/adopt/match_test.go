package adopt

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// log makes records of contents; offsets count from 0. A negative content is that of an
// aborted transaction, 0 a hole.
func logOf(contents ...int) *slice {
	s := &slice{}
	for i, c := range contents {
		if c != 0 {
			s.records = append(s.records, Record{Offset: int64(i), Digest: content(max(c, -c)), Aborted: c < 0})
		}
	}
	return s
}

func TestMatch(t *testing.T) {
	limits := small
	deleted, resumes := small, small
	deleted.SourceDeleted = true
	resumes.Resumes = true
	known := resumes
	known.Known = 3
	for _, c := range []struct {
		name           string
		limits         Limits
		source, target *slice
		ranges         []Range
		findings       []Finding
	}{
		{"nothing", limits, logOf(), logOf(), nil, nil},
		{"nothing was copied", limits, logOf(1, 2), logOf(), nil, nil},
		{"a hole at the source", limits, logOf(1, 2, 0, 3), logOf(1, 2, 3), []Range{{0, 0, 2}, {3, 2, 1}}, nil},
		{"a run again, to the end", limits, logOf(1, 2, 3, 4, 5, 6), logOf(1, 2, 3, 4, 3, 4, 5),
			[]Range{{0, 0, 2}, {2, 4, 3}}, []Finding{{Duplicate, 2, 4, 2}}},
		{"a run again, that stops before", limits, logOf(1, 2, 3, 4, 5, 6), logOf(1, 2, 3, 4, 2, 3, 5),
			[]Range{{0, 0, 4}, {4, 6, 1}}, []Finding{{Duplicate, 4, 6, 2}}},
		{"aborted ones left out", limits, logOf(1, -2, 3), logOf(1, 3), []Range{{0, 0, 1}, {2, 1, 1}}, nil},
		{"aborted ones copied", limits, logOf(1, -2, 3), logOf(1, 2, 3), []Range{{0, 0, 1}, {2, 2, 1}}, []Finding{{Aborted, 1, 2, 1}}},
		{"aborted, and written again, left out", limits, logOf(1, -2, 2, 3), logOf(1, 2, 3), []Range{{0, 0, 1}, {2, 1, 2}}, nil},
		{"aborted, and written again, copied", limits, logOf(1, -2, 2, 3), logOf(1, 2, 2, 3), []Range{{0, 0, 1}, {2, 2, 2}}, []Finding{{Duplicate, 1, 2, 1}}},
		{"aborted, and written again, after what was copied", limits, logOf(1, -2, 3, 4, 2), logOf(1, 2), []Range{{0, 0, 1}}, []Finding{{Aborted, 1, 2, 1}}},
		{"somebody else's", limits, logOf(1, 2), logOf(1, 9, 9, 2, 9), []Range{{0, 0, 1}, {1, 3, 1}}, []Finding{{Unknown, 1, 3, 2}, {Unknown, 4, 5, 1}}},
		{"left out in between", limits, logOf(1, 2, 3, 4), logOf(1, 4), []Range{{0, 0, 1}, {3, 1, 1}}, []Finding{{Missing, 1, 3, 2}}},
		{"begun late", limits, logOf(1, 2, 3), logOf(3), []Range{{2, 0, 1}}, []Finding{{Before, 0, 2, 2}}},
		{"begun late, and mapped before", resumes, logOf(1, 2, 3), logOf(3), []Range{{2, 0, 1}}, []Finding{{Missing, 0, 2, 2}}},
		{"what was mapped before, again", known, logOf(1, 2, 3, 4, 5), logOf(2, 3, 4, 3, 4, 5), []Range{{3, 4, 2}}, []Finding{{Duplicate, 0, 4, 4}}},
		{"the source has lost its beginning", deleted, logOf(3, 4), logOf(1, 2, 3, 4), []Range{{0, 2, 2}}, []Finding{{Older, 0, 2, 2}}},
		{"the source has its beginning", limits, logOf(3, 4), logOf(1, 2, 3, 4), []Range{{0, 2, 2}}, []Finding{{Unknown, 0, 2, 2}}},
		{"the target begins in a run again", limits, logOf(1, 2, 3, 4, 5), logOf(4, 2, 3, 4, 5), []Range{{1, 1, 4}}, []Finding{{Duplicate, 0, 1, 1}, {Before, 0, 1, 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ranges []Range
			result, err := Match(c.limits, c.source, c.target, func(r Range) { ranges = append(ranges, r) })
			if err != nil || !slices.Equal(ranges, c.ranges) || !slices.Equal(result.Rows, c.findings) {
				t.Errorf("%v, %+v, %v; want %v, %+v", ranges, result.Rows, err, c.ranges, c.findings)
			}
		})
	}
}

// What a cleaner may have removed lacks as a matter of course, and nothing else.
func TestCompacted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.IntRange(1, 5).Draw(t, "keys")
		var all []Record
		for i := range rapid.IntRange(1, 40).Draw(t, "records") {
			all = append(all, Record{Offset: int64(i), Digest: content(i), Key: rapid.Uint64Range(1, uint64(keys)).Draw(t, "key"), Tombstone: rapid.IntRange(0, 5).Draw(t, "tombstone") == 0})
		}
		last := map[uint64]int64{}
		for _, r := range all {
			last[r.Key] = r.Offset
		}
		cleaned := func(upTo int) (kept []Record) {
			earlier := map[uint64]bool{} // a cleaner removes a tombstone after all that it deletes
			for _, r := range all[:upTo] {
				if r.Offset == last[r.Key] && (!r.Tombstone || earlier[r.Key]) || rapid.Bool().Draw(t, "kept") {
					kept = append(kept, r)
					earlier[r.Key] = true
				}
			}
			return kept
		}
		source, target := cleaned(len(all)), cleaned(rapid.IntRange(0, len(all)).Draw(t, "copied"))
		lost := int64(-1)
		if len(target) > 1 && rapid.Bool().Draw(t, "one is lost") {
			i := rapid.IntRange(0, len(target)-1).Draw(t, "lost")
			if r := target[i]; r.Offset == last[r.Key] && !r.Tombstone {
				lost = r.Offset
			}
			target = slices.Delete(target, i, i+1)
		}
		limits := small
		limits.Compacted = true
		pairs := map[int64]bool{}
		result, err := Match(limits, &slice{source}, &slice{target}, func(r Range) {
			for i := range r.Length {
				if r.Source != r.Target {
					t.Fatalf("%+v: both have the same offsets", r)
				}
				pairs[r.Source+i] = true
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		inSource := map[int64]bool{}
		for _, r := range source {
			inSource[r.Offset] = true
		}
		for _, r := range target {
			if pairs[r.Offset] != inSource[r.Offset] {
				t.Fatalf("record %d: pair %v, at the source %v", r.Offset, pairs[r.Offset], inSource[r.Offset])
			}
		}
		want := int64(0)
		if lost >= result.First && lost < result.SourceEnd && result.First >= 0 {
			want = 1
		}
		if result.Counts[Missing] != want || result.Counts[Unknown] != 0 {
			t.Fatalf("%+v; lost is %d, pairs are from %d to %d", result.Rows, lost, result.First, result.SourceEnd)
		}
	})
}

type broken struct{ slice }

var errBroken = errors.New("broken")

func (b *broken) Next() (Record, bool, error) {
	if r, ok, _ := b.slice.Next(); ok {
		return r, ok, nil
	}
	return Record{}, false, errBroken
}

// A log that cannot be read to its end matches nothing.
func TestBrokenLogs(t *testing.T) {
	for _, logs := range [][2]Log{{&broken{*logOf(1, 2)}, logOf(1, 2, 3)}, {logOf(1, 2), &broken{*logOf(1)}}, {&broken{*logOf(1)}, logOf(9)}} {
		if _, err := Match(small, logs[0], logs[1], func(Range) {}); !errors.Is(err, errBroken) {
			t.Errorf("%v", err)
		}
	}
}

// However many rows there are, a bounded number is kept, and all records are counted.
func TestManyFindings(t *testing.T) {
	f := newFindings()
	const many = 50_000
	for i := range int64(many) {
		f.add(Duplicate, 3*i, 2)
		if i%7 == 0 && i > 100 {
			f.add(Duplicate, 3*(i-100)+2, 1)
		}
	}
	all := f.sorted()
	records := int64(0)
	for i, r := range all.Rows {
		records += r.Records
		if i > 0 && r.From < all.Rows[i-1].To {
			t.Fatalf("%+v lies in %+v", r, all.Rows[i-1])
		}
	}
	if len(all.Rows) > FindingsMax || records != all.Counts[Duplicate] || all.Rows[0] != (Finding{Duplicate, 0, 2, 2}) || all.Rows[len(all.Rows)-1].To != 3*many-1 {
		t.Errorf("%d rows, %d records of %d, from %+v to %+v", len(all.Rows), records, all.Counts[Duplicate], all.Rows[0], all.Rows[len(all.Rows)-1])
	}
}
