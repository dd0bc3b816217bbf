package mirror

import (
	"context"
	"errors"
	"slices"
	"time"

	"spillway"
)

// partState is what others may know about a partition.
type partState struct {
	virtual spillway.Offset
	local   spillway.LocalOffset // behind what it wrote
	lag     int64
	due     int64 // of lag, what could be here
	// undecided are those of lag that open transactions hold back at the source,
	// at lastStable since heldBack.
	undecided  int64
	lastStable spillway.LocalOffset
	heldBack   time.Time
	running    bool
	problem    string
	waits      bool // until it is this worker's, of several
	// caughtUp is the last time of which it has all that the source had then. As with
	// a follower of Kafka, that is when the source answered, not when the answer was
	// written: a mirror that cannot keep up has all that it knows after each answer.
	caughtUp time.Time
	whole    bool // it had all that is decided, once since the flow began
}

// publish is called by lanes after a plan was compared.
func (f *flow) publish(p *partition) {
	f.setState(p, true, p.notice)
	if p.reopen.Load() {
		return // its log is gone, and the mark withdrawn
	}
	f.m.publish(Mark{Site: f.m.site, Topic: p.Topic, Partition: p.Partition, Epoch: f.epoch, Session: p.session.Session, End: p.virtual,
		Compared: p.agreed == p.session.Session})
}

func (f *flow) setState(p *partition, running bool, problem string) {
	s := partState{virtual: p.virtual, local: p.local, lag: p.lag(), due: p.due(), undecided: p.undecided(), lastStable: p.lastStable, heldBack: p.heldBack, running: running, problem: problem, caughtUp: time.Now()}
	if !p.heardAt.IsZero() {
		s.caughtUp = p.heardAt
	}
	f.mu.Lock()
	before, known := f.mu.state[p.TopicPartition]
	if known && (s.due > 0 || problem != "") {
		s.caughtUp = before.caughtUp
		if before.due == 0 && before.problem == "" { // and nothing was said of it since
			s.caughtUp = later(before.caughtUp, p.answered)
		}
	}
	s.whole = before.whole || running && problem == "" && s.due == 0 && p.highWatermark >= 0 && !p.reopen.Load()
	f.mu.state[p.TopicPartition] = s
	if !known {
		f.mu.listed++
	}
	f.mu.Unlock()
	if (!known || before.problem != problem) && (known || problem != "") {
		f.m.events.partitionState(PartitionInfo{p.TopicPartition, f.share.Share, f.source.site, f.m.site, problem})
	}
}

// setWaits notes a partition that another worker may have. That is no problem, but
// while it is this one's.
func (f *flow) setWaits(p *partition) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.listed++
	f.mu.state[p.TopicPartition] = partState{virtual: p.virtual, waits: true, caughtUp: time.Now()}
}

func (f *flow) fail(err error) {
	if errors.Is(err, context.Canceled) && f.stopped() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.problem = err.Error()
}

// problem is what is wrong with the source; "": nothing that is known.
func (f *flow) problem() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.problem
}

// reportAll reports until ctx ends. It waits for no broker: a target that
// freezes stops everything else, and that is what there is to report.
func (f *flow) reportAll(ctx context.Context) {
	tick := time.NewTicker(f.m.config.TopicInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.report()
		case <-ctx.Done():
			return
		}
	}
}

// report tells how the flow is.
func (f *flow) report() {
	info := f.info(time.Now())
	f.m.events.flowState(info)
}

func (f *flow) info(now time.Time) FlowInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	info := FlowInfo{Share: f.share.Share, Source: f.source.site, Target: f.m.site, Epoch: f.epoch,
		Partitions: len(f.mu.state), CatchingUp: !f.mu.found, Problem: f.mu.problem, Problems: make(map[spillway.TopicPartition]string), Hanging: make(map[spillway.TopicPartition]string)}
	info.MemoryBytes, info.MemoryBytesMax = f.m.budget.usage()
	info.GroupAge, info.GroupBehind, info.GroupsBehind = f.groups.oldest(now)
	tps := make([]spillway.TopicPartition, 0, len(f.mu.state))
	for tp, s := range f.mu.state {
		tps = append(tps, tp)
		if s.waits && f.crew.elsewhere(tp) {
			info.Partitions--
			info.Elsewhere++
			continue
		}
		if s.waits {
			s.problem = waitsForLease
		}
		info.LagRecords += s.lag
		info.UndecidedRecords += s.undecided
		f.addHeldBack(&info, tp, s, now)
		info.DeletionsBehind = max(info.DeletionsBehind, f.deletionsBehind(tp, s, now))
		if s.running {
			info.Running++
		}
		info.CatchingUp = info.CatchingUp || !s.whole
		if s.problem != "" {
			info.Problems[tp] = s.problem
		}
		if s.problem != "" || s.due > 0 {
			info.LagTime = max(info.LagTime, now.Sub(s.caughtUp))
		}
	}
	if f.crew != nil {
		info.Workers = f.workers(tps)
	}
	return info
}

// shareCount is how many partitions each worker has, as long as nobody comes or goes, and
// no partition: to ask whose each is costs more than all else that a report says.
type shareCount struct {
	version int64 // of the workers
	listed  int64
	shares  []WorkerShare
}

// workers counts the partitions by worker. The caller holds mu.
func (f *flow) workers(tps []spillway.TopicPartition) []WorkerShare {
	version := f.crew.table().Version()
	if c := f.mu.shareCount; c.shares == nil || c.version != version || c.listed != f.mu.listed {
		shares, _ := f.crew.shares(tps)
		f.mu.shareCount = shareCount{version, f.mu.listed, shares}
	}
	return slices.Clone(f.mu.shareCount.shares)
}
