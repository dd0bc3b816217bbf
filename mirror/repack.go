package mirror

import (
	"slices"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
)

// Most batches of a source are written as they are. Here is what becomes of the others:
// of those that a target would refuse or readers would see differently, of those from
// which a filter takes records or to which something is added, and, where that is
// asked for, of small ones that were fetched together and are written as one.

// planRangesMax bounds the ranges of one plan: a filter may leave a hole at every second
// record.
const planRangesMax = 1 << 16

// RepackBytesMax bounds what a flow may be told to make of small batches.
const RepackBytesMax = 64 << 20

// repackDecodedMax bounds the memory of records that are written as one batch: a reader
// has to decompress it as a whole. recordBytes is what each takes beside its bytes.
const (
	repackDecodedMax = 32 << 20
	recordBytes      = 128
)

// parcel is what is to be written of one batch of the source.
type parcel struct {
	header batch.Header
	bytes  []byte // the batch, if it may pass as it is; else nil
	// segments say where the records lie, in source numbers: in a batch that passes, all
	// of it, else one record after the other.
	segments []offsetmap.Range
	opened   rewrite.Opened // nothing in one that passes and was not looked into
	leftOut  int64          // records
}

// open decides about the records of a batch, b, of which the segments are visible. rest
// is where to go on where there are too many holes for one plan, else −1.
func (c *parcel) open(b []byte, w writer) (rest spillway.LocalOffset, err error) {
	if c.bytes != nil && w.rules == nil {
		return -1, nil
	}
	if err := w.turn.take(); err != nil {
		return -1, err
	}
	opened, err := rewrite.Open(c.header, b, DecompressedBytesMax)
	if err != nil {
		return -1, err
	}
	records, visible := opened.Records, c.segments
	opened.Records = make([]batch.Record, 0, len(records))
	var ranges []offsetmap.Range
	rest = -1
	for i := range records {
		r := &records[i]
		local := spillway.LocalOffset(c.header.BaseOffset) + spillway.LocalOffset(r.OffsetDelta)
		for len(visible) > 0 && visible[0].LocalEnd() <= local {
			visible = visible[1:]
		}
		if len(visible) == 0 {
			break
		}
		s := visible[0]
		if local < s.Local {
			continue
		}
		if !w.rules.Keeps(r) {
			c.leftOut++
			continue
		}
		v := s.Virtual + spillway.Offset(local-s.Local)
		if n := len(ranges); n > 0 && ranges[n-1].Epoch == s.Epoch && ranges[n-1].VirtualEnd() == v {
			ranges[n-1].Length++
		} else if w.rules != nil && w.rangesMax > 0 && n >= w.rangesMax {
			rest = local
			break
		} else {
			ranges = append(ranges, offsetmap.Range{Epoch: s.Epoch, Virtual: v, Length: 1})
		}
		w.rules.Mark(r, int64(local))
		opened.Records = append(opened.Records, *r)
	}
	if c.bytes != nil && c.leftOut == 0 && rest < 0 && !w.rules.Marks() {
		return -1, nil // as it is
	}
	c.bytes, c.opened, c.segments = nil, opened, ranges
	return rest, nil
}

// size is about what the parcel takes, in bytes.
func (c *parcel) size() int {
	if c.bytes != nil || c.header.Count == 0 {
		return c.header.Size()
	}
	return int(int64(c.header.Size()) * int64(len(c.opened.Records)) / int64(c.header.Count))
}

func (c *parcel) records() int {
	if c.bytes != nil {
		return int(c.header.Count)
	}
	return len(c.opened.Records)
}

// put writes a parcel, or keeps it back to be written with the next ones. Nothing is
// waited for: what is held goes with the last batch of the answer at the latest.
func (p *plan) put(c parcel, w writer) error {
	if n := len(p.held); c.records() == 0 && n > 0 {
		p.held[n-1].leftOut += c.leftOut
		return nil
	}
	if w.repackBytes == 0 || c.records() == 0 {
		return p.write(c, w)
	}
	size, holes, decoded := c.size(), len(c.segments), memory(c.opened.Records)
	for i := range p.held {
		size += p.held[i].size()
		holes += len(p.held[i].segments)
		decoded += memory(p.held[i].opened.Records)
	}
	if len(p.held) > 0 && (size > w.repackBytes || w.rangesMax > 0 && holes > w.rangesMax || decoded > repackDecodedMax || p.held[0].header.Codec() != c.header.Codec()) {
		if err := p.flush(w); err != nil {
			return err
		}
	}
	p.held = append(p.held, c)
	if c.size() > w.repackBytes/2 {
		return p.flush(w) // too large to be worth the decoding
	}
	return nil
}

