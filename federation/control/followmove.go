package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spillway"
	"spillway/federation/failover"
)

// stop ends the inbound flow for a failover and tells what is there (C8).
func (s *followed) stop(ctx context.Context, share failover.Share) error {
	if share.Active == s.f.site {
		return nil
	}
	ends, err := s.f.cfg.Mirror.Stop(ctx, s.id, share.Epoch)
	if err != nil {
		return err
	}
	return s.report(ctx, share.Epoch, func(r *failover.SiteReport) {
		r.Stopped, r.Ends = true, offsetsOf(ends)
		r.Hiding, r.HidingMore = s.hides()
		r.Owed = s.owed()
	})
}

// catchUp brings this site exactly to the cutover, or to the longest prefix.
func (s *followed) catchUp(ctx context.Context, share failover.Share) error {
	switch {
	case share.Kind == failover.Failover && share.Target != s.f.site:
		return nil
	case share.Active == s.f.site && share.Kind == failover.Switchover:
		return s.open(ctx, share)
	case share.Active == s.f.site:
		return nil
	}
	from, until := map[spillway.TopicPartition]spillway.SiteID{}, map[spillway.TopicPartition]spillway.Offset{}
	bound := share.Cutover
	if share.Kind == failover.Failover {
		bound = share.Prefix
	}
	bound.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		if o < 0 {
			return
		}
		from[tp], until[tp] = share.Active, o
		if share.Kind == failover.Failover {
			from[tp] = share.PrefixSite[tp.Topic][tp.Partition]
		}
	})
	if share.Kind == failover.Switchover && share.Target == s.f.site {
		return s.takeOver(ctx, share, from, until)
	}
	ends, err := s.f.cfg.Mirror.CatchUp(ctx, s.id, share.Epoch, from, until)
	if err != nil {
		return err
	}
	done := func(r *failover.SiteReport) { r.Stopped, r.Ends = true, offsetsOf(ends) }
	if share.Kind == failover.Failover {
		return s.report(ctx, share.Epoch, done)
	}
	// Nothing is missing for the next step, and clients are held: it is taken at
	// once, and told in the same report. So does the target.
	return s.open(ctx, share, done)
}

