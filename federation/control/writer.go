package control

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/mirror"
)

// Writer is the right to lead the mirror processes of a site: one exclusive lease per
// site. Who has it does what the share records ask of the site, and reports it. Which
// process writes which partition meanwhile they know from the site's map topic
// (docs/decisions/0023): that is what aged mode and marks rest on (C3).
type Writer struct {
	lease *coordination.Lease

	mu struct {
		sync.Mutex
		term    uint64        // as last seen
		changed chan struct{} // closed when there is another one
		older   string        // who has the lease and does not share; empty: nobody
	}
}

const (
	claimEvery = 10 * time.Millisecond
	termLook   = 50 * time.Millisecond // a lease runs out without an event
)

// NewWriter prepares the lease of a worker; Run takes it.
func NewWriter(store coordination.Store, keys failover.Keys, site spillway.SiteID, worker string, ttl time.Duration) *Writer {
	boot := fmt.Sprintf("%s-%016x", worker, rand.Uint64())
	w := &Writer{}
	w.lease = coordination.NewLease(coordination.LeaseConfig{
		Store: store, Key: keys.Writer(site), Self: boot, Owner: w.owner, Exclusive: true, TTL: ttl, Every: ttl / 4,
		Value: func(beat uint64) []byte {
			b, err := json.Marshal(writerLease{Boot: boot, Worker: worker, Beat: beat, Shares: true})
			if err != nil {
				panic(fmt.Sprintf("writer lease cannot be encoded: %v", err)) // plain data, cannot happen
			}
			return b
		},
	})
	w.mu.changed = make(chan struct{})
	return w
}

// writerLease is what the process that leads writes.
type writerLease struct {
	Boot   string `json:"boot"`
	Worker string `json:"worker"`
	Beat   uint64 `json:"beat"`
	// Shares: it knows of the others in the site's map topic. Versions that do not say so
	// write all partitions of the site while they have the lease.
	Shares bool `json:"shares,omitempty"`
}

// owner reads who has the lease, and notes whether that one shares.
func (w *Writer) owner(value []byte) string {
	var l writerLease
	if json.Unmarshal(value, &l) != nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.older = ""; !l.Shares {
		w.mu.older = l.Worker
	}
	return l.Boot
}

// older is the worker that has the lease and is of a version that does not share what it
// writes; empty: none.
func (w *Writer) older() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.older
}

// Run holds the lease until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			w.look()
			pause(ctx, termLook)
		}
	})
	w.lease.Run(ctx)
	wg.Wait()
	w.look()
}

func (w *Writer) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if term := w.lease.Term(); term != w.mu.term {
		w.mu.term = term
		close(w.mu.changed)
		w.mu.changed = make(chan struct{})
	}
}

// changed is closed when the lease has run out, or is held in another term. Of nil, the
// only mirror of a site, it never is.
func (w *Writer) changed() <-chan struct{} {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.changed
}

// Lead is the lease while it is held, and nil otherwise; it is mirror.Config.Lead.
func (w *Writer) Lead() mirror.Lease {
	if term := w.lease.Term(); term != 0 {
		return claimed{w.lease, term}
	}
	return nil
}

// Claim waits until the lease is held.
func (w *Writer) Claim(ctx context.Context) (mirror.Lease, error) {
	for {
		if lease := w.Lead(); lease != nil {
			return lease, nil
		}
		pause(ctx, claimEvery)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait for the writer lease: %w", ctx.Err())
		}
	}
}

// term waits until the lease is held and tells the term. Nil stands for the only
// mirror of a site, whose term is always 1.
func (w *Writer) term(ctx context.Context) (uint64, error) {
	if w == nil {
		return 1, nil
	}
	lease, err := w.Claim(ctx)
	if err != nil {
		return 0, err
	}
	return lease.(claimed).term, nil
}

// holds tells whether a term that was begun goes on.
func (w *Writer) holds(term uint64) bool { return w == nil || term != 0 && w.lease.Term() == term }

// claimed is the lease in one unbroken term.
type claimed struct {
	lease *coordination.Lease
	term  uint64
}

// Held tells whether the lease was held all the time since it was claimed.
func (c claimed) Held(time.Time) bool { return c.lease.Term() == c.term }
