package mirror

import (
	"math"
	"slices"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
)

// verdict is what reading back the end of a target partition found: which of
// the saved ranges are in the log, where, and what else is there.
type verdict struct {
	// straight is how far the log is just as it was saved.
	straight offsetmap.Verified
	// pieces are saved records that lie elsewhere than planned, because
	// others wrote between; each is contiguous.
	pieces []*offsetmap.Chunk
	hidden []hidden
	// kept are all saved records that were found, where they lie.
	kept []offsetmap.Range
	end  spillway.LocalOffset // of the log
	// virtual is the end of what was found.
	virtual spillway.Offset
}

// hidden is a part of the target's log that belongs to no range.
type hidden struct {
	from, to spillway.LocalOffset
	kind     hiddenKind
}

type hiddenKind int

const (
	hiddenMarkers hiddenKind = iota // of transactions; nobody's loss
	hiddenStale                     // of a mirror without the lease
	hiddenForeign                   // of anybody else
)

// verifier compares batches of the log's end with the chunk that was saved
// before they were written.
type verifier struct {
	verdict
	previous offsetmap.Session // the session that wrote the chunk
	ranges   []offsetmap.Range // of the chunk, not found yet
	foretold int64             // of the records of ranges, at their end
	// deleted offsets before the log's start are there, from deletedFrom on, of which
	// nobody knows what they were.
	deleted     int64
	deletedFrom spillway.LocalOffset
	trail       []offsetmap.TrailEntry
	sequence    int32 // of the first record in ranges
	session     int64 // the session that verifies
	worker      string
	at          spillway.LocalOffset
}

// newVerifier starts at the verified end of a map.
func newVerifier(from spillway.LocalOffset, virtual spillway.Offset, pending *offsetmap.Chunk, previous, claimed offsetmap.Session) *verifier {
	v := &verifier{previous: previous, session: claimed.Session, worker: claimed.Worker, at: from}
	v.straight = offsetmap.Verified{Session: claimed.Session, Local: from, Virtual: virtual}
	v.verdict.end, v.verdict.virtual = from, virtual
	if pending != nil && pending.Session == previous.Session && pending.Sequence >= 0 {
		v.ranges, v.trail, v.foretold = pending.Ranges, pending.Trail, pending.Foretold
		v.sequence = batch.NextSequence(pending.Sequence, int32(pending.Ranges[0].Local-pending.First))
	}
	return v
}

// retained skips what the target has deleted from its log's start by its own
// retention. What was on its way when it was saved was written, or the start would not
// be there. What was foretold may have been, or others wrote there: that is seen from
// the sequence of the first batch of the session that is left, if there is one. Else it
// is mirrored again, rather than missing.
func (v *verifier) retained(logStart spillway.LocalOffset) {
	if logStart <= v.at {
		return
	}
	gone := max(0, min(int64(logStart-v.at), v.left()-v.foretold))
	if gone > 0 {
		v.found(v.at, gone)
	}
	v.deletedFrom = v.at + spillway.LocalOffset(gone)
	v.deleted = int64(logStart - v.deletedFrom)
	v.at = max(v.at, logStart)
	v.verdict.end = v.at
}

// passed takes off the chunk what the session wrote before the log's start, as the
// sequence of its first batch that is left there shows.
func (v *verifier) passed(h batch.Header) {
	deleted := v.deleted
	v.deleted = 0
	n := (int64(h.BaseSequence) - int64(v.sequence)) & math.MaxInt32
	if n == 0 || n > deleted || n+int64(h.LastOffsetDelta)+1 > v.left() {
		return
	}
	end := v.verdict.end
	v.found(v.deletedFrom, n)
	v.verdict.end = end
}

// cleaned tells whether the offsets before a batch of the session, so many, are those of
// records that it wrote there and that the log's cleaner has taken whole: as many sequences
// are missing.
func (v *verifier) cleaned(h batch.Header, offsets, n int64) bool {
	return v.deleted == 0 && offsets+n <= v.left() && (int64(h.BaseSequence)-int64(v.sequence))&math.MaxInt32 == offsets
}

// lastEpoch is the epoch of the last record that counts, 0 without any. The view
// is the map as it was before.
func (v *verdict) lastEpoch(view *offsetmap.View) spillway.Epoch {
	if n := len(v.kept); n > 0 {
		return v.kept[n-1].Epoch
	}
	last, _ := view.Last()
	return last.Epoch
}

