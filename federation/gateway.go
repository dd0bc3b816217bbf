package federation

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation/authentication"
	"spillway/federation/authorization"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/federation/router"
	"spillway/federation/session"
	"spillway/federation/topicchange"
	"spillway/mirror/maptopic"
)

// Config is what a gateway is built from.
type Config struct {
	ID       spillway.GatewayID
	Site     spillway.SiteID // where the gateway runs
	Topology *spillway.Topology
	Sites    map[spillway.SiteID]broker.Cluster
	Store    coordination.Store

	Listener net.Listener // for clients; closed by Run
	TLS      *tls.Config  // for clients; nil: plaintext
	// Authentication asks clients who they are; nil: it goes by their certificates alone.
	Authentication *authentication.Authenticator
	// Authorization decides what clients may do, by the access control lists of the Sites,
	// which are its own unless Read is given; nil: everything.
	Authorization *authorization.Config
	// Host and Port are advertised to clients; default: the listener's address.
	Host string
	Port int32

	Limits         session.Limits
	BudgetBytesMax int64 // of unanswered requests, all connections together; default 512 MiB
	ConnectionsMax int   // default 10,000
	// ConnectionsPerAddressMax bounds those of one client address; default half of
	// ConnectionsMax.
	ConnectionsPerAddressMax int
	// ConnectionRatePerAddress bounds those that one client address opens, in a second; 0: no limit.
	ConnectionRatePerAddress int64
	// ConnectionsPerPrincipalMax bounds those of one principal; 0: no limit.
	ConnectionsPerPrincipalMax int

	Quotas []Quota // of principals
	// QuotaBurst is how much of its rates a principal may save up; default 10 s.
	QuotaBurst time.Duration

	Router router.Config // only its bounds are read
	// DrainMax is how long produces in flight may take to end when a share is
	// fenced, before their upstream connections are closed; default 2 s.
	DrainMax time.Duration

	LeaseTTL   time.Duration // default coordination.LeaseTTL
	LeaseEvery time.Duration // default coordination.LeaseEvery
	Clock      coordination.Clock
	Dial       func(ctx context.Context, network, address string) (net.Conn, error) // to mark streams
	Release    string

	Events Events
}

// Events tell what happened. A nil func is skipped; a slow one slows the
// gateway, so listeners only count or enqueue.
type Events struct {
	Session session.Events
	Router  router.Events
	// ConnectionRefused: more than ConnectionsMax (too-many), more of one client
	// address (too-many-of-address), or more that one opens in a time
	// (too-fast-of-address), more of one principal (too-many-of-principal), more than a tenth of them that have not said who
	// they are (too-many-unknown), or the TLS handshake failed (tls).
	ConnectionRefused func(reason string)
	// Authenticated: a login of a client ended (authentication.Config).
	Authenticated func(mechanism, outcome string)
	// LeaseState: the lease began (nil) or ended.
	LeaseState func(err error)
	// ShareState: the gateway took notice of a record, opened or closed the share.
	ShareState func(share spillway.ShareID, epoch spillway.Epoch, state failover.State, serving bool)
	// Lag: how far the other sites are behind, each second for each share whose
	// acknowledgements wait for one site only, once something was written to it here.
	Lag func(share spillway.ShareID, info router.LagInfo)
	// Standby: how far a standby is behind that consumers read, each second, and once when
	// none does any more.
	Standby func(share spillway.ShareID, site spillway.SiteID, info Standby)
	// Problem: something that is tried again failed.
	Problem func(what string, err error)
}

// Gateway is one gateway process' part in a virtual cluster.
type Gateway struct {
	// Set once, read by anyone.
	config  Config
	boot    string
	keys    failover.Keys
	shares  map[spillway.ShareID]*router.Share
	router  *router.Router
	lease   *coordination.Lease
	layout  *layoutKeeper
	reserve *reserve
	marks   *marks
	standby *standbys
	reports *reports
	changes *topicchange.Topics
	readers map[spillway.SiteID]*maptopic.Reader
	budget  *session.Budget
	rights  *authorization.Keeper // nil: clients may do everything
	events  Events

	mu struct {
		sync.Mutex
		sessions map[*session.Session]bool
		draining bool                        // sessions end
		leaving  bool                        // nothing is served or on its way any more
		versions map[spillway.ShareID]uint64 // of the newest record seen
		lagging  map[string]layout.Lagging   // as the lease tells it; replaced, never changed
	}
}

