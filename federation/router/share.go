package router

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/mirror/offsetmap"
)

// Term is an epoch of a share that this gateway serves: where, and how numbers
// are translated.
type Term struct {
	Epoch spillway.Epoch
	Site  spillway.SiteID
	Mask  uint64
	// Base is the epoch in which mask and numbering began: Epoch itself, or an
	// older one if moves were aborted since.
	Base spillway.Epoch
	// Past are the terms before Base, oldest first, without those that only
	// continued another.
	Past []failover.Term
	// Opened is when this gateway began to serve Base, or earlier if it knows.
	Opened time.Time
	// Began is the same of Epoch.
	Began time.Time
}

// LeaderEpoch is what clients see.
func (t Term) LeaderEpoch() int32 { return spillway.VirtualLeaderEpoch(t.Epoch) }

// Share is one share as this gateway serves it. The owner (package federation)
// opens and closes it as the record in the store says; requests enter and
// leave it.
//
//	A  nothing enters while it is closed
//	B  when Closed and Idle, nothing of the term is on its way to the site
//	C  once a barrier was confirmed, the term before it acknowledges nothing,
//	   but what is durable at other sites and was not lost with this one
type Share struct {
	// Set once, read by anyone.
	ID    spillway.ShareID
	Group spillway.FailoverGroup

	adopting atomic.Bool // clients may go past the gateways
	asides   asides      // leaves that are asked for aside

	mu struct {
		sync.Mutex
		record   failover.Share
		term     Term
		open     bool
		moved    time.Time // when it last began to drain, closed, opened for another term, or had its leaders laid out
		inFlight int
		lanes    map[*Lane]int // upstream connections with produces on their way
		silent   map[*Lane]bool
		unsure   map[spillway.SiteID]time.Time // when a produce to the site last lost its connection before its answer
		changed  chan struct{}                 // closed at the next change of record, term or open
		// first is the view of all partitions that no map knows, made for the
		// term that began with firstBase.
		first     *offsetmap.View
		firstBase spillway.Epoch
		idle      chan struct{} // closed when inFlight is 0; nil while nobody waits

		unwritten int            // acknowledgements that wait for other parts of their answer
		written   chan struct{}  // closed when unwritten is 0; nil while nobody waits
		sealed    spillway.Epoch // newest term behind a confirmed barrier
	}
}

// first is the view of a partition of which no map speaks, in the share's first
// term: all offsets of the site, moved by the configured constant.
func (s *Share) first(t Term) *offsetmap.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.first == nil || s.mu.firstBase != t.Base {
		m := offsetmap.New()
		m.Apply(offsetmap.EpochStart{Epoch: t.Base, Virtual: s.Group.OffsetBase, Mask: t.Mask})
		s.mu.first, s.mu.firstBase = m.View(), t.Base
	}
	return s.mu.first
}

// NewShare is closed and has no record yet.
func NewShare(id spillway.ShareID, group spillway.FailoverGroup) *Share {
	s := &Share{ID: id, Group: group}
	s.mu.changed = make(chan struct{})
	s.mu.lanes = make(map[*Lane]int)
	s.mu.silent = make(map[*Lane]bool)
	s.mu.unsure = make(map[spillway.SiteID]time.Time)
	return s
}

// Adopting tells whether clients may go past the gateways, as far as is known.
func (s *Share) Adopting() bool { return s.adopting.Load() }

// Record is the newest record seen; its Epoch is 0 before the first one.
func (s *Share) Record() failover.Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.record
}

// Epoch is the term in force, or the last one that was.
func (s *Share) Epoch() spillway.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.record.Terms) == 0 {
		return 1
	}
	return servedEpoch(s.mu.record)
}

// Changed is closed when anything changes that a held request waits for. Ask
// for it before looking, or a change is missed.
func (s *Share) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.changed
}

// Serving is the term that this gateway serves; false while it holds. It does
// not look at the lease.
func (s *Share) Serving() (Term, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.term, s.mu.open
}

// Holds tells whether the share is still served in the term.
func (s *Share) Holds(t Term) bool {
	now, serving := s.Serving()
	return serving && now.Epoch == t.Epoch
}

// SetRecord takes a newer record. A share that the record does not serve, or
// serves elsewhere or in another epoch, closes at once; Open opens it.
func (s *Share) SetRecord(r failover.Share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.State == failover.Draining && s.mu.record.State != failover.Draining {
		s.mu.moved = time.Now()
	}
	s.mu.record = r
	s.adopting.Store(s.Group.Adopting || r.Adoption != nil)
	if site, ok := r.Serves(); !ok || site != s.mu.term.Site || servedEpoch(r) != s.mu.term.Epoch {
		if s.mu.open {
			s.mu.moved = time.Now()
		}
		s.mu.open = false
	}
	s.signal()
}

// servedEpoch is the term in force: while DRAINING the record's epoch is
// already that of the term being opened.
func servedEpoch(r failover.Share) spillway.Epoch { return r.Current().Epoch }

