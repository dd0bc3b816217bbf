package control

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"runtime/metrics"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/mirror"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

var (
	manyShares     = flag.Int("shares", 1000, "BenchmarkMoveMany: how many shares move at once")
	manyPartitions = flag.Int("partitions", 100, "BenchmarkMoveMany: partitions of each")
	manyLease      = flag.Duration("lease", coordination.LeaseTTL, "BenchmarkMoveMany: how long leases last; longer on a machine that has no time for them")
	manyProfile    = flag.String("profiles", "", "BenchmarkMoveMany: a folder for profiles of the processor, one for each part")
)

// many is some sites with many shares, and what control does with them for real: loops,
// drivers, followers, leases, map topics. Partitions and their logs are simulated and answer
// at once, and so are mirrors and gateways: they do what is asked of them and nothing more.
type many struct {
	t        testing.TB
	memory   *coordtest.Memory
	store    coordination.Store // as the test sees it
	topology *spillway.Topology
	sites    map[spillway.SiteID]*manySite
	order    []spillway.SiteID
	counts   manyCounts

	mu     sync.Mutex
	faults map[string]int // actions that failed, and how often
}

// manyCounts is what was asked of the store and of the sites.
type manyCounts struct {
	puts, gets, lists, metadata, named, logEnds, partitions atomic.Int64
	watched                                                 atomic.Int64 // values written that every hub decodes
	records                                                 atomic.Int64 // writes of records of shares, also those that came too late
}

