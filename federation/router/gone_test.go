package router

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/federation/layout"
	"spillway/mirror/offsetmap"
)

type fixedLayout struct{ layout.Layout }

func (l fixedLayout) Current() layout.Layout { return l.Layout }

func (l fixedLayout) Leads(spillway.ShareID, spillway.TopicPartition) (mine, ready bool) {
	return true, true
}

func (l fixedLayout) Changed() <-chan struct{} { return nil }

// What is missing at the opening of a term is given up early only if no gateway
// can have it any more: a machine that does not answer may hide one that clients
// still wait for.
func TestGatewaysThatAreGone(t *testing.T) {
	node := func(id string, port int32) layout.Node {
		return layout.Node{Gateway: spillway.GatewayID(id), Host: "127.0.0.1", Port: port}
	}
	type answer int
	const (
		connects answer = iota
		refuses
		isSilent
	)
	for name, c := range map[string]struct {
		lives, left answer
		leftPort    int32
		want        bool
	}{
		"all live, nobody left":            {connects, refuses, 2, true},
		"one left and its machine is dark": {connects, isSilent, 3, false},
		"one left and hangs":               {connects, connects, 3, false},
		"one left and is gone":             {connects, refuses, 3, true},
		"one has just died":                {refuses, refuses, 3, true},
		"one has just gone dark":           {isSilent, refuses, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]answer{"127.0.0.1:3": c.left, "127.0.0.1:2": c.lives}
			r := &Router{layout: fixedLayout{layout.Layout{Nodes: []layout.Node{node("me", 1), node("other", 2)}, Past: []layout.Node{node("left", c.leftPort)}}}}
			r.config.Gateway = "me"
			r.config.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
				switch a, ok := answers[address]; {
				case !ok:
					t.Errorf("%s was asked", address)
					fallthrough
				case a == isSilent:
					return nil, errors.New("i/o timeout")
				case a == refuses:
					return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
				}
				near, far := net.Pipe()
				_ = far.Close() // nobody reads it
				return near, nil
			}
			if got := r.allGone(t.Context()); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}

// A machine that was silent when its gateway left the layout, or since, may have
// booted again: that it refuses then proves nothing, until clients cannot have
// anything open there any more.
func TestARefusalAfterSilenceProvesNothingYet(t *testing.T) {
	for name, silence := range map[string]bool{"it was dark": true, "it always answered": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node := func(id string, port int32) layout.Node {
					return layout.Node{Gateway: spillway.GatewayID(id), Host: "127.0.0.1", Port: port}
				}
				l := &leavingLayout{changed: make(chan struct{})}
				l.Layout = layout.Layout{Version: 1, Nodes: []layout.Node{node("me", 1), node("other", 2)}}
				dark := atomic.Bool{}
				r := New(Config{Gateway: "me", Layout: l, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
					if dark.Load() {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
				}})
				defer r.Close()
				synctest.Wait()
				dark.Store(silence)
				l.leave()
				time.Sleep(10 * time.Second)
				dark.Store(false)
				time.Sleep(10 * time.Second)
				if gone := r.allGone(t.Context()); gone == silence {
					t.Errorf("gone: %t", gone)
				}
				time.Sleep(30 * time.Second)
				if !r.allGone(t.Context()) {
					t.Error("it is not gone after all that time")
				}
				dark.Store(true)
				ended, end := context.WithCancel(t.Context())
				end() // whoever asked has given up: that is no silence
				r.allGone(ended)
				dark.Store(false)
				if !r.allGone(t.Context()) {
					t.Error("what was given up counts as silence")
				}
			})
		})
	}
}

// leavingLayout is a layout of two, of which the second leaves.
type leavingLayout struct {
	fixedLayout
	mu      sync.Mutex
	changed chan struct{}
}

func (l *leavingLayout) Current() layout.Layout {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Layout
}

func (l *leavingLayout) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *leavingLayout) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Layout = layout.Layout{Version: 2, Nodes: l.Layout.Nodes[:1], Past: l.Layout.Nodes[1:]}
	close(l.changed)
	l.changed = make(chan struct{})
}

// Once that is known, the batches that waited for what was lost go on, in order,
// and those that wait for what this gateway itself lost in the term do not.
func TestReleaseOfWhatWasLost(t *testing.T) {
	cs := newContacts(100, 35*time.Second)
	term := second()
	ask := func(k contactKey, first int32) (verdict, <-chan struct{}) {
		v, _, _, changed := cs.check(arrival{contactKey: k, first: first, last: first, term: term})
		return v, changed
	}
	k, other := contactKey{id: spillway.ClientProducerID(1)}, contactKey{id: spillway.ClientProducerID(2)}
	if v, _ := ask(other, 0); v != forward {
		t.Fatalf("verdict %d", v)
	}
	cs.failed(other, 0, 0, term.Base)
	cs.enqueue(k, 0, 444)
	if v, _ := ask(k, 444); v != wait {
		t.Fatalf("verdict %d", v)
	}
	if cs.isReleased(spillway.ShareID{}, term.Base) {
		t.Error("released before it was")
	}
	cs.release(spillway.ShareID{Group: "another, in the same epoch"}, term.Base)
	cs.mu.young[k].begun = time.Now().Add(-releaseAfter)
	if v, _ := ask(k, 444); v != wait || cs.isReleased(spillway.ShareID{}, term.Base) {
		t.Errorf("released with another share: verdict %d", v)
	}
	_, changed := ask(k, 444)
	cs.mu.young[k].begun = time.Now()
	cs.release(spillway.ShareID{}, term.Base)
	select {
	case <-changed:
	default:
		t.Error("what waits is not woken")
	}
	if v, _ := ask(k, 444); v != wait {
		t.Errorf("444 goes at once, though older ones may just have been refused elsewhere: verdict %d", v)
	}
	cs.mu.young[k].begun = time.Now().Add(-releaseAfter)
	if v, _ := ask(k, 445); v != wait {
		t.Errorf("445 overtakes 444: verdict %d", v)
	}
	if v, _ := ask(k, 444); v != forward {
		t.Errorf("444: verdict %d", v)
	}
	if v, _ := ask(other, 1); v != wait {
		t.Errorf("a batch overtakes one that was lost in the term: verdict %d", v)
	}
}

// A gateway that could not serve yet has refused a batch, or another one has, and the
// batch behind it is the first to come when it can: it must not go first. Else the
// refused one is out of order for good.
func TestWhatWasSentBackComesFirst(t *testing.T) {
	k := contactKey{id: spillway.ClientProducerID(1)}
	for _, repeats := range []bool{true, false} {
		cs := newContacts(100, 35*time.Second)
		term := second()
		term.Opened = time.Now().Add(-10 * time.Second)
		ask := func(first int32) verdict {
			v, _, _, _ := cs.check(arrival{contactKey: k, first: first, last: first, term: term, repeats: repeats, trail: []offsetmap.TrailEntry{{First: 270, Last: 274}}})
			return v
		}
		cs.refuse(k, 0, 279) // while it was held, before anything of the term was judged
		cs.release(spillway.ShareID{}, term.Base)
		if v := ask(303); v != wait {
			t.Fatalf("303 goes first: verdict %d", v)
		}
		cs.mu.young[k].begun = time.Now().Add(-releaseAfter)
		if v := ask(303); v != wait {
			t.Fatalf("303 goes first, after a while: verdict %d", v)
		}
		if v := ask(279); v != forward {
			t.Fatalf("279: verdict %d", v)
		}
	}
}
