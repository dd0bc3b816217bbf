package offsetmap

import (
	"cmp"
	"math"
	"slices"
	"sort"

	"spillway"
)

// View is a Map as it was at one moment. It is immutable and safe for any
// number of readers.
type View struct {
	blocks  []block
	tail    []Range
	open    *EpochStart
	local   spillway.LocalOffset
	virtual spillway.Offset
	epochs  []EpochStart
	ends    []EpochEnd
	ids     []int64
	trail   *trail
	source  sourceAt
	begun   bool
}

// Begun tells whether anything was ever written into the partition by the map: an
// append session that was claimed and not opened has not.
func (v *View) Begun() bool { return v.begun }

// Empty tells that nothing is known about the partition.
func (v *View) Empty() bool {
	return len(v.blocks) == 0 && len(v.tail) == 0 && v.open == nil && len(v.epochs) == 0
}

// Open returns the epoch in which the site itself gives offsets, if it does.
func (v *View) Open() (EpochStart, bool) {
	if v.open == nil {
		return EpochStart{}, false
	}
	return *v.open, true
}

// End returns the verified end: all records below it, holes included, are at
// the site, and the next mirrored one goes to the local offset. At a site with
// an open epoch it is the start of that epoch.
func (v *View) End() (spillway.Offset, spillway.LocalOffset) { return v.virtual, v.local }

// Source returns where the mirror stood at its source when it had everything
// below the virtual offset o. False where the map does not say it of this one.
func (v *View) Source(o spillway.Offset) (SourcePosition, bool) {
	return v.source.SourcePosition, v.source.Site != "" && v.source.virtual == o
}

// Known tells whether it is settled what the local offset l belongs to. Beyond
// it, wait for a newer view.
func (v *View) Known(l spillway.LocalOffset) bool { return v.open != nil || l < v.local }

// Epochs returns the epochs in which this site served, oldest first.
func (v *View) Epochs() []EpochStart { return slices.Clone(v.epochs) }

// Ends returns the ends of the epochs in which this site served, oldest first.
func (v *View) Ends() []EpochEnd { return slices.Clone(v.ends) }

// Mirrored tells whether a producer id is one under which the site's mirror
// writes this partition. Bits of the id would not tell: embedded sites hand out
// ids of all kinds.
func (v *View) Mirrored(producerID int64) bool { return slices.Contains(v.ids, producerID) }

// Stale tells whether the batch of a producer at the local offset l is one that a
// mirror without its lease wrote where the site itself gave the offsets. Nobody
// sees it, neither at this site nor where it is mirrored, also when the epoch is
// over (C8): all who read a log ask this besides what is visible.
func (v *View) Stale(producerID int64, l spillway.LocalOffset) bool {
	return v.Mirrored(producerID) && v.served(l)
}

// served tells whether the site gave the local offset l in an epoch of its own.
func (v *View) served(l spillway.LocalOffset) bool {
	i := sort.Search(len(v.epochs), func(i int) bool { return v.epochs[i].Local > l }) - 1
	if i < 0 {
		return false
	}
	epoch := v.epochs[i].Epoch
	if v.open != nil && v.open.Epoch == epoch {
		return true
	}
	end, closed := slices.BinarySearchFunc(v.ends, epoch, func(e EpochEnd, epoch spillway.Epoch) int { return cmp.Compare(e.Epoch, epoch) })
	if closed {
		return l < v.ends[end].Local
	}
	return i+1 < len(v.epochs) // it went over into the next one
}

// ToLocal returns the local offset of the first visible record at or after the
// virtual offset o, and its virtual offset. Where there is none yet it returns
// the end.
func (v *View) ToLocal(o spillway.Offset) (spillway.LocalOffset, spillway.Offset) {
	r, ok := v.rangeFrom(o)
	switch {
	case !ok:
		return v.local, max(v.virtual, o)
	case o <= r.Virtual:
		return r.Local, r.Virtual
	default:
		return r.Local + spillway.LocalOffset(o-r.Virtual), o
	}
}

// ToVirtual returns the virtual offset of the record at the local offset l. For
// a hidden one visible is false and the offset is that of the next visible
// record, or the end.
func (v *View) ToVirtual(l spillway.LocalOffset) (o spillway.Offset, visible bool) {
	r, ok := v.rangeFromLocal(l)
	switch {
	case !ok:
		return v.virtual, false
	case l < r.Local:
		return r.Virtual, false
	default:
		return r.Virtual + spillway.Offset(l-r.Local), true
	}
}

// At returns the range that holds the virtual offset o.
func (v *View) At(o spillway.Offset) (Range, bool) {
	r, ok := v.rangeFrom(o)
	return r, ok && o >= r.Virtual
}

// Hole returns the range of virtual offsets around o that no record has and
// none will get. Below the first range and beyond the end there is no hole.
func (v *View) Hole(o spillway.Offset) (from, to spillway.Offset, ok bool) {
	next, found := v.rangeFrom(o)
	switch {
	case found && o >= next.Virtual:
		return 0, 0, false
	case found:
		to = next.Virtual
	case v.virtual > o && v.open == nil:
		to = v.virtual
	default:
		return 0, 0, false
	}
	prev, ok := v.rangeBefore(o)
	if !ok {
		return 0, 0, false
	}
	return prev.VirtualEnd(), to, true
}

