package router

import (
	"context"
	"slices"
	"sync"
	"time"

	"spillway"
)

// flow is what one client connection has on its way to one partition. It knows
// no network and no locks: produces has them.
//
//	A  what is in flight is in flight on one upstream connection
//	B  parts go in the order of their turns: what a broker clearly refused goes
//	   again before all that came behind it
//	C  a broker that has not yet taken a batch has one at a time: one that does not
//	   know yet that it leads refuses it, and might take the next
//	D  behind a part that the client is told to send again nothing goes that came
//	   before the answer was being written, or while the writing took long
//
// D ends where the gateway sees nothing more: what the client sends while the answer
// is on its way to it, or lies there unread, looks like what it sends when it knows,
// and goes. So does what lay unread here, where there was no room for it, or its principal
// had used up its quota. Nothing in
// the protocol says that an answer was read, and a batch that comes again need not
// look as before. For an idempotent producer its sequence is judged then (contacts,
// and the site). A plain one that has several requests open and tries again may find
// its batches in another order, as with Kafka (promise C).
type flow struct {
	lane   *Lane
	proved bool // the broker behind the lane has taken a batch on it
	silent bool // batches without an answer were sent there, and no barrier since

	turn   int64   // of the newest part
	flying []*part // sent and not answered, by turn
	held   []*part // to be sent when their turn comes, by turn
	moving bool    // a goroutine sends what is held
	moved  *part   // by that goroutine now; nobody else answers it

	untold  int       // parts that were refused, but whose answers are not written
	telling int       // of such answers that are being written
	told    time.Time // when that began with the newest; where it took long, when it was over
}

// passage is what a flow says to a part that could be sent now.
type passage int

const (
	goes   passage = iota // send it
	waits                 // it is held: the flow sends it when its turn comes
	behind                // D: it is to be refused
)

// enter asks for a part that could be sent on a lane now.
func (f *flow) enter(p *part, lane *Lane) passage {
	if f.past(p) {
		return behind
	}
	if len(f.held) > 0 && f.held[0] != p || !f.free(p, lane) {
		f.hold(p)
		return waits
	}
	f.drop(p)
	if f.lane != lane {
		f.lane, f.proved = lane, false
	}
	f.number(p)
	f.flying = append(f.flying, p)
	return goes
}

// free tells whether a part may go on a lane beside what is in flight.
func (f *flow) free(p *part, lane *Lane) bool {
	if len(f.flying) == 0 {
		return f.lane == lane || !f.silent
	}
	return f.lane == lane && (f.proved || p.op.acks == 0)
}

// late tells whether the part came before the client could know that it has to send
// an earlier one again, as far as that is seen here (D). One that has its turn
// already, or waited for an earlier sequence, is judged by that.
func (f *flow) late(p *part) bool {
	slow := f.telling > 0 && p.op.came.Sub(f.told) > tellMax
	return p.turn == 0 && !p.waited && (f.untold > 0 || slow || p.op.came.Before(f.told))
}

// tellMax is how long an answer may take to be written before its client is one
// that reads slowly, and knows it only afterwards. Other clients may answer to it
// sooner than the gateway itself sees that it is written.
const tellMax = 200 * time.Millisecond

func (f *flow) number(p *part) {
	if p.turn == 0 {
		f.turn++
		p.turn = f.turn
	}
}

// hold puts a part among those that are to be sent.
func (f *flow) hold(p *part) {
	f.number(p)
	at, there := slices.BinarySearchFunc(f.held, p.turn, func(q *part, turn int64) int { return int(q.turn - turn) })
	if !there {
		f.held = slices.Insert(f.held, at, p)
	}
}

// past tells whether a part that waits is to be refused: it would be, once it could
// be sent.
func (f *flow) past(p *part) bool { return p.behind || f.late(p) }

// land ends what enter began. proved: the broker took the batch.
func (f *flow) land(p *part, proved bool) {
	f.flying = without(f.flying, p)
	if p.lane == f.lane {
		f.proved = f.proved || proved
	}
}

