package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/mirror/offsetmap"
)

// errStopped ends what a lane waits for when its flow stops.
var errStopped = errors.New("the flow was stopped")

// flow feeds the partitions of one share from one source, until it is stopped
// or every partition has reached its bound.
type flow struct {
	// Set once, read by anyone.
	m      *Mirror
	share  Assignment
	epoch  spillway.Epoch
	source *source

	ending flowEnd

	stopping   chan struct{} // closed by stop
	stopOnce   sync.Once
	done       chan struct{} // run has ended, and all it started
	goroutines sync.WaitGroup

	// Owned by run.
	parts   map[spillway.TopicPartition]*partition // all of the flow
	lanes   map[int32]*lane
	claimed chan *partition
	toOpen  []*partition    // with a lease
	toRoute []*partition    // opened
	later   []*partition    // wait for their retryAt; those with a lease go to toOpen
	retired map[string]bool // topics that are let go
	shared  shared
	claims  []*partition // another worker's again already

	// metadata is held by who looks at topics, which owns what follows.
	metadata  sync.Mutex
	told      map[string]bool                 // what differs and stays
	limitSeen map[string]string               // max.message.bytes as it was set
	wanted    map[string]map[string]time.Time // of a delayed flow: changes by topic, since when
	absent    map[string]time.Time            // topics that the source does not have, since when

	mu struct {
		sync.Mutex
		retired []string         // topics to be let go
		led     map[string]Lease // of the first partitions, by topic
		due     []string         // topics to be looked at
		limits  map[string]*atomic.Int64
		back    []back
		state   map[spillway.TopicPartition]partState
		// problem is why partitions cannot be looked for.
		problem    string
		found      bool // they were looked for, once
		hanging    map[spillway.TopicPartition]string
		circular   []string        // topics that are left out, since they come from here
		verifiedAt int64           // map position of the last verified end that was saved
		wakes      []chan struct{} // of the lanes
	}
	wake        chan struct{}
	metadataDue chan struct{}
}

// returned says why a lane gave a partition back.
type returned struct {
	problem string
	pause   time.Duration
	open    bool // a new append session is needed
	claim   bool // and a new claim of the lease before that
	reached bool
	stopped bool
}

type back struct {
	*partition
	why returned
}

// partState is what others may know about a partition.
type partState struct {
	virtual spillway.Offset
	lag     int64
	// undecided are those of lag that open transactions hold back at the source,
	// at lastStable since heldBack.
	undecided  int64
	lastStable spillway.LocalOffset
	heldBack   time.Time
	running    bool
	problem    string
	waits      bool      // until it is this worker's, of several
	caughtUp   time.Time // when it last had all that was known of the source
	whole      bool      // it had all, once since the flow began
}

func newFlow(m *Mirror, a Assignment, s *source, bounds map[spillway.TopicPartition]spillway.Offset) *flow {
	f := &flow{
		m: m, share: a, epoch: a.Epoch, source: s,
		stopping: make(chan struct{}), done: make(chan struct{}), ending: newFlowEnd(),
		parts: make(map[spillway.TopicPartition]*partition), lanes: make(map[int32]*lane),
		claimed: make(chan *partition), wake: make(chan struct{}, 1), metadataDue: make(chan struct{}, 1),
		told: make(map[string]bool), limitSeen: make(map[string]string),
		absent: make(map[string]time.Time), wanted: make(map[string]map[string]time.Time), retired: make(map[string]bool),
	}
	f.mu.state, f.mu.verifiedAt = make(map[spillway.TopicPartition]partState), -1
	f.mu.led, f.mu.limits = make(map[string]Lease), make(map[string]*atomic.Int64)
	if bounds != nil {
		f.ending.bound.Store(&bound{a.Epoch, bounds})
	}
	return f
}

// stop ends the flow in good order: what was sent is waited for. It returns
// when nothing of the flow runs any more.
func (f *flow) stop() {
	f.stopOnce.Do(func() { close(f.stopping) })
	<-f.done
}

func (f *flow) stopped() bool {
	select {
	case <-f.stopping:
		return true
	default:
		return false
	}
}

