package maptopic

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/mirror/offsetmap"
)

// silent is a network on which connections can fall silent for good, as they do
// if the process at the other end hangs: new ones are answered again.
type silent struct {
	mu    sync.Mutex
	conns []*silenced
}

type silenced struct {
	net.Conn
	mute chan struct{}
}

func (s *silent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	one := &silenced{c, make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, one)
	return one, nil
}

// fall makes the connections of now silent.
func (s *silent) fall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		close(c.mute)
	}
	s.conns = nil
}

func (c *silenced) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		select {
		case <-c.mute:
			if err != nil {
				return 0, err
			}
			continue // nobody hears it
		default:
			return n, err
		}
	}
}

// A reader whose connection falls silent without being closed makes a new one.
// Otherwise whoever waits for the map waits for ever: a site could not take over
// after the network had been gone, though all seemed well.
func TestReaderLeavesASilentConnection(t *testing.T) {
	t.Parallel()
	server, err := embedded.Start(embedded.Config{Site: "east"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	network := &silent{}
	cluster, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(false), Dial: network.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), readMax+20*time.Second)
	defer cancel()
	w := NewWriter(ctx, server, 1)
	defer w.Close()
	if err := w.EnsureTopic(ctx); err != nil {
		t.Fatal(err)
	}
	r := Tail(ctx, cluster, nil)
	defer r.Close()
	for n := range 2 {
		position, err := w.Save(ctx, StartEntry(orders0, offsetmap.EpochStart{Epoch: spillway.Epoch(n + 1)}))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.WaitFor(ctx, position); err != nil {
			t.Fatal(err)
		}
		network.fall()
	}
}

// Of two floors compaction leaves the one that was written last, which may have come late.
func TestTheFloorThatCompactionLeaves(t *testing.T) {
	t.Parallel()
	server, err := embedded.Start(embedded.Config{Site: "east", Brokers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	w := NewWriter(ctx, server, 1)
	defer w.Close()
	r := Tail(ctx, server, nil)
	defer r.Close()
	id := spillway.ShareID{Group: "orders"}
	for _, c := range []struct{ written, floor spillway.Epoch }{{2, 2}, {4, 4}, {3, 4}, {4, 4}} {
		at, err := w.Save(ctx, FloorEntry(id, c.written))
		if err == nil {
			err = r.WaitFor(ctx, at)
		}
		if err != nil {
			t.Fatal(err)
		}
		if floor, kept := r.Floor(id), r.FloorKept(id); floor != c.floor || kept != c.written {
			t.Errorf("floor %d, kept %d after %d was written", floor, kept, c.written)
		}
	}
}

// What is not found in a map that is being read anew may only not have been read.
func TestAMapIsWholeOnceItWasRead(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	site, err := embedded.Start(embedded.Config{Site: "west"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { site.Close() })
	w := NewWriter(ctx, site, 1)
	t.Cleanup(w.Close)
	gap := Gap{ID: "g", Kind: GapForeign, Topic: "carts", LocalFrom: 5, LocalTo: 6}
	if _, err := w.Save(ctx, GapEntry(gap)); err != nil {
		t.Fatal(err)
	}
	r := Tail(ctx, site, nil)
	t.Cleanup(r.Close)
	for range 20 {
		if err := r.Whole(ctx); err != nil {
			t.Fatal(err)
		}
		if !r.Holds(gap) {
			t.Fatal("it is whole, and lacks what was there before")
		}
		r.forget()
	}
}

// The partitions of a share are those that a look at all partitions of the map gives.
func TestPartitionsOfTopics(t *testing.T) {
	t.Parallel()
	r := &Reader{done: make(chan struct{})}
	r.mu.moved = make(chan struct{})
	r.forget()
	var all []spillway.TopicPartition
	for _, topic := range []string{"orders-old", "orders", "carts"} {
		for p := range int32(3) {
			tp := spillway.TopicPartition{Topic: topic, Partition: 2 - p}
			all = append(all, tp)
			for range 2 { // said again
				e := StartEntry(tp, offsetmap.EpochStart{Epoch: 1, Worker: "1"})
				r.applyRecord(int64(len(all)), []byte(e.Key), e.Value)
			}
		}
	}
	slices.SortFunc(all, spillway.TopicPartition.Compare)
	if !slices.Equal(r.Partitions(), all) || !slices.Equal(r.PartitionsOf([]string{"*"}), all) {
		t.Errorf("%v and %v, not %v", r.Partitions(), r.PartitionsOf([]string{"*"}), all)
	}
	if got := r.PartitionsOf([]string{"orders", "o*", "nothing"}); !slices.Equal(got, all[3:]) {
		t.Errorf("of orders and more: %v, not %v", got, all[3:])
	}
	if got := r.PartitionsOf([]string{"orders", "orders"}); !slices.Equal(got, all[3:6]) {
		t.Errorf("of orders: %v, not %v", got, all[3:6])
	}
	r.forget()
	if got := r.PartitionsOf([]string{"*"}); len(got) != 0 {
		t.Errorf("of a map that was forgotten: %v", got)
	}
}