// again ends what enter began for a part that the broker clearly refused, so that
// it goes again. False: the client is told to send an earlier one again, so it
// must send this one again too.
func (f *flow) again(p *part) bool {
	f.flying = without(f.flying, p)
	f.proved = false
	if p.behind {
		return false
	}
	f.hold(p)
	return true
}

// outOfTurn tells whether the broker could not take a batch only because an
// earlier one of its producer is not there: the flow has that one.
func (f *flow) outOfTurn(p *part) bool {
	earlier := func(q *part) bool { return q.turn < p.turn && q.header.ProducerID == p.header.ProducerID }
	return slices.ContainsFunc(f.flying, earlier) || slices.ContainsFunc(f.held, earlier)
}

// next is the held part whose turn it is; nil while it has to wait for those in
// flight.
func (f *flow) next() *part {
	if len(f.held) == 0 || len(f.flying) > 0 && !f.proved {
		return nil
	}
	return f.held[0]
}

// refuse notes that the client is told to send a part again. It returns the parts
// that must be refused with it.
func (f *flow) refuse(p *part) []*part {
	f.untold++
	p.untold = true
	f.drop(p)
	if p.turn == 0 { // it comes behind all that are here
		return nil
	}
	for _, q := range f.flying {
		q.behind = q.behind || q.turn > p.turn
	}
	kept := f.held[:0:0]
	var with []*part
	for _, q := range f.held {
		switch {
		case q.turn < p.turn:
			kept = append(kept, q)
		case q == f.moved:
			q.behind = true
			kept = append(kept, q)
		default:
			with = append(with, q)
		}
	}
	f.held = kept
	return with
}

// tell notes that the answer with a refusal is being written; tellEnd must follow.
func (f *flow) tell(p *part, now time.Time) {
	p.untold = false
	f.untold--
	f.telling++
	f.told = now
}

// tellEnd notes that it has been written.
func (f *flow) tellEnd(now time.Time) {
	f.telling--
	if now.Sub(f.told) > tellMax {
		f.told = now
	}
}

// drop forgets a held part that is answered otherwise.
func (f *flow) drop(p *part) { f.held = without(f.held, p) }

func (f *flow) idle() bool {
	return len(f.flying) == 0 && len(f.held) == 0 && f.untold == 0 && f.telling == 0 && !f.moving
}

// blank tells whether there is nothing to remember: of a partition that does not
// exist, a client may name as many as it likes.
func (f *flow) blank() bool { return f.lane == nil && f.told.IsZero() }

func without(parts []*part, p *part) []*part {
	if i := slices.Index(parts, p); i >= 0 {
		return slices.Delete(parts, i, i+1)
	}
	return parts
}

// produces is what one client connection has on its way, for its order.
type produces struct {
	// sending is held from the choice of an upstream connection until the
	// request is queued there, so that the order of decisions is the order of
	// bytes (invariant B).
	sending sync.Mutex

	move func(*part) // sends a held part, or leaves it; set once

	mu struct {
		sync.Mutex
		flows map[spillway.TopicPartition]*flow
	}
	background func(func())
}

// flowsKept bounds how many idle flows a connection remembers. One that is
// forgotten proves its broker anew.
const flowsKept = 2_000

func newProduces(background func(func()), move func(*part)) *produces {
	ps := &produces{background: background, move: move}
	ps.mu.flows = make(map[spillway.TopicPartition]*flow)
	return ps
}

// with runs a step of a partition's flow, and what follows from it: held parts
// are sent as soon as nothing is in flight.
func (ps *produces) with(tp spillway.TopicPartition, step func(*flow)) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	f := ps.mu.flows[tp]
	if f == nil {
		f = &flow{}
		ps.mu.flows[tp] = f
	}
	step(f)
	if len(f.held) > 0 && len(f.flying) == 0 && !f.moving {
		f.moving = true
		ps.background(func() { ps.run(tp) })
	}
	if f.idle() && (f.blank() || len(ps.mu.flows) > flowsKept) {
		delete(ps.mu.flows, tp)
	}
}

