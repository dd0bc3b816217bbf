package router

import (
	"context"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation/session"
)

// api is one API key as this gateway serves it.
type api struct {
	key      int16
	min, max int16
	// needs is the lowest version that every site must offer; −1 for what the
	// gateway answers alone.
	needs int16
	// level is the administration that it belongs to; without it, it is not served.
	level Administration
	sasl  bool // only where clients are asked who they are
	begin func(*Client, context.Context, session.Request) (session.Answer, error)
	// treatment and about are for the reference: what becomes of a request, and
	// what its user has to know.
	treatment treatment
	about     string
}

// apis lists what is served. It is an allow-list: keys between brokers and
// administrative ones never pass.
var apis map[int16]api

func init() { // apiVersionsAPI reads the table that it is in
	apis = make(map[int16]api)
	for _, a := range []api{
		produceAPI, fetchAPI, listOffsetsAPI, metadataAPI, offsetCommitAPI, offsetFetchAPI, findCoordinatorAPI,
		joinGroupAPI, heartbeatAPI, leaveGroupAPI, syncGroupAPI, describeGroupsAPI, listGroupsAPI, saslHandshakeAPI, apiVersionsAPI,
		initProducerIDAPI, offsetForLeaderEpochAPI, addPartitionsToTxnAPI, addOffsetsToTxnAPI, endTxnAPI, txnOffsetCommitAPI, describeConfigsAPI, saslAuthenticateAPI, describeClusterAPI, consumerGroupHeartbeatAPI, consumerGroupDescribeAPI,
		createTopicsAPI, incrementalAlterConfigsAPI, alterConfigsAPI,
	} {
		apis[a.key] = a
	}
}

// offer knows which versions the sites offer, so that a move never takes an
// API away from a connection.
//
//	A  nobody is answered while a site that was never heard is being asked
//	B  what a site offered counts while it is away, also for a gateway that has
//	   started since: to a Java consumer of KIP-848 the lack of one request is fatal
type offer struct {
	router *Router
	mu     struct {
		sync.Mutex
		bySite map[spillway.SiteID]map[int16]int16 // highest version by key
		asked  map[spillway.SiteID]time.Time
		asking map[spillway.SiteID]chan struct{} // closed when the answer is there, or none
		stored map[spillway.SiteID]bool          // bySite is what other gateways heard; the site itself is asked on
	}
}

func newOffer(r *Router) *offer {
	o := &offer{router: r}
	o.mu.bySite = make(map[spillway.SiteID]map[int16]int16)
	o.mu.asked = make(map[spillway.SiteID]time.Time)
	o.mu.asking = make(map[spillway.SiteID]chan struct{})
	o.mu.stored = make(map[spillway.SiteID]bool)
	return o
}

// Bounds for asking a site what it offers.
const (
	offerAskMax   = 2 * time.Second
	offerAskEvery = 5 * time.Second
)

// learn asks the sites that were never heard, or waits for who asks already, for the first
// time. A site that cannot be reached, and that no gateway ever heard, counts as one that
// offers only what all supported releases have; it is asked on, and nobody waits for that.
func (o *offer) learn(ctx context.Context) {
	var wait []chan struct{}
	for id, cluster := range o.router.sites {
		o.mu.Lock()
		asking, first := o.mu.asking[id], o.mu.asked[id].IsZero()
		heard := o.mu.bySite[id] != nil && !o.mu.stored[id]
		if asking == nil && !heard && time.Since(o.mu.asked[id]) >= offerAskEvery {
			asking = make(chan struct{})
			o.mu.asked[id] = time.Now()
			if first {
				o.mu.asking[id] = asking
			}
			// The client that asks first may go away; the others wait for the same answer.
			o.router.background.Go(func() { o.ask(o.router.ctx, id, cluster, asking) })
		}
		if waited := o.mu.asking[id]; waited != nil {
			wait = append(wait, waited)
		}
		o.mu.Unlock()
	}
	for _, asking := range wait {
		select {
		case <-asking:
		case <-ctx.Done():
			return
		}
	}
}

// ask takes at most offerAskMax for the site, and if that is silent as long as the store takes.
func (o *offer) ask(ctx context.Context, id spillway.SiteID, cluster broker.Cluster, done chan struct{}) {
	versions := versionsOf(ctx, cluster)
	said, kept := versions != nil, o.router.config.Heard
	if !said && kept != nil {
		versions = kept.Get(ctx, id)
	}
	o.mu.Lock()
	if said || o.mu.bySite[id] == nil && versions != nil {
		o.mu.bySite[id], o.mu.stored[id] = versions, !said
	}
	if o.mu.asking[id] == done {
		delete(o.mu.asking, id)
	}
	o.mu.Unlock()
	close(done)
	if said && kept != nil {
		kept.Put(ctx, id, versions)
	}
}

// versionsOf is what a site says; nil: it does not answer.
func versionsOf(ctx context.Context, cluster broker.Cluster) map[int16]int16 {
	ctx, cancel := context.WithTimeout(ctx, offerAskMax)
	defer cancel()
	c, err := cluster.Dial(ctx, broker.AnyNode)
	if err != nil {
		return nil
	}
	defer c.Close()
	versions := make(map[int16]int16, len(apis))
	for key := range apis {
		versions[key] = c.MaxVersion(key)
	}
	if c.Feature(conn.GroupVersion) < 1 {
		for key := range newerAPIs {
			versions[key] = -1
		}
	}
	return versions
}

// newerAPIs (KIP-848) do not work in every supported release (3.9 to 4.4), so
// a site that nobody ever heard is taken not to have them.
var newerAPIs = map[int16]bool{68: true, 69: true}

func (o *offer) offered(a api) bool {
	if a.level > o.router.config.Administration || a.sasl && !o.router.config.Authentication.Offers() {
		return false
	}
	if a.needs < 0 {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.router.sites {
		version, heard := o.mu.bySite[id][a.key] // an older gateway may have kept fewer keys
		if heard && version < a.needs || !heard && newerAPIs[a.key] {
			return false
		}
	}
	return true
}
