package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// Mirror is what a follower drives: *mirror.Mirror.
type Mirror interface {
	Know(mirror.Assignment) error
	Assign(context.Context, mirror.Assignment) error
	Stop(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) (map[spillway.TopicPartition]spillway.Offset, error)
	CatchUp(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, from map[spillway.TopicPartition]spillway.SiteID, until map[spillway.TopicPartition]spillway.Offset) (map[spillway.TopicPartition]spillway.Offset, error)
	OpenEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (int64, error)
	Arm(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, next spillway.SiteID) error
	HurryGroups(spillway.ShareID)
	CopyGroups(ctx context.Context, id spillway.ShareID, from spillway.SiteID) error
	LogGap(context.Context, maptopic.Gap) error
	Ends(id spillway.ShareID) map[spillway.TopicPartition]spillway.Offset
	Flows() []mirror.FlowInfo
	Map() *maptopic.Reader
}

// FollowerConfig of the follower of one site.
type FollowerConfig struct {
	Topology *spillway.Topology
	Store    coordination.Store
	Cluster  broker.Cluster // of the site that the mirror feeds
	Mirror   Mirror
	Worker   string // unique among the site's mirror processes
	// Writer is the site's writer lease. Where several mirror processes run at a
	// site, only its holder does what the records ask and reports it: the others'
	// word that a flow has stopped would be worth nothing. Nil: this is the only one.
	Writer   *Writer
	Marks    string // address of the mark stream, for gateways
	LeaseTTL time.Duration
	Clock    coordination.Clock
	Events   Events
}

// Follower makes a site's mirror do what the share records ask of it, and tells
// what it did. Every step may be repeated: after a restart it begins with what
// the record says.
type Follower struct {
	cfg  FollowerConfig
	keys failover.Keys
	site spillway.SiteID
	boot string

	mu struct {
		sync.Mutex
		following map[string]failover.Following
	}
}

// NewFollower prepares a follower.
func NewFollower(cfg FollowerConfig) *Follower {
	if cfg.Clock == nil {
		cfg.Clock = coordination.SystemClock{}
	}
	f := &Follower{cfg: cfg, keys: failover.Keys(cfg.Topology.Name()), site: cfg.Cluster.Site(), boot: fmt.Sprintf("%016x", rand.Uint64())}
	f.mu.following = map[string]failover.Following{}
	return f
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease := coordination.NewLease(coordination.LeaseConfig{
		Store: f.cfg.Store, Key: f.keys.Mirror(f.site, f.cfg.Worker), Self: f.boot, Owner: bootOf, Value: f.leaseValue,
		TTL: f.cfg.LeaseTTL, Every: f.cfg.LeaseTTL / 4, Clock: f.cfg.Clock, Changed: f.cfg.Events.leaseLost,
	})
	wg.Go(func() { lease.Run(ctx) })
	shares := map[string]*followed{}
	for _, g := range f.cfg.Topology.Groups() {
		if !slices.Contains(g.Sites, f.site) {
			continue
		}
		id := spillway.ShareID{Group: g.Name}
		s := &followed{f: f, group: g, id: id, newest: make(chan coordination.Entry, 1)}
		shares[f.keys.Share(id)] = s
		wg.Go(func() { s.run(ctx) })
		wg.Go(func() { s.measure(ctx) })
		wg.Go(func() { s.policies(ctx) })
	}
	return f.cfg.Store.Watch(ctx, f.keys.Shares(), func(entries []coordination.Entry, err error) {
		if err != nil {
			f.cfg.Events.storeLost(err)
			return
		}
		for _, e := range entries {
			if s := shares[e.Key]; s != nil {
				s.offer(e)
			}
		}
	})
}

