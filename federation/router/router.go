package router

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation/authentication"
	"spillway/federation/authorization"
	"spillway/federation/failover"
	"spillway/federation/freshness"
	"spillway/federation/layout"
	"spillway/federation/quota"
	"spillway/federation/topicchange"
	"spillway/mirror/offsetmap"
)

// Lease tells whether this gateway may serve now. It is asked after the
// site's answer and before the client's (C10, C32).
type Lease interface {
	Held() bool
	// Term numbers the times in which the lease was held without a break, 0 when
	// it is not held. What was begun in one term may be acknowledged in the same
	// one only: in between, others may have counted on its end.
	Term() uint64
}

// Layout is the newest layout that this gateway knows.
type Layout interface {
	Current() layout.Layout
	// Leads tells whether this gateway leads the partition in the newest
	// layout (mine), and whether the gateways that led it before are known to
	// have let go (ready). Produces wait for ready (C23).
	Leads(share spillway.ShareID, tp spillway.TopicPartition) (mine, ready bool)
	// Changed is closed at the next change of an answer of Leads.
	Changed() <-chan struct{}
}

// Maps are the offset maps of the sites.
type Maps interface {
	// View of one partition at one site; nil if the site's map says nothing.
	View(site spillway.SiteID, tp spillway.TopicPartition) *offsetmap.View
	// Hides says what records the site's log of a topic hides behind some that clients
	// see; "" if none.
	Hides(site spillway.SiteID, topic string) string
}

// Reserve keeps the reserved ends (C5).
type Reserve interface {
	// Ask is the reserved end of tp in the term, −1 if there is none. It is
	// raised soon if it is below end, or nearly.
	Ask(share *Share, t Term, tp spillway.TopicPartition, end spillway.Offset) spillway.Offset
	// Extend asks, and returns when the reserved end is at least end. It is
	// raised ahead of use, so it rarely waits.
	Extend(ctx context.Context, share *Share, t Term, tp spillway.TopicPartition, end spillway.Offset) error
	// Knows tells whether ends of a topic were reserved in the newest epoch that had some.
	Knows(share *Share, topic string) bool
}

// Marks are the durable marks of the sites that follow.
type Marks interface {
	// Wait returns when all below end is at sites sites, the one of the term
	// included, by marks of the term's epoch or of a later one that kept it. ErrLost:
	// the term may have lost it.
	Wait(ctx context.Context, t Term, tp spillway.TopicPartition, end spillway.Offset, sites int) error
	// Mark is the virtual offset below which everything is at sites sites.
	Mark(t Term, tp spillway.TopicPartition, sites int) spillway.Offset
}

// Standbys are the sites that follow, for groups whose consumers read at their own site.
type Standbys interface {
	// View is the offset map of a partition at a site that follows, as far as the site has
	// all records, acknowledged by all in-sync replicas, and is known to in the term's own
	// epoch: that far is the mark, or as far as the view ends. By another append session the
	// same may lie elsewhere. Nil: nothing is known.
	View(t Term, site spillway.SiteID, tp spillway.TopicPartition) (view *offsetmap.View, mark spillway.Offset, session int64)
	// Lacks is the virtual offset below which the site may miss what the one that serves has.
	Lacks(site spillway.SiteID, tp spillway.TopicPartition) spillway.Offset
	// Fresh tells whether what a site has is young enough. It is looked at from now on.
	Fresh(share *Share, t Term, site spillway.SiteID, tp spillway.TopicPartition) freshness.State
	// Log is what the site that serves said of its log when it was asked last.
	Log(t Term, site spillway.SiteID, tp spillway.TopicPartition) freshness.Log
	// Await returns when the mark is at end or above and what it says was looked up, or ctx ends.
	Await(ctx context.Context, t Term, site spillway.SiteID, tp spillway.TopicPartition, end spillway.Offset)
}

// Heard is what gateways have heard that sites offer: the highest version by API key, -1 where
// it does not work.
type Heard interface {
	// Get returns nil for a site that nobody has heard yet, or where nobody can tell.
	Get(ctx context.Context, site spillway.SiteID) map[int16]int16
	// Put keeps what a site has just said.
	Put(ctx context.Context, site spillway.SiteID, versions map[int16]int16)
}

