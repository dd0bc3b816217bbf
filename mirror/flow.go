package mirror

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
)

// errStopped ends what a lane waits for when its flow stops.
var errStopped = errors.New("the flow was stopped")

// flow feeds the partitions of one share from one source, until it is stopped
// or every partition has reached its bound.
type flow struct {
	// Set once, read by anyone.
	m      *Mirror
	crew   *crew // who shares the flow; nil: nobody
	share  Assignment
	epoch  spillway.Epoch
	source *source

	ending flowEnd
	groups groupAges

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
	told      map[string]bool                                  // what differs and stays
	turn      string                                           // topics from this name on are looked at next
	limitSeen map[string]string                                // max.message.bytes as it was set
	wanted    map[string]map[string]time.Time                  // of a delayed flow: changes by topic, since when
	settling  map[spillway.TopicPartition]spillway.Offset      // ends of logs that began anew and are level with the source, as of the last look
	idle      map[spillway.TopicPartition]spillway.LocalOffset // ends of compacted logs, as of the last look
	absent    map[string]time.Time                             // topics that the source does not have, since when

	mu struct {
		sync.Mutex
		retired    []string         // topics to be let go
		firsts     map[string]Lease // of the first partitions, by topic
		due        []string         // topics to be looked at
		limits     map[string]*atomic.Int64
		back       []back
		state      map[spillway.TopicPartition]partState
		listed     int64 // rises when a partition comes into state or goes
		shareCount shareCount
		// problem is why partitions cannot be looked for.
		problem    string
		found      bool // they were looked for, once
		holders    map[spillway.TopicPartition]holder
		kept       map[string]time.Duration  // for how long deletions are kept, of compacted topics
		longer     []spillway.TopicPartition // their logs do not end where the flow left them
		circular   []string                  // topics that are left out, since they come from here
		verifiedAt int64                     // map position of the last verified end that was saved
		running    []*lane                   // quiet ones too
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

func newFlow(m *Mirror, a Assignment, s *source, bounds map[spillway.TopicPartition]spillway.Offset) *flow {
	f := &flow{
		m: m, crew: m.crewOf(a.Share), share: a, epoch: a.Epoch, source: s,
		stopping: make(chan struct{}), done: make(chan struct{}), ending: newFlowEnd(),
		parts: make(map[spillway.TopicPartition]*partition), lanes: make(map[int32]*lane),
		claimed: make(chan *partition), wake: make(chan struct{}, 1), metadataDue: make(chan struct{}, 1),
		told: make(map[string]bool), limitSeen: make(map[string]string),
		idle: make(map[spillway.TopicPartition]spillway.LocalOffset), absent: make(map[string]time.Time), wanted: make(map[string]map[string]time.Time), retired: make(map[string]bool),
	}
	f.mu.state, f.mu.verifiedAt = make(map[spillway.TopicPartition]partState), -1
	f.mu.kept = make(map[string]time.Duration)
	f.mu.firsts, f.mu.limits = make(map[string]Lease), make(map[string]*atomic.Int64)
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
		f.leaveCaps()
		f.m.events.flowEnded(f.info(time.Now()))
	}()
	tick := time.NewTicker(f.m.config.TopicInterval)
	defer tick.Stop()
	retry := time.NewTicker(min(100*time.Millisecond, f.m.config.TopicInterval))
	defer retry.Stop()
	f.goroutines.Go(func() { f.reportAll(ctx) })
	f.goroutines.Go(func() { f.watchTransactions(ctx) })
	f.goroutines.Go(func() { f.keepMetadata(ctx) })
	if f.crew != nil {
		f.goroutines.Go(func() { f.watchWorkers(ctx) })
		f.goroutines.Go(func() { f.watchSource(ctx) })
	}
	f.discover(ctx)
	discovered := time.Now()
	for ctx.Err() == nil {
		f.hurry(ctx)
		f.takeReturned(ctx)
		f.letGo()
		f.shareOut(ctx)
		f.openAll(ctx)
		here, done := f.crew.whileHere(ctx)
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
		case now := <-tick.C:
			if now.Sub(discovered) >= f.discoverEvery() {
				f.discover(ctx)
				discovered = time.Now()
			}
		case <-ctx.Done():
		}
	}
}

// partitionsLooked is how many partitions a flow looks for in each interval: to list
// topics costs brokers and mirror so much by partition that nobody could do it each second
// for ten thousand.
const partitionsLooked = 500

// discoverEvery is how often the flow looks for partitions.
func (f *flow) discoverEvery() time.Duration {
	if f.ending.bound.Load() != nil {
		return 0 // it looks for no more than the move names
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	intervals := len(f.parts) / partitionsLooked
	if f.mu.problem != "" {
		intervals = min(intervals, 5)
	}
	return f.m.config.TopicInterval * time.Duration(intervals)
}

// waitsForLease is the problem of a partition that another mirror may feed.
const waitsForLease = "waits for the lease; another mirror may have it"

// claim waits for the partition's lease, anew where it had one: nothing of it is on its
// way then.
func (f *flow) claim(ctx context.Context, p *partition) {
	letGo(p.lease)
	p.session.Opened = false
	if f.crew == nil {
		f.setState(p, false, waitsForLease)
	} else {
		f.setWaits(p)
	}
	f.goroutines.Go(func() { f.claimLease(ctx, p) })
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
		f.hasFirst(p.Topic, p.lease)
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

// drainClaims takes the leases that have come in the meantime, and those that come in
// quick succession, so that many partitions are opened together.
func (f *flow) drainClaims() {
	wait, most := time.NewTimer(claimPause), time.NewTimer(claimsMax)
	defer wait.Stop()
	defer most.Stop()
	for len(f.toOpen) < openedAtOnce {
		select {
		case p := <-f.claimed:
			f.leased(p)
			wait.Reset(claimPause)
		case <-wait.C:
			return
		case <-most.C:
			return
		}
	}
}

const (
	claimPause = 5 * time.Millisecond
	// claimsMax bounds the wait for all of them: the flow does nothing else meanwhile.
	claimsMax = 100 * time.Millisecond
	// openedAtOnce bounds the partitions of one opening, so that the first ones need not
	// wait for the last.
	openedAtOnce = 2000
)

// readyMax is how long a flow waits for the source's map before it says so. The
// map is read on meanwhile.
const readyMax = 2 * time.Second

// discover finds the share's partitions at the source, and creates here what is
// missing.
func (f *flow) discover(flow context.Context) {
	if err := f.closeLate(flow); err != nil {
		f.fail(err)
		return
	}
	ctx, done := f.crew.whileHere(flow)
	defer done()
	if ctx.Err() != nil {
		return
	}
	f.lookHere(ctx)
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
	limits, err := f.m.ensureTopics(ctx, f.share, f.source, missing)
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
	limit.Store(int64(cmp.Or(found[topic], batchBytesDefault)))
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
	lanes := slices.Clone(f.mu.running)
	f.mu.Unlock()
	for _, l := range lanes {
		select {
		case l.wake <- struct{}{}:
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
