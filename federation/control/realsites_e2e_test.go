//go:build e2e

package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/kafka"
	"spillway/federation/authorization"
	"spillway/federation/control/probe"
	"spillway/federation/coordination"
	"spillway/federation/coordination/consul"
	"spillway/federation/failover"
	server "spillway/tests/cluster/consul"
	brokers "spillway/tests/cluster/kafka"
)

// Three real clusters of different releases that authorize, and a real Consul: the
// ACL fence is in force at every site that does not serve, probed at its leaders,
// and planned moves lose nothing.
func TestFencedSwitchoversOnRealKafkaAndConsul(t *testing.T) {
	users := map[string]string{"admin": "a-secret", "gateway": "g-secret"}
	config := func(name, version string, first int) brokers.Config {
		return brokers.Config{Name: name, Version: version, FirstNode: first, Users: users, SuperUsers: []string{"admin"}}
	}
	real := brokers.ForTest(t, config("east", "4.3.1", 1), config("west", "3.9.2", 11), config("north", "4.4.0", 21))
	store, err := consul.New(consul.Config{Address: server.ForTest(t, 1).Servers[0].HTTP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	sites := []spillway.SiteID{"east", "west", "north"}
	gate := &withoutCutover{Store: store}
	counted := newCounting(gate)
	w := newWorld(t, options{store: counted, sites: sites,
		group: func(g *spillway.FailoverGroup) {
			g.GroupDrain, g.ConsumerGroups = 100*time.Millisecond, []string{"shop"}
		},
		real: func(id spillway.SiteID) (cluster, asGateway *kafka.Cluster) {
			return realSite(t, id, real[slices.Index(sites, id)].Bootstrap(), users)
		},
	})
	w.settled(1)
	w.foundByDryRuns()
	var tps []spillway.TopicPartition
	for p := range int32(partitions) {
		tps = append(tps, spillway.TopicPartition{Topic: "orders", Partition: p})
	}
	share := w.settled(1)
	stop := w.load()
	for i := range 6 {
		to := sites[(i+1)%3]
		w.loaded(20)
		plan, err := w.operator.Switchover(within(t), "orders", to, "test", "exercise", false)
		if err != nil {
			t.Fatalf("%v; faults %q", err, last(w.failed, 5))
		}
		from := share.Active
		if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != to {
			t.Fatalf("%v: %+v; faults %q", err, share, last(w.failed, 5))
		}
		// Where there is an ACL at all, allow.everyone.if.no.acl.found ends: a client that
		// does not know the leaders any more is not even told of the topic.
		if fenced, err := probe.Fenced(within(t), w.sites[from].asGateway, tps, true); !fenced && !errors.Is(err, broker.ErrUnknownTopic) {
			t.Errorf("%s was left, but takes writes of the gateways: %v, %v", from, fenced, err)
		}
		if _, err := produceTo(within(t), w.sites[from].asGateway, orders0, "stray"); err == nil {
			t.Errorf("a stray write reached %s after it was left", from)
		}
		w.settled(share.Epoch)
	}
	share = w.givenUpInFenced(gate, share, tps)
	w.loaded(20)
	acked := stop()
	if missing := w.check(share.Active, share); missing > 0 || acked < 100 {
		t.Errorf("%d of %d acknowledged records are missing", missing, acked)
	}
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 7 {
		t.Fatalf("%d moves, %v", len(history), err)
	}
	var held []int64
	for _, r := range history[:6] {
		if r.Fence != "acl" {
			t.Errorf("%s to %s: fence %q", r.From, r.To, r.Fence)
		}
		held = append(held, r.HeldMillis)
	}
	logSteps(t, history)
	for _, line := range counted.chain(history[5].Epoch) {
		t.Log(line)
	}
	slices.Sort(held)
	t.Logf("%d records, holds in ms: %v", acked, held)
}

// foundByDryRuns shows that a dry run names what a target lacks: a right that the active
// site gives, a quota, and what an older release has not finalized; and that all of the
// rest could be checked, disks too. The right is one on a group, since brokers refuse
// whom no entry about a topic allows as soon as there is one.
func (w *world) foundByDryRuns() {
	t := w.t
	t.Helper()
	began := time.Now()
	entry := []spillway.ACL{{Resource: spillway.ACLGroup, Pattern: spillway.ACLLiteral, Name: "shop", Principal: "User:alice", Host: "*", Operation: "READ", Permission: "ALLOW"}}
	alice, rate := broker.NewQuotaEntity(map[string]*string{"user": new("alice")}), 1000.0
	w.operator.Sites, w.operator.ByLists = map[spillway.SiteID]broker.Cluster{}, &authorization.Policy{}
	for id, s := range w.sites {
		w.operator.Sites[id] = s.cluster
	}
	defer func() { w.operator.Sites, w.operator.ByLists = nil, nil }()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	east, west := w.sites["east"].cluster.Admin(), w.sites["west"].cluster.Admin()
	must(east.CreateACLs(within(t), entry))
	must(east.SetQuota(within(t), alice, map[string]*float64{"producer_byte_rate": &rate}))
	dry := func(to spillway.SiteID, about ...string) {
		t.Helper()
		var found []string
		w.eventually("a dry run that finds "+strings.Join(about, ", "), func() bool {
			plan, err := w.operator.Switchover(within(t), "orders", to, "ann", "", true)
			found = nil
			for _, f := range plan.Findings {
				found = append(found, f.What)
			}
			return err == nil && len(plan.Unread) == 0 && slices.EqualFunc(about, found, func(want, is string) bool { return strings.Contains(is, want) })
		})
		t.Logf("to %s: %q", to, found)
	}
	right, quota, features := "at east, 1 right (mirrors carry such entries with mirror.acls, else create them at", "user=alice producer_byte_rate (none, not 1000)", "lower levels at west than at east"
	dry("west", right, features, quota)
	dry("north", right, quota)
	must(west.CreateACLs(within(t), entry))
	must(west.SetQuota(within(t), alice, map[string]*float64{"producer_byte_rate": &rate}))
	dry("west", features)
	t.Logf("measured: dry runs took %s", time.Since(began).Round(time.Millisecond))
}

// withoutCutover is a store that, while it is told to, takes no record in CUTOVER:
// a move stays in FENCED, where writes are denied already.
type withoutCutover struct {
	coordination.Store
	on atomic.Bool
}

func (s *withoutCutover) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	if share, err := failover.Decode(value); err == nil && share.State == failover.Cutover && s.on.Load() {
		return 0, coordination.ErrUnavailable
	}
	return s.Store.Put(ctx, key, value, version)
}

// givenUpInFenced gives a move up after writes were denied and before the record
// says so. The site that goes on takes writes again, also when a denial reaches its
// brokers behind the end of the move.
func (w *world) givenUpInFenced(store *withoutCutover, share failover.Share, tps []spillway.TopicPartition) failover.Share {
	t := w.t
	t.Helper()
	active := w.sites[share.Active]
	fenced := func(want bool) func() bool {
		return func() bool {
			ok, err := probe.Fenced(within(t), active.asGateway, tps, want)
			return ok && err == nil
		}
	}
	store.on.Store(true)
	to := spillway.SiteID("east")
	if to == share.Active {
		to = "west"
	}
	plan, err := w.operator.Switchover(within(t), "orders", to, "test", "to be given up", false)
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("writes denied in FENCED", func() bool { return w.record().State == failover.Fenced && fenced(true)() })
	if err := w.operator.Abort(within(t), "orders", "test", "changed our minds"); err != nil {
		t.Fatal(err)
	}
	if share, err = w.operator.Await(within(t), "orders", plan.Epoch+1, nil); err != nil || share.Active != active.id {
		t.Fatalf("%v: %+v", err, share)
	}
	store.on.Store(false)
	if !fenced(false)() {
		t.Errorf("%s serves again, but does not take writes of the gateways", active.id)
	}
	before := active.allowed.Load()
	if err := active.cluster.Admin().DenyWrite(within(t), gatewayPrincipal, []string{"orders"}); err != nil {
		t.Fatal(err)
	}
	// A loop looks first, and may see it before the test does.
	w.eventually("the late denial is in force, and seen", func() bool { return active.allowed.Load() > before })
	w.eventually("and lifted", fenced(false))
	return w.settled(share.Epoch)
}

// realSite opens a real cluster of the test as its admin, and as a gateway, and creates
// the topic of the load there.
func realSite(t *testing.T, id spillway.SiteID, bootstrap []string, users map[string]string) (cluster, asGateway *kafka.Cluster) {
	t.Helper()
	open := func(user string) *kafka.Cluster {
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: bootstrap, SASL: &conn.SASL{Mechanism: "SCRAM-SHA-256", User: user, Password: users[user]}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cluster, asGateway = open("admin"), open("gateway")
	t.Cleanup(func() {
		if err := asGateway.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := cluster.Admin().CreateTopic(within(t), "orders", partitions, 1, nil); err != nil {
		t.Fatal(err)
	}
	return cluster, asGateway
}
