package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// followed is one share at this site.
type followed struct {
	f      *Follower
	group  spillway.FailoverGroup
	id     spillway.ShareID
	newest chan coordination.Entry // the newest record only
	// settled holds the newest record that this site follows, until recount takes it.
	settled chan failover.Share

	// Owned by run.
	reports map[spillway.Epoch]*siteReport
	// The degrade that the gap log tells of, and whether as one that goes on.
	degrades int
	degraded bool
	terms    map[spillway.Epoch]failover.Term // read from the history

	term atomic.Uint64 // of the writer lease in which act works, or has worked; 0: none

	mu struct {
		sync.Mutex
		share   failover.Share
		problem string
		// compacted is nil until the topics' configurations were read once.
		compacted *[]string
		apart     bool // no log ends were told of it when it was asked for alone
	}
}

// offer hands over a record, dropping one that nobody took yet.
func (s *followed) offer(e coordination.Entry) {
	for {
		select {
		case s.newest <- e:
			return
		default:
		}
		select {
		case <-s.newest:
		default:
		}
	}
}

const (
	followRetryMin = 50 * time.Millisecond
	followRetryMax = time.Second
)

// lapsed tells whether the writer lease was lost since act had it. What was done is to be
// done again then: another process may have led in between, and what belonged to the term
// is void.
func (s *followed) lapsed() bool {
	term := s.term.Load()
	return term != 0 && !s.f.cfg.Writer.holds(term)
}

// run acts on one record after the other, and again when the writer lease was lost; a
// newer record, and the end of the lease, end what is under way.
func (s *followed) run(ctx context.Context) {
	s.reports, s.terms = map[spillway.Epoch]*siteReport{}, map[spillway.Epoch]failover.Term{}
	var version uint64
	var share failover.Share
	pending, retry := false, followRetryMin
	for {
		changed := s.f.cfg.Writer.changed()
		var again <-chan time.Time
		if pending {
			again = time.After(retry)
		} else if s.lapsed() {
			again = time.After(0)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-again:
		case e := <-s.newest:
			if e.Version <= version && e.Version != 0 {
				continue
			}
			next, err := failover.Decode(e.Value)
			if err != nil {
				s.f.cfg.Events.followFailed(s.id, "", err)
				continue
			}
			version, share, retry = e.Version, next, followRetryMin
			s.mu.Lock()
			s.mu.share = share
			s.mu.Unlock()
		}
		err := s.interruptible(ctx, share, version)
		if ctx.Err() != nil {
			return
		}
		pending = err != nil
		s.problem(ctx, share, err)
		if err != nil {
			retry = min(retry*2, followRetryMax)
		}
	}
}

// interruptible acts until a newer record than version comes, or the writer lease is
// lost. The same record comes again with every change of another share, and after an
// interruption of the store: it ends nothing.
func (s *followed) interruptible(ctx context.Context, share failover.Share, version uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	s.term.Store(0)
	go func() { done <- s.told(ctx, share) }()
	for {
		changed := s.f.cfg.Writer.changed()
		if s.lapsed() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				return err
			}
			return nil // run begins anew
		}
		select {
		case <-changed:
		case err := <-done:
			return err
		case e := <-s.newest:
			if e.Version != 0 && e.Version <= version {
				continue
			}
			cancel()
			err := <-done
			s.offerBack(e)
			if errors.Is(err, context.Canceled) {
				return nil // the newer record says what to do
			}
			return err
		}
	}
}

// asked names what a state of a move asks of a site; empty: nothing.
func asked(share failover.Share, site spillway.SiteID) string {
	target, planned := share.Target == site, share.Kind == failover.Switchover
	switch {
	case share.Abort != "":
		return ""
	case share.State == failover.Draining, share.State == failover.Fencing, share.State == failover.Fenced && planned:
		return "follow"
	case share.State == failover.Fenced:
		return "stop following"
	case share.State == failover.Cutover && target && planned:
		return "catch up, open the epoch"
	case share.State == failover.Cutover && planned && share.Active == site:
		return "make ready to follow"
	case share.State == failover.Cutover && (target || planned):
		return "catch up"
	case share.State == failover.CaughtUp && target:
		return "open the epoch"
	case share.State == failover.Open:
		return "settle"
	}
	return ""
}