// Last returns the last range that is closed.
func (v *View) Last() (Range, bool) {
	return last(v.blocks, v.tail)
}

// Segments returns what of the local offsets from first to last is visible, cut
// to them, ascending.
func (v *View) Segments(first, last spillway.LocalOffset) []Range {
	var segments []Range
	take := func(r Range) bool {
		if r.Local > last {
			return false
		}
		if r.Length == OpenEnd {
			r.Length = math.MaxInt64 - max(int64(r.Local), int64(r.Virtual))
		}
		if skip := first - r.Local; skip > 0 {
			r.Local, r.Virtual, r.Length = first, r.Virtual+spillway.Offset(skip), r.Length-int64(skip)
		}
		r.Length = min(r.Length, int64(last-r.Local)+1)
		if r.Length > 0 {
			segments = append(segments, r)
		}
		return true
	}
	v.walk(func(b block) bool { return b.localEnd > first }, take)
	return segments
}

// Ranges returns all ranges, the open one last. For maps of many holes it is
// long; prefer Segments.
func (v *View) Ranges() []Range {
	var all []Range
	v.walk(func(block) bool { return true }, func(r Range) bool { all = append(all, r); return true })
	return all
}

// Count is the number of records in closed ranges with virtual offsets in
// [from, to): lag without holes. For an open range all offsets count.
func (v *View) Count(from, to spillway.Offset) int64 {
	n := int64(0)
	v.walk(func(b block) bool { return b.virtualEnd > from }, func(r Range) bool {
		if r.Virtual >= to {
			return false
		}
		end := to
		if r.Length != OpenEnd {
			end = min(to, r.VirtualEnd())
		}
		n += max(0, int64(end-max(from, r.Virtual)))
		return true
	})
	return n
}

// LastOf returns the newest batches of a producer below the verified end,
// oldest first. The id is as it stood in the log of the epoch, masked.
func (v *View) LastOf(maskedProducerID int64, epoch spillway.Epoch) []TrailEntry {
	return v.trail.lastOf(maskedProducerID, epoch, v.virtual)
}

// TrailBetween returns the remembered batches whose last record is in [from, to).
func (v *View) TrailBetween(from, to spillway.Offset) []TrailEntry {
	return v.trail.between(from, min(to, v.virtual))
}

// walk visits ranges from the first block that the caller wants, ascending,
// until visit says no.
func (v *View) walk(from func(block) bool, visit func(Range) bool) {
	var buffer [blockRanges]Range
	for i := sort.Search(len(v.blocks), func(i int) bool { return from(v.blocks[i]) }); i < len(v.blocks); i++ {
		for _, r := range v.blocks[i].ranges(buffer[:0]) {
			if !visit(r) {
				return
			}
		}
	}
	for _, r := range v.tail {
		if !visit(r) {
			return
		}
	}
	if v.open != nil {
		visit(v.openRange())
	}
}

func (v *View) openRange() Range {
	return Range{Epoch: v.open.Epoch, Virtual: v.open.Virtual, Local: v.open.Local, Length: OpenEnd}
}

// rangeFrom finds the first range that ends above the virtual offset o.
func (v *View) rangeFrom(o spillway.Offset) (Range, bool) {
	return v.first(func(b block) bool { return b.virtualEnd > o }, func(r Range) bool { return r.VirtualEnd() > o })
}

// rangeFromLocal finds the first range that ends above the local offset l.
func (v *View) rangeFromLocal(l spillway.LocalOffset) (Range, bool) {
	return v.first(func(b block) bool { return b.localEnd > l }, func(r Range) bool { return r.LocalEnd() > l })
}

func (v *View) first(inBlock func(block) bool, in func(Range) bool) (Range, bool) {
	if i := sort.Search(len(v.blocks), func(i int) bool { return inBlock(v.blocks[i]) }); i < len(v.blocks) {
		return v.blocks[i].until(in), true
	}
	if i := sort.Search(len(v.tail), func(i int) bool { return in(v.tail[i]) }); i < len(v.tail) {
		return v.tail[i], true
	}
	if v.open != nil {
		return v.openRange(), true
	}
	return Range{}, false
}

// rangeBefore finds the last range that starts at or below the virtual offset o.
func (v *View) rangeBefore(o spillway.Offset) (Range, bool) {
	if i := sort.Search(len(v.tail), func(i int) bool { return v.tail[i].Virtual > o }); i > 0 {
		return v.tail[i-1], true
	}
	i := sort.Search(len(v.blocks), func(i int) bool { return v.blocks[i].first.Virtual > o })
	if i == 0 {
		return Range{}, false
	}
	var buffer [blockRanges]Range
	rs := v.blocks[i-1].ranges(buffer[:0])
	return rs[sort.Search(len(rs), func(j int) bool { return rs[j].Virtual > o })-1], true
}
