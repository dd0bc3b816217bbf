package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/failover"
	"spillway/federation/preflight"
)

// cramped is a site with disks of which little is left, and of which a byte stands for a
// MiB. With silent, its brokers do not answer when they are asked for them.
type cramped struct {
	broker.Cluster
	usable int64
	silent *atomic.Bool
}

type crampedAdmin struct {
	broker.Admin
	of cramped
}

func (c cramped) Admin() broker.Admin { return crampedAdmin{c.Cluster.Admin(), c} }

func (a crampedAdmin) LogDirs(ctx context.Context, tps []spillway.TopicPartition) (map[int32][]broker.LogDir, error) {
	if a.of.silent.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	brokers, err := a.Admin.LogDirs(ctx, tps)
	for _, dirs := range brokers {
		for i := range dirs {
			dirs[i].Path, dirs[i].TotalBytes, dirs[i].UsableBytes = "/data", a.of.usable, a.of.usable
			for tp := range dirs[i].Sizes {
				dirs[i].Sizes[tp] <<= 20
			}
		}
	}
	return brokers, err
}

// OffsetsForTime tells of records that came at the same rate for a long time: a half of them
// in the last hour, a quarter in the one before.
func (a crampedAdmin) OffsetsForTime(ctx context.Context, tps []spillway.TopicPartition, milliseconds int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	part := spillway.LocalOffset(2)
	if time.Since(time.UnixMilli(milliseconds)) > 90*time.Minute {
		part = 4
	}
	ends, err := a.Admin.HighWatermarks(ctx, tps)
	for tp := range ends {
		ends[tp] /= part
	}
	return ends, err
}

// A target without room for what the group writes is refused, unless a person says to go
// on. One that does not tell of its disks in time is told of, and delays the move no more
// than any other look at the sites.
func TestASwitchoverToASiteWithoutRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	silent := &atomic.Bool{}
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{}
	for id, s := range w.sites {
		w.operator.Sites[id] = cramped{s.cluster, 1 << 30, silent}
	}
	w.operator.Waiting = nil
	w.settled(1)
	for _, n := range []int{40, 5} {
		w.produce("east", strings.Repeat("a", n), n)
	}
	dry := func() (Plan, bool) {
		plan, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", true)
		return plan, err == nil
	}
	found := func(plan Plan, about string) []preflight.Finding {
		return slices.DeleteFunc(slices.Clone(plan.Findings), func(f preflight.Finding) bool { return f.About != about })
	}
	var plan Plan
	w.eventually("it would be refused", func() (ok bool) { plan, ok = dry(); return ok && len(plan.Refused) == 1 })
	if f := found(plan, preflight.AboutDisks); len(f) != 1 || !strings.Contains(f[0].What, "disks of west have no room for 1h of what the group writes: disk of broker 0 (/data) has 1.0 GiB left, the group writes ") {
		t.Errorf("%+v", plan.Findings)
	}
	w.eventually("it is refused", func() bool {
		_, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
		return err != nil && strings.Contains(err.Error(), "--accept disks")
	})

	w.eventually("a failover is told of it, and of no flag that it has not", func() bool {
		plan, err := w.operator.Failover(within(t), "orders", "west", -1, "ann", "", true)
		f := found(plan, preflight.AboutDisks)
		return err == nil && len(plan.Refused) == 0 && len(f) == 1 && !strings.Contains(f[0].What, "--accept")
	})

	silent.Store(true)
	began := time.Now()
	w.eventually("not told in time", func() (ok bool) { began = time.Now(); plan, ok = dry(); return ok })
	if f := found(plan, preflight.AboutDisks); len(f) != 2 || f[0].Refuses || !strings.HasPrefix(f[0].What, "disks of west could not be checked: ") {
		t.Errorf("%+v", plan.Findings)
	}
	if took := time.Since(began); took < forecastMax {
		t.Errorf("it took %s", took)
	}
	silent.Store(false)

	w.operator.Accept = []string{preflight.AboutDisks}
	w.eventually("it begins where a person says so", func() bool {
		var err error
		plan, err = w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
		return err == nil
	})
	if f := found(plan, preflight.AboutDisks); len(f) != 1 || !f[0].Accepted {
		t.Errorf("%+v", plan.Findings)
	}
	if share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != "west" || share.State != failover.Stable {
		t.Errorf("%+v, %v", share, err)
	}
	audit, err := w.operator.Audit(within(t))
	if err != nil || !slices.ContainsFunc(audit, func(a failover.AuditEntry) bool {
		return a.What == "switchover of orders from east to west, accepted: disks"
	}) {
		t.Errorf("%+v, %v", audit, err)
	}
}

