package federation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/federation/router"
	"spillway/mirror/offsetmap"
)

// View implements router.Maps.
func (m siteMaps) View(site spillway.SiteID, tp spillway.TopicPartition) *offsetmap.View {
	if r := m.gateway.readers[site]; r != nil {
		return r.View(tp)
	}
	return nil
}

// hidesMax bounds how long a client waits for a map that is being read anew.
const hidesMax = 2 * time.Second

// Hides implements router.Maps.
func (m siteMaps) Hides(site spillway.SiteID, topic string) string {
	if r := m.gateway.readers[site]; r != nil {
		ctx, cancel := context.WithTimeout(context.Background(), hidesMax)
		defer cancel()
		if err := r.Whole(ctx); err != nil {
			return fmt.Sprintf("nobody knows yet, %v", err)
		}
		return r.Hiding()[topic]
	}
	return ""
}

// duty is what a record asks of a gateway. It changes less often than the record.
type duty struct {
	epoch  spillway.Epoch
	serve  bool
	site   spillway.SiteID
	opened bool // the record waits for the confirmation that the gateway opened
}

func dutyOf(r failover.Share) duty {
	if r.Epoch == 0 {
		return duty{}
	}
	site, serve := r.Serves()
	d := duty{epoch: r.Epoch, serve: serve, site: site, opened: r.State == failover.Open}
	if r.State == failover.Draining { // the old term goes on
		d.epoch = r.Current().Epoch
	}
	return d
}

// follow does what the share's record asks for, one duty after the other. A
// new record ends what is under way, unless it asks for the same.
func (g *Gateway) follow(ctx context.Context, s *router.Share) {
	for ctx.Err() == nil {
		changed := s.Changed()
		d := dutyOf(s.Record())
		g.tell(s)
		g.router.ReportDrained(s)
		g.reserveAhead(s)
		doing, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			g.perform(doing, s, d)
		}()
		for same := true; same; {
			select {
			case <-changed:
				changed = s.Changed()
				same = dutyOf(s.Record()) == d
				g.router.ReportDrained(s)
				g.reserveAhead(s)
			case <-ctx.Done():
				same = false
			}
		}
		cancel()
		<-done
	}
}

// reserveAhead is done by the gateways of the site that a switchover is about to
// open, from CUTOVER on: where the epoch starts is known then, and no gateway serves.
func (g *Gateway) reserveAhead(s *router.Share) {
	r := s.Record()
	held := r.State == failover.Cutover || r.State == failover.CaughtUp
	if held && r.Kind == failover.Switchover && r.Target == g.config.Site && r.Abort == "" {
		g.reserve.ahead(s.ID, r.Epoch, r.Start)
	}
}

func (g *Gateway) tell(s *router.Share) {
	if g.events.ShareState != nil {
		r := s.Record()
		_, serving := s.Serving()
		g.events.ShareState(s.ID, r.Epoch, r.State, serving)
	}
}

// retryEvery is the pause between attempts of what must succeed some time.
const retryEvery = 250 * time.Millisecond

func (g *Gateway) perform(ctx context.Context, s *router.Share, d duty) {
	for ctx.Err() == nil && d.epoch > 0 {
		var err error
		if d.serve {
			err = g.open(ctx, s, d)
		} else {
			err = g.drain(ctx, s, d)
		}
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			g.problem(fmt.Sprintf("share %s epoch %d", s.ID, d.epoch), err)
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
		}
	}
}

// drain is FENCING: the share was closed when its record came; wait until
// nothing of an older epoch is on its way, then confirm (invariant B).
func (g *Gateway) drain(ctx context.Context, s *router.Share, d duty) error {
	unsure, err := s.Drain(ctx, g.config.DrainMax)
	if err != nil {
		return err
	}
	g.reports.update(s.ID, d.epoch, func(r *failover.GatewayReport) {
		r.Drained, r.Unsure = true, r.Unsure || unsure
	})
	return nil
}

