package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway/broker/wire"
)

// handler begins requests and answers them when the test says so.
type handler struct {
	begun   chan Request
	ctx     []context.Context // of the requests begun; read when the session has ended
	hold    chan struct{}     // Begin waits for it if it is not nil
	silent  bool
	answers chan []byte
	fail    error
	closed  atomic.Int32
}

func (h *handler) Begin(ctx context.Context, req Request) (Answer, error) {
	h.begun <- req
	if h.hold != nil {
		<-h.hold
	}
	h.ctx = append(h.ctx, ctx)
	if h.fail != nil {
		return nil, h.fail
	}
	return func(ctx context.Context) ([]byte, error) {
		select {
		case b := <-h.answers:
			return b, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, nil
}

func (h *handler) Silent(Request) bool { return h.silent }

func (h *handler) Close() { h.closed.Add(1) }

type rig struct {
	*handler
	client net.Conn
	s      *Session
	reason chan Reason
	cancel context.CancelFunc
}

// start runs a session; call it inside of a bubble.
func start(t *testing.T, l Limits, b *Budget) *rig {
	t.Helper()
	r := newRig(t)
	r.run(t, r.handler, l, b)
	return r
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return &rig{handler: &handler{begun: make(chan Request, 100), answers: make(chan []byte, 100)}, reason: make(chan Reason, 1)}
}

// run serves the client with a handler, which mostly is that of the rig or one around it.
func (r *rig) run(t *testing.T, h Handler, l Limits, b *Budget) {
	client, server := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	r.client, r.cancel = client, cancel
	r.s = New(server, h, l, b, Events{})
	go func() { r.reason <- r.s.Run(ctx) }()
	t.Cleanup(func() { cancel(); client.Close() })
}

func frameOf(correlation int32, extra int) []byte {
	b := wire.AppendRequestHeader(make([]byte, 4), 3, 1, correlation, "test")
	b = append(b, make([]byte, extra)...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// write hands bytes to the session; a failure shows in what the test waits for.
func (r *rig) write(b []byte) { _, _ = r.client.Write(b) }

func (r *rig) receive(t *testing.T) (correlation int32, body string) {
	t.Helper()
	frame, err := wire.ReadFrame(r.client, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return int32(binary.BigEndian.Uint32(frame)), string(frame[4:])
}

func (r *rig) ends(t *testing.T, want Reason) {
	t.Helper()
	if got := <-r.reason; got != want {
		t.Errorf("ended for %q, want %q", got, want)
	}
	if n := r.closed.Load(); n != 1 {
		t.Errorf("the handler was closed %d times", n)
	}
}

func TestAnswersKeepOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Limits{}, nil)
		for i := range int32(3) {
			r.write(frameOf(i, 0))
		}
		for i := range 3 {
			r.answers <- []byte{byte('a' + i)}
		}
		for i := range int32(3) {
			if c, body := r.receive(t); c != i || body != string('a'+i) {
				t.Errorf("answer %d is %d %q", i, c, body)
			}
		}
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// Invariant B: beyond its bounds a session does not read, and goes on when
// there is room.
func TestBackPressure(t *testing.T) {
	for name, l := range map[string]Limits{"requests": {InFlightMax: 2}, "bytes": {InFlightBytesMax: 200}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, l, nil)
				written := atomic.Int32{}
				go func() {
					for i := range int32(10) {
						r.write(frameOf(i, 100))
						written.Add(1)
					}
				}()
				synctest.Wait()
				if n := written.Load(); n > 3 {
					t.Errorf("%d requests were read", n)
				}
				for range 10 {
					r.answers <- []byte("x")
					r.receive(t)
				}
				synctest.Wait()
				if n := written.Load(); n != 10 {
					t.Errorf("%d requests were read in the end", n)
				}
				r.client.Close()
				r.ends(t, ReasonClient)
			})
		})
	}
}

// The budget of the process is shared, and given back whatever happens.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(150)
		first, second := start(t, Limits{}, budget), start(t, Limits{}, budget)
		first.write(frameOf(1, 200))
		synctest.Wait()
		second.write(frameOf(1, 0)) // one request each is always read
		go second.write(frameOf(2, 0))
		time.Sleep(time.Second)
		if n := len(second.begun); n != 1 {
			t.Errorf("%d requests begun over the budget", n)
		}
		first.answers <- []byte("x")
		first.receive(t)
		time.Sleep(time.Second)
		if n := len(second.begun); n != 2 {
			t.Errorf("%d requests begun after there is room", n)
		}
		first.client.Close()
		first.ends(t, ReasonClient)
		second.client.Close()
		second.ends(t, ReasonClient)
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes are never given back", n)
		}
	})
}

