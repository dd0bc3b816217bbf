package router

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/wire"
	"spillway/lb"
)

// retryPause is how long a held request waits before it looks again for a
// partition that could not be reached.
const retryPause = 100 * time.Millisecond

// admit forwards parts of a request, and holds them while none of them can be.
// At first it blocks all that follows on the connection: that is what keeps the
// order, and what stops the reading. Where some parts are of a share that moves
// and others are not, the former are refused at once (experiments L6).
func (op *produce) admit(ctx context.Context, parts []*part) {
	r := op.client.router
	var held *Share // once they wait
	defer func() {
		if held != nil {
			r.events.released(held.ID, time.Since(op.begun))
		}
	}()
	for len(parts) > 0 {
		layoutChanged := r.layout.Changed()
		if parts = op.due(r.led(parts)); len(parts) == 0 {
			return
		}
		spread := spreadOut(parts)
		changed, changes := changedOf(parts), changesOf(parts)
		if parts = op.decided(parts); len(parts) == 0 {
			return
		}
		ready, moving := r.split(parts)
		if len(ready) > 0 && len(moving) > 0 {
			for _, p := range moving {
				p.refuse(kerr.NotLeaderForPartition.Code, "moving")
			}
			parts, moving = ready, nil
		}
		if len(moving) == 0 && !op.client.left.Load() && !(held != nil && op.client.gone()) {
			if parts = op.forward(ctx, changes, parts); len(parts) == 0 {
				return
			}
		}
		if held == nil {
			held = parts[0].share
			r.events.held(held.ID)
		}
		// Nothing else tells that an unreachable partition has come back.
		if !op.wait(ctx, changed, layoutChanged, len(moving) == 0 || spread) {
			for _, p := range parts {
				p.giveBack("hold-over")
			}
			return
		}
	}
}

// led refuses the parts that this gateway has ceased to lead, at once: the client
// finds the new leader, which waits until nothing is held here any more.
func (r *Router) led(parts []*part) []*part {
	return slices.DeleteFunc(parts, func(p *part) bool {
		mine, _ := p.leads()
		if !mine {
			p.giveBack("layout")
		}
		return !mine
	})
}

// due refuses the parts that are behind a refused one, at once: their client sends
// them again behind that one, and may wait for each as long as for the first.
func (op *produce) due(parts []*part) []*part {
	return slices.DeleteFunc(parts, func(p *part) bool {
		past := op.client.produces.past(p)
		if past {
			p.giveBack("behind-refused")
		}
		return past
	})
}

// giveBack refuses a part that was held.
func (p *part) giveBack(reason string) {
	if p.turn > 0 { // it was judged already
		p.failed()
	}
	p.refuse(kerr.NotLeaderForPartition.Code, reason)
}

// wait returns false when the hold is over.
func (op *produce) wait(ctx context.Context, changed, layoutChanged <-chan struct{}, poll bool) bool {
	left := time.Until(op.until)
	if left <= 0 || op.client.gone() {
		return false
	}
	if poll {
		left = min(left, retryPause)
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-changed:
	case <-layoutChanged:
	case <-timer.C:
		return poll && time.Now().Before(op.until)
	case <-ctx.Done():
		return false
	}
	return true
}

// changedOf is the first part's share: parts are held together, so any share
// that they wait for will do, and the others are looked at again then.
func changedOf(parts []*part) <-chan struct{} {
	for _, p := range parts {
		ch := p.share.Changed()
		if _, ok := p.share.Serving(); !ok {
			return ch
		}
	}
	return parts[0].share.Changed()
}

// split tells which parts are served now and which belong to a share that
// moves, or to a partition whose former leader has not let go.
func (r *Router) split(parts []*part) (ready, moving []*part) {
	leased := r.lease.Term()
	for _, p := range parts {
		t, serving := p.share.Serving()
		_, free := p.leads()
		if serving && free && leased != 0 && !p.undecided {
			p.term, p.leased = t, leased
			ready = append(ready, p)
			continue
		}
		moving = append(moving, p)
	}
	return ready, moving
}

