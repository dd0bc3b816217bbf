package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/mirror"
	"spillway/mirror/maptopic"
	"spillway/mirror/sitelog"
)

// leakOptions are added to by tests that need real servers.
var leakOptions []goleak.Option

func TestMain(m *testing.M) {
	if settings := os.Getenv(childSettings); settings != "" {
		fmt.Fprintln(os.Stderr, runMirrorProcess(settings)) // it is killed before
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, leakOptions...)
}

const partitions = 3

// world is some embedded sites with everything that a move needs; the gateways
// are dumb ones that keep the contract and nothing more.
type world struct {
	t        *testing.T
	store    coordination.Store
	topology *spillway.Topology
	sites    map[spillway.SiteID]*site
	told     chan StateInfo
	acks     chan AckInfo
	operator *Operator
	options  options

	mu     sync.Mutex
	acked  map[spillway.TopicPartition]map[spillway.Offset]string
	waits  []string
	failed []string
	weak   int // records acknowledged while fewer sites had them than the policy says
}

type site struct {
	w       *world
	id      spillway.SiteID
	config  embedded.Config
	server  *embedded.Cluster // nil for a real one
	cluster *kafka.Cluster    // outlives a restart of the server
	// asGateway has the gateways' credentials where there are any.
	asGateway *kafka.Cluster
	mirror    *mirror.Mirror
	processes *processes // mirror into the site instead
	maps      *maptopic.Reader
	cancel    context.CancelFunc
	control   Config
	live      context.Context // of what runs at the site
	endLoop   context.CancelFunc
	wg        sync.WaitGroup
	gateway   *gateway
	allowed   atomic.Int64 // times that control loops let gateways write here
}

// allowing is a site as control loops see it, which counts how often they let its
// gateways write.
type allowing struct {
	broker.Cluster
	times *atomic.Int64
}

type allowingAdmin struct {
	broker.Admin
	times *atomic.Int64
}

func (c allowing) Admin() broker.Admin { return allowingAdmin{c.Cluster.Admin(), c.times} }

func (a allowingAdmin) AllowWrite(ctx context.Context, principal string, topics []string) error {
	a.times.Add(1)
	return a.Admin.AllowWrite(ctx, principal, topics)
}

type options struct {
	sites []spillway.SiteID
	group func(*spillway.FailoverGroup)
	// spread makes the group an unordered one of so many partitions at each site.
	spread int32
	store  coordination.Store
	// mirror puts something between a follower and its mirror.
	mirror func(spillway.SiteID, Mirror) Mirror
	// real gives a site that is no embedded one: as mirror and control see it,
	// and as a gateway does, under the principal that is fenced.
	real func(spillway.SiteID) (cluster, asGateway *kafka.Cluster)
	// access puts something between the control loops and a site.
	access func(spillway.SiteID, Access) Access
	// children has processes of their own mirror into a site; Sites and Bootstrap are filled in.
	children map[spillway.SiteID]childConfig
}

func testGroup(sites []spillway.SiteID) spillway.FailoverGroup {
	return spillway.FailoverGroup{Name: "orders", Kind: spillway.Ordered, Topics: []string{"orders"}, Sites: sites, OffsetBase: 1000, ReservedBlock: 50, Ack: spillway.AckPolicy{Sites: 1}}
}

func testMirrorConfig(c mirror.Config) mirror.Config {
	c.Replication, c.FetchWait, c.TopicInterval = 1, 50*time.Millisecond, 100*time.Millisecond
	c.GroupInterval, c.VerifyInterval = 100*time.Millisecond, 100*time.Millisecond
	c.MetadataInterval = 2 * time.Second
	return c
}

const gatewayPrincipal = "User:gateway"

