package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Pauses between tries of the same batch.
const (
	resendPauseMin = 20 * time.Millisecond
	resendPauseMax = time.Second
	// resendMax is how long one batch is tried before the partition is handed
	// back, so that it does not hold up the others of its lane.
	resendMax = 10 * time.Second
)

// target is the lane's way to the brokers of its own site: a connection each.
type target struct {
	cluster broker.Cluster
	timeout time.Duration
	conns   map[int32]*conn.Conn
	leads   map[spillway.TopicPartition]int32 // to whom a partition was sent last

	throttled map[int32]*throttled // brokers that asked for pauses lately
	paused    func(node int32, pause time.Duration)
}

func newTarget(c broker.Cluster, timeout time.Duration, paused func(node int32, pause time.Duration)) *target {
	return &target{
		cluster: c, timeout: timeout, conns: make(map[int32]*conn.Conn), leads: make(map[spillway.TopicPartition]int32),
		throttled: make(map[int32]*throttled), paused: paused,
	}
}

func (t *target) close() {
	for node, c := range t.conns {
		c.Close()
		delete(t.conns, node)
	}
}

// errUnsure means that nobody knows whether a batch was appended.
var errUnsure = errors.New("no answer")

// burstMax is how many batches of a partition travel at the same time: as many as a
// broker remembers of a producer, so that each of them may be sent again. Their
// sequences keep them in order: behind one that was refused, the others are too.
const burstMax = 5

// round is one batch for each of some partitions, and the answer to it.
type round struct {
	parts   []sitelog.ProducePart
	answers map[spillway.TopicPartition]sitelog.Produced
}

// produce sends the rounds one behind the other, without waiting in between, and
// returns when each has its answers.
func (t *target) produce(ctx context.Context, rounds []*round, sent func()) {
	unsent := func(r *round, p sitelog.ProducePart, err error) {
		r.answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: kerr.LeaderNotAvailable, Text: err.Error()}
	}
	type leader struct {
		node int32
		err  error
	}
	leaders := make(map[spillway.TopicPartition]leader) // one for all rounds
	byNode := make(map[int32][][]sitelog.ProducePart)
	for i, r := range rounds {
		r.answers = make(map[spillway.TopicPartition]sitelog.Produced, len(r.parts))
		for _, p := range r.parts {
			l, known := leaders[p.TopicPartition]
			if !known {
				l.node, l.err = t.cluster.Leader(ctx, p.TopicPartition)
				leaders[p.TopicPartition] = l
			}
			if l.err != nil {
				unsent(r, p, l.err)
				continue
			}
			r.answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: errUnsure}
			t.leads[p.TopicPartition] = l.node
			if byNode[l.node] == nil {
				byNode[l.node] = make([][]sitelog.ProducePart, len(rounds))
			}
			byNode[l.node][i] = append(byNode[l.node][i], p)
		}
	}
	var mu sync.Mutex // guards answers, broken and throttled
	var requests sync.WaitGroup
	var broken []int32
	for node, parts := range byNode {
		c, err := t.conn(ctx, node)
		if err != nil {
			mu.Lock()
			for i := range parts {
				for _, p := range parts[i] {
					unsent(rounds[i], p, err)
				}
			}
			mu.Unlock()
			continue
		}
		waits := make([]func(context.Context) ([]sitelog.Produced, error), len(parts))
		for i := range parts {
			if len(parts[i]) > 0 {
				waits[i] = sitelog.Send(ctx, c, parts[i], t.timeout)
			}
		}
		requests.Go(func() {
			var lost error
			for i, wait := range waits {
				if wait == nil {
					continue
				}
				var produced []sitelog.Produced
				if lost == nil {
					// What was sent behind an answer with a throttle time is read when that is over.
					bounded, cancel := context.WithTimeout(ctx, t.timeout+5*time.Second+max(0, time.Until(c.MutedUntil())))
					produced, lost = wait(bounded)
					cancel()
				}
				pause := max(0, time.Until(c.MutedUntil()))
				mu.Lock()
				if lost == nil {
					t.answered(node, bytesOf(parts[i]), pause, time.Now())
				}
				if pause > 0 && lost == nil {
					t.paused(node, pause)
				}
				for _, a := range produced {
					if _, asked := rounds[i].answers[a.TopicPartition]; asked {
						rounds[i].answers[a.TopicPartition] = a
					}
				}
				if lost != nil {
					for _, p := range parts[i] {
						rounds[i].answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: errUnsure, Text: lost.Error()}
					}
				}
				mu.Unlock()
			}
			if lost != nil {
				mu.Lock()
				broken = append(broken, node)
				mu.Unlock()
			}
		})
	}
	sent()
	requests.Wait()
	for _, node := range broken {
		t.conns[node].Close()
		delete(t.conns, node)
	}
}

