package mirror

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/sitelog"
)

// position is where one target partition stands. It is all that a plan needs
// to know about it.
type position struct {
	virtual spillway.Offset      // everything of the source below it is at the target
	source  spillway.LocalOffset // next offset to fetch
	local   spillway.LocalOffset // where the next record lies at the target
	// sequence of the next record within the append session.
	sequence int32
	// bound is the first virtual offset that may not be mirrored.
	bound spillway.Offset
}

// noBound lets a flow go on for ever.
const noBound = spillway.Offset(math.MaxInt64)

// outgoing is one batch to produce.
type outgoing struct {
	bytes        []byte
	records      int32
	sequence     int32
	virtual      spillway.Offset // of the first record
	virtualEnd   spillway.Offset // after the last record
	maxTimestamp int64
	rebuilt      bool
	leftOut      int64 // by filters, before the batch and since the one before it
}

// plan is what one fetched answer asks to be done at the target: ranges to
// save, batches to write after that, and where the partition stands then.
type plan struct {
	batches []outgoing
	ranges  []offsetmap.Range
	trail   []offsetmap.TrailEntry
	end     position
	// sourceEpoch is the leader epoch of the batch before end.source, −1 where
	// none was looked at.
	sourceEpoch int32
	// corrupt is the batch behind the plan that cannot be built anew; nil: it can.
	corrupt *corruptBatch
	// early is the time of the first batch that is younger than the writer takes, in
	// milliseconds since 1970; 0: none.
	early int64
	// waits is set where the source's map does not say yet what comes next.
	waits bool
	// mirrored tells that some batches were written by the source's mirror.
	mirrored bool
	// leftOut are the records that filters have left out behind the last batch.
	leftOut int64
	// held are batches that wait for others to be written as one with them.
	held []parcel
}

// corruptBatch is one that is not what was written into it.
type corruptBatch struct {
	from, to spillway.Offset // virtual
	why      error
}

// writer is under which producer a plan writes, and what the target takes.
type writer struct {
	producerID    int64
	producerEpoch int16
	batchBytesMax int
	// youngest is the largest time of a batch that is taken, in milliseconds since
	// 1970; 0: any.
	youngest int64
	// rules say which records are taken and what is added to them; nil: all, nothing.
	rules *rewrite.Partition
	// repackBytes is how large batches become that are written as one; 0: each stays.
	repackBytes int
	// rangesMax is about how many ranges one plan may have; 0: any number.
	rangesMax int
	// turn is taken before a batch is decoded; nil: there is nobody to wait for.
	turn *turn
}

// planPart turns fetched batches into a plan. What is written, and where, is a
// function of the source's bytes, the source's map, the position, and the writer's
// rules alone; so are the batches' borders, but where they are repacked. Batches are
// patched in place: the fetched bytes belong to the plan from here on.
func planPart(f sitelog.Fetched, view *offsetmap.View, at position, w writer) (plan, error) {
	p := plan{end: at, sourceEpoch: -1}
	aborted := abortedFilter{waiting: f.Aborted}
	walk := batch.Over(f.Records)
	for walk.Next() {
		h := walk.Header
		next := spillway.LocalOffset(h.NextOffset())
		if next <= p.end.source {
			continue
		}
		if !view.Known(next - 1) {
			p.waits = true
			break
		}
		skip, err := aborted.skips(h, walk.Bytes)
		if err != nil {
			return p, fmt.Errorf("%s: batch at %d: %w", f.TopicPartition, h.BaseOffset, err)
		}
		if !skip && h.Count > 0 && w.youngest > 0 && h.MaxTimestamp > w.youngest {
			p.early = h.MaxTimestamp
			break
		}
		if !skip && h.Count > 0 {
			trail, mirrored := len(p.trail), p.mirrored
			reached, err := p.take(h, walk.Bytes, view, w)
			if errors.Is(err, batch.ErrCorrupt) {
				p.trail, p.mirrored = p.trail[:trail], mirrored
				p.corrupt = &corruptBatch{why: fmt.Errorf("batch at %d: %w", h.BaseOffset, err)}
				p.corrupt.from, _ = view.ToVirtual(max(spillway.LocalOffset(h.BaseOffset), p.end.source))
				p.corrupt.to, _ = view.ToVirtual(next)
				break
			}
			if err != nil {
				return p, fmt.Errorf("%s: batch at %d: %w", f.TopicPartition, h.BaseOffset, err)
			}
			if reached {
				break
			}
		}
		p.end.source, p.sourceEpoch = next, h.LeaderEpoch
	}
	if err := walk.Err(); err != nil {
		return p, fmt.Errorf("%s: at %d: %w", f.TopicPartition, p.end.source, err)
	}
	if err := p.flush(w); err != nil {
		return p, fmt.Errorf("%s: before %d: %w", f.TopicPartition, p.end.source, err)
	}
	if p.mirrored {
		p.trail = append(p.trail, view.TrailBetween(at.virtual, p.end.virtual)...)
		slices.SortFunc(p.trail, func(a, b offsetmap.TrailEntry) int { return cmp.Compare(a.Virtual, b.Virtual) })
	}
	if v, _ := view.ToVirtual(p.end.source); v > p.end.virtual {
		p.end.virtual = v // holes behind the last record are mirrored too
	}
	p.end.virtual = min(p.end.virtual, at.bound)
	return p, nil
}

