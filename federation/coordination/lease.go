package coordination

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Defaults of leases. A renewal may fail twice before the lease is over.
const (
	LeaseTTL    = 4 * time.Second
	LeaseEvery  = time.Second
	LeaseMargin = time.Second
)

// jumpMax is how far the wall clock may move against the monotonic one within
// one lease. A larger jump means that the machine was suspended, migrated or set
// right, and that no clock of it can be trusted to have counted (C32).
const jumpMax = time.Second

// A lease is a key that its owner rewrites about every second.
//
//	C1  the holder counts from when it sent the last renewal that succeeded, on
//	    the clock that went further
//	C2  the waiter counts from when it saw the last change, on the clock that went
//	    less far, and only believes a read that started after the time was over
//	C3  so the holder stops before the waiter goes on, however late messages are
//	C4  a key that vanished or was overwritten ends the wait no sooner: an operator
//	    may have deleted it while the owner still serves (C30)

// LeaseConfig says what to hold. Owner must be new for every process start.
type LeaseConfig struct {
	Store Store
	Key   string
	// Value encodes what to write; it must differ with every beat, since a store
	// may ignore a write that changes nothing.
	Value func(beat uint64) []byte
	// Owner reads the owner out of a value.
	Owner func(value []byte) string
	Self  string
	// Exclusive: wait until the lease of another owner is over. Otherwise another
	// owner's value is overwritten at once, for keys that only restarted
	// processes of one name share.
	Exclusive bool
	// Confirm runs after each renewal was written and before the lease is
	// extended; a failure leaves the lease as it was. Nil: nothing to confirm.
	Confirm func(ctx context.Context) error
	TTL     time.Duration // 0: LeaseTTL
	Every   time.Duration // 0: LeaseEvery
	Margin  time.Duration // 0: LeaseMargin; used while waiting for another owner
	Clock   Clock         // nil: SystemClock
	// Changed is told when the lease begins (nil) and why it ended.
	Changed func(err error)
}

// Lease is held by this process while Valid says so.
type Lease struct {
	cfg   LeaseConfig
	grant atomic.Pointer[grant]

	// Owned by Run.
	version uint64
	known   bool // version is what the store has
	beat    uint64
	held    bool // what Changed was told
	term    uint64
	waiter  *Waiter

	kick chan struct{}
}

type grant struct {
	sent Instant
	term uint64
}

// NewLease prepares a lease; Run takes it.
func NewLease(cfg LeaseConfig) *Lease {
	if cfg.TTL <= 0 {
		cfg.TTL = LeaseTTL
	}
	if cfg.Every <= 0 {
		cfg.Every = LeaseEvery
	}
	if cfg.Margin <= 0 {
		cfg.Margin = LeaseMargin
	}
	if cfg.Clock == nil {
		cfg.Clock = SystemClock{}
	}
	return &Lease{cfg: cfg, kick: make(chan struct{}, 1), waiter: NewWaiter(cfg.TTL, cfg.Margin, cfg.Clock)}
}

// Valid tells whether the lease is held now. It is cheap: ask before every
// answer that depends on it, after everything slow.
func (l *Lease) Valid() bool { return l.Left() > 0 }

// Term numbers the times in which the lease was held without a break; 0 when it
// is not held. Work that was begun in one term may be finished only in the same:
// when the lease lapsed in between, others may have counted on it, although it is
// held again (the model of package failover finds the violation).
func (l *Lease) Term() uint64 {
	g := l.grant.Load()
	if l.left(g) <= 0 {
		return 0
	}
	return g.term
}

// Left is how long the lease lasts without another renewal; 0 when it is over.
func (l *Lease) Left() time.Duration { return l.left(l.grant.Load()) }

// left is how long one grant lasts: the next one may be of another term.
func (l *Lease) left(g *grant) time.Duration {
	if g == nil {
		return 0
	}
	now := l.cfg.Clock.Now()
	if g.sent.jumped(now) {
		l.grant.CompareAndSwap(g, nil)
		return 0
	}
	return max(0, l.cfg.TTL-g.sent.Longest(now))
}

// Renew asks Run to renew at once, because the value changed.
func (l *Lease) Renew() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Run takes and renews the lease until ctx ends. It returns after the last
// write; the key stays, so whoever waits for it waits until it is over. Owners
// that leave in order say so in the value before they end.
func (l *Lease) Run(ctx context.Context) {
	defer l.grant.Store(nil)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-l.kick:
		}
		err := l.renew(ctx)
		l.tell(err)
		if err != nil {
			timer.Reset(l.cfg.Every / 4)
		} else {
			timer.Reset(l.cfg.Every)
		}
	}
}

func (l *Lease) tell(err error) {
	held := l.Valid()
	if held == l.held || l.cfg.Changed == nil {
		l.held = held
		return
	}
	l.held = held
	if held {
		err = nil
	} else if err == nil {
		err = errors.New("the clock jumped, or the renewal took longer than the lease")
	}
	l.cfg.Changed(err)
}

var errOthers = errors.New("another owner holds the lease")

func (l *Lease) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL/2)
	defer cancel()
	if !l.known {
		if err := l.read(ctx); err != nil {
			return err
		}
	}
	l.beat++
	sent := l.cfg.Clock.Now() // C1: before the write leaves
	version, err := l.cfg.Store.Put(ctx, l.cfg.Key, l.cfg.Value(l.beat), l.version)
	if err != nil {
		l.known = false
		if errors.Is(err, ErrConflict) {
			// Somebody else wrote the key, or an earlier write of ours came late.
			if readErr := l.read(ctx); readErr != nil {
				if errors.Is(readErr, errOthers) {
					l.grant.Store(nil)
				}
				return readErr
			}
		}
		return fmt.Errorf("renew lease %s: %w", l.cfg.Key, err)
	}
	l.version, l.known = version, true
	if l.cfg.Confirm != nil {
		if err := l.cfg.Confirm(ctx); err != nil {
			return fmt.Errorf("confirm lease %s: %w", l.cfg.Key, err)
		}
	}
	if l.Left() == 0 {
		l.term++ // begun, or begun again
	}
	l.grant.Store(&grant{sent: sent, term: l.term})
	return nil
}