// greets has the session see a first request.
func greets(t *testing.T, r *rig) {
	r.write(frameOf(1, 0))
	r.answers <- []byte("x")
	r.receive(t)
}

// A client may dial long before it asks.
func TestASilentClientIsServedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Limits{}, nil)
		time.Sleep(9 * time.Minute)
		greets(t, r)
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// A first request that waits for the budget is not late for it.
func TestAFirstRequestMayWaitForTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(300_000)
		first, second := start(t, Limits{}, budget), start(t, Limits{}, budget)
		first.write(frameOf(1, 200_000))
		go second.write(frameOf(1, 200_000))
		time.Sleep(12 * time.Second)
		first.answers <- []byte("x")
		first.receive(t)
		second.answers <- []byte("x")
		second.receive(t)
		first.client.Close()
		second.client.Close()
		first.ends(t, ReasonClient)
		second.ends(t, ReasonClient)
	})
}

// What a connection is given for its first request ends at GreetMax, however it
// spends it, and what was claimed and not sent is not counted.
func TestGreetingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1 << 20)
		r := start(t, Limits{GreetMax: 7 * time.Second}, budget)
		began := time.Now()
		var writing sync.WaitGroup
		writing.Go(func() {
			for _, b := range frameOf(1, 100_000) {
				if _, err := r.client.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		time.Sleep(6 * time.Second)
		if used := budget.Used(); used != 0 {
			t.Errorf("%d bytes are counted", used)
		}
		r.ends(t, ReasonNoGreeting)
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("it took %s", took)
		}
		writing.Wait()
	})
}

func TestReasons(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, r *rig)
		want Reason
	}{
		"silent":              {func(*testing.T, *rig) {}, ReasonIdle},
		"a greeting too slow": {func(_ *testing.T, r *rig) { r.write(frameOf(1, 10)[:6]) }, ReasonNoGreeting},
		"idle":                {greets, ReasonIdle},
		"a frame too slow":    {func(t *testing.T, r *rig) { greets(t, r); r.write(frameOf(1, 10)[:6]) }, ReasonSlowFrame},
		"cut off":             {func(_ *testing.T, r *rig) { r.write(frameOf(1, 10)[:6]); r.client.Close() }, ReasonTruncated},
		"answers not taken": {func(_ *testing.T, r *rig) {
			r.write(frameOf(1, 0))
			r.answers <- []byte("x")
		}, ReasonSlowReader},
		"shutdown":         {func(_ *testing.T, r *rig) { r.write(frameOf(1, 0)); r.cancel() }, ReasonShutdown},
		"refused by begin": {func(_ *testing.T, r *rig) { r.fail = Close(ReasonVersion, nil); r.write(frameOf(1, 0)) }, ReasonVersion},
		"unforeseen":       {func(_ *testing.T, r *rig) { r.fail = errors.New("x"); r.write(frameOf(1, 0)) }, ReasonInternal},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, Limits{}, nil)
				c.do(t, r)
				r.ends(t, c.want)
			})
		})
	}
}

// A draining session answers what it has read, reads no more, and ends; also
// if an answer never comes.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Limits{}, nil)
		r.write(frameOf(1, 0))
		synctest.Wait()
		r.s.Drain()
		r.answers <- []byte("last")
		if c, body := r.receive(t); c != 1 || body != "last" {
			t.Errorf("answer %d %q", c, body)
		}
		if _, err := r.client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the connection stays open: %v", err)
		}
		r.ends(t, ReasonDrained)
	})
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Limits{LingerMax: 3 * time.Second}, nil)
		r.write(frameOf(1, 0))
		synctest.Wait()
		begin := time.Now()
		r.s.Drain()
		r.ends(t, ReasonDrained)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// A request has come with its first byte: its client was sending it by then, however
// long the rest takes.
func TestARequestComesWithItsFirstByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Limits{}, nil)
		time.Sleep(time.Second)
		began, frame := time.Now(), frameOf(1, 100)
		for _, b := range frame {
			r.write([]byte{b})
			time.Sleep(time.Millisecond)
		}
		if came := (<-r.begun).CameAt(); !came.Equal(began) {
			t.Errorf("it came %s after its first byte", came.Sub(began))
		}
	})
}

