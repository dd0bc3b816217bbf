package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/federation/control/probe"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// observer probes every site from where this process runs and votes about it.
type observer struct {
	c *Control

	mu      sync.Mutex
	minds   map[spillway.SiteID]opinion
	changed chan struct{} // has one when a verdict is new
}

func newObserver(c *Control) *observer {
	return &observer{c: c, minds: map[spillway.SiteID]opinion{}, changed: make(chan struct{}, 1)}
}

func (o *observer) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range o.c.cfg.Topology.Sites() {
		wg.Go(func() { o.watch(ctx, s.ID) })
	}
	wg.Go(func() { o.vote(ctx) })
	wg.Wait()
}

// opinion is what the observer thinks of one site. Several failures in a row
// make it down, one success makes it up again: a flapping site must not be
// failed over, and one that answers must not be.
type opinion struct {
	verdict  failover.Verdict
	evidence string
	since    coordination.Instant
	probed   coordination.Instant // when the last probe ended
	failures int
}

func (o *observer) watch(ctx context.Context, site spillway.SiteID) {
	clock := o.c.cfg.Clock
	mind := opinion{verdict: failover.Up, evidence: "not probed yet", since: clock.Now()}
	ticker := time.NewTicker(o.c.cfg.ProbeInterval)
	defer ticker.Stop()
	for first := true; ; first = false {
		before := mind.verdict
		mind = mind.after(o.probe(ctx, site), o.c.cfg.ProbeFailures, clock.Now())
		if ctx.Err() != nil {
			return
		}
		o.think(site, mind)
		if first || mind.verdict != before {
			o.c.cfg.Events.voteChanged(o.voteOn(site, mind))
			select {
			case o.changed <- struct{}{}:
			default: // it votes soon
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (o *observer) think(site spillway.SiteID, m opinion) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.minds[site] = m
}

func (o *observer) voteOn(site spillway.SiteID, m opinion) failover.Vote {
	return failover.Vote{About: site, Observer: o.c.cfg.Site, Verdict: m.verdict, Evidence: m.evidence, For: m.since.Shortest(o.c.cfg.Clock.Now())}
}

// vote writes all votes as often as a lease is renewed, and at once when a verdict
// is new. One write for all of them: whoever watches is woken by each, and there
// are as many opinions as sites times observers.
func (o *observer) vote(ctx context.Context) {
	ticker := time.NewTicker(o.c.cfg.LeaseTTL / 4)
	defer ticker.Stop()
	var version uint64
	var adopting []string
	for _, g := range o.c.cfg.Topology.Groups() {
		if g.Adopting {
			adopting = append(adopting, g.Name)
		}
	}
	for beat := uint64(1); ; beat++ {
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
		case <-ticker.C:
		}
		version = o.cast(ctx, failover.Ballot{Votes: o.votes(), Beat: beat, Adopting: adopting}, version)
	}
}

// votes are those on sites that were probed within the time that a vote counts.
func (o *observer) votes() []failover.Vote {
	o.mu.Lock()
	defer o.mu.Unlock()
	votes := []failover.Vote{}
	for _, s := range o.c.cfg.Topology.Sites() {
		if m, ok := o.minds[s.ID]; ok && m.probed.Longest(o.c.cfg.Clock.Now()) < o.c.cfg.LeaseTTL {
			votes = append(votes, o.voteOn(s.ID, m))
		}
	}
	return votes
}

// after is the opinion after one more probe.
func (m opinion) after(p probed, failuresMax int, now coordination.Instant) opinion {
	next := m
	next.probed = now
	switch {
	case p.err != nil:
		next.failures++
		if next.failures >= failuresMax {
			next.verdict, next.evidence = failover.Down, briefly(p.err)
		}
	case p.failing != "":
		next.failures, next.verdict, next.evidence = 0, failover.Degraded, p.failing
	default:
		next.failures, next.verdict, next.evidence = 0, failover.Up, "all canaries came back"
	}
	if next.verdict != m.verdict {
		next.since = now
	}
	return next
}

// briefly is the first two lines of an error: the site, and what one broker said.
func briefly(err error) string {
	lines := strings.Split(err.Error(), "\n")
	return strings.Join(lines[:min(2, len(lines))], "; ")
}

type probed struct {
	failing string
	err     error
}

func (o *observer) probe(ctx context.Context, site spillway.SiteID) probed {
	ctx, cancel := context.WithTimeout(ctx, o.c.cfg.ProbeTimeout)
	defer cancel()
	r, err := probe.Site(ctx, o.c.cfg.Sites[site].Cluster)
	if err != nil {
		return probed{err: fmt.Errorf("%s: %w", site, err)}
	}
	return probed{failing: r.Failing}
}

// cast writes the ballot and returns its version.
func (o *observer) cast(ctx context.Context, b failover.Ballot, version uint64) uint64 {
	value, err := json.Marshal(b)
	if err != nil {
		return version
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	key := o.c.keys.Ballot(o.c.cfg.Site)
	if version == 0 {
		if e, err := o.c.cfg.Store.Get(ctx, key); err == nil {
			version = e.Version
		}
	}
	version, err = o.c.cfg.Store.Put(ctx, key, value, version)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, coordination.ErrConflict) {
			o.c.cfg.Events.storeLost(err)
		}
		return 0
	}
	return version
}
