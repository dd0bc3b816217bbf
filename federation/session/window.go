package session

import (
	"context"
	"sync/atomic"
	"time"
)

// Budget bounds the bytes that clients make a process hold, over all
// connections: their unanswered requests, held ones included, and answers that
// are not yet written. Connections over it stop reading, and their answers get
// smaller.
type Budget struct {
	max  int64
	used atomic.Int64
	// whole is what answers that cannot be smaller use of it. They wait for each other only:
	// what produces hold may not be given back before such an answer was written.
	whole atomic.Int64
}

// NewBudget bounds to bytesMax.
func NewBudget(bytesMax int64) *Budget { return &Budget{max: bytesMax} }

// Used bytes.
func (b *Budget) Used() int64 { return b.used.Load() }

// Answers may use only a part of the budget, or readers that are slow could
// stop the writers; and each gets only a part of what is left, or a few could
// take it all.
const (
	answersPart = 2
	answerPart  = 4
)

// room is how many of want bytes an answer may hold now. Several that ask at
// once may get a little more together.
func (b *Budget) room(want int64) int64 {
	if b == nil {
		return want
	}
	return min(want, max(0, b.max/answersPart-b.used.Load())/answerPart)
}

// budgetPause is how often a connection looks again while others use up the
// budget of the process: rare, so a wake-up list is not worth its locks.
const budgetPause = 10 * time.Millisecond

// window counts the bytes of one connection's unanswered requests and of the
// answer that is being made or written.
type window struct {
	max  int64
	used atomic.Int64
	room chan struct{} // a token after used fell
}

// frameBytesFree is what a connection with nothing in flight may always send:
// members of groups have their say also where the budget is used up. Larger
// frames wait for room before they are read.
const frameBytesFree = 64 << 10

// wait until there is room for size more bytes. Nobody reads meanwhile, so gone
// is asked whether the client still is there.
func (b *Budget) wait(ctx context.Context, size int64, gone func() bool) error {
	for b != nil && b.used.Load() > 0 && b.used.Load()+size > b.max {
		if gone() {
			return Close(ReasonClient, nil)
		}
		select {
		case <-time.After(budgetPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// wholeMax is how long an answer waits for others: less than clients wait for it.
const wholeMax = 10 * time.Second

// takeWhole waits until there is room for a whole answer, and takes it; giveWhole must follow.
func (b *Budget) takeWhole(ctx context.Context, bytes int64, gone func() bool) bool {
	if b == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, wholeMax)
	defer cancel()
	for {
		used := b.whole.Load()
		if used > 0 && used+bytes > b.max/answerPart {
			select {
			case <-time.After(budgetPause):
			case <-ctx.Done():
				return false
			}
			if gone() {
				return false
			}
			continue
		}
		if b.whole.CompareAndSwap(used, used+bytes) {
			return true
		}
	}
}

func (b *Budget) giveWhole(bytes int64) {
	if b != nil && bytes > 0 {
		b.whole.Add(-bytes)
	}
}

// wait until there is room for another frame. Its size is not known yet.
func (w *window) wait(ctx context.Context, b *Budget, gone func() bool) error {
	for w.used.Load() >= w.max {
		select {
		case <-w.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if w.used.Load() == 0 {
		return nil // or the budget could be held by requests that wait for one of this connection
	}
	return b.wait(ctx, 1, gone)
}

func (w *window) add(n int64, b *Budget) {
	w.used.Add(n)
	if b != nil {
		b.used.Add(n)
	}
	if n < 0 {
		select {
		case w.room <- struct{}{}:
		default:
		}
	}
}
