package router

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"spillway"
)

// flowWorld is a producer, a flow, and two brokers of which one leads, as dumb as
// can be. Time is a count of steps.
type flowWorld struct {
	t    *testing.T
	rand *rand.Rand
	seed uint64
	now  time.Time
	flow flow

	brokers [2]*Lane
	leads   int  // the broker that leads
	known   int  // the one that the gateway takes for it
	alone   bool // what is in flight is one batch, to a broker that has not taken any

	number map[*part]int  // of the record that a part carries
	next   int            // record
	unsent []int          // records that the client was told to send again, in order
	open   []*part        // sent by the client, and not answered to it
	result map[*part]bool // what is to be answered: true is success
	queue  []*part        // read from the connection, and not begun
	wrote  *part          // its answer was written, and the flow does not know
	log    []int
}

func (w *flowWorld) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d: %s\nlog %v", w.seed, fmt.Sprintf(format, args...), w.log)
}

// send is the client: what it was told to send again goes first, and nothing new
// while it waits for the answers of others behind a refused one.
func (w *flowWorld) send() {
	n := w.next
	switch {
	case len(w.unsent) > 0 && len(w.open) > 0:
		return
	case len(w.unsent) > 0:
		n, w.unsent = w.unsent[0], w.unsent[1:]
	case len(w.open) >= 5:
		return
	default:
		w.next++
	}
	p := &part{op: &produce{acks: -1, came: w.now}}
	p.header.ProducerID = -1
	w.number[p] = n
	w.open = append(w.open, p)
	w.queue = append(w.queue, p)
}

// begin is the connection, which begins requests some time after it has read them.
func (w *flowWorld) begin() {
	if len(w.queue) > 0 {
		p := w.queue[0]
		w.queue = w.queue[1:]
		w.pass(p)
	}
}

func (w *flowWorld) pass(p *part) {
	p.lane = w.brokers[w.known]
	switch w.flow.enter(p, p.lane) {
	case behind:
		w.refuse(p)
	case goes:
		w.alone = !w.flow.proved
	}
}

func (w *flowWorld) refuse(p *part) {
	for _, q := range append([]*part{p}, w.flow.refuse(p)...) {
		if q != p {
			w.flow.refuse(q)
		}
		w.end(q, false)
	}
}

func (w *flowWorld) end(p *part, ok bool) {
	if _, twice := w.result[p]; twice {
		w.fail("record %d was answered twice", w.number[p])
	}
	w.result[p] = ok
}

// answer lets a broker do the oldest thing that it was sent.
func (w *flowWorld) answer() {
	if len(w.flow.flying) == 0 {
		return
	}
	p := w.flow.flying[0]
	for _, q := range w.flow.flying {
		if q.lane != p.lane {
			w.fail("in flight on two lanes")
		}
	}
	switch took := p.lane == w.brokers[w.leads]; {
	case took:
		w.log = append(w.log, w.number[p])
		if w.rand.IntN(10) == 0 { // the answer is lost
			w.refuse(p)
			w.flow.land(p, false)
			return
		}
		w.end(p, true)
		w.flow.land(p, true)
	case w.rand.IntN(5) == 0: // nobody knows whether the next leader has it; it has not
		w.refuse(p)
		w.flow.land(p, false)
	case !w.flow.again(p):
		w.refuse(p)
	}
}

// tell writes the answer to the oldest request, as a connection does, or tells
// the flow that it was.
func (w *flowWorld) tell() {
	if w.wrote != nil {
		w.flow.tellEnd(w.now)
		w.wrote = nil
		return
	}
	if len(w.open) == 0 {
		return
	}
	p := w.open[0]
	ok, known := w.result[p]
	if !known {
		return
	}
	w.open = w.open[1:]
	if ok {
		return
	}
	w.flow.tell(p, w.now)
	w.wrote = p
	w.unsent = append(w.unsent, w.number[p])
	slices.Sort(w.unsent)
}

// elect moves the lead, but not back to a broker that has several batches from
// before: it might refuse one and take the next, whoever sent them.
func (w *flowWorld) elect() {
	to := 1 - w.leads
	if len(w.flow.flying) == 0 || w.flow.flying[0].lane != w.brokers[to] || w.alone {
		w.leads = to
	}
}

func (w *flowWorld) step() {
	w.now = w.now.Add(time.Millisecond)
	switch w.rand.IntN(15) {
	case 0:
		w.elect()
	case 1, 2:
		w.known = w.leads
	case 3, 4, 5, 6:
		w.send()
	case 7, 8:
		w.answer()
	case 9:
		w.tell()
	case 10, 11, 12:
		w.begin()
	default:
		if p := w.flow.next(); p != nil {
			w.pass(p)
		}
	}
}

// Whatever brokers refuse, whichever answers are lost: a record comes into the
// log for the first time behind all that were sent before it, and none is missing.
func TestFlowKeepsOrder(t *testing.T) {
	again, refused, most := 0, 0, 0
	for seed := range uint64(2000) {
		w := &flowWorld{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1, 0), brokers: [2]*Lane{{}, {}},
			number: make(map[*part]int), result: make(map[*part]bool)}
		for range 300 {
			w.step()
			if len(w.flow.held) > 0 {
				again++
			}
			if len(w.unsent) > 0 {
				refused++
			}
			most = max(most, len(w.flow.flying))
		}
		last := w.next
		for n := 0; len(w.open)+len(w.unsent) > 0 || w.wrote != nil; n++ { // what is on its way comes to an end
			w.known = w.leads
			w.now = w.now.Add(time.Millisecond)
			if len(w.unsent) > 0 {
				w.send()
			}
			w.begin()
			w.answer()
			w.tell()
			if p := w.flow.next(); p != nil {
				w.pass(p)
			}
			if w.next != last || n > 10_000 {
				w.fail("it does not come to an end")
			}
		}
		first := 0
		for _, n := range w.log {
			if n > first {
				w.fail("record %d came before record %d", n, first)
			}
			if n == first {
				first++
			}
		}
		if first != w.next {
			w.fail("%d records were sent, %d are in the log", w.next, first)
		}
		if !w.flow.idle() {
			w.fail("nothing is on its way, and the flow is not idle: %+v", w.flow)
		}
	}
	if again == 0 || refused == 0 || most < 5 {
		t.Errorf("held %d times, refused %d times, %d in flight at most: the test shows nothing", again, refused, most)
	}
}

// What a client names without anything being sent is not remembered, and of what
// was sent only so much.
func TestFlowsAreBounded(t *testing.T) {
	ps := newProduces(nil, nil)
	kept := func() int { return len(ps.mu.flows) }
	lane := &Lane{}
	for n := range int32(3 * flowsKept) {
		p := &part{op: &produce{acks: -1, came: time.Unix(1, 0)}, tp: spillway.TopicPartition{Topic: "orders", Partition: n}, lane: lane}
		ps.drop(p)
		if n == flowsKept && kept() > 0 {
			t.Fatalf("%d flows of partitions to which nothing was sent", kept())
		}
		if n > flowsKept {
			ps.enter(p, lane)
			ps.land(p, true)
		}
	}
	if n := kept(); n != flowsKept {
		t.Errorf("%d flows are kept, want %d", n, flowsKept)
	}
}
