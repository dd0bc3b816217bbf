package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spillway"
	"spillway/mirror/workers"
)

// Under a control plane the mirror processes of a site share what flows in for a share
// while it stands still. One of them leads: it does what a move asks of the site, and has
// all to itself meanwhile (docs/decisions/0023).

// ErrNotShared means that this mirror is the only one of its site.
var ErrNotShared = errors.New("this mirror shares its site with no other process")

// ErrNoLead means that the process that leads has not begun with the epoch, so nobody
// may help it: it closes first what the site had served.
var ErrNoLead = errors.New("the mirror process that leads the site has not begun with this epoch yet")

// ErrNotLeading means that another process leads, or may do so by now.
var ErrNotLeading = errors.New("another mirror process of the site leads by now")

// ranks say before whom a worker of a share goes: who leads a move before who only knows
// the epoch, and a later epoch before an older one. So who has not heard of a move owns
// nothing as soon as somebody acts in it.
type ranks struct {
	joined spillway.Epoch // in which this worker lets the share flow
	led    spillway.Epoch // of the move in which it leads, while the lease is held
	lease  Lease          // nil: it leads none
}

func (r ranks) leads(now time.Time) bool { return r.lease != nil && r.lease.Held(now) }

// rankOf who lets a share flow in an epoch; who leads the move to it has one more.
func rankOf(epoch spillway.Epoch) int64 { return 2 * int64(epoch) }

func (r ranks) at(now time.Time) int64 {
	if r.leads(now) {
		return max(rankOf(r.joined), rankOf(r.led)+1)
	}
	return rankOf(r.joined)
}

// crewOf is who shares what flows in for a share; nil: nobody.
func (m *Mirror) crewOf(id spillway.ShareID) *crew {
	if m.crew != nil {
		return m.crew
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.mu.shares[id]; s != nil {
		return s.crew
	}
	return nil
}

// shareOut makes this process one of those that share what flows in for a share. The
// caller holds mu.
func (m *Mirror) shareOut(s *share) {
	if m.config.Lead == nil {
		return
	}
	s.crew = newCrew(m, "share/"+s.id.String(), "", newMeanings().ofShare)
	s.crew.ranked = func() { m.yield(s) }
	s.crew.begin()
}

// mean says what this worker is there for, before it has said anything: processes may have
// other configurations while one is rolled out, and who does not know of a topic must not
// own it.
func (c *crew) mean(a Assignment) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isHere() {
		c.mu.worker = c.newWorker(meaningOfShare(a))
	}
}

// yield stops what flows here once another worker has a higher rank: that one leads a
// move, or knows a later epoch. What was sent is waited for, and then it is said that
// nothing is held any more. What was assigned begins again when no other one has a higher
// rank: that one may have died before it heard of this epoch, and nobody says it once more.
// It returns at once.
func (m *Mirror) yield(s *share) {
	if s.yielding.Swap(true) {
		return
	}
	m.goroutines.Go(func() {
		s.moving.Lock()
		defer s.moving.Unlock()
		s.yielding.Store(false)
		switch outranked := s.crew.outranked(); {
		case outranked && s.flow != nil:
			s.halt()
			s.yielded = !s.helped // who helps asks again and again
		case !outranked && s.yielded && m.reader.Floor(s.id) <= s.assignment.Epoch:
			if src, err := m.source(s.assignment.Source); err == nil { // else it was closed
				s.yielded = false
				m.flowIn(s, s.assignment, src)
			}
		}
	})
}

// join has the worker share what flows in an epoch. It leads no move to that one any more.
func (c *crew) join(epoch spillway.Epoch) {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.mu.rank.joined = max(c.mu.rank.joined, epoch)
	if c.mu.rank.led <= epoch {
		c.mu.rank.led, c.mu.rank.lease = 0, nil
	}
	c.mu.Unlock() // nobody waits for it
}

// lead puts the worker before all that do not lead a move to the epoch or a later one.
func (c *crew) lead(epoch spillway.Epoch) error {
	lease := c.m.config.Lead()
	if lease == nil {
		return ErrNotLeading
	}
	c.stepBack(false)
	c.mu.Lock()
	c.mu.rank.led, c.mu.rank.lease = epoch, lease
	c.mu.Unlock()
	if len(c.others()) > 0 {
		c.hurry()
	}
	return nil
}

func (c *crew) leading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.rank.leads(c.m.config.Now())
}

// outranked tells whether all that this worker may have is another one's, by what it is
// about to say of its own rank: the table may have its word of before, which was higher.
func (c *crew) outranked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.rank.at(c.m.config.Now()) < c.table().RankBeside(c.m.config.Worker)
}

