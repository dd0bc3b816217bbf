package check

import (
	"cmp"
	"slices"

	"spillway/tests/orders/history"
)

// Translation tells, from payload counters alone, where a reader that stopped
// at an offset of one site's log has to go on in another site's log. It asks
// neither map nor mirror, so both can be judged by it.
type Translation struct {
	source, target []*Record // visible ones, ascending
	end            int64     // of the target log
	// For each target record, the index in source of the last record that is
	// not behind it, and of the first that is not before it: both its own if
	// the source still has it, else (compacted away there) its neighbours of
	// the same producer.
	low, high []int32
}

// NewTranslation prepares for two logs of one partition. Counters of a producer
// must rise in both.
func NewTranslation(source, target *Log) *Translation {
	t := &Translation{source: visibleOf(source), target: visibleOf(target), end: target.End}
	type place struct {
		counter int64
		index   int32
	}
	places := map[string][]place{}
	byID := make(map[history.ID]int32, len(t.source))
	for i, r := range t.source {
		byID[r.ID] = int32(i)
		places[r.ID.Producer] = append(places[r.ID.Producer], place{r.ID.Counter, int32(i)})
	}
	for _, r := range t.target {
		if i, ok := byID[r.ID]; ok {
			t.low, t.high = append(t.low, i), append(t.high, i)
			continue
		}
		ps := places[r.ID.Producer]
		next, _ := slices.BinarySearchFunc(ps, r.ID.Counter, func(p place, c int64) int { return cmp.Compare(p.counter, c) })
		low, high := int32(-1), int32(len(t.source))
		if next > 0 {
			low = ps[next-1].index
		}
		if next < len(ps) {
			high = ps[next].index
		}
		t.low, t.high = append(t.low, low), append(t.high, high)
	}
	return t
}

func visibleOf(log *Log) []*Record {
	out := make([]*Record, 0, len(log.Records))
	for i := range log.Records {
		if r := &log.Records[i]; r.State == Visible && !r.ID.IsZero() {
			out = append(out, r)
		}
	}
	return out
}

func indexOf(records []*Record, offset int64) int32 {
	i, _ := slices.BinarySearchFunc(records, offset, func(r *Record, o int64) int { return cmp.Compare(r.Offset, o) })
	return int32(i)
}

// Expected returns the offsets at the target that are exact for a reader that
// stands at the source offset: every one from lowest to highest re-reads
// nothing and skips nothing. Highest is the next due record, or the log's end.
// If lowest > highest, the target's order leaves no exact position.
func (t *Translation) Expected(sourceAt int64) (lowest, highest int64) {
	q := indexOf(t.source, sourceAt)
	highest = t.end
	for i, r := range t.target {
		if t.high[i] < q {
			lowest = r.Offset + 1
		}
		if t.low[i] >= q && r.Offset < highest {
			highest = r.Offset
		}
	}
	return lowest, highest
}

// Judge counts the records that a reader gets again, and that it never gets,
// if it stood at the source offset and goes on at the target offset.
func (t *Translation) Judge(sourceAt, targetAt int64) (reread, skipped int64) {
	q := indexOf(t.source, sourceAt)
	at := indexOf(t.target, targetAt)
	for i := range t.target {
		switch {
		case int32(i) < at && t.low[i] >= q:
			skipped++
		case int32(i) >= at && t.high[i] < q:
			reread++
		}
	}
	return reread, skipped
}
