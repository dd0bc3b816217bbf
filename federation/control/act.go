package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/control/probe"
	"spillway/federation/failover"
)

// readApart is the time between two reads of log ends where a produce without an
// answer may still arrive.
const readApart = 250 * time.Millisecond

// denyMax bounds a call that denies writes, which nothing else ends, and a look at
// whether they are allowed.
const denyMax = 2 * time.Second

// denyMin is what must be left of a hold for a denial to be sent: one that is cut short may
// come late, and is found by who looks afterwards (allowAgain).
func (d *driver) denyMin() time.Duration { return min(denyMax, d.limits.HoldBudget()/8) }

// actMin is what an action gets though clients have been held for long already.
const actMin = 50 * time.Millisecond

// actFor is how long an action may take. While clients are held by a switchover it ends
// when that has to be given up: looking at the clock between actions only, a loop that a
// broker keeps waiting would give up when held requests are refused already (C29).
func (d *driver) actFor() time.Duration {
	left, holds := d.holds()
	if !holds {
		return actMax
	}
	return min(actMax, max(actMin, left))
}

// act carries out one action and keeps what it found out.
func (d *driver) act(ctx context.Context, a failover.Action) error {
	ctx, cancel := context.WithTimeout(ctx, d.actFor())
	defer cancel()
	ctx, stop := d.untilNewer(ctx)
	defer stop()
	switch a.Kind {
	case failover.Fence:
		how, err := d.fence(ctx, a.Site)
		d.memo.fence = how
		return err
	case failover.Allow:
		allow := d.allow
		switch {
		case d.share.State == failover.Stable:
			// Whatever comes of it: the share must not wait for a broker there.
			d.memo.allowed, d.memo.looked = a.Site, d.c.cfg.Clock.Now()
			return d.allowAgain(ctx, a.Site)
		case d.share.Abort != "" || d.share.Kind == failover.Failover: // nobody is served meanwhile
			allow = d.allowBack
		}
		if err := allow(ctx, a.Site); err != nil {
			return err
		}
		d.memo.allowed, d.memo.looked = a.Site, d.c.cfg.Clock.Now()
	case failover.ReadEnds:
		var only failover.PartitionOffsets
		var errOnly error
		var wg sync.WaitGroup
		if d.share.State == failover.Fenced {
			wg.Go(func() { only, errOnly = d.onlyAtTarget(ctx) })
		}
		var err error
		if d.share.State == failover.Fenced {
			err = d.endTransactions(ctx, a.Site)
		}
		var ends failover.PartitionOffsets
		if err == nil {
			ends, err = d.c.logEnds(ctx, a.Site, d.group, a.Twice)
		}
		if wg.Wait(); errors.Join(err, errOnly) != nil {
			return errors.Join(err, errOnly)
		}
		d.memo.logEnds, d.memo.onlyAt = ends, only
		return nil
	}
	return nil
}

// onlyAtTarget finds the partitions of the group that the target has and the active
// site has not, and where they may begin: above everything that their topics ever
// gave out, here or in a life before.
func (d *driver) onlyAtTarget(ctx context.Context) (failover.PartitionOffsets, error) {
	var here, there []spillway.TopicPartition
	var errHere, errThere error
	var wg sync.WaitGroup
	wg.Go(func() { here, errHere = d.c.partitions(ctx, d.share.Active, d.group) })
	wg.Go(func() { there, errThere = d.c.partitions(ctx, d.share.Target, d.group) })
	wg.Wait()
	if err := errors.Join(errHere, errThere); err != nil {
		return nil, err
	}
	if there = without(there, here); len(there) == 0 {
		return nil, nil
	}
	if err := d.readReserved(ctx); err != nil {
		return nil, err
	}
	r := d.c.mu.maps[d.share.Target]
	if err := d.c.caughtUp(ctx, d.share.Target); err != nil && !errors.Is(err, broker.ErrUnknownTopic) {
		return nil, err
	}
	only := failover.PartitionOffsets{}
	for _, tp := range there {
		end, _ := r.View(tp).End()
		only.Set(tp, max(d.group.OffsetBase, end, d.memo.reserved.Get(tp)))
	}
	return only, nil
}

