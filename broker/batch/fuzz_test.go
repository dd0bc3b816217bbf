package batch_test

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"spillway/broker/batch"
)

func isError(err, target error) bool { return errors.Is(err, target) }

func seeds(f *testing.F) {
	for codec := batch.None; codec <= batch.Zstd; codec++ {
		b, err := batch.Rebuild(batch.Header{BaseOffset: 5, LeaderEpoch: 3, BaseTimestamp: 1, ProducerID: 7}, []batch.Record{
			{Key: []byte("key"), Value: []byte("value")},
			{OffsetDelta: 3, TimestampDelta: -4, Headers: []batch.RecordHeader{{Key: "h"}, {Key: "", Value: []byte{}}}},
		}, codec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, batch.Empty(9, 12)...))
		f.Add(append(b, b[:30]...))
	}
}

// FuzzWalk: a walk stays inside the set, covers it without a gap, and ends.
func FuzzWalk(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, set []byte) {
		w := batch.Over(set)
		walked := 0
		for w.Next() {
			if len(w.Bytes) != w.Header.Size() || len(w.Bytes) < batch.HeaderBytes || cap(w.Bytes) != len(w.Bytes) {
				t.Fatalf("%d bytes of %+v", len(w.Bytes), w.Header)
			}
			if w.Header.LastOffset() < w.Header.BaseOffset {
				t.Fatalf("offsets of %+v", w.Header)
			}
			walked += len(w.Bytes)
		}
		if walked+len(w.Rest()) != len(set) {
			t.Fatalf("%d walked, %d left of %d", walked, len(w.Rest()), len(set))
		}
		if whole := len(w.Rest()) == 0; whole == (w.Truncated() || w.Err() != nil) {
			t.Fatalf("%d left, truncated %v, %v", len(w.Rest()), w.Truncated(), w.Err())
		}
	})
}

// FuzzRewrite: after a rewrite the payload is untouched, the fields are as
// set, and the checksum is right exactly if it was right before (invariant B).
func FuzzRewrite(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, _, err := batch.Parse(b)
		if err != nil {
			return
		}
		b = bytes.Clone(b[:h.Size()])
		payload, valid := bytes.Clone(b[batch.HeaderBytes:]), batch.Verify(b) == nil
		batch.Clean(b, 1<<62, 5, 77)
		after, rest, err := batch.Parse(b)
		if err != nil || len(rest) != 0 || after.BaseOffset != 0 || after.LeaderEpoch != -1 || after.ProducerID != 1<<62 || after.ProducerEpoch != 5 || after.BaseSequence != 77 {
			t.Fatalf("%+v, %v", after, err)
		}
		if !bytes.Equal(b[batch.HeaderBytes:], payload) {
			t.Fatal("the payload changed")
		}
		if got := batch.Verify(b) == nil; got != valid {
			t.Fatalf("valid %v, was %v", got, valid)
		}
	})
}

// FuzzRecords: records decode or are refused, at a cost in proportion; what
// decodes can be rebuilt and is the same again.
func FuzzRecords(f *testing.F) {
	seeds(f)
	const bytesMax = 1 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		h, _, err := batch.Parse(b)
		if err != nil {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		records, err := batch.Records(b[:h.Size()], bytesMax)
		runtime.ReadMemStats(&after)
		// Windows of the decoders come first; then some 100 bytes in memory
		// for the 7 that a record takes.
		if cost := after.TotalAlloc - before.TotalAlloc; cost > 64<<20 {
			t.Fatalf("%d bytes cost %d", len(b), cost)
		}
		if err != nil {
			return
		}
		rebuilt, err := batch.Rebuild(h, records, h.Codec())
		if err != nil {
			return // offsets do not ascend
		}
		again, err := batch.Records(rebuilt, 2*bytesMax)
		if err != nil || len(again) != len(records) {
			t.Fatalf("%d of %d records, %v", len(again), len(records), err)
		}
	})
}