func newWorld(t *testing.T, o options) *world {
	t.Helper()
	if len(o.sites) == 0 {
		o.sites = []spillway.SiteID{"east", "west", "north"}
	}
	if o.store == nil {
		o.store = coordtest.NewMemory()
	}
	group := testGroup(o.sites)
	if o.group != nil {
		o.group(&group)
	}
	var sites []spillway.Site
	for _, id := range o.sites {
		site := spillway.Site{ID: id}
		if o.real != nil {
			site.GatewayPrincipal = gatewayPrincipal
		}
		sites = append(sites, site)
	}
	groups, topics := []spillway.FailoverGroup{group}, map[string]int32{"orders": partitions}
	if o.spread > 0 {
		groups, topics = group.Spread(o.spread, spillway.HomeFirst), map[string]int32{"orders": o.spread * int32(len(o.sites))}
	}
	w := &world{t: t, store: o.store, options: o, topology: spillway.NewTopology("shop", "shop-1", sites, groups),
		sites: map[spillway.SiteID]*site{}, told: make(chan StateInfo, 1000), acks: make(chan AckInfo, 1000), acked: map[spillway.TopicPartition]map[spillway.Offset]string{}}
	w.operator = NewOperator(w.topology, w.store, nil)
	w.operator.lookMax = 30 * time.Second // a slow machine must not look like a site that is silent
	w.operator.Waiting = func(error) bool { return true }
	w.operator.look = 300 * time.Millisecond
	for _, id := range o.sites {
		if o.real != nil {
			c, as := o.real(id)
			w.sites[id] = &site{w: w, id: id, cluster: c, asGateway: as}
			continue
		}
		config := embedded.Config{Site: id, Dir: t.TempDir(), Topics: topics}
		server, err := embedded.Start(config)
		if err != nil {
			t.Fatal(err)
		}
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(true)})
		if err != nil {
			t.Fatal(err)
		}
		config.Listen = server.Addresses()
		if o.spread > 0 {
			topics = nil // mirrors create them at the others
		}
		w.sites[id] = &site{w: w, id: id, config: config, server: server, cluster: c}
	}
	for id, c := range o.children {
		c.Site, c.Sites, c.Bootstrap = string(id), o.sites, map[spillway.SiteID][]string{}
		for other, s := range w.sites {
			if s.server != nil {
				c.Bootstrap[other] = s.server.Addresses()
			} else {
				c.Bootstrap[other] = o.children[id].Bootstrap[other]
			}
		}
		w.sites[id].processes = &processes{w: w, config: c, running: map[string]*exec.Cmd{}, stopped: map[string]bool{}, marks: map[spillway.TopicPartition]mirror.Mark{}, streams: map[string]bool{}}
	}
	for _, id := range o.sites {
		w.sites[id].start()
	}
	t.Cleanup(func() {
		for _, s := range w.sites {
			s.stop()
		}
		for _, s := range w.sites {
			_ = s.cluster.Close() // nothing is lost with it
			if s.server != nil {
				_ = s.server.Close() // some were closed by their test
			}
		}
	})
	return w
}

// restart brings a killed site back with what it had. before is done while only its
// brokers are back.
func (s *site) restart(before ...func()) {
	s.w.t.Helper()
	server, err := embedded.Start(s.config)
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.server = server
	for _, do := range before {
		do()
	}
	s.start()
}

const (
	testTTL   = 800 * time.Millisecond
	testProbe = 100 * time.Millisecond
	testQuiet = 3 * time.Second
)

func (s *site) start() {
	s.w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.setCancel(cancel)
	sources, access := map[spillway.SiteID]broker.Cluster{}, map[spillway.SiteID]Access{}
	for id, o := range s.w.sites {
		access[id] = Access{Cluster: allowing{o.cluster, &o.allowed}}
		if o.asGateway != nil {
			access[id] = Access{Cluster: allowing{o.cluster, &o.allowed}, AsGateway: o.asGateway}
		}
		if s.w.options.access != nil {
			access[id] = s.w.options.access(id, access[id])
		}
		if id != s.id {
			sources[id] = o.cluster
		}
	}
	if s.processes != nil {
		s.wg.Go(func() { s.processes.follow(ctx) })
		s.starts(ctx, nil, access)
		return
	}
	m, err := mirror.New(ctx, testMirrorConfig(mirror.Config{Worker: string(s.id) + "-1", Local: s.cluster, Sources: sources}))
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.w.mu.Lock()
	s.mirror = m
	s.w.mu.Unlock()
	s.starts(ctx, m, access)
}

