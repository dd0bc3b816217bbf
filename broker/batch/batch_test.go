package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"spillway/broker/batch"
)

const decompressedBytesMax = 16 << 20

// anyBytes is null, empty or some bytes.
func anyBytes(t *rapid.T, label string) []byte {
	if rapid.IntRange(0, 9).Draw(t, label+" null") == 0 {
		return nil
	}
	return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, label)...)
}

func anyRecords(t *rapid.T, sparse bool) []batch.Record {
	n := rapid.IntRange(0, 12).Draw(t, "records")
	records := make([]batch.Record, n)
	delta := int32(0)
	for i := range records {
		if sparse {
			delta += rapid.Int32Range(0, 1000).Draw(t, "gap")
		}
		records[i] = batch.Record{
			TimestampDelta: rapid.Int64Range(-1<<40, 1<<40).Draw(t, "timestamp"),
			OffsetDelta:    delta,
			Key:            anyBytes(t, "key"),
			Value:          anyBytes(t, "value"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			records[i].Headers = append(records[i].Headers, batch.RecordHeader{
				Key: rapid.StringN(0, 20, 80).Draw(t, "header"), Value: anyBytes(t, "header value"),
			})
		}
		delta++
	}
	return records
}

func anyHeader(t *rapid.T) batch.Header {
	return batch.Header{
		BaseOffset:    rapid.Int64Range(0, 1<<60).Draw(t, "offset"),
		LeaderEpoch:   rapid.Int32().Draw(t, "leader epoch"),
		Attributes:    int16(rapid.SampledFrom([]int{0, 0x08, 0x10, 0x20, 0x40, 0x80, 0x18}).Draw(t, "attributes")),
		BaseTimestamp: rapid.Int64Range(-1, 1<<42).Draw(t, "base timestamp"),
		ProducerID:    rapid.Int64Range(-1, math.MaxInt64).Draw(t, "producer"),
		ProducerEpoch: rapid.Int16Range(-1, math.MaxInt16).Draw(t, "epoch"),
		BaseSequence:  rapid.Int32Range(-1, math.MaxInt32).Draw(t, "sequence"),
	}
}

func anyCodec(t *rapid.T) batch.Codec {
	return batch.Codec(rapid.IntRange(0, 4).Draw(t, "codec"))
}

// anyBatch is a batch of any shape.
func anyBatch(t *rapid.T) []byte {
	b, err := batch.Rebuild(anyHeader(t), anyRecords(t, rapid.Bool().Draw(t, "sparse")), anyCodec(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatWasBuiltIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, records, codec := anyHeader(t), anyRecords(t, rapid.Bool().Draw(t, "sparse")), anyCodec(t)
		b, err := batch.Rebuild(want, records, codec)
		if err != nil {
			t.Fatal(err)
		}
		h, rest, err := batch.Parse(append(bytes.Clone(b), "rest"...))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("parse: %v, rest %q", err, rest)
		}
		if err := batch.Verify(b); err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			codec = batch.None
		}
		if h.Codec() != codec || h.Size() != len(b) || int(h.Count) != len(records) || h.BaseOffset != want.BaseOffset ||
			h.ProducerID != want.ProducerID || h.ProducerEpoch != want.ProducerEpoch || h.BaseSequence != want.BaseSequence {
			t.Fatalf("header %+v of %+v", h, want)
		}
		got, err := batch.Records(b, decompressedBytesMax)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(records) || len(got) > 0 && !reflect.DeepEqual(got, records) {
			t.Fatalf("records\n%+v\nof\n%+v", got, records)
		}
	})
}

func TestAPatchEqualsComputingTheChecksumAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := anyBatch(t)
		id, epoch, sequence := rapid.Int64().Draw(t, "id"), rapid.Int16().Draw(t, "new epoch"), rapid.Int32().Draw(t, "new sequence")
		before, _, _ := batch.Parse(b)
		if rapid.Bool().Draw(t, "clean") {
			batch.Clean(b, id, epoch, sequence)
		} else {
			batch.SetProducer(b, id, epoch, sequence)
		}
		batch.SetLeaderEpoch(b, 7)
		batch.SetBaseOffset(b, 1<<40)
		after, _, err := batch.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if after.ProducerID != id || after.ProducerEpoch != epoch || after.BaseSequence != sequence || after.LeaderEpoch != 7 || after.BaseOffset != 1<<40 {
			t.Fatalf("header %+v", after)
		}
		if after.Codec() != before.Codec() || after.Control() != before.Control() {
			t.Fatalf("attributes %x of %x", after.Attributes, before.Attributes)
		}
		if err := batch.Verify(b); err != nil {
			t.Fatal(err)
		}
	})
}

