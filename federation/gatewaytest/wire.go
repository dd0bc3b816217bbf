package gatewaytest

import (
	"context"
	"encoding/binary"
	"maps"
	"net"
	"sync"
	"time"
)

// Wire is the network between the gateways and one site.
type Wire struct {
	mu struct {
		sync.Mutex
		conns map[*wired]bool
		mute  bool
		down  bool
		late  time.Duration // see Delay
		sent  map[int16]int // requests by key
		loud  chan struct{} // closed when Mute ends
	}
}

func newWire() *Wire {
	w := &Wire{}
	w.mu.conns = make(map[*wired]bool)
	w.mu.sent = make(map[int16]int)
	w.mu.loud = make(chan struct{})
	close(w.mu.loud)
	return w
}

type wired struct {
	net.Conn
	wire   *Wire
	closed chan struct{}
	once   sync.Once

	keys  map[int16]bool // of the requests sent; guarded by wire.mu
	frame []byte         // its head, as far as it was written
	skip  int            // bytes of the frame that follow
}

// APIKeys are the keys of the requests that were sent on each connection.
func (w *Wire) APIKeys() []map[int16]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []map[int16]bool
	for c := range w.mu.conns {
		all = append(all, maps.Clone(c.keys))
	}
	return all
}

// Sent is how many requests with a key were sent.
func (w *Wire) Sent(key int16) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.sent[key]
}

// Write notes the key of each request: it follows the size.
func (c *wired) Write(b []byte) (int, error) {
	c.wire.mu.Lock()
	for rest := b; len(rest) > 0; {
		if c.skip > 0 {
			n := min(c.skip, len(rest))
			c.skip, rest = c.skip-n, rest[n:]
			continue
		}
		c.frame, rest = append(c.frame, rest[0]), rest[1:]
		if len(c.frame) == 6 {
			c.skip = int(binary.BigEndian.Uint32(c.frame)) - 2
			key := int16(binary.BigEndian.Uint16(c.frame[4:]))
			c.keys[key] = true
			c.wire.mu.sent[key]++
			c.frame = c.frame[:0]
		}
	}
	c.wire.mu.Unlock()
	return c.Conn.Write(b)
}

// Dial is a conn.DialFunc.
func (w *Wire) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	down := w.mu.down
	w.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.ErrClosed}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	wc := &wired{Conn: c, wire: w, closed: make(chan struct{}), keys: make(map[int16]bool)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.conns[wc] = true
	return wc, nil
}

// Mute loses nothing on the way to the site but keeps back every answer.
func (w *Wire) Mute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.mu.mute {
		w.mu.mute, w.mu.loud = true, make(chan struct{})
	}
}

// Unmute lets answers through again, those that were kept back too.
func (w *Wire) Unmute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.mute {
		w.mu.mute = false
		close(w.mu.loud)
	}
}

// Delay has every answer come so much later; none: at once.
func (w *Wire) Delay(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.late = by
}

// Cut closes all connections; down keeps new ones from being made.
func (w *Wire) Cut(down bool) {
	w.mu.Lock()
	w.mu.down = down
	conns := w.mu.conns
	w.mu.conns = make(map[*wired]bool)
	w.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// Mend allows connections again.
func (w *Wire) Mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.down = false
}

func (c *wired) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.wire.mu.Lock()
	late := c.wire.mu.late
	c.wire.mu.Unlock()
	if late > 0 {
		select {
		case <-time.After(late):
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	for err == nil {
		c.wire.mu.Lock()
		mute, loud := c.wire.mu.mute, c.wire.mu.loud
		c.wire.mu.Unlock()
		if !mute {
			break
		}
		select {
		case <-loud:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *wired) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.wire.mu.Lock()
	delete(c.wire.mu.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}
