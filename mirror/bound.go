package mirror

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"spillway"
)

// bound is where a move lets a flow end. Without one, nil, a flow goes on for ever,
// and looks for new partitions.
type bound struct {
	epoch spillway.Epoch // that the move opens; sessions are opened in it
	ends  map[spillway.TopicPartition]spillway.Offset
}

// of is the first virtual offset that may not be mirrored. Of a partition that the
// move does not name, nothing more is.
func (b *bound) of(tp spillway.TopicPartition) spillway.Offset {
	if b == nil {
		return noBound
	}
	return b.ends[tp]
}

// flowEnd is how far a flow is on the way to its bound.
type flowEnd struct {
	bound   atomic.Pointer[bound] // set by a move, at the end of the flow
	reached chan struct{}         // closed when every partition that is named is at its bound

	// Owned by the flow's run.
	arrived map[spillway.TopicPartition]bool
	hurried *bound // for which the flow hurried
}

func newFlowEnd() flowEnd {
	return flowEnd{reached: make(chan struct{}), arrived: make(map[spillway.TopicPartition]bool)}
}

// look tells when every partition that the move names is at its bound.
func (e *flowEnd) look() {
	b := e.bound.Load()
	if b == nil {
		return
	}
	for tp := range b.ends {
		if !e.arrived[tp] {
			return
		}
	}
	select {
	case <-e.reached:
	default:
		close(e.reached)
	}
}

// endAt lets the flow end at the given offsets, for a move that opens an epoch.
// Nothing is stopped, connected anew or read back for it: clients are held. A
// partition that is there already has arrived as soon as its lane has heard of it.
func (f *flow) endAt(epoch spillway.Epoch, ends map[spillway.TopicPartition]spillway.Offset) {
	f.ending.bound.Store(&bound{epoch, ends})
	f.wakeLanes()
	f.wakeUp()
}

// openIn is the epoch in which append sessions are opened: a flow that a move has
// bounded may still have to open one, though the site has promised the new epoch.
func (f *flow) openIn() spillway.Epoch {
	if b := f.ending.bound.Load(); b != nil {
		return b.epoch
	}
	return f.epoch
}

// hurry has everything done at once that is left to do before the flow may end.
func (f *flow) hurry(ctx context.Context) {
	b := f.ending.bound.Load()
	if b == f.ending.hurried {
		return
	}
	f.ending.hurried = b
	for tp := range b.ends {
		if f.parts[tp] == nil {
			f.discover(ctx)
			break
		}
	}
	for _, p := range f.later {
		p.retryAt = time.Time{}
	}
	f.wakeLater(ctx)
}

// missing tells people how many partitions are not at their bounds, and why.
func (f *flow) missing() string {
	info := f.info(f.m.config.Now())
	ends := f.ending.bound.Load().ends
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for tp, end := range ends {
		if s, ok := f.mu.state[tp]; !ok || s.virtual < end {
			n++
		}
	}
	return fmt.Sprintf("%d of %d partitions are not there yet: %s%v", n, len(ends), info.Problem, info.Problems)
}