func TestADamagedBatchStaysDamaged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := anyBatch(t)
		b[rapid.IntRange(batch.HeaderBytes-4, len(b)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		batch.SetProducer(b, 1, 2, 3)
		if err := batch.Verify(b); !errors.Is(err, batch.ErrCorrupt) {
			t.Fatalf("error %v", err)
		}
	})
}

func TestPatchesAllocateNothing(t *testing.T) {
	b, err := batch.Rebuild(batch.Header{}, []batch.Record{{Value: make([]byte, 1<<20)}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	allocations := testing.AllocsPerRun(100, func() {
		batch.SetProducer(b, 5, 6, 7)
		batch.Clean(b, 8, 9, 10)
		w := batch.Over(b)
		for w.Next() {
			batch.SetBaseOffset(w.Bytes, 3)
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}

func TestWalkGoesOverWholeBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var set []byte
		var ends []int
		for range rapid.IntRange(0, 5).Draw(t, "batches") {
			set = append(set, anyBatch(t)...)
			ends = append(ends, len(set))
		}
		cut := rapid.IntRange(0, len(set)).Draw(t, "cut")
		w := batch.Over(set[:cut])
		seen := 0
		for w.Next() {
			seen++
		}
		want, whole := 0, cut == 0
		for _, end := range ends {
			if end <= cut {
				want++
				whole = end == cut
			}
		}
		if w.Err() != nil || seen != want || w.Truncated() == whole {
			t.Fatalf("%d of %d batches, truncated %v, error %v", seen, want, w.Truncated(), w.Err())
		}
	})
}

func TestSequencesWrap(t *testing.T) {
	for _, c := range []struct{ first, count, next int32 }{
		{0, 1, 1}, {math.MaxInt32, 1, 0}, {2147483640, 10, 2}, {5, 0, 5}, {math.MaxInt32, math.MaxInt32, math.MaxInt32 - 1},
	} {
		if next := batch.NextSequence(c.first, c.count); next != c.next {
			t.Errorf("after %d records from %d comes %d, not %d", c.count, c.first, next, c.next)
		}
	}
}

func TestEmptyCoversAHole(t *testing.T) {
	b := batch.Empty(100, 150)
	h, rest, err := batch.Parse(b)
	if err != nil || len(rest) != 0 || len(b) != 61 || h.BaseOffset != 100 || h.NextOffset() != 150 || h.Count != 0 {
		t.Errorf("header %+v, error %v", h, err)
	}
	if err := batch.Verify(b); err != nil {
		t.Error(err)
	}
	if h, _, err := batch.Parse(batch.Empty(0, 1<<40)); err != nil || h.LastOffsetDelta != math.MaxInt32 {
		t.Errorf("a hole of 2^40: %+v, %v", h, err)
	}
}

func TestDecompressionStopsAtTheBound(t *testing.T) {
	for codec := batch.Gzip; codec <= batch.Zstd; codec++ {
		b, err := batch.Rebuild(batch.Header{}, []batch.Record{{Value: make([]byte, 32<<20)}}, codec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := batch.Records(b, 1<<20); !errors.Is(err, batch.ErrTooLarge) {
			t.Errorf("%v: error %v", codec, err)
		}
	}
}

// A frame that asks for a larger window than every decoder has to support is decoded
// where the caller allows as many bytes; others before and behind it are as before.
func TestZstdWindows(t *testing.T) {
	for round := range 2 {
		for _, window := range []int{1 << 20, 16 << 20} {
			records := []batch.Record{{Value: bytes.Repeat([]byte("0123456789abcdef"), 1<<20)}}
			var compressed bytes.Buffer
			w, err := zstd.NewWriter(&compressed, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := batch.Rebuild(batch.Header{}, records, batch.None)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(plain[batch.HeaderBytes:]); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			b := append(bytes.Clone(plain[:batch.HeaderBytes]), compressed.Bytes()...)
			binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
			b[22] |= byte(batch.Zstd)
			got, err := batch.Records(b, 64<<20)
			if err != nil || len(got) != 1 || !bytes.Equal(got[0].Value, records[0].Value) {
				t.Errorf("round %d, window %d: %d records, %v", round, window, len(got), err)
			}
			if _, err := batch.Records(b, 1<<20); !errors.Is(err, batch.ErrTooLarge) && !errors.Is(err, batch.ErrCorrupt) {
				t.Errorf("round %d, window %d: a bomb: %v", round, window, err)
			}
		}
	}
}