// starts runs what a site has beside its mirror, and what drives that if it is here.
func (s *site) starts(ctx context.Context, m *mirror.Mirror, access map[spillway.SiteID]Access) {
	s.w.t.Helper()
	events := Events{
		StateChanged: func(i StateInfo) { s.w.told <- i },
		Waiting: func(i WaitInfo) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			s.w.waits = append(s.w.waits, i.Why)
		},
		ActionFailed: func(_ spillway.ShareID, what string, err error) { s.w.fault("%s: %s: %v", s.id, what, err) },
		FollowFailed: func(_ spillway.ShareID, state failover.State, err error) {
			s.w.fault("%s follows in %s: %v", s.id, state, err)
		},
		Acknowledging: func(i AckInfo) { s.w.acks <- i },
		Refused:       func(_ spillway.ShareID, why string) { s.w.fault("refused: %s", why) },
	}
	var driven Mirror = m
	if m != nil && s.w.options.mirror != nil {
		driven = s.w.options.mirror(s.id, m)
	}
	f := NewFollower(FollowerConfig{Topology: s.w.topology, Store: s.w.store, Cluster: s.cluster, Mirror: driven, Worker: "1", LeaseTTL: testTTL, Events: events})
	s.control = Config{Topology: s.w.topology, Store: s.w.store, Site: s.id, Sites: access, ProbeInterval: testProbe, ProbeTimeout: time.Second, ProbeFailures: 2,
		HoldDown: time.Millisecond, HearSites: time.Second, DirectEvery: 100 * time.Millisecond, DirectQuiet: testQuiet, AuditEvery: 100 * time.Millisecond, LeaseTTL: testTTL, LeaseMargin: 200 * time.Millisecond, Events: events}
	s.maps = maptopic.Tail(ctx, s.cluster, nil)
	s.w.mu.Lock()
	s.gateway = newGateway(s)
	s.w.mu.Unlock()
	if m != nil {
		s.wg.Go(func() { _ = f.Run(ctx) }) // ends with ctx
	}
	s.loop(ctx)
	s.wg.Go(func() { s.gateway.run(ctx) })
}

// loop runs the control loop apart, so that a test can kill it alone.
func (s *site) loop(ctx context.Context) {
	s.w.t.Helper()
	c, err := New(s.control)
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.live = ctx
	ctx, s.endLoop = context.WithCancel(ctx)
	s.wg.Go(func() { _ = c.Run(ctx) }) // ends with ctx
}

// anew replaces the control loop by one that knows nothing yet.
func (s *site) anew() {
	s.w.t.Helper()
	s.endLoop()
	s.loop(s.live)
}

// stop ends what runs at the site, without a word to anybody.
func (s *site) stop() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.wg.Wait()
	if s.processes != nil {
		s.processes.killAll()
	} else {
		s.mirror.Close()
	}
	s.maps.Close()
	s.setCancel(nil)
}

// setCancel is seen by the load that runs beside the test.
func (s *site) setCancel(cancel context.CancelFunc) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.cancel = cancel
}

func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, fmt.Sprintf(format, args...))
}

// eventually polls a condition; what it waits for is in the failure, with all
// that went wrong.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for limit := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("%s did not come about\nfaults: %q\nwaits: %q\nshare: %s", what, last(w.failed, 8), last(w.waits, 8), w.record().Encode())
		}
	}
}

// switchover asks for a planned move, as a person does: what is refused, since on a busy
// machine somebody has just not been heard, is asked for again.
func (w *world) switchover(to spillway.SiteID, why string) Plan {
	w.t.Helper()
	var refusal error
	for limit := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var plan Plan
		if plan, refusal = w.operator.Switchover(within(w.t), "orders", to, "test", why, false); refusal == nil {
			return plan
		}
		if time.Now().After(limit) {
			w.t.Fatal(refusal)
		}
	}
}

func last(s []string, n int) []string { return s[max(0, len(s)-n):] }

func (w *world) record() failover.Share {
	e, err := w.store.Get(context.Background(), failover.Keys("shop").Share(spillway.ShareID{Group: "orders"}))
	if err != nil {
		return failover.Share{}
	}
	s, err := failover.Decode(e.Value)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// settled waits until all sites follow the share as it stands.
func (w *world) settled(epoch spillway.Epoch) failover.Share {
	w.t.Helper()
	w.eventually(fmt.Sprintf("epoch %d, followed by all", epoch), func() bool {
		s := w.record()
		if s.State != failover.Stable || s.Epoch < epoch {
			return false
		}
		for id, site := range w.sites {
			if site.cancel == nil {
				continue
			}
			if site.processes != nil {
				following := slices.ContainsFunc(site.processes.said(), func(m failover.MirrorLease) bool {
					return m.Following["orders/0"].Epoch == s.Epoch && m.Following["orders/0"].Problem == ""
				})
				if !following {
					return false
				}
				continue
			}
			e, err := w.store.Get(context.Background(), failover.Keys("shop").Mirror(id, "1"))
			var m failover.MirrorLease
			if err != nil || json.Unmarshal(e.Value, &m) != nil || m.Following["orders/0"].Epoch != s.Epoch || m.Following["orders/0"].Problem != "" {
				return false
			}
		}
		return true
	})
	return w.record()
}

// gateway keeps a gateway's contract: lease, reserved ends, confirmations.
type gateway struct {
	s     *site
	id    spillway.GatewayID
	boot  string
	lease *coordination.Lease
	share chan failover.Share

	mu       sync.Mutex
	known    failover.Share
	version  uint64 // of known
	reserved failover.Reserved
	resVer   uint64
	inflight sync.WaitGroup
	frozen   bool // as if stopped: renews nothing, confirms nothing
	end      context.CancelFunc
}

// freeze stops the gateway as SIGSTOP would.
func (g *gateway) freeze() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.frozen = true
	g.end()
}

