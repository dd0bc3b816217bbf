// Package gatewaytest runs gateways over embedded sites for tests: the store is
// in memory, and the test plays the control loop by writing share records.
package gatewaytest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/mirror/maptopic"
)

// OffsetBase is the constant of epoch 1: no virtual offset equals the site's.
const OffsetBase = 1_000_000

// ClusterID is the virtual cluster's.
const ClusterID = "virtual-cluster"

// Group is the failover group that owns all topics and consumer groups.
const Group = "everything"

// ShareID of that group.
var ShareID = spillway.ShareID{Group: Group}

// Options of a World.
type Options struct {
	Sites    []spillway.SiteID // default east
	Gateways []spillway.GatewayID
	Topics   map[string]int32 // at every site
	Brokers  int              // per site
	// Group changes the failover group, Site a site, Gateway a gateway's configuration.
	Group func(*spillway.FailoverGroup)
	// Also are further groups, each made of a copy of that one, with its share at its first site.
	Also    []func(*spillway.FailoverGroup)
	Site    func(*spillway.Site)
	Gateway func(*federation.Config)
	// Spread makes the group an unordered one of so many partitions at each site: the
	// failover groups are Group-SITE then, each with its share at its site.
	Spread  int32
	Balance string // default spillway.HomeFirst
	// Real clusters are used instead of embedded sites; the topics must be there.
	Real map[spillway.SiteID]RealSite
}

// RealSite is a cluster of another process.
type RealSite struct {
	Config kafka.Config // how gateways reach it; site and dialer are set by Start
	Dial   []kgo.Opt    // how the test reads and writes behind their back
}

// World is a virtual cluster.
type World struct {
	Store    *coordtest.Memory
	Keys     failover.Keys
	Topology *spillway.Topology
	Sites    map[spillway.SiteID]broker.Cluster // as the gateways reach them, over Wires
	Direct   map[spillway.SiteID]broker.Cluster // as the test reaches them
	Wires    map[spillway.SiteID]*Wire
	Dial     map[spillway.SiteID][]kgo.Opt // as a client of the test's own reaches them
	Embedded map[spillway.SiteID]*embedded.Cluster
	Gateways map[spillway.GatewayID]*federation.Gateway
	Addrs    []string // of the gateways, in order

	t       testing.TB
	options Options
	stops   map[spillway.GatewayID]func()
	mu      struct {
		sync.Mutex
		serves map[spillway.GatewayID]map[spillway.ShareID]bool // has served
	}

	// The dumb mirror's state (move.go).
	writers map[spillway.SiteID]*maptopic.Writer
	start   map[spillway.SiteID]map[spillway.TopicPartition]spillway.LocalOffset // of the site's newest term
	virtual map[spillway.TopicPartition]spillway.Offset                          // start of the newest term
	session int64
}

