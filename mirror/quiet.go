package mirror

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// A broker looks at every partition of a fetch for each answer, so the records of a few
// among thousands would come as slowly, and cost it as much, as those of all. Where there
// are many, a lane gives those without news to quiet lanes, whose fetches wait for long. A
// quiet lane carries what comes, and gives the partition back.
//
//	A  a partition is in one lane, and nothing of it is on its way when it goes to another

// quietLimits say when lanes part.
type quietLimits struct {
	from    int           // partitions of a broker: no quiet lanes below
	after   time.Duration // without records
	laneMax int           // partitions of a quiet lane
}

// quiet is what a lane knows of those beside it.
type quiet struct {
	busy  *lane        // of a quiet lane: where partitions with records go
	lanes []*lane      // of a busy one; owned by its run
	count atomic.Int64 // partitions of a quiet lane, those on their way to it too
	// looked is when a busy lane looked for partitions to give away last.
	looked time.Time
}

const (
	// quietWaits is how many times longer the fetches of a quiet lane wait.
	quietWaits = 10
	// busyWait bounds the wait of a lane to which quiet ones give partitions: what is
	// asked for meanwhile waits for it.
	busyWait = 50 * time.Millisecond
)

// fetchWait is how long the source may wait for new records.
func (l *lane) fetchWait() time.Duration {
	wait := l.m.config.FetchWait
	switch {
	case l.quiet.busy != nil && l.bounded == nil:
		return quietWaits * wait
	case slices.ContainsFunc(l.quiet.lanes, func(q *lane) bool { return q.quiet.count.Load() > 0 }):
		return min(wait, busyWait)
	}
	return wait
}

// calmDown gives partitions to quiet lanes.
func (l *lane) calmDown(ctx context.Context) {
	limits := l.m.config.quiet
	all := len(l.parts)
	for _, q := range l.quiet.lanes {
		all += int(q.quiet.count.Load())
	}
	if l.quiet.busy != nil || all < limits.from || l.flow.ending.bound.Load() != nil {
		return
	}
	now := time.Now()
	if now.Sub(l.quiet.looked) < limits.after {
		return
	}
	l.quiet.looked = now
	calm := make(map[*lane][]*partition) // each lane asks anew once, not for each
	for _, p := range l.parts {
		if now.Sub(p.newsAt) < limits.after || p.highWatermark < 0 || p.lag() > 0 || p.local != p.savedLocal || p.virtual != p.savedVirtual {
			continue
		}
		if _, rests := l.resting[p.TopicPartition]; rests || l.parked[p.TopicPartition] != nil {
			continue
		}
		q := l.quietLane(ctx)
		l.leave(p)
		q.quiet.count.Add(1)
		calm[q] = append(calm[q], p)
	}
	for q, parts := range calm {
		q.give(parts...)
	}
}

// quietLane is one with room.
func (l *lane) quietLane(ctx context.Context) *lane {
	for _, q := range l.quiet.lanes {
		if q.quiet.count.Load() < int64(l.m.config.quiet.laneMax) {
			return q
		}
	}
	q := newLane(l.asking, l.flow, l.node)
	q.quiet.busy = l
	l.quiet.lanes = append(l.quiet.lanes, q)
	l.flow.mu.Lock()
	l.flow.mu.running = append(l.flow.mu.running, q)
	l.flow.mu.Unlock()
	l.flow.goroutines.Go(func() { q.run(ctx) })
	return q
}

// goesBack tells whether a quiet lane gives the partition back when its plan is done. It
// does not while clients are held by a move.
func (l *lane) goesBack(p *planned) bool { return l.quiet.busy != nil && p.data && l.bounded == nil }

// speakUp gives partitions with records back.
func (l *lane) speakUp(plans []*planned) {
	for _, p := range plans {
		if l.goesBack(p) && l.parts[p.TopicPartition] == p.partition && l.parked[p.TopicPartition] == nil {
			l.leave(p.partition)
			l.quiet.busy.give(p.partition)
		}
	}
}

// leave takes a partition out of the lane.
func (l *lane) leave(p *partition) {
	delete(l.parts, p.TopicPartition)
	delete(l.resting, p.TopicPartition)
	if put := l.parked[p.TopicPartition]; put != nil {
		delete(l.parked, p.TopicPartition)
		put.held.done()
		put.held = nil
	}
	if l.quiet.busy != nil {
		l.quiet.count.Add(-1)
	}
}

// leasesEvery is how often leases are looked at of partitions about which the source
// says nothing.
const leasesEvery = time.Second

// checkLeases hands back what may be another's by now.
func (l *lane) checkLeases(now time.Time) {
	if now.Sub(l.leasesAt) < leasesEvery {
		return
	}
	l.leasesAt = now
	for _, p := range l.parts {
		if !p.lease.Held(l.m.config.Now()) {
			l.handBack(p, returned{open: true, claim: true})
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
