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

func (w *world) process() *Topics { return w.processOf(100 * time.Millisecond) }

func (w *world) processOf(takeOver time.Duration) *Topics {
	return New(Config{Topology: w.topology, Store: w.store, Sites: w.sites, TakeOver: takeOver})
}

// gateway is a process whose creations no control loop takes over within a test.
func (w *world) gateway() *Topics { return w.processOf(time.Minute) }

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
	entries, err := w.store.List(w.Context(), w.keys.ClientAudits())
	if err != nil {
		w.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, string(e.Value))
	}
	return strings.Join(all, "\n")
}

func create(topic string) Change {
	return Change{Topic: topic, Partitions: 4, Replication: 1, Configs: map[string]string{"retention.ms": "12345678"}, Who: "test"}
}

// mirrored is what mirrors do: every site gets the topic.
func (w *world) mirrored(topic string) {
	w.Helper()
	for _, id := range sites {
		if w.counts(topic)[id] > 0 {
			continue
		}
		if _, refused, err := w.sites[id].(counted).Cluster.Admin().CreateTopics(w.Context(), []broker.NewTopic{{Name: topic, Partitions: 4, Replication: 1}}); err != nil || len(refused) > 0 {
			w.Fatal(refused, err)
		}
	}
}

// loop runs a control loop's part until f says that it is enough.
func (w *world) loop(what string, f func() bool) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	p := w.process()
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("not %s: %v", what, w.counts("new"))
		}
	}
}

func (w *world) begin(p *Topics, c Change) Change {
	w.Helper()
	c, err := p.Begin(w.Context(), c)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func (w *world) underWay(topic string) (Change, bool) {
	w.Helper()
	c, is, err := w.process().UnderWay(w.Context(), topic)
	if err != nil {
		w.Fatal(err)
	}
	return c, is
}

var errKilled = errors.New("the process was killed")

// The process that makes a topic is killed before and after the site was asked, and before
// and after it writes that the site has it. Whoever comes next goes on.
func TestAKilledProcessLeavesNothingTorn(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"before", "after"} {
		t.Run(moment+" the site was asked", func(t *testing.T) { killedAt(t, moment) })
	}
	for _, moment := range []coordtest.Moment{coordtest.BeforeWrite, coordtest.AfterWrite} {
		t.Run(fmt.Sprintf("at the write, moment %d", moment), func(t *testing.T) { killedAtTheWrite(t, moment) })
	}
}

func killedAt(t *testing.T, moment string) {
	t.Parallel()
	w := newWorld(t, nil)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	killer := func(int, spillway.SiteID) error {
		kill()
		return errKilled
	}
	if moment == "before" {
		w.before = killer
	} else {
		w.after = killer
	}
	p := w.process()
	c := w.begin(p, create("new"))
	if err := p.Carry(ctx, c, true); !errors.Is(err, ErrPending) {
		t.Fatalf("killed, and told %v", err)
	}
	w.mu.Lock()
	w.before, w.after = nil, nil
	w.mu.Unlock()
	w.goesOn(c)
}

func killedAtTheWrite(t *testing.T, at coordtest.Moment) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.process()
	c := w.begin(p, create("new"))
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
	w.goesOn(c)
}

// goesOn: the topic comes to the site that serves and no other (D), with what was asked
// for; the record stays until the mirrors have made it elsewhere (B).
func (w *world) goesOn(c Change) {
	w.Helper()
	w.loop("told", func() bool { now, _ := w.underWay(c.Topic); return now.Made == "east" })
	if counts := w.counts(c.Topic); counts["east"] != 4 || counts["north"] != 0 || counts["west"] != 0 {
		w.Errorf("the sites have %v", counts)
	}
	set, err := w.sites["east"].Admin().TopicSettings(w.Context(), []string{c.Topic})
	if err != nil || set[c.Topic]["retention.ms"] != "12345678" {
		w.Errorf("settings %v, %v", set, err)
	}
	if _, is := w.underWay(c.Topic); !is {
		w.Error("the record is gone, and no other site has the topic")
	}
	w.mirrored(c.Topic)
	w.recovers()
	if log := w.audit(); strings.Count(log, c.String()) != 1 || strings.Contains(log, "taken back") {
		w.Errorf("the audit log: %s", log)
	}
}

// The site that serves is lost when a client was told that it has the topic, and before any
// mirror has made it elsewhere: it is made where the group is served then.
func TestATopicThatAClientWasToldOfStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.process()
	c := w.begin(p, create("new"))
	if err := p.Carry(w.within(time.Minute), c, true); err != nil {
		t.Fatal(err)
	}
	w.servers["east"].Close()
	w.serve("west", failover.Stable)
	w.loop("made at west", func() bool {
		md, err := w.sites["west"].Metadata(w.Context(), "new")
		return err == nil && len(md.Topics["new"].Partitions) == 4
	})
}

// A topic that was deleted at the site that made it is not made again.
func TestADeletedTopicStaysDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.process()
	c := w.begin(p, create("new"))
	if err := p.Carry(w.within(time.Minute), c, true); err != nil {
		t.Fatal(err)
	}
	if err := w.sites["east"].Admin().DeleteTopic(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	w.recovers()
	if counts := w.counts("new"); counts["east"] != 0 {
		t.Errorf("the sites have %v", counts)
	}
}

