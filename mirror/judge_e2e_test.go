//go:build e2e

package mirror

import (
	"slices"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
)

// judge is where the copies of a partition lie, by payload counters.
type judge struct {
	source []int64 // offsets of the visible records, which are numbered so
	copies []placedCopy
	last   []int64 // of each, the offset of its last copy; −1: there is none
}

type placedCopy struct {
	offset int64
	number int
}

func judgeOf(source, target *check.Log) *judge {
	j := &judge{}
	number := make(map[history.ID]int)
	for _, r := range source.Records {
		if r.State == check.Visible {
			number[r.ID] = len(j.source)
			j.source, j.last = append(j.source, r.Offset), append(j.last, -1)
		}
	}
	for _, r := range target.Records {
		if n, visible := number[r.ID]; visible { // else an aborted transaction wrote it
			j.copies = append(j.copies, placedCopy{r.Offset, n})
			j.last[n] = r.Offset
		}
	}
	return j
}

// look tells what a reader that stood at an offset of the source finds from one of the
// target on: whether its next record is the one that is due, how many that it has read
// come again, and how many that it has not are only before.
func (j *judge) look(at, got int64) (exact bool, reread, skipped int) {
	due, _ := slices.BinarySearch(j.source, at)
	exact = due == len(j.source)
	for _, c := range j.copies {
		exact = exact || c.offset == got && c.number == due
		if c.offset >= got && c.number < due {
			reread++
		}
	}
	for _, last := range j.last[due:] {
		if last >= 0 && last < got {
			skipped++
		}
	}
	return exact, reread, skipped
}