type manySite struct {
	m       *many
	id      spillway.SiteID
	server  *embedded.Cluster
	cluster *manyCluster
	store   coordination.Store
	mirror  *manyMirror
	follow  *Follower
	control *Control
	gateway *manyGateway
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// The log of each partition ends here, at all sites.
const (
	manyBase = 1000
	manyEnd  = 100
)

// quick has leases and probes of the other tests of this package.
func newMany(t testing.TB, shares, partitions int, quick bool) *many {
	t.Helper()
	m := &many{t: t, memory: coordtest.NewMemory(), order: []spillway.SiteID{"east", "west", "north"}, sites: map[spillway.SiteID]*manySite{}, faults: map[string]int{}}
	m.store = m.memory
	var sites []spillway.Site
	for _, id := range m.order {
		sites = append(sites, spillway.Site{ID: id})
	}
	var groups []spillway.FailoverGroup
	all := map[string]broker.TopicMetadata{}
	for i := range shares {
		topic := broker.TopicMetadata{Name: fmt.Sprintf("topic-%04d", i)}
		for p := range int32(partitions) {
			topic.Partitions = append(topic.Partitions, broker.PartitionMetadata{Partition: p})
		}
		all[topic.Name] = topic
		groups = append(groups, spillway.FailoverGroup{
			Name: fmt.Sprintf("group-%04d", i), Kind: spillway.Ordered, Topics: []string{topic.Name}, Sites: m.order, OffsetBase: manyBase, ReservedBlock: 1000,
			Ack:      spillway.AckPolicy{Sites: 1},
			HoldMax:  10 * time.Minute, // on a busy machine all are to move nevertheless
			Failover: spillway.AutomaticFailover{Enabled: true, After: time.Second, LossRecordsMax: 1000, PerHourMax: 10},
		})
	}
	m.topology = spillway.NewTopology("shop", "shop-1", sites, groups)
	access := map[spillway.SiteID]Access{}
	for _, id := range m.order {
		server, err := embedded.Start(embedded.Config{Site: id, Topics: map[string]int32{}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(true)})
		if err != nil {
			t.Fatal(err)
		}
		s := &manySite{m: m, id: id, server: server, cluster: &manyCluster{Cluster: c, counts: &m.counts, topics: all}}
		s.store = coordination.ShareWatches(manyStore{m.memory, &m.counts})
		m.sites[id], access[id] = s, Access{Cluster: s.cluster}
		w := maptopic.NewWriter(t.Context(), s.cluster, 1)
		if err := w.EnsureTopic(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	for _, id := range m.order {
		m.sites[id].start(access, quick)
	}
	t.Cleanup(func() {
		for _, s := range m.sites {
			s.stop()
		}
		for _, s := range m.sites {
			_ = s.cluster.Close() // nothing is lost with it
			_ = s.server.Close()  // a test may have killed it
		}
	})
	return m
}

func (s *manySite) start(access map[spillway.SiteID]Access, quick bool) {
	t := s.m.t
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.mirror = &manyMirror{s: s, writer: maptopic.NewWriter(ctx, s.cluster, 1), reader: maptopic.Tail(ctx, s.cluster, nil), assigned: map[spillway.ShareID]mirror.Assignment{}}
	events := Events{
		ActionFailed: func(_ spillway.ShareID, what string, err error) { s.m.fault(what, err) },
		FollowFailed: func(_ spillway.ShareID, state failover.State, err error) { s.m.fault("follow in "+string(state), err) },
	}
	follow := FollowerConfig{Topology: s.m.topology, Store: s.store, Cluster: s.cluster, Mirror: s.mirror, Worker: "1", Events: events}
	loop := Config{Topology: s.m.topology, Store: s.store, Site: s.id, Sites: access, HoldDown: time.Second, HearSites: time.Second, ProbeTimeout: 5 * time.Second, Events: events}
	follow.LeaseTTL, loop.LeaseTTL = *manyLease, *manyLease
	if quick {
		follow.LeaseTTL, loop.LeaseTTL, loop.LeaseMargin, loop.ProbeInterval, loop.HoldDown = testTTL, testTTL, testTTL/4, testProbe, time.Millisecond
		loop.TakeoverAfter = 10 * time.Second // on a busy machine the others would drive too, and ask the same
	}
	s.follow = NewFollower(follow)
	var err error
	s.control, err = New(loop)
	if err != nil {
		t.Fatal(err)
	}
	s.gateway = newManyGateway(s, follow.LeaseTTL)
	s.wg.Go(func() { _ = s.follow.Run(ctx) })  // ends with ctx
	s.wg.Go(func() { _ = s.control.Run(ctx) }) // ends with ctx
	s.wg.Go(func() { s.gateway.run(ctx) })
}

// stop ends all that runs at the site, without a word to anybody.
func (s *manySite) stop() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.wg.Wait()
	s.mirror.writer.Close()
	s.mirror.reader.Close()
	s.cancel = nil
}

// kill is stop with the site's brokers.
func (s *manySite) kill() {
	s.cluster.down.Store(true)
	_ = s.server.Close()
	s.stop()
}

func (m *many) fault(what string, err error) {
	text := err.Error()
	if len(text) > 200 {
		text = text[:200]
	}
	if errors.Is(err, context.Canceled) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[what+": "+text]++
}

func (m *many) ids() []spillway.ShareID {
	var ids []spillway.ShareID
	for _, g := range m.topology.Groups() {
		ids = append(ids, spillway.ShareID{Group: g.Name})
	}
	return ids
}

func (m *many) records() []failover.Share {
	var all []failover.Share
	for _, e := range m.memory.Peek(failover.Keys("shop").Shares()) {
		s, err := failover.Decode(e.Value)
		if err != nil {
			m.t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

// await looks now and then until all shares are as they should be.
func (m *many) await(what string, most time.Duration, ok func(failover.Share) bool) {
	m.t.Helper()
	for limit := time.Now().Add(most); ; time.Sleep(100 * time.Millisecond) {
		all := m.records()
		missing := slices.DeleteFunc(slices.Clone(all), ok)
		if len(missing) == 0 && len(all) == len(m.ids()) {
			return
		}
		if time.Now().After(limit) {
			states := map[string]int{}
			for _, s := range missing {
				states[fmt.Sprintf("%s at %s", s.State, s.Active)]++
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.t.Fatalf("%s: of %d shares %d have a record, and these are not there: %v\nfaults: %v", what, len(m.ids()), len(all), states, m.faults)
		}
	}
}

// settled waits until all shares stand still at a site, and the others say that they follow.
func (m *many) settled(site spillway.SiteID, most time.Duration) {
	m.t.Helper()
	epochs := map[string]spillway.Epoch{}
	m.await("all at "+string(site), most, func(s failover.Share) bool {
		epochs[s.ID().String()] = s.Epoch
		return s.State == failover.Stable && s.Active == site
	})
	for limit := time.Now().Add(most); ; time.Sleep(100 * time.Millisecond) {
		behind := ""
		for _, s := range m.sites {
			if s.cancel == nil {
				continue
			}
			var l failover.MirrorLease
			e, err := m.store.Get(context.Background(), failover.Keys("shop").Mirror(s.id, "1"))
			if err != nil || json.Unmarshal(e.Value, &l) != nil {
				behind = "the lease of " + string(s.id)
				continue
			}
			for id, epoch := range epochs {
				if f := l.Following[id]; f.Epoch != epoch || f.Problem != "" || f.CatchingUp {
					behind = fmt.Sprintf("%s about %s: %+v, not epoch %d", s.id, id, f, epoch)
				}
			}
		}
		if behind == "" {
			return
		}
		if time.Now().After(limit) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.t.Fatalf("not all follow: %s\nfaults: %v", behind, m.faults)
		}
	}
}

// switchover begins a move of every share, as so many commands at once would.
func (m *many) switchover(to spillway.SiteID) {
	m.t.Helper()
	o := NewOperator(m.topology, m.store, nil)
	h := m.sites[to].control.hub // what a command would have looked at
	var wg sync.WaitGroup
	turns, limit := make(chan struct{}, 32), time.Now().Add(time.Minute)
	for _, g := range m.topology.Groups() {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			for {
				share, version, err := o.share(context.Background(), g.Name)
				if err != nil {
					m.t.Error(err)
					return
				}
				view := failover.View{Now: time.Now().UTC(), NewMask: newMask(), Sites: h.siteViews(g, share.ID(), h.judgements(g.Sites, m.order), nil)}
				next, err := failover.Begin(share, failover.Request{Kind: failover.Switchover, Target: to, Who: "test", Why: "all at once"}, view, o.limits(g))
				if err == nil {
					err = o.write(context.Background(), next, version, "switchover of "+g.Name, "test", "all at once")
				}
				if errors.Is(err, coordination.ErrConflict) || errors.Is(err, failover.ErrRefused) && time.Now().Before(limit) {
					time.Sleep(20 * time.Millisecond) // on a busy machine somebody has just not been heard
					continue
				}
				if err != nil {
					m.t.Error(err)
				}
				return
			}
		})
	}
	wg.Wait()
}

// opens counts the moves that opened, and those that were given up.
func (m *many) opens() (opened, givenUp int) {
	for _, s := range m.records() {
		for _, t := range s.Terms[1:] {
			if t.Continues {
				givenUp++
			} else {
				opened++
			}
		}
	}
	return opened, givenUp
}

// first is when the first of the moves that have begun since began; zero: none has.
func (m *many) first(since time.Time) (first time.Time) {
	for _, s := range m.records() {
		for _, p := range s.Passages {
			if p.State == failover.Fencing && p.At.After(since) && (first.IsZero() || p.At.Before(first)) {
				first = p.At
			}
		}
	}
	return first
}

// manyStore counts.
type manyStore struct {
	coordination.Store
	counts *manyCounts
}

func (s manyStore) Get(ctx context.Context, key string) (coordination.Entry, error) {
	s.counts.gets.Add(1)
	return s.Store.Get(ctx, key)
}

func (s manyStore) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	s.counts.lists.Add(1)
	return s.Store.List(ctx, prefix)
}

func (s manyStore) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	s.counts.puts.Add(1)
	keys := failover.Keys("shop")
	if strings.HasPrefix(key, keys.Shares()) {
		s.counts.records.Add(1)
	}
	for _, prefix := range []string{keys.Moves(), keys.Mirrors(), keys.Ballots(), keys.DrainedAll(), keys.Automation()} {
		if strings.HasPrefix(key, prefix) {
			s.counts.watched.Add(1)
		}
	}
	return s.Store.Put(ctx, key, value, version)
}

func (s manyStore) Txn(ctx context.Context, ops []coordination.Op) error {
	s.counts.puts.Add(1)
	for _, op := range ops {
		if strings.HasPrefix(op.Key, failover.Keys("shop").Shares()) && !op.Check {
			s.counts.records.Add(1)
		}
	}
	return s.Store.Txn(ctx, ops)
}

// manyCluster has an embedded site's connections, map topic and canary, and simulated topics.
type manyCluster struct {
	*kafka.Cluster
	counts *manyCounts
	topics map[string]broker.TopicMetadata
	down   atomic.Bool
	// asks is told of each question for log ends, and may fail it; nil: all are answered.
	asks atomic.Pointer[func(context.Context, []spillway.TopicPartition) error]
}

var errDown = errors.New("the site is down")

func (c *manyCluster) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	if c.down.Load() {
		return broker.Metadata{}, errDown
	}
	if len(topics) > 0 && strings.HasPrefix(topics[0], spillway.InternalTopicPrefix) {
		return c.Cluster.Metadata(ctx, topics...)
	}
	if len(topics) > 0 {
		c.counts.named.Add(int64(len(topics)))
		md := broker.Metadata{Topics: map[string]broker.TopicMetadata{}}
		for _, name := range topics {
			md.Topics[name] = c.topics[name]
		}
		return md, nil
	}
	c.counts.metadata.Add(1)
	// As an answer is decoded: anew, partition by partition.
	md := broker.Metadata{Topics: make(map[string]broker.TopicMetadata, len(c.topics))}
	for name, t := range c.topics {
		t.Partitions = slices.Clone(t.Partitions)
		md.Topics[name] = t
	}
	return md, nil
}