// open is OPEN, and the start in STABLE: read the site's map as far as the
// record names (invariant C), then serve.
func (g *Gateway) open(ctx context.Context, s *router.Share, d duty) error {
	record := s.Record()
	term := router.NewTerm(record)
	if t, serving := s.Serving(); !serving || t.Epoch != term.Epoch {
		reader := g.readers[d.site]
		if reader == nil {
			return fmt.Errorf("site %s is not configured at this gateway", d.site)
		}
		if err := g.readMap(ctx, s, term, record); err != nil {
			return err
		}
		if err := g.checkFloors(ctx, s, term.Site, record, t.Epoch == 0); err != nil {
			return err
		}
		if err := g.reserve.load(ctx, s); err != nil {
			return err
		}
		term.Began = openedAt(record)
		term.Opened = term.Began
		if t.Base == term.Base && !t.Opened.IsZero() {
			term.Opened = t.Opened
		}
		if !s.Open(term) {
			return nil // the record has changed: another duty follows
		}
		g.tell(s)
	}
	if d.opened {
		g.reports.update(s.ID, d.epoch, func(r *failover.GatewayReport) { r.Opened = true })
	}
	return nil
}

// readMap waits until the site's map was read far enough. The first term needs
// none: its numbers follow from the configuration.
func (g *Gateway) readMap(ctx context.Context, s *router.Share, t router.Term, record failover.Share) error {
	reader := g.readers[t.Site]
	if position, ok := record.MapPosition[t.Site]; ok && position >= 0 {
		return reader.WaitFor(ctx, position)
	}
	if len(t.Past) == 0 {
		return nil
	}
	return reader.CaughtUp(ctx)
}

// floorWait bounds how long sites that do not serve are asked for epochs.
const floorWait = 2 * time.Second

// checkFloors refuses a record that is older than what the sites have seen: the
// store was restored from a backup, and what it calls active is not any more
// (C30). A gateway that has served knows newer records itself, and does not let
// a move wait; after its start it asks.
func (g *Gateway) checkFloors(ctx context.Context, s *router.Share, active spillway.SiteID, record failover.Share, ask bool) error {
	if ask {
		if err := g.askFloors(ctx, s.Group.Sites, active); err != nil {
			return err
		}
	}
	for _, site := range s.Group.Sites {
		if r := g.readers[site]; r != nil && r.Floor(s.ID) > record.Epoch {
			return fmt.Errorf("site %s has seen epoch %d of share %s, but the coordinator store has epoch %d: it was restored from a backup; restore a newer one", site, r.Floor(s.ID), s.ID, record.Epoch)
		}
	}
	return nil
}

// askFloors reads the maps of the sites. One that cannot be asked is left out,
// but for the one that is to serve.
func (g *Gateway) askFloors(ctx context.Context, sites []spillway.SiteID, active spillway.SiteID) error {
	ctx, cancel := context.WithTimeout(ctx, floorWait)
	defer cancel()
	faults := make([]error, len(sites))
	var asking sync.WaitGroup
	for i, site := range sites {
		if r := g.readers[site]; r != nil {
			asking.Go(func() { faults[i] = r.CaughtUp(ctx) })
		}
	}
	asking.Wait()
	if i := slices.Index(sites, active); i >= 0 && faults[i] != nil && !errors.Is(faults[i], broker.ErrUnknownTopic) { // unknown: never mirrored
		return fmt.Errorf("ask the site that is to serve for epochs: %w", faults[i])
	}
	return nil
}

// clockDoubt is how far the clocks of two machines may differ.
const clockDoubt = time.Minute

// openedAt is when the term began to be served by anybody. Another machine
// wrote the time, so it is believed only if it is long ago.
func openedAt(r failover.Share) time.Time {
	if now := time.Now(); r.State == failover.Open || r.Since.IsZero() || now.Sub(r.Since) < clockDoubt {
		return now
	}
	return r.Since
}