// New checks the configuration. Run serves.
func New(c Config) (*Gateway, error) {
	switch {
	case c.ID == "" || c.Topology == nil || c.Store == nil || c.Listener == nil:
		return nil, errors.New("gateway: id, topology, store and listener are required")
	case len(c.Sites) == 0:
		return nil, errors.New("gateway: no site is configured")
	}
	if c.Host == "" || c.Port == 0 {
		a, ok := c.Listener.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("gateway: the address %s cannot be advertised; set host and port", c.Listener.Addr())
		}
		if c.Host == "" {
			c.Host = a.IP.String()
		}
		if c.Port == 0 {
			c.Port = int32(a.Port)
		}
	}
	if c.BudgetBytesMax <= 0 {
		c.BudgetBytesMax = 512 << 20
	}
	if c.ConnectionsMax <= 0 {
		c.ConnectionsMax = 10_000
	}
	if c.ConnectionsPerAddressMax <= 0 {
		c.ConnectionsPerAddressMax = max(1, c.ConnectionsMax/2)
	}
	if c.DrainMax <= 0 {
		c.DrainMax = 2 * time.Second
	}
	if c.Dial == nil {
		c.Dial = conn.Dial
	}
	g := &Gateway{
		config: c, boot: rand.Text(), keys: failover.Keys(c.Topology.Name()), events: c.Events,
		shares: make(map[spillway.ShareID]*router.Share), budget: session.NewBudget(c.BudgetBytesMax),
		readers: make(map[spillway.SiteID]*maptopic.Reader),
	}
	g.mu.sessions = make(map[*session.Session]bool)
	g.mu.versions = make(map[spillway.ShareID]uint64)
	for _, group := range c.Topology.Groups() {
		id := spillway.ShareID{Group: group.Name}
		g.shares[id] = router.NewShare(id, group)
	}
	g.layout = newLayoutKeeper(g)
	g.reserve = newReserve(g)
	g.marks = newMarks(g)
	g.standby = newStandbys(g)
	g.reports = newReports(g)
	g.lease = coordination.NewLease(coordination.LeaseConfig{
		Store: c.Store, Key: g.keys.Gateway(c.ID), Value: g.leaseValue, Owner: leaseOwner, Self: g.boot,
		Confirm: g.readShares, TTL: c.LeaseTTL, Every: c.LeaseEvery, Clock: c.Clock, Changed: g.leaseChanged,
	})
	g.changes = topicchange.New(topicchange.Config{Topology: c.Topology, Store: c.Store, Sites: c.Sites, Made: func(topic string) { g.router.TopicChanged(topic) }})
	rc := c.Router
	rc.Gateway, rc.Site, rc.Topology, rc.Sites = c.ID, c.Site, c.Topology, c.Sites
	rc.Lease, rc.Layout, rc.Maps, rc.Reserve, rc.Marks = leaseHeld{g.lease}, g.layout, siteMaps{g}, g.reserve, g.marks
	rc.Standbys = g.standby
	rc.Changes, rc.Heard = g.changes, offers{g}
	rc.Authentication = c.Authentication
	if c.Authorization != nil {
		g.rights = g.newRights(*c.Authorization)
		rc.Rights = g.rights
	}
	rc.Quotas = newQuotas(c)
	rc.Report, rc.Events, rc.Dial = g.reports.update, c.Events.Router, c.Dial
	if rc.Events.TransactionUnknown == nil {
		rc.Events.TransactionUnknown = func(site spillway.SiteID, err error) {
			g.problem(fmt.Sprintf("ask site %s about a transaction; may its gateways describe transactional ids?", site), err)
		}
	}
	rc.Events.ChangeFailed = func(err error) { g.problem("change topics for a client", err) }
	rc.Events.TooManyOfPrincipal = func() { g.connectionRefused("too-many-of-principal") }
	for _, s := range g.shares {
		rc.Shares = append(rc.Shares, s)
	}
	g.router = router.New(rc)
	return g, nil
}

