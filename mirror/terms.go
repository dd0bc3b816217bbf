package mirror

import (
	"context"
	"fmt"
	"maps"

	"spillway"
	"spillway/mirror/offsetmap"
)

// Term is one epoch of a share, as the share's record tells it: the one
// authority on what belongs to the virtual log (docs/decisions/0008).
type Term struct {
	Epoch spillway.Epoch
	Site  spillway.SiteID // who served, or serves
	// Bound is where the records of older epochs end in a partition: what a site
	// holds of them from there on was given up. False where the term cut nothing
	// off: the first one, one in which an aborted move gave the share back, and
	// partitions that are newer. Nil: it cut nothing off.
	Bound func(spillway.TopicPartition) (spillway.Offset, bool)
}

func (t Term) bound(tp spillway.TopicPartition) (spillway.Offset, bool) {
	if t.Bound == nil {
		return 0, false
	}
	return t.Bound(tp)
}

// givenUp is the first virtual offset at which a record of the epoch, or of an
// older one, does not count: the sites that were heard when a later epoch opened
// did not have it. noBound if there is none.
func givenUp(terms []Term, tp spillway.TopicPartition, epoch spillway.Epoch) spillway.Offset {
	first := noBound
	for _, t := range terms {
		if b, ok := t.bound(tp); ok && t.Epoch > epoch {
			first = min(first, b)
		}
	}
	return first
}

// over tells whether an epoch that is open in a site's map is over, and where
// it ends: where the next site that served verified it, or, if it never came to
// serve because its move was given up, where it began.
func over(terms []Term, site spillway.SiteID, tp spillway.TopicPartition, open offsetmap.EpochStart) (end spillway.Offset, isOver bool) {
	served := false
	for _, t := range terms {
		switch {
		case t.Epoch < open.Epoch:
		case t.Epoch == open.Epoch:
			served = t.Site == site
		case !served:
			return open.Virtual, true
		case t.Site != site:
			end, _ := t.bound(tp) // what nobody had is unreplicated from its first record on
			return end, true
		}
	}
	return 0, false
}

// newest is the newest epoch of the terms, 0 without any.
func newest(terms []Term) spillway.Epoch {
	if len(terms) == 0 {
		return 0
	}
	return terms[len(terms)-1].Epoch
}

// closeOver ends the epochs that are open in this site's map though they are
// over: before it follows another site, and before it says how far it is. What
// lies behind the ends is unreplicated: hidden, listed by Unreplicated, and in
// the gap log.
func (m *Mirror) closeOver(ctx context.Context, a Assignment) error {
	ends := make(map[spillway.TopicPartition]spillway.Offset)
	for tp, o := range m.reader.Open() {
		if end, isOver := over(a.Terms, m.site, tp, o); isOver && a.has(tp) {
			ends[tp] = end
		}
	}
	if len(ends) == 0 {
		return nil
	}
	here, err := a.partitionsAt(ctx, m.local) // a topic may have been deleted
	if err != nil {
		return err
	}
	keepOnly(ends, here)
	if err := m.closeEpochs(ctx, ends); err != nil {
		return fmt.Errorf("close what share %s had open at site %s: %w", a.Share, m.site, err)
	}
	return nil
}

// keepOnly leaves out what is not among some partitions.
func keepOnly(ends map[spillway.TopicPartition]spillway.Offset, here []spillway.TopicPartition) {
	is := make(map[spillway.TopicPartition]bool, len(here))
	for _, tp := range here {
		is[tp] = true
	}
	maps.DeleteFunc(ends, func(tp spillway.TopicPartition, _ spillway.Offset) bool { return !is[tp] })
}

// closeLate is closeOver while the share flows in: the start of an epoch may reach the map
// long after its move was given up, and then the partition would wait for the next move.
// So may its floor. Of several processes the one that leads does it, whether it reaches the
// source or not.
func (f *flow) closeLate(ctx context.Context) error {
	if !f.m.leads() {
		return nil
	}
	if err := f.m.keepFloor(ctx, f.share.Share); err != nil {
		return err
	}
	return f.m.closeOver(ctx, f.share)
}