func (c *manyCluster) Dial(ctx context.Context, node int32) (*conn.Conn, error) {
	if c.down.Load() {
		return nil, errDown
	}
	return c.Cluster.Dial(ctx, node)
}

func (c *manyCluster) Leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	if c.down.Load() {
		return -1, errDown
	}
	return c.Cluster.Leader(ctx, tp)
}

func (c *manyCluster) Admin() broker.Admin { return manyAdmin{c.Cluster.Admin(), c} }

type manyAdmin struct {
	broker.Admin
	c *manyCluster
}

func (a manyAdmin) ends(tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if a.c.down.Load() {
		return nil, errDown
	}
	a.c.counts.logEnds.Add(1)
	a.c.counts.partitions.Add(int64(len(tps)))
	ends := make(map[spillway.TopicPartition]spillway.LocalOffset, len(tps))
	for _, tp := range tps {
		ends[tp] = manyEnd
	}
	return ends, nil
}

func (a manyAdmin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if asks := a.c.asks.Load(); asks != nil {
		if err := (*asks)(ctx, tps); err != nil {
			return nil, err
		}
	}
	return a.ends(tps)
}

func (a manyAdmin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if len(tps) == 1 && strings.HasPrefix(tps[0].Topic, spillway.InternalTopicPrefix) && !a.c.down.Load() {
		return a.Admin.HighWatermarks(ctx, tps)
	}
	return a.ends(tps)
}