func (f *Follower) leaseValue(beat uint64) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := failover.MirrorLease{Site: f.site, Worker: f.cfg.Worker, Boot: f.boot, Marks: f.cfg.Marks, Following: f.mu.following, Beat: beat}
	if w := f.cfg.Writer; w != nil && !w.lease.Valid() {
		l.Waits, l.Following = true, nil
	}
	b, err := json.Marshal(l)
	if err != nil {
		panic(fmt.Sprintf("mirror lease cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}

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

type siteReport struct {
	failover.SiteReport
	version uint64
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
		Share: s.id, Topics: s.group.Topics, ConsumerGroups: s.group.ConsumerGroups, Epoch: epoch, OffsetBase: s.group.OffsetBase,
		Match: func(topic string) bool {
			g, ok := s.f.cfg.Topology.GroupOfTopic(topic)
			return ok && g.Name == s.group.Name
		},
		MatchGroup: func(group string) bool {
			g, ok := s.f.cfg.Topology.GroupOfConsumerGroup(group)
			return ok && g.Name == s.group.Name
		},
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

// stop ends the inbound flow for a failover and tells what is there (C8).
func (s *followed) stop(ctx context.Context, share failover.Share) error {
	if share.Active == s.f.site {
		return nil
	}
	ends, err := s.f.cfg.Mirror.Stop(ctx, s.id, share.Epoch)
	if err != nil {
		return err
	}
	return s.report(ctx, share.Epoch, func(r *failover.SiteReport) { r.Stopped, r.Ends = true, offsetsOf(ends) })
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
	ends, err := s.f.cfg.Mirror.CatchUp(ctx, s.id, share.Epoch, from, until)
	if err != nil {
		return err
	}
	done := func(r *failover.SiteReport) { r.Stopped, r.Ends = true, offsetsOf(ends) }
	if share.Kind == failover.Failover {
		return s.report(ctx, share.Epoch, done)
	}
	if share.Target != s.f.site {
		// Nothing is missing for the next step, and clients are held: it is taken at
		// once, and told in the same report. So does the target.
		return s.open(ctx, share, done)
	}
	if _, _, exceeded := share.Cutover.Exceeded(offsetsOf(ends)); exceeded {
		// More than the cutover: whoever drives will give the move up.
		return s.report(ctx, share.Epoch, done)
	}
	copied := make(chan error, 1)
	go func() { copied <- s.f.cfg.Mirror.CopyGroups(ctx, s.id, share.Active) }()
	position, err := s.f.cfg.Mirror.OpenEpoch(ctx, s.id, share.Epoch, share.Mask, startsOf(share.Start))
	if err := errors.Join(err, <-copied); err != nil {
		return err
	}
	return s.report(ctx, share.Epoch, func(r *failover.SiteReport) {
		done(r)
		r.GroupsCopied, r.Opened, r.MapPosition = true, true, position
	})
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
		position, err := m.OpenEpoch(ctx, s.id, share.Epoch, share.Mask, startsOf(share.Start))
		if err != nil {
			return err
		}
		return report(func(r *failover.SiteReport) { r.Opened, r.MapPosition = true, position })
	case share.Active:
		if share.Kind == failover.Switchover {
			if err := s.arm(ctx, share); err != nil {
				return err
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

// arm makes sure that the old site will follow: with ack.sites nobody is answered
// before it does, and from OPEN on nothing can be given up. It has no flow yet, for
// its map still has the old epoch open. Its log must end at the cutover; what lies
// behind would be unreplicated.
func (s *followed) arm(ctx context.Context, share failover.Share) error {
	armed := make(chan error, 1)
	go func() { armed <- s.f.cfg.Mirror.Arm(ctx, s.id, share.Epoch, share.Target) }()
	ends, err := s.logEnds(ctx)
	if err := errors.Join(<-armed, err); err != nil {
		return err
	}
	for tp, end := range ends {
		if cutover := share.Cutover.Get(tp); cutover >= 0 && end != cutover {
			return fmt.Errorf("%s at %s ends at %d, the cutover is %d: somebody writes past the gateways, or the log was cut short", tp, s.f.site, end, cutover)
		}
	}
	return nil
}

// report rewrites this site's report about an epoch. What was done in one term of
// the writer lease is reported in the same one: by the next, another process may
// have made a flow run that was reported as stopped.
func (s *followed) report(ctx context.Context, epoch spillway.Epoch, change func(*failover.SiteReport)) error {
	if !s.f.cfg.Writer.holds(s.term) {
		return errNotWriter
	}
	r := s.reports[epoch]
	if r == nil {
		r = &siteReport{}
		s.reports[epoch] = r
	}
	key := s.f.keys.SiteReport(s.id, epoch, s.f.site)
	for range 3 {
		next := r.SiteReport
		next.Site = s.f.site
		change(&next)
		value, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("report of %s: %w", s.f.site, err)
		}
		version, err := s.f.cfg.Store.Put(ctx, key, value, r.version)
		if err == nil {
			r.SiteReport, r.version = next, version
			return nil
		}
		// Written by this site before a restart, or by a write that was not answered.
		e, err := s.f.cfg.Store.Get(ctx, key)
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return fmt.Errorf("report of %s: %w", s.f.site, err)
		}
		r.version = e.Version
		if e.Version > 0 {
			if err := json.Unmarshal(e.Value, &r.SiteReport); err != nil {
				r.SiteReport = failover.SiteReport{}
			}
		}
	}
	return fmt.Errorf("report of %s about epoch %d: %w", s.f.site, epoch, coordination.ErrConflict)
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
