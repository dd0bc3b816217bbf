package router

import (
	"context"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
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
	}
}

func newOffer(r *Router) *offer {
	o := &offer{router: r}
	o.mu.bySite = make(map[spillway.SiteID]map[int16]int16)
	o.mu.asked = make(map[spillway.SiteID]time.Time)
	o.mu.asking = make(map[spillway.SiteID]chan struct{})
	return o
}

// Bounds for asking a site what it offers.
const (
	offerAskMax   = 2 * time.Second
	offerAskEvery = 5 * time.Second
)

// learn asks the sites that were never heard, or waits for who asks already. A site that
// cannot be reached, and that no gateway ever heard, counts as one that offers only what all
// supported releases have.
func (o *offer) learn(ctx context.Context) {
	var wait []chan struct{}
	for id, cluster := range o.router.sites {
		o.mu.Lock()
		asking := o.mu.asking[id]
		if asking == nil && o.mu.bySite[id] == nil && time.Since(o.mu.asked[id]) >= offerAskEvery {
			asking = make(chan struct{})
			o.mu.asked[id], o.mu.asking[id] = time.Now(), asking
			// The client that asks first may go away; the others wait for the same answer.
			go o.ask(context.WithoutCancel(ctx), id, cluster, asking)
		}
		o.mu.Unlock()
		if asking != nil {
			wait = append(wait, asking)
		}
	}
	for _, asking := range wait {
		select {
		case <-asking:
		case <-ctx.Done():
			return
		}
	}
}

// ask takes at most offerAskMax.
func (o *offer) ask(ctx context.Context, id spillway.SiteID, cluster broker.Cluster, done chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, offerAskMax)
	defer cancel()
	versions := o.versions(ctx, cluster)
	heard := o.router.config.Heard
	switch {
	case heard == nil:
	case versions != nil:
		heard.Put(ctx, id, versions)
	default:
		versions = heard.Get(ctx, id)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if versions != nil {
		o.mu.bySite[id] = versions
	}
	delete(o.mu.asking, id)
	close(done)
}

// versions are what a site says; nil: it does not answer.
func (o *offer) versions(ctx context.Context, cluster broker.Cluster) map[int16]int16 {
	c, err := cluster.Dial(ctx, broker.AnyNode)
	if err != nil {
		return nil
	}
	defer c.Close()
	versions := make(map[int16]int16, len(apis))
	for key := range apis {
		versions[key] = c.MaxVersion(key)
	}
	// 3.9 offers the requests of KIP-848 and refuses them, so what counts is the
	// finalized feature, which the first look at the metadata learns.
	if _, err := cluster.Metadata(ctx); err != nil {
		return nil
	}
	if !cluster.Capabilities().ConsumerGroupV2 {
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
		versions, heard := o.mu.bySite[id]
		if heard && versions[a.key] < a.needs || !heard && newerAPIs[a.key] {
			return false
		}
	}
	return true
}
