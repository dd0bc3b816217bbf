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
		initProducerIDAPI, addPartitionsToTxnAPI, addOffsetsToTxnAPI, endTxnAPI, txnOffsetCommitAPI, describeConfigsAPI, saslAuthenticateAPI, describeClusterAPI, consumerGroupHeartbeatAPI, consumerGroupDescribeAPI,
		createTopicsAPI, incrementalAlterConfigsAPI, alterConfigsAPI,
	} {
		apis[a.key] = a
	}
}

// offer knows which versions the sites offer, so that a move never takes an
// API away from a connection.
type offer struct {
	router *Router
	mu     struct {
		sync.Mutex
		bySite map[spillway.SiteID]map[int16]int16 // highest version by key
		asked  map[spillway.SiteID]time.Time
	}
}

func newOffer(r *Router) *offer {
	o := &offer{router: r}
	o.mu.bySite = make(map[spillway.SiteID]map[int16]int16)
	o.mu.asked = make(map[spillway.SiteID]time.Time)
	return o
}

// Bounds for asking a site what it offers.
const (
	offerAskMax   = 2 * time.Second
	offerAskEvery = 5 * time.Second
)

// learn asks the sites that were never heard. A site that cannot be reached
// counts as one that offers only what all supported releases have, until it
// was heard once.
func (o *offer) learn(ctx context.Context) {
	var wg sync.WaitGroup
	for id, cluster := range o.router.sites {
		o.mu.Lock()
		known := o.mu.bySite[id] != nil || time.Since(o.mu.asked[id]) < offerAskEvery
		if !known {
			o.mu.asked[id] = time.Now()
		}
		o.mu.Unlock()
		if !known {
			wg.Go(func() { o.ask(ctx, id, cluster) })
		}
	}
	wg.Wait()
}

func (o *offer) ask(ctx context.Context, id spillway.SiteID, cluster broker.Cluster) {
	ctx, cancel := context.WithTimeout(ctx, offerAskMax)
	defer cancel()
	c, err := cluster.Dial(ctx, broker.AnyNode)
	if err != nil {
		return
	}
	defer c.Close()
	versions := make(map[int16]int16, len(apis))
	for key := range apis {
		versions[key] = c.MaxVersion(key)
	}
	// 3.9 offers the requests of KIP-848 and refuses them, so what counts is the
	// finalized feature, which the first look at the metadata learns.
	if _, err := cluster.Metadata(ctx); err != nil {
		return
	}
	if !cluster.Capabilities().ConsumerGroupV2 {
		for key := range newerAPIs {
			versions[key] = -1
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.bySite[id] = versions
}

// newerAPIs (KIP-848) do not work in every supported release (3.9 to 4.4), so
// a site that was never heard is taken not to have them.
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
