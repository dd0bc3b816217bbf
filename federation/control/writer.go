package control

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/mirror"
)

// Writer is the right to lead the mirror processes of a site: one exclusive lease per
// site. Who has it does what the share records ask of the site, and reports it. Which
// process writes which partition meanwhile they know from the site's map topic
// (docs/decisions/0021): that is what aged mode and marks rest on (C3).
type Writer struct{ lease *coordination.Lease }

const claimEvery = 10 * time.Millisecond

// NewWriter prepares the lease of a worker; Run takes it.
func NewWriter(store coordination.Store, keys failover.Keys, site spillway.SiteID, worker string, ttl time.Duration) *Writer {
	boot := fmt.Sprintf("%s-%016x", worker, rand.Uint64())
	return &Writer{lease: coordination.NewLease(coordination.LeaseConfig{
		Store: store, Key: keys.Writer(site), Self: boot, Owner: bootOf, Exclusive: true, TTL: ttl, Every: ttl / 4,
		Value: func(beat uint64) []byte {
			b, err := json.Marshal(map[string]any{"boot": boot, "worker": worker, "beat": beat})
			if err != nil {
				panic(fmt.Sprintf("writer lease cannot be encoded: %v", err)) // plain data, cannot happen
			}
			return b
		},
	})}
}

// Run holds the lease until ctx ends.
func (w *Writer) Run(ctx context.Context) { w.lease.Run(ctx) }

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