// without leaves out the partitions that another site has too. Clients are held, so it must
// not take longer than to look at each once.
func without(there, here []spillway.TopicPartition) []spillway.TopicPartition {
	has := make(map[spillway.TopicPartition]bool, len(here))
	for _, tp := range here {
		has[tp] = true
	}
	return slices.DeleteFunc(there, func(tp spillway.TopicPartition) bool { return has[tp] })
}

// untilNewer ends the context when somebody else changed the record, so that an
// abort is not kept waiting by an action.
func (d *driver) untilNewer(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			changed, _ := d.c.hub.waitFor(d.id)
			if e, ok := d.c.hub.record(d.id); ok && e.Version > d.version {
				cancel()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return ctx, func() { cancel(); <-done }
}

// fences tells whether writes to a site can be denied at the site itself. Groups
// of several shares have topics with several homes, so an ACL on the topic would
// deny too much.
func (d *driver) fences(site spillway.SiteID) bool {
	s, ok := d.c.cfg.Topology.Site(site)
	return ok && s.GatewayPrincipal != "" && d.c.cfg.Sites[site].AsGateway != nil && d.group.Kind != spillway.Unordered
}

// fence denies the gateways to write and believes it only when every leader
// refuses them: ACLs reach the brokers one after the other (C24).
func (d *driver) fence(ctx context.Context, site spillway.SiteID) (string, error) {
	if !d.fences(site) {
		return "lease-only", nil
	}
	tps, err := d.c.partitions(ctx, site, d.group)
	if err != nil {
		return "", err
	}
	s, _ := d.c.cfg.Topology.Site(site)
	// An abort does not cut this call short: it would reach the brokers behind the
	// one that allows writes again. The end of the hold does.
	most := denyMax
	if at, ok := ctx.Deadline(); ok {
		most = min(most, time.Until(at))
	}
	if most < d.denyMin() {
		return "", fmt.Errorf("fence %s: clients have been held for so long that nothing is denied any more", site)
	}
	sent, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()
	err = d.c.cfg.Sites[site].Cluster.Admin().DenyWrite(sent, s.GatewayPrincipal, topicsOf(tps))
	if errors.Is(err, broker.ErrNotSupported) {
		return "lease-only", nil
	}
	if err != nil {
		return "", fmt.Errorf("fence %s: %w", site, err)
	}
	return "acl", d.probeUntil(ctx, site, tps, true)
}

// allow lets gateways write at the target of a switchover, and waits until every leader does.
func (d *driver) allow(ctx context.Context, site spillway.SiteID) error {
	tps, err := d.orderAllowed(ctx, site)
	if err != nil || tps == nil {
		return err
	}
	return d.probeUntil(ctx, site, tps, false)
}

// orderAllowed has a site take writes of gateways to the group again, and returns of which
// partitions; none where it knows no such thing.
func (d *driver) orderAllowed(ctx context.Context, site spillway.SiteID) ([]spillway.TopicPartition, error) {
	if !d.fences(site) {
		return nil, nil
	}
	tps, err := d.c.partitions(ctx, site, d.group)
	if err != nil {
		return nil, err
	}
	s, _ := d.c.cfg.Topology.Site(site)
	err = d.c.cfg.Sites[site].Cluster.Admin().AllowWrite(ctx, s.GatewayPrincipal, topicsOf(tps))
	if errors.Is(err, broker.ErrNotSupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("allow writes at %s: %w", site, err)
	}
	return tps, nil
}

// reachMin is how long leaders have to say whether they take writes at a site that is to
// serve again; while none says anything it doubles, up to reachMax.
const (
	reachMin = 500 * time.Millisecond
	reachMax = 4 * time.Second
)

// allowBack lets gateways write at a site that goes on, since a move was given up, or that
// a failover is about to open: nobody else serves. The
// site must have taken the order; of its leaders those count that can be reached, since
// all that the group has waits for this. One that hangs is looked at again by allowAgain.
// Nothing but the site's own writes rests on it: that no two sites serve is the matter of
// the fence that is put up, of which every leader has to answer (fence).
func (d *driver) allowBack(ctx context.Context, site spillway.SiteID) error {
	if tps, err := d.orderAllowed(ctx, site); err != nil || tps == nil {
		return err
	}
	for each := reachMin; ; {
		takes, err := d.takes(ctx, site, each)
		if takes {
			return nil
		}
		if err != nil {
			each = min(2*each, reachMax)
		}
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("allow writes at %s: no leader that answers takes them yet: %w", site, errors.Join(ctx.Err(), err))
		}
	}
}