func (a manyAdmin) TopicConfigs(context.Context, string) (map[string]broker.ConfigValue, error) {
	return map[string]broker.ConfigValue{"cleanup.policy": {Value: "delete"}}, nil
}

func (a manyAdmin) TopicValues(context.Context, []string, string) (map[string]string, error) {
	return nil, nil
}

func (a manyAdmin) TopicSettings(context.Context, []string) (map[string]map[string]string, error) {
	return nil, nil
}

// manyMirror does at once what is asked of it, and keeps the site's map for real.
type manyMirror struct {
	s      *manySite
	writer *maptopic.Writer
	reader *maptopic.Reader

	mu       sync.Mutex
	assigned map[spillway.ShareID]mirror.Assignment
}

func (m *manyMirror) partitions(id spillway.ShareID) []spillway.TopicPartition {
	g, _ := m.s.m.topology.Group(id.Group)
	var tps []spillway.TopicPartition
	for _, p := range m.s.cluster.topics[g.Topics[0]].Partitions {
		tps = append(tps, spillway.TopicPartition{Topic: g.Topics[0], Partition: p.Partition})
	}
	return tps
}

func (m *manyMirror) Know(a mirror.Assignment) error { return nil }

func (m *manyMirror) Assign(ctx context.Context, a mirror.Assignment) error {
	m.mu.Lock()
	m.assigned[a.Share] = a
	m.mu.Unlock()
	if a.Source != "" || a.Epoch > 1 {
		return nil
	}
	_, err := m.start(ctx, a.Share, 1, a.Mask, func(spillway.TopicPartition) spillway.Offset { return manyBase + manyEnd })
	return err
}

