package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/direct"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// remembering is an embedded site whose brokers tell of producers without transactions, as
// others do: those that a test says.
type remembering struct {
	broker.Cluster
	of *remembered
}

type remembered struct {
	mu     sync.Mutex
	states []broker.ProducerState // in each partition
	writes bool                   // they write all the time
	err    error
}

func (r *remembered) say(err error, states ...broker.ProducerState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states, r.err, r.writes = states, err, false
}

func (r *remembered) write() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = true
}

type rememberingAdmin struct {
	broker.Admin
	of *remembered
}

func (c remembering) Capabilities() broker.Capabilities {
	can := c.Cluster.Capabilities()
	can.DescribeProducers = true
	return can
}

func (c remembering) Admin() broker.Admin { return rememberingAdmin{c.Cluster.Admin(), c.of} }

func (a rememberingAdmin) DescribeProducers(context.Context, spillway.TopicPartition) ([]broker.ProducerState, error) {
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	a.of.states = slices.Clone(a.of.states)
	for i := range a.of.states {
		if a.of.writes {
			a.of.states[i].LastSequence++
		}
	}
	return a.of.states, a.of.err
}

// reader is a member of a consumer group at the brokers of a site.
func reader(t *testing.T, s *site, clientID string) (leave func()) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(s.server.Addresses()...), kgo.ClientID(clientID), kgo.ConsumerGroup("desk"), kgo.ConsumeTopics("orders"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			c.PollFetches(ctx)
		}
	})
	var once sync.Once
	leave = func() { once.Do(func() { cancel(); wg.Wait(); c.Close() }) }
	t.Cleanup(leave)
	return leave
}

