package control

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/kafka"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// deniable is a site of three brokers that knows a resource fence. Brokers can be made to
// hang to gateways: they take connections and never answer.
type deniable struct {
	broker.Cluster
	asGateway *kafka.Cluster
	addresses []string
	hangs     [3]atomic.Bool
	denied    atomic.Bool // by the access control list
	inForce   atomic.Bool // at the brokers
	fails     atomic.Bool // no order is answered
	allows    atomic.Int64
}

type deniableAdmin struct {
	broker.Admin
	of *deniable
}

func (s *deniable) Admin() broker.Admin { return deniableAdmin{s.Cluster.Admin(), s} }

func (a deniableAdmin) DenyWrite(context.Context, string, []string) error {
	a.of.denied.Store(true)
	a.of.inForce.Store(true)
	return nil
}

func (a deniableAdmin) AllowWrite(ctx context.Context, _ string, _ []string) error {
	a.of.allows.Add(1)
	if a.of.fails.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	a.of.denied.Store(false)
	time.AfterFunc(30*time.Millisecond, func() { a.of.inForce.Store(a.of.denied.Load()) })
	return nil
}

// newDeniable makes the site, and the driver of a share that is active there, in a control
// loop at another place.
func newDeniable(t *testing.T, loopAt spillway.SiteID) (*deniable, *driver) {
	t.Helper()
	server, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(9, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &deniable{addresses: server.ListenAddrs()}
	server.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		code := kerr.CorruptMessage.Code
		if s.inForce.Load() {
			code = kerr.TopicAuthorizationFailed.Code
		}
		req := r.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range req.Topics {
			at := kmsg.NewProduceResponseTopic()
			at.Topic, at.TopicID = topic.Topic, topic.TopicID
			for _, p := range topic.Partitions {
				of := kmsg.NewProduceResponseTopicPartition()
				of.Partition, of.ErrorCode = p.Partition, code
				at.Partitions = append(at.Partitions, of)
			}
			resp.Topics = append(resp.Topics, at)
		}
		return resp, nil, true
	})
	open := func(dial func(context.Context, string, string) (net.Conn, error)) *kafka.Cluster {
		c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: s.addresses, Capabilities: &broker.Capabilities{}, Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cluster := open(nil)
	s.Cluster = cluster
	s.asGateway = open(func(ctx context.Context, network, address string) (net.Conn, error) {
		for i, a := range s.addresses {
			if a == address && s.hangs[i].Load() {
				address = silent.Addr().String()
			}
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	})
	t.Cleanup(func() {
		_, _ = cluster.Close(), s.asGateway.Close()
		_ = silent.Close()
		server.Close()
	})
	group := testGroup([]spillway.SiteID{"east", "west"})
	topology := spillway.NewTopology("shop", "shop-1", []spillway.Site{{ID: "east", GatewayPrincipal: gatewayPrincipal}, {ID: "west"}}, []spillway.FailoverGroup{group})
	c, err := New(Config{Topology: topology, Store: coordtest.NewMemory(), Site: loopAt, Clock: &movable{},
		Sites: map[spillway.SiteID]Access{"east": {Cluster: s, AsGateway: s.asGateway}, "west": {Cluster: cluster}}})
	if err != nil {
		t.Fatal(err)
	}
	c.hub = newHub(c.cfg.Store, c.keys, c.cfg.Clock, testTTL, testTTL/4)
	d := newDriver(c, group, spillway.ShareID{Group: group.Name})
	return s, d
}

// movable is a clock that a test can set forward.
type movable struct{ ahead atomic.Int64 }

func (c *movable) forward(by time.Duration) { c.ahead.Add(int64(by)) }

func (c *movable) Now() coordination.Instant {
	now := coordination.SystemClock{}.Now()
	ahead := time.Duration(c.ahead.Load())
	return coordination.Instant{Time: now.Time.Add(ahead), Boot: now.Boot + ahead}
}

// record makes the driver see a record.
func (d *driver) record(t *testing.T, share failover.Share) {
	t.Helper()
	key := d.c.keys.Share(d.id)
	version, err := d.c.cfg.Store.Put(t.Context(), key, share.Encode(), d.version)
	if err != nil {
		t.Fatal(err)
	}
	d.take(coordination.Entry{Key: key, Value: share.Encode(), Version: version})
}

func eastTo(state failover.State, abort string) failover.Share {
	return failover.Share{Group: "orders", State: state, Kind: failover.Switchover, Epoch: 2, Active: "east", Target: "west", Abort: abort, Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
}

// A move is given up while a broker of the old site hangs, after writes were denied there.
// The site goes on as soon as it took the order and the brokers that answer obey it: all
// of the group waits for that. What is denied is believed of every leader only.
func TestGivingUpWaitsForNoBrokerThatHangs(t *testing.T) {
	t.Parallel()
	s, d := newDeniable(t, "west")
	d.record(t, eastTo(failover.Fenced, ""))
	s.hangs[1].Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	if how, err := d.fence(ctx, "east"); err == nil {
		t.Fatalf("the fence is believed (%q), though a broker hangs", how)
	}
	cancel()
	d.record(t, eastTo(failover.Fenced, "automation: clients were held"))
	began := time.Now()
	if err := d.act(t.Context(), failover.Action{Kind: failover.Allow, Site: "east"}); err != nil {
		t.Fatal(err)
	}
	if s.denied.Load() || s.inForce.Load() || d.memo.allowed != "east" {
		t.Errorf("denied: %t, in force: %t, allowed at %q", s.denied.Load(), s.inForce.Load(), d.memo.allowed)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	} else {
		t.Logf("took %v", took)
	}
	// An order that was not answered may come late, and counts as none.
	s.fails.Store(true)
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := d.allowBack(ctx, "east"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it goes on without an answer: %v", err)
	}
	// A site none of whose brokers answer is not known to take anything.
	s.fails.Store(false)
	for i := range s.hangs {
		s.hangs[i].Store(true)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 800*time.Millisecond)
	defer cancel()
	if err := d.allowBack(ctx, "east"); err == nil || !strings.Contains(err.Error(), "no leader says whether it takes writes") {
		t.Errorf("no broker answers: %v", err)
	}
}

// Who is about to give a move up denies nothing any more: it might come behind the order
// that allows writes again.
func TestNothingIsDeniedAtTheEndOfAHold(t *testing.T) {
	t.Parallel()
	s, d := newDeniable(t, "west")
	d.record(t, eastTo(failover.Fencing, ""))
	d.record(t, eastTo(failover.Fenced, ""))
	fence := failover.Action{Kind: failover.Fence, Site: "east"}
	d.c.cfg.Clock.(*movable).forward(d.limits.HoldBudget() - d.denyMin() + 100*time.Millisecond)
	if err := d.act(t.Context(), fence); err == nil || s.denied.Load() {
		t.Errorf("denied %t, %v", s.denied.Load(), err)
	}
	// Another epoch, another hold.
	again := eastTo(failover.Fenced, "")
	again.Epoch = 4
	d.record(t, again)
	if err := d.act(t.Context(), fence); err != nil || !s.denied.Load() || d.memo.fence != "acl" {
		t.Errorf("denied %t, %v", s.denied.Load(), err)
	}
}

// The target of a switchover is to take all writes before it opens.
func TestTheTargetIsOpenAtEveryLeader(t *testing.T) {
	t.Parallel()
	s, d := newDeniable(t, "west")
	s.hangs[1].Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.allow(ctx, "east"); err == nil || !strings.Contains(err.Error(), "not all leaders agree") {
		t.Errorf("%v", err)
	}
}

// That of a failover opens as soon as the brokers that answer take writes: nobody is served
// meanwhile, and no other site rests on it.
func TestTheTargetOfAFailoverWaitsForNoBrokerThatHangs(t *testing.T) {
	t.Parallel()
	s, d := newDeniable(t, "west")
	s.denied.Store(true)
	s.inForce.Store(true)
	s.hangs[1].Store(true)
	d.record(t, failover.Share{Group: "orders", State: failover.Cutover, Kind: failover.Failover, Epoch: 2, Active: "west", Target: "east", Terms: []failover.Term{{Epoch: 1, Site: "west"}}})
	began := time.Now()
	if err := d.act(t.Context(), failover.Action{Kind: failover.Allow, Site: "east"}); err != nil || d.memo.allowed != "east" || s.inForce.Load() {
		t.Errorf("%v after %v, allowed at %q, in force: %t", err, time.Since(began), d.memo.allowed, s.inForce.Load())
	}
}

// While a share stands still a broker that hangs keeps its loop from nothing, and a denial
// that came late is lifted all the same: by the loop at the site, or, where that is not
// heard of any more, by another one.
func TestALateDenialIsLiftedByAnyLoop(t *testing.T) {
	t.Parallel()
	for _, at := range []spillway.SiteID{"east", "west"} {
		s, d := newDeniable(t, at)
		s.hangs[1].Store(true)
		d.record(t, failover.Share{Group: "orders", State: failover.Stable, Epoch: 3, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
		s.denied.Store(true)
		s.inForce.Store(true)
		if at == "west" {
			ballot := coordination.Entry{Key: d.c.keys.Ballot("east"), Value: []byte("{}"), Version: 1}
			d.c.hub.take(d.c.keys.Ballots(), nil)
			clock := d.c.cfg.Clock.(*movable)
			clock.forward(time.Hour)
			d.c.hub.take(d.c.keys.Ballots(), []coordination.Entry{ballot})
			if !d.allowed(clock.Now()) {
				t.Error("west looks, though the loop at east is alive")
			}
			d.memo = memoOf(d.share, clock.Now())
			clock.forward(testTTL)
			if !d.allowed(clock.Now()) {
				t.Error("west looks, though it has just seen the move end")
			}
			clock.forward(othersLook)
			if d.allowed(clock.Now()) {
				t.Error("nobody looks, though the loop at east is gone")
			}
		} else if d.allowed(d.c.cfg.Clock.Now()) {
			t.Error("the loop at east does not look")
		}
		if err := d.act(t.Context(), failover.Action{Kind: failover.Allow, Site: "east"}); err != nil {
			t.Fatal(err)
		}
		if s.denied.Load() || s.allows.Load() != 1 {
			t.Errorf("%s: denied %t, allowed %d times", at, s.denied.Load(), s.allows.Load())
		}
		if err := d.act(t.Context(), failover.Action{Kind: failover.Allow, Site: "east"}); err != nil || s.allows.Load() != 1 {
			t.Errorf("%s: %v, allowed %d times, though nothing was denied", at, err, s.allows.Load())
		}
		for i := range s.hangs {
			s.hangs[i].Store(true)
		}
		d.memo.allowed = ""
		if err := d.act(t.Context(), failover.Action{Kind: failover.Allow, Site: "east"}); err == nil || !d.allowed(d.c.cfg.Clock.Now()) {
			t.Errorf("%s: no broker answers (%v), and the loop does nothing else", at, err)
		}
	}
}

// stalling is a site of which nobody tells where its logs end.
type stalling struct {
	broker.Cluster
	on *atomic.Bool
}

type stallingAdmin struct {
	broker.Admin
	on *atomic.Bool
}

func (s stalling) Admin() broker.Admin { return stallingAdmin{s.Cluster.Admin(), s.on} }

func (a stallingAdmin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if a.on.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return a.Admin.LogEnds(ctx, tps)
}

// A broker that hangs keeps every loop waiting for its log ends. The move is given up while
// the gateways still hold, so that what they hold goes on in order (C29), and not when the
// loop's own patience has ended.
func TestAnActionEndsWithTheHold(t *testing.T) {
	t.Parallel()
	var hangs atomic.Bool
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) { g.HoldMax = 4 * time.Second },
		access: func(id spillway.SiteID, a Access) Access {
			if id == "east" {
				a.Cluster = stalling{a.Cluster, &hangs}
			}
			return a
		}})
	w.settled(1)
	hangs.Store(true)
	plan := w.switchover("west", "")
	share, err := w.operator.Await(within(t), "orders", plan.Epoch+1, nil)
	if err != nil || share.Active != "east" {
		t.Fatalf("%v: %s", err, share.Encode())
	}
	passed := share.Passages
	held := passed[len(passed)-1].At.Sub(passed[0].At)
	if held < 2500*time.Millisecond || held > 4*time.Second || !strings.Contains(passed[len(passed)-1].Why, "clients were held for") {
		t.Errorf("given up after %v: %s", held, passed[len(passed)-1].Why)
	}
	t.Logf("given up after %v: %s", held, passed[len(passed)-1].Why)
}