// An answer counts until it was written, gets what the budget has left for
// answers, and never all of it.
func TestAnswersAreInTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget, more := NewBudget(80_000), int64(0)
		r := start(t, Limits{}, budget)
		r.s.events.BytesHeld = func(n int64) { more += n }
		r.write(frameOf(1, 0))
		req := <-r.begun
		frame := budget.Used()
		room := req.Reserve(1 << 30)
		if want := (40_000 - frame) / 4; room != want || budget.Used() != frame+want {
			t.Errorf("room for %d bytes, %d are counted; want %d", room, budget.Used(), want)
		}
		if again := req.Reserve(100); again != 100 || budget.Used() != frame+100 {
			t.Errorf("room for %d bytes, %d are counted", again, budget.Used())
		}
		req.Hold(50_000) // one batch was larger than what was asked for
		if room := req.Reserve(100); room != 100 {
			t.Errorf("room for %d bytes: what the answer held itself is in its way", room)
		}
		req.Hold(50_000)
		other := start(t, Limits{}, budget)
		other.write(frameOf(1, 0))
		if room := (<-other.begun).Reserve(100); room != 0 {
			t.Errorf("room for %d bytes beyond the budget", room)
		}
		r.answers <- make([]byte, 40_000)
		synctest.Wait() // nobody reads it
		if used := budget.Used(); used < 40_000 || used > 41_000 {
			t.Error("given back before it was written")
		}
		r.receive(t)
		other.answers <- []byte("x")
		other.receive(t)
		synctest.Wait()
		if budget.Used() != 0 || more != 0 {
			t.Errorf("%d bytes are never given back, events tell of %d", budget.Used(), more)
		}
		r.client.Close()
		other.client.Close()
		r.ends(t, ReasonClient)
		other.ends(t, ReasonClient)
	})
}

// What is written behind the body is of the same frame, in order, and in the budget.
func TestTheRestOfAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(1 << 20)
		r := start(t, Limits{}, budget)
		r.write(frameOf(1, 0))
		r.write(frameOf(2, 0))
		req := <-r.begun
		req.Hold(200_000) // the pieces are a part of so much
		req.Rest([][]byte{[]byte("cd"), {}, bytes.Repeat([]byte("e"), 60_000)})
		r.answers <- []byte("ab")
		r.answers <- []byte("next")
		synctest.Wait() // nobody reads it
		if used := budget.Used(); used < 200_000 {
			t.Errorf("%d bytes are counted before they were written", used)
		}
		if c, body := r.receive(t); c != 1 || len(body) != 60_004 || body[:5] != "abcde" {
			t.Errorf("answer %d has %d bytes: %.8q", c, len(body), body)
		}
		if c, body := r.receive(t); c != 2 || body != "next" {
			t.Errorf("answer %d: %q", c, body)
		}
		synctest.Wait()
		if used := budget.Used(); used != 0 {
			t.Errorf("%d bytes are never given back", used)
		}
		r.client.Close()
		r.ends(t, ReasonClient)
	})
}

// A large frame waits for room before it is read, a small one does not.
func TestLargeFramesWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(300_000)
		first, second, third := start(t, Limits{}, budget), start(t, Limits{}, budget), start(t, Limits{}, budget)
		first.write(frameOf(1, 200_000))
		go second.write(frameOf(1, 200_000)[:100_000]) // it claims more than there is
		third.write(frameOf(1, 50_000))
		time.Sleep(time.Second)
		if used := budget.Used(); used < 250_000 || used > 300_000 || len(second.begun) != 0 || len(third.begun) != 1 {
			t.Errorf("%d bytes are used, %d large and %d small frames were read", used, len(second.begun), len(third.begun))
		}
		first.answers <- []byte("x")
		first.receive(t)
		time.Sleep(time.Second)
		if used := budget.Used(); used < 250_000 {
			t.Errorf("%d bytes are used: a frame is counted before it is allocated", used)
		}
		second.ends(t, ReasonSlowFrame)
		third.answers <- []byte("x")
		third.receive(t)
		first.client.Close()
		third.client.Close()
		first.ends(t, ReasonClient)
		third.ends(t, ReasonClient)
		if n := budget.Used(); n != 0 {
			t.Errorf("%d bytes are never given back", n)
		}
	})
}