// Run serves until ctx ends, then lets clients go and waits for everything
// that it started.
func (g *Gateway) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for id, cluster := range g.config.Sites {
		g.readers[id] = maptopic.Tail(inner, cluster, nil)
	}
	wg.Go(func() { g.watch(inner, g.keys.Shares(), g.seeShares) })
	wg.Go(func() { g.watch(inner, g.keys.Layout(), g.layout.seeLayout) })
	wg.Go(func() { g.watch(inner, g.keys.Gateways(), g.layout.seeGateways) })
	wg.Go(func() { g.watch(inner, g.keys.ReservedAll(), g.reserve.see) })
	wg.Go(func() { g.watch(inner, g.keys.Mirrors(), g.marks.see) })
	wg.Go(func() { g.watch(inner, g.keys.Topics(), g.changes.See) })
	wg.Go(func() { g.reports.run(inner) })
	wg.Go(func() { g.reserve.run(inner) })
	wg.Go(func() { g.layout.run(inner) })
	wg.Go(func() { g.tellLags(inner) })
	wg.Go(func() { g.standby.run(inner) })
	for _, s := range g.shares {
		wg.Go(func() { g.follow(inner, s) })
	}
	if g.rights != nil {
		wg.Go(func() { g.rights.Run(inner) })
	}
	g.awaitRights(ctx)
	leased, endLease := context.WithCancel(inner)
	leaseDone := make(chan struct{})
	go func() { defer close(leaseDone); g.lease.Run(leased) }()

	err := g.listen(ctx)

	g.router.Close()
	g.leave(leased)
	endLease()
	<-leaseDone
	cancel()
	wg.Wait()
	g.marks.close()
	for _, r := range g.readers {
		r.Close()
	}
	return err
}

// leave says that nobody needs to wait for this gateway any more. Nothing of
// it may be on its way to a site.
func (g *Gateway) leave(ctx context.Context) {
	g.mu.Lock()
	g.mu.leaving = true
	g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	e, err := g.config.Store.Get(ctx, g.keys.Gateway(g.config.ID))
	if err == nil && leaseOwner(e.Value) == g.boot {
		_, err = g.config.Store.Put(ctx, e.Key, g.leaseValue(0), e.Version)
	}
	if err != nil {
		g.problem("say that the gateway leaves; others wait for the end of its lease", err)
	}
}

func (g *Gateway) problem(what string, err error) {
	if g.events.Problem != nil {
		g.events.Problem(what, err)
	}
}

// watch hands what is under a prefix to see, again and again until ctx ends.
func (g *Gateway) watch(ctx context.Context, prefix string, see func([]coordination.Entry)) {
	err := g.config.Store.Watch(ctx, prefix, func(entries []coordination.Entry, err error) {
		if err != nil {
			g.problem("watch "+prefix, err)
			return
		}
		see(entries)
	})
	if err != nil && ctx.Err() == nil {
		g.problem("watch "+prefix, err)
	}
}

// siteMaps implements router.Maps.
type siteMaps struct{ gateway *Gateway }

type leaseHeld struct{ lease *coordination.Lease }

func (l leaseHeld) Held() bool { return l.lease.Valid() }

func (l leaseHeld) Term() uint64 { return l.lease.Term() }

// leaseValue is what the gateway writes about itself.
func (g *Gateway) leaseValue(beat uint64) []byte {
	g.mu.Lock()
	leaving, lagging := g.mu.leaving, g.mu.lagging
	g.mu.Unlock()
	var unread []spillway.SiteID
	if g.rights != nil {
		unread = g.rights.Unread()
	}
	lease := layout.GatewayLease{
		ID: g.config.ID, Boot: g.boot, Site: g.config.Site, Host: g.config.Host, Port: g.config.Port,
		Slots:  1, // one node id per address: librdkafka cannot hold more apart (docs/decisions/0005)
		Layout: g.layout.obeyed(), Leaving: leaving, Release: g.config.Release, Beat: beat, Lagging: lagging, RightsUnread: unread,
	}
	if leaving { // its clients go elsewhere, and nobody takes the key away
		return encode(lease)
	}
	return encode(g.cameBy(lease))
}
