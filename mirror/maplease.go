package mirror

import (
	"context"
	"sync"
	"time"

	"spillway"
	"spillway/mirror/maptopic"
	"spillway/mirror/sitelog"
)

// Times of a lease that is kept in the target's map topic. The holder counts
// from when it sent the renewal that succeeded, a waiter from the last change
// that it saw, plus a margin.
const (
	leaseTTL    = 4 * time.Second
	leaseRenew  = time.Second
	leaseMargin = time.Second
)

// leaseFree is the beat of a lease that its holder has given up.
const leaseFree = -1

// mapLease is the right to feed a site, kept in that site's map topic by
// mirrors that have no control plane. The topic's order decides: the first
// record of a term has the lease.
type mapLease struct {
	m    *Mirror
	name string

	mu struct {
		sync.Mutex
		term  int64
		wrote int64         // the newest term that this worker asked for
		until time.Time     // 0 while not held
		held  chan struct{} // closed while held
	}
}

func newMapLease(m *Mirror, name string) *mapLease {
	l := &mapLease{m: m, name: name}
	l.mu.held = make(chan struct{})
	m.goroutines.Go(func() { l.keep(m.ctx) })
	return l
}

// mapTerm is the lease during one term.
type mapTerm struct {
	*mapLease
	term int64
}

// Held implements Lease.
func (t mapTerm) Held(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mu.term == t.term && now.Before(t.mu.until)
}

// claim waits until the lease is held.
func (l *mapLease) claim(ctx context.Context, _ spillway.TopicPartition) (Lease, error) {
	for {
		l.mu.Lock()
		held, term := l.mu.held, mapTerm{l, l.mu.term}
		l.mu.Unlock()
		if term.Held(l.m.config.Now()) {
			return term, nil
		}
		select {
		case <-held:
			if sitelog.Pause(ctx, leaseRenew/4) != nil {
				return nil, ctx.Err()
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *mapLease) set(term int64, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := !l.mu.until.IsZero()
	l.mu.term, l.mu.until = term, until
	switch {
	case until.IsZero() && before:
		l.mu.held = make(chan struct{})
	case !until.IsZero() && !before:
		close(l.mu.held)
	}
}

// keep takes the lease when it is free, renews it, and gives it up at the end.
func (l *mapLease) keep(ctx context.Context) {
	var seen maptopic.Lease
	var since time.Time
	for ctx.Err() == nil {
		now := l.m.config.Now()
		mine, err := l.look(ctx)
		switch current := l.m.reader.Lease(l.name); {
		case err != nil: // the site is away; what is held runs out by itself
		case mine, current.Beat == leaseFree, current.Term == 0, !since.IsZero() && current == seen && now.Sub(since) > patience(current):
			l.write(ctx, mine, current)
		case since.IsZero() || current != seen:
			seen, since = current, now
			l.set(0, time.Time{})
		}
		pause := leaseRenew
		if !mine {
			pause = leaseRenew / 4
		}
		_ = sitelog.Pause(ctx, pause)
	}
	l.release()
}

// patience is how long a lease must have stood still until another worker may take it.
// What a process that has ended had sent arrives within the margin.
func patience(l maptopic.Lease) time.Duration {
	if l.Holder.Gone() {
		return leaseMargin
	}
	return leaseTTL + leaseMargin
}

// look reads the map up to now and tells whether the lease is this worker's.
func (l *mapLease) look(ctx context.Context) (mine bool, err error) {
	if err := l.m.writer.EnsureTopic(ctx); err != nil {
		return false, err
	}
	bounded, cancel := context.WithTimeout(ctx, leaseTTL)
	defer cancel()
	if err := l.m.reader.CaughtUp(bounded); err != nil {
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	current := l.m.reader.Lease(l.name)
	return l.mu.term > 0 && current.Worker == l.m.config.Worker && current.Term == l.mu.term, nil
}

// write renews the lease, or tries to take it with the next term.
func (l *mapLease) write(ctx context.Context, mine bool, current maptopic.Lease) {
	next := maptopic.Lease{Worker: l.m.config.Worker, Term: current.Term, Beat: current.Beat + 1, Holder: maptopic.ThisProcess()}
	if !mine {
		next.Term++
	}
	l.mu.Lock()
	l.mu.wrote = next.Term
	l.mu.Unlock()
	sent := l.m.config.Now()
	bounded, cancel := context.WithTimeout(ctx, leaseTTL)
	defer cancel()
	position, err := l.m.writer.Save(bounded, maptopic.LeaseEntry(l.name, next))
	if err == nil {
		err = l.m.reader.WaitFor(bounded, position)
	}
	if err != nil {
		return // what is held runs out by itself
	}
	if now := l.m.reader.Lease(l.name); now.Worker == next.Worker && now.Term == next.Term {
		l.set(next.Term, sent.Add(leaseTTL))
	} else {
		l.set(0, time.Time{})
	}
}

// release frees the lease, so that the next worker need not wait for its end.
func (l *mapLease) release() {
	l.mu.Lock()
	term := l.mu.wrote // it may be there, though nobody has said so
	l.mu.Unlock()
	l.set(0, time.Time{})
	if term == 0 {
		return
	}
	// The mirror's context has ended; its writer too. A writer of its own
	// says good-bye.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.m.ctx), leaseTTL)
	defer cancel()
	w := maptopic.NewWriter(ctx, l.m.local, l.m.config.Replication)
	defer w.Close()
	_, err := w.Save(ctx, maptopic.LeaseEntry(l.name, maptopic.Lease{Term: term, Worker: l.m.config.Worker, Beat: leaseFree}))
	_ = err // then the lease ends by its time
}
