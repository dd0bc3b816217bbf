package offsetmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"spillway"
)

// Limits of an encoded chunk, checked before anything is allocated (promise G).
const (
	ChunkRangesMax = 1 << 20
	ChunkTrailMax  = 1 << 20
	ChunkWorkerMax = 256
	SiteIDMax      = 256
)

const chunkVersion = 1

// Bits of a chunk's flags.
const (
	chunkVerified = 1 << iota
	chunkForetold // a number of records follows the trail
	chunkFlags    = chunkVerified | chunkForetold
)

// Bits in front of an encoded range's length.
const (
	rangeLocalGap = 1 << iota // a distance to the local end of the range before follows
	rangeEpoch                // the epoch is another than that of the range before
	rangeFlagBits = iota
)

var errShort = errors.New("ends in the middle")

// appendRange writes r as the distance to the end of the range before it:
// two to three bytes for the usual hole.
func appendRange(b []byte, prev, r Range) []byte {
	head := uint64(r.Length) << rangeFlagBits
	localGap := r.Local - prev.LocalEnd()
	if localGap != 0 {
		head |= rangeLocalGap
	}
	if r.Epoch != prev.Epoch {
		head |= rangeEpoch
	}
	b = binary.AppendUvarint(b, head)
	b = binary.AppendUvarint(b, uint64(r.Virtual-prev.VirtualEnd()))
	if localGap != 0 {
		b = binary.AppendUvarint(b, uint64(localGap))
	}
	if r.Epoch != prev.Epoch {
		b = binary.AppendVarint(b, int64(r.Epoch-prev.Epoch))
	}
	return b
}

// readRange undoes appendRange and refuses what overflows or goes backwards.
func (d *decoder) readRange(prev Range) Range {
	head := d.uvarint(math.MaxInt64)
	r := Range{Epoch: prev.Epoch, Length: int64(head >> rangeFlagBits)}
	virtual, local := uint64(prev.VirtualEnd()), uint64(prev.LocalEnd())
	virtual += d.uvarint(math.MaxInt64 - virtual)
	if head&rangeLocalGap != 0 {
		local += d.uvarint(math.MaxInt64 - local)
	}
	if head&rangeEpoch != 0 {
		r.Epoch += spillway.Epoch(d.varint(-int64(prev.Epoch), math.MaxInt32-int64(prev.Epoch)))
	}
	r.Virtual, r.Local = spillway.Offset(virtual), spillway.LocalOffset(local)
	if d.err == nil && (r.Length <= 0 || uint64(r.Length) > math.MaxInt64-max(virtual, local)) {
		d.err = fmt.Errorf("range of %d records at %d/%d", r.Length, virtual, local)
	}
	return r
}

// Encode writes the chunk. Its ranges must be closed, ascending, and without
// local gaps (a chunk is written in one piece).
func (c *Chunk) Encode() []byte {
	b := make([]byte, 0, 32+len(c.Worker)+4*len(c.Ranges)+24*len(c.Trail))
	b = append(b, chunkVersion)
	flags := byte(0)
	if c.Verified {
		flags |= chunkVerified
	}
	if c.Foretold > 0 {
		flags |= chunkForetold
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(c.Session))
	b = binary.AppendUvarint(b, uint64(len(c.Worker)))
	b = append(b, c.Worker...)
	b = binary.AppendUvarint(b, uint64(c.First))
	b = binary.AppendVarint(b, int64(c.Sequence))
	b = binary.AppendUvarint(b, uint64(len(c.Ranges)))
	prev := Range{Local: c.First}
	for _, r := range c.Ranges {
		b = appendRange(b, prev, r)
		prev = r
	}
	b = binary.AppendUvarint(b, uint64(len(c.Trail)))
	last := TrailEntry{}
	for _, t := range c.Trail {
		b = binary.AppendVarint(b, int64(t.Virtual-last.Virtual))
		b = binary.AppendVarint(b, int64(t.Epoch-last.Epoch))
		if t.ProducerID == last.ProducerID && t.ProducerEpoch == last.ProducerEpoch {
			b = append(b, 0)
		} else {
			b = append(b, 1)
			b = binary.BigEndian.AppendUint64(b, uint64(t.ProducerID))
			b = binary.BigEndian.AppendUint16(b, uint16(t.ProducerEpoch))
		}
		b = binary.AppendUvarint(b, uint64(uint32(t.First)))
		b = binary.AppendUvarint(b, uint64(uint32(t.Last-t.First)&math.MaxInt32))
		last = t
	}
	if c.Foretold > 0 {
		b = binary.AppendUvarint(b, uint64(c.Foretold))
	}
	return b
}