// run sends held parts while they may go.
func (ps *produces) run(tp spillway.TopicPartition) {
	var last *part
	for {
		var p *part
		var barrier *Lane
		ps.with(tp, func(f *flow) {
			p = f.next()
			if p == last && len(f.flying) > 0 { // it waits for those in flight on another lane
				p = nil
			}
			f.moving, f.moved = p != nil, p
			if f.silent && len(f.flying) == 0 {
				barrier = f.lane
			}
		})
		if p == nil {
			return
		}
		if barrier != nil {
			ps.settle(p, barrier)
		}
		last = p
		ps.move(p)
	}
}

// settle waits until the broker has done what was sent to it without an answer:
// what comes now may go to another one.
func (ps *produces) settle(p *part, lane *Lane) {
	ctx, cancel := context.WithDeadline(p.op.client.router.ctx, p.op.until)
	defer cancel()
	_ = lane.barrier(ctx) // if it fails, nobody can know; those batches have no promise
	ps.with(p.tp, func(f *flow) { f.silent = f.silent && f.lane != lane })
}

func (ps *produces) enter(p *part, lane *Lane) (passed passage) {
	ps.with(p.tp, func(f *flow) { passed = f.enter(p, lane) })
	return passed
}

// past tells whether a part cannot go, whatever it waits for.
func (ps *produces) past(p *part) (yes bool) {
	ps.with(p.tp, func(f *flow) { yes = f.past(p) })
	return yes
}

// queue holds a part behind others of its partition that are held. False: there
// are none.
func (ps *produces) queue(p *part) (queued bool) {
	ps.with(p.tp, func(f *flow) {
		if queued = len(f.held) > 0 && f.held[0] != p && !f.late(p); queued {
			f.hold(p)
		}
	})
	return queued
}

// hold holds a part whose broker cannot be reached. False: it is to be refused.
func (ps *produces) hold(p *part) (held bool) {
	ps.with(p.tp, func(f *flow) {
		if held = !f.late(p); held {
			f.hold(p)
		}
	})
	return held
}

func (ps *produces) land(p *part, proved bool) {
	ps.with(p.tp, func(f *flow) { f.land(p, proved) })
}

// landSilent ends what enter began for a part without an answer.
func (ps *produces) landSilent(p *part) {
	ps.with(p.tp, func(f *flow) {
		f.land(p, false)
		f.silent = f.silent || f.lane == p.lane
	})
}

func (ps *produces) again(p *part) (held bool) {
	ps.with(p.tp, func(f *flow) { held = f.again(p) })
	return held
}

func (ps *produces) outOfTurn(p *part) (yes bool) {
	ps.with(p.tp, func(f *flow) { yes = p.behind || f.outOfTurn(p) })
	return yes
}

func (ps *produces) refuse(p *part) (with []*part) {
	ps.with(p.tp, func(f *flow) { with = f.refuse(p) })
	return with
}

func (ps *produces) drop(p *part) { ps.with(p.tp, func(f *flow) { f.drop(p) }) }

// tell notes that an answer is about to be written. Call what it returns when it has been.
func (ps *produces) tell(parts []*part) (end func()) {
	now := time.Now()
	var told []spillway.TopicPartition
	for _, p := range parts {
		if p.untold {
			told = append(told, p.tp)
			ps.with(p.tp, func(f *flow) { f.tell(p, now) })
		}
	}
	return func() {
		now := time.Now()
		for _, tp := range told {
			ps.with(tp, func(f *flow) { f.tellEnd(now) })
		}
	}
}

// lostSilently tells, once, that the lane of a partition was closed after batches
// were sent there without an answer: its broker closes it when it refuses one.
func (ps *produces) lostSilently(tp spillway.TopicPartition) (lost bool) {
	ps.with(tp, func(f *flow) {
		if lost = f.silent && !f.lane.alive(); lost {
			f.silent = false
		}
	})
	return lost
}