// A group is adopting from the key of the configuration on, until that is gone and looks have
// found nobody past the gateways. Meanwhile nothing moves, and whoever asks is told who they
// are. A member that came by a gateway, and producers of gateways and mirrors, are none.
func TestAGroupIsAdoptedWhenNobodyGoesPastTheGateways(t *testing.T) {
	t.Parallel()
	of := &remembered{}
	w := newWorld(t, options{
		group: func(g *spillway.FailoverGroup) { g.Adopting, g.ConsumerGroups = true, []string{"desk"} },
		access: func(_ spillway.SiteID, a Access) Access {
			a.Cluster = remembering{a.Cluster, of}
			return a
		},
	})
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{}
	for id, s := range w.sites {
		w.operator.Sites[id] = remembering{s.cluster, of}
	}
	w.settled(1)
	east := w.sites["east"]
	reader(t, east, spillway.GatewayClientID("east-1"))
	leave := reader(t, east, "desk-app")
	masked := spillway.MaskProducerID(spillway.ClientProducerID(77), w.record().Terms[0].Mask)
	of.say(nil, broker.ProducerState{ID: masked, CurrentTxnStart: -1, LastTimestamp: time.Now().UnixMilli()},
		broker.ProducerState{ID: 4711, CurrentTxnStart: -1, LastTimestamp: time.Now().UnixMilli()})
	of.write()

	w.eventually("the record says who goes past the gateways", func() bool {
		a := w.record().Adoption
		return a != nil && a.Clients == 2 && strings.Contains(a.Direct, "member desk-app of group desk from 127.0.0.1") && strings.HasSuffix(a.Direct, "producer 4711 of orders-0, orders-1, orders-2")
	})
	if found, err := w.operator.DirectClients(within(t), "orders"); err != nil || found.Count() != 2 || len(found.Clients[0].Partitions) == 0 {
		t.Errorf("%+v, %v", found, err)
	}
	_, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
	if !errors.Is(err, failover.ErrRefused) || errors.Is(err, failover.ErrBehind) || !strings.Contains(err.Error(), "member desk-app of group desk") {
		t.Errorf("switchover: %v", err)
	}
	plan, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", true)
	if err != nil || len(plan.Refused) != 1 || !strings.Contains(plan.Refused[0], "member desk-app of group desk") || plan.Adopting != plan.Refused[0] || len(plan.Effects) == 0 || !strings.HasPrefix(plan.Automation, "off, since") {
		t.Errorf("dry run: %+v, %v", plan, err)
	}
	if _, err := w.operator.Failover(within(t), "orders", "west", -1, "ann", "", false); !errors.Is(err, failover.ErrRefused) {
		t.Errorf("failover from a site that is up: %v", err)
	}
	if _, err := w.operator.EndAdoption(within(t), "orders", "ann", "", true, false); !errors.Is(err, failover.ErrRefused) {
		t.Errorf("the key is there, and it ended: %v", err)
	}

	since := w.record().Adoption.Since
	// The processes take the key away, one after the other; the last that has it keeps it.
	g := w.topology.Groups()[0]
	g.Adopting = false
	without := spillway.NewTopology(w.topology.Name(), w.topology.ClusterID(), w.topology.Sites(), []spillway.FailoverGroup{g})
	for id, s := range w.sites {
		if id != "west" {
			s.control.Topology = without
			s.anew()
		}
	}
	w.operator.topology = without
	end, err := w.operator.EndAdoption(within(t), "orders", "ann", "", false, false)
	if err != nil || end.Ended || !strings.Contains(end.Refused, "2 clients at east") {
		t.Errorf("it ended with clients left: %+v, %v", end, err)
	}
	leave()
	of.say(errors.New("no rights"))
	w.eventually("what could not be looked at keeps it", func() bool {
		a := w.record().Adoption
		return a == nil || a.Clients > 0 && a.Unread && strings.HasPrefix(a.Direct, "producers could not be looked at: no rights; before that: ")
	})
	if w.record().Adoption == nil {
		t.Fatal("it ended although the producers could not be looked at")
	}
	of.say(nil, broker.ProducerState{ID: masked, CurrentTxnStart: -1, LastTimestamp: time.Now().UnixMilli()},
		broker.ProducerState{ID: 4711, CurrentTxnStart: -1, LastTimestamp: time.Now().Add(-2 * DirectQuiet).UnixMilli()})
	w.eventually("nobody is left", func() bool { return w.record().Adoption == nil || w.record().Adoption.None })
	time.Sleep(testTTL) // for the loop at east to end it, which has no key any more
	if a := w.record().Adoption; a == nil || !a.Since.Equal(since) {
		t.Fatalf("it ended while west has the key: %+v", a)
	}
	w.sites["west"].control.Topology = without
	w.sites["west"].anew()
	w.eventually("it ends by itself", func() bool { return w.record().Adoption == nil })
	w.switchover("west", "")
	w.settled(2)
}

// Who leaves clients behind says so, and the audit log keeps whom.
func TestAnAdoptionEndsWithClientsLeftWhereAPersonAcceptsThat(t *testing.T) {
	t.Parallel()
	of := &remembered{}
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) { g.ConsumerGroups = []string{"desk"} },
		access: func(_ spillway.SiteID, a Access) Access {
			a.Cluster = remembering{a.Cluster, of}
			return a
		}})
	share := w.settled(1)
	of.say(nil, broker.ProducerState{ID: 4711, CurrentTxnStart: -1, LastTimestamp: time.Now().UnixMilli()})
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{"east": remembering{w.sites["east"].cluster, of}}
	w.eventually("the group is adopting", func() bool { // as before the key was taken away
		_, version, err := w.operator.share(within(t), "orders")
		if err != nil {
			return false
		}
		share.Adoption = &failover.Adoption{Since: time.Now()}
		return w.operator.write(within(t), share, version, "adopting", "test", "") == nil
	})
	// The time of a record is what its client says, so one look does not know that it is old.
	of.say(nil, broker.ProducerState{ID: 4711, CurrentTxnStart: -1, LastTimestamp: time.Now().Add(-2 * DirectQuiet).UnixMilli()})
	if end, err := w.operator.EndAdoption(within(t), "orders", "ann", "", false, false); err != nil || end.Ended || !strings.Contains(end.Refused, "1 producers have not written lately") {
		t.Fatalf("%+v, %v", end, err)
	}
	of.say(nil, broker.ProducerState{ID: 4711, CurrentTxnStart: -1, LastTimestamp: time.Now().UnixMilli()})
	end, err := w.operator.EndAdoption(within(t), "orders", "ann", "a job that ends today", true, true)
	if err != nil || end.Ended || w.record().Adoption == nil {
		t.Fatalf("dry run: %+v, %v", end, err)
	}
	if end, err = w.operator.EndAdoption(within(t), "orders", "ann", "a job that ends today", true, false); err != nil || !end.Ended || w.record().Adoption != nil {
		t.Fatalf("%+v, %v", end, err)
	}
	log, err := w.operator.Audit(within(t))
	if last := log[len(log)-1]; err != nil || last.Who != "ann" || last.Why != "a job that ends today" || !strings.Contains(last.What, "producer 4711") || !strings.Contains(last.What, "accepted that they stay behind") {
		t.Errorf("%+v, %v", log, err)
	}
}

