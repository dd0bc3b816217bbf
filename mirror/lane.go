package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"spillway"
	"spillway/broker/conn"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/selection"
	"spillway/mirror/sitelog"
)

// waitPause is how long a partition rests whose source's map has not yet said
// what the next records are.
const waitPause = 20 * time.Millisecond

// lane moves partitions of one flow that one broker of the source leads: one fetch for
// all of them, one request per target broker.
type lane struct {
	// Set once, read by anyone.
	flow *flow
	m    *Mirror
	node int32 // of the source
	// asking ends with the flow: what is sent to the target is waited for then, but
	// nothing is asked of a source, which may be behind a network that drops everything.
	asking context.Context

	// Owned by run.
	parts   map[spillway.TopicPartition]*partition
	resting map[spillway.TopicPartition]time.Time // until then not asked for
	parked  map[spillway.TopicPartition]*planned  // their broker at the target wants a pause
	holding holding
	answer  *heldAnswer // that was not planned yet
	heardAt time.Time   // when it came, or the one before it
	came    int64       // bytes of records in the last answer
	// sourceMuted is until when the source wants a pause.
	sourceMuted time.Time
	conn        *conn.Conn
	session     *sitelog.Session // over conn, or the next one
	asked       *asked
	asks        int64     // for records
	caughtUp    time.Time // until then partitions of which the last answer says nothing had all
	news        time.Time // until then those of which it says something had all
	leasesAt    time.Time // when the leases were looked at last
	target      *target
	verified    time.Time // when verified ends were saved last
	looked      int64     // of the workers that share the flow, when the lane looked last
	quiet       quiet
	bounded     *bound // as the lane knows it
	hurries     bool   // it is new to it
	mapRead     int64  // position of the source's map up to which holes were looked for

	mu struct {
		sync.Mutex
		incoming []*partition
		closed   bool
	}
	wake chan struct{}
}

// asked is a fetch on its way.
type asked struct {
	at      time.Time
	granted int64 // of memory, for the answer
	cancel  context.CancelFunc
	answer  chan fetchAnswer
}

type fetchAnswer struct {
	parts   []sitelog.Fetched
	pause   time.Duration // that the source wants, from when the answer came
	granted int64
	err     error
	at      time.Time // when it came
}

// planned is a plan and the partition that it is for.
type planned struct {
	*partition
	plan  plan
	next  int // first batch that is not at the target
	data  bool
	saved bool // its ranges are in the map
	held  *heldAnswer
	// since is when the next batch was sent first, also where the plan was put aside
	// meanwhile; the zero time: it was not.
	since time.Time
	// unsure tells that the next batch was sent, and may be at the target or come there yet.
	unsure bool
}

func newLane(asking context.Context, f *flow, node int32) *lane {
	paused := func(node int32, pause time.Duration) {
		f.m.events.throttled(ThrottleInfo{Site: f.m.site, Node: node, Target: true, Pause: pause})
	}
	return &lane{
		flow: f, m: f.m, node: node, asking: asking, wake: make(chan struct{}, 1),
		parts: make(map[spillway.TopicPartition]*partition), resting: make(map[spillway.TopicPartition]time.Time),
		holding: f.m.budget.begin(), parked: make(map[spillway.TopicPartition]*planned), target: newTarget(f.m.local, f.m.config.ProduceTimeout, paused),
		session: sitelog.NewSession(nil),
	}
}