func newGateway(s *site) *gateway {
	g := &gateway{s: s, id: spillway.GatewayID(s.id + "-gw"), boot: fmt.Sprint(time.Now().UnixNano()), share: make(chan failover.Share, 100)}
	keys := failover.Keys("shop")
	g.lease = coordination.NewLease(coordination.LeaseConfig{
		Store: s.w.store, Key: keys.Gateway(g.id), Self: g.boot, Owner: bootOf, TTL: testTTL, Every: testTTL / 4,
		Value: func(beat uint64) []byte {
			b, _ := json.Marshal(layout.GatewayLease{ID: g.id, Boot: g.boot, Site: s.id, Host: string(s.id), Port: 9092, Beat: beat})
			return b
		},
		Confirm: func(ctx context.Context) error {
			e, err := s.w.store.Get(ctx, keys.Share(spillway.ShareID{Group: "orders"}))
			if errors.Is(err, coordination.ErrNotFound) {
				return nil
			}
			if err == nil {
				g.see(e)
			}
			return err
		},
	})
	return g
}

func (g *gateway) see(e coordination.Entry) {
	share, err := failover.Decode(e.Value)
	if err != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	// A read for the lease may come behind what the watch has shown since: it must
	// not open again what was confirmed to be closed.
	newer := share.Epoch == g.known.Epoch && e.Version > g.version
	if newer && share.State == g.known.State {
		g.known, g.version = share, e.Version // acknowledgements, nothing else
	}
	if share.Epoch > g.known.Epoch || newer && share.State != g.known.State {
		g.known, g.version = share, e.Version
		select {
		case g.share <- share:
		default:
		}
	}
}

func (g *gateway) run(ctx context.Context) {
	g.mu.Lock()
	ctx, g.end = context.WithCancel(ctx)
	g.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { g.lease.Run(ctx) })
	wg.Go(func() {
		_ = g.s.w.store.Watch(ctx, failover.Keys("shop").Shares(), func(entries []coordination.Entry, _ error) { // ends with ctx
			for _, e := range entries {
				g.see(e)
			}
		})
	})
	for {
		select {
		case <-ctx.Done():
			return
		case share := <-g.share:
			g.confirm(ctx, share)
		}
	}
}

func (g *gateway) confirm(ctx context.Context, share failover.Share) {
	g.mu.Lock()
	frozen := g.frozen
	g.mu.Unlock()
	if frozen || share.State == failover.Stable {
		return
	}
	r := failover.GatewayReport{Gateway: g.id, Boot: g.boot, GroupsDrained: true}
	if _, serves := share.Serves(); !serves {
		g.inflight.Wait() // see changed known first, so nothing new begins
		r.Drained = true
	}
	if share.State == failover.Open {
		if g.s.w.sites[share.Active].maps.WaitFor(ctx, share.MapPosition[share.Active]) != nil {
			return
		}
		r.Drained, r.Opened = true, true
	}
	key := failover.Keys("shop").GatewayReport(share.ID(), share.Epoch, g.id)
	value, _ := json.Marshal(r)
	for ctx.Err() == nil {
		e, _ := g.s.w.store.Get(ctx, key) // version 0 if absent
		if _, err := g.s.w.store.Put(ctx, key, value, e.Version); err == nil {
			return
		}
		pause(ctx, 5*time.Millisecond)
	}
}

var errNotServing = errors.New("the gateway does not serve now")