// from is what lies at or above a virtual offset, and in the log.
func (v *verdict) from(view *offsetmap.View, cut spillway.Offset) []offsetmap.Range {
	first, _ := view.ToLocal(cut)
	var above []offsetmap.Range
	if v.end > first {
		above = view.Segments(first, v.end-1)
	}
	return within(append(above, v.kept...), cut, noBound)
}

// dropFrom leaves out what lies at or above a virtual offset.
func (v *verdict) dropFrom(cut spillway.Offset) {
	v.virtual = min(v.virtual, cut)
	v.pieces = slices.DeleteFunc(v.pieces, func(c *offsetmap.Chunk) bool {
		c.Ranges = within(c.Ranges, 0, cut)
		c.Trail = slices.DeleteFunc(c.Trail, func(t offsetmap.TrailEntry) bool { return t.End() > cut })
		return len(c.Ranges) == 0
	})
}

// see takes the next batch of the log.
func (v *verifier) see(h batch.Header) {
	first, next := spillway.LocalOffset(h.BaseOffset), spillway.LocalOffset(h.NextOffset())
	if next <= v.at {
		return
	}
	n := int64(h.LastOffsetDelta) + 1
	own := h.ProducerID == v.previous.ProducerID && h.ProducerEpoch == v.previous.ProducerEpoch
	if first > v.at { // offsets without a batch: compaction, or a broker's gap
		if own && v.cleaned(h, int64(first-v.at), n) {
			v.found(v.at, int64(first-v.at))
		} else {
			v.hide(v.at, first, hiddenMarkers)
		}
	}
	if own && v.deleted > 0 && len(v.ranges) > 0 {
		v.passed(h)
	}
	switch {
	case own && first >= v.at && len(v.ranges) > 0 && h.BaseSequence == v.sequence && n <= v.left():
		v.found(first, n)
	case h.Control():
		v.hide(max(first, v.at), next, hiddenMarkers)
	case h.ProducerID == v.previous.ProducerID && v.previous.Session > 0:
		v.hide(max(first, v.at), next, hiddenStale)
	default:
		v.hide(max(first, v.at), next, hiddenForeign)
	}
	v.at, v.verdict.end = next, next
}

func (v *verifier) left() int64 {
	n := int64(0)
	for _, r := range v.ranges {
		n += r.Length
	}
	return n
}

// found takes n records off the chunk: they lie at the local offset at.
func (v *verifier) found(at spillway.LocalOffset, n int64) {
	here := make([]offsetmap.Range, 0, 4)
	local := at
	for rest := n; rest > 0; {
		r := &v.ranges[0]
		take := min(rest, r.Length)
		here = append(here, offsetmap.Range{Epoch: r.Epoch, Virtual: r.Virtual, Local: local, Length: take})
		r0 := *r
		r0.Virtual += spillway.Offset(take)
		r0.Local += spillway.LocalOffset(take)
		r0.Length -= take
		rest -= take
		local += spillway.LocalOffset(take)
		if r0.Length == 0 {
			v.ranges = v.ranges[1:]
		} else {
			v.ranges = append([]offsetmap.Range{r0}, v.ranges[1:]...)
		}
	}
	v.sequence = batch.NextSequence(v.sequence, int32(n))
	v.verdict.virtual = here[len(here)-1].VirtualEnd()
	v.verdict.end = local
	v.kept = append(v.kept, here...)
	if len(v.pieces) == 0 && v.straight.Local == at && len(v.hidden) == 0 {
		v.straight.Local, v.straight.Virtual = local, v.verdict.virtual
		return
	}
	piece := &offsetmap.Chunk{Session: v.session, Worker: v.worker, First: at, Sequence: offsetmap.NoSequence, Verified: true, Ranges: here}
	for _, t := range v.trail {
		if t.End() > here[0].Virtual && t.End() <= v.verdict.virtual {
			piece.Trail = append(piece.Trail, t)
		}
	}
	v.pieces = append(v.pieces, piece)
}

func (v *verifier) hide(from, to spillway.LocalOffset, kind hiddenKind) {
	if n := len(v.hidden); n > 0 && v.hidden[n-1].to == from && v.hidden[n-1].kind == kind {
		v.hidden[n-1].to = to
		return
	}
	v.hidden = append(v.hidden, hidden{from, to, kind})
}
