package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/lb"
	"spillway/mirror/sitelog"
)

// finish waits for the site's answer to one request and answers its parts. A
// connection that does not answer in time is closed.
func (op *produce) finish(lane *Lane, parts []*part, pending *conn.Pending) {
	ctx, cancel := context.WithTimeout(context.Background(), op.timeout+op.client.router.config.ProduceMax)
	defer cancel()
	body, err := pending.Wait(ctx)
	if ctx.Err() != nil {
		lane.conn.Close()
		<-pending.Done()
	}
	switch {
	case err != nil:
		op.lost(parts)
	case op.acks == 0:
		for _, p := range parts {
			p.leave(false, true)
			p.leaveLayout()
			op.client.produces.landSilent(p)
			p.finish(0)
		}
	default:
		op.answered(lane, parts, body)
	}
}

// lost is what happens to produces whose connection died before the answer.
// They are not sent again (invariant C): nobody knows whether they are written.
// The client hears of it when it makes sense to send them again: when another
// site serves, or the partition can be reached again. Refusing at once would use
// up the few tries that some clients have (experiments L, rule 3).
func (op *produce) lost(parts []*part) {
	for _, p := range parts {
		p.ended(lb.Failed)
		p.failed()
		p.leave(true, false)
	}
	if op.acks == 0 {
		for _, p := range parts {
			p.leaveLayout()
			op.client.produces.land(p, false)
			p.refuse(kerr.NetworkException.Code, "upstream-lost")
		}
		return
	}
	until := op.until
	if now := time.Now(); until.Before(now) {
		until = now
	}
	ctx, cancel := context.WithDeadline(op.client.router.ctx, until)
	defer cancel()
	for _, p := range parts {
		if p.spread == nil { // else it finds another site at once
			p.awaitReachable(ctx)
		}
		p.refuseLanded("upstream-lost")
	}
}

// refuseLanded refuses a part that is in flight no more. Until then nothing may
// go behind it, and what was held behind it is refused with it.
func (p *part) refuseLanded(reason string) {
	p.refuse(kerr.NotLeaderForPartition.Code, reason)
	p.leaveLayout()
	p.op.client.produces.land(p, false)
}

