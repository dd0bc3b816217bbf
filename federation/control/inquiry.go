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
	now   *round[T] // under way, and not overtaken; nil: none
	next  *round[T] // to begin behind it; nil: nobody waits for it
	under int       // how many are under way
}

// round is one time that a question is asked.
type round[T any] struct {
	of     *rounds
	do     func(context.Context) (T, error)
	done   chan struct{}
	answer T
	err    error
	// Guarded by inquiry.mu.
	waiting int
	give    context.CancelFunc // nil: not begun
	due     bool               // it waits only since so many are under way
}

// rounds are those of one owner, who waits for them when he ends. The zero value is ready.
type rounds struct {
	mu  sync.Mutex
	ctx context.Context // of all rounds; nil: none has begun
	end context.CancelFunc
	wg  sync.WaitGroup
}

// begin returns the context of a round, which says with wg that it has ended.
func (r *rounds) begin() (context.Context, context.CancelFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil {
		r.ctx, r.end = context.WithCancel(context.Background())
	}
	r.wg.Add(1)
	return context.WithTimeout(r.ctx, actMax)
}

// close ends all rounds and waits for them. Nobody asks any more.
func (r *rounds) close() {
	r.mu.Lock()
	if r.end != nil {
		r.end()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

const (
	// overtakeAfter is when a question that is not answered keeps the next one waiting no
	// longer: its connection may be dead, and a new one better off.
	overtakeAfter = 500 * time.Millisecond
	// underMax is how many rounds of one inquiry are under way: what hangs takes a place
	// until its time is over, and a site that hangs must not be asked more and more.
	underMax = 4
)

func (q *inquiry[T]) ask(ctx context.Context, of *rounds, do func(context.Context) (T, error)) (T, error) {
	q.mu.Lock()
	if q.next == nil {
		q.next = &round[T]{of: of, do: do, done: make(chan struct{})}
	}
	mine := q.next
	mine.waiting++
	if q.now == nil {
		q.begin()
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
				q.begin()
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

// begin asks the next question, for who holds mu; if there is no place for it, once there is.
func (q *inquiry[T]) begin() {
	a := q.next
	if a.due = q.under >= underMax; a.due {
		return
	}
	q.now, q.next = a, nil
	q.under++
	ctx, cancel := a.of.begin()
	a.give = cancel
	go func() { // ends with do: when it is answered, or nobody waits for it
		defer a.of.wg.Done()
		defer cancel()
		a.answer, a.err = a.do(ctx)
		close(a.done)
		q.mu.Lock()
		defer q.mu.Unlock()
		q.under--
		if q.now == a { // not overtaken
			q.now = nil
		}
		if q.next != nil && (q.now == nil || q.next.due) {
			q.begin()
		}
	}()
}
