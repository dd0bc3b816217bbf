package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

	// Owned by run.
	reports map[spillway.Epoch]*siteReport
	// The degrade that the gap log tells of, and whether as one that goes on.
	degrades int
	degraded bool
	terms    map[spillway.Epoch]failover.Term // read from the history
	term     uint64                           // of the writer lease in which act works

	mu struct {
		sync.Mutex
		share   failover.Share
		problem string
		// compacted is nil until the topics' configurations were read once.
		compacted *[]string
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

// run acts on one record after the other; a newer one ends what is under way.
func (s *followed) run(ctx context.Context) {
	s.reports, s.terms = map[spillway.Epoch]*siteReport{}, map[spillway.Epoch]failover.Term{}
	var version uint64
	var share failover.Share
	pending, retry := false, followRetryMin
	for {
		var again <-chan time.Time
		if pending {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
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

// interruptible acts until a newer record than version comes. The same record
// comes again with every change of another share, and after an interruption of
// the store: it ends nothing.
func (s *followed) interruptible(ctx context.Context, share failover.Share, version uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.told(ctx, share) }()
	for {
		select {
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
	if changed && !errors.Is(err, errNotWriter) && share.State != failover.Stable {
		if err := s.report(ctx, share.Epoch, func(r *failover.SiteReport) { r.Problem = text }); err != nil && ctx.Err() == nil {
			s.f.cfg.Events.followFailed(s.id, share.State, err)
		}
	}
}

// errNotWriter: the writer lease was lost while this process acted.
var errNotWriter = errors.New("another mirror process may write into this site by now")

// act does what one record asks of this site, once this process may write there.
// A newer record ends the wait.
func (s *followed) act(ctx context.Context, share failover.Share) error {
	term, err := s.f.cfg.Writer.term(ctx)
	if err != nil {
		return err
	}
	s.term = term
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

const restorePoll = 50 * time.Millisecond

// restore waits until this site has all that was acknowledged by fewer sites, and
// says so.
func (s *followed) restore(ctx context.Context, share failover.Share) error {
	for {
		if offsetsOf(s.f.cfg.Mirror.Ends(s.id)).Reach(share.Restore) {
			return s.report(ctx, share.Epoch, func(r *failover.SiteReport) { r.Restored = share.Degrades })
		}
		if pause(ctx, restorePoll); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