// takeOver brings the target of a switchover to the cutover and begins the epoch there. What
// groups committed at the old site is read while the last records come, as clients are held.
func (s *followed) takeOver(ctx context.Context, share failover.Share, from map[spillway.TopicPartition]spillway.SiteID, until map[spillway.TopicPartition]spillway.Offset) error {
	copying, stop := context.WithCancel(ctx)
	caughtUp, copied := make(chan struct{}), make(chan struct{})
	var errCopy error
	go func() {
		defer close(copied)
		errCopy = s.f.cfg.Mirror.CopyGroups(copying, s.id, share.Active, func(ctx context.Context) error {
			select {
			case <-caughtUp:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() { stop(); <-copied }()
	ends, err := s.f.cfg.Mirror.CatchUp(ctx, s.id, share.Epoch, from, until)
	if err != nil {
		return err
	}
	done := func(r *failover.SiteReport) { r.Stopped, r.Ends = true, offsetsOf(ends) }
	if _, _, exceeded := share.Cutover.Exceeded(offsetsOf(ends)); exceeded {
		// More than the cutover: whoever drives will give the move up.
		return s.report(ctx, share.Epoch, done)
	}
	close(caughtUp)
	position, err := s.f.cfg.Mirror.OpenEpoch(ctx, s.id, share.Epoch, share.Mask, startsOf(share.Start))
	<-copied
	if err := errors.Join(err, errCopy); err != nil {
		return err
	}
	return s.report(ctx, share.Epoch, func(r *failover.SiteReport) {
		done(r)
		r.Hiding, r.HidingMore = s.hides() // what came since was found where the epoch begins
		r.GroupsCopied, r.Opened, r.MapPosition = true, true, position
	})
}

// hides is what the logs of the share's topics hide here, as it is known now: others may
// have written since that was said last. Whether it matters is for whoever drives to say,
// who knows what other sites compact.
func (s *followed) hides() (hiding map[string]string, more int) {
	s.mu.Lock()
	compacted := s.mu.compacted
	s.mu.Unlock()
	if compacted == nil {
		compacted = new([]string)
	}
	return s.some(s.f.cfg.Mirror.Map().Unfit(), *compacted)
}

// owed is how many of the share's partitions began anew here and do not have all yet that
// they had.
func (s *followed) owed() (partitions int) {
	for tp := range s.f.cfg.Mirror.Map().Owed() {
		if s.f.cfg.Topology.Has(s.group, tp) {
			partitions++
		}
	}
	return partitions
}

// open starts the epoch at the target. The other sites follow it from now on; the
// old site stops, and closes its own range only once the epoch is open, since an
// abort may still give the share back to it.
func (s *followed) open(ctx context.Context, share failover.Share, before ...func(*failover.SiteReport)) error {
	report := func(change func(*failover.SiteReport)) error {
		return s.report(ctx, share.Epoch, func(r *failover.SiteReport) {
			for _, b := range before {
				b(r)
			}
			change(r)
		})
	}
	m := s.f.cfg.Mirror
	switch s.f.site {
	case share.Target:
		begun, err := m.Begun(ctx, s.id, share.Epoch)
		if err != nil {
			return err
		}
		removed := make(chan struct{})
		go func() {
			defer close(removed)
			if !begun { // else this step is taken again, and clients may have joined
				s.removeMembers(ctx, share)
			}
		}()
		start := m.OpenEpoch
		if share.Kind == failover.Failover {
			start = m.OpenLossyEpoch
		}
		position, err := start(ctx, s.id, share.Epoch, share.Mask, startsOf(share.Start))
		<-removed // who joins from now on is not removed
		if err != nil {
			return err
		}
		return report(func(r *failover.SiteReport) { r.Opened, r.MapPosition = true, position })
	case share.Active:
		if share.Kind == failover.Switchover {
			differs, err := s.arm(ctx, share)
			if err != nil {
				return err
			}
			if differs != "" { // whoever drives will give the move up
				return report(func(r *failover.SiteReport) { r.Differs = differs })
			}
		}
	default:
		// A failover may burn offsets, and may yet be given up: who followed its
		// target would count them as seen. So others follow it once it is open.
		if share.Kind == failover.Switchover {
			if err := s.follow(ctx, share, share.Epoch, share.Target); err != nil {
				return err
			}
		}
	}
	return report(func(r *failover.SiteReport) { r.Armed = true })
}

// removeMax bounds how long a failover waits for members to be removed.
const removeMax = 2 * time.Second

// removeMembers removes the members of consumer groups that have stayed from when this site
// served before. Nothing is lost where that fails, so a failover does not fail with it.
func (s *followed) removeMembers(ctx context.Context, share failover.Share) {
	ctx, cancel := context.WithTimeout(ctx, removeMax)
	defer cancel()
	if err := s.f.cfg.Mirror.RemoveMembers(ctx, s.id, share.Epoch); err != nil {
		s.f.cfg.Events.followFailed(s.id, share.State, fmt.Errorf("consumer groups go on only once the sessions of members that site %s had before have timed out: %w", s.f.site, err))
	}
}

// arm makes sure that the old site will follow: with ack.sites nobody is answered
// before it does, and from OPEN on nothing can be given up. It has no flow yet, for
// its map still has the old epoch open. Its log must end at the cutover; what lies
// behind would be unreplicated.
func (s *followed) arm(ctx context.Context, share failover.Share) (differs string, err error) {
	armed := make(chan error, 1)
	go func() { armed <- s.f.cfg.Mirror.Arm(ctx, s.id, share.Epoch, share.Target) }()
	ends, err := s.logEnds(ctx)
	if err := errors.Join(<-armed, err); err != nil {
		return "", err
	}
	for tp, end := range ends {
		if cutover := share.Cutover.Get(tp); cutover >= 0 && end != cutover {
			return fmt.Sprintf("%s at %s ends at %d, the cutover is %d: somebody writes past the gateways, or the log was cut short", tp, s.f.site, end, cutover), nil
		}
	}
	return "", nil
}

func offsetsOf(m map[spillway.TopicPartition]spillway.Offset) failover.PartitionOffsets {
	p := failover.PartitionOffsets{}
	for tp, o := range m {
		p.Set(tp, o)
	}
	return p
}

func startsOf(p failover.PartitionOffsets) map[spillway.TopicPartition]spillway.Offset {
	m := map[spillway.TopicPartition]spillway.Offset{}
	p.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		if o >= 0 {
			m[tp] = o
		}
	})
	return m
}