// told acts, and tells of what belongs to a move.
func (s *followed) told(ctx context.Context, share failover.Share) error {
	begun := time.Now()
	err := s.act(ctx, share)
	if what := asked(share, s.f.site); what != "" {
		fault := err
		if errors.Is(err, context.Canceled) {
			fault = nil // a newer record says what to do
		}
		s.f.cfg.Events.actionDone(ActionInfo{
			Share: s.id, Epoch: share.Epoch, State: share.State, What: what, Site: s.f.site, Started: begun, Ended: time.Now(), Err: fault,
		})
	}
	return err
}

// offerBack puts a record back unless a newer one came meanwhile.
func (s *followed) offerBack(e coordination.Entry) {
	select {
	case s.newest <- e:
	default:
	}
}

func (s *followed) problem(ctx context.Context, share failover.Share, err error) {
	text := ""
	if err != nil {
		text = err.Error()
		s.f.cfg.Events.followFailed(s.id, share.State, err)
	}
	s.mu.Lock()
	changed := s.mu.problem != text
	s.mu.problem = text
	s.mu.Unlock()
	if changed && !errors.Is(err, errNotLeading) && share.State != failover.Stable {
		if err := s.report(ctx, share.Epoch, func(r *failover.SiteReport) { r.Problem = text }); err != nil && ctx.Err() == nil {
			s.f.cfg.Events.followFailed(s.id, share.State, err)
		}
	}
}

// errNotLeading: the writer lease was lost while this process acted.
var errNotLeading = errors.New("another mirror process may lead this site by now")

// act does what one record asks of this site, once this process may write there.
// A newer record ends the wait.
func (s *followed) act(ctx context.Context, share failover.Share) error {
	if err := s.help(ctx, share); err != nil {
		return err
	}
	term, err := s.f.cfg.Writer.term(ctx)
	if err != nil {
		return err
	}
	s.term.Store(term)
	if share, err = untrimmed(ctx, s.f.cfg.Store, s.f.keys, share, s.terms); err != nil {
		return err
	}
	m := s.f.cfg.Mirror
	if err := m.Know(s.assignment(share, share.Current().Epoch, share.Active)); err != nil {
		return err
	}
	switch {
	case share.Abort != "":
		return nil // stay as it is until the old site goes on
	case share.State == failover.Stable || share.State == failover.Open:
		return s.settle(ctx, share)
	case share.State == failover.Draining, share.State == failover.Fencing, share.State == failover.Fenced && share.Kind == failover.Switchover:
		if share.Target == s.f.site && share.State != failover.Draining {
			m.HurryGroups(s.id) // their members have committed for the last time
		}
		if share.Active != s.f.site && share.State != failover.Draining {
			// What CUTOVER asks for is done by one process.
			if err := m.Gather(s.id, share.Epoch); err != nil {
				return err
			}
		}
		return s.follow(ctx, share, share.Current().Epoch, share.Active)
	case share.State == failover.Fenced:
		return s.stop(ctx, share)
	case share.State == failover.Cutover:
		return s.catchUp(ctx, share)
	case share.State == failover.CaughtUp:
		return s.open(ctx, share)
	}
	return nil
}

// A process that helps asks its mirror often while that one waits for who leads, and then
// only to see whether what flows was stopped.
const (
	helpEvery = 20 * time.Millisecond
	helpLook  = 500 * time.Millisecond
)

