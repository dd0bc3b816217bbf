package records_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"spillway"
	"spillway/broker/batch"
	"spillway/federation/records"
	"spillway/mirror/offsetmap"
)

const none = spillway.Offset(math.MaxInt64)

// log writes a record set: each batch holds one record per offset given.
func log(t *testing.T, codec batch.Codec, batches ...[]int64) []byte {
	t.Helper()
	var set []byte
	for _, offsets := range batches {
		var rs []batch.Record
		for _, o := range offsets {
			rs = append(rs, batch.Record{OffsetDelta: int32(o - offsets[0]), Value: fmt.Appendf(nil, "local-%d", o)})
		}
		b, err := batch.Rebuild(batch.Header{BaseOffset: offsets[0], LeaderEpoch: 3, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, rs, codec)
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, b...)
	}
	return set
}

// show prints a record set as a client sees it: "virtual=value" for records,
// "[from,to)" for an empty batch.
func show(t *testing.T, set []byte) string {
	t.Helper()
	var seen []string
	w := batch.Over(set)
	for w.Next() {
		if err := batch.Verify(w.Bytes); err != nil {
			t.Fatal(err)
		}
		if w.Header.LeaderEpoch < 1<<20 && w.Header.Count > 0 {
			t.Fatalf("batch at %d shows leader epoch %d, which is the broker's", w.Header.BaseOffset, w.Header.LeaderEpoch)
		}
		rs, err := batch.Records(w.Bytes, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(rs) == 0 {
			seen = append(seen, fmt.Sprintf("[%d,%d)", w.Header.BaseOffset, w.Header.NextOffset()))
		}
		for _, r := range rs {
			seen = append(seen, fmt.Sprintf("%d=%s", w.Header.BaseOffset+int64(r.OffsetDelta), strings.TrimPrefix(string(r.Value), "local-")))
		}
	}
	if err := w.Err(); err != nil || w.Truncated() {
		t.Fatal(err, w.Truncated())
	}
	return strings.Join(seen, " ")
}

// mirrored is a standby's map: virtual 1000.. lie at local 0.., with a hole of
// 10 virtual offsets after each of the given lengths.
func mirrored(lengths ...int64) *offsetmap.View {
	m := offsetmap.New()
	c := &offsetmap.Chunk{Session: 1, Worker: "w", Verified: true}
	v, l := spillway.Offset(1000), spillway.LocalOffset(0)
	for _, n := range lengths {
		c.Ranges = append(c.Ranges, offsetmap.Range{Epoch: 1, Virtual: v, Local: l, Length: n})
		v, l = v+spillway.Offset(n)+10, l+spillway.LocalOffset(n)
	}
	m.Apply(offsetmap.Session{Session: 1, Worker: "w"})
	m.Apply(c)
	return m.View()
}

// by makes a producer the author of a batch of a record set.
func by(producer int64, set []byte, which int) []byte {
	w := batch.Over(set)
	for i := 0; w.Next(); i++ {
		if i == which {
			batch.Clean(w.Bytes, producer, 0, 0)
			batch.SetBaseOffset(w.Bytes, w.Header.BaseOffset)
		}
	}
	return set
}

// marker makes a batch of a record set the end of a transaction.
func marker(t *testing.T, set []byte, which int) (out []byte) {
	t.Helper()
	w := batch.Over(set)
	for i := 0; w.Next(); i++ {
		b := w.Bytes
		if i == which {
			h := w.Header
			h.Attributes |= batch.AttributeControl | batch.AttributeTransactional
			rs, err := batch.Records(b, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if b, err = batch.Rebuild(h, rs, batch.None); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, b...)
	}
	return out
}

func opened(epoch spillway.Epoch, virtual spillway.Offset, local spillway.LocalOffset, before ...offsetmap.Record) *offsetmap.View {
	m := offsetmap.New()
	for _, r := range before {
		m.Apply(r)
	}
	m.Apply(offsetmap.EpochStart{Epoch: epoch, Virtual: virtual, Local: local})
	return m.View()
}

func TestServe(t *testing.T) {
	tail := []offsetmap.Record{
		offsetmap.EpochStart{Epoch: 1, Virtual: 1000, Local: 0},
		offsetmap.EpochEnd{Epoch: 1, Virtual: 1003, Local: 3, LogEnd: 6},
	}
	mirror := []offsetmap.Record{
		offsetmap.Session{Session: 1, Worker: "w", ProducerID: 99, Opened: true},
		&offsetmap.Chunk{Session: 1, Worker: "w", Verified: true, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: 1000, Local: 0, Length: 6}}},
	}
	closed := opened(5, 1600, 10, append(slices.Clone(mirror),
		offsetmap.EpochStart{Epoch: 3, Virtual: 1500, Local: 6}, offsetmap.EpochEnd{Epoch: 3, Virtual: 1504, Local: 10, LogEnd: 10})...)
	for _, c := range []struct {
		name        string
		set         []byte
		view        *offsetmap.View
		from, limit spillway.Offset
		want        string
		next        spillway.Offset
	}{
		{"the active site's own offsets are shifted", log(t, batch.None, []int64{0, 1}, []int64{2}), opened(1, 1000, 0), 1000, none,
			"1000=0 1001=1 1002=2", 1003},
		{"a fetch inside a batch gets the batch, as Kafka does", log(t, batch.Zstd, []int64{0, 1, 2}), opened(1, 1000, 0), 1001, none,
			"1000=0 1001=1 1002=2", 1003},
		{"compacted batches keep their distances", log(t, batch.None, []int64{0, 4}), opened(1, 1000, 0), 1000, none,
			"1000=0 1004=4", 1005},
		{"nothing above the limit", log(t, batch.None, []int64{0}, []int64{1, 2}), opened(1, 1000, 0), 1000, 1002,
			"1000=0", 1001},
		{"a batch over several ranges is written anew", log(t, batch.LZ4, []int64{0, 1, 2, 3}), mirrored(2, 2), 1000, none,
			"1000=0 1001=1 1012=2 1013=3", 1014},
		{"batches before a rebuilt one stay", log(t, batch.None, []int64{0}, []int64{1, 2, 3}, []int64{4}), mirrored(2, 3), 1000, none,
			"1000=0 1001=1 1012=2 1013=3 1014=4", 1015},
		{"a hole behind the records is covered", log(t, batch.None, []int64{0, 1}), mirrored(2, 2), 1000, none,
			"1000=0 1001=1 [1002,1012)", 1012},
		{"a fetch inside a hole gets an empty batch", nil, mirrored(2, 2), 1007, none, "[1007,1012)", 1012},
		{"a hole above the limit is not covered", nil, mirrored(2, 2), 1007, 1010, "", 1007},
		{"what the map does not know is not shown", log(t, batch.None, []int64{0, 1}, []int64{2}), mirrored(2), 1000, none,
			"1000=0 1001=1", 1002},
		{"unreplicated records are hidden, the burnt range is covered", log(t, batch.None, []int64{0, 1, 2}, []int64{3, 4, 5}, []int64{6}),
			opened(3, 1500, 6, tail...), 1000, none, "1000=0 1001=1 1002=2 1500=6", 1501},
		{"the answer ends where a marker is hidden", marker(t, log(t, batch.None, []int64{0, 1, 2}, []int64{3, 4}, []int64{5}, []int64{6}), 2),
			opened(3, 1500, 6, tail...), 1000, none, "1000=0 1001=1 1002=2 [1003,1500)", 1500},
		{"and goes on behind it", marker(t, log(t, batch.None, []int64{5}, []int64{6}), 0), opened(3, 1500, 6, tail...), 1003, none, "1500=6", 1501},
		{"a marker that is shown ends nothing", marker(t, log(t, batch.None, []int64{0, 1}, []int64{2}, []int64{6}), 1),
			opened(3, 1500, 6, tail...), 1000, none, "1000=0 1001=1 1002=2 1500=6", 1501},
		{"a batch of which a part is hidden", log(t, batch.Gzip, []int64{2, 3, 4}), opened(3, 1500, 6, tail...), 1002, none,
			"1002=2 [1003,1500)", 1500},
		{"what a stale mirror wrote is hidden", by(99, log(t, batch.None, []int64{6}, []int64{7, 8}, []int64{9}), 1),
			opened(3, 1500, 6, mirror...), 1500, none, "1500=6 [1501,1503) 1503=9", 1504},
		{"a fetch begins at what a stale mirror wrote", by(99, log(t, batch.None, []int64{7, 8}), 0),
			opened(3, 1500, 6, mirror...), 1501, none, "[1501,1503)", 1503},
		{"a stale mirror's batch above the limit", by(99, log(t, batch.None, []int64{6}, []int64{7, 8}), 1),
			opened(3, 1500, 6, mirror...), 1500, 1502, "1500=6", 1501},
		{"what a mirror wrote before the site served is shown", by(99, log(t, batch.None, []int64{5}, []int64{6}), 0),
			opened(3, 1006, 6, mirror...), 1005, none, "1005=5 1006=6", 1007},
		{"a stale mirror's batch, when the epoch is over", by(99, log(t, batch.None, []int64{6}, []int64{7, 8}, []int64{9}), 1),
			closed, 1500, none, "1500=6 [1501,1503) 1503=9 [1504,1600)", 1600},
		{"nothing there", nil, opened(1, 1000, 0), 1000, none, "", 1000},
		{"a cut-off batch is left out", log(t, batch.None, []int64{0}, []int64{1, 2})[:100], opened(1, 1000, 0), 1000, none, "1000=0", 1001},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := records.Serve(c.set, c.view, c.from, c.limit)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(t, a.Records); got != c.want || a.Next != c.next {
				t.Errorf("a fetch at %d sees %q and goes on at %d\nwant %q and %d", c.from, got, a.Next, c.want, c.next)
			}
		})
	}
}

func TestACorruptSetIsAnError(t *testing.T) {
	set := log(t, batch.None, []int64{0})
	set[16] = 1 // magic
	if _, err := records.Serve(set, opened(1, 0, 0), 0, none); err == nil {
		t.Error("a set of an unknown format was served")
	}
}
