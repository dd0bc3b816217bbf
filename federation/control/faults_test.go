package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/metadata"
)

var orders0 = spillway.TopicPartition{Topic: "orders"}

// produce writes n records into partition 0 through one gateway.
func (w *world) produce(at spillway.SiteID, prefix string, n int) {
	w.t.Helper()
	w.eventually("map of "+string(at), func() bool { _, open := w.sites[at].maps.View(orders0).Open(); return open })
	for i := range n {
		w.write(at, orders0, fmt.Sprint(prefix, i))
	}
}

// write sees that a record is written once through a gateway. Where its lease lapses
// in between, as it does on a busy machine, the client is not told so.
func (w *world) write(at spillway.SiteID, tp spillway.TopicPartition, value string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%s takes %s", at, value), func() bool {
		written, err := w.sites[at].gateway.send(within(w.t), tp, value)
		if !written && !errors.Is(err, errNotServing) {
			w.t.Fatal(err)
		}
		return written
	})
}

func (w *world) loaded(n int) {
	w.t.Helper()
	w.mu.Lock()
	before := len(w.acked[orders0])
	w.mu.Unlock()
	w.eventually("load", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.acked[orders0]) > before+n })
}

// A member that stayed behind when its site ceased to serve would have all others wait, at
// the next failover to that site, until its session has timed out.
func TestAFailoverRemovesMembersThatStayed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) { g.ConsumerGroups = []string{"app"} }})
	w.settled(1)
	west := w.sites["west"]
	member := func(id string) *kgo.Client {
		c, err := kgo.NewClient(kgo.SeedBrokers(west.server.Addresses()...), kgo.ConsumerGroup("app"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.InstanceID(id))
		if err != nil {
			t.Fatal(err)
		}
		w.eventually(id+" has joined", func() bool {
			ctx, cancel := context.WithTimeout(within(t), 100*time.Millisecond)
			defer cancel()
			c.PollRecords(ctx, 1)
			d, err := west.cluster.Admin().DescribeGroup(within(t), "app")
			return err == nil && slices.ContainsFunc(d.Members, func(m broker.GroupMember) bool { return m.InstanceID == id && len(m.Assigned) == partitions })
		})
		return c
	}
	if err := west.cluster.Admin().CommitGroupOffsets(within(t), "app", map[spillway.TopicPartition]broker.GroupOffset{orders0: {LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	member("stays").Close() // a static member does not leave
	w.kill("east")
	plan, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "east is gone", false)
	if err != nil {
		t.Fatal(err)
	}
	w.settled(plan.Epoch)
	member("comes").Close() // has all partitions: nobody else is there
}

// A site that was failed over comes back: what it alone had is hidden there, it
// follows, and a switchover moves the share home with nothing missing but what
// the failover announced.
func TestLostSiteComesBackAndServesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	stop := w.load()
	w.loaded(20)
	w.kill("east")
	plan, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "east is gone", false)
	if err != nil {
		t.Fatal(err)
	}
	share := w.settled(plan.Epoch)
	w.loaded(20)
	w.sites["east"].restart()
	w.settled(share.Epoch)
	found := w.found("east")
	if plan, err = w.operator.Switchover(within(t), "orders", "east", "test", "home", false); err != nil {
		t.Fatal(err)
	}
	if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != "east" {
		t.Fatalf("%+v, %v; faults %q", share, err, last(w.failed, 5))
	}
	w.loaded(20)
	acked := stop()
	missing := w.check("east", share)
	w.settled(share.Epoch)
	w.eventually("north has the same", func() bool { return len(w.visible("north", orders0)) == len(w.visible("east", orders0)) })
	if again := w.check("north", share); again != missing {
		t.Errorf("%d are missing at east, %d at north", missing, again)
	}
	// What was found is what is missing, and what had no answer when the site died.
	if found < int64(missing) || found > int64(missing)+partitions {
		t.Errorf("%d are missing, %d were found at east", missing, found)
	}
	t.Logf("%d acknowledged, %d missing", acked, missing)
}

