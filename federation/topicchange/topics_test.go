package topicchange

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var sites = []spillway.SiteID{"east", "north", "west"}

// world is three embedded sites, the first one serving.
type world struct {
	*testing.T
	store    *coordtest.Memory
	keys     failover.Keys
	topology *spillway.Topology
	sites    map[spillway.SiteID]broker.Cluster
	servers  map[spillway.SiteID]*embedded.Cluster

	mu     sync.Mutex
	acts   int // what sites were asked to change, so far
	before func(act int, site spillway.SiteID) error
	after  func(act int, site spillway.SiteID) error
}

func newWorld(t *testing.T, topics map[string]int32) *world {
	w := &world{T: t, store: coordtest.NewMemory(), keys: "test", sites: map[spillway.SiteID]broker.Cluster{}, servers: map[spillway.SiteID]*embedded.Cluster{}}
	var all []spillway.Site
	for _, id := range sites {
		server, err := embedded.Start(embedded.Config{Site: id, Brokers: 1, Topics: topics})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		cluster, err := kafka.New(kafka.Config{Site: id, Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(false)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cluster.Close() })
		w.sites[id], w.servers[id] = counted{cluster, w}, server
		all = append(all, spillway.Site{ID: id})
	}
	w.topology = spillway.NewTopology("test", "cluster", all, []spillway.FailoverGroup{{Name: "shop", Kind: spillway.Ordered, Topics: []string{"*"}, Sites: sites}})
	w.serve("east", failover.Stable)
	return w
}

func (w *world) serve(site spillway.SiteID, state failover.State) {
	w.Helper()
	s := failover.Share{Group: "shop", State: state, Epoch: 1, Active: site, Terms: []failover.Term{{Epoch: 1, Site: site}}}
	key := w.keys.Share(s.ID())
	e, _ := w.store.Get(w.Context(), key)
	if _, err := w.store.Put(w.Context(), key, s.Encode(), e.Version); err != nil {
		w.Fatal(err)
	}
}

// counted is a site whose changes are counted, and can be made to fail.
type counted struct {
	broker.Cluster
	w *world
}

type countedAdmin struct {
	broker.Admin
	w    *world
	site spillway.SiteID
}

func (c counted) Admin() broker.Admin { return countedAdmin{c.Cluster.Admin(), c.w, c.Site()} }

func (a countedAdmin) act(f func() error) error {
	a.w.mu.Lock()
	a.w.acts++
	n, before, after := a.w.acts, a.w.before, a.w.after
	a.w.mu.Unlock()
	if before != nil {
		if err := before(n, a.site); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	if after != nil {
		return after(n, a.site)
	}
	return nil
}

func (a countedAdmin) CreateTopics(ctx context.Context, topics []broker.NewTopic) (created []string, refused map[string]error, err error) {
	err = a.act(func() (err error) {
		created, refused, err = a.Admin.CreateTopics(ctx, topics)
		return err
	})
	return created, refused, err
}

func (a countedAdmin) CreatePartitions(ctx context.Context, name string, count int32) error {
	return a.act(func() error { return a.Admin.CreatePartitions(ctx, name, count) })
}

func (w *world) process() *Topics {
	return New(Config{Topology: w.topology, Store: w.store, Sites: w.sites, TakeOver: 100 * time.Millisecond})
}

func (w *world) counts(topic string) map[spillway.SiteID]int32 {
	w.Helper()
	counts := map[spillway.SiteID]int32{}
	for _, id := range sites {
		md, err := w.sites[id].Metadata(w.Context(), topic)
		if err != nil {
			w.Fatal(err)
		}
		counts[id] = int32(len(md.Topics[topic].Partitions))
	}
	return counts
}

// within is for what has to end by itself.
func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), d)
	w.Cleanup(cancel)
	return ctx
}

// recovers runs a control loop's part until nothing is under way.
func (w *world) recovers() {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	p := w.process()
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		entries, err := w.store.List(ctx, w.keys.Topics())
		if err != nil {
			w.Fatal(err)
		}
		if len(entries) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("still under way: %s", entries[0].Value)
		}
	}
}