// forward sends the parts to the leaders of their partitions, or leaves them to
// their flows. It returns those that nobody sends: all where nothing can be
// reached now, and those that have begun to move. Connections are looked for first,
// while others may send: a site that is dead must not keep them waiting. What comes
// before what is judged, and written, is decided after that.
func (op *produce) forward(ctx context.Context, changes changes, parts []*part) (left []*part) {
	ps := op.client.produces
	free := parts[:0:0]
	for _, p := range parts {
		if !ps.queue(p) {
			free = append(free, p)
		}
	}
	reachable, lost := op.reach(ctx, changes, free)
	ps.sending.Lock()
	defer ps.sending.Unlock()
	reachable = slices.DeleteFunc(reachable, func(p *part) bool {
		failed := !p.lane.alive() // while others were looked for
		if failed {
			lost = append(lost, p)
		}
		return failed
	})
	if len(reachable) == 0 && len(lost) == len(parts) {
		return lost
	}
	// The request goes on for the others, and what the client sends behind it.
	for _, p := range lost {
		if !ps.hold(p) {
			p.refuse(kerr.NotLeaderForPartition.Code, "behind-refused")
		}
	}
	groups := op.judge(reachable)
	left, ok := op.enter(groups)
	if !ok {
		return left
	}
	for lane, parts := range groups {
		for len(parts) > 0 {
			once, more := distinct(parts)
			op.send(lane, once)
			parts = more
		}
	}
	return nil
}

// reach finds the upstream connection of each part. Parts that are refused for
// good are answered. It ends when a share changes, so that a dead site does not outlast
// the move away from it.
func (op *produce) reach(ctx context.Context, changes changes, parts []*part) (reachable, lost []*part) {
	ctx, cancel := untilChanged(ctx, changes, parts)
	defer cancel()
	faults := make([]error, len(parts))
	var goals []*goal
	var of []int // parts, by goal
	var elsewhere sync.WaitGroup
	away := make(map[*spread]lb.Set)
	elsewhere.Go(func() {
		for i, p := range parts {
			if p.anywhere() {
				faults[i] = p.connectSomewhere(ctx, away)
			}
		}
	})
	for i, p := range parts {
		if !p.anywhere() {
			goals, of = append(goals, &goal{site: p.term.Site, find: p.find}), append(of, i)
		}
	}
	op.client.lanes.reach(ctx, ProduceLane, goals)
	for i, g := range goals {
		if faults[of[i]] = g.err; g.err == nil {
			parts[of[i]].lane = g.lane
		}
	}
	elsewhere.Wait()
	for i, p := range parts {
		switch err := faults[i]; {
		case err == nil:
			reachable = append(reachable, p)
		case errors.Is(err, broker.ErrUnknownTopic):
			p.refuse(kerr.UnknownTopicOrPartition.Code, "unknown-topic")
		case errors.Is(err, errOtherEpoch):
			p.refuse(op.client.mannered().produce, "transaction")
		case errors.Is(err, errOtherProducer):
			p.refuse(kerr.InvalidTxnState.Code, "transaction")
		case errors.Is(err, errNoRights):
			p.refuse(kerr.TransactionalIDAuthorizationFailed.Code, "transaction")
		case errors.Is(err, errNumbersUnknown), errors.Is(err, errMoving):
			lost = append(lost, p)
		default:
			lost = append(lost, p)
			if !p.anywhere() { // else it is under way
				op.client.router.relearn(p.term.Site, p.tp.Topic)
			}
		}
	}
	return reachable, lost
}

// anywhere tells whether the part may go to another sibling; else it has one, or a flow has it.
func (p *part) anywhere() bool { return p.spread != nil && p.turn == 0 }

// errNumbersUnknown: the site's map does not say yet how its numbers are translated.
var errNumbersUnknown = errors.New("the site's map does not say yet")

// connect finds the upstream connection of a part in its term.
func (p *part) connect(ctx context.Context) error {
	node, err := p.find(ctx)
	if err != nil {
		return err
	}
	p.lane, err = p.op.client.lanes.Lane(ctx, ProduceLane, p.term.Site, node)
	return err
}

// find finds what the part needs to be sent in its term, and the broker.
func (p *part) find(ctx context.Context) (node int32, err error) {
	var known bool
	if p.constant, known = p.op.client.router.constant(p.share, p.term, p.tp); !known {
		return -1, errNumbersUnknown
	}
	if p.header.Transactional() {
		if p.producer, err = p.op.client.router.producerAt(ctx, p.term, p.term.Epoch, p.op.transactional, p.header.ProducerID); err != nil {
			return -1, err
		}
		if p.share.Adopting() { // else nobody asks, and each batch would take the lock
			p.op.client.router.transactions.came(p.op.transactional, p.producer, p.header.ProducerEpoch)
		}
	}
	return p.leader(ctx)
}

// leader is the broker that leads the partition as far as the site is known to
// say. What was known before a broker refused the part is asked for again.
func (p *part) leader(ctx context.Context) (int32, error) {
	cluster := p.op.client.router.sites[p.term.Site]
	if p.op.acks == 0 && p.op.client.produces.lostSilently(p.tp) {
		if _, err := cluster.Metadata(ctx, p.tp.Topic); err != nil {
			return -1, err
		}
	}
	node, err := cluster.Leader(ctx, p.tp)
	if err != nil || p.refusals == 0 || p.lane.Site != p.term.Site || p.lane.Node != node {
		return node, err
	}
	if _, err := cluster.Metadata(ctx, p.tp.Topic); err != nil {
		return -1, err
	}
	return cluster.Leader(ctx, p.tp)
}