func bytesOf(parts []sitelog.ProducePart) (n int) {
	for _, p := range parts {
		n += len(p.Batch)
	}
	return n
}

func (t *target) conn(ctx context.Context, node int32) (*conn.Conn, error) {
	if c, ok := t.conns[node]; ok {
		select {
		case <-c.Closed():
			c.Close()
		default:
			return c, nil
		}
	}
	c, err := t.cluster.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	t.conns[node] = c
	return c, nil
}

// produce writes the batches of all plans: the first batches of each partition,
// then the next ones, and so on. What follows depends on no answer that is not
// there: a partition is handed back only when nothing of it is on its way (C).
func (l *lane) produce(ctx context.Context, plans []*planned) {
	left := make([]*planned, 0, len(plans))
	for _, p := range plans {
		if len(p.plan.batches) == 0 {
			l.arrived(p)
		} else {
			left = append(left, p)
		}
	}
	pause := resendPauseMin
	for len(left) > 0 {
		if left = l.park(l.withLease(left)); len(left) == 0 {
			return
		}
		rounds, now := l.burst(left), time.Now()
		// Once sent, a batch is waited for also while the flow stops: its
		// fate must be known before the target's end is read (C8).
		l.target.produce(ctx, rounds, func() { l.m.config.Crash("afterProduceSent") })
		l.m.config.Crash("afterProduceAcked")
		var again, unsent []*planned // the latter had no room in the requests
		moved := false
		refusals := make(map[*planned]sitelog.Produced)
		for _, p := range left {
			gone := false
			for _, r := range rounds {
				a, sent := r.answers[p.TopicPartition]
				if !sent {
					break
				}
				verdict := l.compare(ctx, p, a)
				if verdict != verdictNext {
					// What was sent behind it was refused too, or will be found to be
					// there when it is sent again.
					gone, refusals[p] = verdict == verdictGone, a
					p.unsure = p.unsure || unsure(a.Err)
					break
				}
				moved = true
				p.next++
				p.since, p.unsure = time.Time{}, false
			}
			switch {
			case gone:
				moved = true
			case p.next == len(p.plan.batches):
				l.arrived(p)
			case !sentIn(rounds, p):
				unsent = append(unsent, p)
			default:
				if p.since.IsZero() {
					p.since = now
				}
				again = append(again, p)
			}
		}
		left = append(unsent, again...)
		if l.flow.stopped() && moved {
			return // the rest is planned again by whoever follows
		}
		ends := !moved && (l.flow.stopped() || ctx.Err() != nil)
		left = slices.DeleteFunc(left, func(p *planned) bool {
			if !ends && !p.overdue(time.Now()) {
				return false
			}
			l.handBack(p.partition, returned{open: true, problem: fmt.Sprintf("produce %s/%s: %s", l.m.site, p.TopicPartition, describe(refusals[p]))})
			return true
		})
		if moved || len(left) == 0 {
			pause = resendPauseMin
			continue
		}
		if sitelog.Pause(ctx, pause) == nil {
			_ = l.m.local.Refresh(ctx) // met again by the next try
		}
		pause = min(2*pause, resendPauseMax)
	}
}

// burst is what is sent next. One batch alone goes where the broker may not know the
// session yet, for then it would take any sequence as the first one, and where it
// may have forgotten it (C3).
//
// Where a broker throttles, it gets one request, of no more than it is to have at once.
func (l *lane) burst(left []*planned) (rounds []*round) {
	now, bytes := time.Now(), make(map[int32]int)
	for _, p := range left {
		ahead := p.plan.batches[p.next:]
		node, known := l.target.leads[p.TopicPartition]
		slow := l.target.throttled[node]
		slowly := known && slow.lately(now)
		if slowly && slow.bytesMax > 0 && bytes[node] > 0 && bytes[node]+len(ahead[0].bytes) > slow.bytesMax {
			continue
		}
		bytes[node] += len(ahead[0].bytes)
		for i, b := range ahead[:min(len(ahead), burstMax)] {
			if i > 0 && slowly {
				break
			}
			if i > 0 && (p.sequence == 0 || l.m.aged(ahead[0]) || l.m.aged(b)) {
				break
			}
			if i == len(rounds) {
				rounds = append(rounds, &round{})
			}
			rounds[i].parts = append(rounds[i].parts, sitelog.ProducePart{TopicPartition: p.TopicPartition, Batch: b.bytes})
		}
	}
	return rounds
}