// start opens an epoch in the map.
func (m *manyMirror) start(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, at func(spillway.TopicPartition) spillway.Offset) (int64, error) {
	var entries []maptopic.Entry
	for _, tp := range m.partitions(id) {
		entries = append(entries, maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: epoch, Virtual: at(tp), Local: manyEnd, Mask: mask, Worker: "1"}))
	}
	position, err := m.writer.Save(ctx, entries...)
	if err != nil {
		return 0, err
	}
	return position, m.reader.WaitFor(ctx, position)
}

func (m *manyMirror) Join(context.Context, mirror.Assignment) error { return mirror.ErrNotShared }
func (m *manyMirror) Gather(spillway.ShareID, spillway.Epoch) error { return nil }
func (m *manyMirror) HurryGroups(spillway.ShareID)                  {}
func (m *manyMirror) LogGap(context.Context, maptopic.Gap) error    { return nil }
func (m *manyMirror) Map() *maptopic.Reader                         { return m.reader }
func (m *manyMirror) Arm(context.Context, spillway.ShareID, spillway.Epoch, spillway.SiteID) error {
	return nil
}

func (m *manyMirror) CopyGroups(context.Context, spillway.ShareID, spillway.SiteID) error { return nil }

func (m *manyMirror) Begun(context.Context, spillway.ShareID, spillway.Epoch) (bool, error) {
	return false, nil
}

func (m *manyMirror) RemoveMembers(context.Context, spillway.ShareID, spillway.Epoch) error {
	return nil
}

func (m *manyMirror) Stop(_ context.Context, id spillway.ShareID, _ spillway.Epoch) (map[spillway.TopicPartition]spillway.Offset, error) {
	return m.Ends(id), nil
}

func (m *manyMirror) CatchUp(_ context.Context, id spillway.ShareID, _ spillway.Epoch, _ map[spillway.TopicPartition]spillway.SiteID, _ map[spillway.TopicPartition]spillway.Offset) (map[spillway.TopicPartition]spillway.Offset, error) {
	return m.Ends(id), nil
}

func (m *manyMirror) OpenEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (int64, error) {
	return m.start(ctx, id, epoch, mask, func(tp spillway.TopicPartition) spillway.Offset { return start[tp] })
}

func (m *manyMirror) OpenLossyEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (int64, error) {
	return m.OpenEpoch(ctx, id, epoch, mask, start)
}

func (m *manyMirror) Ends(id spillway.ShareID) map[spillway.TopicPartition]spillway.Offset {
	ends := map[spillway.TopicPartition]spillway.Offset{}
	for _, tp := range m.partitions(id) {
		ends[tp] = manyBase + manyEnd
	}
	return ends
}

func (m *manyMirror) DurableEnds(_ context.Context, id spillway.ShareID) (map[spillway.TopicPartition]spillway.Offset, error) {
	return m.Ends(id), nil
}

func (m *manyMirror) Flows() []mirror.FlowInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	var flows []mirror.FlowInfo
	for id, a := range m.assigned {
		if a.Source != "" {
			flows = append(flows, mirror.FlowInfo{Share: id, Epoch: a.Epoch, Source: a.Source, Partitions: len(m.partitions(id))})
		}
	}
	return flows
}

