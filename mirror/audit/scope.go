package audit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/rewrite"
)

// Scope says which part of the topics is compared. The zero value is all of it. Where
// it is a part, both maps have to say where it lies; of compacted topics all is
// compared, as two cleaners never keep the same records.
type Scope struct {
	Partitions []int32              // none: all
	From       spillway.LocalOffset // at the source
	To         spillway.LocalOffset // at the source, after the last; 0: to the end
	Since      time.Time            // records from the first one of that time on
	// Sample is the part of the blocks of sampleBlock offsets that are compared, evenly
	// spread from a random block on; 0: all.
	Sample float64
	Seed   uint64
	// Rewrite is what the flow was told to do to records; its Cluster is not looked at.
	Rewrite rewrite.Rules
}

// sampleBlock is how many offsets are compared in a row where a sample is.
const sampleBlock = 1000

// Validate names what is wrong.
func (s Scope) Validate() error {
	switch {
	case s.From < 0 || s.To < 0 || s.To > 0 && s.To <= s.From:
		return fmt.Errorf("audit: no offset lies in [%d,%d)", s.From, s.To)
	case s.Sample < 0 || s.Sample > 1 || math.IsNaN(s.Sample):
		return fmt.Errorf("audit: a sample of %g: want a part between 0 and 1", s.Sample)
	}
	return nil
}

func (s Scope) has(partition int32) bool {
	return len(s.Partitions) == 0 || slices.Contains(s.Partitions, partition)
}

func (s Scope) whole() bool { return s.From == 0 && s.To == 0 && s.Since.IsZero() && s.Sample == 0 }

// block is a row of offsets of the source: [from, to).
type block struct{ from, to spillway.LocalOffset }

// blocks are what is compared of [from, to).
func (s Scope) blocks(from, to spillway.LocalOffset) []block {
	if from >= to {
		return nil
	}
	if s.Sample == 0 || s.Sample == 1 {
		return []block{{from, to}}
	}
	all := int(to-from+sampleBlock-1) / sampleBlock
	picked := max(1, int(math.Round(float64(all)*s.Sample)))
	step := float64(all) / float64(picked)
	begin := rand.New(rand.NewPCG(s.Seed, uint64(all))).Float64() * step
	found := make([]block, picked)
	for i := range found {
		at := from + spillway.LocalOffset(begin+float64(i)*step)*sampleBlock
		found[i] = block{at, min(to, at+sampleBlock)}
	}
	return found
}

// bounds cuts what a partition has to what is compared.
func (s Scope) bounds(ctx context.Context, c broker.Cluster, tp spillway.TopicPartition, from, to spillway.LocalOffset) (spillway.LocalOffset, spillway.LocalOffset, error) {
	from = max(from, s.From)
	if s.To > 0 {
		to = min(to, s.To)
	}
	if !s.Since.IsZero() {
		found, err := c.Admin().OffsetsForTime(ctx, []spillway.TopicPartition{tp}, s.Since.UnixMilli())
		if err != nil {
			return 0, 0, err
		}
		if o, ok := found[tp]; ok && o >= 0 {
			from = max(from, o)
		} else {
			from = to
		}
	}
	return from, to, nil
}

// compareBlocks compares the records of some blocks of the source with those that lie
// between the same virtual offsets at the target.
func (a *auditor) compareBlocks(ctx context.Context, scope Scope) error {
	if a.target.view == nil {
		return errors.New("the target has no map of it, so only the whole can be compared")
	}
	from, to, err := scope.bounds(ctx, a.source.log.Cluster, a.source.log.Of, a.source.next, a.source.end)
	if err != nil {
		return err
	}
	end := a.target.end
	blocks := scope.blocks(from, to)
	offsets := spillway.LocalOffset(0)
	for _, b := range blocks {
		offsets += b.to - b.from
		a.source.reset(b.from, b.to)
		last := end
		if b.to < a.source.logEnd {
			last = min(end, a.there(b.to))
		}
		a.target.reset(a.there(b.from), last)
		if err := a.compareRecords(ctx); err != nil {
			return err
		}
	}
	a.note(fmt.Sprintf("compared were %d offsets of the source in %d rows, from [%d,%d)", offsets, len(blocks), from, to))
	return nil
}

// there is where an offset of the source lies at the target.
func (a *auditor) there(l spillway.LocalOffset) spillway.LocalOffset {
	virtual := spillway.Offset(l)
	if a.source.view != nil {
		virtual, _ = a.source.view.ToVirtual(l)
	}
	local, _ := a.target.view.ToLocal(virtual)
	return max(local, a.target.logStart)
}

// note adds to what was not compared.
func (a *auditor) note(what string) {
	if a.found.NotCompared != "" {
		what = a.found.NotCompared + "; " + what
	}
	a.found.NotCompared = what
}
