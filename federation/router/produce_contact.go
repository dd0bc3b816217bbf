package router

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/mirror/offsetmap"
)

// repeatsProve are the clients that never send a batch to a leader while an
// older one of the partition is in flight elsewhere and then send it again:
// Java drains a partition that retries from its lowest sequence on
// (RecordAccumulator.shouldStopDrainBatchesForPartition); franz-go and sarama
// keep one leader per partition until all is answered. librdkafka is not among
// them: it may retry on the new leader with requests open at the old one.
var repeatsProve = []string{"apache-kafka-java", "kgo", "franz-go", "sarama"}

// ask asks the contact whether the batch may go.
func (p *part) ask() (verdict, spillway.Offset, time.Time, <-chan struct{}) {
	r := p.op.client.router
	return r.contacts.check(arrival{
		contactKey: p.contact(), epoch: p.header.ProducerEpoch,
		first: p.header.BaseSequence, last: p.header.LastSequence(),
		share: p.share.ID, term: p.term, trail: r.trailOf(p.term, p.header.ProducerID, p.tp),
		repeats: p.op.client.repeats.Load(),
	})
}

// repeatHoldMax is how long a batch of these clients waits for a missing one
// before it is sent back: coming again is the proof, and costs one of the few
// tries that sarama has.
const repeatHoldMax = time.Second

// settle answers a batch that is not forwarded. What older terms left at the
// site is acknowledged like anything else: the site that serves now may be the
// only one that has it.
func (p *part) settle(v verdict, at spillway.Offset) {
	r := p.op.client.router
	p.records = nil
	switch v {
	case isDuplicate:
		p.out.BaseOffset = int64(at)
		r.background.Go(func() { p.settled(0, at+spillway.Offset(p.header.LastOffsetDelta)+1) })
	case wasThere:
		r.background.Go(func() { p.settled(kerr.DuplicateSequenceNumber.Code, at) })
	case stale:
		p.refuse(kerr.InvalidProducerEpoch.Code, "sequence")
	default: // torn
		p.refuse(kerr.OutOfOrderSequenceNumber.Code, "sequence")
	}
}

func (p *part) settled(code int16, end spillway.Offset) {
	if p.acknowledge(code, end) {
		p.op.client.router.events.firstContact("duplicate")
	}
}

// waitForMissing holds one batch, which is enqueued, until the sequence before it
// has been forwarded, or it is known that nothing is missing, or the hold is over.
func (p *part) waitForMissing(until time.Time, changed <-chan struct{}) {
	r := p.op.client.router
	defer r.contacts.dequeue(p.contact(), p.header.ProducerEpoch, p.header.BaseSequence)
	defer p.op.client.waiting.Add(-1)
	if p.op.client.waiting.Add(1) > waitingMax {
		p.refuse(kerr.NotLeaderForPartition.Code, "too-many-waiting")
		return
	}
	r.events.firstContact("waited")
	end := p.op.until
	if p.op.client.repeats.Load() {
		end = minTime(end, time.Now().Add(repeatHoldMax))
	}
	ctx, cancel := context.WithDeadline(r.ctx, end)
	defer cancel()
	t := p.term // once it is sent, the part may come to another one
	r.background.Go(func() { p.askSite(ctx, t) })
	r.background.Go(func() { r.release(ctx, p.share.ID, t) })
	for {
		timer := time.NewTimer(time.Until(until))
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			p.refuse(kerr.NotLeaderForPartition.Code, "sequence-missing")
			return
		}
		timer.Stop()
		var done bool
		if done, until, changed = p.askAgain(ctx); done {
			return
		}
	}
}

// askAgain sends or answers the batch if its turn has come.
func (p *part) askAgain(ctx context.Context) (done bool, until time.Time, changed <-chan struct{}) {
	op := p.op
	lane, err := p.leaderLane(ctx) // before: nothing else that is to be sent waits for it
	op.client.produces.sending.Lock()
	defer op.client.produces.sending.Unlock()
	if !p.share.Holds(p.term) || op.client.gone() {
		p.refuse(kerr.NotLeaderForPartition.Code, "moving")
		return true, until, nil
	}
	v, at, until, changed := p.ask()
	if v == wait {
		return false, until, changed
	}
	if v != forward {
		p.settle(v, at)
		return true, until, nil
	}
	p.waited = true
	if err != nil || !lane.alive() {
		p.failed()
		p.refuse(kerr.NotLeaderForPartition.Code, "unreachable")
		return true, until, nil
	}
	p.lane = lane
	groups := map[*Lane][]*part{p.lane: {p}}
	again, ok := op.enter(groups)
	for _, p := range again {
		p.refuse(kerr.NotLeaderForPartition.Code, "moving")
	}
	if parts := groups[p.lane]; ok && len(parts) > 0 {
		op.send(p.lane, parts)
	}
	return true, until, nil
}

func (p *part) leaderLane(ctx context.Context) (*Lane, error) {
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	node, err := p.op.client.router.sites[p.term.Site].Leader(ctx, p.tp)
	if err != nil {
		return nil, err
	}
	return p.op.client.lanes.Lane(ctx, ProduceLane, p.term.Site, node)
}

// askSite asks the site what it knows of the producer: in this term, if the
// client wrote through another gateway; in older terms that the site itself
// served, as these batches are in no trail.
func (p *part) askSite(ctx context.Context, t Term) {
	r := p.op.client.router
	cluster := r.sites[t.Site]
	if !cluster.Capabilities().DescribeProducers {
		return
	}
	select { // one client must not make all of a site's time its own
	case p.op.client.asking <- struct{}{}:
		defer func() { <-p.op.client.asking }()
	case <-ctx.Done():
		return
	}
	// What the site says is of use also once the batch is not waited for any more, and who
	// gives a question up early must not decide how long a broker may take for it.
	ctx, cancel := context.WithTimeout(r.ctx, dialMax)
	defer cancel()
	states, err := cluster.Admin().DescribeProducers(ctx, p.tp)
	if err != nil {
		return // the wait goes on, and ends by time
	}
	known, older := ofProducer(t, p.header.ProducerID, states)
	for _, epoch := range known {
		if epoch == p.header.ProducerEpoch {
			r.contacts.known(p.contact(), epoch, t.Base)
		}
	}
	for _, e := range older {
		r.contacts.found(p.contact(), e, t.Base)
	}
}

// ofProducer picks what the site of a term knows of a producer: its epochs under
// the mask of the term, and its last batches of older terms that the site served.
// A term that lost something tells nothing: the site may still have what was
// lost, hidden, and the client may have it outstanding.
func ofProducer(t Term, id int64, states []broker.ProducerState) (known []int16, older []offsetmap.TrailEntry) {
	for _, s := range states {
		if s.ID == spillway.MaskProducerID(id, t.Mask) {
			known = append(known, s.Epoch)
		}
		for i, p := range t.Past {
			lossy := i+1 < len(t.Past) && t.Past[i+1].Lossy // the one that took over is another site, so it is past too
			if p.Site == t.Site && !lossy && s.LastSequence >= 0 && s.ID == spillway.MaskProducerID(id, p.Mask) {
				older = append(older, offsetmap.TrailEntry{Epoch: p.Epoch, ProducerEpoch: s.Epoch, Last: s.LastSequence})
			}
		}
	}
	return known, older
}
