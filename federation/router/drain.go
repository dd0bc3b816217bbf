package router

import (
	"context"
	"sync"
	"time"
)

// unsureMemory is how long a produce without an answer counts: a broker may
// append it as long as the bytes wait in its queue.
const unsureMemory = time.Minute

// unwrittenMax is how long a move waits for acknowledgements whose answer waits
// for other parts. After that they are withdrawn; the client sends them again.
const unwrittenMax = 200 * time.Millisecond

// Drain is the barrier of FENCING. The share must be closed. It returns when
// no produce of the share is on its way to the site any more, and nothing of
// the term will be acknowledged. Those without an
// answer after patience lose their connections. unsure: the site may still
// append what was sent, so its log end must be read twice, apart (C9).
func (s *Share) Drain(ctx context.Context, patience time.Duration) (unsure bool, err error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	idle := s.idle()
	for waiting := true; waiting; {
		select {
		case <-idle:
			waiting = false
		case <-late.C:
			for _, l := range s.busyLanes() {
				l.conn.Close()
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	s.confirmSilent(ctx, patience)
	if err := s.seal(ctx); err != nil {
		return false, err
	}
	return s.unsureSince(time.Now().Add(-unsureMemory)), ctx.Err()
}

// confirmSilent has a barrier follow what has no answer (acks 0), on all connections at once:
// clients are held meanwhile.
func (s *Share) confirmSilent(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var barriers sync.WaitGroup
	for _, l := range s.takeSilent() {
		barriers.Go(func() {
			if l.barrier(ctx) != nil {
				l.conn.Close()
				s.markUnsure(l)
			}
		})
	}
	barriers.Wait()
}
