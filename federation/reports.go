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
// makes the report pointless.
type reports struct {
	gateway *Gateway
	last    map[spillway.ShareID]written // owned by run

	mu   sync.Mutex
	want map[spillway.ShareID]*report
	kick chan struct{}
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
	return &reports{gateway: g, last: make(map[spillway.ShareID]written), want: make(map[spillway.ShareID]*report), kick: make(chan struct{}, 1)}
}

// update changes the report about an epoch of a share, soon. The changes may
// be applied more than once.
func (r *reports) update(id spillway.ShareID, epoch spillway.Epoch, change func(*failover.GatewayReport)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.want[id]; w == nil || w.epoch < epoch {
		r.want[id] = &report{epoch: epoch}
	} else if w.epoch > epoch {
		return
	}
	r.want[id].changes = append(r.want[id].changes, change)
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *reports) run(ctx context.Context) {
	for {
		select {
		case <-r.kick:
		case <-ctx.Done():
			return
		}
		for id, w := range r.take() {
			if err := r.write(ctx, id, w); err != nil && ctx.Err() == nil {
				r.gateway.problem("confirm epoch of share "+id.String(), err)
				r.putBack(id, w)
			}
		}
	}
}

func (r *reports) take() map[spillway.ShareID]*report {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.want
	r.want = make(map[spillway.ShareID]*report)
	return taken
}

func (r *reports) putBack(id spillway.ShareID, old *report) {
	r.mu.Lock()
	switch w := r.want[id]; {
	case w == nil:
		r.want[id] = old
	case w.epoch == old.epoch:
		w.changes = append(old.changes, w.changes...)
	}
	r.mu.Unlock()
	time.AfterFunc(retryEvery, func() {
		select {
		case r.kick <- struct{}{}:
		default:
		}
	})
}

func (r *reports) write(ctx context.Context, id spillway.ShareID, w *report) error {
	g := r.gateway
	ctx, cancel := context.WithTimeout(ctx, coordination.LeaseTTL/2)
	defer cancel()
	key := g.keys.GatewayReport(id, w.epoch, g.config.ID)
	known := r.last[id]
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
			r.last[id] = known
			return nil // each request of a transaction asks for it while groups drain
		}
		version, err := g.config.Store.Put(ctx, key, encode(report), known.version)
		if err == nil {
			r.last[id] = written{epoch: w.epoch, version: version, report: report}
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
