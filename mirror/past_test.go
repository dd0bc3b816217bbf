package mirror

import (
	"crypto/sha256"
	"testing"

	"spillway"
	"spillway/mirror/offsetmap"
)

// TestDifference says what of two sites has to be equal: all that neither has
// deleted in good order.
func TestDifference(t *testing.T) {
	records := func(values map[spillway.Offset]string) digests {
		d := make(digests)
		for v, value := range values {
			d[v] = sha256.Sum256([]byte(value))
		}
		return d
	}
	m := offsetmap.New()
	m.Apply(offsetmap.EpochStart{Epoch: 1})
	view := m.View()
	for _, c := range []struct {
		name                 string
		ours, theirs         map[spillway.Offset]string
		ourStart, theirStart spillway.LocalOffset
		settled              spillway.Offset
		compacted            bool
		want                 spillway.Offset // 10: no difference
	}{
		{name: "equal", ours: map[spillway.Offset]string{7: "a", 9: "b"}, theirs: map[spillway.Offset]string{7: "a", 9: "b"}, want: 10},
		{name: "other record", ours: map[spillway.Offset]string{7: "a", 9: "b"}, theirs: map[spillway.Offset]string{7: "a", 9: "x"}, want: 9},
		{name: "the first one counts", ours: map[spillway.Offset]string{7: "a", 9: "b"}, theirs: map[spillway.Offset]string{7: "x", 9: "y"}, want: 7},
		{name: "a record where there was a marker", ours: map[spillway.Offset]string{7: "a"}, theirs: map[spillway.Offset]string{7: "a", 8: "x"}, want: 8},
		{name: "a marker where there was a record", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{7: "a"}, want: 8},
		{name: "the source deleted it", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{8: "b"}, theirStart: 8, want: 10},
		{name: "this site deleted it", ours: map[spillway.Offset]string{8: "b"}, theirs: map[spillway.Offset]string{7: "a", 8: "b"}, ourStart: 8, want: 10},
		{name: "compaction took it at the source", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{8: "b"}, compacted: true, want: 10},
		{name: "compaction took it here", ours: map[spillway.Offset]string{8: "b"}, theirs: map[spillway.Offset]string{7: "a", 8: "b"}, compacted: true, want: 10},
		{name: "compaction changes no record", ours: map[spillway.Offset]string{8: "b"}, theirs: map[spillway.Offset]string{7: "a", 8: "x"}, compacted: true, want: 8},
		{name: "aborted while this site served", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{8: "b"}, settled: 8, want: 10},
	} {
		p := past{end: 10, settled: c.settled, ours: logPart{view, c.ourStart, 10}, theirs: logPart{view, c.theirStart, 10}}
		if at, same := p.difference(records(c.ours), records(c.theirs), c.compacted); at != c.want || same != (c.want == 10) {
			t.Errorf("%s: they part at %d (same: %v), not at %d", c.name, at, same, c.want)
		}
	}
}
