package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
)

// relay is the line between one site's processes and the coordinator store,
// which can be held up: what either side sends then waits.
type relay struct {
	socket   string // where the site's processes find the store
	store    string // where it is
	listener net.Listener
	running  sync.WaitGroup

	mu struct {
		sync.Mutex
		open   chan struct{} // closed while bytes pass
		conns  map[net.Conn]struct{}
		closed bool
	}
}

func newRelay(ctx context.Context, socket, store string) (*relay, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("line to the coordinator store: %w", err)
	}
	r := &relay{socket: socket, store: store, listener: l}
	r.mu.open, r.mu.conns = make(chan struct{}), make(map[net.Conn]struct{})
	close(r.mu.open)
	r.running.Go(r.accept)
	return r, nil
}

// hold keeps back what is sent from now on, until release.
func (r *relay) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.mu.open:
		r.mu.open = make(chan struct{})
	default: // held already
	}
}

func (r *relay) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.mu.open:
	default:
		close(r.mu.open)
	}
}

func (r *relay) close() error {
	r.release()
	err := r.listener.Close()
	r.mu.Lock()
	r.mu.closed = true
	for c := range r.mu.conns {
		_ = c.Close() // only ends what waits on it
	}
	r.mu.Unlock()
	r.running.Wait()
	if removed := os.Remove(r.socket); !errors.Is(removed, os.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	return err
}

func (r *relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		var d net.Dialer
		far, err := d.DialContext(context.Background(), "unix", r.store)
		if err != nil {
			_ = near.Close() // as if nobody listened
			continue
		}
		if !r.keep(near, far) {
			return
		}
		r.running.Go(func() { r.pass(near, far) })
		r.running.Go(func() { r.pass(far, near) })
	}
}

// keep remembers connections for close, unless that was called.
func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.mu.closed {
			_ = c.Close()
			continue
		}
		r.mu.conns[c] = struct{}{}
	}
	return !r.mu.closed
}

// pass copies one direction of a connection, and ends both when it ends.
func (r *relay) pass(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		open := r.mu.open
		r.mu.Unlock()
		<-open // close opens it too
		if n > 0 {
			if _, failed := to.Write(buf[:n]); failed != nil {
				err = failed
			}
		}
		if err != nil {
			break
		}
	}
	for _, c := range []net.Conn{from, to} {
		_ = c.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.conns, from)
	delete(r.mu.conns, to)
}
