package mirror

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/mirror/maptopic"
	"spillway/mirror/workers"
)

// Times of workers that know each other from the target's map topic. A worker counts
// from when it sent what it said last, the others from when they saw it, plus a margin.
const (
	leaseTTL    = 4 * time.Second
	leaseRenew  = time.Second
	leaseMargin = time.Second
)

// crew is this process as one of the workers that share a flow without a control plane,
// or what flows in for a share under one (package workers, docs/decisions/0020 and 0022).
// What they say of themselves is in the map topic of the site that they feed; its order
// decides.
type crew struct {
	// Set once, read by anyone.
	m      *Mirror
	flow   string // in the map topic
	covers workers.Means
	ranked func()        // called when another worker may have all that this one had, or not any more; nil: never
	here   chan struct{} // closed when the first key is asked for
	kick   chan struct{} // a key was let go
	looked atomic.Int64  // rises with what may decide over a key

	once sync.Once // closes here

	sourceLook, sourcePatience time.Duration

	mu struct {
		sync.Mutex
		worker  *workers.Worker
		owners  map[string]string // by key, at the version ownersAt
		at      int64
		holders map[string]int // of a key that this worker holds
		rank    ranks
		keys    map[spillway.TopicPartition]string
		changed chan struct{} // closed when a key may have become free, or another's
		away    bool          // it can do nothing: others are to have all that it has
		here    context.Context
		leave   context.CancelFunc // ends here
	}
}

// A worker looks whether the source answers, and steps back when it has not for long,
// if there are others.
const (
	sourceLook     = 3 * time.Second
	sourcePatience = 15 * time.Second
)

// workerName is unique per start of a process, and tells people where to look.
func workerName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "run"
	}
	host = strings.ReplaceAll(host, "/", "-")
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:6])
}

// newCrew makes one more worker of a flow. The others hear of it when the first
// partition is asked for: before that it could not do anything with it.
func newCrew(m *Mirror, flow, means string, covers workers.Means) *crew {
	c := &crew{m: m, flow: flow, covers: covers, here: make(chan struct{}), kick: make(chan struct{}, 1), sourceLook: sourceLook, sourcePatience: sourcePatience}
	c.mu.worker = c.newWorker(means)
	c.mu.holders = make(map[string]int)
	c.mu.keys = make(map[spillway.TopicPartition]string)
	c.mu.changed, c.mu.at = make(chan struct{}), -1
	c.mu.here, c.mu.leave = context.WithCancel(m.ctx)
	return c
}

func (c *crew) newWorker(means string) *workers.Worker {
	return workers.New(c.m.config.Worker, means, maptopic.ThisProcess().String(), workers.Limits{TTL: leaseTTL, Renew: leaseRenew, Margin: leaseMargin}, c.covers)
}

// begin looks at the others from now on, so that one that has died is known as soon as
// may be.
func (c *crew) begin() {
	c.m.goroutines.Go(func() { c.keep(c.m.ctx) })
	c.m.goroutines.Go(func() { c.watch(c.m.ctx) })
}

func (c *crew) table() *workers.Table { return c.m.reader.Workers(c.flow) }

// lookedAt rises with what may decide over a key.
func (c *crew) lookedAt() int64 {
	if c == nil {
		return 0
	}
	return c.looked.Load()
}

// changed is closed when a key may have become free, or another worker's.
func (c *crew) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.changed
}

// news wakes all who wait for keys, or may have to let some go. The caller holds mu.
func (c *crew) news() {
	c.looked.Add(1)
	close(c.mu.changed)
	c.mu.changed = make(chan struct{})
}

// key of a partition is the same at all workers: the map says where its records come from.
// Topics of a share are called the same at all sites.
func (c *crew) key(tp spillway.TopicPartition) string {
	if c.m.crew == nil {
		return partitionKey(tp.Topic, tp)
	}
	if key, known := c.mu.keys[tp]; known {
		return key
	}
	o, claimed := c.m.reader.Origin(tp.Topic)
	if !claimed {
		return partitionKey(tp.Topic, tp)
	}
	c.mu.keys[tp] = partitionKey(o.Topic, tp)
	return c.mu.keys[tp]
}

// owner of a key. The caller holds mu.
func (c *crew) owner(t *workers.Table, key string) string {
	if c.mu.at != t.Version() {
		c.mu.at, c.mu.owners = t.Version(), make(map[string]string)
	}
	owner, known := c.mu.owners[key]
	if !known {
		owner = t.Owner(key, c.covers)
		c.mu.owners[key] = owner
	}
	return owner
}