// run looks after the partitions: finds them, waits for their leases, opens
// them, and hands each to the lane of the broker that leads it at the source.
func (f *flow) run(parent context.Context) {
	defer close(f.done)
	// Waiting for leases and opening end with the flow; lanes see stopping
	// for themselves, so that nothing they sent is forgotten.
	ctx, cancel := context.WithCancel(parent)
	stopWatch := make(chan struct{})
	go func() {
		defer close(stopWatch)
		select {
		case <-f.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel()
		<-stopWatch
		f.stopOnce.Do(func() { close(f.stopping) })
		f.goroutines.Wait()
		if parent.Err() == nil { // otherwise nobody knows what is on its way
			f.releaseAll()
		}
		f.m.events.flowEnded(f.info(time.Now()))
	}()
	tick := time.NewTicker(f.m.config.TopicInterval)
	defer tick.Stop()
	retry := time.NewTicker(min(100*time.Millisecond, f.m.config.TopicInterval))
	defer retry.Stop()
	f.goroutines.Go(func() { f.reportAll(ctx) })
	f.goroutines.Go(func() { f.watchTransactions(ctx) })
	f.goroutines.Go(func() { f.keepMetadata(ctx) })
	if f.m.crew != nil {
		f.goroutines.Go(func() { f.watchWorkers(ctx) })
		f.goroutines.Go(func() { f.watchSource(ctx) })
	}
	f.discover(ctx)
	for ctx.Err() == nil {
		f.hurry(ctx)
		f.takeReturned(ctx)
		f.letGo()
		f.shareOut(ctx)
		f.openAll(ctx)
		here, done := f.m.crew.whileHere(ctx)
		f.route(here, ctx, parent)
		done()
		f.ending.look()
		select {
		case p := <-f.claimed:
			f.leased(p)
			f.drainClaims()
		case <-f.wake:
		case <-retry.C:
			f.wakeLater(ctx)
		case <-tick.C:
			f.discover(ctx)
		case <-ctx.Done():
		}
	}
}

// waitsForLease is the problem of a partition that another mirror may feed.
const waitsForLease = "waits for the lease; another mirror may have it"

// claim waits for the partition's lease, anew where it had one: nothing of it is on its
// way then.
func (f *flow) claim(ctx context.Context, p *partition) {
	letGo(p.lease)
	p.session.Opened = false
	if f.m.crew == nil {
		f.setState(p, false, waitsForLease)
	} else {
		f.setWaits(p)
	}
	f.goroutines.Go(func() { f.m.claimLease(ctx, p, f.claimed) })
}

func (f *flow) leased(p *partition) {
	if f.retired[p.Topic] {
		f.forget(p)
		return
	}
	if askedBack(p.lease) {
		f.claims = append(f.claims, p)
		return
	}
	f.setState(p, false, "reads the end of the target's log back")
	if p.Partition == 0 {
		f.leads(p.Topic, p.lease)
	}
	f.toOpen = append(f.toOpen, p)
}

// withLease leaves out, and claims anew, the partitions whose lease is over.
func (f *flow) withLease(ctx context.Context, parts []*partition) []*partition {
	now := f.m.config.Now()
	return slices.DeleteFunc(parts, func(p *partition) bool {
		if p.lease.Held(now) {
			return false
		}
		f.claim(ctx, p)
		return true
	})
}

// drainClaims takes the leases that have come in the meantime, so that many
// partitions are opened together.
func (f *flow) drainClaims() {
	wait := time.NewTimer(5 * time.Millisecond)
	defer wait.Stop()
	for {
		select {
		case p := <-f.claimed:
			f.leased(p)
		case <-wait.C:
			return
		}
	}
}

// readyMax is how long a flow waits for the source's map before it says so. The
// map is read on meanwhile.
const readyMax = 2 * time.Second

// discover finds the share's partitions at the source, and creates here what is
// missing.
func (f *flow) discover(flow context.Context) {
	ctx, done := f.m.crew.whileHere(flow)
	defer done()
	if ctx.Err() != nil {
		return
	}
	f.m.learnExpiry(ctx)
	bounded, cancel := context.WithTimeout(ctx, readyMax)
	err := f.source.ready(bounded, f.m.config.IdentitySources)
	cancel()
	if err != nil {
		f.fail(err)
		return
	}
	var tps []spillway.TopicPartition
	if b := f.ending.bound.Load(); b != nil {
		tps = slices.SortedFunc(maps.Keys(b.ends), spillway.TopicPartition.Compare)
	} else if tps, err = f.share.partitionsAt(ctx, f.source.cluster); err != nil {
		f.fail(err)
		return
	} else {
		f.found(tps)
	}
	if f.m.config.IdentitySources {
		bounded, cancel := context.WithTimeout(ctx, readyMax)
		err := f.source.ready(bounded, true) // who feeds the topics that were created meanwhile
		cancel()
		if err != nil {
			f.fail(err)
			return
		}
	}
	tps, circular, problem := f.m.allowed(f.source, tps)
	tps, err = f.m.claimTopics(ctx, f.source, tps)
	if problem = errors.Join(problem, err); problem != nil {
		f.fail(problem) // the others go on
	}
	f.mu.Lock()
	f.mu.found, f.mu.circular = true, circular
	if problem == nil {
		f.mu.problem = ""
	}
	f.mu.Unlock()
	var missing []spillway.TopicPartition
	for _, tp := range tps {
		if f.parts[tp] == nil {
			missing = append(missing, tp)
		}
	}
	if len(missing) == 0 {
		return
	}
	limits, err := f.m.ensureTopics(ctx, f.source, missing)
	if err != nil {
		f.fail(err)
		return
	}
	for _, tp := range missing {
		p := &partition{TopicPartition: tp, pacers: f.m.pacers(f.source.site, tp.Topic), terms: f.share.Terms, cutVirtual: noBound, topicLimit: f.topicLimit(tp.Topic, limits), highWatermark: -1, position: position{virtual: -1, bound: noBound}}
		p.rules, p.repackBytes = f.m.config.Rewrite.For(f.source.onWire(tp)), f.m.config.RepackBytes
		f.parts[tp] = p
		f.claim(flow, p)
	}
}

// topicLimit is the largest batch of a topic, for its partitions together.
func (f *flow) topicLimit(topic string, found map[string]int) *atomic.Int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit := f.mu.limits[topic]
	if limit == nil {
		limit = new(atomic.Int64)
		f.mu.limits[topic] = limit
	}
	limit.Store(int64(found[topic]))
	return limit
}