// A client that is started anew is away for some looks, and comes back. Nobody must be there
// for as long as a producer must be quiet, and looks must have been made all the while.
func TestNobodyMustBeFoundForLong(t *testing.T) {
	t.Parallel()
	none, one := direct.Found{Site: "east"}, direct.Found{Site: "east", Clients: []direct.Client{{Kind: direct.KindMember}}}
	unread := direct.Found{Site: "east", Unread: []direct.Unread{{About: "producers", Why: "no rights"}}}
	inPart := direct.Found{Site: "east", Clients: one.Clients, Unread: unread.Unread}
	begun := time.Now()
	at := func(after time.Duration) coordination.Instant { return coordination.Instant{Time: begun.Add(after)} }
	var l directLook
	for i, step := range []struct {
		after   time.Duration
		found   direct.Found
		clients int
		none    bool
	}{
		{0, none, 0, false}, {time.Minute, one, 1, false}, {2 * time.Minute, none, 1, false}, {3 * time.Minute, none, 1, false}, {4 * time.Minute, one, 1, false},
		{5 * time.Minute, none, 1, false}, {7 * time.Minute, none, 1, false}, {8 * time.Minute, unread, 1, false}, {9 * time.Minute, none, 1, false},
		{12 * time.Minute, none, 0, true}, {13 * time.Minute, unread, 0, false}, {14 * time.Minute, none, 0, true}, {15 * time.Minute, one, 1, false},
		{16 * time.Minute, none, 1, false}, {22 * time.Minute, none, 0, false}, {25 * time.Minute, none, 0, false}, {27 * time.Minute, none, 0, true},
		// Six minutes in which nobody looked, and as many in which a look saw nothing.
		{33 * time.Minute, none, 0, false},
		{35 * time.Minute, unread, 0, false}, {39 * time.Minute, none, 0, false}, {40 * time.Minute, none, 0, false},
		{42 * time.Minute, none, 0, false}, {44 * time.Minute, none, 0, true}, {45 * time.Minute, inPart, 1, false}, {48 * time.Minute, none, 1, false},
	} {
		l.heed(step.found, at(step.after), 5*time.Minute)
		if l.found == nil || l.found.Clients != step.clients || l.found.None != step.none {
			t.Errorf("look %d: %+v, want %+v", i, l.found, step)
		}
		if want := len(step.found.Unread) > 0 && len(step.found.Clients) == 0; (l.found.Unread != "") != want {
			t.Errorf("look %d: not seen: %q", i, l.found.Unread)
		}
	}
}