// ownerOf is the worker to which a partition belongs, "" while nobody is there.
func (c *crew) ownerOf(tp spillway.TopicPartition) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owner(c.table(), c.key(tp))
}

// elsewhere tells whether a partition belongs to another worker. Without a crew none does.
func (c *crew) elsewhere(tp spillway.TopicPartition) bool {
	if c == nil {
		return false
	}
	owner := c.ownerOf(tp)
	return owner != "" && owner != c.m.config.Worker
}

// crewLease is a key that this worker holds.
type crewLease struct {
	c        *crew
	key      string
	term     int64
	released atomic.Bool
}

// Held implements Lease. The worker counts its time by clocks of its own.
func (l *crewLease) Held(time.Time) bool {
	if l.released.Load() {
		return false
	}
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return l.c.mu.worker.Term() == l.term && l.c.mu.worker.Acts(l.c.m.instant())
}

// asked tells whether the key belongs to another worker by now, or this one was put out:
// it is to be let go as soon as nothing of it is on its way.
func (l *crewLease) asked() bool {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return l.c.mu.away || l.c.mu.worker.Term() != l.term || l.c.owner(l.c.table(), l.key) != l.c.m.config.Worker
}

// release says that nothing of the key is on its way any more.
func (l *crewLease) release() {
	if l.released.Swap(true) {
		return
	}
	l.c.mu.Lock()
	if l.c.mu.holders[l.key]--; l.c.mu.holders[l.key] == 0 {
		delete(l.c.mu.holders, l.key)
		l.c.mu.worker.Release(l.key)
	}
	l.c.mu.Unlock()
	l.c.hurry()
}

// hurry has what is to be said be said at once.
func (c *crew) hurry() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// askedBack tells whether another worker waits for what a lease is for.
func askedBack(l Lease) bool {
	c, ok := l.(*crewLease)
	return ok && c.asked()
}

// letGo gives a lease back of which nothing is on its way.
func letGo(l Lease) {
	if c, ok := l.(*crewLease); ok {
		c.release()
	}
}

// take takes a key if it is this worker's and free.
func (c *crew) take(key string) (*crewLease, bool) {
	c.once.Do(func() { close(c.here) })
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table()
	if c.mu.away || c.owner(t, key) != c.m.config.Worker || !c.mu.worker.Take(c.m.instant(), t, key) {
		return nil, false
	}
	c.mu.holders[key]++
	return &crewLease{c: c, key: key, term: c.mu.worker.Term()}, true
}