// Start starts sites and gateways with a STABLE share of epoch 1 at the first
// site, and waits until it is served. Everything ends with the test.
func Start(t testing.TB, o Options) *World {
	t.Helper()
	if len(o.Sites) == 0 {
		o.Sites = []spillway.SiteID{"east"}
	}
	if len(o.Gateways) == 0 {
		o.Gateways = []spillway.GatewayID{"gateway-1"}
	}
	w := &World{
		Store: coordtest.NewMemory(), Keys: failover.Keys("test"), t: t, options: o,
		Sites: make(map[spillway.SiteID]broker.Cluster), Direct: make(map[spillway.SiteID]broker.Cluster),
		Dial:  make(map[spillway.SiteID][]kgo.Opt),
		Wires: make(map[spillway.SiteID]*Wire), writers: make(map[spillway.SiteID]*maptopic.Writer),
		start:   make(map[spillway.SiteID]map[spillway.TopicPartition]spillway.LocalOffset),
		virtual: make(map[spillway.TopicPartition]spillway.Offset), Embedded: make(map[spillway.SiteID]*embedded.Cluster),
		Gateways: make(map[spillway.GatewayID]*federation.Gateway), stops: make(map[spillway.GatewayID]func()),
	}
	w.mu.serves = make(map[spillway.GatewayID]map[spillway.ShareID]bool)
	var sites []spillway.Site
	for _, id := range o.Sites {
		site := spillway.Site{ID: id}
		if o.Site != nil {
			o.Site(&site)
		}
		sites = append(sites, site)
		w.startSite(id)
	}
	group := spillway.FailoverGroup{
		Name: Group, Kind: spillway.Ordered, Topics: []string{"*"}, ConsumerGroups: []string{"*"}, Sites: o.Sites,
		Ack: spillway.AckPolicy{Sites: 1}, OffsetBase: OffsetBase, ReservedBlock: 1000, HoldMax: 8 * time.Second,
	}
	if o.Group != nil {
		o.Group(&group)
	}
	groups := []spillway.FailoverGroup{group}
	for _, also := range o.Also {
		g := group
		also(&g)
		groups = append(groups, g)
	}
	if o.Spread > 0 {
		groups = group.Spread(o.Spread, cmp.Or(o.Balance, spillway.HomeFirst))
	}
	w.Topology = spillway.NewTopology("test", ClusterID, sites, groups)
	for _, g := range groups {
		w.SetShareOf(spillway.ShareID{Group: g.Name}, func(s *failover.Share) {
			*s = failover.Share{
				Group: g.Name, State: failover.Stable, Epoch: 1, Active: g.Sites[0],
				Terms: []failover.Term{{Epoch: 1, Site: g.Sites[0], Mask: 0x1234567}},
			}
		})
	}
	for _, id := range o.Gateways {
		w.StartGateway(id)
	}
	w.LayOut(o.Sites[0])
	Eventually(t, "all gateways serve", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		served := 0
		for _, shares := range w.mu.serves {
			served += len(shares)
		}
		return served == len(o.Gateways)*len(groups)
	})
	return w
}

func (w *World) startSite(id spillway.SiteID) {
	w.t.Helper()
	real, ok := w.options.Real[id]
	if !ok {
		c, err := embedded.Start(embedded.Config{Site: id, Brokers: max(1, w.options.Brokers), Topics: w.options.Topics})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { c.Close() })
		w.Embedded[id] = c
		real = RealSite{
			Config: kafka.Config{Bootstrap: c.Addresses(), Capabilities: embedded.Capabilities(false)},
			Dial:   []kgo.Opt{kgo.SeedBrokers(c.Addresses()...)},
		}
	}
	w.Dial[id] = real.Dial
	w.Wires[id], w.start[id] = newWire(), make(map[spillway.TopicPartition]spillway.LocalOffset)
	config := real.Config
	config.Site = id
	w.Direct[id] = w.reach(config)
	config.Dial = w.Wires[id].Dial
	w.Sites[id] = w.reach(config)
	w.writers[id] = maptopic.NewWriter(context.Background(), w.Direct[id], 1)
	w.t.Cleanup(w.writers[id].Close)
	if err := w.writers[id].EnsureTopic(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *World) reach(c kafka.Config) broker.Cluster {
	w.t.Helper()
	cluster, err := kafka.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cluster.Close() })
	return cluster
}

// StartGateway starts one more gateway.
func (w *World) StartGateway(id spillway.GatewayID) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	c := federation.Config{
		ID: id, Site: w.options.Sites[0], Topology: w.Topology, Sites: w.Sites, Store: w.Store, Listener: l,
		LeaseEvery: 100 * time.Millisecond,
	}
	c.Events.Problem = func(what string, err error) { w.t.Logf("%s: %s: %v", id, what, err) }
	if w.options.Gateway != nil {
		w.options.Gateway(&c)
	}
	told := c.Events.ShareState
	c.Events.ShareState = func(share spillway.ShareID, epoch spillway.Epoch, state failover.State, serving bool) {
		if serving {
			w.mu.Lock()
			if w.mu.serves[id] == nil {
				w.mu.serves[id] = make(map[spillway.ShareID]bool)
			}
			w.mu.serves[id][share] = true
			w.mu.Unlock()
		}
		if told != nil {
			told(share, epoch, state, serving)
		}
	}
	g, err := federation.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil {
			w.t.Errorf("gateway %s: %v", id, err)
		}
	}()
	stopped := false
	w.stops[id] = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
		}
	}
	w.t.Cleanup(w.stops[id])
	w.Gateways[id] = g
	w.Addrs = append(w.Addrs, l.Addr().String())
}

