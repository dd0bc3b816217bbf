package control

import (
	"context"
	"sync"
	"time"
)

// inquiry lets all who ask the same at one time have one answer. Who asks gets none that
// was begun before: what has happened until then is in it, as if he had asked alone. So a
// thousand shares that move at once list the topics of a site some times and not a
// thousand times.
//
// The answer is shared, with the maps and lists within: nobody may change it.
type inquiry[T any] struct {
	mu    sync.Mutex
	now   *round[T] // under way; nil: none
	next  *round[T] // to begin behind it; nil: nobody waits for it
	begun time.Time // of now
}

// round is one time that a question is asked.
type round[T any] struct {
	done   chan struct{}
	answer T
	err    error
	// Guarded by inquiry.mu.
	waiting int
	give    context.CancelFunc // nil: not begun
}

// overtakeAfter is when a question that is not answered keeps the next one waiting no longer:
// its connection may be dead, and a new one better off.
const overtakeAfter = 500 * time.Millisecond

func (q *inquiry[T]) ask(ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	q.mu.Lock()
	if q.next == nil {
		q.next = &round[T]{done: make(chan struct{})}
	}
	mine := q.next
	mine.waiting++
	if q.now == nil {
		q.begin(do)
	}
	q.mu.Unlock()
	overtake := time.NewTimer(overtakeAfter)
	defer overtake.Stop()
	for {
		select {
		case <-mine.done:
			return mine.answer, mine.err
		case <-overtake.C:
			q.mu.Lock()
			if q.next == mine {
				q.begin(do)
			}
			q.mu.Unlock()
		case <-ctx.Done():
			q.mu.Lock()
			defer q.mu.Unlock()
			if mine.waiting--; mine.waiting == 0 {
				if mine.give != nil {
					mine.give()
				}
				if q.next == mine {
					q.next = nil
				}
			}
			var none T
			return none, ctx.Err()
		}
	}
}

// begin asks the next question, for who holds mu.
func (q *inquiry[T]) begin(do func(context.Context) (T, error)) {
	a := q.next
	q.now, q.next = a, nil
	ctx, cancel := context.WithTimeout(context.Background(), actMax)
	a.give = cancel
	go func() { // ends with do: when it is answered, or nobody waits for it
		defer cancel()
		a.answer, a.err = do(ctx)
		close(a.done)
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.now != a {
			return // overtaken
		}
		if q.now = nil; q.next != nil {
			q.begin(do)
		}
	}()
}
