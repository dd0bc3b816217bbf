package batch

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Record is one record of a batch. Keys and values are nil for null.
type Record struct {
	Attributes     int8
	TimestampDelta int64 // milliseconds after the batch's BaseTimestamp
	OffsetDelta    int32
	Key, Value     []byte
	Headers        []RecordHeader
}

// RecordHeader is one header of a record.
type RecordHeader struct {
	Key   string
	Value []byte
}

// Records decodes the records of a whole batch. Keys and values point into b
// or, if the batch is compressed, into a new buffer of at most
// decompressedBytesMax. The error is ErrCorrupt or ErrTooLarge.
func Records(b []byte, decompressedBytesMax int) ([]Record, error) {
	h := read(b)
	payload, err := decompress(h.Codec(), b[HeaderBytes:h.Size()], decompressedBytesMax)
	if err != nil {
		return nil, err
	}
	r := reader{rest: payload}
	// A record takes at least 7 bytes, so this allocates no more than the
	// payload justifies (invariant C).
	if int64(h.Count)*recordBytesMin > int64(len(payload)) {
		return nil, fmt.Errorf("%w: %d records in %d bytes", ErrCorrupt, h.Count, len(payload))
	}
	records := make([]Record, h.Count)
	for i := range records {
		records[i] = r.record()
		if r.bad {
			return nil, fmt.Errorf("%w: record %d of %d", ErrCorrupt, i, h.Count)
		}
	}
	if len(r.rest) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the last record", ErrCorrupt, len(r.rest))
	}
	return records, nil
}

// recordBytesMin: length, attributes, two deltas, two lengths, header count.
const recordBytesMin = 7

// headerBytesMin: two lengths.
const headerBytesMin = 2

// reader decodes; after a fault everything it returns is zero and bad is set.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) record() (rec Record) {
	length := r.varint()
	if r.bad || length < recordBytesMin-1 || length > int64(len(r.rest)) {
		r.bad = true
		return rec
	}
	body := reader{rest: r.rest[:length:length]}
	r.rest = r.rest[length:]
	rec.Attributes = int8(body.byte())
	rec.TimestampDelta = body.varint()
	rec.OffsetDelta = body.varint32()
	rec.Key = body.bytes()
	rec.Value = body.bytes()
	n := body.varint32()
	if body.bad || n < 0 || int64(n)*headerBytesMin > int64(len(body.rest)) {
		r.bad = true
		return rec
	}
	if n > 0 {
		rec.Headers = make([]RecordHeader, n)
	}
	for i := range rec.Headers {
		key := body.bytes()
		body.bad = body.bad || key == nil // a header's key is never null
		rec.Headers[i] = RecordHeader{Key: string(key), Value: body.bytes()}
	}
	r.bad = r.bad || body.bad || len(body.rest) != 0
	return rec
}

func (r *reader) byte() byte {
	if r.bad || len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint32() int32 {
	v := r.varint()
	if v < math.MinInt32 || v > math.MaxInt32 {
		r.bad = true
		return 0
	}
	return int32(v)
}

func (r *reader) bytes() []byte {
	n := r.varint32()
	if r.bad || n == -1 {
		return nil
	}
	if n < 0 || int(n) > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Rebuild writes a batch with the given records and codec. From h it takes
// base offset, leader epoch, producer fields, base timestamp, attributes other
// than the codec, and the last offset delta where that lies behind the last
// record's (a batch whose last records were removed). Offset deltas must
// ascend and may be sparse. The max timestamp is computed from the records,
// except under LogAppendTime, where the header's is the truth. A batch without
// records is written uncompressed, as Kafka's cleaner does.
func Rebuild(h Header, records []Record, codec Codec) ([]byte, error) {
	if len(records) == 0 {
		codec = None
	}
	last := int32(-1)
	h.Attributes = h.Attributes&^AttributeCodecMask | int16(codec)
	newest := int64(-1)
	payload := make([]byte, 0, 64+payloadBytes(records))
	for i := range records {
		r := &records[i]
		if r.OffsetDelta <= last {
			return nil, fmt.Errorf("rebuild batch: record %d has offset delta %d after %d", i, r.OffsetDelta, last)
		}
		last = r.OffsetDelta
		newest = max(newest, h.BaseTimestamp+r.TimestampDelta)
		payload = appendRecord(payload, r)
	}
	if h.Attributes&AttributeLogAppendTime == 0 {
		h.MaxTimestamp = newest
	}
	b, err := appendCompressed(make([]byte, HeaderBytes, HeaderBytes+len(payload)), codec, payload)
	if err != nil {
		return nil, err
	}
	if len(b)-prefixBytes > math.MaxInt32 {
		return nil, fmt.Errorf("rebuild batch: %d bytes are more than a batch may have", len(b))
	}
	h.Magic = 2
	h.Length = int32(len(b) - prefixBytes)
	h.LastOffsetDelta = max(h.LastOffsetDelta, last)
	h.Count = int32(len(records))
	put(b, h)
	seal(b)
	return b, nil
}

func payloadBytes(records []Record) (n int) {
	for i := range records {
		n += 32 + len(records[i].Key) + len(records[i].Value)
	}
	return n
}

func appendRecord(b []byte, r *Record) []byte {
	size := 1 + varintBytes(r.TimestampDelta) + varintBytes(int64(r.OffsetDelta)) +
		sizeOf(r.Key) + sizeOf(r.Value) + varintBytes(int64(len(r.Headers)))
	for i := range r.Headers {
		n := len(r.Headers[i].Key)
		size += varintBytes(int64(n)) + n + sizeOf(r.Headers[i].Value)
	}
	b = binary.AppendVarint(b, int64(size))
	b = append(b, byte(r.Attributes))
	b = binary.AppendVarint(b, r.TimestampDelta)
	b = binary.AppendVarint(b, int64(r.OffsetDelta))
	b = appendBytes(b, r.Key)
	b = appendBytes(b, r.Value)
	b = binary.AppendVarint(b, int64(len(r.Headers)))
	for i := range r.Headers {
		b = binary.AppendVarint(b, int64(len(r.Headers[i].Key)))
		b = append(b, r.Headers[i].Key...)
		b = appendBytes(b, r.Headers[i].Value)
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	b = binary.AppendVarint(b, int64(len(v)))
	return append(b, v...)
}

func sizeOf(v []byte) int {
	if v == nil {
		return 1
	}
	return varintBytes(int64(len(v))) + len(v)
}

func varintBytes(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	n := 1
	for ; u >= 0x80; u >>= 7 {
		n++
	}
	return n
}
