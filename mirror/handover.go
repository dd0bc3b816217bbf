package mirror

import (
	"context"
	"fmt"
	"slices"
	"time"

	"spillway"
	"spillway/mirror/sitelog"
)

// WorkersInfo says who shares a flow, after that has changed.
type WorkersInfo struct {
	Share          spillway.ShareID
	Source, Target spillway.SiteID
	Workers        []WorkerShare // sorted by name
	Partitions     int           // of the flow
	Came, Gone     []string      // workers
	// Taken and Given are the partitions that come to this worker and go from it; each
	// when nothing of it is on its way at its former one.
	Taken, Given []spillway.TopicPartition
}

// shared is what a flow knows of those who share it. It belongs to the flow's run.
type shared struct {
	looked int64 // of the crew, when the flow looked last
	names  []string
	own    map[spillway.TopicPartition]bool
}

// shareOut gives partitions back that belong to other workers by now and are not with a
// lane, which does so itself, and tells who shares the flow.
func (f *flow) shareOut(ctx context.Context) {
	c := f.crew
	if c == nil {
		return
	}
	for _, p := range f.claims {
		f.claim(ctx, p)
	}
	f.claims = nil
	looked := c.looked.Load()
	news := looked != f.shared.looked
	f.shared.looked = looked
	if news {
		give := func(parts []*partition) []*partition {
			return slices.DeleteFunc(parts, func(p *partition) bool {
				if !askedBack(p.lease) {
					return false
				}
				f.claim(ctx, p)
				return true
			})
		}
		f.later, f.toOpen, f.toRoute = give(f.later), give(f.toOpen), give(f.toRoute)
		f.wakeLanes()
	}
	f.arriveElsewhere()
	f.shareCaps()
	if news {
		f.tellShares()
	}
}

// tellShares says what has changed hands.
func (f *flow) tellShares() {
	c := f.crew
	parts := make([]spillway.TopicPartition, 0, len(f.parts))
	for tp := range f.parts {
		parts = append(parts, tp)
	}
	slices.SortFunc(parts, spillway.TopicPartition.Compare)
	shares, own := c.shares(parts)
	i := WorkersInfo{Share: f.share.Share, Source: f.source.site, Target: f.m.site, Workers: shares, Partitions: len(parts)}
	names := make([]string, len(i.Workers))
	for j, w := range i.Workers {
		names[j] = w.Worker
	}
	i.Came, i.Gone = without(names, f.shared.names), without(f.shared.names, names)
	for _, tp := range parts {
		before, known := f.shared.own[tp]
		switch {
		case own[tp] && !before && (known || slices.Contains(i.Came, f.m.config.Worker)):
			i.Taken = append(i.Taken, tp)
		case !own[tp] && before:
			i.Given = append(i.Given, tp)
		}
	}
	f.shared.names, f.shared.own = names, own
	if len(i.Came)+len(i.Gone) > 0 {
		f.m.events.workersChanged(i)
	}
}

// without are the names that are not among the others.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(others, n) })
}

// watchWorkers wakes the flow when keys may have become others'.
func (f *flow) watchWorkers(ctx context.Context) {
	for {
		changed := f.crew.changed()
		f.wakeUp()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// watchSource has others do what this worker cannot, which does not reach the source.
func (f *flow) watchSource(ctx context.Context) {
	c := f.crew
	answered := time.Now()
	for sitelog.Pause(ctx, c.sourceLook) == nil {
		bounded, cancel := context.WithTimeout(ctx, c.sourcePatience/3)
		_, err := f.source.cluster.Metadata(bounded, spillway.MapTopic)
		cancel()
		if err == nil {
			answered = time.Now()
		}
		if away := time.Since(answered) >= c.sourcePatience; c.stepBack(away) && away {
			f.fail(fmt.Errorf("site %s has not answered for %s: the other workers get all partitions until it does; %w", f.source.site, c.sourcePatience, err))
		}
	}
}

// arriveElsewhere notes the partitions of a flow with an end that are with other
// workers, and there: the map says so. Who leads a move brings all of them there itself.
func (f *flow) arriveElsewhere() {
	b := f.ending.bound.Load()
	if b == nil || f.m.crew == nil {
		return
	}
	for tp, end := range b.ends {
		if !f.ending.arrived[tp] && f.crew.elsewhere(tp) {
			if at, _ := f.m.reader.View(tp).End(); at >= end {
				f.ending.arrived[tp] = true
			}
		}
	}
}

// releaseAll gives all partitions back when nothing of the flow runs any more.
func (f *flow) releaseAll() {
	for _, p := range f.parts {
		letGo(p.lease)
	}
}
