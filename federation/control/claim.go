package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
)

// ClaimTTL is how long a claim lasts after its command died.
const ClaimTTL = 12 * time.Second

// Claim is the exclusive right of one command to write a share's unreplicated records
// again, or to hold a drill of it. It is a lease: of a command that died it is over after a
// while.
type Claim struct {
	store coordination.Store
	key   string
	self  string
	lease *coordination.Lease
	term  uint64 // of the lease
	end   context.CancelFunc
	done  sync.WaitGroup
}

// replayClaim is what the one that holds it writes.
type replayClaim struct {
	Owner string    `json:"owner"` // new for each run
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
	Beat  uint64    `json:"beat"`
}

// errClaimed: somebody else has the claim.
var errClaimed = errors.New("the claim is held")

// ClaimReplay takes the claim, or waits until that of another command must be over, and
// says whose it is where it is not. ttl 0: ClaimTTL.
func (o *Operator) ClaimReplay(ctx context.Context, id spillway.ShareID, who string, ttl time.Duration) (*Claim, error) {
	if ttl == 0 {
		ttl = ClaimTTL
	}
	c := &Claim{store: o.store, key: o.keys.Replay(id), self: rand.Text()}
	mine := replayClaim{Owner: c.self, Who: who, Since: time.Now().UTC()}
	got := make(chan struct{}, 1)
	c.lease = coordination.NewLease(coordination.LeaseConfig{
		Store: o.store, Key: c.key, Self: c.self, Owner: func(value []byte) string { return claimOf(value).Owner },
		Exclusive: true, TTL: ttl, Every: ttl / 6, Margin: min(coordination.LeaseMargin, ttl/2), Clock: o.clock,
		Value: func(beat uint64) []byte {
			value := mine
			value.Beat = beat
			b, err := json.Marshal(value)
			if err != nil {
				panic(fmt.Sprintf("claim cannot be encoded: %v", err)) // plain data, cannot happen
			}
			return b
		},
		Changed: func(err error) {
			if err == nil {
				select {
				case got <- struct{}{}:
				default:
				}
			}
		},
	})
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	c.end = end
	c.done.Go(func() { c.lease.Run(running) })
	within, cancel := context.WithTimeout(ctx, 3*ttl)
	defer cancel()
	select {
	case <-got:
		c.term = c.lease.Term()
		return c, nil
	case <-within.Done():
		c.Abandon()
		return nil, c.refused(ctx)
	}
}

// refused tells why the claim was not got.
func (c *Claim) refused(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e, err := c.store.Get(ctx, c.key)
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.key, err)
	}
	other := claimOf(e.Value)
	return fmt.Errorf("%w by %s since %s: another replay or drill of the group is at work; give the command again when it has ended", errClaimed, other.Who, other.Since.Format(time.RFC3339))
}

func claimOf(value []byte) (c replayClaim) {
	_ = json.Unmarshal(value, &c) // of nobody then
	return c
}

// Holds tells whether the claim has been held since it was taken.
func (c *Claim) Holds() error {
	if c.term != 0 && c.lease.Term() == c.term {
		return nil
	}
	return errors.New("the claim on the replay is lost: the coordinator store could not be written, or another replay has taken over; give the command again, what is written is recognised")
}

// Abandon leaves the claim to run out: something of the command may still be on its way.
func (c *Claim) Abandon() {
	c.end()
	c.done.Wait()
}

// Release gives it up at once.
func (c *Claim) Release(ctx context.Context) error {
	c.Abandon()
	e, err := c.store.Get(ctx, c.key)
	if err == nil && claimOf(e.Value).Owner == c.self {
		err = c.store.Delete(ctx, c.key, e.Version)
	}
	if err == nil || errors.Is(err, coordination.ErrNotFound) || errors.Is(err, coordination.ErrConflict) { // it is another's by now
		return nil
	}
	return fmt.Errorf("give up the claim %s, which runs out by itself: %w", c.key, err)
}