// overdue tells whether the next batch has been tried for too long, the pauses that its
// broker wanted included: somebody must hear of it.
func (p *planned) overdue(now time.Time) bool {
	return !p.since.IsZero() && now.Sub(p.since) > resendMax
}

func sentIn(rounds []*round, p *planned) bool {
	if len(rounds) == 0 {
		return false
	}
	_, sent := rounds[0].answers[p.TopicPartition]
	return sent
}

// arrived ends a plan that is at the target.
func (l *lane) arrived(p *planned) {
	l.toldLeftOut(p, p.plan.leftOut)
	p.arrive()
}

func (l *lane) toldLeftOut(p *planned, records int64) {
	l.m.events.recordsLeftOut(LeftOutInfo{p.TopicPartition, l.flow.source.site, l.m.site, records})
}

// arrive moves the partition to the end of its plan. What the plan wrote may
// lie elsewhere than planned, so local offset and sequence are kept.
func (p *planned) arrive() {
	p.virtual, p.source = p.plan.end.virtual, p.plan.end.source
	if p.plan.sourceEpoch >= 0 {
		p.sourceEpoch, p.epochAt = p.plan.sourceEpoch, p.plan.end.source
	}
}

// withLease hands back the partitions whose lease is over, or for which another
// worker has opened a newer append session.
func (l *lane) withLease(plans []*planned) []*planned {
	kept := plans[:0]
	now := l.m.config.Now()
	for _, p := range plans {
		switch {
		case !p.lease.Held(now):
			l.handBack(p.partition, returned{open: true, claim: true})
		case l.m.succeeded(p.partition):
			l.handBack(p.partition, returned{open: true, claim: true, problem: "another mirror has taken the partition over"})
		default:
			kept = append(kept, p)
		}
	}
	return kept
}

// succeeded tells whether the map holds a newer append session than the
// partition's. It is seen with the delay of the map's reader.
func (m *Mirror) succeeded(p *partition) bool {
	om := m.reader.Map(p.TopicPartition)
	return om != nil && om.Session().Session > p.session.Session
}

// A verdict says how a plan goes on after an answer.
type verdictKind int

const (
	verdictNext  verdictKind = iota // the batch is at the target
	verdictAgain                    // send the same batch again
	verdictGone                     // the partition was handed back
)

// compare holds the target's answer against the plan.
func (l *lane) compare(ctx context.Context, p *planned, a sitelog.Produced) verdictKind {
	b := p.plan.batches[p.next]
	aged := l.m.aged(b)
	switch {
	case a.Err == nil && a.Base == p.local:
	case a.Err == nil && a.Base > p.local:
		if err := l.classify(ctx, p, a.Base); err != nil {
			l.resync(p, "others wrote to the partition: "+err.Error())
			return verdictGone
		}
	case a.Err == nil:
		l.resync(p, fmt.Sprintf("the batch was expected at offset %d and acknowledged at %d", p.local, a.Base))
		return verdictGone
	case errors.Is(a.Err, kerr.OutOfOrderSequenceNumber), errors.Is(a.Err, kerr.UnknownProducerID), errors.Is(a.Err, kerr.DuplicateSequenceNumber):
		l.resync(p, describe(a))
		return verdictGone
	case errors.Is(a.Err, kerr.InvalidProducerEpoch), errors.Is(a.Err, kerr.ProducerFenced):
		// A newer session writes. Where the map has none, somebody misuses
		// the id, and another is needed (C25).
		if l.m.reader.CaughtUp(ctx) == nil && !l.m.succeeded(p.partition) {
			p.forceNewID = true
			l.resync(p, describe(a))
			return verdictGone
		}
		l.m.events.resync(ResyncInfo{p.TopicPartition, l.m.site, describe(a)})
		l.handBack(p.partition, returned{open: true, claim: true})
		return verdictGone
	case errors.Is(a.Err, kerr.MessageTooLarge), errors.Is(a.Err, kerr.RecordListTooLarge):
		return l.tooLarge(ctx, p, b, a)
	case errors.Is(a.Err, kerr.CorruptMessage):
		why := batch.Verify(b.bytes)
		if why == nil {
			return verdictAgain // it became so on the way
		}
		l.stops(ctx, p, maptopic.GapCorrupt, b.virtual, b.virtualEnd, l.describeCorrupt(b.virtual, why))
		return verdictGone
	case unsure(a.Err):
		if aged {
			// The target may not remember the producer, so a second copy
			// would be appended: read back instead (C3).
			l.resync(p, "no answer for records older than the target remembers producers: "+describe(a))
			return verdictGone
		}
		return verdictAgain
	case kerr.IsRetriable(a.Err):
		return verdictAgain
	default:
		l.refused(ctx, p, b, a)
		return verdictGone
	}
	p.local += spillway.LocalOffset(b.records)
	p.sequence = batch.NextSequence(b.sequence, b.records)
	p.virtual = b.virtualEnd
	l.toldLeftOut(p, b.leftOut)
	l.m.events.batchMirrored(BatchInfo{
		TopicPartition: p.TopicPartition, Source: l.flow.source.site, Target: l.m.site,
		Records: int(b.records), Bytes: len(b.bytes), Rebuilt: b.rebuilt, Aged: aged, MaxTimestamp: b.maxTimestamp,
	})
	return verdictNext
}