// takes tells whether the leaders of the group's partitions that can be reached at a site
// take writes of gateways. Partitions that have no leader nobody can write to anyway.
func (d *driver) takes(ctx context.Context, site spillway.SiteID, each time.Duration) (bool, error) {
	md, err := d.c.topics(ctx, site, d.group)
	if err != nil {
		return false, fmt.Errorf("list the leaders of %s: %w", site, err)
	}
	leaders := map[int32][]spillway.TopicPartition{}
	for name, t := range md.Topics {
		if !d.c.cfg.Topology.HasTopic(d.group, name) || t.Internal {
			continue
		}
		for _, p := range t.Partitions {
			if tp := (spillway.TopicPartition{Topic: name, Partition: p.Partition}); p.Leader >= 0 && d.c.cfg.Topology.Has(d.group, tp) {
				leaders[p.Leader] = append(leaders[p.Leader], tp)
			}
		}
	}
	return probe.Takes(ctx, d.c.cfg.Sites[site].AsGateway, leaders, each)
}

// allowAgain lifts a denial that is in force at a site which serves. It looks first,
// and asks the store whether the share still stands still there.
func (d *driver) allowAgain(ctx context.Context, site spillway.SiteID) error {
	ctx, cancel := context.WithTimeout(ctx, denyMax)
	defer cancel()
	if takes, err := d.takes(ctx, site, 2*reachMin); err != nil || takes {
		return err
	}
	e, err := d.c.cfg.Store.Get(ctx, d.c.keys.Share(d.id))
	if err != nil || e.Version != d.version {
		return err
	}
	return d.allowBack(ctx, site)
}

func (d *driver) probeUntil(ctx context.Context, site spillway.SiteID, tps []spillway.TopicPartition, fenced bool) error {
	for {
		ok, err := probe.Fenced(ctx, d.c.cfg.Sites[site].AsGateway, tps, fenced)
		if ok {
			return nil
		}
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			return fmt.Errorf("fence of %s: not all leaders agree: %w", site, errors.Join(ctx.Err(), err))
		}
	}
}

func topicsOf(tps []spillway.TopicPartition) []string {
	var topics []string
	known := make(map[string]bool)
	for _, tp := range tps {
		if !known[tp.Topic] {
			known[tp.Topic] = true
			topics = append(topics, tp.Topic)
		}
	}
	return topics
}

// partitions lists the partitions of a group that a site has, sorted.
func (c *Control) partitions(ctx context.Context, site spillway.SiteID, g spillway.FailoverGroup) ([]spillway.TopicPartition, error) {
	md, err := c.topics(ctx, site, g)
	if err != nil {
		return nil, fmt.Errorf("list the topics of %s: %w", site, err)
	}
	var tps []spillway.TopicPartition
	for name, t := range md.Topics {
		if !c.cfg.Topology.HasTopic(g, name) || t.Internal {
			continue
		}
		for _, p := range t.Partitions {
			if tp := (spillway.TopicPartition{Topic: name, Partition: p.Partition}); c.cfg.Topology.Has(g, tp) {
				tps = append(tps, tp)
			}
		}
	}
	slices.SortFunc(tps, spillway.TopicPartition.Compare)
	return tps, nil
}