// read finds the version to write over. For an exclusive lease that is allowed
// only when the lease of the present owner is over.
func (l *Lease) read(ctx context.Context) error {
	started := l.cfg.Clock.Now()
	e, err := l.cfg.Store.Get(ctx, l.cfg.Key)
	if errors.Is(err, ErrNotFound) {
		l.waiter.Observe(started, l.cfg.Key, nil, l.cfg.Owner)
		// C4: a vanished key may still be served by the owner seen before.
		for _, owner := range l.waiter.Owners(l.cfg.Key) {
			if l.cfg.Exclusive && owner != l.cfg.Self && !l.waiter.Over(l.cfg.Key, owner) {
				return fmt.Errorf("lease %s of %s vanished, waiting for its end: %w", l.cfg.Key, owner, errOthers)
			}
		}
		l.version, l.known = 0, true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read lease %s: %w", l.cfg.Key, err)
	}
	l.waiter.Observe(started, l.cfg.Key, []Entry{e}, l.cfg.Owner)
	if owner := l.cfg.Owner(e.Value); l.cfg.Exclusive && owner != l.cfg.Self && !l.waiter.Over(l.cfg.Key, owner) {
		return fmt.Errorf("lease %s is held by %s: %w", l.cfg.Key, owner, errOthers)
	}
	l.version, l.known = e.Version, true
	return nil
}

// Waiter finds out when the leases of others are over. It is fed with reads of
// the store. Not safe for concurrent use.
type Waiter struct {
	ttl, margin time.Duration
	clock       Clock
	seen        map[string]map[string]*sighting // by key, by owner
}

type sighting struct {
	version   uint64
	at        Instant // when the last change was seen
	confirmed Instant // start of the latest read that showed no change since
	gone      bool    // the key vanished or has another owner: no renewal can follow
}

// NewWaiter waits ttl + margin from the last change that it saw.
func NewWaiter(ttl, margin time.Duration, clock Clock) *Waiter {
	if clock == nil {
		clock = SystemClock{}
	}
	return &Waiter{ttl: ttl, margin: margin, clock: clock, seen: map[string]map[string]*sighting{}}
}

// Observe takes in one linearizable read of all keys under prefix that was
// started at the given instant. An owner that is never named by a value (key
// deleted before the first look) is introduced by Expect.
func (w *Waiter) Observe(started Instant, prefix string, entries []Entry, owner func([]byte) string) {
	now := w.clock.Now()
	present := map[string]string{}
	for _, e := range entries {
		who := owner(e.Value)
		present[e.Key] = who
		s := w.sight(e.Key, who)
		switch {
		case s.version != e.Version || s.gone:
			*s = sighting{version: e.Version, at: now, confirmed: started}
		case s.confirmed.Shortest(started) > 0:
			s.confirmed = started
		}
	}
	for key, owners := range w.seen {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		for who, s := range owners {
			if p, ok := present[key]; (!ok || p != who) && !s.gone {
				s.gone, s.at = true, now // C4: counts from now
			}
		}
	}
}

// Expect names an owner that may hold the key though the store does not say so.
func (w *Waiter) Expect(key, owner string) {
	if w.seen[key][owner] == nil {
		s := w.sight(key, owner)
		s.gone = true
	}
}

func (w *Waiter) sight(key, owner string) *sighting {
	if w.seen[key] == nil {
		w.seen[key] = map[string]*sighting{}
	}
	s := w.seen[key][owner]
	if s == nil {
		now := w.clock.Now()
		s = &sighting{at: now, confirmed: now}
		w.seen[key][owner] = s
	}
	return s
}

// Keys lists the keys under prefix at which somebody was seen, sorted, also those
// that vanished.
func (w *Waiter) Keys(prefix string) []string {
	keys := slices.DeleteFunc(slices.Collect(maps.Keys(w.seen)), func(k string) bool { return !strings.HasPrefix(k, prefix) })
	slices.Sort(keys)
	return keys
}

// Owners lists who was seen at a key, sorted.
func (w *Waiter) Owners(key string) []string { return slices.Sorted(maps.Keys(w.seen[key])) }

// Over tells whether the lease of this owner cannot be valid any more (C2).
func (w *Waiter) Over(key, owner string) bool { return w.Left(key, owner) <= 0 }

// Left is how long to wait at least until Over may be true; negative: for how
// long it has been true.
func (w *Waiter) Left(key, owner string) time.Duration {
	s := w.seen[key][owner]
	if s == nil {
		return w.ttl + w.margin
	}
	until := s.confirmed
	if s.gone {
		until = w.clock.Now()
	}
	return w.ttl + w.margin - s.at.Shortest(until)
}

// Forget drops owners whose key is gone, or another's, and whose lease has been
// over for so long.
func (w *Waiter) Forget(overFor time.Duration) {
	for key, owners := range w.seen {
		maps.DeleteFunc(owners, func(owner string, s *sighting) bool { return s.gone && w.Left(key, owner) <= -overFor })
		if len(owners) == 0 {
			delete(w.seen, key)
		}
	}
}