// The loop that drives a move dies in each state; the loops of other sites carry
// it on.
func TestDrivingLoopDiesInEachState(t *testing.T) {
	t.Parallel()
	for _, state := range []failover.State{failover.Draining, failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			store := coordtest.NewMemory()
			w := newWorld(t, options{store: store, group: func(g *spillway.FailoverGroup) { g.GroupDrain = 50 * time.Millisecond }})
			w.settled(1)
			stop := w.load()
			w.loaded(10)
			// The write that enters the state is the last that the driver does. Two
			// states it passes in one write with the next: it dies before that.
			final, moment := state, coordtest.AfterWrite
			switch state {
			case failover.Fenced:
				final, moment = failover.Cutover, coordtest.BeforeWrite
			case failover.CaughtUp:
				final, moment = failover.Open, coordtest.BeforeWrite
			}
			killed, once := make(chan struct{}), sync.Once{}
			store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
				if when != moment || !strings.Contains(ops[0].Key, "/shares/") {
					return nil
				}
				if s, _ := failover.Decode(ops[0].Value); s.State != final || s.Epoch != 2 {
					return nil
				}
				var err error
				once.Do(func() {
					close(killed)
					w.sites["west"].endLoop()
					if moment == coordtest.BeforeWrite {
						err = errors.New("who writes is dead")
					}
				})
				return err
			})
			w.switchover("west", "")
			share, err := w.operator.Await(within(t), "orders", 2, nil)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-killed:
			default:
				t.Fatalf("nobody wrote %s", state)
			}
			w.loaded(10)
			stop()
			if missing := w.check(share.Active, share); missing > 0 || share.Active != "west" {
				t.Errorf("%d records are missing at %s: %+v; faults %q", missing, share.Active, share, last(w.failed, 5))
			}
		})
	}
}

// A gateway that stands still neither confirms nor renews: the share opens only
// after its lease is over, and its answers of before are not given. That holds
// also where an operator deletes its lease, which then nothing names any more,
// and where those who drive have begun after that (C30).
func TestFrozenGatewayIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		delete, anew bool
		want         string
	}{
		{name: "frozen", want: "east-gw: its lease ran out"},
		{name: "its lease is deleted", delete: true, want: "east-gw: its lease ran out"},
		{name: "its lease is deleted, the loops begin anew", delete: true, anew: true, want: "all 2 gateways hold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			frozenGateway(t, c.delete, c.anew, c.want)
		})
	}
}

func frozenGateway(t *testing.T, deleted, anew bool, want string) {
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) { g.HoldMax = 10 * time.Second }})
	w.settled(1)
	stop := w.load()
	w.loaded(20)
	gw := w.sites["east"].gateway
	gw.freeze()
	frozen := time.Now()
	if deleted {
		e, err := w.store.Get(within(t), failover.Keys("shop").Gateway(gw.id))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Delete(within(t), e.Key, e.Version); err != nil {
			t.Fatal(err)
		}
	}
	if anew {
		for _, s := range w.sites {
			s.anew()
		}
	}
	plan := w.switchover("west", "")
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		for i := range w.told {
			if i.To == failover.Fenced && gw.lease.Valid() {
				t.Error("A: nobody waits for a gateway that still holds its lease")
			}
			if i.To == failover.Open || i.To == failover.Stable && i.Epoch >= plan.Epoch {
				return
			}
		}
	}()
	<-opened
	if took := time.Since(frozen); gw.lease.Valid() || took < testTTL/2 {
		t.Fatalf("opened after %v, the gateway's lease valid: %v", took, gw.lease.Valid())
	}
	share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%+v, %v", share, err)
	}
	stop()
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 1 || !strings.Contains(history[0].Passages[1].Why, want) {
		t.Errorf("%+v, %v", history, err)
	}
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
}

