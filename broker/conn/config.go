package conn

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"spillway"
	"spillway/broker/namespace"
	"spillway/broker/wire"
)

// DialFunc opens the transport, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// SASL are credentials. Mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
type SASL struct {
	Mechanism string
	User      string
	Password  string
}

// Config says where and how to connect.
type Config struct {
	Site    spillway.SiteID // for errors
	Node    int32           // for errors; −1 while unknown
	Address string          // host:port

	ClientID string      // default "spillway"
	TLS      *tls.Config // nil: plaintext
	SASL     *SASL       // nil: none
	Dial     DialFunc    // default Dial
	// Namespace is what all names at the site begin with; who uses the connection knows
	// nothing of it.
	Namespace        namespace.Namespace
	InFlightMax      int           // default 100
	FrameBytesMax    int           // bound for an answer; default wire.FrameBytesMax
	HandshakeTimeout time.Duration // for dial, TLS, authentication together; default 10 s
}

func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = "spillway"
	}
	if c.Dial == nil {
		c.Dial = Dial
	}
	if c.InFlightMax <= 0 {
		c.InFlightMax = 100
	}
	if c.FrameBytesMax <= 0 {
		c.FrameBytesMax = wire.FrameBytesMax
	}
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	return c
}
