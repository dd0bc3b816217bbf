package federation

import (
	"container/list"
	"net"
	"sync"
)

// Who has not said who it is takes a part of the connections only, so that strangers do not
// take the places of clients: strangersPart of all, or strangersMin.
const (
	strangersPart = 10
	strangersMin  = 64
)

// strangers are the connections whose clients are not known yet; nil where nobody is asked.
// A new one takes the place of the oldest where there is none: a login takes milliseconds,
// so it is seldom the oldest, and who only waits keeps nobody out.
type strangers struct {
	most   int
	ousted func()

	mu   sync.Mutex
	open list.List // of net.Conn, the oldest first
}

func newStrangers(c Config, ousted func()) *strangers {
	if c.TLS == nil && !c.Authentication.Offers() {
		return nil
	}
	return &strangers{most: max(strangersMin, c.ConnectionsMax/strangersPart), ousted: ousted}
}

// enter takes one in, until it is known or has gone: known may be called more than once.
func (s *strangers) enter(c net.Conn) (known func()) {
	if s == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Len() >= s.most {
		s.open.Remove(s.open.Front()).(net.Conn).Close()
		s.ousted()
	}
	place := s.open.PushBack(c)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open.Remove(place) // nothing where it was ousted
	}
}
