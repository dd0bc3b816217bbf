package session

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func never() bool { return false }

// muting is a handler of which each answer mutes its connection.
type muting struct {
	*handler
	pause  time.Duration
	lifted func() bool
	told   chan time.Duration // for how long it was muted when the answer was made
}

func (m *muting) Begin(ctx context.Context, req Request) (Answer, error) {
	answer, err := m.handler.Begin(ctx, req)
	return func(ctx context.Context) ([]byte, error) {
		body, err := answer(ctx)
		m.told <- req.Muted()
		req.Mute(m.pause, m.lifted)
		return body, err
	}, err
}

// silentAbove is a handler whose requests are silent from a number on.
type silentAbove struct {
	*handler
	from int32
}

func (s *silentAbove) Silent(req Request) bool { return req.CorrelationID >= s.from }

// startMuting runs a session that is muted by each of its answers; call it inside of a bubble.
func startMuting(t *testing.T, pause time.Duration, lifted func() bool) (*rig, *muting) {
	r := newRig(t)
	m := &muting{handler: r.handler, pause: pause, lifted: lifted, told: make(chan time.Duration, 100)}
	r.run(t, m, Limits{}, nil)
	go func() { // take the answers
		for b := make([]byte, 100); ; {
			if _, err := r.client.Read(b); err != nil {
				return
			}
		}
	}()
	return r, m
}

// send hands requests to the session as fast as they are read.
func (r *rig) send(from, to int32) {
	go func() {
		for i := from; i <= to; i++ {
			r.write(frameOf(i, 0))
		}
	}()
}

// expect tells whether so many requests more were begun.
func (r *rig) expect(t *testing.T, want int, when string) {
	t.Helper()
	synctest.Wait()
	if n := len(r.begun); n != want {
		t.Errorf("%d requests were begun %s, want %d", n, when, want)
	}
	for len(r.begun) > 0 {
		<-r.begun
	}
}

// Invariant E: nothing is read before the time, and all of it afterwards; what is longest
// counts.
func TestAMutedConnectionIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := startMuting(t, 8*time.Second, never)
		r.send(1, 2)
		r.expect(t, 2, "at first")
		r.answers <- []byte("x")
		synctest.Wait()
		time.Sleep(unawareAfter)
		m.pause = 5 * time.Second // which ends before
		r.answers <- []byte("x")
		r.send(3, 4)
		time.Sleep(7*time.Second - time.Millisecond)
		r.expect(t, 0, "while it was muted")
		time.Sleep(time.Millisecond)
		r.expect(t, 2, "afterwards")
		if first, second := <-m.told, <-m.told; first != 0 || second != 7*time.Second {
			t.Errorf("told to be muted for %s, and for %s", first, second)
		}
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// The mute begins when the client is told. Several requests that it had sent before wait
// for no pause, though the answers are late; and one that sends on is not read.
func TestWhatWasSentBeforeItWasToldIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := startMuting(t, 10*time.Second, never)
		r.send(1, 1)
		synctest.Wait()
		time.Sleep(9 * time.Second) // the answer is late
		r.send(2, 5)
		r.expect(t, 5, "before the first answer")
		for range 5 {
			r.answers <- []byte("x")
		}
		synctest.Wait() // all are answered
		if len(m.told) != 5 {
			t.Fatalf("%d were answered", len(m.told))
		}
		time.Sleep(unawareAfter)
		r.send(6, 100)
		time.Sleep(10*time.Second - unawareAfter - time.Millisecond)
		r.expect(t, 0, "while it was muted")
		time.Sleep(time.Millisecond)
		r.expect(t, unawareMax, "after the pause, with no answer")
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// Requests that lie unread when the client is told, for whatever reason, are read also: one
// after each pause would leave the last one there for longer than any client waits.
func TestWhatLayUnreadWhenItWasToldIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := startMuting(t, 10*time.Second, never)
		r.hold = make(chan struct{}) // nothing is begun
		var all []byte
		for i := range int32(100) {
			r.answers <- []byte("x")
			all = append(all, frameOf(i, 0)...)
		}
		r.write(all)
		synctest.Wait() // as many are read as may be open
		close(r.hold)
		synctest.Wait()
		first := len(m.told)
		if least := (Limits{}).WithDefaults().InFlightMax + unawareMax; first < least || first >= 100 {
			t.Errorf("%d requests were read at first", first)
		}
		time.Sleep(10*time.Second - time.Millisecond)
		r.expect(t, first, "before the pause was over")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		// Up to unawareMax until one is answered, and unawareMax behind that.
		if n := len(r.begun); n <= unawareMax || n > 2*unawareMax {
			t.Errorf("%d requests were begun after the pause", n)
		}
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// One that has nothing open, and sends on when it was told, is not read.
func TestWhatWasSentAfterItWasToldIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := startMuting(t, time.Second, never)
		for n := range int32(5) {
			r.answers <- []byte("x")
			r.send(n, n)
			r.expect(t, 1, "at once")
			r.send(n, n)
			r.expect(t, 0, "while it was muted")
			r.answers <- []byte("x")
			time.Sleep(time.Second)
			r.expect(t, 1, "afterwards")
			time.Sleep(time.Second)
		}
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