// told is a site that tells of rights, quotas and consumer groups what a test says.
type told struct {
	broker.Cluster
	rights []spillway.ACL
	quotas map[broker.QuotaEntity]map[string]float64
	groups []broker.GroupListing
	next   bool // it serves the groups of KIP-848
}

type toldAdmin struct {
	broker.Admin
	of *told
}

func (c *told) Admin() broker.Admin { return toldAdmin{c.Cluster.Admin(), c} }

// Capabilities are what is usual, as of a site that was not asked yet.
func (c *told) Capabilities() broker.Capabilities {
	can := c.Cluster.Capabilities()
	can.ConsumerGroupV2 = true
	return can
}

func (a toldAdmin) Features(ctx context.Context) (map[string]int16, error) {
	levels, err := a.Admin.Features(ctx)
	if !a.of.next {
		delete(levels, "group.version")
	}
	return levels, err
}

func (a toldAdmin) AllACLs(context.Context) ([]spillway.ACL, error) { return a.of.rights, nil }

func (a toldAdmin) Quotas(context.Context) (map[broker.QuotaEntity]map[string]float64, error) {
	return a.of.quotas, nil
}

func (a toldAdmin) ListGroups(context.Context) ([]broker.GroupListing, error) {
	return a.of.groups, nil
}

// What clients may do and use at the active site is looked for at the target; a failover
// that a person asks for does not wait for what it could not compare.
func TestAPlanComparesWhatClientsMayDoAndUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) {
		g.ConsumerGroups, g.TransactionalIDs = []string{"shop*"}, []string{"pay-*"}
	}})
	allow := func(resource, name, operation string) spillway.ACL {
		return spillway.ACL{Resource: resource, Pattern: spillway.ACLLiteral, Name: name, Principal: "User:alice", Host: "*", Operation: operation, Permission: "ALLOW"}
	}
	groups := []broker.GroupListing{{ID: "shop-next", State: "Stable", Type: "consumer"}, {ID: "shop-idle", State: "Empty", Type: "consumer"}, {ID: "shop-old", State: "Stable", Type: "classic"}, {ID: "other", State: "Stable", Type: "consumer"}}
	east := &told{w.sites["east"].cluster, []spillway.ACL{allow(spillway.ACLTopic, "orders", "READ"), allow(spillway.ACLGroup, "*", "READ"), allow("TRANSACTIONAL_ID", "pay-1", "WRITE")},
		map[broker.QuotaEntity]map[string]float64{"user=alice": {"producer_byte_rate": 1000}}, groups, true}
	west := &told{w.sites["west"].cluster, []spillway.ACL{allow(spillway.ACLTopic, "orders", "READ")}, map[broker.QuotaEntity]map[string]float64{}, nil, false}
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{"east": east, "west": west, "north": w.sites["north"].cluster}
	w.operator.Waiting, w.operator.ByLists = nil, &authorization.Policy{}
	w.settled(1)
	var plan Plan
	said := func(what string) {
		t.Helper()
		if !slices.ContainsFunc(plan.Findings, func(f preflight.Finding) bool { return strings.Contains(f.What, what) }) {
			t.Errorf("%q is not among %+v", what, plan.Findings)
		}
	}
	w.eventually("a dry run", func() bool {
		var err error
		plan, err = w.operator.Switchover(within(t), "orders", "west", "ann", "", true)
		return err == nil
	})
	if len(plan.Refused) != 3 {
		t.Errorf("%q", plan.Refused)
	}
	said("members that speak it now would end: shop-next;")
	said("with consumer groups at west what they may do at east, 3 rights (mirrors carry such entries with mirror.acls, else create them at west): User:alice READ on shop-idle and 2 more;")
	said("with transactional ids at west what they may do at east, 1 right ")
	said("user=alice producer_byte_rate (none, not 1000)")
	w.eventually("it is refused", func() bool {
		_, err := w.operator.Switchover(within(t), "orders", "west", "ann", "", false)
		return errors.Is(err, failover.ErrRefused) && !errors.Is(err, failover.ErrBehind) && strings.Contains(err.Error(), "--accept rights") && strings.Contains(err.Error(), "--accept features")
	})
	w.eventually("a failover begins all the same", func() bool {
		var err error
		plan, err = w.operator.Failover(within(t), "orders", "west", -1, "ann", "", false)
		return err == nil
	})
	said("west was looked at alone: what it has otherwise than the site that serves is not known")
	for _, f := range plan.Findings {
		if f.Refuses || f.About == preflight.AboutRights || f.About == preflight.AboutQuotas {
			t.Errorf("%+v", f)
		}
	}
}