// claim waits until a partition is this worker's.
func (c *crew) claim(ctx context.Context, tp spillway.TopicPartition) (Lease, error) {
	for {
		changed := c.changed()
		c.mu.Lock()
		key := c.key(tp)
		c.mu.Unlock()
		if l, ok := c.take(key); ok {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// takeGroup takes a consumer group if it is this worker's, and returns nil if it is
// another one's. If wait is set, and it is this one's, it waits until it is free; who
// leads a move waits until it is its own, too, and has an error if it does not become so.
func (c *crew) takeGroup(ctx context.Context, group string, wait bool) (*crewLease, error) {
	for {
		changed := c.changed()
		if l, ok := c.take(groupKey(group)); ok {
			return l, nil
		}
		c.mu.Lock()
		owner := c.owner(c.table(), groupKey(group))
		c.mu.Unlock()
		switch run := c.m.crew != nil; {
		case !wait:
			return nil, nil
		case !run && !c.m.leads(): // who waits under a control plane does what a move asks for
			return nil, ErrNotLeading
		case run && owner != "" && owner != c.m.config.Worker:
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %v to let it go: %w", c.others(), ctx.Err())
		}
	}
}

// others are the other workers that are there.
func (c *crew) others() []string {
	return slices.DeleteFunc(c.table().Members(), func(name string) bool { return name == c.m.config.Worker })
}

// alone makes the others hear of this worker, and waits until there are none.
func (c *crew) alone(ctx context.Context) (others []string, err error) {
	c.once.Do(func() { close(c.here) })
	for {
		changed := c.changed()
		others = c.others()
		if _, here := c.table().Member(c.m.config.Worker); here && len(others) == 0 {
			return nil, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return others, ctx.Err()
		}
	}
}

// watch tells who waits for keys that the table has changed. It waits for no broker.
func (c *crew) watch(ctx context.Context) {
	version := int64(-1)
	for ctx.Err() == nil {
		changed := c.m.reader.WorkersChanged()
		if v := c.table().Version(); v != version {
			version = v
			c.mu.Lock()
			c.news()
			c.mu.Unlock()
			if c.ranked != nil {
				c.ranked()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// keep says again and again that this worker lives, once it is here, and what it has let
// go, and puts others out.
func (c *crew) keep(ctx context.Context) {
	here := c.here
	for ctx.Err() == nil {
		changed := c.m.reader.WorkersChanged()
		c.speak(ctx)
		if c.isHere() {
			here = nil
		}
		select {
		case <-here:
		case <-changed:
		case <-c.kick:
		case <-time.After(leaseRenew / 10):
		case <-ctx.Done():
		}
	}
	c.leave()
}

func (c *crew) isHere() bool {
	select {
	case <-c.here:
		return true
	default:
		return false
	}
}

// speak says what is due. What cannot be said makes the time of this worker run out.
func (c *crew) speak(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, leaseTTL)
	defer cancel()
	sent := c.m.instant()
	c.mu.Lock()
	var said workers.Record
	var entries []maptopic.Entry
	due := false
	c.mu.worker.SetRank(c.mu.rank.at(c.m.config.Now()))
	switch {
	case !c.isHere():
	case !c.mu.away || len(c.mu.worker.Holds()) > 0:
		said, due = c.mu.worker.Next(sent, c.table())
	default:
		said, due = c.mu.worker.Leave(sent, c.table())
	}
	for _, r := range c.mu.worker.Evictions(sent, c.table(), gone) {
		entries = append(entries, maptopic.WorkerEntry(c.flow, r))
	}
	c.mu.Unlock()
	if due {
		entries = append(entries, maptopic.WorkerEntry(c.flow, said))
	}
	if len(entries) == 0 {
		return
	}
	at, err := c.m.writer.Save(bounded, entries...)
	if err == nil {
		err = c.m.reader.WaitFor(bounded, at)
	}
	if err != nil || !due {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.worker.Heard(said, sent, c.m.instant(), c.table()) {
		c.news()
	}
}

// stepBack gives all keys to the others, or comes again. Alone a worker stays.
func (c *crew) stepBack(away bool) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if away == c.mu.away || away && len(c.table().Members()) < 2 {
		return false
	}
	c.mu.away = away
	if c.mu.leave(); !away {
		c.mu.here, c.mu.leave = context.WithCancel(c.m.ctx)
	}
	c.news()
	return true
}

// whileHere is a context for what is asked of the source: it ends when this worker steps
// back, for what it holds must not wait for a source that does not answer.
func (c *crew) whileHere(ctx context.Context) (context.Context, context.CancelFunc) {
	if c == nil {
		return ctx, func() {}
	}
	c.mu.Lock()
	here := c.mu.here
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(here, cancel)
	return ctx, func() {
		forget()
		cancel()
	}
}

func gone(process string) bool { return maptopic.ParseHolder(process).Gone() }

// leave says good-bye, so that the others need not wait until the time of this worker
// has run out. With something on its way it must not: they would begin too early.
func (c *crew) leave() {
	c.mu.Lock()
	said, holds := c.mu.worker.Term() > 0, len(c.mu.worker.Holds()) > 0
	c.mu.Unlock()
	if !said || holds {
		return
	}
	// The mirror's context has ended; its writer too. A writer of its own
	// says good-bye.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.m.ctx), leaseTTL)
	defer cancel()
	w := maptopic.NewWriter(ctx, c.m.local, c.m.config.Replication)
	defer w.Close()
	_, err := w.Save(ctx, maptopic.NoWorkerEntry(c.flow, c.m.config.Worker))
	_ = err // then its time runs out by itself
}

// WorkerShare is how much of a flow one of its workers has.
type WorkerShare struct {
	Worker     string `json:"worker"`
	Partitions int    `json:"partitions"`
	This       bool   `json:"this,omitempty"` // process
}

// shares counts partitions by worker, for all workers that are there, and says which are
// this worker's: both by one table.
func (c *crew) shares(tps []spillway.TopicPartition) (all []WorkerShare, own map[spillway.TopicPartition]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table()
	count := make(map[string]int)
	own = make(map[spillway.TopicPartition]bool)
	for _, tp := range tps {
		owner := c.owner(t, c.key(tp))
		count[owner]++
		own[tp] = owner == c.m.config.Worker
	}
	for _, name := range t.Members() {
		all = append(all, WorkerShare{name, count[name], name == c.m.config.Worker})
	}
	return all, own
}
