package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway/broker"
	"spillway/broker/conn"
)

// Attempts and pauses for requests that met a leader or coordinator that
// moved. All together stay below 5 s, so that callers learn of trouble.
const (
	attemptsMax = 8
	pauseFirst  = 20 * time.Millisecond
	pauseMax    = time.Second
)

// moved are the answers after which the cluster has to be asked who it is now.
var moved = []error{
	kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch,
	kerr.KafkaStorageError, kerr.OffsetNotAvailable, kerr.ReplicaNotAvailable, kerr.ListenerNotFound,
	kerr.UnknownTopicOrPartition, // a leader that metadata names, but that has not heard of it yet
	kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.NotController,
	broker.ErrNoLeader, broker.ErrUnknownNode,
}

func mayRetry(err error) bool {
	for _, m := range moved {
		if errors.Is(err, m) {
			return true
		}
	}
	return false
}

// final tells a decision, of the cluster or of this side, from a connection
// that failed.
func final(err error) bool {
	var answered *kerr.Error
	return errors.As(err, &answered) || errors.Is(err, broker.ErrAllUnreachable) ||
		errors.Is(err, broker.ErrNotSupported) || errors.Is(err, broker.ErrUnknownTopic)
}

// retry calls f until it succeeds, fails for good, or attempts are used up,
// and refreshes the caches between two calls (invariant A). A connection that
// was found dead counts once: the next call makes a new one.
func (c *Cluster) retry(ctx context.Context, f func() error) error {
	return c.retryAfter(ctx, func() error { return c.Refresh(ctx) }, f)
}

// retryAfter forgets between two calls what the caller says, where that is not everything.
func (c *Cluster) retryAfter(ctx context.Context, forget func() error, f func() error) error {
	pause := pauseFirst
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || ctx.Err() != nil || attempt == attemptsMax || errors.Is(err, conn.ErrClosed) {
			return err
		}
		if !mayRetry(err) && (attempt > 1 || final(err)) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, pauseMax)
		if fault := forget(); fault != nil {
			return errors.Join(err, fault)
		}
	}
}