// write writes one parcel by itself.
func (p *plan) write(c parcel, w writer) error {
	p.leftOut += c.leftOut
	if c.bytes != nil {
		p.add(outgoing{bytes: c.bytes, records: c.header.Count, maxTimestamp: c.header.MaxTimestamp}, c.segments, w)
		return nil
	}
	return p.pack(c.header.Codec(), c.opened, c.segments, w)
}

// flush writes what is held, as few batches as fit. One that cannot be decoded goes as it
// is: the target, or its readers, say so, as they do of what passes.
func (p *plan) flush(w writer) error {
	held := p.held
	p.held = nil
	if len(held) == 1 {
		return p.write(held[0], w)
	}
	var together []parcel
	size := 0
	settle := func() error {
		some := together
		together, size = nil, 0
		return p.merge(some, w)
	}
	for _, c := range held {
		decoded := c.opened
		if c.bytes != nil {
			err := w.turn.take()
			if err != nil {
				return err
			}
			if decoded, err = rewrite.Open(c.header, c.bytes, repackDecodedMax); err != nil {
				if err := settle(); err != nil {
					return err
				}
				if err := p.write(c, w); err != nil {
					return err
				}
				continue
			}
		}
		c.opened = decoded
		n := memory(decoded.Records)
		if size+n > repackDecodedMax {
			if err := settle(); err != nil {
				return err
			}
		}
		together, size = append(together, c), size+n
	}
	return settle()
}

// merge writes decoded parcels of one codec as one batch.
func (p *plan) merge(all []parcel, w writer) error {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return p.write(all[0], w)
	}
	whole := rewrite.Opened{BaseTimestamp: all[0].opened.BaseTimestamp}
	var segments []offsetmap.Range
	for _, c := range all {
		p.leftOut += c.leftOut
		whole.Append(c.opened)
		segments = append(segments, c.segments...)
	}
	return p.pack(all[0].header.Codec(), whole, segments, w)
}

// memory is about what records take, in bytes.
func memory(records []batch.Record) (n int) {
	for i := range records {
		n += recordBytes + len(records[i].Key) + len(records[i].Value)
		for _, h := range records[i].Headers {
			n += len(h.Key) + len(h.Value)
		}
	}
	return n
}

// pack writes records as one batch, or halves them until each half fits. A single record
// that is still too large is sent as it is: the target refuses it, and that is logged.
func (p *plan) pack(codec batch.Codec, o rewrite.Opened, segments []offsetmap.Range, w writer) error {
	if len(o.Records) == 0 {
		return nil
	}
	b, err := rewrite.Seal(o, codec)
	if err != nil {
		return err
	}
	if n := len(o.Records) / 2; len(b) > w.batchBytesMax && n > 0 {
		below, above := divide(segments, int64(n))
		if err := p.pack(codec, rewrite.Opened{BaseTimestamp: o.BaseTimestamp, Records: o.Records[:n]}, below, w); err != nil {
			return err
		}
		return p.pack(codec, rewrite.Opened{BaseTimestamp: o.BaseTimestamp, Records: o.Records[n:]}, above, w)
	}
	built, _, err := batch.Parse(b)
	if err != nil {
		return err
	}
	p.add(outgoing{bytes: b, records: built.Count, maxTimestamp: built.MaxTimestamp, rebuilt: true}, segments, w)
	return nil
}

// divide cuts ranges behind their first n records. Neither part shares memory with the
// other.
func divide(ranges []offsetmap.Range, n int64) (below, above []offsetmap.Range) {
	for i, r := range ranges {
		if r.Length < n {
			n -= r.Length
			continue
		}
		below = slices.Clone(ranges[:i+1])
		below[i].Length = n
		if n < r.Length {
			above = append(above, offsetmap.Range{Epoch: r.Epoch, Virtual: r.Virtual + spillway.Offset(n), Length: r.Length - n})
		}
		return below, append(above, ranges[i+1:]...)
	}
	return ranges, nil
}