// A creation that the site refuses for good is taken back, and the audit log says so. Who
// waits for it beside is told that it came to nothing.
func TestARefusedCreationIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.process()
	asked := create("new")
	asked.Replication = 9
	c := w.begin(p, asked)
	if err := p.Carry(w.within(time.Minute), c, true); err == nil || errors.Is(err, ErrPending) {
		t.Errorf("told %v", err)
	}
	if _, is := w.underWay("new"); is {
		t.Error("still under way")
	}
	if log := w.audit(); !strings.Contains(log, "taken back: topic new is created with 4 partitions") {
		t.Errorf("the audit log: %s", log)
	}
	for what, err := range map[string]error{"awaits": p.Await(w.within(time.Minute), c), "carries": p.Carry(w.within(time.Minute), c, false)} {
		if !errors.Is(err, ErrGone) {
			t.Errorf("who %s it is told %v", what, err)
		}
	}
}

// Nothing is done while the failover group moves, and no site that follows is asked: it may
// be silent for as long as it likes.
func TestACreationWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.serve("east", failover.Fencing)
	p := w.process()
	c := w.begin(p, create("new"))
	if err := p.Carry(w.within(time.Second), c, true); !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), "moves to another site") {
		t.Errorf("told %v", err)
	}
	if w.acts > 0 {
		t.Error("a site was asked while the group moves")
	}
	if _, err := p.Begin(t.Context(), create("new")); !errors.Is(err, ErrUnderWay) {
		t.Errorf("a second creation of the topic: %v", err)
	}
	w.serve("east", failover.Stable)
	w.sites["west"] = silent{w.sites["west"]}
	if err := w.process().Carry(w.within(2*time.Second), c, true); err != nil {
		t.Errorf("with a silent site that follows: %v", err)
	}
}

// silent does not answer.
type silent struct{ broker.Cluster }

func (silent) Metadata(ctx context.Context, _ ...string) (broker.Metadata, error) {
	<-ctx.Done()
	return broker.Metadata{}, ctx.Err()
}

// A first look that fails says nothing of whose topic it is that the next one finds. Once
// control loops may have taken the creation over it is taken as theirs.
func TestATopicThatWasThereIsAnothers(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		takeOver time.Duration
		err      error
	}{"before others may carry it on": {time.Minute, broker.ErrTopicExists}, "after": {100 * time.Millisecond, nil}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, map[string]int32{"new": 1})
			w.serve("east", failover.Fencing)
			p := w.processOf(want.takeOver)
			c := w.begin(p, create("new"))
			time.AfterFunc(300*time.Millisecond, func() { w.serve("east", failover.Stable) })
			if err := p.Carry(w.within(time.Minute), c, true); !errors.Is(err, want.err) {
				t.Errorf("told %v", err)
			}
			if _, is := w.underWay("new"); is != (want.err == nil) {
				t.Errorf("under way: %v", is)
			}
		})
	}
}

// The group moves when a site has made the topic: clients are told that it is there once the
// site has it that serves now, and who only waits for another is not told before.
func TestWhatIsToldAfterAMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.gateway()
	c := w.begin(p, create("new"))
	if err := p.Carry(w.within(time.Minute), c, true); err != nil {
		t.Fatal(err)
	}
	w.serve("west", failover.Stable)
	if err := p.Await(w.within(time.Second), c); !errors.Is(err, ErrPending) {
		t.Errorf("who awaits it is told %v", err)
	}
	if err := p.Carry(w.within(time.Minute), c, true); err != nil {
		t.Errorf("who carries it is told %v", err)
	}
	if now, _ := w.underWay("new"); now.Made != "west" || w.counts("new")["west"] != 4 {
		t.Errorf("%+v, the sites have %v", now, w.counts("new"))
	}
	if err := p.Await(w.within(time.Minute), c); err != nil {
		t.Errorf("who awaits it is told %v", err)
	}
}

// Two processes carry the same creation at the same time (C).
func TestTwoCarryTheSameCreation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	c := w.begin(w.process(), create("new"))
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := w.process().Carry(w.within(time.Minute), c, false); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	w.goesOn(c)
}

// What clients ask for does not fill the store while nothing of it can be done.
func TestCreationsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := w.process()
	var entries []coordination.Entry
	add := func(n int, made spillway.SiteID) {
		for range n {
			c := Change{Topic: fmt.Sprintf("new-%d", len(entries)), ID: "x", Made: made}
			entries = append(entries, coordination.Entry{Key: w.keys.Topic(c.Topic), Value: c.Encode(), Version: uint64(len(entries) + 1)})
		}
	}
	begin := func(topic string, want error) {
		t.Helper()
		p.See(entries)
		if _, err := p.Begin(t.Context(), create(topic)); !errors.Is(err, want) {
			t.Errorf("%s with %d under way: %v", topic, len(entries), err)
		}
	}
	add(UnderWayMax-1, "")
	begin("one", nil)
	add(1, "")
	begin("two", ErrTooMany)
	entries = nil // what waits for mirrors is more, and has a bound of its own
	add(MadeMax-1, "east")
	begin("three", nil)
	add(1, "east")
	begin("four", ErrTooMany)
}