// DecodeChunk reads what Encode wrote and refuses anything else.
func DecodeChunk(b []byte) (*Chunk, error) {
	d := decoder{b: b}
	if v := d.byte(); d.err == nil && v != chunkVersion {
		return nil, fmt.Errorf("offset map chunk of version %d; this build reads version %d", v, chunkVersion)
	}
	c := &Chunk{}
	flags := d.byte()
	if flags&^chunkFlags != 0 {
		d.fail(fmt.Errorf("unknown flags %#x", flags))
	}
	c.Verified = flags&chunkVerified != 0
	c.Session = int64(d.uvarint(math.MaxInt64))
	c.Worker = string(d.bytes(int(d.uvarint(ChunkWorkerMax))))
	c.First = spillway.LocalOffset(d.uvarint(math.MaxInt64))
	c.Sequence = int32(d.varint(NoSequence, math.MaxInt32))
	n := int(d.uvarint(min(ChunkRangesMax, uint64(len(d.b)))))
	prev := Range{Local: c.First}
	for range n {
		r := d.readRange(prev)
		if d.err == nil && r.Local != prev.LocalEnd() {
			d.err = fmt.Errorf("local gap before %d", r.Local)
		}
		if d.err != nil {
			break
		}
		c.Ranges = append(c.Ranges, r)
		prev = r
	}
	d.readTrail(c)
	if flags&chunkForetold != 0 {
		c.Foretold = int64(d.uvarint(uint64(c.Count())))
		if d.err == nil && c.Foretold == 0 {
			d.err = errors.New("nothing is foretold")
		}
	}
	if d.err == nil && len(d.b) != 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return nil, fmt.Errorf("offset map chunk: %w", d.err)
	}
	return c, nil
}

func (d *decoder) readTrail(c *Chunk) {
	n := int(d.uvarint(min(ChunkTrailMax, uint64(len(d.b)))))
	last := TrailEntry{}
	for range n {
		t := last
		t.Virtual += spillway.Offset(d.varint(-int64(last.Virtual), math.MaxInt64-int64(last.Virtual)))
		t.Epoch += spillway.Epoch(d.varint(-int64(last.Epoch), math.MaxInt32-int64(last.Epoch)))
		switch d.byte() {
		case 0:
		case 1:
			if id := d.bytes(10); d.err == nil {
				t.ProducerID = int64(binary.BigEndian.Uint64(id))
				t.ProducerEpoch = int16(binary.BigEndian.Uint16(id[8:]))
			}
		default:
			d.fail(errors.New("unknown trail entry"))
		}
		t.First = int32(d.uvarint(math.MaxInt32))
		t.Last = int32((int64(t.First) + int64(d.uvarint(math.MaxInt32))) & math.MaxInt32)
		if d.err != nil {
			return
		}
		c.Trail = append(c.Trail, t)
		last = t
	}
}

// Encode writes a Verified record.
func (v Verified) Encode() []byte {
	b := []byte{chunkVersion}
	b = binary.AppendUvarint(b, uint64(v.Session))
	b = binary.AppendUvarint(b, uint64(v.Local))
	b = binary.AppendVarint(b, int64(v.Virtual))
	if v.Source.Site == "" {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(v.Source.Site)))
	b = append(b, v.Source.Site...)
	b = binary.AppendUvarint(b, uint64(v.Source.Next))
	return binary.AppendUvarint(b, uint64(v.Source.LeaderEpoch))
}

// DecodeVerified undoes Verified.Encode.
func DecodeVerified(b []byte) (Verified, error) {
	d := decoder{b: b}
	if v := d.byte(); d.err == nil && v != chunkVersion {
		return Verified{}, fmt.Errorf("verified end of version %d; this build reads version %d", v, chunkVersion)
	}
	v := Verified{Session: int64(d.uvarint(math.MaxInt64))}
	v.Local = spillway.LocalOffset(d.uvarint(math.MaxInt64))
	v.Virtual = spillway.Offset(d.varint(-1, math.MaxInt64))
	if d.err == nil && len(d.b) > 0 {
		n := int(d.uvarint(SiteIDMax))
		if v.Source.Site = spillway.SiteID(d.bytes(n)); d.err == nil && n == 0 {
			d.fail(errors.New("a source without a name"))
		}
		v.Source.Next = spillway.LocalOffset(d.uvarint(math.MaxInt64))
		v.Source.LeaderEpoch = int32(d.uvarint(math.MaxInt32))
	}
	if d.err == nil && len(d.b) != 0 {
		d.err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	if d.err != nil {
		return Verified{}, fmt.Errorf("verified end: %w", d.err)
	}
	return v, nil
}

// decoder reads bytes until the first fault, which it keeps.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); d.err == nil {
		return b[0]
	}
	return 0
}

func (d *decoder) bytes(n int) []byte {
	if d.err != nil || n > len(d.b) {
		d.fail(errShort)
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if d.err != nil || n <= 0 {
		d.fail(errShort)
		return 0
	}
	if v > limit {
		d.fail(fmt.Errorf("%d where at most %d is possible", v, limit))
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint(low, high int64) int64 {
	v, n := binary.Varint(d.b)
	if d.err != nil || n <= 0 {
		d.fail(errShort)
		return 0
	}
	if v < low || v > high {
		d.fail(fmt.Errorf("%d outside [%d, %d]", v, low, high))
		return 0
	}
	d.b = d.b[n:]
	return v
}