// unsure errors leave open whether the batch was appended.
func unsure(err error) bool {
	return errors.Is(err, errUnsure) || errors.Is(err, kerr.RequestTimedOut) || errors.Is(err, kerr.NotEnoughReplicasAfterAppend) ||
		errors.Is(err, kerr.NotLeaderForPartition) || errors.Is(err, kerr.UnknownServerError)
}

func describe(a sitelog.Produced) string {
	if a.Text != "" {
		return fmt.Sprintf("%v: %s", a.Err, a.Text)
	}
	return fmt.Sprint(a.Err)
}

// resync hands the partition back to be opened anew: the target's log is read
// from the verified end on, and what is there decides where the flow goes on.
func (l *lane) resync(p *planned, why string) {
	l.m.events.resync(ResyncInfo{p.TopicPartition, l.m.site, why})
	l.handBack(p.partition, returned{open: true})
}

// classify reads what lies between the planned offset and the one where the
// batch came to lie, hides it, and tells the map where the rest of the plan is.
func (l *lane) classify(ctx context.Context, p *planned, base spillway.LocalOffset) error {
	v := newVerifier(p.local, p.virtual, nil, p.session, p.session)
	err := sitelog.Scan(ctx, l.m.local, p.TopicPartition, p.local, base, func(b sitelog.Batch) error {
		v.see(b.Header)
		return nil
	})
	if err != nil {
		return err
	}
	var entries []maptopic.Entry
	for _, h := range v.hidden {
		entries = append(entries, l.m.hiddenEntries(p.partition, l.flow.epoch, h)...)
	}
	entries = append(entries, maptopic.ChunkEntry(p.TopicPartition, p.chunk(p.next, base)))
	p.ahead = offsetmap.Range{}
	if _, err := l.m.writer.Save(ctx, entries...); err != nil {
		return err
	}
	p.local = base
	return nil
}

// tooLarge plans the partition again with smaller batches. A single record that
// is too large is refused.
func (l *lane) tooLarge(ctx context.Context, p *planned, b outgoing, a sitelog.Produced) verdictKind {
	if b.records == 1 {
		l.refused(ctx, p, b, a)
		return verdictGone
	}
	p.batchBytesMax = len(b.bytes) / 2
	l.handBack(p.partition, returned{})
	return verdictGone
}

// refused stops the partition for a while and says so: the record is neither
// skipped nor may it hold up other partitions.
func (l *lane) refused(ctx context.Context, p *planned, b outgoing, a sitelog.Produced) {
	l.stops(ctx, p, maptopic.GapRefused, b.virtual, b.virtualEnd, strings.TrimSpace(fmt.Sprintf("site %s refuses %d records at virtual offset %d: %s", l.m.site, b.records, b.virtual, describe(a))))
}

// stops logs why a batch cannot be at the target, and lets its partition wait; the
// others go on.
func (l *lane) stops(ctx context.Context, p *planned, kind string, from, to spillway.Offset, why string) {
	entry := l.m.gap(maptopic.Gap{Kind: kind, Topic: p.Topic, Partition: p.Partition, Epoch: l.flow.epoch,
		From: from, To: to, LocalFrom: p.local, LocalTo: p.local, Detail: why})
	if _, err := l.m.writer.Save(ctx, entry); err != nil {
		why += "; " + err.Error()
	}
	l.handBack(p.partition, returned{problem: why, pause: l.m.config.RefusedPause})
}

// stopCorrupt lets the partitions wait whose next batch cannot be built anew. What lies
// before it is at the target.
func (l *lane) stopCorrupt(ctx context.Context, plans []*planned) {
	for _, p := range plans {
		if c := p.plan.corrupt; c != nil && l.parts[p.TopicPartition] == p.partition && p.next == len(p.plan.batches) {
			l.stops(ctx, p, maptopic.GapCorrupt, c.from, c.to, l.describeCorrupt(c.from, c.why))
		}
	}
}

func (l *lane) describeCorrupt(at spillway.Offset, why error) string {
	return fmt.Sprintf("the batch at virtual offset %d is corrupt as site %s has it: %v", at, l.flow.source.site, why)
}