// produce writes one record through the gateway, and remembers what the client
// was told.
func (g *gateway) produce(ctx context.Context, tp spillway.TopicPartition, value string) error {
	_, err := g.send(ctx, tp, value)
	return err
}

// send is produce. written: the record is at the site, whatever the client is told.
func (g *gateway) send(ctx context.Context, tp spillway.TopicPartition, value string) (written bool, err error) {
	term := g.lease.Term()
	g.mu.Lock()
	known := g.known
	active, serves := known.Serves()
	if !serves || term == 0 || g.frozen {
		g.mu.Unlock()
		return false, errNotServing
	}
	g.inflight.Add(1)
	g.mu.Unlock()
	defer g.inflight.Done()
	at := g.s.w.sites[active]
	if err := at.maps.WaitFor(ctx, mapPosition(known)); err != nil {
		return false, err
	}
	start, open := at.maps.View(tp).Open()
	if !open {
		return false, fmt.Errorf("%w: the map of %s has no open epoch for %s", errNotServing, active, tp)
	}
	door := at.cluster
	if at.asGateway != nil {
		door = at.asGateway
	}
	base, err := produceTo(ctx, door, tp, value)
	if err != nil {
		return false, err
	}
	offset := start.Virtual + spillway.Offset(base-start.Local)
	if err := g.reserve(ctx, known, tp, offset); err != nil {
		return true, err
	}
	weak, err := g.durable(ctx, known.Current().Epoch, tp, offset)
	if err != nil {
		return true, err
	}
	if g.lease.Term() != term {
		return true, errors.New("the lease lapsed")
	}
	g.s.w.mu.Lock()
	defer g.s.w.mu.Unlock()
	if g.s.w.acked[tp] == nil {
		g.s.w.acked[tp] = map[spillway.Offset]string{}
	}
	if other, twice := g.s.w.acked[tp][offset]; twice {
		g.s.w.failed = append(g.s.w.failed, fmt.Sprintf("offset %d of %s was handed out for %s and %s", offset, tp, other, value))
	}
	g.s.w.acked[tp][offset] = value
	if weak {
		g.s.w.weak++
	}
	return true, nil
}

// durable waits until as many sites have a record as the record of the share asks
// for; weak: that was fewer than the policy says.
func (g *gateway) durable(ctx context.Context, epoch spillway.Epoch, tp spillway.TopicPartition, offset spillway.Offset) (weak bool, err error) {
	policy := g.s.w.topology.Groups()[0].Ack.Sites
	for {
		g.mu.Lock()
		known := g.known
		g.mu.Unlock()
		if _, serves := known.Serves(); !serves || known.Current().Epoch != epoch || !g.lease.Valid() {
			return false, errNotServing
		}
		have := 1
		g.s.w.mu.Lock()
		for id, s := range g.s.w.sites {
			if id != known.Active && s.has(known.ID(), tp, offset) {
				have++
			}
		}
		g.s.w.mu.Unlock()
		if have >= known.AckSites(policy) {
			return have < policy, nil
		}
		if pause(ctx, time.Millisecond); ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
}

// has tells whether a site has a record, as its mirrors say.
func (s *site) has(id spillway.ShareID, tp spillway.TopicPartition, offset spillway.Offset) bool {
	if s.processes != nil {
		return s.processes.has(tp, offset)
	}
	return s.mirror.Ends(id)[tp] > offset
}

func mapPosition(s failover.Share) int64 {
	if p, ok := s.MapPosition[s.Active]; ok {
		return p
	}
	return -1
}

func (g *gateway) reserve(ctx context.Context, known failover.Share, tp spillway.TopicPartition, offset spillway.Offset) error {
	key := failover.Keys("shop").Reserved(known.ID())
	for {
		g.mu.Lock()
		ok := g.reserved.Epoch == known.Current().Epoch && offset < g.reserved.Ends.Get(tp)
		g.mu.Unlock()
		if ok {
			return nil
		}
		e, err := g.s.w.store.Get(ctx, key)
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return err
		}
		var r failover.Reserved
		if e.Version > 0 && json.Unmarshal(e.Value, &r) != nil {
			return errors.New("reserved ends cannot be read")
		}
		if r.Epoch > known.Current().Epoch {
			return errNotServing
		}
		r.Epoch = known.Current().Epoch
		if r.Ends == nil {
			r.Ends = failover.PartitionOffsets{}
		}
		r.Ends.Set(tp, max(r.Ends.Get(tp), offset+50))
		value, _ := json.Marshal(r)
		if _, err = g.s.w.store.Put(ctx, key, value, e.Version); errors.Is(err, coordination.ErrConflict) {
			continue
		} else if err != nil {
			return err
		}
		g.mu.Lock()
		g.reserved = r
		g.mu.Unlock()
	}
}

