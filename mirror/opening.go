package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/offsetmap"
)

// How the partitions of a flow, each with its lease, come to the lanes.

func (f *flow) openAll(ctx context.Context) {
	if len(f.toOpen) == 0 {
		return
	}
	parts := f.withLease(ctx, f.toOpen)
	f.toOpen = nil
	byTopicPartition(parts)
	served := func(p *partition) bool {
		_, open := f.m.reader.View(p.TopicPartition).Open()
		return open
	}
	if slices.ContainsFunc(parts, served) {
		if err := f.closeLate(ctx); err != nil {
			f.fail(err)
		}
	}
	parts = slices.DeleteFunc(parts, func(p *partition) bool {
		if served(p) {
			f.postpone(p, "this site still serves an epoch of the partition; it has to be closed first", time.Second)
			return true
		}
		return false
	})
	parts = f.withoutTransactions(ctx, parts)
	for _, p := range parts {
		p.reopen.Store(false) // what comes now does it
	}
	opened, lost, err := f.m.open(ctx, f.share.Share, f.openIn(), parts)
	if errors.Is(err, broker.ErrUnknownTopic) && f.ending.bound.Load() == nil {
		if err = f.createAnew(ctx, parts); err == nil {
			opened, lost, err = f.m.open(ctx, f.share.Share, f.openIn(), parts)
		}
	}
	if err != nil {
		for _, p := range parts {
			f.postpone(p, err.Error(), 0)
		}
		return
	}
	for _, p := range lost {
		f.postpone(p, "another mirror opened an append session, or an epoch began here, at the same time", 0)
	}
	f.stopCleaners(ctx, opened)
	f.toRoute = append(f.toRoute, f.withLease(ctx, opened)...)
}

// withoutTransactions lets the partitions wait in which others have a transaction
// open at the target: its coordinator may still have to end it as it was decided,
// and its marker would come in between. Where that takes too long it is aborted.
// A flow with a bound does not wait: clients are held, and OpenEpoch aborts.
func (f *flow) withoutTransactions(ctx context.Context, parts []*partition) []*partition {
	if f.ending.bound.Load() != nil {
		return parts
	}
	var tps []spillway.TopicPartition
	for _, p := range parts {
		if !p.alone {
			tps = append(tps, p.TopicPartition)
		}
	}
	if len(tps) == 0 {
		return parts
	}
	open, err := f.m.openTransactions(ctx, tps)
	return slices.DeleteFunc(parts, func(p *partition) bool {
		now := time.Now()
		switch {
		case p.alone:
			return false
		case err != nil:
			f.postpone(p, err.Error(), 0)
			return true
		case len(open[p.TopicPartition]) == 0:
			p.alone = true
			return false
		case p.transactionSeen.IsZero():
			p.transactionSeen = now
		}
		if left := f.m.config.TransactionWait - now.Sub(p.transactionSeen); left > 0 {
			f.postpone(p, fmt.Sprintf("%s; the flow begins when it has ended, and aborts it after %s", open[p.TopicPartition][0].describe(f.m.site), f.m.config.TransactionWait), min(left, time.Second))
			return true
		}
		if err := f.m.abortTransactions(ctx, f.epoch, open[p.TopicPartition]); err != nil {
			f.postpone(p, err.Error(), 0)
			return true
		}
		p.alone = true
		return false
	})
}

// route finds where opened partitions go on at the source and which broker
// leads them there.
func (f *flow) route(ctx, asking, lanes context.Context) {
	if len(f.toRoute) == 0 {
		return
	}
	parts := f.acknowledged(ctx, f.toRoute)
	f.toRoute = nil
	_ = f.source.cluster.Refresh(ctx) // an unreachable source is met again below
	tps := make([]spillway.TopicPartition, len(parts))
	for i, p := range parts {
		tps[i] = p.TopicPartition
	}
	placed := f.place(ctx, tps, parts)
	parted, problems := f.m.comparePast(ctx, f.source, placed)
	f.toOpen = append(f.toOpen, parted...)
	apart := make(map[*partition]bool, len(parted))
	for _, p := range parted {
		apart[p] = true
	}
	for _, p := range placed {
		if apart[p] {
			continue
		}
		if problem := problems[p]; problem != nil {
			f.again(p, problem.Error())
			continue
		}
		node, err := f.source.cluster.Leader(ctx, p.TopicPartition)
		if err != nil {
			f.again(p, err.Error())
			continue
		}
		l := f.lanes[node]
		if l == nil {
			l = newLane(asking, f, node)
			f.lanes[node] = l
			f.mu.Lock()
			f.mu.running = append(f.mu.running, l)
			f.mu.Unlock()
			f.goroutines.Go(func() { l.run(lanes) })
		}
		p.failed = 0
		f.setState(p, true, "")
		// Said at once, not with the next record: if records were lost, the
		// mark of the session before is not true any more. And of a partition
		// without news there is no answer that would say it.
		if p.lease.Held(f.m.config.Now()) {
			f.publish(p)
		}
		l.give(p)
	}
}

