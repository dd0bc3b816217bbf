package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/maptopic"
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
}

func newTarget(c broker.Cluster, timeout time.Duration) *target {
	return &target{cluster: c, timeout: timeout, conns: make(map[int32]*conn.Conn)}
}

func (t *target) close() {
	for node, c := range t.conns {
		c.Close()
		delete(t.conns, node)
	}
}

// errUnsure means that nobody knows whether a batch was appended.
var errUnsure = errors.New("no answer")

// produce sends one batch per partition, one request per broker at a time, and
// returns an answer for each.
func (t *target) produce(ctx context.Context, parts []sitelog.ProducePart, sent func()) map[spillway.TopicPartition]sitelog.Produced {
	answers := make(map[spillway.TopicPartition]sitelog.Produced, len(parts))
	byNode := make(map[int32][]sitelog.ProducePart)
	for _, p := range parts {
		answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: errUnsure}
		node, err := t.cluster.Leader(ctx, p.TopicPartition)
		if err != nil {
			answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: kerr.LeaderNotAvailable, Text: err.Error()}
			continue
		}
		byNode[node] = append(byNode[node], p)
	}
	var mu sync.Mutex
	var requests sync.WaitGroup
	var broken []int32
	for node, parts := range byNode {
		c, err := t.conn(ctx, node)
		if err != nil {
			for _, p := range parts { // nothing was sent
				mu.Lock()
				answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: kerr.LeaderNotAvailable, Text: err.Error()}
				mu.Unlock()
			}
			continue
		}
		requests.Go(func() {
			bounded, cancel := context.WithTimeout(ctx, t.timeout+5*time.Second)
			defer cancel()
			produced, err := sitelog.Produce(bounded, c, parts, t.timeout)
			mu.Lock()
			defer mu.Unlock()
			for _, a := range produced {
				answers[a.TopicPartition] = a
			}
			if err != nil {
				broken = append(broken, node)
				for _, p := range parts {
					answers[p.TopicPartition] = sitelog.Produced{TopicPartition: p.TopicPartition, Err: errUnsure, Text: err.Error()}
				}
			}
		})
	}
	sent()
	requests.Wait()
	for _, node := range broken {
		t.conns[node].Close()
		delete(t.conns, node)
	}
	return answers
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

// produce writes the batches of all plans: the first batch of each partition,
// then the second, and so on. One request is in flight per partition (C).
func (l *lane) produce(ctx context.Context, plans []*planned) {
	left := make([]*planned, 0, len(plans))
	for _, p := range plans {
		if len(p.plan.batches) == 0 {
			p.arrive()
		} else {
			left = append(left, p)
		}
	}
	pause, since := resendPauseMin, time.Now()
	for len(left) > 0 {
		left = l.withLease(left)
		parts := make([]sitelog.ProducePart, len(left))
		for i, p := range left {
			parts[i] = sitelog.ProducePart{TopicPartition: p.TopicPartition, Batch: p.plan.batches[p.next].bytes}
		}
		// Once sent, a batch is waited for also while the flow stops: its
		// fate must be known before the target's end is read (C8).
		answers := l.target.produce(ctx, parts, func() { l.m.config.Crash("afterProduceSent") })
		l.m.config.Crash("afterProduceAcked")
		again, moved := left[:0], false
		for _, p := range left {
			switch l.compare(ctx, p, answers[p.TopicPartition]) {
			case verdictNext:
				moved = true
				if p.next++; p.next < len(p.plan.batches) {
					again = append(again, p)
				} else {
					p.arrive()
				}
			case verdictAgain:
				again = append(again, p)
			case verdictGone:
				moved = true
			}
		}
		left = again
		if l.flow.stopped() && moved {
			return // the rest is planned again by whoever follows
		}
		if moved || len(left) == 0 {
			pause, since = resendPauseMin, time.Now()
			continue
		}
		if time.Since(since) > resendMax || l.flow.stopped() || ctx.Err() != nil {
			for _, p := range left {
				l.handBack(p.partition, returned{open: true, problem: fmt.Sprintf("produce %s/%s: %s", l.m.site, p.TopicPartition, describe(answers[p.TopicPartition]))})
			}
			return
		}
		if sitelog.Pause(ctx, pause) == nil {
			_ = l.m.local.Refresh(ctx) // met again by the next try
		}
		pause = min(2*pause, resendPauseMax)
	}
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
	why := strings.TrimSpace(fmt.Sprintf("site %s refuses %d records at virtual offset %d: %s", l.m.site, b.records, b.virtual, describe(a)))
	entry := l.m.gap(maptopic.Gap{Kind: maptopic.GapRefused, Topic: p.Topic, Partition: p.Partition, Epoch: l.flow.epoch,
		From: b.virtual, To: b.virtualEnd, LocalFrom: p.local, LocalTo: p.local, Detail: why})
	if _, err := l.m.writer.Save(ctx, entry); err != nil {
		why += "; " + err.Error()
	}
	l.handBack(p.partition, returned{problem: why, pause: l.m.config.RefusedPause})
}