func (w *world) audit() string {
	w.Helper()
	entries, err := w.store.List(w.Context(), w.keys.Audits())
	if err != nil {
		w.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, string(e.Value))
	}
	return strings.Join(all, "\n")
}

var errKilled = errors.New("the process was killed")

// The process that carries a change is killed before and after each step at a site, and
// before and after each write to the store. Whoever comes next ends it, and at no moment
// is a partition at the site that serves that another one does not have.
func TestAKilledProcessLeavesNothingTorn(t *testing.T) {
	t.Parallel()
	grow := Change{Kind: Grow, Topic: "orders", Partitions: 4, Shown: 1, Who: "test"}
	create := Change{Kind: Create, Topic: "new", Partitions: 4, Replication: 1, Configs: map[string]string{"retention.ms": "12345678"}, Who: "test"}
	for _, c := range []Change{grow, create} {
		for act := 1; act <= 3; act++ {
			for _, moment := range []string{"before", "after"} {
				t.Run(fmt.Sprintf("%s %s act %d", c.Kind, moment, act), func(t *testing.T) { killedAt(t, c, act, moment) })
			}
		}
		for _, moment := range []coordtest.Moment{coordtest.BeforeWrite, coordtest.AfterWrite} {
			t.Run(fmt.Sprintf("%s at the last write, moment %d", c.Kind, moment), func(t *testing.T) { killedAtTheEnd(t, c, moment) })
		}
	}
}