// Open begins to serve the term, if the newest record still says so.
func (s *Share) Open(t Term) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if site, ok := s.mu.record.Serves(); !ok || site != t.Site || servedEpoch(s.mu.record) != t.Epoch {
		return false
	}
	if !s.mu.open || s.mu.term.Epoch != t.Epoch {
		s.mu.moved = time.Now()
	}
	s.mu.term, s.mu.open = t, true
	s.signal()
	return true
}

// givenUp tells whether a move of the share was given up lately: the term in force
// only continues another.
func (s *Share) givenUp(lately time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.open && s.mu.term.Epoch != s.mu.term.Base && time.Since(s.mu.term.Began) < lately
}

// Wake makes held requests look again.
func (s *Share) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signal()
}

func (s *Share) signal() {
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// enter lets one produce towards the site in; leave must follow.
func (s *Share) enter(t Term, lane *Lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.open || s.mu.term.Epoch != t.Epoch {
		return false
	}
	s.mu.inFlight++
	s.mu.lanes[lane]++
	return true
}

// leave ends what enter began. unsure: its connection died before the answer,
// so the site may or may not have it, now or a moment later. silent: it was
// sent and has no answer (acks 0), so a barrier must follow.
func (s *Share) leave(lane *Lane, unsure, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unsure {
		s.mu.unsure[lane.Site] = time.Now()
	}
	switch {
	case silent && lane.alive():
		s.mu.silent[lane] = true
	case silent: // no barrier can follow any more
		s.mu.unsure[lane.Site] = time.Now()
	}
	if s.mu.lanes[lane]--; s.mu.lanes[lane] == 0 {
		delete(s.mu.lanes, lane)
	}
	if s.mu.inFlight--; s.mu.inFlight == 0 && s.mu.idle != nil {
		close(s.mu.idle)
		s.mu.idle = nil
	}
}

// idle returns a channel that is closed when nothing is in flight.
func (s *Share) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.inFlight == 0 {
		done := make(chan struct{})
		close(done)
		return done
	}
	if s.mu.idle == nil {
		s.mu.idle = make(chan struct{})
	}
	return s.mu.idle
}

// promise counts an acknowledgement that is to be written with its answer;
// keep must follow.
func (s *Share) promise() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.unwritten++
}

// keep ends what promise began: it tells whether the acknowledgement may be
// written now. durable: ack.sites have the batch, so it outlives the term where
// nothing is lost in between.
func (s *Share) keep(t Term, durable bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.unwritten--; s.mu.unwritten == 0 && s.mu.written != nil {
		close(s.mu.written)
		s.mu.written = nil
	}
	return t.Epoch > s.mu.sealed || durable && !s.mu.record.Loses(t.Epoch)
}

// sealed tells whether the term makes no acknowledgements any more.
func (s *Share) sealed(t Term) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.Epoch <= s.mu.sealed
}

// seal waits for acknowledgements that wait for other parts of their answer,
// but not for long: those of another share may take theirs. From then on the
// term makes none (invariant C).
func (s *Share) seal(ctx context.Context) error {
	s.mu.Lock()
	written := s.mu.written
	switch {
	case s.mu.unwritten == 0:
		written = make(chan struct{})
		close(written)
	case written == nil:
		written = make(chan struct{})
		s.mu.written = written
	}
	s.mu.Unlock()
	late := time.NewTimer(unwrittenMax)
	defer late.Stop()
	select {
	case <-written:
	case <-late.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.open {
		s.mu.sealed = max(s.mu.sealed, s.mu.term.Epoch)
	}
	return nil
}

// busyLanes are the upstream connections with produces of the share in flight.
func (s *Share) busyLanes() []*Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]*Lane, 0, len(s.mu.lanes))
	for l := range s.mu.lanes {
		lanes = append(lanes, l)
	}
	return lanes
}

// takeSilent returns the upstream connections that need a barrier, once.
func (s *Share) takeSilent() []*Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]*Lane, 0, len(s.mu.silent))
	for l := range s.mu.silent {
		lanes = append(lanes, l)
	}
	clear(s.mu.silent)
	return lanes
}

// settleSilent drops a connection that is about to be closed from those that
// need a barrier; sure: it has passed one.
func (s *Share) settleSilent(l *Lane, sure bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.silent[l] && !sure {
		s.mu.unsure[l.Site] = time.Now()
	}
	delete(s.mu.silent, l)
}

func (s *Share) markUnsure(l *Lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.unsure[l.Site] = time.Now()
}

// unsureSince tells whether a produce to the site of the term lost its connection after
// from. What went to another site cannot move the end of this one's log.
func (s *Share) unsureSince(from time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.unsure[s.mu.term.Site].After(from)
}

// ackSites is how many sites must have a record before its producer is
// answered. A degrade is in the record before the first weaker acknowledgement (C17).
func (s *Share) ackSites() int {
	return s.Record().AckSites(s.Group.Ack.Sites)
}
