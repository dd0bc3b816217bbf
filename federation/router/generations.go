package router

import (
	"context"
	"sync"
)

// generations counts produces on their way by the version of the layout in
// which they were let in, so that the gateway can say when nothing is in flight
// any more that only an older layout allowed (C23).
type generations struct {
	mu      sync.Mutex
	current int64
	counts  map[int64]int
	ended   chan struct{} // closed when a count reaches 0
}

func newGenerations() *generations {
	return &generations{counts: make(map[int64]int), ended: make(chan struct{})}
}

func (g *generations) enter() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts[g.current]++
	return g.current
}

func (g *generations) leave(generation int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.counts[generation]--; g.counts[generation] == 0 {
		delete(g.counts, generation)
		close(g.ended)
		g.ended = make(chan struct{})
	}
}

// older tells whether anything is in flight from before a version.
func (g *generations) older(version int64) (bool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for generation := range g.counts {
		if generation < version {
			return true, g.ended
		}
	}
	return false, g.ended
}

// Obey begins a layout version, which Layout.Current must show already, and
// returns when no produce is in flight that was let in by an older one.
func (r *Router) Obey(ctx context.Context, version int64) error {
	g := r.generations
	g.mu.Lock()
	g.current = max(g.current, version)
	g.mu.Unlock()
	for {
		older, ended := g.older(version)
		if !older {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enterLayout counts the part in, if this gateway still leads its partition.
func (p *part) enterLayout() bool {
	r := p.op.client.router
	p.generation = r.generations.enter()
	// Looked at after counting: a layout that comes now either is seen here, or
	// waits for this produce.
	p.counted = true
	if mine, ready := p.leads(); !mine || !ready {
		p.leaveLayout()
		return false
	}
	return true
}

// leaveLayout ends what enterLayout began, once.
func (p *part) leaveLayout() {
	if p.counted {
		p.counted = false
		p.op.client.router.generations.leave(p.generation)
	}
}
