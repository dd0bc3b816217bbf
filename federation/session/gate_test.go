package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// gated lets its client in when the test says so.
type gated struct {
	*handler
	open atomic.Bool
}

func (g *gated) Admitted() bool { return g.open.Load() }

// startGated runs a session behind a gate; call it inside of a bubble.
func startGated(t *testing.T) (*rig, *gated) {
	t.Helper()
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	r := &rig{handler: &handler{begun: make(chan Request, 100), answers: make(chan []byte, 100)}, client: client, reason: make(chan Reason, 1), cancel: cancel}
	g := &gated{handler: r.handler}
	r.s = New(server, g, Limits{}, nil, Events{})
	go func() { r.reason <- r.s.Run(ctx) }()
	t.Cleanup(func() { cancel(); client.Close() })
	return r, g
}

// Until the gate is open, a connection has one request at a time.
func TestOneRequestAtATimeBeforeAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, g := startGated(t)
		go r.write(bytes.Join([][]byte{frameOf(1, 0), frameOf(2, 0), frameOf(3, 0), frameOf(4, 0)}, nil))
		synctest.Wait()
		if len(r.begun) != 1 {
			t.Fatalf("%d requests were begun", len(r.begun))
		}
		r.answers <- []byte("x")
		r.receive(t)
		synctest.Wait()
		if len(r.begun) != 2 {
			t.Fatalf("%d requests were begun behind the first answer", len(r.begun))
		}
		g.open.Store(true)
		r.answers <- []byte("x")
		r.receive(t)
		synctest.Wait()
		if len(r.begun) != 4 {
			t.Errorf("%d requests were begun once the client was let in", len(r.begun))
		}
		r.answers <- []byte("x")
		r.answers <- []byte("x")
		r.receive(t)
		r.receive(t)
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// Before authentication a connection may cost 64 KiB and 10 s in all.
func TestBeforeAdmissionThereIsLittle(t *testing.T) {
	t.Run("frames are small", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, _ := startGated(t)
			large := frameOf(1, 16<<10)
			r.write(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(large)))
			r.ends(t, "frame-too-large")
			r, g := startGated(t)
			r.write(frameOf(1, 0))
			g.open.Store(true)
			r.answers <- []byte("x")
			r.receive(t)
			go r.write(large)
			<-r.begun
			<-r.begun // it is served once the client is in
			r.answers <- []byte("x")
			r.receive(t)
			r.client.Close()
			r.ends(t, ReasonClient)
		})
	})
	for name, play := range map[string]func(*rig){
		"nothing comes": func(*rig) {},
		"half a frame":  func(r *rig) { r.write(frameOf(1, 100)[:20]) },
		"one after the other": func(r *rig) {
			for i := range int32(100) {
				r.answers <- []byte("x")
				r.write(frameOf(i, 0))
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				r, _ := startGated(t)
				go func() {
					for { // take the answers
						if _, err := r.client.Read(make([]byte, 100)); err != nil {
							return
						}
					}
				}()
				go play(r)
				r.ends(t, ReasonNoLogin)
				if took := time.Since(began); took != 10*time.Second {
					t.Errorf("it took %s", took)
				}
				time.Sleep(100 * time.Second) // play ends
			})
		})
	}
	t.Run("who is in stays in", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, g := startGated(t)
			r.write(frameOf(1, 0))
			time.Sleep(9 * time.Second)
			g.open.Store(true)
			r.answers <- []byte("x")
			r.receive(t)
			time.Sleep(9 * time.Minute)
			r.write(frameOf(2, 0))
			r.answers <- []byte("x")
			r.receive(t)
			r.client.Close()
			r.ends(t, ReasonClient)
		})
	})
}

// An answer with an error is written, and then the connection ends.
func TestALastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		h := &lastWord{handler: &handler{begun: make(chan Request, 1)}}
		reason := make(chan Reason, 1)
		go func() { reason <- New(server, h, Limits{}, nil, Events{}).Run(t.Context()) }()
		go func() { _, _ = client.Write(frameOf(7, 0)) }()
		r := &rig{client: client}
		if c, body := r.receive(t); c != 7 || body != "no" {
			t.Errorf("%d %q", c, body)
		}
		if got := <-reason; got != ReasonLogin {
			t.Errorf("ended for %q", got)
		}
	})
}

type lastWord struct{ *handler }

func (l *lastWord) Begin(context.Context, Request) (Answer, error) {
	return func(context.Context) ([]byte, error) { return []byte("no"), Close(ReasonLogin, errors.New("no")) }, nil
}

// What a client that is not let in asked for ends with its time, and with the client.
func TestWorkBeforeAdmissionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		h := &works{handler: &handler{}}
		reason, began := make(chan Reason, 1), time.Now()
		go func() { reason <- New(server, h, Limits{}, nil, Events{}).Run(t.Context()) }()
		time.Sleep(3 * time.Second)
		_, _ = client.Write(frameOf(1, 0))
		if got := <-reason; got != ReasonNoLogin || time.Since(began) > 10*time.Second+admitPause {
			t.Errorf("%q after %s", got, time.Since(began))
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	h, reason := &works{handler: &handler{}}, make(chan Reason, 1)
	go func() { reason <- New(server, h, Limits{AdmitMax: time.Hour}, nil, Events{}).Run(t.Context()) }()
	_, _ = client.Write(frameOf(1, 0))
	client.Close()
	if got := <-reason; got != ReasonClient {
		t.Errorf("ended for %q", got)
	}
}

// works for as long as it may.
type works struct{ *handler }

func (w *works) Begin(ctx context.Context, _ Request) (Answer, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (w *works) Admitted() bool { return false }