func killedAt(t *testing.T, c Change, act int, moment string) {
	t.Parallel()
	w := newWorld(t, map[string]int32{"orders": 1})
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	killer := func(n int, _ spillway.SiteID) error {
		if n == act {
			kill()
			return errKilled
		}
		return nil
	}
	if moment == "before" {
		w.before = killer
	} else {
		w.after = killer
	}
	p := w.process()
	c, err := p.Begin(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Carry(ctx, c, true)
	if c.Kind == Grow || act == 1 {
		if !errors.Is(err, ErrPending) {
			t.Fatalf("killed, and told %v", err)
		}
		w.neverAhead()
	}
	w.mu.Lock()
	w.before, w.after = nil, nil
	w.mu.Unlock()
	w.recovers()
	w.done(c)
}

func killedAtTheEnd(t *testing.T, c Change, at coordtest.Moment) {
	t.Parallel()
	w := newWorld(t, map[string]int32{"orders": 1})
	p := w.process()
	c, err := p.Begin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	w.store.Fail(func(when coordtest.Moment, _ []coordination.Op) error {
		if when == at {
			kill()
			return errKilled
		}
		return nil
	})
	_ = p.Carry(ctx, c, true) // what it tells reaches nobody
	w.store.Fail(nil)
	w.recovers()
	w.done(c)
}

// neverAhead is invariant E.
func (w *world) neverAhead() {
	w.Helper()
	counts := w.counts("orders")
	for _, id := range sites {
		if counts["east"] > counts[id] {
			w.Errorf("the site that serves is ahead: %v", counts)
		}
	}
}

// done: all that has to have the topic has it whole.
func (w *world) done(c Change) {
	w.Helper()
	counts := w.counts(c.Topic)
	if counts["east"] != 4 {
		w.Errorf("the site that serves has %v", counts)
	}
	if c.Kind == Grow && (counts["north"] != 4 || counts["west"] != 4) {
		w.Errorf("the sites have %v", counts)
	}
	if c.Kind == Create {
		set, err := w.sites["east"].Admin().TopicSettings(w.Context(), []string{c.Topic})
		if err != nil || set[c.Topic]["retention.ms"] != "12345678" {
			w.Errorf("settings %v, %v", set, err)
		}
		if counts["north"] != 0 || counts["west"] != 0 {
			w.Errorf("it is not the mirrors that create it: %v", counts)
		}
	}
	if log := w.audit(); strings.Count(log, c.String()) != 1 || strings.Contains(log, "taken back") {
		w.Errorf("the audit log: %s", log)
	}
}

// A change that a site refuses for good is taken back while nothing of it was done, and
// the audit log says so.
func TestARefusedChangeIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]int32{"orders": 1})
	p := w.process()
	c, err := p.Begin(t.Context(), Change{Kind: Create, Topic: "new", Partitions: 1, Replication: 9, Who: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Carry(w.within(time.Minute), c, true); err == nil || errors.Is(err, ErrPending) {
		t.Errorf("told %v", err)
	}
	if entries, _ := w.store.List(t.Context(), w.keys.Topics()); len(entries) > 0 {
		t.Errorf("still under way: %s", entries[0].Value)
	}
	if log := w.audit(); !strings.Contains(log, "taken back: topic new is created with 1 partitions") {
		t.Errorf("the audit log: %s", log)
	}
}

// A site refuses to grow when another has grown already: the change stays, and clients go
// on with the old count, also when the site that has grown comes to serve.
func TestAHalfRefusedGrowthStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]int32{"orders": 1})
	refusal := errors.New("west does not")
	w.before = func(_ int, site spillway.SiteID) error {
		if site == "west" {
			return refusal
		}
		return nil
	}
	p := w.process()
	c, err := p.Begin(t.Context(), Change{Kind: Grow, Topic: "orders", Partitions: 4, Shown: 1, Who: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Carry(w.within(2*time.Second), c, true); !errors.Is(err, ErrPending) || !errors.Is(err, refusal) {
		t.Errorf("told %v", err)
	}
	if counts := w.counts("orders"); counts["north"] != 4 || counts["west"] != 1 || counts["east"] != 1 {
		t.Errorf("the sites have %v", counts)
	}
	entries, _ := w.store.List(t.Context(), w.keys.Topics())
	p.See(entries)
	if n := p.Shown("orders", 4); n != 1 {
		t.Errorf("%d partitions are shown", n)
	}
	w.serve("north", failover.Stable)
	w.mu.Lock()
	w.before = nil
	w.mu.Unlock()
	w.recovers()
	if counts := w.counts("orders"); counts["north"] != 4 || counts["west"] != 4 || counts["east"] != 4 {
		t.Errorf("the sites have %v", counts)
	}
}

// Nothing is done while the failover group moves, or while a site does not answer that has
// to grow; both end by themselves.
func TestAChangeWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]int32{"orders": 1})
	w.serve("east", failover.Fencing)
	p := w.process()
	c, err := p.Begin(t.Context(), Change{Kind: Grow, Topic: "orders", Partitions: 4, Shown: 1, Who: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Carry(w.within(time.Second), c, true); !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), "moves to another site") {
		t.Errorf("told %v", err)
	}
	if w.acts > 0 {
		t.Error("a site was asked while the group moves")
	}
	if _, err := p.Begin(t.Context(), Change{Kind: Create, Topic: "orders", Partitions: 1, Who: "test"}); !errors.Is(err, ErrUnderWay) {
		t.Errorf("a second change of the topic: %v", err)
	}
	w.serve("east", failover.Stable)
	w.recovers()
	if counts := w.counts("orders"); counts["north"] != 4 || counts["west"] != 4 || counts["east"] != 4 {
		t.Errorf("the sites have %v", counts)
	}
}

// Two processes carry the same change at the same time (C).
func TestTwoCarryTheSameChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]int32{"orders": 1})
	p := w.process()
	for _, c := range []Change{{Kind: Grow, Topic: "orders", Partitions: 4, Shown: 1, Who: "test"}, {Kind: Create, Topic: "new", Partitions: 4, Replication: 1, Configs: map[string]string{"retention.ms": "12345678"}, Who: "test"}} {
		c, err := p.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if err := w.process().Carry(w.within(time.Minute), c, false); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		w.done(c)
	}
}

// What clients ask for does not fill the store while nothing of it can be done.
func TestChangesUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.process()
	var entries []coordination.Entry
	for i := range UnderWayMax {
		c := Change{Kind: Create, Topic: fmt.Sprintf("new-%d", i), ID: "x"}
		entries = append(entries, coordination.Entry{Key: w.keys.Topic(c.Topic), Value: c.Encode(), Version: uint64(i + 1)})
	}
	p.See(entries[1:])
	if _, err := p.Begin(t.Context(), Change{Kind: Create, Topic: "one"}); err != nil {
		t.Error(err)
	}
	p.See(entries)
	if _, err := p.Begin(t.Context(), Change{Kind: Create, Topic: "two"}); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
}