// help lets the share flow beside the process that leads, while it stands still, and until
// this process leads. During a move it does nothing: the one that leads takes what it needs.
func (s *followed) help(ctx context.Context, share failover.Share) error {
	if s.f.leads() || share.State != failover.Stable || share.Abort != "" {
		return nil
	}
	share, err := untrimmed(ctx, s.f.cfg.Store, s.f.keys, share, s.terms)
	if err != nil {
		return err
	}
	assignment := s.assignment(share, share.Epoch, share.Active)
	for {
		changed := s.f.cfg.Writer.changed()
		if s.f.leads() {
			return ctx.Err()
		}
		if older := s.f.cfg.Writer.older(); older != "" {
			still := assignment
			still.Source = ""
			if err := s.f.cfg.Mirror.Join(ctx, still); err != nil && !errors.Is(err, mirror.ErrNotShared) {
				return err
			}
			return fmt.Errorf("mirror process %s leads site %s, and is of a version that writes all partitions itself: this one stands still until that one is upgraded or stopped", older, s.f.site)
		}
		err := s.f.cfg.Mirror.Join(ctx, assignment)
		next := helpLook
		switch {
		case errors.Is(err, mirror.ErrNotShared):
			return nil
		case errors.Is(err, mirror.ErrNoLead):
			next = helpEvery
		case err != nil:
			return err
		}
		timer := time.NewTimer(next)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		if timer.Stop(); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (s *followed) assignment(share failover.Share, epoch spillway.Epoch, source spillway.SiteID) mirror.Assignment {
	a := mirror.Assignment{
		Share: s.id, Topics: s.group.Topics, ConsumerGroups: s.group.ConsumerGroups, Epoch: epoch, OffsetBase: s.group.OffsetBase, FollowDeletions: s.group.FollowDeletions,
		Match: func(topic string) bool {
			return s.f.cfg.Topology.HasTopic(s.group, topic)
		},
		MatchGroup: func(group string) bool {
			g, ok := s.f.cfg.Topology.GroupOfConsumerGroup(group)
			return ok && g.Name == s.group.Name
		},
	}
	if siblings := s.group.Siblings; siblings.Of != "" {
		a.Owns = func(tp spillway.TopicPartition) bool { return s.f.cfg.Topology.Has(s.group, tp) }
		a.Total = siblings.Total()
	}
	if source != s.f.site {
		a.Source = source
	}
	for _, t := range share.Terms {
		a.Terms = append(a.Terms, mirror.Term{Epoch: t.Epoch, Site: t.Site, Bound: t.Bound})
		if t.Epoch == epoch {
			a.Mask = t.Mask
		}
	}
	if _, known := share.Term(epoch); !known { // about to open: a switchover
		next := failover.Term{Epoch: epoch, Site: source, Start: share.Start, Verified: share.Cutover}
		a.Terms = append(a.Terms, mirror.Term{Epoch: epoch, Site: source, Bound: next.Bound})
		a.Mask = share.Mask
	}
	return a
}

func (s *followed) follow(ctx context.Context, share failover.Share, epoch spillway.Epoch, source spillway.SiteID) error {
	return s.f.cfg.Mirror.Assign(ctx, s.assignment(share, epoch, source))
}

// settle follows the site that serves, and says so. What this site served itself
// is closed before that.
func (s *followed) settle(ctx context.Context, share failover.Share) error {
	if err := s.follow(ctx, share, share.Epoch, share.Active); err != nil {
		return err
	}
	if err := s.tellDegrade(ctx, share); err != nil {
		return err
	}
	if share.State == failover.Stable {
		s.settledAt(share)
		for e := range s.reports {
			if e < share.Epoch {
				delete(s.reports, e)
			}
		}
		if share.Restore != nil && share.Active != s.f.site {
			return s.restore(ctx, share)
		}
		return nil
	}
	return s.report(ctx, share.Epoch, func(r *failover.SiteReport) { r.Armed = true })
}

// tellDegrade keeps the gap log of the site that serves: producers are, or were,
// answered before enough sites had their records (promise F).
func (s *followed) tellDegrade(ctx context.Context, share failover.Share) error {
	if share.Active != s.f.site || share.Degrades == 0 || (s.degrades == share.Degrades && s.degraded == share.Degraded) {
		return nil
	}
	detail := fmt.Sprintf("group %s: %s", share.Group, share.DegradedWhy)
	if !share.Degraded {
		detail += "; over at " + share.DegradedEnd.UTC().Format(time.RFC3339)
	}
	err := s.f.cfg.Mirror.LogGap(ctx, maptopic.Gap{
		ID: fmt.Sprintf("degrade-%s-%d", share.ID(), share.Degrades), Kind: maptopic.GapDegrade, At: share.DegradedAt, Epoch: share.DegradedEpoch,
		From: -1, To: -1, LocalFrom: -1, LocalTo: -1, Detail: detail,
	})
	if err != nil {
		return fmt.Errorf("write the degrade into the gap log: %w", err)
	}
	s.degrades, s.degraded = share.Degrades, share.Degraded
	return nil
}

const restorePoll = 200 * time.Millisecond // each look goes over all partitions

// restore waits until all in-sync replicas of this site have all that was acknowledged by
// fewer sites, and says so. Its brokers are asked only when their leaders have it.
func (s *followed) restore(ctx context.Context, share failover.Share) error {
	m := s.f.cfg.Mirror
	for {
		if offsetsOf(m.Ends(s.id)).Reach(share.Restore) {
			ends, err := m.DurableEnds(ctx, s.id)
			if err == nil && offsetsOf(ends).Reach(share.Restore) {
				return s.report(ctx, share.Epoch, func(r *failover.SiteReport) { r.Restored = share.Degrades })
			}
		}
		if pause(ctx, restorePoll); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