// logs is a site with logs of which a test says where they begin and end.
type logs struct {
	broker.Admin
	starts, since, ends map[spillway.TopicPartition]spillway.LocalOffset
	before              map[spillway.TopicPartition]spillway.LocalOffset
	all                 sync.WaitGroup // of the four questions
}

// together waits until all four are asked: who asks one after the other would never be done.
func (l *logs) together() {
	l.all.Done()
	l.all.Wait()
}

func (l *logs) LogStarts(context.Context, []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	l.together()
	return l.starts, nil
}

func (l *logs) HighWatermarks(context.Context, []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	l.together()
	return l.ends, nil
}

func (l *logs) OffsetsForTime(_ context.Context, _ []spillway.TopicPartition, milliseconds int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	l.together()
	switch milliseconds {
	case 99 * time.Hour.Milliseconds():
		return l.since, nil
	case 96 * time.Hour.Milliseconds():
		return l.before, nil
	}
	return nil, fmt.Errorf("nobody asks for %d", milliseconds)
}

func TestArrivalsAreThoseOfTheLastHour(t *testing.T) {
	type offsets = map[spillway.TopicPartition]spillway.LocalOffset
	tp := func(p int32) spillway.TopicPartition {
		return spillway.TopicPartition{Topic: "orders", Partition: p}
	}
	l := &logs{starts: offsets{tp(0): 100, tp(1): 0, tp(2): 0}, before: offsets{tp(0): 160, tp(1): -1, tp(2): 0}, since: offsets{tp(0): 190, tp(1): -1, tp(2): 0}, ends: offsets{tp(0): 200, tp(1): 50, tp(2): 10}}
	l.all.Add(4)
	sizes := func(of ...int64) broker.LogDir {
		d := broker.LogDir{Sizes: map[spillway.TopicPartition]int64{}}
		for p, n := range of {
			d.Sizes[tp(int32(p))] = n
		}
		return d
	}
	all, room := []spillway.TopicPartition{tp(0), tp(1), tp(2)}, 3*time.Hour
	read, err := readLogs(t.Context(), l, all, time.UnixMilli(100*time.Hour.Milliseconds()), room)
	if err != nil {
		t.Fatal(err)
	}
	found, unsure := arrivals(all, map[int32][]broker.LogDir{1: {sizes(900, 5, 5)}, 2: {sizes(1000, 500, 70), sizes()}}, read, room)
	if want := (preflight.Arrivals{tp(0): 100, tp(2): 70}); !maps.Equal(found, want) || !slices.Equal(unsure, all[2:]) {
		t.Errorf("%v, unsure: %v", found, unsure)
	}
}

// times counts who asks for offsets by time.
type times struct {
	shows
	asked *atomic.Int64
}

type timesAdmin struct {
	broker.Admin
	asked *atomic.Int64
}

func (c times) Admin() broker.Admin { return timesAdmin{noSettings{}, c.asked} }

func (a timesAdmin) OffsetsForTime(context.Context, []spillway.TopicPartition, int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	a.asked.Add(1)
	return nil, errNoSettings
}