// With ack.sites 2 the records that clients were told of are at one of two
// standbys; the failover brings the target to what the other one has.
func TestFailoverLosesNothingWithTwoSites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) { g.Ack = spillway.AckPolicy{Sites: 2, OnShortfall: "block"} }})
	w.settled(1)
	w.produce("east", "a", 50)
	// Both standbys have these; then only north gets more.
	w.eventually("both follow", func() bool { return w.sites["west"].mirror.Ends(spillway.ShareID{Group: "orders"})[orders0] >= 1050 })
	if _, err := w.sites["west"].mirror.Stop(within(t), spillway.ShareID{Group: "orders"}, 1); err != nil {
		t.Fatal(err)
	}
	w.produce("east", "b", 50)
	w.eventually("north follows", func() bool { return w.sites["north"].mirror.Ends(spillway.ShareID{Group: "orders"})[orders0] >= 1100 })
	if behind := w.sites["west"].mirror.Ends(spillway.ShareID{Group: "orders"})[orders0]; behind >= 1100 {
		t.Fatalf("west has %d already, the test proves nothing", behind)
	}
	w.kill("east")
	plan, err := w.operator.Failover(within(t), "orders", "west", 0, "test", "", false)
	if err != nil {
		t.Fatal(err)
	}
	share := w.settled(plan.Epoch)
	if start := share.Current().Start.Get(orders0); share.Active != "west" || start != 1100 {
		t.Fatalf("opened at %s from %d on", share.Active, start)
	}
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d of the acknowledged records are missing", missing)
	}
}

// The store was emptied, or restored from a backup, while the sites go on: to
// believe it would give epochs and offsets out a second time (C30).
func TestOlderStoreIsRefused(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	w := newWorld(t, options{store: store})
	w.settled(1)
	plan := w.switchover("west", "")
	w.settled(plan.Epoch)
	empty := func() {
		t.Helper()
		entries, err := store.List(within(t), failover.Keys("shop").Shares())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := store.Delete(within(t), e.Key, e.Version); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := func() {
		t.Helper()
		w.eventually("refusal", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, f := range w.failed {
				if strings.Contains(f, "has seen epoch 2 of share orders/0, but its store has no record: the coordinator store was emptied or restored") {
					w.failed = nil
					return true
				}
			}
			return false
		})
		if e, err := store.Get(within(t), failover.Keys("shop").Share(spillway.ShareID{Group: "orders"})); err == nil {
			t.Fatalf("a record was made all the same: %s", e.Value)
		}
	}
	empty() // under running loops
	refused()
	for _, s := range w.sites {
		s.stop()
	}
	for _, s := range w.sites {
		s.start()
	}
	refused()
}

// What a person must decide is in the record, where every command finds it, and
// goes away with its reason.
func TestWhatAPersonMustDecideIsInTheRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	w.kill("east")
	w.eventually("the question", func() bool {
		return strings.Contains(w.record().Asking, "a person must decide: automatic failover of orders is off")
	})
	plan, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "", true)
	if err != nil || !slices.Contains(plan.Silent, "site east is down") || !slices.Contains(plan.Silent, "gateway east-gw") || len(plan.Gateways) != 2 || !strings.HasPrefix(plan.Automation, "off for this group") {
		t.Fatalf("%+v, %v", plan, err)
	}
	w.sites["east"].restart()
	w.eventually("the end of the question", func() bool { return w.record().Asking == "" })
	if s := w.record(); s.State != failover.Stable || s.Epoch != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestOperatorSaysWhatWouldHappen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	w.produce("east", "a", 30)
	w.eventually("standbys have all", func() bool {
		st, err := w.operator.Status(within(t), "orders")
		return err == nil && st.Sites["west"].EndSum == 3030 && st.Sites["east"].EndSum == 3030 && len(st.Gateways) == 3
	})
	plan, err := w.operator.Switchover(within(t), "orders", "west", "test", "", true)
	if err != nil || plan.Behind != 0 || plan.LostMost != 0 || !plan.DryRun || len(plan.Effects) != 3 {
		t.Fatalf("%+v, %v", plan, err)
	}
	plan, err = w.operator.Failover(within(t), "orders", "", -1, "test", "", true)
	if err != nil || plan.To != "west" || plan.LostMost < 0 || plan.LostMost > 50 || plan.Behind != 0 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if s := w.record(); s.State != failover.Stable || s.Epoch != 1 {
		t.Fatalf("a dry run changed the share: %+v", s)
	}
	if err := w.operator.Pause(within(t), true, "ann", "upgrade"); err != nil {
		t.Fatal(err)
	}
	if st, err := w.operator.Status(within(t), "orders"); err != nil || !st.Automation.Paused || st.Automation.Who != "ann" || len(st.Down) != 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := w.operator.Abort(within(t), "orders", "ann", ""); err == nil || !strings.Contains(err.Error(), "nothing to abort") {
		t.Fatalf("%v", err)
	}
	if _, err := w.operator.Switchover(context.Background(), "nothing", "west", "ann", "", false); err == nil || !strings.Contains(err.Error(), `no failover group "nothing"`) {
		t.Fatalf("%v", err)
	}
}

