package mirror

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// planning is what one fetched partition is planned from, and the plan. The lane takes
// and gives back; only the plan itself, which may decode and compress whole batches, is
// made for several partitions at once.
type planning struct {
	*partition
	at      position // when it began
	fetched sitelog.Fetched
	view    *offsetmap.View
	writer  writer

	made plan
	err  error
}

// plan decides for each fetched partition what to do. Answers that were asked
// for from elsewhere than where the partition stands are dropped.
func (l *lane) plan(ctx context.Context, chunk []sitelog.Fetched) []*planned {
	var all []*planning
	now := l.m.config.Now()
	for _, f := range chunk {
		if p := l.begin(ctx, f, now); p != nil {
			all = append(all, p)
		}
	}
	makePlans(all)
	var plans []*planned
	for _, p := range all {
		if made := l.planned(p, now); made != nil {
			plans = append(plans, made)
		}
	}
	return plans
}

// begin tells what a fetched partition is to be planned from; nil: there is nothing to plan.
func (l *lane) begin(ctx context.Context, f sitelog.Fetched, now time.Time) *planning {
	p, ok := l.parts[f.TopicPartition]
	if !ok {
		return nil
	}
	if p.followed { // else it may have been behind for long
		p.answered, p.followed = l.news, false
	}
	if p.told = f.Asked == p.source; !p.told {
		return nil
	}
	switch {
	case f.Err == nil && f.Diverged < 0:
	case f.Err == nil, errors.Is(f.Err, kerr.OffsetOutOfRange):
		l.sourceMoved(ctx, p, f)
		return nil
	default:
		l.handBack(p, returned{problem: fmt.Sprintf("fetch %s/%s at %d: %v", l.flow.source.site, p.TopicPartition, p.source, f.Err)})
		return nil
	}
	if !p.lease.Held(now) {
		l.handBack(p, returned{open: true, claim: true})
		return nil
	}
	p.heard(f.LastStable, f.HighWatermark, now)
	p.heardAt, p.agreed = l.heardAt, p.session.Session
	if len(f.Records) > 0 {
		p.newsAt = time.Now()
	}
	l.flow.setState(p, true, "") // behind, until the answer of the target came
	w := p.writer()
	if d := l.flow.share.Delay; d > 0 && p.bound == noBound {
		w.youngest = now.Add(-d).UnixMilli()
	}
	w.turn = &turn{ctx: ctx, slots: l.m.budget.decoding}
	return &planning{partition: p, at: p.position, fetched: f, view: l.flow.source.view(p.TopicPartition), writer: w}
}

// makePlans makes the plans, as many at once as there are processors, and of those that
// decode batches as many as have a turn. Each is a function of its own partition alone.
func makePlans(all []*planning) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
			p := all[i]
			p.made, p.err = planPart(p.fetched, p.view, p.at, p.writer)
			p.writer.turn.end()
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(all)) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}

// planned takes a plan over; nil: the partition was handed back.
func (l *lane) planned(p *planning, now time.Time) *planned {
	if l.parts[p.TopicPartition] != p.partition {
		return nil // by another part of the same answer
	}
	if p.err != nil {
		l.handBack(p.partition, returned{problem: "plan: " + p.err.Error(), pause: l.m.config.RefusedPause})
		return nil
	}
	if p.made.waits && len(p.made.batches) == 0 {
		l.resting[p.TopicPartition] = time.Now().Add(waitPause)
	}
	p.notice = ""
	if p.made.early > now.UnixMilli() {
		p.notice = fmt.Sprintf("the batch at offset %d of site %s has a time in the future, %s: it is carried only %s after that", p.made.end.source, l.flow.source.site, time.UnixMilli(p.made.early).UTC().Format(time.RFC3339), l.flow.share.Delay)
	}
	if p.made.early > 0 {
		l.resting[p.TopicPartition] = time.Now().Add(l.flow.untilDue(p.made.early, now))
	}
	return &planned{partition: p.partition, plan: p.made, data: len(p.fetched.Records) > 0}
}

// overHoles moves partitions over holes behind the last record, which are mirrored too. The
// source says nothing of a partition in which nothing is new, while its map does. Where it
// has said nothing yet its log may be another one by now; what it says, plan looks at.
func (l *lane) overHoles(chunk []sitelog.Fetched) {
	at := l.flow.source.reader.Position()
	if at == l.mapRead {
		return
	}
	l.mapRead = at
	answered := make(map[spillway.TopicPartition]bool, len(chunk))
	for _, f := range chunk {
		answered[f.TopicPartition] = true
	}
	now := l.m.config.Now()
	for tp, p := range l.parts {
		if answered[tp] || !p.told || l.parked[tp] != nil || !p.lease.Held(now) {
			continue
		}
		v, _ := l.flow.source.view(tp).ToVirtual(p.source)
		if v = min(v, p.bound); v > p.virtual {
			p.virtual = v
			l.flow.publish(p)
		}
	}
}

// sourceMoved handles a source that does not have the position any more:
// deleted by its retention, which is a gap, or lost.
func (l *lane) sourceMoved(ctx context.Context, p *partition, f sitelog.Fetched) {
	tps := []spillway.TopicPartition{p.TopicPartition}
	admin := l.flow.source.cluster.Admin()
	starts, err1 := admin.LogStarts(l.asking, tps)
	ends, err2 := admin.LogEnds(l.asking, tps)
	if err := errors.Join(err1, err2); err != nil {
		l.handBack(p, returned{problem: "source position lost: " + err.Error()})
		return
	}
	start, end := starts[p.TopicPartition], ends[p.TopicPartition]
	view := l.flow.source.view(p.TopicPartition)
	switch {
	case f.Err != nil && p.source < start:
		to, _ := view.ToVirtual(start)
		entry := l.m.gap(maptopic.Gap{Kind: maptopic.GapRetention, Topic: p.Topic, Partition: p.Partition, Epoch: l.flow.epoch,
			From: p.virtual, To: to, LocalFrom: p.local, LocalTo: p.local,
			Detail: fmt.Sprintf("site %s deleted offsets %d to %d before they were mirrored", l.flow.source.site, p.source, start-1)})
		if _, err := l.m.writer.Save(ctx, entry); err != nil {
			l.handBack(p, returned{problem: err.Error()})
			return
		}
		p.virtual, p.source, p.sourceEpoch = max(p.virtual, to), start, -1
	case f.Err == nil || p.source > end:
		truncated := end
		if f.Err == nil {
			truncated = min(end, f.Diverged)
		}
		from, _ := view.ToVirtual(truncated)
		p.cut(from, maptopic.GapSource)
		l.handBack(p, returned{open: true, problem: fmt.Sprintf("site %s lost records from offset %d on", l.flow.source.site, truncated)})
	default:
		// It has the position, and does not know the epoch: it may be a topic
		// that was created anew. The records say whether it is the same one.
		p.sourceEpoch, p.compared, p.resumes = -1, false, false
		l.handBack(p, returned{})
	}
}
