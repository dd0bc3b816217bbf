package audit

import (
	"context"
	"sort"

	"spillway"
)

// missingMax is how many records may be missing in a row until the audit loses its way.
// It does so before if they take more than aheadBytesMax.
const missingMax = 1 << 17

// missing tells where the source goes on with the target's next record, if the target's
// map says that it lies further on than the window reaches. The map is only a hint: the
// two records have to be equal.
func (a *auditor) missing(ctx context.Context, t record) (records int, err error) {
	if t.virtual < 0 {
		return 0, nil
	}
	for {
		queue := a.source.queue
		if i := firstFrom(t.virtual, len(queue), func(i int) spillway.Offset { return queue[i].at() }); i < len(queue) {
			if queue[i].at() > t.virtual || !equal(queue[i], t) {
				return 0, nil
			}
			return i, nil
		}
		if len(queue) >= missingMax {
			return 0, nil
		}
		if _, ok, err := a.source.peek(ctx, len(queue)); err != nil || !ok {
			return 0, err
		}
	}
}

// firstFrom is the first of n records, which ascend, that does not lie below a virtual
// offset, or n. It looks at few of them: where a map is wrong over a long stretch, each
// difference has the audit look.
func firstFrom(virtual spillway.Offset, n int, at func(i int) spillway.Offset) int {
	return sort.Search(n, func(i int) bool { return at(i) >= virtual })
}