// Two workers at one site: the second claims only what the first has lost, and
// the first does not believe in what it claimed before.
func TestOneWriterPerSite(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	const ttl = 300 * time.Millisecond
	start := func(worker string) (*Writer, func()) {
		w := NewWriter(store, "shop", "east", worker, ttl)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		stop := func() { cancel(); <-done }
		t.Cleanup(stop)
		return w, stop
	}
	first, stop := start("a")
	held, err := first.Claim(within(t))
	if err != nil || !held.Held(time.Now()) {
		t.Fatal(err)
	}
	second, _ := start("b")
	short, cancel := context.WithTimeout(t.Context(), 2*ttl)
	defer cancel()
	if _, err := second.Claim(short); err == nil {
		t.Fatal("two writers")
	}
	stop()
	if held.Held(time.Now()) {
		t.Fatal("a claim outlives its lease")
	}
	taken, err := second.Claim(within(t))
	if err != nil || !taken.Held(time.Now()) {
		t.Fatal(err)
	}
}

// knower counts whether anything was asked of a mirror, and does nothing.
type knower struct {
	Mirror
	asked atomic.Int64
}

func (k *knower) Know(mirror.Assignment) error {
	k.asked.Add(1)
	return errors.New("this mirror does nothing")
}

func (*knower) Flows() []mirror.FlowInfo                                          { return nil }
func (*knower) Ends(spillway.ShareID) map[spillway.TopicPartition]spillway.Offset { return nil }

// A second mirror process at a site keeps still until it has the writer lease:
// its word that a flow has stopped would be worth nothing. It says that it waits,
// and those who drive moves look past it.
func TestOnlyTheWriterActs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	w.settled(1)
	k := &knower{Mirror: w.sites["west"].mirror} // whose map it shows
	writer := NewWriter(w.store, "shop", "west", "second", 400*time.Millisecond)
	// By name it comes before the process that acts.
	f := NewFollower(FollowerConfig{Topology: w.topology, Store: w.store, Cluster: w.sites["west"].cluster, Mirror: k, Worker: "0", LeaseTTL: testTTL, Writer: writer})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = f.Run(ctx) }) // ends with ctx
	said := func() (l failover.MirrorLease) {
		e, err := w.store.Get(within(t), failover.Keys("shop").Mirror("west", "0"))
		if err == nil && json.Unmarshal(e.Value, &l) != nil {
			t.Fatalf("%s", e.Value)
		}
		return l
	}
	w.eventually("the second one waits", func() bool { l := said(); return l.Beat > 2 && l.Waits && len(l.Following) == 0 })
	plan := w.switchover("west", "")
	w.settled(plan.Epoch)
	if k.asked.Load() > 0 {
		t.Fatal("a mirror without the lease was asked to act")
	}
	wg.Go(func() { writer.Run(ctx) })
	w.eventually("the writer acts", func() bool { return k.asked.Load() > 0 && !said().Waits })
}

