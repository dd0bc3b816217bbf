package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Positions of the header's fields, in bytes from the start of the batch
// (Kafka's documentation, "Record batch").
const (
	atBaseOffset      = 0
	atLength          = 8
	atLeaderEpoch     = 12
	atMagic           = 16
	atCRC             = 17
	atAttributes      = 21 // the checksum covers everything from here
	atLastOffsetDelta = 23
	atBaseTimestamp   = 27
	atMaxTimestamp    = 35
	atProducerID      = 43
	atProducerEpoch   = 51
	atBaseSequence    = 53
	atCount           = 57
)

// HeaderBytes is the size of a batch without records.
const HeaderBytes = 61

// prefixBytes are before what Length counts.
const prefixBytes = 12

// Attribute bits.
const (
	AttributeCodecMask     int16 = 0x07
	AttributeLogAppendTime int16 = 0x08
	AttributeTransactional int16 = 0x10
	AttributeControl       int16 = 0x20
	AttributeDeleteHorizon int16 = 0x40
)

// Sentinels on which callers branch.
var (
	// ErrTruncated means that the bytes end inside a batch: usual at the end
	// of a fetched record set.
	ErrTruncated = errors.New("batch is cut off")
	// ErrMagic means a batch of another format than 2.
	ErrMagic = errors.New("batch is not of format 2")
	// ErrCorrupt means that fields of a batch contradict each other or its checksum.
	ErrCorrupt = errors.New("batch is corrupt")
)

// Header is the decoded header of a batch.
type Header struct {
	BaseOffset      int64
	Length          int32 // bytes after the length field itself
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64 // milliseconds since 1970; the delete horizon if that attribute is set
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Count           int32
}

// Size of the whole batch in bytes.
func (h Header) Size() int { return prefixBytes + int(h.Length) }

// LastOffset of the batch, also where compaction removed that record.
func (h Header) LastOffset() int64 { return h.BaseOffset + int64(h.LastOffsetDelta) }

// NextOffset is the offset after the batch.
func (h Header) NextOffset() int64 { return h.LastOffset() + 1 }

// LastSequence of the batch; meaningful where BaseSequence is not −1.
func (h Header) LastSequence() int32 { return NextSequence(h.BaseSequence, h.LastOffsetDelta) }

// Codec of the payload.
func (h Header) Codec() Codec { return Codec(h.Attributes & AttributeCodecMask) }

// Control tells a batch of transaction markers.
func (h Header) Control() bool { return h.Attributes&AttributeControl != 0 }

// Transactional tells a batch written inside a transaction.
func (h Header) Transactional() bool { return h.Attributes&AttributeTransactional != 0 }

// PassThrough tells whether the batch may be produced elsewhere with only its
// header patched (Clean): no record is missing inside, and its timestamps mean
// what the records say. Otherwise it has to be rebuilt.
func (h Header) PassThrough() bool {
	return h.Attributes&(AttributeLogAppendTime|AttributeControl|AttributeDeleteHorizon) == 0 &&
		h.Count > 0 && h.LastOffsetDelta == h.Count-1
}

// Parse reads the header of the batch at the start of b, checks that the batch
// is whole and consistent (not its checksum, see Verify), and returns what
// follows it. The batch itself is b[:h.Size()].
// Errors: ErrTruncated, ErrMagic, ErrCorrupt.
func Parse(b []byte) (h Header, rest []byte, err error) {
	if len(b) < atMagic+1 {
		return Header{}, b, ErrTruncated
	}
	// The magic stands at the same place in all formats; check it first, as
	// the lengths mean something else in formats 0 and 1.
	if magic := int8(b[atMagic]); magic != 2 {
		return Header{Magic: magic}, b, fmt.Errorf("%w but %d", ErrMagic, magic)
	}
	length := int32(binary.BigEndian.Uint32(b[atLength:]))
	if length < HeaderBytes-prefixBytes {
		return Header{}, b, fmt.Errorf("%w: length %d, less than a header", ErrCorrupt, length)
	}
	if int64(len(b)) < prefixBytes+int64(length) {
		return Header{}, b, ErrTruncated
	}
	h = read(b)
	switch {
	case h.Count < 0:
		err = fmt.Errorf("%w: %d records", ErrCorrupt, h.Count)
	case h.LastOffsetDelta < 0:
		err = fmt.Errorf("%w: last offset delta %d", ErrCorrupt, h.LastOffsetDelta)
	case int64(h.Count) > int64(h.LastOffsetDelta)+1:
		err = fmt.Errorf("%w: %d records in %d offsets", ErrCorrupt, h.Count, int64(h.LastOffsetDelta)+1)
	case h.BaseOffset < 0 || h.LastOffset() < 0:
		err = fmt.Errorf("%w: base offset %d", ErrCorrupt, h.BaseOffset)
	}
	if err != nil {
		return Header{}, b, err
	}
	return h, b[h.Size():], nil
}

// read decodes a header that is known to be there.
func read(b []byte) Header {
	be := binary.BigEndian
	_ = b[HeaderBytes-1]
	return Header{
		BaseOffset:      int64(be.Uint64(b[atBaseOffset:])),
		Length:          int32(be.Uint32(b[atLength:])),
		LeaderEpoch:     int32(be.Uint32(b[atLeaderEpoch:])),
		Magic:           int8(b[atMagic]),
		CRC:             be.Uint32(b[atCRC:]),
		Attributes:      int16(be.Uint16(b[atAttributes:])),
		LastOffsetDelta: int32(be.Uint32(b[atLastOffsetDelta:])),
		BaseTimestamp:   int64(be.Uint64(b[atBaseTimestamp:])),
		MaxTimestamp:    int64(be.Uint64(b[atMaxTimestamp:])),
		ProducerID:      int64(be.Uint64(b[atProducerID:])),
		ProducerEpoch:   int16(be.Uint16(b[atProducerEpoch:])),
		BaseSequence:    int32(be.Uint32(b[atBaseSequence:])),
		Count:           int32(be.Uint32(b[atCount:])),
	}
}

// put writes a header, the checksum as given.
func put(b []byte, h Header) {
	be := binary.BigEndian
	_ = b[HeaderBytes-1]
	be.PutUint64(b[atBaseOffset:], uint64(h.BaseOffset))
	be.PutUint32(b[atLength:], uint32(h.Length))
	be.PutUint32(b[atLeaderEpoch:], uint32(h.LeaderEpoch))
	b[atMagic] = byte(h.Magic)
	be.PutUint32(b[atCRC:], h.CRC)
	be.PutUint16(b[atAttributes:], uint16(h.Attributes))
	be.PutUint32(b[atLastOffsetDelta:], uint32(h.LastOffsetDelta))
	be.PutUint64(b[atBaseTimestamp:], uint64(h.BaseTimestamp))
	be.PutUint64(b[atMaxTimestamp:], uint64(h.MaxTimestamp))
	be.PutUint64(b[atProducerID:], uint64(h.ProducerID))
	be.PutUint16(b[atProducerEpoch:], uint16(h.ProducerEpoch))
	be.PutUint32(b[atBaseSequence:], uint32(h.BaseSequence))
	be.PutUint32(b[atCount:], uint32(h.Count))
}

// NextSequence is the sequence after count records that start at first:
// 2^31−1 is followed by 0, and a batch may run over that edge.
func NextSequence(first, count int32) int32 {
	return int32((int64(first) + int64(count)) & 0x7fffffff)
}
