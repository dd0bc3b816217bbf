// Package control moves shares between sites: it observes, asks failover.Step,
// acts, and writes what was decided. It also keeps the layout of virtual nodes,
// votes about sites, and makes the site's mirror follow the share records. Several
// may run at once: the compare-and-set on the share record decides, and every
// action may be done twice. It knows no wire format of clients and no sessions.
package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/topicchange"
	"spillway/mirror/maptopic"
)

// Access is how control reaches a site.
type Access struct {
	Cluster broker.Cluster
	// AsGateway connects with the gateways' credentials, to probe the resource
	// fence; nil where the site has none.
	AsGateway broker.Cluster
}

// Config of a Control. Site is empty for a witness that holds no records.
type Config struct {
	Topology *spillway.Topology
	Store    coordination.Store
	Site     spillway.SiteID // where this process runs; a witness has a name of its own
	Sites    map[spillway.SiteID]Access
	// Observers are the places that vote: all sites and witnesses. Empty: the
	// sites of the topology.
	Observers []spillway.SiteID

	ProbeInterval time.Duration // default 1 s
	ProbeTimeout  time.Duration // default 1 s
	ProbeFailures int           // in a row until a site is called down; default 3
	HoldDown      time.Duration // default failover.HoldDown
	HearSites     time.Duration // default failover.HearSites
	SettleMax     time.Duration // default failover.SettleMax
	LeaseTTL      time.Duration // of gateways and mirrors; default coordination.LeaseTTL
	LeaseMargin   time.Duration // default coordination.LeaseMargin
	// TakeoverAfter is how long a move may stand still until a loop at another
	// site than the target drives it on. Default 700 ms.
	TakeoverAfter time.Duration
	// TopicTakeover is how long a change of a topic may stand still until this loop
	// carries it on; default 3 s.
	TopicTakeover time.Duration
	// DirectQuiet is for how long a producer past the gateways must not have written to count as
	// gone, default DirectQuiet; DirectEvery the least time between two looks, default 5 s.
	DirectQuiet time.Duration
	DirectEvery time.Duration
	AuditEvery  time.Duration      // between two looks at the audit log; default 1 min
	Clock       coordination.Clock // default coordination.SystemClock
	Events      Events
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.ProbeInterval, time.Second)
	def(&c.ProbeTimeout, time.Second)
	def(&c.LeaseTTL, coordination.LeaseTTL)
	def(&c.LeaseMargin, coordination.LeaseMargin)
	def(&c.TakeoverAfter, 700*time.Millisecond)
	def(&c.DirectQuiet, DirectQuiet)
	def(&c.DirectEvery, directEvery)
	if c.ProbeFailures <= 0 {
		c.ProbeFailures = 3
	}
	if c.AuditEvery <= 0 {
		c.AuditEvery = auditEvery
	}
	if c.Clock == nil {
		c.Clock = coordination.SystemClock{}
	}
	if len(c.Observers) == 0 {
		for _, s := range c.Topology.Sites() {
			c.Observers = append(c.Observers, s.ID)
		}
	}
	return c
}

// Validate reports all faults.
func (c Config) Validate() error {
	var faults []error
	if c.Topology == nil {
		return errors.New("control.topology: is missing")
	}
	if c.Store == nil {
		faults = append(faults, errors.New("control.store: is missing"))
	}
	if c.Site == "" {
		faults = append(faults, errors.New("control.site: is missing; a witness needs a name too"))
	}
	for _, s := range c.Topology.Sites() {
		if c.Sites[s.ID].Cluster == nil {
			faults = append(faults, fmt.Errorf("control.sites: nothing leads to site %s", s.ID))
		}
		if s.GatewayPrincipal != "" && c.Sites[s.ID].AsGateway == nil {
			faults = append(faults, fmt.Errorf("control.sites: site %s has a gateway principal, but no access as gateway to probe the fence with", s.ID))
		}
	}
	return errors.Join(faults...)
}

// Control is one control loop. Run it once.
type Control struct {
	// Set once, read by anyone.
	cfg   Config
	keys  failover.Keys
	hub   *hub
	ready chan struct{} // closed when Run has begun to watch

	laidOut laidOut // owned by keepLayout

	rounds rounds // of what drivers ask together

	mu struct {
		sync.Mutex
		maps map[spillway.SiteID]*maptopic.Reader
		// What drivers ask sites together.
		topics  map[spillway.SiteID]*inquiry[broker.Metadata]
		written map[spillway.SiteID]*inquiry[int64] // the last position of the map
	}
}