// ErrLost tells that a failover away from a term was begun.
var ErrLost = errors.New("a failover from the site was begun, which may lose it")

// Config is what a Router is built from. All parts are required but Events
// and the bounds.
type Config struct {
	Gateway  spillway.GatewayID
	Site     spillway.SiteID // where the gateway runs
	Topology *spillway.Topology
	Sites    map[spillway.SiteID]broker.Cluster
	Shares   []*Share
	Lease    Lease
	Layout   Layout
	Maps     Maps
	Reserve  Reserve
	Marks    Marks
	Standbys Standbys // nil: nothing is read at sites that follow
	// Report changes this gateway's confirmation about an epoch of a share, soon;
	// change may be called more than once.
	Report func(share spillway.ShareID, epoch spillway.Epoch, change func(*failover.GatewayReport))
	// Changes carries out what clients ask of whole topics.
	Changes        *topicchange.Topics
	Administration Administration // default NoAdministration
	Events         Events
	// Authentication asks clients who they are; nil: it does not.
	Authentication *authentication.Authenticator
	// Quotas has an account for each principal; nil: nothing is counted.
	Quotas *quota.Ledger[authentication.Principal]
	// Heard keeps what sites offer for gateways that start while one is away; nil: nothing does.
	Heard Heard
	// Rights decide what clients may do; nil: everything.
	Rights Rights
	// Dial reaches other gateways, to see whether they are gone; default conn.Dial.
	Dial conn.DialFunc

	HoldMax    time.Duration // of a request while its share moves; default 8 s, a failover group may lower it
	ProduceMax time.Duration // for the site's answer beyond the request's own timeout; default 10 s
	// OutstandingMax is how long a client may have a batch in flight that
	// nobody here has seen (design idea 5); default 35 s. It ends sooner where
	// that is known, see release.
	OutstandingMax time.Duration
	MetadataMax    time.Duration // age of a site's metadata before it is asked for again; default 5 s
	SteadyAfter    time.Duration // without quotas after a move; default 5 s
	ContactsMax    int           // producers and partitions remembered; default 200,000
	// DirectQuiet is for how long a producer past the gateways must not have written for
	// control loops to count it as gone; default 10 min.
	DirectQuiet time.Duration
}

// Router serves all connections of one gateway.
type Router struct {
	// Set once, read by anyone.
	config       Config
	topology     *spillway.Topology
	sites        map[spillway.SiteID]broker.Cluster
	shares       map[spillway.ShareID]*Share
	spreads      map[string]*spread // by name of the unordered group
	lease        Lease
	layout       Layout
	maps         Maps
	reserve      Reserve
	marks        Marks
	standbys     Standbys
	events       Events
	topics       *topics
	homes        homes
	offer        *offer
	contacts     *contacts
	lags         *lags
	members      *members
	transactions *transactions
	plain        *plain
	lookups      lookups
	gone         goneFor
	besides      *lanes        // for members that leave: what they have on their own may wait at the site
	aside        chan struct{} // a token per such request
	lates        chan struct{} // a token per answer of a join that nobody takes any more
	changing     *rate.Limiter // of what clients change

	generations *generations // produces on their way, by the layout that let them in

	background sync.WaitGroup // work that outlives its client connection
	ctx        context.Context
	cancel     context.CancelFunc
	staying    context.Context // ends with Leave
	leave      context.CancelFunc
}

