package batch_test

import (
	"bytes"
	"hash/crc32"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"spillway/broker/batch"
)

// twin writes the same batch by franz-go's generated code, field by field and
// with the checksum over everything: slow, and nobody's idea of clever.
func twin(h batch.Header, records []batch.Record, payload []byte) []byte {
	b := kmsg.RecordBatch{
		FirstOffset: h.BaseOffset, PartitionLeaderEpoch: h.LeaderEpoch, Magic: 2, Attributes: h.Attributes,
		FirstTimestamp: h.BaseTimestamp, MaxTimestamp: -1, ProducerID: h.ProducerID, ProducerEpoch: h.ProducerEpoch,
		FirstSequence: h.BaseSequence, NumRecords: int32(len(records)), Records: payload,
		LastOffsetDelta: h.LastOffsetDelta, Length: int32(len(payload) + batch.HeaderBytes - 12),
	}
	for _, r := range records {
		b.MaxTimestamp = max(b.MaxTimestamp, h.BaseTimestamp+r.TimestampDelta)
		b.LastOffsetDelta = max(b.LastOffsetDelta, r.OffsetDelta)
	}
	if h.Attributes&batch.AttributeLogAppendTime != 0 {
		b.MaxTimestamp = h.MaxTimestamp
	}
	if h.ProducerID < 0 {
		b.ProducerID = h.ProducerID
	}
	raw := b.AppendTo(nil)
	b.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b.AppendTo(nil)
}

func twinPayload(records []batch.Record) (payload []byte) {
	for _, r := range records {
		k := kmsg.Record{Attributes: r.Attributes, TimestampDelta64: r.TimestampDelta, OffsetDelta: r.OffsetDelta, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		k.Length = int32(len(k.AppendTo(nil)) - 1) // the length 0 takes one byte
		payload = k.AppendTo(payload)
	}
	return payload
}

func TestRebuildEqualsItsTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, records := anyHeader(t), anyRecords(t, rapid.Bool().Draw(t, "sparse"))
		h.MaxTimestamp = rapid.Int64().Draw(t, "max timestamp")
		got, err := batch.Rebuild(h, records, batch.None)
		if err != nil {
			t.Fatal(err)
		}
		if want := twin(h, records, twinPayload(records)); !bytes.Equal(got, want) {
			t.Fatalf("\n%x\n%x", got, want)
		}
	})
}

// What others compress is read, and what is compressed here others read.
func TestCodecsAgreeWithFranz(t *testing.T) {
	decompressor := kgo.DefaultDecompressor()
	for codec, theirs := range map[batch.Codec]kgo.CompressionCodec{
		batch.Gzip: kgo.GzipCompression(), batch.Snappy: kgo.SnappyCompression(), batch.LZ4: kgo.Lz4Compression(), batch.Zstd: kgo.ZstdCompression(),
	} {
		compressor, err := kgo.DefaultCompressor(theirs)
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			h, records := anyHeader(t), anyRecords(t, false)
			for i := range records {
				if rapid.Bool().Draw(t, "large") {
					records[i].Value = bytes.Repeat(append(records[i].Value, 'x'), 1000)
				}
			}
			payload := twinPayload(records)
			compressed, _ := compressor.Compress(new(bytes.Buffer), payload)
			h.Attributes |= int16(codec)
			read, err := batch.Records(twin(h, records, compressed), decompressedBytesMax)
			if err != nil || len(read) != len(records) || len(read) > 0 && !reflect.DeepEqual(read, records) {
				t.Fatalf("%v: read %+v, %v", codec, read, err)
			}
			ours, err := batch.Rebuild(h, records, codec)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := decompressor.Decompress(ours[batch.HeaderBytes:], kgo.CompressionCodecType(ours[22]&7)); err != nil || !bytes.Equal(got, payload) {
				t.Fatalf("%v: decompressed %d bytes of %d, %v", codec, len(got), len(payload), err)
			}
		})
	}
}

func TestHostileBatches(t *testing.T) {
	good, err := batch.Rebuild(batch.Header{}, []batch.Record{{Key: []byte("k"), Value: []byte("v")}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	with := func(at int, bytes ...byte) []byte {
		b := append([]byte{}, good...)
		copy(b[at:], bytes)
		return b
	}
	// The numbers are rows of reliability 3.2.
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"38: negative length":            {with(8, 0xff, 0xff, 0xff, 0xff), batch.ErrCorrupt},
		"38: length below a header":      {with(8, 0, 0, 0, 48), batch.ErrCorrupt},
		"38: length over the end":        {with(8, 0, 0, 1, 0), batch.ErrTruncated},
		"38: length 2^31-1":              {with(8, 0x7f, 0xff, 0xff, 0xff), batch.ErrTruncated},
		"39: magic 0":                    {with(16, 0), batch.ErrMagic},
		"39: magic 1":                    {with(16, 1), batch.ErrMagic},
		"39: magic 3":                    {with(16, 3), batch.ErrMagic},
		"39: magic -1":                   {with(16, 0xff), batch.ErrMagic},
		"40: 2^31-1 records":             {with(57, 0x7f, 0xff, 0xff, 0xff), batch.ErrCorrupt},
		"40: -1 records":                 {with(57, 0xff, 0xff, 0xff, 0xff), batch.ErrCorrupt},
		"40: more records than offsets":  {with(57, 0, 0, 0, 2), batch.ErrCorrupt},
		"40: negative last offset delta": {with(23, 0xff, 0xff, 0xff, 0xff), batch.ErrCorrupt},
		"base offset below 0":            {with(0, 0xff), batch.ErrCorrupt},
		"offsets over 2^63":              {with(0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), nil},
		"nothing":                        {nil, batch.ErrTruncated},
		"a header that is cut":           {good[:40], batch.ErrTruncated},
	} {
		if _, rest, err := batch.Parse(c.b); c.want != nil && (err == nil || !isError(err, c.want) || len(rest) != len(c.b)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"40: 2^20 records in 9 bytes":    manyRecords(with(57, 0, 0x10, 0, 0)),
		"41: codec 5":                    with(21, 0, 5),
		"41: gzip that is none":          with(21, 0, 1),
		"41: snappy that is none":        with(21, 0, 2),
		"41: lz4 that is none":           with(21, 0, 3),
		"41: zstd that is none":          with(21, 0, 4),
		"45: 2^31-1 headers in a record": with(len(good)-1, 0xfe),
		"a record longer than the batch": with(batch.HeaderBytes, 0x7e),
	} {
		if records, err := batch.Records(b, decompressedBytesMax); !isError(err, batch.ErrCorrupt) {
			t.Errorf("%s: %v, %v", name, records, err)
		}
	}
}

// manyRecords also raises the last offset delta, so that only the payload
// contradicts the count.
func manyRecords(b []byte) []byte {
	copy(b[23:], []byte{0, 0x10, 0, 0})
	return b
}