// A process that loses the writer lease while it acts does not report what it
// did: by then another one may have made a flow run that it says has stopped.
func TestNothingIsReportedAfterTheWriterLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	w.settled(1)
	ctx, cancel := context.WithCancel(context.Background())
	writer := NewWriter(w.store, "shop", "west", "second", 400*time.Millisecond)
	var wg sync.WaitGroup
	wg.Go(func() { writer.Run(ctx) })
	f := NewFollower(FollowerConfig{Topology: w.topology, Store: w.store, Cluster: w.sites["west"].cluster, Mirror: &knower{}, Worker: "2", LeaseTTL: testTTL, Writer: writer})
	s := &followed{f: f, id: spillway.ShareID{Group: "orders"}, reports: map[spillway.Epoch]*siteReport{}}
	term, err := writer.term(within(t))
	if err != nil {
		t.Fatal(err)
	}
	s.term.Store(term)
	stopped := func(epoch spillway.Epoch) error {
		return s.report(within(t), epoch, func(r *failover.SiteReport) { r.Stopped = true })
	}
	if err := stopped(7); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	if err := stopped(8); !errors.Is(err, errNotLeading) {
		t.Fatalf("reported: %v", err)
	}
	if _, err := w.store.Get(within(t), failover.Keys("shop").SiteReport(s.id, 8, "west")); !errors.Is(err, coordination.ErrNotFound) {
		t.Fatalf("the report was written: %v", err)
	}
}

// gatherer is a mirror that takes all to itself, and lets what it is asked to follow wait
// the first time.
type gatherer struct {
	knower
	gathered, ended atomic.Int64
}

func (g *gatherer) Know(mirror.Assignment) error { return nil }

func (g *gatherer) Gather(spillway.ShareID, spillway.Epoch) error {
	g.gathered.Add(1)
	return nil
}

func (g *gatherer) Assign(ctx context.Context, _ mirror.Assignment) error {
	if g.gathered.Load() == 1 {
		<-ctx.Done()
		g.ended.Add(1)
	}
	return ctx.Err()
}

// A process that loses the writer lease ends what it does for the record at hand, and when
// it has the lease again it begins anew, though the record is the same: what it had said in
// the old term counts no more.
func TestWhoHasTheWriterLeaseAgainActsAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	store := coordtest.NewMemory()
	share := failover.Share{Group: "orders", State: failover.Fencing, Kind: failover.Switchover, Epoch: 2, Active: "east", Target: "west", Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
	if _, err := store.Put(within(t), failover.Keys("shop").Share(share.ID()), share.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	g := &gatherer{knower: knower{Mirror: w.sites["west"].mirror}}
	writer := NewWriter(store, "shop", "west", "1", 400*time.Millisecond)
	f := NewFollower(FollowerConfig{Topology: w.topology, Store: store, Cluster: w.sites["west"].cluster, Mirror: g, Worker: "1", LeaseTTL: testTTL, Writer: writer})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = f.Run(ctx) }) // ends with ctx
	for term := range int64(3) {
		held, lose := context.WithCancel(ctx)
		lost := make(chan struct{})
		go func() { defer close(lost); writer.Run(held) }()
		w.eventually("all is taken in the term", func() bool { return g.gathered.Load() == term+1 })
		lose()
		<-lost
	}
	if g.ended.Load() != 1 {
		t.Errorf("what was under way ended %d times", g.ended.Load())
	}
}

// joiner notes what it is to carry beside the process that leads.
type joiner struct {
	knower
	source atomic.Value
}

func (j *joiner) Join(_ context.Context, a mirror.Assignment) error {
	j.source.Store(a.Source)
	return nil
}

