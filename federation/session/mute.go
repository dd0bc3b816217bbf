package session

import (
	"context"
	"time"
)

const (
	// mutePause is how often a connection that is not read looks whether its client has gone.
	mutePause = 250 * time.Millisecond
	// unawareMax is how many requests are read of a muted connection all the same, if some
	// had come, and lay unread, when the answer was written, and they begin within
	// unawareAfter: their client sent them before it was told, and counts the time since. One
	// after each mute would leave the last of several unread for longer than clients wait. So
	// many clients have open at once, those that keep the order of what they send: brokers
	// allow no more.
	unawareMax   = 5
	unawareAfter = time.Second
	// mutedLately is how long after a mute a connection has unawareMax requests open at once
	// instead of InFlightMax: one that pays no regard to mutes sends as many as are read.
	mutedLately = 10 * time.Second
)

// mute is for how long a connection is not read.
type mute struct {
	began, until time.Time
	lifted       func() bool
	unaware      bool // requests lay unread when it began
}

// unaware counts what is read of a muted connection all the same.
type unaware struct {
	began time.Time // of the mute
	count int
}

// Mute has nothing more read from the connection for a time that begins when the answer is
// written, or until lifted says so. What was read before is answered all the same. The
// latest end of several counts; one that is lifted is over, also where nothing lifts it
// any more. Call it in the Answer, at most once.
func (r Request) Mute(pause time.Duration, lifted func() bool) {
	if r.slot != nil {
		r.slot.pause, r.slot.lifted = pause, lifted
	}
}

// Muted is for how long the connection is not read still. Call it in the Answer.
func (r Request) Muted() time.Duration {
	if r.slot == nil {
		return 0
	}
	left, _ := r.slot.session.mutedFor()
	return left
}

// liesUnread tells whether something has come that was not read yet.
func (s *Session) liesUnread() bool { return s.buffered.Load() || readable(s.conn) }

// told begins the mute of an answer that is written, or was. unread: something lay unread
// before.
func (s *Session) told(sl *slot, unread bool) {
	if sl.pause <= 0 {
		return
	}
	now := time.Now()
	for {
		left, before := s.mutedFor()
		m := &mute{began: now, until: now.Add(sl.pause), lifted: sl.lifted, unaware: unread}
		if left > 0 {
			if m.began, m.unaware = before.began, before.unaware; m.until.Before(before.until) {
				return
			}
		}
		if s.mute.CompareAndSwap(before, m) {
			return
		}
	}
}

// mutedFor is how long the mute lasts still, and the one that is in force or was last. One
// that was lifted is forgotten: its client was told nothing of it meanwhile.
func (s *Session) mutedFor() (left time.Duration, m *mute) {
	for m = s.mute.Load(); m != nil; m = s.mute.Load() {
		if left = time.Until(m.until); left <= 0 {
			return 0, m
		}
		if !m.lifted() {
			return left, m
		}
		s.mute.CompareAndSwap(m, nil)
	}
	return 0, nil
}

// muted waits until a request that has begun to come may be read. Where the client has
// closed its side, what it sent before is read at once: there is an end to it, and some of
// it may be for nobody to wait for (Silent); nothing else of it is begun.
func (s *Session) muted(ctx context.Context, came time.Time) error {
	waited := false
	for {
		left, m := s.mutedFor()
		switch {
		case s.left:
			return nil
		case m == nil:
			s.left = waited && Gone(s.conn)
			return nil
		case left > 0 && m.unaware && came.Sub(m.began) < unawareAfter && s.wasUnaware(m):
			return nil
		case left == 0 && (time.Since(m.until) > mutedLately || len(s.slots) <= unawareMax):
			s.left = waited && Gone(s.conn)
			return nil
		}
		if s.left = Gone(s.conn); s.left {
			return nil
		}
		waited = true
		if left == 0 { // for an answer
			left = mutePause
		}
		look := time.NewTimer(min(left, mutePause))
		select {
		case <-look.C:
		case <-s.window.room:
		case <-ctx.Done():
			look.Stop()
			return ctx.Err()
		case <-s.drain:
			look.Stop()
			return Close(ReasonDrained, nil)
		}
		look.Stop()
	}
}

// wasUnaware counts a request that was sent before the client was told of the mute.
func (s *Session) wasUnaware(m *mute) bool {
	if !s.unaware.began.Equal(m.began) {
		s.unaware = unaware{began: m.began}
	}
	s.unaware.count++
	return s.unaware.count <= unawareMax
}