// What was found in one adoption says nothing of the next: where a loop has the key and
// another has not, they would end and begin it in turn, as fast as they can write.
func TestANewAdoptionIsLookedAtAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	share := w.settled(1)
	c, err := New(w.sites["east"].control)
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(c, w.topology.Groups()[0], share.ID())
	since := time.Now()
	d.looks.of, d.looks.running = adoptionID{share.Epoch, since.Round(0).UTC()}, true // no look of its own
	d.share = share
	for _, step := range []struct {
		adoption *failover.Adoption
		found    bool
	}{{&failover.Adoption{Since: since}, true}, {&failover.Adoption{Since: since.Add(time.Second)}, false}, {nil, false}, {&failover.Adoption{Since: since}, false}} {
		d.share.Adoption = step.adoption
		if d.looks.found == nil && step.found {
			d.looks.found = &failover.DirectView{None: true}
		}
		if got := d.direct(t.Context(), c.cfg.Clock.Now()); (got != nil) != step.found {
			t.Errorf("%+v: %+v", step, got)
		}
	}
	d.share.Adoption, d.looks.of, d.looks.found = nil, adoptionID{share.Epoch, since.Round(0).UTC()}, &failover.DirectView{None: true}
	if d.direct(t.Context(), c.cfg.Clock.Now()); d.looks.found != nil {
		t.Error("what was found outlives the adoption")
	}
}

// What was found once says nothing of a time in which no look found anything out: a site may
// have been dark, and its clients may have come back to the brokers before the next look.
func TestWhatWasFoundLongAgoSaysNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	share := w.settled(1)
	c, err := New(w.sites["east"].control)
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(c, w.topology.Groups()[0], share.ID())
	share.Adoption = &failover.Adoption{Since: time.Now()}
	d.share = share
	begun := c.cfg.Clock.Now()
	later := func(by time.Duration) coordination.Instant {
		return coordination.Instant{Time: begun.Time.Add(by), Boot: begun.Boot + by}
	}
	d.looks.forget(adoptionID{share.Epoch, share.Adoption.Since.Round(0).UTC()})
	d.looks.running = true // no look of its own
	d.looks.heed(direct.Found{Site: "east"}, begun, time.Minute)
	d.looks.heed(direct.Found{Site: "east"}, later(time.Minute), time.Minute)
	if got := d.direct(t.Context(), later(time.Minute+directGap)); got == nil || !got.None {
		t.Errorf("looked at lately: %+v", got)
	}
	if got := d.direct(t.Context(), later(time.Minute+directGap+time.Second)); got == nil || got.None || got.Unread == "" {
		t.Errorf("looked at long ago: %+v", got)
	}
	d.looks.heed(direct.Found{Site: "east"}, later(2*time.Minute+directGap), time.Minute)
	if got := d.direct(t.Context(), later(2*time.Minute+directGap)); got == nil || got.None {
		t.Errorf("the first look after a gap: %+v", got)
	}
}

// What a gateway says counts while it lives: its key outlives it, and a client may have gone
// to the brokers since.
func TestOnlyGatewaysThatLiveVouchForClients(t *testing.T) {
	t.Parallel()
	lease := func(id spillway.GatewayID, boot string, beat uint64, leaving bool) layout.GatewayLease {
		return layout.GatewayLease{ID: id, Boot: boot, Beat: beat, Leaving: leaving}
	}
	before := []layout.GatewayLease{lease("lives", "a", 1, false), lease("dead", "a", 9, false), lease("leaves", "a", 3, false), lease("anew", "a", 4, false)}
	after := []layout.GatewayLease{lease("lives", "a", 2, false), lease("dead", "a", 9, false), lease("leaves", "a", 0, true), lease("anew", "b", 1, false), lease("seen once", "a", 1, false)}
	if got := speaking(before, after); len(got) != 1 || got[0].ID != "lives" {
		t.Errorf("%+v", got)
	}
	// A look asks before and after.
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	w.settled(1)
	for _, beats := range []uint64{0, 1} {
		reads := uint64(0)
		l := lookDirect(within(t), w.sites["east"].cluster, w.topology, w.topology.Groups()[0], func(context.Context) ([]layout.GatewayLease, error) {
			reads++
			return []layout.GatewayLease{{ID: "east-9", Beat: beats * reads, Static: []uint64{layout.MemberKey("desk", "till")}}}, nil
		})
		if got := l.StaticByGateways("desk", "till"); got != (beats > 0) {
			t.Errorf("beats %d: vouches %t", beats, got)
		}
	}
}