// StopGateway ends one in order.
func (w *World) StopGateway(id spillway.GatewayID) {
	w.stops[id]()
	delete(w.Gateways, id)
}

// LayOut writes the layout of the gateways whose leases are in the store and
// waits until each obeys it.
func (w *World) LayOut(home spillway.SiteID) layout.Layout {
	w.t.Helper()
	next := w.ProposeLayout(home)
	Eventually(w.t, "all gateways obey the layout", func() bool {
		for _, l := range w.leases() {
			if !l.Leaving && l.Layout < next.Version {
				return false
			}
		}
		return true
	})
	return next
}

// ProposeLayout writes the layout and waits for nobody.
func (w *World) ProposeLayout(home spillway.SiteID) layout.Layout {
	w.t.Helper()
	Eventually(w.t, "all gateways have a lease", func() bool { return len(w.leases()) == len(w.stops) })
	var current layout.Layout
	e, err := w.Store.Get(context.Background(), w.Keys.Layout())
	if err == nil {
		if current, err = layout.Decode(e.Value); err != nil {
			w.t.Fatal(err)
		}
	}
	next, _ := layout.Next(current, w.leases(), map[string]spillway.SiteID{ShareID.String(): home})
	if _, err := w.Store.Put(context.Background(), w.Keys.Layout(), next.Encode(), e.Version); err != nil {
		w.t.Fatal(err)
	}
	return next
}

func (w *World) leases() []layout.GatewayLease {
	entries, err := w.Store.List(context.Background(), w.Keys.Gateways())
	if err != nil {
		w.t.Fatal(err)
	}
	var leases []layout.GatewayLease
	for _, e := range entries {
		var l layout.GatewayLease
		if err := json.Unmarshal(e.Value, &l); err != nil {
			w.t.Fatal(err)
		}
		leases = append(leases, l)
	}
	return leases
}

// Share is the share's record.
func (w *World) Share() failover.Share {
	w.t.Helper()
	e, err := w.Store.Get(context.Background(), w.Keys.Share(ShareID))
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := failover.Decode(e.Value)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// SetShare changes the share's record.
func (w *World) SetShare(change func(*failover.Share)) {
	w.t.Helper()
	w.SetShareOf(ShareID, change)
}

// SetShareOf changes the record of one of several shares.
func (w *World) SetShareOf(id spillway.ShareID, change func(*failover.Share)) {
	w.t.Helper()
	var s failover.Share
	e, err := w.Store.Get(context.Background(), w.Keys.Share(id))
	if err == nil {
		if s, err = failover.Decode(e.Value); err != nil {
			w.t.Fatal(err)
		}
	}
	change(&s)
	if _, err := w.Store.Put(context.Background(), w.Keys.Share(id), s.Encode(), e.Version); err != nil {
		w.t.Fatal(err)
	}
}

// SetFloor writes into a site's map that it has seen an epoch, as its mirror does.
func (w *World) SetFloor(site spillway.SiteID, epoch spillway.Epoch) {
	w.t.Helper()
	if _, err := w.writers[site].Save(context.Background(), maptopic.FloorEntry(ShareID, epoch)); err != nil {
		w.t.Fatal(err)
	}
}

// Report is a gateway's confirmation for an epoch.
func (w *World) Report(epoch spillway.Epoch, id spillway.GatewayID) failover.GatewayReport {
	e, err := w.Store.Get(context.Background(), w.Keys.GatewayReport(ShareID, epoch, id))
	if err != nil {
		return failover.GatewayReport{}
	}
	var r failover.GatewayReport
	if err := json.Unmarshal(e.Value, &r); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// eventuallyMax is for a busy machine: no test judges how long something takes.
const eventuallyMax = time.Minute

// Eventually waits for a condition.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventuallyMax); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s: %s", eventuallyMax, what)
		}
	}
}

// Key and value of the n-th record of a test.
func Value(n int) string { return fmt.Sprintf("value-%06d", n) }

var _ coordination.Store = (*coordtest.Memory)(nil)