// give hands partitions, opened and with their source positions known, to the lane.
func (l *lane) give(parts ...*partition) {
	l.mu.Lock()
	closed := l.mu.closed
	if !closed {
		l.mu.incoming = append(l.mu.incoming, parts...)
	}
	l.mu.Unlock()
	if closed {
		for _, p := range parts {
			l.flow.takeBack(p, returned{stopped: true})
		}
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) run(ctx context.Context) {
	defer l.close(ctx)
	for ctx.Err() == nil && !l.flow.stopped() {
		l.takeIn()
		l.applyBound()
		if err := l.arrive(ctx); err != nil && ctx.Err() == nil && !l.flow.stopped() {
			l.giveUp(err)
		}
		if len(l.parts) == 0 {
			l.hangUp() // a fetch that was asked ahead would keep its memory
			select {
			case <-l.wake:
			case <-l.flow.stopping:
			case <-ctx.Done():
			}
			continue
		}
		if err := l.pump(ctx); err != nil && !errors.Is(err, errWoken) && ctx.Err() == nil && !l.flow.stopped() {
			l.giveUp(err)
		}
		l.calmDown(ctx)
	}
}

// takeIn takes what was given to the lane.
func (l *lane) takeIn() {
	l.mu.Lock()
	incoming := l.mu.incoming
	l.mu.incoming = nil
	l.mu.Unlock()
	for _, p := range incoming {
		l.parts[p.TopicPartition] = p
		p.newsAt, p.told, p.asks = time.Now(), false, -1
		l.looked, l.mapRead = -1, -1
	}
	if len(incoming) > 0 && l.quiet.busy != nil {
		l.hangUp() // its fetch would keep them waiting for long
	}
}

// giveUp hands everything back: the source is in trouble, or leads others now. The
// flow looks for the leaders again; the target is where the plan says.
func (l *lane) giveUp(err error) {
	l.hangUp()
	for _, p := range l.parts {
		l.handBack(p, returned{problem: err.Error()})
	}
}

// applyBound takes over the bound of a move. Clients are held: what the source's map knows
// is looked for at once, though the source is still asked.
func (l *lane) applyBound() {
	b := l.flow.ending.bound.Load()
	if b != l.bounded {
		l.bounded, l.mapRead, l.hurries = b, -1, true
	}
	for _, p := range l.parts {
		p.bound = b.of(p.TopicPartition)
	}
}

// arrive hands the partitions back that are at their bound, or another worker's by now,
// once the map says how far they are verified: the next epoch starts there, or the other
// worker. One whose plan was put aside behind a batch without an answer stays until it has
// one: a muted broker reads that batch when its pause is over.
func (l *lane) arrive(ctx context.Context) error {
	looked := l.flow.crew.lookedAt()
	asked := looked != l.looked
	l.looked = looked
	var there []*partition
	var entries []maptopic.Entry
	for _, p := range l.parts {
		if p.reopen.Load() {
			if put := l.parked[p.TopicPartition]; put != nil && put.unsure {
				continue // a copy of it may come to the new log yet
			}
			l.handBack(p, returned{open: true, problem: fmt.Sprintf("the log of topic %s at site %s is not as it was written", p.Topic, l.m.site)})
			continue
		}
		if p.virtual < p.bound {
			if !asked || !askedBack(p.lease) {
				continue
			}
			if put := l.parked[p.TopicPartition]; put != nil && put.unsure {
				l.looked = -1 // looked at again: a copy of it would come behind the log's end that the other worker reads
				continue
			}
		}
		there = append(there, p)
		entries = append(entries, p.verifiedEntries(l.flow.source.site)...)
	}
	if err := l.tellVerified(ctx, entries); err != nil {
		return err
	}
	for _, p := range there {
		reached := p.virtual >= p.bound
		letGo(p.lease) // nothing of it is on its way
		l.handBack(p, returned{reached: reached, claim: !reached})
	}
	return nil
}

// close ends the lane. What it knows to be verified it leaves in the map: holes
// at the end of the source's log can be known only from there.
func (l *lane) close(ctx context.Context) {
	l.hangUp()
	defer l.holding.end()
	l.target.close()
	l.mu.Lock()
	for _, p := range l.mu.incoming {
		l.parts[p.TopicPartition] = p
	}
	l.mu.incoming, l.mu.closed = nil, true
	l.mu.Unlock()
	bounded, cancel := context.WithTimeout(ctx, lastWordMax)
	_ = l.saveVerified(bounded, nil) // the next opening reads the log back anyway
	cancel()
	for _, p := range l.parts {
		l.flow.takeBack(p, returned{stopped: true})
	}
}

// hangUp ends the connection to the source. The session goes on over the next one, or each
// would leave one at the broker, which has room for a thousand of all its clients.
func (l *lane) hangUp() {
	if l.asked != nil {
		l.asked.cancel()
		l.holding.change(-l.asked.granted)
	}
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
	if l.asked == nil {
		return
	}
	a := <-l.asked.answer // then nobody has the session
	l.asked = nil
	l.sourceThrottles(a.pause, a.at)
	l.toldNothing()
}

// toldNothing ends what was asked for last without an answer.
func (l *lane) toldNothing() {
	for _, p := range l.parts {
		l.hadAll(p)
	}
	l.asks++
}

// hadAll notes until when a partition had all of which the answers so far say nothing.
func (l *lane) hadAll(p *partition) {
	if p.followed && p.asks == l.asks {
		p.answered = l.caughtUp
	}
}

// handBack gives a partition back to the flow.
func (l *lane) handBack(p *partition, why returned) {
	l.leave(p)
	l.flow.takeBack(p, why)
}

// pump moves one fetched chunk. The order is the promise: ranges are saved
// before the records they describe, and a mark is published only after the
// target's answer was compared with the plan. A crash between two lines leaves
// map and log in agreement; the next start verifies and goes on.
func (l *lane) pump(ctx context.Context) error {
	chunk, err := l.fetch(ctx)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	l.m.config.Crash("afterFetch")
	l.pay(chunk, time.Now())
	l.overHoles(chunk)
	plans := l.plan(ctx, chunk)
	l.hold(plans, l.answer)
	plans, l.answer = append(l.unpark(), plans...), nil
	defer l.letGo(plans)
	l.ask(plans) // the next fetch travels while this chunk is written
	if err := l.save(ctx, plans); err != nil {
		return fmt.Errorf("save ranges: %w", err)
	}
	l.produce(ctx, plans)
	l.publish(plans)
	if err := l.saveVerified(ctx, plans); err != nil {
		return err
	}
	l.stopCorrupt(ctx, plans)
	l.checkLeases(time.Now())
	l.speakUp(plans)
	return nil
}

// errWoken ends the wait for an answer, which is waited for again.
var errWoken = errors.New("the lane was woken")

// fetch waits for the answer of the fetch that is on its way. There may be none yet: the
// lane looks after the rest then.
func (l *lane) fetch(ctx context.Context) ([]sitelog.Fetched, error) {
	if l.asked == nil {
		l.ask(nil)
	}
	if l.asked == nil { // every partition rests
		return nil, l.rest(ctx)
	}
	if l.hurries {
		l.hurries = false
		return nil, nil
	}
	var look <-chan time.Time
	if l.quiet.busy != nil { // the source may take long
		look = time.After(l.m.config.FetchWait)
	}
	select {
	case <-look:
		return nil, nil
	case a := <-l.asked.answer:
		l.dates(a)
		l.asked, l.heardAt = nil, a.at
		l.sourceThrottles(a.pause, a.at)
		l.answer = l.counted(a)
		if a.err != nil {
			l.answer.done()
			l.answer = nil
		}
		return a.parts, a.err
	case <-l.wake:
		return nil, errWoken
	case <-l.flow.stopping:
		return nil, errStopped
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dates notes of when an answer tells. A broker that has records does not wait, so where it
// has waited there was nothing until shortly before it came. Of what comes at once nobody
// knows since when it was there, but for the answer before, which may be old: it is asked
// for again only when the target has what was in that.
func (l *lane) dates(a fetchAnswer) {
	l.news = l.caughtUp
	switch waited := a.at.Add(-time.Second); {
	case a.pause > 0:
		l.toldNothing()
	case a.err != nil:
	case waited.After(l.asked.at):
		l.news, l.caughtUp = waited, waited
	default:
		l.caughtUp = l.asked.at
	}
}

func (l *lane) rest(ctx context.Context) error {
	select {
	case <-time.After(waitPause):
	case <-l.wake:
	case <-l.flow.stopping:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// ask sends the next fetch, if none is on its way. Where a plan stands its end is asked for; should
// the plan not come to its end, the answer is dropped.
func (l *lane) ask(plans []*planned) {
	if l.asked != nil {
		return
	}
	ahead := make(map[*partition]*planned, len(plans))
	for _, p := range plans {
		ahead[p.partition] = p
	}
	now := time.Now()
	if now.Before(l.sourceMuted) {
		return
	}
	under, wait := l.underCaps(), l.fetchWait()
	var parts []sitelog.FetchPart
	busy := false // some records are known to be there
	anew := false // an answer is needed about a partition of which the broker would say nothing
	for tp, p := range l.parts {
		if until, ok := l.resting[tp]; ok {
			if now.Before(until) {
				continue
			}
			delete(l.resting, tp)
		}
		a, isAhead := ahead[p]
		if until, yes := l.muted(tp, isAhead, now); yes {
			wait = min(wait, max(until.Sub(now), time.Millisecond))
			continue
		}
		bytes, next := l.paced(p, l.m.config.PartitionBytesMax, under, now)
		if bytes == 0 {
			wait = min(wait, max(next.Sub(now), time.Millisecond)) // then it is asked for too
			continue
		}
		at, epoch := p.source, p.sourceEpoch
		if isAhead {
			if a.plan.end.virtual >= p.bound || l.goesBack(a) {
				continue
			}
			at = a.plan.end.source
			if a.plan.sourceEpoch >= 0 {
				epoch = a.plan.sourceEpoch
			}
		}
		p.followed, p.asks = p.asks == l.asks, l.asks+1
		busy = busy || p.lastStable != at
		anew = anew || !p.told && l.session.Remembers(tp)
		parts = append(parts, sitelog.FetchPart{TopicPartition: tp, Offset: at, BytesMax: bytes, LastEpoch: epoch, CheckEpoch: epoch >= 0})
	}
	if len(parts) == 0 {
		return
	}
	granted := l.holding.ask(l.wants(busy) * l.costs())
	if granted == 0 {
		return // asked again in a moment
	}
	bytesMax := int(max(1, granted/l.costs()))
	for i, share := 0, l.partitionBytes(bytesMax); i < len(parts); i++ {
		parts[i].BytesMax = min(parts[i].BytesMax, share)
	}
	fetchContext, cancel := context.WithCancel(l.asking)
	l.asks++
	a := &asked{at: now, granted: granted, cancel: cancel, answer: make(chan fetchAnswer, 1)}
	l.asked = a
	options := sitelog.FetchOptions{MaxWait: wait, BytesMax: bytesMax, OnWire: selection.OnWire(l.flow.source.cluster)}
	if l.conn == nil {
		c, err := l.flow.source.cluster.Dial(l.asking, l.node)
		if err != nil {
			cancel()
			a.answer <- fetchAnswer{granted: granted, err: err, at: time.Now()}
			return
		}
		l.conn = c
		l.session.Move(c)
	}
	if anew {
		l.session.Forget()
	}
	if !l.whole() {
		options.BytesMax = math.MaxInt32
	}
	c, session := l.conn, l.session
	c.Expect(bytesMax + expectMore)
	l.flow.goroutines.Go(func() {
		defer cancel()
		fetched, err := session.Fetch(fetchContext, parts, options)
		a.answer <- fetchAnswer{parts: fetched, pause: time.Until(c.MutedUntil()), granted: granted, err: err, at: time.Now()}
	})
}

// expectMore is what an answer takes beside its records, and what a single batch may
// exceed what was asked for.
const expectMore = 1 << 20

// partitionBytes is what a partition may bring in an answer of so many bytes. Where that is
// bounded as a whole, it is the same whatever is granted: the broker would have to be told
// each time (Session), as it is where partitions come and go.
func (l *lane) partitionBytes(answer int) int {
	if l.whole() {
		answer = l.m.config.answerBytesMax()
	}
	return l.m.config.partitionBytes(len(l.parts), answer, l.whole())
}

// whole tells whether the size of an answer is bounded as a whole. kfake forgets the list
// of aborted transactions where that cuts an answer off.
func (l *lane) whole() bool { return l.flow.source.cluster.Capabilities().Replicas }

// lastWordMax bounds what a lane that ends writes into the map.
const lastWordMax = 30 * time.Second

// save writes the ranges of all plans, and the trail of their batches.
func (l *lane) save(ctx context.Context, plans []*planned) error {
	var entries []maptopic.Entry
	for _, p := range plans {
		if len(p.plan.batches) > 0 && !p.saved && !(p.foretold() && l.m.has(p.session, p.TopicPartition)) {
			c := p.chunk(0, p.local)
			if l.m.config.IdentitySources {
				p.foretell(c)
			}
			entries = append(entries, maptopic.ChunkEntry(p.TopicPartition, c))
		}
	}
	if len(entries) == 0 {
		return nil
	}
	l.m.config.Crash("beforeSaveRanges")
	_, err := l.m.writer.Save(ctx, entries...)
	l.m.config.Crash("afterSaveRanges")
	return err
}

// chunk describes the plan's batches from the given one on, if its first record
// lies at the local offset at.
func (p *planned) chunk(from int, at spillway.LocalOffset) *offsetmap.Chunk {
	b := p.plan.batches[from]
	c := &offsetmap.Chunk{Session: p.session.Session, Worker: p.session.Worker, First: at, Sequence: b.sequence}
	c.Ranges = within(p.plan.ranges, b.virtual, noBound)
	shift := at - c.Ranges[0].Local
	for i := range c.Ranges {
		c.Ranges[i].Local += shift
	}
	for _, t := range p.plan.trail {
		if t.Virtual >= b.virtual {
			c.Trail = append(c.Trail, t)
		}
	}
	return c
}

// publish tells the world how far the partitions are.
func (l *lane) publish(plans []*planned) {
	l.m.config.Crash("beforeMark")
	now := l.m.config.Now()
	for _, p := range plans {
		if l.parts[p.TopicPartition] != p.partition {
			continue // it was handed back
		}
		if !p.lease.Held(now) {
			l.handBack(p.partition, returned{open: true, claim: true})
			continue
		}
		l.flow.publish(p.partition)
	}
	l.m.config.Crash("afterMark")
}

// saveVerified moves the verified ends in the map: when data stopped flowing,
// or from time to time.
func (l *lane) saveVerified(ctx context.Context, plans []*planned) error {
	idle := true
	for _, p := range plans {
		if l.parts[p.TopicPartition] == p.partition { // not handed back
			idle = idle && !p.data
		}
	}
	if now := time.Now(); idle || now.Sub(l.verified) >= l.m.config.VerifyInterval {
		l.verified = now
		entries := make([]maptopic.Entry, 0, len(l.parts))
		for _, p := range l.parts {
			entries = append(entries, p.verifiedEntries(l.flow.source.site)...)
		}
		return l.tellVerified(ctx, entries)
	}
	return nil
}

func (l *lane) tellVerified(ctx context.Context, entries []maptopic.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	position, err := l.m.writer.Save(ctx, entries...)
	if err != nil {
		return fmt.Errorf("save verified ends: %w", err)
	}
	l.flow.mu.Lock()
	l.flow.mu.verifiedAt = max(l.flow.mu.verifiedAt, position)
	l.flow.mu.Unlock()
	l.m.config.Crash("afterVerified")
	return nil
}

// verifiedEntries is what the map has to be told about the verified end, if it
// moved.
func (p *partition) verifiedEntries(source spillway.SiteID) []maptopic.Entry {
	if p.local == p.savedLocal && p.virtual == p.savedVirtual || p.virtual < 0 {
		return nil
	}
	p.savedLocal, p.savedVirtual = p.local, p.virtual
	v := offsetmap.Verified{Session: p.session.Session, Local: p.local, Virtual: p.virtual}
	if p.sourceEpoch >= 0 && p.epochAt == p.source {
		v.Source = offsetmap.SourcePosition{Site: source, Next: p.source, LeaderEpoch: p.sourceEpoch}
	}
	return []maptopic.Entry{maptopic.VerifiedEntry(p.TopicPartition, v)}
}