// A process of an older version that has the writer lease writes all partitions of the
// site: beside it others stand still, and say why.
func TestNobodyHelpsAnOlderVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	store := coordtest.NewMemory()
	share := failover.Share{Group: "orders", State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
	if _, err := store.Put(within(t), failover.Keys("shop").Share(share.ID()), share.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	leads := func(shares string) (stop func()) {
		t.Helper()
		old := coordination.NewLease(coordination.LeaseConfig{Store: store, Key: failover.Keys("shop").Writer("west"), Self: "old-1", Owner: bootOf, TTL: testTTL, Every: testTTL / 4,
			Value: func(beat uint64) []byte {
				return fmt.Appendf(nil, `{"boot":"old-1","worker":"old","beat":%d%s}`, beat, shares)
			}})
		held, lose := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); old.Run(held) }()
		w.eventually("the lease is held", old.Valid)
		return func() { lose(); <-done }
	}
	stop := leads(`,"shares":true`)
	j := &joiner{knower: knower{Mirror: w.sites["west"].mirror}}
	j.source.Store(spillway.SiteID(""))
	told := make(chan string, 1000)
	writer := NewWriter(store, "shop", "west", "2", testTTL)
	f := NewFollower(FollowerConfig{Topology: w.topology, Store: store, Cluster: w.sites["west"].cluster, Mirror: j, Worker: "2", LeaseTTL: testTTL, Writer: writer,
		Events: Events{FollowFailed: func(_ spillway.ShareID, _ failover.State, err error) { told <- err.Error() }}})
	wg.Go(func() { writer.Run(ctx) })
	wg.Go(func() { _ = f.Run(ctx) }) // ends with ctx
	w.eventually("it helps", func() bool { return j.source.Load() == spillway.SiteID("east") })
	stop()
	stop = leads("")
	defer stop()
	w.eventually("it stands still", func() bool { return j.source.Load() == spillway.SiteID("") })
	if why := <-told; !strings.HasPrefix(why, "mirror process old leads site west") {
		t.Error(why)
	}
	stop()
	w.eventually("it leads", func() bool { return j.asked.Load() > 0 })
}

// unarmed is a mirror whose site cannot follow another one.
type unarmed struct{ Mirror }

func (unarmed) Arm(context.Context, spillway.ShareID, spillway.Epoch, spillway.SiteID) error {
	return errors.New("write the map of site east: the disk is full")
}

// From OPEN on nothing can be given up, and with ack.sites 2 nobody is answered
// until a second site follows. So a switchover does not open before the old site
// has shown that it can: it is given up, and the old site goes on (C31).
func TestTheOldSiteProvesThatItCanFollow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, want string
		stray      bool
		alone      bool
	}{
		{name: "its map cannot be written", want: "the disk is full"},
		{name: "its log goes on behind the cutover", want: "orders-0 at east ends at 1021, the cutover is 1020: somebody writes past the gateways", stray: true},
		{name: "its log goes on, and no acknowledgement waits for it", want: "orders-0 at east ends at 1021, the cutover is 1020: somebody writes past the gateways", stray: true, alone: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			store := coordtest.NewMemory()
			o := options{store: store, sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) {
				g.HoldMax, g.Ack = 3*time.Second, spillway.AckPolicy{Sites: 2, OnShortfall: "block"}
				if c.alone {
					g.Ack = spillway.AckPolicy{Sites: 1}
				}
			}}
			if !c.stray {
				o.mirror = func(id spillway.SiteID, m Mirror) Mirror {
					if id == "east" {
						return unarmed{m}
					}
					return m
				}
			}
			w := newWorld(t, o)
			w.settled(1)
			w.produce("east", "a", 20)
			var once sync.Once
			store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
				if when != coordtest.BeforeWrite || !c.stray {
					return nil
				}
				if s, err := failover.Decode(ops[0].Value); err == nil && s.State == failover.Cutover {
					once.Do(func() {
						if _, err := produceTo(within(t), w.sites["east"].cluster, orders0, "stray"); err != nil {
							t.Error(err)
						}
					})
				}
				return nil
			})
			plan := w.switchover("west", "")
			share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
			if err != nil || share.Active != "east" || share.Epoch != plan.Epoch+1 {
				t.Fatalf("%v: %+v", err, share)
			}
			w.mu.Lock()
			said := strings.Join(w.failed, "\n")
			w.mu.Unlock()
			// The new site may be the one to find out: it copied the record before it
			// heard of the cutover.
			why := share.Passages[len(share.Passages)-1].Why
			found := c.stray && (strings.Contains(why, "west got 1 records of orders-0 from beyond the cutover") || strings.Contains(why, c.want))
			if !found && !strings.Contains(said, c.want) {
				t.Errorf("nobody said why: %s", said)
			}
			w.settled(share.Epoch)
			w.write("east", orders0, "after")
			if missing := w.check("east", share); missing > 0 {
				t.Errorf("%d are missing", missing)
			}
		})
	}
}

