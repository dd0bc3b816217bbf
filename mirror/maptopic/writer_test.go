package maptopic

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/embedded"
)

// cutOff is a site that cannot be reached until it is let.
type cutOff struct {
	broker.Cluster
	tried chan struct{} // gets a value with each try
	heals chan struct{}
}

var errCutOff = errors.New("cut off")

func (c cutOff) Dial(ctx context.Context, node int32) (*conn.Conn, error) {
	select {
	case <-c.heals:
		return c.Cluster.Dial(ctx, node)
	case c.tried <- struct{}{}:
		return nil, errCutOff
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What is over when the site is reached again is not written: whoever gave it up has gone
// on, and others may have.
func TestWhatIsOverIsNotWrittenLate(t *testing.T) {
	t.Parallel()
	server, err := embedded.Start(embedded.Config{Site: "east", Brokers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	site := cutOff{server, make(chan struct{}), make(chan struct{})}
	w := NewWriter(ctx, site, 1)
	defer w.Close()
	if err := w.EnsureTopic(ctx); err != nil {
		t.Fatal(err)
	}
	errLate := errors.New("another one leads")
	var late atomic.Bool
	may := func() error {
		if late.Load() {
			return errLate
		}
		return nil
	}
	ended, end := context.WithCancel(ctx)
	results := [3]chan error{make(chan error, 1), make(chan error, 1), make(chan error, 1)}
	save := func(i int, ctx context.Context, may func() error) {
		go func() {
			_, err := w.SaveWhile(ctx, may, FloorEntry(spillway.ShareID{Group: "orders", Index: i}, 7))
			results[i] <- err
		}()
	}
	save(0, ended, nil)
	<-site.tried
	save(1, ctx, may)
	save(2, ctx, nil)
	for len(w.queue) < 2 { // it tries the first one still
		<-site.tried
	}
	end()
	if err := <-results[0]; !errors.Is(err, context.Canceled) {
		t.Errorf("it was given up: %v", err)
	}
	for len(w.queue) > 0 && ctx.Err() == nil {
		select {
		case <-site.tried:
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-site.tried:
	case <-ctx.Done():
		t.Fatal("what was given up is tried again and again")
	}
	late.Store(true)
	close(site.heals)
	if err := <-results[1]; !errors.Is(err, errLate) {
		t.Errorf("it may not be written any more: %v", err)
	}
	if err := <-results[2]; err != nil {
		t.Errorf("nobody gave it up: %v", err)
	}
	r := Tail(ctx, server, nil)
	defer r.Close()
	if err := r.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	for i, want := range []spillway.Epoch{0, 0, 7} {
		if got := r.Floor(spillway.ShareID{Group: "orders", Index: i}); got != want {
			t.Errorf("the floor of share %d is %d, want %d", i, got, want)
		}
	}
}

// slowToDial is a site at which something happens while a connection is made.
type slowToDial struct {
	broker.Cluster
	meanwhile func()
}

func (s slowToDial) Dial(ctx context.Context, node int32) (*conn.Conn, error) {
	s.meanwhile()
	return s.Cluster.Dial(ctx, node)
}

// What may not be said any more once the connection is there is not sent, however long it
// took to make it.
func TestWhatIsOverWhileItConnectsIsNotWritten(t *testing.T) {
	t.Parallel()
	server, err := embedded.Start(embedded.Config{Site: "east", Brokers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	errLate := errors.New("another one leads")
	var late atomic.Bool
	w := NewWriter(ctx, slowToDial{server, func() { late.Store(true) }}, 1)
	defer w.Close()
	if err := w.EnsureTopic(ctx); err != nil {
		t.Fatal(err)
	}
	may := func() error {
		if late.Load() {
			return errLate
		}
		return nil
	}
	id := spillway.ShareID{Group: "orders"}
	if _, err := w.SaveWhile(ctx, may, FloorEntry(id, 2), FloorEntry(id, 3)); !errors.Is(err, errLate) {
		t.Errorf("it may not be written any more: %v", err)
	}
	if at, err := w.Save(ctx, FloorEntry(id, 4)); err != nil || at != 0 {
		t.Errorf("the next entry is at %d: %v", at, err)
	}
}

// All of a save is in a batch, or nothing: what ends between two looks takes no part of it
// away.
func TestASaveIsAskedOnce(t *testing.T) {
	t.Parallel()
	asked := 0
	s := &save{ctx: t.Context(), may: func() error {
		if asked++; asked > 1 {
			return errors.New("over")
		}
		return nil
	}}
	other := &save{ctx: t.Context()}
	pieces := []piece{{s, 0}, {s, 1}, {other, 0}}
	if pieces = due(pieces); len(pieces) != 3 {
		t.Errorf("%d of 3 entries are left, and the save was asked %d times", len(pieces), asked)
	}
	if pieces = due(pieces); len(pieces) != 1 || pieces[0].of != other {
		t.Errorf("left when it is over: %+v", pieces)
	}
}