// Gather has this process, which leads, take all that flows in for a share to itself, for
// the move to an epoch. It waits for nothing: what the move asks for later does.
func (m *Mirror) Gather(id spillway.ShareID, epoch spillway.Epoch) error {
	s, err := m.share(id)
	if err != nil || s.crew == nil {
		return err
	}
	return s.crew.lead(epoch)
}

// exclusive is a share that this process has to itself.
type exclusive struct {
	context.Context // ends when it is asked for by another one
	lease           Lease
	end             func()
}

// held tells whether no other process touches a partition of the share. Where nobody
// shares it the lease of the partition says so.
func (w exclusive) held(p *partition, now time.Time) bool {
	if w.lease == nil {
		return p.lease.Held(now)
	}
	return w.lease.Held(now)
}

// lost is an error once another process may have the share to itself.
func (w exclusive) lost() error {
	if w.lease != nil && !w.lease.Held(time.Time{}) {
		return ErrNotLeading
	}
	return nil
}

// notLeading is an error while another process may lead.
func (m *Mirror) notLeading() error {
	if m.config.Lead != nil && m.config.Lead() == nil {
		return ErrNotLeading
	}
	return nil
}

// leads tells whether this process leads, or is the only one.
func (m *Mirror) leads() bool { return m.notLeading() == nil }

const wholeLook = leaseRenew / 10

// exclusive waits until no other process of the site has anything of a share in work. All
// that those have said in the map is read then.
func (m *Mirror) exclusive(ctx context.Context, s *share, epoch spillway.Epoch) (exclusive, error) {
	c := s.crew
	if c == nil {
		return exclusive{ctx, nil, func() {}}, nil
	}
	if err := c.lead(epoch); err != nil {
		return exclusive{}, fmt.Errorf("share %s at site %s: %w", s.id, m.site, err)
	}
	for {
		changed := c.changed()
		if l, ok := c.take(workers.Whole); ok {
			ctx, cancel := context.WithCancelCause(ctx)
			m.goroutines.Go(func() { c.watchWhole(ctx, l, cancel) })
			return exclusive{ctx, l, func() { cancel(nil); l.release() }}, nil
		}
		if !c.leading() {
			return exclusive{}, fmt.Errorf("share %s at site %s: %w", s.id, m.site, ErrNotLeading)
		}
		select {
		case <-changed:
		case <-time.After(wholeLook):
		case <-ctx.Done():
			return exclusive{}, fmt.Errorf("share %s at site %s: wait for %v to stop: %w", s.id, m.site, c.others(), ctx.Err())
		}
	}
}

// watchWhole ends what is done with a share when another process asks for it: that one
// waits until it is over.
func (c *crew) watchWhole(ctx context.Context, l *crewLease, lost context.CancelCauseFunc) {
	for {
		changed := c.changed()
		if l.asked() || !l.Held(c.m.config.Now()) {
			lost(ErrNotLeading)
			return
		}
		select {
		case <-changed:
		case <-time.After(wholeLook):
		case <-ctx.Done():
			return
		}
	}
}

// Join lets a share flow here beside the process that leads, as far as its partitions and
// groups become this one's. It changes nothing at the site by itself: ErrNoLead means that
// the leading process is not ready, and that it is to be asked again. Of an assignment
// without a source it stops what flows.
func (m *Mirror) Join(ctx context.Context, a Assignment) error {
	s, err := m.share(a.Share)
	if err != nil {
		return err
	}
	if s.crew == nil {
		return ErrNotShared
	}
	s.crew.mean(a)
	s.moving.Lock()
	defer s.moving.Unlock()
	if a.Source == "" {
		s.halt()
		s.assignment, s.assigned = a, true
		s.setFlow(nil)
		return nil
	}
	if s.flow != nil && s.sameAs(a) {
		return nil
	}
	if floor := m.reader.Floor(a.Share); floor > a.Epoch {
		return fmt.Errorf("share %s, epoch %d at site %s: %w: %d", a.Share, a.Epoch, m.site, ErrFenced, floor)
	} else if floor < a.Epoch || s.crew.table().Rank() != rankOf(a.Epoch) {
		return ErrNoLead
	}
	if err := m.idsApart(ctx); err != nil {
		return err
	}
	src, err := m.source(a.Source)
	if err != nil {
		return err
	}
	s.halt()
	s.assignment, s.assigned, s.helped, s.fence = a, true, true, max(s.fence, a.Epoch)
	m.flowIn(s, a, src)
	return nil
}
