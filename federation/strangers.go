package federation

import (
	"net"
	"net/netip"
	"sync"
)

// Who has not said who it is takes a part of the connections only, so that strangers do not
// take the places of clients: strangersPart of all, or strangersMin, and half of
// that from one address.
const (
	strangersPart = 10
	strangersMin  = 64
)

// strangers counts connections whose clients are not known yet; nil where nobody is asked.
type strangers struct {
	places    chan struct{}
	addresses addresses
}

func newStrangers(c Config) *strangers {
	if c.TLS == nil && !c.Authentication.Offers() {
		return nil
	}
	most := max(strangersMin, c.ConnectionsMax/strangersPart)
	return &strangers{places: make(chan struct{}, most), addresses: addresses{max: most / 2, open: make(map[netip.Prefix]int)}}
}

// enter counts one in, until it is known or has gone: known may be called more than once.
func (s *strangers) enter(remote net.Addr) (known func(), ok bool) {
	if s == nil {
		return func() {}, true
	}
	leave, ok := s.addresses.enter(remote)
	if !ok {
		return nil, false
	}
	select {
	case s.places <- struct{}{}:
		return sync.OnceFunc(func() { <-s.places; leave() }), true
	default:
		leave()
		return nil, false
	}
}