// New prepares a control loop.
func New(cfg Config) (*Control, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	keys := failover.Keys(cfg.Topology.Name())
	c := &Control{cfg: cfg, keys: keys, hub: newHub(cfg.Store, keys, cfg.Clock, cfg.LeaseTTL, cfg.LeaseMargin), ready: make(chan struct{})}
	c.mu.maps = map[spillway.SiteID]*maptopic.Reader{}
	return c, nil
}

// Run works until ctx ends, and ends after everything that it started.
func (c *Control) Run(ctx context.Context) error {
	defer c.hub.rounds.close()
	defer c.rounds.close()
	var wg sync.WaitGroup
	defer wg.Wait() // nobody asks any more then
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, s := range c.cfg.Topology.Sites() {
		c.mu.maps[s.ID] = maptopic.Tail(ctx, c.cfg.Sites[s.ID].Cluster, nil)
	}
	close(c.ready)
	defer func() {
		for _, r := range c.mu.maps {
			r.Close()
		}
	}()
	c.hub.lost = c.cfg.Events.storeLost
	wg.Go(func() { c.hub.run(ctx) })
	wg.Go(func() { newObserver(c).run(ctx) })
	wg.Go(func() { c.keepLayout(ctx) })
	wg.Go(func() { c.carryTopics(ctx) })
	wg.Go(func() { c.keepAudit(ctx) })
	for _, g := range c.cfg.Topology.Groups() {
		d := newDriver(c, g, spillway.ShareID{Group: g.Name})
		wg.Go(func() { d.run(ctx) })
	}
	<-ctx.Done()
	return ctx.Err()
}

// carryTopics carries on the changes of topics that nobody works on any more.
func (c *Control) carryTopics(ctx context.Context) {
	changes := topicchange.New(topicchange.Config{
		Topology: c.cfg.Topology, Store: c.cfg.Store, Sites: c.clusters(), TakeOver: c.cfg.TopicTakeover, Told: c.cfg.Events.topicChange,
	})
	changes.Run(ctx)
}

func (c *Control) clusters() map[spillway.SiteID]broker.Cluster {
	sites := make(map[spillway.SiteID]broker.Cluster, len(c.cfg.Sites))
	for id, access := range c.cfg.Sites {
		sites[id] = access.Cluster
	}
	return sites
}

// topics asks a site for the topics of a failover group, and perhaps others. Where patterns
// have to be compared with all topics, it asks once for all drivers that want to know at
// one time. The answer is shared then: nobody changes it.
func (c *Control) topics(ctx context.Context, site spillway.SiteID, g spillway.FailoverGroup) (broker.Metadata, error) {
	cluster := c.cfg.Sites[site].Cluster
	if len(g.Topics) > 0 && len(g.Topics) <= namedMax && !slices.ContainsFunc(g.Topics, func(pattern string) bool { return strings.HasSuffix(pattern, "*") }) {
		return cluster.Metadata(ctx, g.Topics...)
	}
	return inquiryAt(c, &c.mu.topics, site).ask(ctx, &c.rounds, func(ctx context.Context) (broker.Metadata, error) { return cluster.Metadata(ctx) })
}

// caughtUp returns once the map of a site has been read as far as it was written when it was
// called. How far that is, is asked once for all who want to know at one time.
func (c *Control) caughtUp(ctx context.Context, site spillway.SiteID) error {
	r := c.mu.maps[site]
	last, err := inquiryAt(c, &c.mu.written, site).ask(ctx, &c.rounds, r.Last)
	if err != nil {
		return err
	}
	return r.WaitFor(ctx, last)
}

// inquiryAt is the one that all who ask a site the same share.
func inquiryAt[T any](c *Control, of *map[spillway.SiteID]*inquiry[T], site spillway.SiteID) *inquiry[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *of == nil {
		*of = map[spillway.SiteID]*inquiry[T]{}
	}
	if (*of)[site] == nil {
		(*of)[site] = &inquiry[T]{}
	}
	return (*of)[site]
}

// namedMax is up to how many topics a site is asked for by name.
const namedMax = 100

// limits of a failover group, for Step.
func (c *Control) limits(g spillway.FailoverGroup) failover.Limits {
	return failover.Limits{Group: g, Observers: c.cfg.Observers, HoldDown: c.cfg.HoldDown, HearSites: c.cfg.HearSites, SettleMax: c.cfg.SettleMax, Lease: c.cfg.LeaseTTL + c.cfg.LeaseMargin}
}