// judge asks for each idempotent batch whether it may go now, and groups those
// that may by upstream connection.
func (op *produce) judge(parts []*part) map[*Lane][]*part {
	groups := make(map[*Lane][]*part)
	for _, p := range parts {
		if p.carried() {
			v, at, until, changed := p.ask()
			if v != forward {
				op.client.produces.drop(p)
			}
			if v == wait {
				op.client.router.contacts.enqueue(p.contact(), p.header.ProducerEpoch, p.header.BaseSequence)
				op.client.router.background.Go(func() { p.waitForMissing(until, changed) })
				continue
			}
			if v != forward {
				p.settle(v, at)
				continue
			}
		}
		groups[p.lane] = append(groups[p.lane], p)
	}
	return groups
}

// enter counts the parts in at the layout, their shares and their flows, all or
// none: if a share or a partition has begun to move meanwhile, the request is held
// as if that had been seen before, and its parts are returned. Refusing it would
// let what the client sent behind it overtake. Parts whose turn has not come are
// left to their flows.
func (op *produce) enter(groups map[*Lane][]*part) (again []*part, ok bool) {
	var entered, waiting []*part
	moving := false
	for lane, parts := range groups {
		going := parts[:0]
		for _, p := range parts {
			if moving {
				waiting = append(waiting, p)
				continue
			}
			if !p.enterLayout() {
				moving = true
				waiting = append(waiting, p)
				continue
			}
			if !p.share.enter(p.term, lane) {
				p.leaveLayout()
				moving = true
				waiting = append(waiting, p)
				continue
			}
			p.inside = true
			if passed := op.client.produces.enter(p, lane); passed != goes {
				p.leaveLayout()
				p.leave(false, false)
				if passed == behind {
					p.failed()
					p.refuse(kerr.NotLeaderForPartition.Code, "behind-refused")
				}
				continue
			}
			entered = append(entered, p)
			going = append(going, p)
		}
		groups[lane] = going
	}
	if !moving {
		return nil, true
	}
	for _, p := range entered {
		p.leaveLayout()
		p.leave(false, false)
		op.client.produces.land(p, false)
	}
	for _, p := range append(entered, waiting...) {
		p.failed()
		if mine, _ := p.leads(); !mine {
			p.refuse(kerr.NotLeaderForPartition.Code, "layout")
			continue
		}
		again = append(again, p)
	}
	return again, false
}

// leave takes the part out of its share, once; see Share.leave.
func (p *part) leave(unsure, silent bool) {
	if p.inside {
		p.inside = false
		p.share.leave(p.lane, unsure, silent)
	}
}

// send queues one request upstream and has its answer waited for.
func (op *produce) send(lane *Lane, parts []*part) {
	version := min(lane.conn.MaxVersion(0), produceUpstreamMax)
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, op.acks, int32(op.timeout.Milliseconds())
	byTopic := make(map[string]int)
	sent := make([]*part, 0, len(parts))
	now := time.Now()
	for _, p := range parts {
		p.sent = now
		p.began(now)
		switch {
		case p.header.Transactional():
			req.TransactionID = &op.transactional
			batch.SetProducer(p.records, p.producer, p.header.ProducerEpoch, p.header.BaseSequence)
		case p.idempotent():
			batch.SetProducer(p.records, spillway.MaskProducerID(p.header.ProducerID, p.term.Mask), p.header.ProducerEpoch, p.header.BaseSequence)
		default:
			op.client.router.plain.sends(p)
		}
		i, ok := byTopic[p.tp.Topic]
		if !ok {
			i = len(req.Topics)
			byTopic[p.tp.Topic] = i
			t := kmsg.NewProduceRequestTopic()
			t.Topic = p.tp.Topic
			req.Topics = append(req.Topics, t)
		}
		in := kmsg.NewProduceRequestTopicPartition()
		in.Partition, in.Records = p.tp.Partition, p.records
		req.Topics[i].Partitions = append(req.Topics[i].Partitions, in)
		sent = append(sent, p)
	}
	// The context is not the client's: what is on its way must be counted
	// until the site has answered, whatever becomes of the client.
	pending := lane.conn.Send(context.Background(), req.Key(), version, op.acks != 0, wire.ProducePieces(req)...)
	op.client.router.background.Go(func() { op.finish(lane, sent, pending) })
}