// logEnds reads the ends of a site's logs as virtual offsets: not the high
// watermark, below which an acknowledged record may lie, and only once the
// watermark has reached the end (C9). Twice: until two reads that lie apart
// agree.
func (c *Control) logEnds(ctx context.Context, site spillway.SiteID, g spillway.FailoverGroup, twice bool) (failover.PartitionOffsets, error) {
	tps, err := c.partitions(ctx, site, g)
	if err != nil {
		return nil, err
	}
	admin := c.cfg.Sites[site].Cluster.Admin()
	// All that does not need the ends is asked at the same time: clients are held.
	var ends, marks map[spillway.TopicPartition]spillway.LocalOffset
	var errEnds, errMarks, errMap error
	var wg sync.WaitGroup
	wg.Go(func() { ends, errEnds = admin.LogEnds(ctx, tps) })
	wg.Go(func() { marks, errMarks = admin.HighWatermarks(ctx, tps) })
	wg.Go(func() { errMap = c.caughtUp(ctx, site) })
	wg.Wait()
	switch {
	case errEnds != nil:
		return nil, fmt.Errorf("read the log ends of %s: %w", site, errEnds)
	case errMarks != nil:
		return nil, fmt.Errorf("read the high watermarks of %s: %w", site, errMarks)
	case errMap != nil && !errors.Is(errMap, broker.ErrUnknownTopic):
		return nil, errMap
	}
	for twice {
		pause(ctx, readApart)
		again, err := admin.LogEnds(ctx, tps)
		if err != nil {
			return nil, fmt.Errorf("read the log ends of %s again: %w", site, err)
		}
		twice, ends = !equalEnds(ends, again), again
	}
	for {
		tp, behind := behindOf(marks, ends)
		if !behind {
			break
		}
		if marks, err = admin.HighWatermarks(ctx, tps); err != nil {
			return nil, fmt.Errorf("read the high watermarks of %s: %w", site, err)
		}
		if _, behind = behindOf(marks, ends); !behind {
			break
		}
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s at %s is not replicated up to its end; are brokers missing? %w", tp, site, ctx.Err())
		}
	}
	return c.toVirtual(site, g, tps, ends)
}

func equalEnds(a, b map[spillway.TopicPartition]spillway.LocalOffset) bool {
	for tp, o := range a {
		if b[tp] != o {
			return false
		}
	}
	return len(a) == len(b)
}

func behindOf(marks, ends map[spillway.TopicPartition]spillway.LocalOffset) (spillway.TopicPartition, bool) {
	for tp, end := range ends {
		if marks[tp] < end {
			return tp, true
		}
	}
	return spillway.TopicPartition{}, false
}

// toVirtual adds the constant of the epoch that is open in the site's map, which
// has been read.
func (c *Control) toVirtual(site spillway.SiteID, g spillway.FailoverGroup, tps []spillway.TopicPartition, ends map[spillway.TopicPartition]spillway.LocalOffset) (failover.PartitionOffsets, error) {
	r := c.mu.maps[site]
	virtual := failover.PartitionOffsets{}
	for _, tp := range tps {
		start, open := r.View(tp).Open()
		switch {
		case open:
			virtual.Set(tp, start.Virtual+spillway.Offset(ends[tp]-start.Local))
		case r.View(tp).Empty():
			// Created a moment ago: its mirror has not started it in the map yet.
			virtual.Set(tp, g.OffsetBase+spillway.Offset(ends[tp]))
		default:
			return nil, fmt.Errorf("the map of %s has no open epoch for %s, so it does not serve it; is its mirror running?", site, tp)
		}
	}
	return virtual, nil
}
