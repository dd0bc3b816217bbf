package conn

import (
	"context"
	"net"
	"time"
)

// silenceMax is how long a peer's machine may acknowledge nothing before a
// connection counts as lost. TCP alone takes many minutes, and after a network
// that dropped everything has come back, the peer sends again only when its
// timer, which doubles each time, says so: a connection that outlived 35 s of
// silence stays silent for up to 35 s more. A new one works at once.
//
// It is about machines and networks: a process that hangs on a live machine
// still acknowledges. Whoever waits for an answer bounds that for itself.
const silenceMax = 6 * time.Second

// Dial is how Spillway connects to brokers, of its own and of other sites, and to
// the mirrors there: like net.Dialer.DialContext, with silenceMax.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silenceMax / 2, Interval: silenceMax / 6, Count: 3},
		Control:         boundSilence,
	}
	return d.DialContext(ctx, network, address)
}
