package coordination

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"time"
)

// OpsMax is the number of changes that one transaction takes, and KeyBytesMax
// the longest key (Consul's limits).
const (
	OpsMax      = 64
	KeyBytesMax = 512
)

// TxnBytesMax is what several changes of one transaction may have together: Consul takes
// 512 KB in one request, in which values are in base64 and each change has a frame.
const (
	TxnBytesMax = 512 << 10
	opBytes     = 150
)

// txnBytes is what changes cost of TxnBytesMax.
func txnBytes(ops []Op) int {
	n := 0
	for _, op := range ops {
		n += base64.StdEncoding.EncodedLen(len(op.Value)) + len(op.Key) + opBytes
	}
	return n
}

// pollWait is how long a provider may wait for a change before it answers.
const pollWait = 30 * time.Second

const (
	retryMin = 50 * time.Millisecond
	retryMax = time.Second
	// idleMax bounds the pause after a wake-up for nothing, and so how much later a
	// change may be told.
	idleMax = 20 * time.Millisecond
)

// CheckOps refuses changes that one of the providers could not take.
func CheckOps(ops []Op) error {
	if len(ops) > OpsMax {
		return fmt.Errorf("transaction of %d changes: a store takes %d", len(ops), OpsMax)
	}
	for i, op := range ops {
		switch {
		case op.Key == "" || len(op.Key) > KeyBytesMax:
			return fmt.Errorf("key of %d bytes: 1 to %d are allowed", len(op.Key), KeyBytesMax)
		case len(op.Value) > ValueBytesMax:
			return fmt.Errorf("value of %s has %d bytes, a store takes %d: %w", op.Key, len(op.Value), ValueBytesMax, ErrTooLarge)
		case slices.ContainsFunc(ops[:i], func(o Op) bool { return o.Key == op.Key }):
			return fmt.Errorf("key %s twice in one transaction", op.Key)
		}
	}
	if n := txnBytes(ops); len(ops) > 1 && n > TxnBytesMax {
		return fmt.Errorf("transaction of %d bytes, with %s among its %d changes, a store takes %d: %w", n, ops[0].Key, len(ops), TxnBytesMax, ErrTooLarge)
	}
	return nil
}

// Poll reads everything under prefix, after waiting until something there is
// newer than the given index or the wait is over; index 0 does not wait.
type Poll func(ctx context.Context, prefix string, after uint64, wait time.Duration) (entries []Entry, index uint64, err error)

// WatchLoop is Store.Watch for providers that can poll. It calls fn only when
// the content differs from what fn saw last; an interruption is told once.
func WatchLoop(ctx context.Context, poll Poll, prefix string, fn func([]Entry, error)) error {
	var (
		seen  []Entry
		after uint64
		first = true
		down  bool
		retry = retryMin
		idle  time.Duration
	)
	for {
		entries, index, err := poll(ctx, prefix, after, pollWait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if !down {
				fn(nil, err)
			}
			down, after = true, 0
			if sleep(ctx, retry) != nil {
				return ctx.Err()
			}
			retry = min(retry*2, retryMax)
			continue
		}
		retry = retryMin
		// An index that goes back means that the store was restored from a
		// snapshot: start over, or the wait would last until it has caught up.
		if index < after {
			index = 0
		}
		after = index
		if first || down || !sameVersions(seen, entries) {
			first, down, seen, idle = false, false, entries, 0
			fn(slices.Clone(entries), nil)
			continue
		}
		// Consul wakes watches of absent keys at every write nearby: do not answer
		// each with another question.
		if idle = min(idle+time.Millisecond, idleMax); sleep(ctx, idle) != nil {
			return ctx.Err()
		}
	}
}

func sameVersions(a, b []Entry) bool {
	return slices.EqualFunc(a, b, func(x, y Entry) bool { return x.Key == y.Key && x.Version == y.Version })
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
