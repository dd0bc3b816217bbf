package federation

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// reports writes the gateway's confirmations. Several reasons to rewrite one
// become one write; an unavailable store is tried again until a newer epoch
// makes the report pointless. A share whose write hangs holds up no other one: all of them
// move at once when a site is lost.
type reports struct {
	gateway *Gateway
	shares  map[spillway.ShareID]*shareReports
	writes  chan struct{} // a token for each write on its way
}

// reportsAtOnce bounds the confirmations on their way to the store, which has leases to write
// beside them, over not too many connections.
const reportsAtOnce = 32

type shareReports struct {
	id   spillway.ShareID
	last written // owned by run
	kick chan struct{}

	mu   sync.Mutex
	want *report
}

type report struct {
	epoch   spillway.Epoch
	changes []func(*failover.GatewayReport)
}

// written is the newest report about a share as this gateway wrote it, so that the
// next one need not be read first: clients are held meanwhile.
type written struct {
	epoch   spillway.Epoch
	version uint64
	report  failover.GatewayReport
}

func newReports(g *Gateway) *reports {
	r := &reports{gateway: g, shares: make(map[spillway.ShareID]*shareReports), writes: make(chan struct{}, reportsAtOnce)}
	for id := range g.shares {
		r.shares[id] = &shareReports{id: id, kick: make(chan struct{}, 1)}
	}
	return r
}

// update changes the report about an epoch of a share, soon. The changes may
// be applied more than once.
func (r *reports) update(id spillway.ShareID, epoch spillway.Epoch, change func(*failover.GatewayReport)) {
	s := r.shares[id]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want == nil || s.want.epoch < epoch {
		s.want = &report{epoch: epoch}
	} else if s.want.epoch > epoch {
		return
	}
	s.want.changes = append(s.want.changes, change)
	s.wake()
}

func (s *shareReports) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (r *reports) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range r.shares {
		wg.Go(func() { r.keep(ctx, s) })
	}
	wg.Wait()
}

// keep writes the reports of one share until ctx ends.
func (r *reports) keep(ctx context.Context, s *shareReports) {
	for {
		select {
		case <-s.kick:
		case <-ctx.Done():
			return
		}
		select {
		case r.writes <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if w := s.take(); w != nil {
			r.confirm(ctx, s, w)
		}
		<-r.writes
	}
}

func (r *reports) confirm(ctx context.Context, s *shareReports, w *report) {
	if err := r.write(ctx, s, w); err != nil && ctx.Err() == nil {
		r.gateway.problem("confirm epoch of share "+s.id.String(), err)
		s.putBack(w)
	}
}

func (s *shareReports) take() *report {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.want
	s.want = nil
	return taken
}

func (s *shareReports) putBack(old *report) {
	s.mu.Lock()
	switch {
	case s.want == nil:
		s.want = old
	case s.want.epoch == old.epoch:
		s.want.changes = append(old.changes, s.want.changes...)
	}
	s.mu.Unlock()
	time.AfterFunc(retryEvery, s.wake)
}

func (r *reports) write(ctx context.Context, s *shareReports, w *report) error {
	g := r.gateway
	ctx, cancel := context.WithTimeout(ctx, coordination.LeaseTTL/2)
	defer cancel()
	key := g.keys.GatewayReport(s.id, w.epoch, g.config.ID)
	known := s.last
	if known.epoch != w.epoch {
		known = written{epoch: w.epoch}
	}
	for {
		report := known.report
		report.Gateway, report.Boot = g.config.ID, g.boot
		for _, change := range w.changes {
			change(&report)
		}
		if known.version > 0 && report == known.report {
			s.last = known
			return nil // each request of a transaction asks for it while groups drain
		}
		version, err := g.config.Store.Put(ctx, key, encode(report), known.version)
		if err == nil {
			s.last = written{epoch: w.epoch, version: version, report: report}
			return nil
		}
		if !errors.Is(err, coordination.ErrConflict) {
			return err
		}
		e, err := g.config.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return err
		}
		known = written{epoch: w.epoch, version: e.Version}
		if e.Version > 0 && json.Unmarshal(e.Value, &known.report) != nil || known.report.Boot != g.boot {
			known.report = failover.GatewayReport{} // of an earlier start: it says nothing about this one
		}
	}
}