// awaitReachable returns when the partition's share is served and its leader
// can be connected to, or ctx ends.
func (p *part) awaitReachable(ctx context.Context) {
	r := p.op.client.router
	tick := time.NewTicker(retryPause)
	defer tick.Stop()
	for {
		changed := p.share.Changed()
		if t, ok := p.share.Serving(); ok {
			node, err := r.sites[t.Site].Leader(ctx, p.tp)
			if err == nil {
				_, err = p.op.client.lanes.Lane(ctx, ProduceLane, t.Site, node)
			}
			if err == nil {
				return
			}
			r.relearn(t.Site, p.tp.Topic)
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// answered reads the site's answer.
func (op *produce) answered(lane *Lane, parts []*part, body []byte) {
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = min(lane.conn.MaxVersion(0), produceUpstreamMax)
	if err := conn.Decode(resp, body); err != nil {
		lane.conn.Close()
		op.lost(parts)
		return
	}
	op.throttle(resp.ThrottleMillis)
	byPartition := make(map[spillway.TopicPartition]*kmsg.ProduceResponseTopicPartition)
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			byPartition[spillway.TopicPartition{Topic: t.Topic, Partition: t.Partitions[i].Partition}] = &t.Partitions[i]
		}
	}
	local := time.Now()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for _, p := range parts {
		in := byPartition[p.tp]
		if in != nil {
			p.ended(outcomeOf(in.ErrorCode))
		}
		switch {
		case in == nil:
			p.failed()
			p.leave(true, false)
			p.refuseLanded("upstream-lost")
		case p.goesAgain(in):
			p.leave(false, false)
			p.leaveLayout()
			p.refusals++
			if !op.client.produces.again(p) {
				p.failed()
				p.refuse(kerr.NotLeaderForPartition.Code, "behind-refused")
			}
		case in.ErrorCode != 0 && in.ErrorCode != kerr.DuplicateSequenceNumber.Code:
			p.failed()
			p.leave(false, false)
			p.siteRefused(in)
			p.leaveLayout()
			op.client.produces.land(p, false)
		default:
			op.client.produces.land(p, true)
			p.leaveLayout() // whoever leads next finds it in the log
			p.records = nil
			// One that waits for its mark must not keep others in the share.
			waiting.Go(func() { p.appended(in, local) })
		}
	}
}

// goesAgain tells whether the gateway itself sends a part again: where the broker
// does not lead the partition any more and has certainly not written the batch,
// or where the next leader knows by its sequence whether it is there. And where a
// batch is out of its sequence because an earlier one goes again.
//
// A broker that has replicas refuses also what it has written already, when it
// loses the lead before they have it. Then it says where it wrote it.
func (p *part) goesAgain(in *kmsg.ProduceResponseTopicPartition) bool {
	switch in.ErrorCode {
	case kerr.NotLeaderForPartition.Code:
		replicas := p.op.client.router.sites[p.term.Site].Capabilities().Replicas
		return p.idempotent() || !replicas || in.BaseOffset < 0
	case kerr.OutOfOrderSequenceNumber.Code:
		return p.idempotent() && p.op.client.produces.outOfTurn(p)
	}
	return false
}

// Pauses before a part is sent again that was refused more than once: the new
// leader may hear later of its lead than those who ask for it.
const (
	againPauseMin = 20 * time.Millisecond
	againPauseMax = 100 * time.Millisecond
)

// moveHeld sends a held part whose turn has come, or refuses it.
func moveHeld(p *part) {
	r := p.op.client.router
	if p.refusals > 1 {
		_ = sitelog.Pause(r.ctx, min(againPauseMin<<min(p.refusals-2, 8), againPauseMax)) // the router's end is looked at below
	}
	mine, _ := p.leads()
	switch {
	case !mine:
		p.failed()
		p.refuse(kerr.NotLeaderForPartition.Code, "layout")
	case p.op.client.gone() || !time.Now().Before(p.op.until) || r.ctx.Err() != nil:
		p.failed()
		p.refuse(kerr.NotLeaderForPartition.Code, "hold-over")
	default:
		p.op.admit(r.ctx, []*part{p})
	}
}

// throttle passes the largest throttle time on. A hold never sets one: it
// would mute the whole node at the client.
func (op *produce) throttle(millis int32) {
	op.throttling.Lock()
	defer op.throttling.Unlock()
	op.resp.ThrottleMillis = max(op.resp.ThrottleMillis, throttled(millis))
}

// throttleMillisMax bounds what a site may ask of a client, which is silent for
// that long.
const throttleMillisMax = 60_000

func throttled(millis int32) int32 { return min(max(millis, 0), throttleMillisMax) }

// appended acknowledges a batch that is in the site's log.
func (p *part) appended(in *kmsg.ProduceResponseTopicPartition, local time.Time) {
	op, r := p.op, p.op.client.router
	p.out.LogAppendTime = in.LogAppendTime
	var end spillway.Offset
	if in.ErrorCode == 0 && in.BaseOffset >= 0 {
		p.out.BaseOffset = int64(p.constant) + in.BaseOffset
		end = spillway.Offset(p.out.BaseOffset) + spillway.Offset(p.header.LastOffsetDelta) + 1
	} else { // DUPLICATE_SEQUENCE_NUMBER: the site has it, but does not remember where
		var err error
		if end, err = p.logEnd(); err != nil {
			p.leave(true, false)
			p.refuse(kerr.NotLeaderForPartition.Code, "site")
			return
		}
	}
	code := in.ErrorCode
	if p.tp != p.asked {
		p.out.BaseOffset, code = -1, p.withoutOffset()
	}
	if p.acknowledge(code, end) {
		r.events.produced(p.share.ID, p.header.Count, p.size, local.Sub(p.sent), time.Since(op.begun))
	}
}

// logEnd is the end of the site's log in virtual offsets: all that the site has
// ever taken lies below it.
func (p *part) logEnd() (spillway.Offset, error) {
	r := p.op.client.router
	ctx, cancel := context.WithDeadline(r.ctx, p.patience())
	defer cancel()
	ends, err := r.sites[p.term.Site].Admin().LogEnds(ctx, []spillway.TopicPartition{p.tp})
	if err != nil {
		return 0, err
	}
	end, ok := ends[p.tp]
	if !ok {
		return 0, fmt.Errorf("site %s named no log end of %s", p.term.Site, p.tp)
	}
	return p.constant + spillway.Offset(end), nil
}

// patience is when waiting for what an acknowledgement needs is over.
func (p *part) patience() time.Time {
	return p.op.begun.Add(max(p.op.timeout, p.op.client.router.config.HoldMax))
}

// acknowledge answers a batch that the site has below end: with success, or
// with DUPLICATE_SEQUENCE_NUMBER, which all clients take for success. It is the
// only way in which the gateway says so, and waits until it may: the reserved
// end covers the batch, enough sites have it, and the lease still holds. The
// share is left only then, so that a confirmation that nothing is in flight
// also means that nothing older will still be acknowledged. Where the answer
// waits for other parts, keepPromises looks again.
func (p *part) acknowledge(code int16, end spillway.Offset) bool {
	op, r := p.op, p.op.client.router
	reserve, cancel := context.WithDeadline(r.ctx, minTime(p.patience(), time.Now().Add(reserveMax)))
	defer cancel()
	if r.reserve.Extend(reserve, p.share, p.term, p.tp, end) != nil {
		p.leave(true, false)
		p.refuse(kerr.NotLeaderForPartition.Code, "reserved-end")
		return false
	}
	if k := p.share.ackSites(); k > 1 {
		// The mark carries the epoch, so it needs neither lease nor barrier;
		// a move must not wait for it.
		p.leave(false, false)
		ctx, cancel := context.WithDeadline(r.ctx, op.begun.Add(op.timeout))
		defer cancel()
		if err := r.marks.Wait(ctx, p.term, p.tp, end, k); err != nil {
			p.refuseUnreplicated(err, "not-durable")
			return false
		}
		p.durable = true
	} else if !p.awaitOthers(end) {
		return false
	}
	if r.lease.Term() != p.leased {
		p.leave(true, false)
		p.refuse(kerr.NotLeaderForPartition.Code, "lease-lost")
		return false
	}
	if p.carried() && !p.sent.IsZero() {
		r.contacts.known(p.contact(), p.header.ProducerEpoch, p.term.Base)
	}
	p.share.promise()
	p.promised = true
	p.finish(code)
	p.leave(false, false)
	return true
}

// keepPromises looks again at the acknowledgements of an answer that is about to
// be written: they were made one by one, and some have waited for other parts,
// while the lease may have ended and the share moved. What does not hold any
// more is refused: to send it again is the client's, to find it the trail's.
func (op *produce) keepPromises(ctx context.Context) {
	r := op.client.router
	op.awaitSealed(ctx)
	for _, p := range op.all {
		if !p.promised {
			continue
		}
		if !p.share.keep(p.term, p.durable) || r.lease.Term() != p.leased {
			r.events.refused("moved")
			p.out.ErrorCode, p.out.BaseOffset = kerr.NotLeaderForPartition.Code, -1
			p.sentBack()
			continue
		}
		if p.carried() {
			term := p.term.Base
			if p.sent.IsZero() {
				term = 0 // of older terms: the site does not know the producer in this one
			}
			r.contacts.acked(p.contact(), p.header.ProducerEpoch, p.header.LastSequence(), term)
		}
	}
}

// awaitSealed waits for other sites with what this request's other parts have waited for
// so long that its term is sealed: as with ack.onLag block, it is acknowledged where
// another site has it. Nothing is let go or looked at for good before the last of these
// waits is over, since anything may end meanwhile.
func (op *produce) awaitSealed(ctx context.Context) {
	for waited := true; waited; {
		waited = false
		for _, p := range op.all {
			if p.promised && !p.durable && p.end > 0 && p.share.sealed(p.term) {
				p.durable, p.end = p.awaitAnother(ctx, p.end) == nil, 0
				waited = true
			}
		}
	}
}

// abortableVersion is the first of Produce whose clients know TRANSACTION_ABORTABLE. Brokers
// say INVALID_TXN_STATE to others.
const abortableVersion = 11

// siteRefused passes an error of the site on, without what would tell of the site.
func (p *part) siteRefused(in *kmsg.ProduceResponseTopicPartition) {
	code := in.ErrorCode
	switch code {
	case kerr.NotLeaderForPartition.Code, kerr.FencedLeaderEpoch.Code, kerr.UnknownLeaderEpoch.Code,
		kerr.BrokerNotAvailable.Code, kerr.KafkaStorageError.Code, kerr.ReplicaNotAvailable.Code,
		// The gateway's own principal was denied: by the resource fence, or by
		// a fault that is not the client's to see.
		kerr.TopicAuthorizationFailed.Code, kerr.ClusterAuthorizationFailed.Code:
		p.op.client.router.relearn(p.term.Site, p.tp.Topic) // the client asks again in any case
		code = kerr.NotLeaderForPartition.Code
	case kerr.InvalidRecord.Code:
		p.out.ErrorRecords, p.out.ErrorMessage = in.ErrorRecords, in.ErrorMessage
	case kerr.TransactionAbortable.Code:
		// The site is asked in a version that has it; the client may have come with an older one.
		if p.op.resp.Version < abortableVersion {
			code = kerr.InvalidTxnState.Code
		}
	}
	p.refuse(code, "site")
}

func (p *part) failed() {
	if p.carried() {
		p.op.client.router.contacts.failed(p.contact(), p.header.ProducerEpoch, p.header.BaseSequence, p.term.Base)
	}
}