// manyGateway holds a lease and confirms, share by share and several at once.
type manyGateway struct {
	s       *manySite
	id      spillway.GatewayID
	boot    string
	lease   *coordination.Lease
	seen    map[string]uint64
	turns   chan struct{}
	running sync.WaitGroup
}

func newManyGateway(s *manySite, ttl time.Duration) *manyGateway {
	g := &manyGateway{s: s, id: spillway.GatewayID(s.id + "-gw"), boot: "1", seen: map[string]uint64{}, turns: make(chan struct{}, 32)}
	g.lease = coordination.NewLease(coordination.LeaseConfig{
		Store: s.store, Key: failover.Keys("shop").Gateway(g.id), Self: g.boot, Owner: bootOf, TTL: ttl, Every: ttl / 4,
		Value: func(beat uint64) []byte {
			b, _ := json.Marshal(layout.GatewayLease{ID: g.id, Boot: g.boot, Site: s.id, Host: string(s.id), Port: 9092, Beat: beat})
			return b
		},
	})
	return g
}

func (g *manyGateway) run(ctx context.Context) {
	g.running.Go(func() { g.lease.Run(ctx) })
	_ = g.s.store.Watch(ctx, failover.Keys("shop").Shares(), func(entries []coordination.Entry, _ error) { // ends with ctx
		for _, e := range entries {
			if g.seen[e.Key] == e.Version {
				continue
			}
			g.seen[e.Key] = e.Version
			share, err := failover.Decode(e.Value)
			if err != nil || share.State == failover.Stable {
				continue
			}
			g.running.Go(func() { g.confirm(ctx, share) })
		}
	})
	g.running.Wait()
}

func (g *manyGateway) confirm(ctx context.Context, share failover.Share) {
	select {
	case g.turns <- struct{}{}:
		defer func() { <-g.turns }()
	case <-ctx.Done():
		return
	}
	r := failover.GatewayReport{Gateway: g.id, Boot: g.boot, GroupsDrained: true}
	switch _, serves := share.Serves(); {
	case share.State == failover.Open:
		r.Drained, r.Opened = true, true
	case !serves:
		r.Drained = true
	}
	key := failover.Keys("shop").GatewayReport(share.ID(), share.Epoch, g.id)
	value, _ := json.Marshal(r)
	for ctx.Err() == nil {
		e, _ := g.s.store.Get(ctx, key) // version 0 if absent
		var before failover.GatewayReport
		if e.Version > 0 && json.Unmarshal(e.Value, &before) == nil && (before.Opened || before == r) {
			return
		}
		if _, err := g.s.store.Put(ctx, key, value, e.Version); err == nil {
			return
		}
	}
}

// Many shares move at once, by commands and since the site that serves them dies. What is
// decoded and asked of sites is in proportion to them, and nobody changes what all loops
// of a process share.
func TestManySharesMoveAtOnce(t *testing.T) {
	t.Parallel()
	const shares, partitions = 24, 4
	m := newMany(t, shares, partitions, true)
	m.settled("east", time.Minute)
	began, at := m.counts.sum(), time.Now()
	m.switchover("west")
	m.settled("west", time.Minute)
	if opened, givenUp := m.opens(); opened != shares || givenUp != 0 {
		t.Errorf("%d moves opened, %d were given up", opened, givenUp)
	}
	// A move asks for topics at both sites, for what only one of them has and for log ends,
	// again by each of three loops at most if a write came too late. All topics are listed for
	// all shares together.
	if c, looks := m.counts.sum().less(began), 1+int64(time.Since(at)/measureEvery); c.metadata > 3*2*looks || c.named > 3*c.records {
		t.Errorf("%d shares: %s", shares, c)
	}
	m.sites["west"].kill()
	m.await("all elsewhere", time.Minute, func(s failover.Share) bool { return s.Active != "west" && s.State == failover.Stable })
	for _, id := range []spillway.SiteID{"east", "north"} {
		m.sites[id].stop()
		h := m.sites[id].control.hub
		if most := int(m.counts.watched.Load()); h.digest.decodes > most {
			t.Errorf("%s: %d values were decoded of %d that were ever written", id, h.digest.decodes, most)
		}
		again := newDigest(h.keys)
		for prefix, entries := range h.content {
			again.take(prefix, entries)
		}
		again.decodes = h.digest.decodes
		if !reflect.DeepEqual(again, h.digest) {
			t.Errorf("%s: what was decoded is not what was read any more: somebody has changed it\n%+v\n%+v", id, again, h.digest)
		}
	}
}