// takeBack is called by lanes.
func (f *flow) takeBack(p *partition, why returned) {
	f.mu.Lock()
	f.mu.back = append(f.mu.back, back{p, why})
	f.mu.Unlock()
	f.wakeUp()
}

// wakeUp has the flow look after its partitions.
func (f *flow) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// wakeLanes has them look for what they are to hand back.
func (f *flow) wakeLanes() {
	f.mu.Lock()
	wakes := slices.Clone(f.mu.wakes)
	f.mu.Unlock()
	for _, wake := range wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

func (f *flow) takeReturned(ctx context.Context) {
	f.mu.Lock()
	all := f.mu.back
	f.mu.back = nil
	f.mu.Unlock()
	for _, b := range all {
		p := b.partition
		switch {
		case b.why.stopped:
		case f.retired[p.Topic]:
			f.forget(p)
		case b.why.reached:
			f.ending.arrived[p.TopicPartition] = true
			letGo(p.lease)
			f.setState(p, false, "")
		case b.why.claim, askedBack(p.lease):
			f.claim(ctx, p)
		case b.why.open && b.why.problem == "" && b.why.pause == 0 && p.failed == 0:
			p.failed++ // a second resync without a success waits
			f.toOpen = append(f.toOpen, p)
		case b.why.open:
			f.postpone(p, b.why.problem, b.why.pause)
		default:
			p.source = -1
			if b.why.problem == "" {
				f.toRoute = append(f.toRoute, p)
				continue
			}
			f.postpone(p, b.why.problem, b.why.pause)
			p.session.Opened = b.why.pause == 0 // keep the session for a short fault
		}
	}
}

// postpone lets a partition with a problem wait: for the pause, or longer with
// each failure in a row.
func (f *flow) postpone(p *partition, problem string, pause time.Duration) {
	p.failed++
	if pause == 0 {
		pause = min(50*time.Millisecond<<min(p.failed, 6), 2*time.Second)
	}
	p.retryAt = time.Now().Add(pause)
	p.session.Opened = false
	f.later = append(f.later, p)
	f.setState(p, false, problem)
}

func (f *flow) wakeLater(ctx context.Context) {
	now := time.Now()
	f.later = slices.DeleteFunc(f.later, func(p *partition) bool {
		switch {
		case now.Before(p.retryAt):
			return false
		case !p.lease.Held(f.m.config.Now()):
			f.claim(ctx, p)
		case p.session.Opened:
			f.toRoute = append(f.toRoute, p)
		default:
			f.toOpen = append(f.toOpen, p)
		}
		return true
	})
}

func (f *flow) openAll(ctx context.Context) {
	if len(f.toOpen) == 0 {
		return
	}
	parts := f.withLease(ctx, f.toOpen)
	f.toOpen = nil
	byTopicPartition(parts)
	parts = slices.DeleteFunc(parts, func(p *partition) bool {
		if _, open := f.m.reader.View(p.TopicPartition).Open(); open {
			f.postpone(p, "this site still serves an epoch of the partition; it has to be closed first", time.Second)
			return true
		}
		return false
	})
	parts = f.withoutTransactions(ctx, parts)
	opened, lost, err := f.m.open(ctx, f.share.Share, f.openIn(), parts)
	if err != nil {
		for _, p := range parts {
			f.postpone(p, err.Error(), 0)
		}
		return
	}
	for _, p := range lost {
		f.postpone(p, "another mirror opened an append session at the same time", 0)
	}
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
	parts := f.toRoute
	f.toRoute = nil
	_ = f.source.cluster.Refresh(ctx) // an unreachable source is met again below
	tps := make([]spillway.TopicPartition, len(parts))
	for i, p := range parts {
		tps[i] = p.TopicPartition
	}
	acknowledged, targetErr := f.m.local.Admin().HighWatermarks(ctx, tps)
	placed, fresh := f.place(ctx, tps, parts)
	parted, problems := f.m.comparePast(ctx, f.source, placed)
	f.toOpen = append(f.toOpen, parted...)
	for _, p := range placed {
		if slices.Contains(parted, p) {
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
			f.mu.wakes = append(f.mu.wakes, l.wake)
			f.mu.Unlock()
			f.goroutines.Go(func() { l.run(lanes) })
		}
		p.failed = 0
		f.setState(p, true, "")
		// Said at once, not with the next record: if records were lost, the
		// mark of the session before is not true any more.
		if !fresh[p] && targetErr == nil && acknowledged[p.TopicPartition] >= p.local && p.lease.Held(f.m.config.Now()) {
			f.publish(p)
		}
		l.give(p)
	}
}

// place sets where opened partitions go on at the source. What is at its bound
// already, or unknown to the source, is not among those that it returns.
func (f *flow) place(ctx context.Context, tps []spillway.TopicPartition, parts []*partition) (placed []*partition, fresh map[*partition]bool) {
	fresh = make(map[*partition]bool)
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
	return placed, fresh
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

// publish is called by lanes after a plan was compared.
func (f *flow) publish(p *partition) {
	f.setState(p, true, p.notice)
	f.m.publish(Mark{Site: f.m.site, Topic: p.Topic, Partition: p.Partition, Epoch: f.epoch, Session: p.session.Session, End: p.virtual})
}

func (f *flow) setState(p *partition, running bool, problem string) {
	s := partState{virtual: p.virtual, lag: p.lag(), undecided: p.undecided(), lastStable: p.lastStable, heldBack: p.heldBack, running: running, problem: problem, caughtUp: time.Now()}
	f.mu.Lock()
	before, known := f.mu.state[p.TopicPartition]
	if known && (s.lag > 0 || problem != "") {
		s.caughtUp = before.caughtUp
	}
	s.whole = before.whole || running && problem == "" && s.lag == 0 && p.highWatermark >= 0
	f.mu.state[p.TopicPartition] = s
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
		Partitions: len(f.mu.state), CatchingUp: !f.mu.found, Problem: f.mu.problem, Problems: make(map[spillway.TopicPartition]string), Hanging: maps.Clone(f.mu.hanging)}
	tps := make([]spillway.TopicPartition, 0, len(f.mu.state))
	for tp, s := range f.mu.state {
		tps = append(tps, tp)
		if s.waits && f.m.crew.elsewhere(tp) {
			info.Partitions--
			info.Elsewhere++
			continue
		}
		if s.waits {
			s.problem = waitsForLease
		}
		info.LagRecords += s.lag
		info.UndecidedRecords += s.undecided
		if s.running {
			info.Running++
		}
		info.CatchingUp = info.CatchingUp || !s.whole
		if s.problem != "" {
			info.Problems[tp] = s.problem
		}
		if s.problem != "" || s.lag > 0 {
			info.LagTime = max(info.LagTime, now.Sub(s.caughtUp))
		}
	}
	if f.m.crew != nil {
		info.Workers = f.m.crew.shares(tps)
	}
	return info
}
