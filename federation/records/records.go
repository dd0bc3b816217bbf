// Package records turns what a site's log holds into what clients of the
// virtual cluster see: virtual offsets, virtual leader epochs, nothing hidden,
// and no hole in which a reader could wait for ever. It is pure.
//
//	A  a client that asks for offset o gets every visible record from o on that
//	   the site's answer holds, each under its virtual offset, and no other
//	B  the answer ends where the next fetch has to begin, or is empty only when
//	   there is nothing to read at o
//	C  batches keep their bytes except for base offset and leader epoch, both
//	   outside the checksum, unless part of the batch is hidden or its records
//	   have different distances in the two numberings
//	D  no answer has records from before and from behind a hidden marker. The site tells of the aborted transaction that it
//	   ends, of which the answer may have records: who read on without the marker would
//	   take all that the producer wrote later for aborted too. The next fetch begins
//	   behind it, and the site tells of it no more
package records

import (
	"fmt"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
)

// DecompressedBytesMax bounds a batch that has to be decoded. Pass-through
// batches have no bound of their own.
const DecompressedBytesMax = 64 << 20

// Map is what Serve needs of a site's offset map.
type Map interface {
	// Segments is what of the local offsets from first to last is visible.
	Segments(first, last spillway.LocalOffset) []offsetmap.Range
	// Stale tells whether the batch of a producer at a local offset is a stale
	// mirror's, which nobody is shown (C8).
	Stale(producerID int64, l spillway.LocalOffset) bool
	// Known tells whether it is settled what a local offset belongs to.
	Known(l spillway.LocalOffset) bool
	// Hole is the range around o that no record has and none will get.
	Hole(o spillway.Offset) (from, to spillway.Offset, ok bool)
}

// Answer is the part of a fetch answer that a client gets for one partition.
type Answer struct {
	Records []byte
	// Next is the virtual offset after the answer: where a reader goes on.
	Next spillway.Offset
	// Rebuilt counts the batches that had to be decoded and written anew.
	Rebuilt int
}

// Serve translates the record set that a site answered to a fetch at from.
// Nothing at or above limit is served: it is not reserved yet, or not durable
// (C5, C19). The set is changed in place where that suffices, and the answer
// may share its memory. A cut-off batch at the end is left out, as it is of use
// to nobody.
func Serve(set []byte, m Map, from, limit spillway.Offset) (Answer, error) {
	a := Answer{Records: set[:0:0], Next: from}
	w := batch.Over(set)
	kept := set[:0] // untouched batches move down over dropped ones
	inPlace := true
	add := func(b []byte) {
		if inPlace {
			kept = append(kept, b...)
		} else {
			a.Records = append(a.Records, b...)
		}
	}
	for w.Next() {
		first, last := spillway.LocalOffset(w.Header.BaseOffset), spillway.LocalOffset(w.Header.LastOffset())
		if !m.Known(last) {
			break // the map will tell soon; what it does not know is not shown
		}
		segments := m.Segments(first, last)
		if len(segments) == 0 {
			if w.Header.Control() && a.Next > from {
				break // invariant D
			}
			continue
		}
		end := segments[len(segments)-1].VirtualEnd()
		if end <= from {
			continue
		}
		if end > limit {
			break
		}
		switch {
		case m.Stale(w.Header.ProducerID, segments[0].Local):
			// Its offsets are taken all the same, so readers are led over them.
			add(batch.Empty(int64(segments[0].Virtual), int64(end)))
		case whole(segments, first, last):
			batch.SetBaseOffset(w.Bytes, int64(segments[0].Virtual))
			batch.SetLeaderEpoch(w.Bytes, spillway.VirtualLeaderEpoch(segments[0].Epoch))
			add(w.Bytes)
		default:
			b, err := rebuild(w.Header, w.Bytes, segments)
			if err != nil {
				return Answer{}, err
			}
			if inPlace { // a rebuilt batch may be longer than what it replaces
				a.Records, inPlace = append(make([]byte, 0, len(set)+len(b)), kept...), false
			}
			add(b)
			a.Rebuilt++
		}
		a.Next = end
	}
	if err := w.Err(); err != nil {
		return Answer{}, fmt.Errorf("serve records from offset %d: %w", from, err)
	}
	if inPlace {
		a.Records = kept
	}
	return a.cover(m, limit), nil
}

// cover appends an empty batch over the hole that begins where the answer ends,
// so that no reader waits for an offset that nobody will write (C20). It also
// serves a fetch that begins inside a hole (experiments L5).
func (a Answer) cover(m Map, limit spillway.Offset) Answer {
	if _, to, ok := m.Hole(a.Next); ok && to <= limit && to > a.Next {
		a.Records = append(a.Records, batch.Empty(int64(a.Next), int64(to))...)
		a.Next = to
	}
	return a
}

// whole tells whether a batch is visible from its first to its last offset with
// all distances kept.
func whole(segments []offsetmap.Range, first, last spillway.LocalOffset) bool {
	s := segments[0]
	return len(segments) == 1 && s.Local == first && s.LocalEnd() == last+1
}

// rebuild writes the visible records of a batch with the distances of their
// virtual offsets.
func rebuild(h batch.Header, b []byte, segments []offsetmap.Range) ([]byte, error) {
	records, err := batch.Records(b, DecompressedBytesMax)
	if err != nil {
		return nil, fmt.Errorf("serve batch at local offset %d: %w", h.BaseOffset, err)
	}
	base := segments[0].Virtual
	visible := records[:0]
	for _, r := range records {
		local := spillway.LocalOffset(h.BaseOffset + int64(r.OffsetDelta))
		for len(segments) > 1 && segments[0].LocalEnd() <= local {
			segments = segments[1:]
		}
		s := segments[0]
		if local < s.Local || local >= s.LocalEnd() {
			continue
		}
		r.OffsetDelta = int32(s.Virtual + spillway.Offset(local-s.Local) - base)
		visible = append(visible, r)
	}
	last := segments[len(segments)-1]
	h.BaseOffset = int64(base)
	h.LastOffsetDelta = int32(last.VirtualEnd() - 1 - base)
	h.LeaderEpoch = spillway.VirtualLeaderEpoch(last.Epoch)
	out, err := batch.Rebuild(h, visible, h.Codec())
	if err != nil {
		return nil, fmt.Errorf("serve batch at local offset %d: %w", h.BaseOffset, err)
	}
	return out, nil
}