// A thousand shares of a hundred partitions start, rest, are moved at once by commands and
// then by the death of the site that serves them (issue 6: control work of at most 10 s,
// memory bounded). Processor and heap are those of the whole process: three sites, the
// store, and what is simulated. Run it with -benchtime 1x.
func BenchmarkMoveMany(b *testing.B) {
	for range b.N {
		m := newMany(b, *manyShares, *manyPartitions, false)
		m.measure("start", func() { m.settled("east", 10*time.Minute) })
		m.measure("rest", func() { time.Sleep(5 * time.Second) })
		m.measure("switchover", func() {
			m.switchover("west")
			m.await("open at west", 10*time.Minute, func(s failover.Share) bool { return s.Active == "west" })
		})
		m.measure("settle", func() { m.settled("west", 10*time.Minute) })
		m.measure("failover", func() {
			m.sites["west"].kill()
			m.await("open elsewhere", 10*time.Minute, func(s failover.Share) bool { return s.Active != "west" })
		})
		if _, givenUp := m.opens(); givenUp > 0 {
			b.Errorf("%d moves were given up", givenUp)
		}
	}
}

// measure tells what a part took.
func (m *many) measure(what string, do func()) {
	m.t.Helper()
	m.mu.Lock()
	m.faults = map[string]int{}
	m.mu.Unlock()
	if *manyProfile != "" {
		f, err := os.Create(*manyProfile + "/" + what + ".pprof")
		if err != nil {
			m.t.Fatal(err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			m.t.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	before, begun, used, peak := m.counts.sum(), time.Now(), processor(), watchHeap()
	do()
	took, work, since := time.Since(begun), processor()-used, ""
	if first := m.first(begun); !first.IsZero() {
		since = fmt.Sprintf(" (%.1f s since the first one began)", time.Since(first).Seconds())
	}
	// At once: a benchmark logs at its end, and this one takes minutes.
	fmt.Printf("%-10s %6.1f s%s, %6.1f s of processor, %5d MiB of heap at most, %s\n", what, took.Seconds(), since, work.Seconds(), peak()>>20, m.counts.sum().less(before))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, fault := range slices.Sorted(maps.Keys(m.faults)) {
		if i < 5 {
			fmt.Printf("    %d × %s\n", m.faults[fault], fault)
		}
	}
}

type manySum struct {
	puts, gets, lists, metadata, named, logEnds, partitions, records int64
	at                                                               time.Time
}

func (c *manyCounts) sum() manySum {
	return manySum{puts: c.puts.Load(), gets: c.gets.Load(), lists: c.lists.Load(), metadata: c.metadata.Load(), named: c.named.Load(), logEnds: c.logEnds.Load(), partitions: c.partitions.Load(), records: c.records.Load()}
}

func (r manySum) less(b manySum) manySum {
	return manySum{puts: r.puts - b.puts, gets: r.gets - b.gets, lists: r.lists - b.lists, metadata: r.metadata - b.metadata, named: r.named - b.named, logEnds: r.logEnds - b.logEnds, partitions: r.partitions - b.partitions, records: r.records - b.records}
}

func (r manySum) String() string {
	return fmt.Sprintf("store: %d writes (%d of records), %d reads, %d listings; sites: asked %d times for all topics, for %d by name, %d times for ends of %d partitions", r.puts, r.records, r.gets, r.lists, r.metadata, r.named, r.logEnds, r.partitions)
}

// processor is the processor time of this process so far.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// watchHeap looks at the heap until it is asked how large it was at most.
func watchHeap() (most func() uint64) {
	peak, stop, done := uint64(0), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(stop); <-done; return peak }
}
