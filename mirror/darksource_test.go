package mirror

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
)

// dark is a network that can begin to drop everything: what is open breaks off,
// and nothing new comes about.
type dark struct {
	mu    sync.Mutex
	fell  bool
	conns []net.Conn
	tries chan struct{} // one for each try to connect since
}

func (d *dark) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fell {
		select {
		case d.tries <- struct{}{}:
		default:
		}
		d.mu.Unlock()
		<-ctx.Done()
		d.mu.Lock()
		return nil, ctx.Err()
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		d.conns = append(d.conns, c)
	}
	return c, err
}

func (d *dark) fall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fell = true
	for _, c := range d.conns {
		_ = c.Close() // the mirror sees why
	}
}

// rise lets new connections come about again.
func (d *dark) rise() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fell = false
}

// A flow stops though its source lies behind a network that drops everything:
// the site may be the target of a failover just then. It used to wait for a
// connection that was being made, for ten seconds.
func TestAFlowStopsWhileItsSourceIsDark(t *testing.T) {
	t.Parallel()
	server := embeddedSite(t, "east", map[string]int32{"orders": 2})
	west := embeddedSite(t, "west", nil)
	network := &dark{tries: make(chan struct{}, 1)}
	east, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(false), Dial: network.dial,
		HandshakeTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { east.Close() })
	eastM, westM := testMirror(t, server, west), testMirror(t, west, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	l := newLoad(t, server.Addresses(), 3)
	ctx := testContext(t)
	for range 10 {
		if err := l.write(ctx, "orders", 2, 3); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, server, eastM, westM, ordersAssignment("", 1)) })
	network.fall()
	for range 1 {
		select {
		case <-network.tries:
		case <-ctx.Done():
			t.Fatal("nobody tries to connect again")
		}
	}
	stop, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := westM.Stop(stop, spillway.ShareID{Group: "orders"}, 2)
		ended <- err
	}()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-stop.Done():
		t.Fatal("the flow waits for its source")
	}
}
