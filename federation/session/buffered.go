package session

import (
	"bufio"
	"net"
	"sync"
	"syscall"
	"time"
)

// readBytes is what a connection costs that says little. A frame is allocated when so
// much of it has come, or all of it.
const readBytes = 16 << 10

// bufferIdle is how long a connection that says nothing keeps its buffer: what clients ask
// one thing after the other comes sooner.
const bufferIdle = 100 * time.Millisecond

// buffers are *bufio.Reader of readBytes that no connection has.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBytes) }}

// buffered reads a connection through a buffer that it has only while something comes: most
// connections of a large system say nothing most of the time. Where the connection is no
// socket, or TLS, which has buffers of its own, it keeps the buffer.
type buffered struct {
	conn net.Conn
	raw  syscall.RawConn // nil: nobody can wait for what comes without reading it
	in   *bufio.Reader   // nil while it was given back
}

func newBuffered(c net.Conn) *buffered {
	b := &buffered{conn: c, raw: socketOf(c)}
	if b.raw == nil {
		b.take()
	}
	return b
}

// lent tells whether it has a buffer that it would give back.
func (b *buffered) lent() bool { return b.in != nil && b.raw != nil }

func (b *buffered) take() {
	b.in = buffers.Get().(*bufio.Reader)
	b.in.Reset(b.conn)
}

// release gives the buffer back where it is empty.
func (b *buffered) release() {
	if !b.lent() || b.in.Buffered() > 0 {
		return
	}
	b.in.Reset(nil)
	buffers.Put(b.in)
	b.in = nil
}

// await returns when something has come, or the read deadline is over.
func (b *buffered) await() error {
	if b.in == nil {
		if err := awaitReadable(b.raw); err != nil {
			return err
		}
		b.take()
	}
	_, err := b.in.Peek(1)
	return err
}

// Peek is bufio's.
func (b *buffered) Peek(n int) ([]byte, error) { return b.in.Peek(n) }

// Read is bufio's.
func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// Buffered is bufio's.
func (b *buffered) Buffered() int {
	if b.in == nil {
		return 0
	}
	return b.in.Buffered()
}