func produceTo(ctx context.Context, c broker.Cluster, tp spillway.TopicPartition, value string) (spillway.LocalOffset, error) {
	node, err := c.Leader(ctx, tp)
	if err != nil {
		return 0, err
	}
	conn, err := c.Dial(ctx, node)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	now := time.Now().UnixMilli()
	b, err := batch.Rebuild(batch.Header{LeaderEpoch: -1, Magic: 2, BaseTimestamp: now, MaxTimestamp: now, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []batch.Record{{Value: []byte(value)}}, 0)
	if err != nil {
		return 0, err
	}
	done, err := sitelog.Produce(ctx, conn, []sitelog.ProducePart{{TopicPartition: tp, Batch: b}}, 5*time.Second)
	if err != nil {
		return 0, err
	}
	return done[0].Base, done[0].Err
}

// load produces through all gateways until stop is called; it returns how many
// records were acknowledged.
func (w *world) load() (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	counts := make([]int, partitions)
	for p := range int32(partitions) {
		wg.Go(func() {
			tp := spillway.TopicPartition{Topic: "orders", Partition: p}
			for n := 0; ctx.Err() == nil; n++ {
				value := fmt.Sprintf("%d-%d", p, n)
				for ctx.Err() == nil {
					gw := w.anyGateway(int(p) + n)
					if gw == nil || gw.produce(ctx, tp, value) != nil {
						n++ // what has no answer may be there: never send it again
						value = fmt.Sprintf("%d-%d", p, n)
						pause(ctx, 2*time.Millisecond)
						continue
					}
					counts[p]++
					pause(ctx, time.Millisecond)
					break
				}
			}
		})
	}
	return func() int {
		cancel()
		wg.Wait()
		total := 0
		for _, n := range counts {
			total += n
		}
		return total
	}
}

func (w *world) anyGateway(n int) *gateway {
	w.mu.Lock()
	defer w.mu.Unlock()
	var live []*gateway
	for _, id := range []spillway.SiteID{"east", "west", "north"} {
		if s := w.sites[id]; s != nil && s.gateway != nil && s.cancel != nil {
			live = append(live, s.gateway)
		}
	}
	if len(live) == 0 {
		return nil
	}
	return live[n%len(live)]
}

// visible reads what the site shows: value by virtual offset.
func (w *world) visible(id spillway.SiteID, tp spillway.TopicPartition) map[spillway.Offset]string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s := w.sites[id]
	ends, err := s.cluster.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.maps.CaughtUp(ctx); err != nil {
		w.t.Fatal(err)
	}
	shown := map[spillway.Offset]string{}
	err = sitelog.Scan(ctx, s.cluster, tp, 0, ends[tp], func(b sitelog.Batch) error {
		records, err := batch.Records(b.Bytes, 1<<20)
		if err != nil {
			return err
		}
		for _, r := range records {
			if v, ok := s.maps.View(tp).ToVirtual(spillway.LocalOffset(b.Header.BaseOffset + int64(r.OffsetDelta))); ok {
				shown[v] = string(r.Value)
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return shown
}

// check compares what clients were told with what a site shows. Missing records
// are counted if they lie in a burnt range; everything else is a fault.
func (w *world) check(id spillway.SiteID, share failover.Share) (missing int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.failed {
		if len(f) > 6 && f[:6] == "offset" {
			w.t.Error(f)
		}
	}
	for tp, acked := range w.acked {
		shown := w.visible(id, tp)
		at := map[string]spillway.Offset{}
		for o, v := range shown {
			if other, twice := at[v]; twice {
				w.t.Errorf("%s: record %s is at %d and %d", tp, v, o, other)
			}
			at[v] = o
		}
		for o, v := range acked {
			if shown[o] == v {
				continue
			}
			burnt := false
			for _, t := range share.Terms {
				burnt = burnt || (t.Lossy && o >= max(0, t.Verified.Get(tp)) && o < t.Start.Get(tp))
			}
			if !burnt {
				w.t.Errorf("%s: record %s was acknowledged at %d, site %s shows %q there", tp, v, o, id, shown[o])
			}
			missing++
		}
	}
	return missing
}