// New makes a router. Close ends it.
func New(c Config) *Router {
	def(&c.HoldMax, 8*time.Second)
	def(&c.ProduceMax, 10*time.Second)
	def(&c.OutstandingMax, 35*time.Second)
	def(&c.MetadataMax, 5*time.Second)
	def(&c.SteadyAfter, steadyAfter)
	def(&c.ContactsMax, 200_000)
	def(&c.DirectQuiet, 10*time.Minute)
	if c.Dial == nil {
		c.Dial = conn.Dial
	}
	r := &Router{
		config: c, topology: c.Topology, sites: c.Sites, shares: make(map[spillway.ShareID]*Share),
		lease: c.Lease, layout: c.Layout, maps: c.Maps, reserve: c.Reserve, marks: c.Marks, standbys: c.Standbys, events: c.Events,
		contacts: newContacts(c.ContactsMax, c.OutstandingMax), members: newMembers(), transactions: newTransactions(), plain: newPlain(), generations: newGenerations(),
		aside:    make(chan struct{}, asideMax),
		lates:    make(chan struct{}, asideMax),
		changing: rate.NewLimiter(changesPerSecond, changesBurst),
	}
	for _, s := range c.Shares {
		r.shares[s.ID] = s
	}
	r.lookups.router = r
	r.besides = newLanes(r)
	r.spreads = newSpreads(r)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.staying, r.leave = context.WithCancel(r.ctx)
	r.topics = newTopics(r)
	r.offer = newOffer(r)
	r.lags = newLags(r)
	r.background.Go(r.watchLeaving)
	return r
}

func def[T ~int | ~int64](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// Leave tells that the client connections are about to be closed: answers that are kept back
// for other sites (AckPolicy.OnLag) are given, or refused where they may not be.
func (r *Router) Leave() { r.leave() }

// Close waits for what outlives the client connections. Close these first.
func (r *Router) Close() {
	r.lookups.mu.Lock() // who wants one now has begun, or begins none
	r.cancel()
	r.lookups.mu.Unlock()
	r.besides.close()
	r.background.Wait()
}

// Connect makes the handler of one client connection.
func (r *Router) Connect(c net.Conn) *Client {
	client := &Client{router: r, conn: c, lanes: newLanes(r), produces: newProduces(r.background.Go, moveHeld),
		login: r.config.Authentication.Connect(c), host: authorization.HostOf(c.RemoteAddr()),
		highWatermarks: make(map[spillway.TopicPartition]int64), asking: make(chan struct{}, askingMax)}
	return client
}

// ShareOf finds the share that a partition belongs to. A failover group has one share.
func (r *Router) ShareOf(tp spillway.TopicPartition) (*Share, bool) {
	if hidden(tp.Topic) {
		return nil, false
	}
	g, ok := r.topology.GroupOf(tp)
	if !ok {
		return nil, false
	}
	s, ok := r.shares[spillway.ShareID{Group: g.Name}]
	return s, ok
}

// GroupShare finds the share that a consumer group belongs to.
func (r *Router) GroupShare(group string) (*Share, bool) {
	g, ok := r.topology.GroupOfConsumerGroup(group)
	if !ok {
		return nil, false
	}
	s, ok := r.shares[spillway.ShareID{Group: g.Name}]
	return s, ok
}

// reserveMax bounds how long anything waits for the store. If it is away for
// longer, the lease is over too.
const reserveMax = 4 * time.Second

// VirtualHighWatermark bounds what consumers may see of a partition whose
// high watermark at the site is siteEnd, in virtual offsets: below the reserved
// end, which is raised if need be, and below the durable mark where
// acknowledgements wait for it (C5, C19).
func (r *Router) VirtualHighWatermark(share *Share, t Term, tp spillway.TopicPartition, siteEnd spillway.Offset) spillway.Offset {
	end := siteEnd
	if k := share.ackSites(); k > 1 {
		end = min(end, r.marks.Mark(t, tp, k))
	}
	return min(end, r.reserve.Ask(share, t, tp, end))
}

// awaitVisible waits until more than below limit may be visible, or ctx ends.
func (r *Router) awaitVisible(ctx context.Context, share *Share, t Term, tp spillway.TopicPartition, limit spillway.Offset) {
	if k := share.ackSites(); k > 1 && r.marks.Wait(ctx, t, tp, limit+1, k) != nil {
		<-ctx.Done() // what may be lost is not waited for; the caller looks again
		return
	}
	_ = r.reserve.Extend(ctx, share, t, tp, limit+1) // the caller looks again
}

// settleSilent tells all shares that a connection is about to be closed.
func (r *Router) settleSilent(l *Lane, sure bool) {
	for _, s := range r.shares {
		s.settleSilent(l, sure)
	}
}