// A failover is refused by no disk, and does not wait for what the group writes.
func TestAFailoverDoesNotAskHowMuchComes(t *testing.T) {
	west := times{shows{topics: map[string]broker.TopicMetadata{}}, &atomic.Int64{}}
	o := &Operator{topology: spillway.NewTopology("shop", "shop-1", nil, nil), Sites: map[spillway.SiteID]broker.Cluster{"west": west}}
	for as, want := range map[part]int64{asAlone: 0, asStandby: 2} {
		west.asked.Store(0)
		if _, err := o.inspect(t.Context(), "west", testGroup([]spillway.SiteID{"west"}), as); err != nil || west.asked.Load() != want {
			t.Errorf("%d: asked %d times, %v", as, west.asked.Load(), err)
		}
	}
}

func TestBrokersWithReplicasThatAreGone(t *testing.T) {
	md := broker.Metadata{Nodes: []broker.Node{{ID: 1}, {ID: 2}}, Topics: map[string]broker.TopicMetadata{
		"orders": {Partitions: []broker.PartitionMetadata{{Leader: 1, Replicas: []int32{1, 4, 2}}, {Partition: 1, Leader: -1, Replicas: []int32{4, 3}}}},
		"stock":  {Partitions: []broker.PartitionMetadata{{Replicas: []int32{9}}}},
	}}
	topics := map[string]preflight.Topic{"orders": {}}
	if b := brokersOf(md, topics); b.Alive != 2 || !slices.Equal(b.Absent, []int32{3, 4}) {
		t.Errorf("%+v", b)
	}
	if tps, more := partitionsOf(md, topics); len(tps) != 1 || tps[0] != orders0 || more != 0 {
		t.Errorf("%v, %d more", tps, more)
	}
	for n, want := range map[int]int{sizesMax: 0, sizesMax + 7: 7} {
		md.Topics["orders"] = broker.TopicMetadata{Partitions: make([]broker.PartitionMetadata, n)}
		if tps, more := partitionsOf(md, topics); len(tps) != sizesMax || more != want {
			t.Errorf("%d: %d, %d more", n, len(tps), more)
		}
	}
	// Who tells of no directory has one of which nothing is known.
	disks := disksOf(map[int32][]broker.LogDir{2: {}, 1: {{Path: "/b", UsableBytes: 1}, {Path: "/a", Offline: true, Sizes: map[spillway.TopicPartition]int64{orders0: 1}}}})
	if len(disks) != 3 || disks[0].Path != "/a" || !disks[0].Offline || len(disks[0].Has) != 1 || disks[1].UsableBytes != 1 || disks[2].Broker != 2 || disks[2].UsableBytes != -1 {
		t.Errorf("%+v", disks)
	}
}

func TestScopeOfEntries(t *testing.T) {
	g := testGroup([]spillway.SiteID{"east", "west"})
	g.ConsumerGroups, g.TransactionalIDs = []string{"shop*"}, []string{"pay-*"}
	other := spillway.FailoverGroup{Name: "other", Topics: []string{"stock"}, ConsumerGroups: []string{"shop-stock"}, TransactionalIDs: []string{"pay-stock"}}
	s := scopeOf(spillway.NewTopology("shop", "shop-1", []spillway.Site{
		{ID: "east", GatewayPrincipal: "User:gateway", MirrorPrincipal: "User:mirror"}, {ID: "west", GatewayPrincipal: "User:gateway"}, {ID: "north"},
	}, []spillway.FailoverGroup{g, other}), g, []string{"User:backup"})
	if !maps.Equal(s.Gateways, map[spillway.SiteID]string{"east": "User:gateway", "west": "User:gateway", "north": ""}) {
		t.Errorf("%+v", s.Gateways)
	}
	if !slices.Equal(s.Own, []string{"User:backup", "User:gateway", "User:mirror"}) || !slices.Equal(s.TransactionalIDs, g.TransactionalIDs) {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct {
		is       func(string) bool
		its, not string
	}{{s.Topic, "orders", "stock"}, {s.ConsumerGroup, "shop-api", "shop-stock"}, {s.TransactionalID, "pay-1", "pay-stock"}} {
		if !c.is(c.its) || c.is(c.not) || c.is("nobody") {
			t.Errorf("%s, %s", c.its, c.not)
		}
	}
}
