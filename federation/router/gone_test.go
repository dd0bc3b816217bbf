package router

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"spillway"
	"spillway/federation/layout"
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
	cs.enqueue(k, 444)
	v, changed := ask(k, 444)
	if v != wait {
		t.Fatalf("verdict %d", v)
	}
	if cs.isReleased(term.Base) {
		t.Error("released before it was")
	}
	cs.release(term.Base)
	select {
	case <-changed:
	default:
		t.Error("what waits is not woken")
	}
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
