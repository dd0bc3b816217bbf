package session

import (
	"context"
	"time"
)

// mutePause is how often a connection that is not read looks whether its client has gone.
const mutePause = 250 * time.Millisecond

// mute is until when a connection is not read.
type mute struct {
	until  time.Time
	lifted func() bool
}

// Mute has nothing more read from the connection until a time, or until lifted says so. What
// was read before is answered all the same. The latest of several counts.
func (r Request) Mute(until time.Time, lifted func() bool) {
	if r.slot == nil {
		return
	}
	m := &r.slot.session.mute
	for before := m.Load(); before == nil || before.until.Before(until); before = m.Load() {
		if m.CompareAndSwap(before, &mute{until, lifted}) {
			return
		}
	}
}

// muted waits until the connection may be read. Where the client has closed its side, what it
// sent before is read at once: there is an end to it, and some of it may be for nobody to
// wait for (Silent).
func (s *Session) muted(ctx context.Context) error {
	for m := s.mute.Load(); m != nil; m = s.mute.Load() {
		left := time.Until(m.until)
		if left <= 0 || m.lifted() || Gone(s.conn) {
			return nil
		}
		look := time.NewTimer(min(left, mutePause))
		select {
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return ctx.Err()
		case <-s.drain:
			look.Stop()
			return Close(ReasonDrained, nil)
		}
	}
	return nil
}