// The record carries the offsets of few terms; a mirror finds the others in the
// history, also those of a move whose account is too large for one key.
func TestTrimmedTermsAreReadFromTheHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	w.settled(1)
	share, want := failover.Share{}, map[spillway.Epoch]failover.Term{}
	for i, to := range []spillway.SiteID{"west", "east", "west"} {
		active := w.record().Active
		w.produce(active, fmt.Sprint(i, "-"), 10)
		plan := w.switchover(to, "")
		var err error
		if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != to {
			t.Fatalf("%v: %+v", err, share)
		}
		want[share.Epoch] = share.Current()
		w.settled(share.Epoch)
	}
	if n := len(share.Terms); n != 4 || !share.Terms[1].Trimmed || !share.Terms[2].Trimmed || share.Terms[3].Trimmed {
		t.Fatalf("%+v", share.Terms)
	}
	keys, known := failover.Keys("shop"), map[spillway.Epoch]failover.Term{}
	full, err := untrimmed(within(t), w.store, keys, share, known)
	if err != nil || len(known) != 2 {
		t.Fatalf("%d read, %v", len(known), err)
	}
	for _, term := range full.Terms[1:] {
		for partition := range int32(partitions + 1) {
			tp := spillway.TopicPartition{Topic: "orders", Partition: partition}
			got, is := term.Bound(tp)
			if was, had := want[term.Epoch].Bound(tp); got != was || is != had || partition == 0 && got < 1010 {
				t.Errorf("epoch %d, %s: %d, %v; want %d, %v", term.Epoch, tp, got, is, was, had)
			}
		}
	}
	// In parts.
	key := keys.History(share.ID(), 2)
	e, err := w.store.Get(within(t), key)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range [][]byte{e.Value[:40], e.Value[40:]} {
		if _, err := w.store.Put(within(t), fmt.Sprintf("%s/%04d", key, i), part, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.store.Put(within(t), key, []byte(`{"group":"orders","epoch":2,"chunks":2}`), e.Version); err != nil {
		t.Fatal(err)
	}
	if again, err := untrimmed(within(t), w.store, keys, share, map[spillway.Epoch]failover.Term{}); err != nil || fmt.Sprint(again.Terms) != fmt.Sprint(full.Terms) {
		t.Errorf("%+v, %v", again.Terms, err)
	}
}

// An operator's clock is seven seconds behind: he writes FENCING with his time. A
// loop that saw the hold begin counts by its own clock, or it would give every
// switchover up at once. One that was started later has only the record.
func TestTheHoldIsCountedByTheLoopsOwnClock(t *testing.T) {
	t.Parallel()
	share := func(state failover.State, epoch spillway.Epoch) coordination.Entry {
		s := failover.Share{Group: "orders", State: state, Epoch: epoch, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
		if state != failover.Stable {
			s.Target, s.Kind = "west", failover.Switchover
			s.Passages = []failover.Passage{{State: failover.Fencing, At: time.Now().Add(-7 * time.Second)}}
		}
		return coordination.Entry{Value: s.Encode(), Version: uint64(epoch)}
	}
	c := &Control{cfg: Config{Clock: coordination.SystemClock{}}}
	saw, late := &driver{c: c}, &driver{c: c}
	saw.take(share(failover.Stable, 1))
	saw.take(share(failover.Fencing, 2))
	late.take(share(failover.Fencing, 2))
	now := c.cfg.Clock.Now()
	if held := saw.heldTime(now); held > 5*time.Second {
		t.Errorf("held for %v by the clock of the operator", held)
	}
	if held := late.heldTime(now); held < 7*time.Second {
		t.Errorf("held for %v, though the record says that it began before", held)
	}
}

// TestCompactedTopicsMoveWhereNothingIsHidden moves a compacted topic there and back. Then
// somebody writes to west past the gateways: nothing moves there by itself any more, nor does
// a dry run make one believe that it would, until the topic has begun anew there. A person who
// names the site is told what may be missing, and is obeyed (C11).
func TestCompactedTopicsMoveWhereNothingIsHidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	policy := "compact,delete"
	if err := w.sites["east"].cluster.Admin().SetTopicConfigs(within(t), "orders", map[string]*string{"cleanup.policy": &policy}); err != nil {
		t.Fatal(err)
	}
	for _, s := range w.sites {
		s.stop()
		s.start() // looks at once
	}
	stop := w.load()
	var share failover.Share
	for _, to := range []spillway.SiteID{"west", "east"} {
		plan := w.switchover(to, "")
		var err error
		if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != to {
			t.Fatalf("%v: %+v; faults %q", err, share, last(w.failed, 5))
		}
		w.settled(share.Epoch)
	}
	stop()
	for id, s := range w.sites {
		if hiding := s.maps.Hiding(); len(hiding) > 0 {
			t.Errorf("planned moves hid records at %s: %v", id, hiding)
		}
	}
	// A few are mirrored behind it: what others wrote is found when the mirror writes next.
	if _, err := produceTo(within(t), w.sites["west"].cluster, orders0, "stray"); err != nil {
		t.Fatal(err)
	}
	w.write("east", orders0, "next")
	hides := func(err error) bool {
		return errors.Is(err, failover.ErrRefused) && strings.Contains(err.Error(), "west hides records in its logs of compacted topics") && strings.Contains(err.Error(), "orders (foreign-write in partition 0)")
	}
	switchover := func(dryRun bool) error {
		_, err := w.operator.Switchover(within(t), "orders", "west", "test", "", dryRun)
		return err
	}
	w.eventually("a refusal that says why", func() bool { return hides(switchover(true)) })
	if err := switchover(false); !hides(err) {
		t.Fatalf("a move began: %v", err)
	}
	if plan, err := w.operator.Failover(within(t), "orders", "", -1, "test", "", true); err != nil || plan.To != "north" {
		t.Errorf("a failover without a name goes to %q: %v", plan.To, err)
	}
	plan, err := w.operator.Failover(within(t), "orders", "west", -1, "test", "", true)
	if err != nil || !slices.ContainsFunc(plan.Effects, func(e string) bool { return strings.HasPrefix(e, "keys of compacted topics may be missing at west") }) {
		t.Errorf("%v; a person who names west is told %q", err, plan.Effects)
	}
	west := w.sites["west"]
	w.eventually("the cleaner is stopped there alone", func() bool {
		set, err := west.cluster.Admin().TopicSettings(within(t), []string{"orders"})
		return err == nil && set["orders"]["min.compaction.lag.ms"] == metadata.Stopped["min.compaction.lag.ms"]
	})
	west.stop() // and it is known after a restart
	west.start()
	w.eventually("a refusal after a restart", func() bool { return hides(switchover(true)) })
	if set, err := w.sites["north"].cluster.Admin().TopicSettings(within(t), []string{"orders"}); err != nil || set["orders"]["min.compaction.lag.ms"] != "" {
		t.Errorf("%v, at north: %v", err, set["orders"])
	}
	if err := west.cluster.Admin().DeleteTopic(within(t), "orders"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the topic has begun anew at west", func() bool { return len(west.maps.Hiding()) == 0 })
	w.eventually("a move there begins", func() bool { return switchover(false) == nil })
	if share, err = w.operator.Await(within(t), "orders", share.Epoch+1, nil); err != nil || share.Active != "west" {
		t.Fatalf("%v: %+v; faults %q", err, share, last(w.failed, 5))
	}
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
	w.eventually("the cleaner goes on", func() bool {
		set, err := west.cluster.Admin().TopicSettings(within(t), []string{"orders"})
		return err == nil && set["orders"]["min.compaction.lag.ms"] == ""
	})
}