func TestAMuteEndsEarly(t *testing.T) {
	muted := func(t *testing.T, lifted func() bool) (*rig, *muting) {
		r, m := startMuting(t, 30*time.Second, lifted)
		r.send(1, 2)
		synctest.Wait()
		r.answers <- []byte("x")
		synctest.Wait()
		time.Sleep(unawareAfter)
		r.send(3, 3)
		r.expect(t, 2, "at first")
		return r, m
	}
	t.Run("lifted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			from := time.Now().Add(5 * time.Second)
			to := from.Add(5 * time.Second)
			r, m := muted(t, func() bool { return !time.Now().Before(from) && time.Now().Before(to) })
			<-r.begun
			if took := time.Since(from); took < 0 || took > mutePause {
				t.Errorf("it was read %s after it was lifted", took)
			}
			// Nothing was told of it meanwhile, so it does not come back.
			m.pause = 0
			r.answers <- []byte("x")
			r.answers <- []byte("x")
			time.Sleep(10 * time.Second)
			r.send(4, 4)
			r.expect(t, 1, "when nothing lifts it any more")
			r.client.Close()
			r.ends(t, ReasonClient)
		})
	})
	t.Run("drained", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, _ := muted(t, never)
			began := time.Now()
			r.s.Drain()
			r.answers <- []byte("x")
			r.ends(t, ReasonDrained)
			if took := time.Since(began); took > 0 {
				t.Errorf("it took %s", took)
			}
			r.client.Close()
		})
	})
	t.Run("shutdown", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, _ := muted(t, never)
			began := time.Now()
			r.cancel()
			r.ends(t, ReasonShutdown)
			if took := time.Since(began); took > 0 {
				t.Errorf("it took %s", took)
			}
			r.client.Close()
		})
	})
}

// A client that goes while it is muted has, of what it sent, only that begun for which
// nobody waits: the rest it may have sent again elsewhere.
func TestWhatLayUnreadOfAClientThatHasGone(t *testing.T) {
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
	r := newRig(t)
	r.client = client
	const silentFrom = 100
	s, now := New(server, &silentAbove{r.handler, silentFrom}, Limits{InFlightMax: 1}, nil, Events{}), time.Now() // so that the end is not read before the rest is begun
	s.mute.Store(&mute{began: now.Add(-time.Hour), until: now.Add(time.Hour), lifted: never})
	go func() { r.reason <- s.Run(t.Context()) }()
	for _, n := range []int32{2, silentFrom, 3, silentFrom + 1} {
		r.answers <- nil
		r.write(frameOf(n, 0))
	}
	client.Close()
	if got := <-r.reason; got != ReasonClient {
		t.Errorf("ended for %q", got)
	}
	for _, want := range []int32{silentFrom, silentFrom + 1} {
		if len(r.begun) == 0 {
			t.Fatalf("request %d was not begun", want)
		}
		if got := (<-r.begun).CorrelationID; got != want {
			t.Errorf("request %d was begun, want %d", got, want)
		}
	}
	if len(r.begun) > 0 {
		t.Errorf("%d more were begun", len(r.begun))
	}
}

// A client may send as soon as it has the answer, and before the session knows that it has.
func TestAClientThatIsFastIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		r := newRig(t)
		m := &muting{handler: r.handler, pause: 10 * time.Second, lifted: never, told: make(chan time.Duration, 100)}
		go func() { r.reason <- New(&slowToReturn{server}, m, Limits{}, nil, Events{}).Run(t.Context()) }()
		r.client = client
		r.answers <- []byte("x")
		r.write(frameOf(1, 0))
		r.receive(t)
		r.write(frameOf(2, 0))
		r.expect(t, 1, "at first")
		time.Sleep(10 * time.Second)
		r.expect(t, 0, "as long as the client was told, which it was when the write was over")
		time.Sleep(time.Second)
		r.expect(t, 1, "afterwards")
		client.Close()
		if got := <-r.reason; got != ReasonClient {
			t.Errorf("ended for %q", got)
		}
	})
}

// slowToReturn has written for a second before it says so.
type slowToReturn struct{ net.Conn }

func (s *slowToReturn) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	time.Sleep(500 * time.Millisecond) // of two pieces
	return n, err
}
