package conn

import (
	"context"
	"encoding/binary"
	"net"

	"spillway/broker/wire"
)

// Pending is a request on its way.
type Pending struct {
	conn         *Conn
	key, version int16
	answered     bool // the broker answers this request
	correlation  int32
	body         [][]byte

	// Written once before done is closed, read after.
	done     chan struct{}
	response []byte
	err      error
}

// Send queues a request of raw bytes: body is what follows the header, in as
// many pieces as is convenient. The pieces belong to the connection until Done
// is closed, whatever Wait returned before (a broker that answers what it has not read yet gets
// what the caller makes of them). While InFlightMax requests are
// unanswered it waits for one of them, ctx, or the end of the connection.
// Requests are written in the order in which Send was called, where the caller
// gives them an order. A request that the broker does not answer (Produce with
// acks 0) is done when it is written.
func (c *Conn) Send(ctx context.Context, key, version int16, expectResponse bool, body ...[]byte) *Pending {
	p := &Pending{conn: c, key: key, version: version, answered: expectResponse, done: make(chan struct{})}
	var err error
	if p.body, err = c.config.Namespace.Request(key, version, body); err != nil {
		return p.refuse(err)
	}
	select {
	case c.slots <- struct{}{}:
	case <-c.closed:
		return p.refuse(c.Err())
	case <-ctx.Done():
		return p.refuse(ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause := c.mu.cause; cause != nil {
		<-c.slots
		return p.refuse(cause)
	}
	c.queue <- p
	return p
}

// Wait returns the answer's body, without the response header; it is the
// caller's. If ctx ends first, the request stays on its way and its answer is
// dropped.
func (p *Pending) Wait(ctx context.Context) ([]byte, error) {
	select {
	case <-p.done:
	default:
		select {
		case <-p.done:
		case <-ctx.Done():
			return nil, p.conn.fault(describe(p.key, p.version), ctx.Err())
		}
	}
	if p.err != nil {
		return nil, p.conn.fault(describe(p.key, p.version), p.err)
	}
	return p.response, nil
}

// Done is closed when the answer is there or there will be none.
func (p *Pending) Done() <-chan struct{} { return p.done }

// refuse ends a request that never took a slot.
func (p *Pending) refuse(err error) *Pending {
	p.err, p.body = err, nil
	close(p.done)
	return p
}

func (p *Pending) finish(response []byte, err error) {
	p.response, p.err, p.body = response, err, nil
	close(p.done)
	<-p.conn.slots
}

// writer gathers requests. Small pieces are copied together, large ones are
// handed to the kernel as they are.
type writer struct {
	transport net.Conn
	small     []byte // the piece being gathered; earlier pieces point into it
	pieces    net.Buffers
}

const (
	copyBytesMax  = 4 << 10
	smallBytesCap = 64 << 10
)

func newWriter(transport net.Conn) *writer {
	return &writer{transport: transport, small: make([]byte, 0, smallBytesCap)}
}

func (w *writer) add(p *Pending, clientID string) {
	start := w.room(64 + len(clientID))
	w.small = append(w.small, 0, 0, 0, 0)
	w.small = wire.AppendRequestHeader(w.small, p.key, p.version, p.correlation, clientID)
	size := len(w.small) - start - 4
	for _, b := range p.body {
		size += len(b)
	}
	binary.BigEndian.PutUint32(w.small[start:], uint32(size))
	w.push(w.small[start:])
	for _, b := range p.body {
		if len(b) > copyBytesMax {
			w.pieces = append(w.pieces, b)
			continue
		}
		start := w.room(len(b))
		w.small = append(w.small, b...)
		w.push(w.small[start:])
	}
}

// room makes sure that n more bytes do not move the buffer that pieces point into.
func (w *writer) room(n int) int {
	if cap(w.small)-len(w.small) < n {
		w.small = make([]byte, 0, max(smallBytesCap, n))
	}
	return len(w.small)
}

// push adds a piece, or lengthens the last one if it ends where this begins.
func (w *writer) push(b []byte) {
	if n := len(w.pieces); n > 0 && len(b) > 0 && len(w.pieces[n-1]) > 0 {
		last := w.pieces[n-1]
		if end := last[:len(last):cap(last)]; cap(end) > len(end) && &end[:len(end)+1][len(end)] == &b[0] {
			w.pieces[n-1] = end[:len(end)+len(b)]
			return
		}
	}
	w.pieces = append(w.pieces, b)
}

func (w *writer) flush() error {
	pieces := w.pieces
	_, err := w.pieces.WriteTo(w.transport)
	clear(pieces) // lets go of the bodies
	w.pieces, w.small = pieces[:0], w.small[:0]
	return err
}