// take adds one batch of data. It tells whether the plan ends with it.
func (p *plan) take(h batch.Header, b []byte, view *offsetmap.View, w writer) (ends bool, err error) {
	if w.rangesMax > 0 && len(p.ranges) >= w.rangesMax {
		return true, nil
	}
	first := max(spillway.LocalOffset(h.BaseOffset), p.end.source)
	segments := view.Segments(first, spillway.LocalOffset(h.LastOffset()))
	segments = slices.DeleteFunc(segments, func(r offsetmap.Range) bool { return view.Stale(h.ProducerID, r.Local) })
	segments = within(segments, p.end.virtual, p.end.bound)
	if len(segments) == 0 {
		v, _ := view.ToVirtual(spillway.LocalOffset(h.NextOffset()))
		if v < p.end.bound {
			return false, nil
		}
		// Nothing is left below it.
		if err := p.flush(w); err != nil {
			return false, err
		}
		p.end.virtual = p.end.bound
		return true, nil
	}
	c := parcel{header: h, segments: segments}
	if whole := len(segments) == 1 && segments[0].Length == int64(h.LastOffsetDelta)+1; whole && h.PassThrough() && len(b) <= w.batchBytesMax {
		c.bytes = b
	}
	rest, err := c.open(b, w)
	if err != nil {
		return false, err
	}
	if w.rules == nil { // else not all of the batch may be here
		p.remember(h, segments, view)
	}
	if err := p.put(c, w); err != nil {
		return false, err
	}
	if rest >= 0 {
		p.end.source, p.sourceEpoch = rest, h.LeaderEpoch
		return true, nil
	}
	if segments[len(segments)-1].VirtualEnd() < p.end.bound {
		return false, nil
	}
	err = p.flush(w)
	p.end.virtual = p.end.bound
	return true, err
}

// within cuts segments to virtual offsets in [from, to).
func within(segments []offsetmap.Range, from, to spillway.Offset) []offsetmap.Range {
	var kept []offsetmap.Range
	for _, r := range segments {
		if skip := int64(from - r.Virtual); skip > 0 {
			r.Virtual, r.Local, r.Length = from, r.Local+spillway.LocalOffset(skip), r.Length-skip
		}
		if r.Virtual >= to {
			break
		}
		if r.Length = min(r.Length, int64(to-r.Virtual)); r.Length > 0 {
			kept = append(kept, r)
		}
	}
	return kept
}

// add puts a batch behind the others. The segments say which virtual offsets
// its records have, in source numbers.
func (p *plan) add(o outgoing, segments []offsetmap.Range, w writer) {
	batch.Clean(o.bytes, w.producerID, w.producerEpoch, p.end.sequence)
	o.sequence = p.end.sequence
	o.virtual = segments[0].Virtual
	o.leftOut, p.leftOut = p.leftOut, 0
	for _, s := range segments {
		s.Local = p.end.local
		if n := len(p.ranges); n > 0 && p.ranges[n-1].Epoch == s.Epoch && p.ranges[n-1].VirtualEnd() == s.Virtual {
			p.ranges[n-1].Length += s.Length
		} else {
			p.ranges = append(p.ranges, s)
		}
		p.end.local += spillway.LocalOffset(s.Length)
		p.end.virtual = s.VirtualEnd()
	}
	o.virtualEnd = p.end.virtual
	p.end.sequence = batch.NextSequence(p.end.sequence, o.records)
	p.batches = append(p.batches, o)
}

// remember keeps the producer trail from a batch that a client wrote, whole also
// where only the rest of it is left to take. Of what a mirror wrote, the trail is
// in the source's map.
func (p *plan) remember(h batch.Header, segments []offsetmap.Range, view *offsetmap.View) {
	first := segments[0]
	switch {
	case view.Mirrored(h.ProducerID):
		p.mirrored = true
	case spillway.IsClientProducerID(h.ProducerID) && h.BaseSequence >= 0:
		p.trail = append(p.trail, offsetmap.TrailEntry{
			ProducerID: h.ProducerID, Epoch: first.Epoch, ProducerEpoch: h.ProducerEpoch,
			First: h.BaseSequence, Last: h.LastSequence(), Virtual: first.Virtual - spillway.Offset(first.Local-spillway.LocalOffset(h.BaseOffset)),
		})
	}
}

// abortedFilter drops what aborted transactions wrote, batch by batch, as the
// answer's list says (read_committed; KIP-98).
type abortedFilter struct {
	waiting []sitelog.AbortedTransaction
	active  map[int64]bool
}

// skips tells whether the batch holds nothing to mirror: markers, or data of an
// aborted transaction.
func (a *abortedFilter) skips(h batch.Header, b []byte) (bool, error) {
	a.waiting = slices.DeleteFunc(a.waiting, func(t sitelog.AbortedTransaction) bool {
		if int64(t.First) > h.LastOffset() {
			return false
		}
		if a.active == nil {
			a.active = make(map[int64]bool)
		}
		a.active[t.ProducerID] = true
		return true
	})
	if !h.Control() {
		return h.Transactional() && a.active[h.ProducerID], nil
	}
	if !a.active[h.ProducerID] || h.Count == 0 {
		return true, nil
	}
	records, err := batch.Records(b, controlBytesMax)
	if err != nil {
		return true, err
	}
	if Aborts(records) {
		delete(a.active, h.ProducerID)
	}
	return true, nil
}

// controlBytesMax bounds what a control batch may decompress to: brokers write one small
// record and do not compress it.
const controlBytesMax = 64 << 10

// markerAbort is one of the types of control records, the second number of their keys.
const markerAbort = 0

// Aborts tells whether the records of a control batch say that a transaction was
// aborted.
func Aborts(records []batch.Record) bool {
	return len(records) > 0 && len(records[0].Key) >= 4 && binary.BigEndian.Uint16(records[0].Key[2:]) == markerAbort
}