// acknowledged lets the partitions wait of which not all in-sync replicas have what was
// read back: their marks would say so. What they do have is said at once, for the mark of
// the session before may be higher. Nobody writes again what the log itself has lost
// since it was read, so such a partition is opened anew.
func (f *flow) acknowledged(ctx context.Context, parts []*partition) []*partition {
	due := make(map[spillway.TopicPartition]*partition)
	for _, p := range parts {
		if p.durable != p.session.Session && p.virtual >= 0 {
			due[p.TopicPartition] = p
		}
	}
	if len(due) == 0 {
		return parts
	}
	marks, ends, err := f.m.reached(ctx, due)
	return slices.DeleteFunc(parts, func(p *partition) bool {
		if due[p.TopicPartition] == nil {
			return false
		}
		at, led := marks[p.TopicPartition]
		switch {
		case err != nil:
			f.again(p, err.Error())
			return true
		case !led:
			f.again(p, fmt.Sprintf("has no leader at site %s", f.m.site))
			return true
		case at >= p.local:
			p.durable = p.session.Session
			return false
		}
		if v, _ := f.m.reader.View(p.TopicPartition).ToVirtual(at); p.lease.Held(f.m.config.Now()) {
			f.m.publish(Mark{Site: f.m.site, Topic: p.Topic, Partition: p.Partition, Epoch: f.epoch, Session: p.session.Session, End: min(v, p.virtual)})
		}
		if end, known := ends[p.TopicPartition]; known && end < p.local {
			f.postpone(p, fmt.Sprintf("site %s has lost records: the log ends at offset %d, and ended at %d", f.m.site, end, p.local), 0)
		} else {
			f.again(p, fmt.Sprintf("waits for the in-sync replicas at site %s: they have %d of %d offsets", f.m.site, at, p.local))
		}
		return true
	})
}

// reached is how far the in-sync replicas of partitions are here, and where the logs end
// of those that lack something. Partitions without a leader are left out: with them, what
// is asked of all would fail for all.
func (m *Mirror) reached(ctx context.Context, parts map[spillway.TopicPartition]*partition) (marks, ends map[spillway.TopicPartition]spillway.LocalOffset, err error) {
	topics := make(map[string]bool)
	for tp := range parts {
		topics[tp.Topic] = true
	}
	md, err := m.local.Metadata(ctx, slices.Sorted(maps.Keys(topics))...)
	if err != nil {
		return nil, nil, err
	}
	var led, lack []spillway.TopicPartition
	for name, t := range md.Topics {
		for _, p := range t.Partitions {
			if tp := (spillway.TopicPartition{Topic: name, Partition: p.Partition}); p.Leader >= 0 && parts[tp] != nil {
				led = append(led, tp)
			}
		}
	}
	if len(led) == 0 {
		return nil, nil, nil
	}
	if marks, err = m.local.Admin().HighWatermarks(ctx, led); err != nil {
		return nil, nil, err
	}
	for tp, at := range marks {
		if at < parts[tp].local {
			lack = append(lack, tp)
		}
	}
	if len(lack) > 0 {
		ends, _ = m.local.Admin().LogEnds(ctx, lack) // they wait, and the others do not
	}
	return marks, ends, nil
}

// place sets where opened partitions go on at the source. What is at its bound
// already, or unknown to the source, is not among those that it returns.
func (f *flow) place(ctx context.Context, tps []spillway.TopicPartition, parts []*partition) (placed []*partition) {
	fresh := make(map[*partition]bool)
	starts, err := f.source.cluster.Admin().LogStarts(ctx, tps)
	for _, p := range parts {
		p.session.Opened = true
		p.bound = f.ending.bound.Load().of(p.TopicPartition)
		if p.bound != noBound && max(p.virtual, 0) >= p.bound {
			f.ending.arrived[p.TopicPartition] = true
			f.publish(p)
			letGo(p.lease)
			f.setState(p, false, "")
			continue
		}
		if err != nil {
			f.again(p, err.Error())
			continue
		}
		view := f.source.view(p.TopicPartition)
		if !told(view) {
			f.again(p, "the source's map does not say yet what the partition holds")
			continue
		}
		if p.virtual < 0 {
			fresh[p], p.compared = true, true // there is nothing yet
			p.durable = p.session.Session
			p.virtual, _ = view.ToVirtual(starts[p.TopicPartition])
			p.source = starts[p.TopicPartition]
		} else {
			p.source, _ = view.ToLocal(p.virtual)
		}
		placed = append(placed, p)
	}
	if err := f.begin(ctx, slices.Collect(maps.Keys(fresh))); err != nil {
		for p := range fresh {
			p.virtual, p.savedVirtual = -1, -1
			f.again(p, err.Error())
		}
		placed = slices.DeleteFunc(placed, func(p *partition) bool { return fresh[p] })
	}
	return placed
}

// told tells whether a source's map says what a partition holds. That of an empty
// partition, at a site that follows, says no more than how far it is verified.
func told(view *offsetmap.View) bool {
	end, _ := view.End()
	return !view.Empty() || end > 0
}

// again postpones a partition whose session is good.
func (f *flow) again(p *partition, problem string) {
	f.postpone(p, problem, 0)
	p.session.Opened = true
}
