package federation

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// Bounds of a TLS handshake. Messages of it may be much larger (256 KiB where a client shows
// certificates) and are kept until they are whole.
const (
	handshakeMax      = 5 * time.Second
	handshakeBytesMax = 24 << 10 // that the client sends
)

var errHandshakeBytes = errors.New("the client sent too much before the TLS handshake was over")

// shake makes a connection one of TLS.
func shake(ctx context.Context, c net.Conn, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeMax)
	defer cancel()
	counted := &shaking{Conn: c, left: handshakeBytesMax}
	secured := tls.Server(counted, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	counted.over = true
	return secured, nil
}

// shaking is a connection that little is read from until its handshake is over.
type shaking struct {
	net.Conn

	// Owned by who reads.
	left int
	over bool
}

// NetConn is for who looks whether the client has gone.
func (s *shaking) NetConn() net.Conn { return s.Conn }

func (s *shaking) Read(b []byte) (int, error) {
	switch {
	case s.over:
		return s.Conn.Read(b)
	case s.left == 0:
		return 0, errHandshakeBytes
	}
	n, err := s.Conn.Read(b[:min(len(b), s.left)])
	s.left -= n
	return n, err
}
