package federation

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/layout"
)

// layoutKeeper knows the newest layout, tells when this gateway obeys it, and
// whether the others do (C23). It implements router.Layout.
//
// A partition may be served once every gateway that may have led it before has
// let go: that is, when all others obey the newest layout, or their lease is
// over, or this gateway led it in all layouts since they last did.
type layoutKeeper struct {
	gateway *Gateway
	waiter  *coordination.Waiter
	clock   coordination.Clock
	kick    chan struct{}

	mu      sync.Mutex
	sites   map[string]spillway.SiteID // of layout.Layout.Sites; never changed in place
	newest  layout.Layout
	base    *layout.Layout  // the newest but one that all obeyed; nil if none was seen
	since   []layout.Layout // after base, the newest included
	listed  bool            // the others were read once
	obeys   int64           // this gateway
	others  []layout.GatewayLease
	settled bool // all others obey the newest
	changed chan struct{}
}

// sinceMax bounds the memory; beyond it only waiting for the others makes a
// partition ready.
const sinceMax = 16

func newLayoutKeeper(g *Gateway) *layoutKeeper {
	clock := g.config.Clock
	if clock == nil {
		clock = coordination.SystemClock{}
	}
	ttl := g.config.LeaseTTL
	if ttl <= 0 {
		ttl = coordination.LeaseTTL
	}
	return &layoutKeeper{
		gateway: g, clock: clock, kick: make(chan struct{}, 1), changed: make(chan struct{}),
		waiter: coordination.NewWaiter(ttl, coordination.LeaseMargin, clock),
	}
}

func (k *layoutKeeper) now() coordination.Instant { return k.clock.Now() }

// Current implements router.Layout.
func (k *layoutKeeper) Current() layout.Layout {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.newest
}

// Changed implements router.Layout.
func (k *layoutKeeper) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

// Leads implements router.Layout.
func (k *layoutKeeper) Leads(share spillway.ShareID, tp spillway.TopicPartition) (mine, ready bool) {
	k.mu.Lock()
	newest, base, since, settled := k.newest, k.base, k.since, k.settled
	k.mu.Unlock()
	if !k.leads(newest, share, tp) {
		return false, false
	}
	if settled {
		return true, true
	}
	if base == nil || !k.leads(*base, share, tp) {
		return true, false
	}
	for _, l := range since {
		if !k.leads(l, share, tp) {
			return true, false
		}
	}
	return true, true
}

func (k *layoutKeeper) leads(l layout.Layout, share spillway.ShareID, tp spillway.TopicPartition) bool {
	n, ok := l.Leader(share, tp, -1)
	return ok && n.Gateway == k.gateway.config.ID
}

// obeyed is the version for the gateway's lease.
func (k *layoutKeeper) obeyed() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.obeys
}

// serves takes notice of where a share is served next. With it leaders change only
// where no gateway of the home lives, and while the share moves: nothing is let in, and
// what was let in before is drained, or over with the lease, before the share opens.
func (k *layoutKeeper) serves(share spillway.ShareID, next spillway.SiteID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := share.String()
	if k.sites[id] == next {
		return
	}
	sites := map[string]spillway.SiteID{}
	maps.Copy(sites, k.sites)
	sites[id] = next
	k.sites, k.newest.Sites = sites, sites
	if k.base != nil {
		base := *k.base
		base.Sites, k.base = sites, &base
	}
	k.since = slices.Clone(k.since) // Leads reads the old one
	for i := range k.since {
		k.since[i].Sites = sites
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

// seeLayout takes what the store shows.
func (k *layoutKeeper) seeLayout(entries []coordination.Entry) {
	for _, e := range entries {
		if e.Key != k.gateway.keys.Layout() {
			continue
		}
		l, err := layout.Decode(e.Value)
		if err != nil {
			k.gateway.problem("read "+e.Key, err)
			continue
		}
		k.mu.Lock()
		l.Sites = k.sites
		if l.Version > k.newest.Version {
			if k.settled {
				settled := k.newest
				k.base, k.since = &settled, nil
			}
			if k.newest, k.since = l, append(slices.Clip(k.since), l); len(k.since) > sinceMax {
				k.base = nil
			}
			k.settle()
			select {
			case k.kick <- struct{}{}:
			default:
			}
		}
		k.mu.Unlock()
	}
}

// observe takes a read of all gateway leases that was started at the given instant.
func (k *layoutKeeper) observe(started coordination.Instant, entries []coordination.Entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listed = true
	k.forgetOver()
	k.waiter.Observe(started, k.gateway.keys.Gateways(), entries, leaseOwner)
	k.takeGateways(entries)
}

// forgetOver drops whose lease is over. Its key may vanish long after it died, as somebody tidies
// up, and to the waiter a lease may last anew from then on. The caller holds mu.
func (k *layoutKeeper) forgetOver() {
	k.others = slices.DeleteFunc(k.others, func(o layout.GatewayLease) bool {
		return k.waiter.Over(k.gateway.keys.Gateway(o.ID), o.Boot)
	})
}

// seeGateways takes what a watch shows: it may say sooner that another gateway
// obeys, but a lease is over only by reads.
func (k *layoutKeeper) seeGateways(entries []coordination.Entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.takeGateways(entries)
}

// takeGateways keeps also those whose key vanished while their lease may last: an operator may
// have deleted it while they serve (C4 of package coordination). Not those whose key another
// process of the same ID wrote over.
func (k *layoutKeeper) takeGateways(entries []coordination.Entry) {
	before, there := k.others, make(map[spillway.GatewayID]bool)
	k.others = nil
	for _, e := range entries {
		var l layout.GatewayLease
		if err := json.Unmarshal(e.Value, &l); err != nil {
			k.gateway.problem("read "+e.Key, err)
			continue
		}
		if there[l.ID] = true; l.ID != k.gateway.config.ID {
			k.others = append(k.others, l)
		}
	}
	for _, o := range before {
		key := k.gateway.keys.Gateway(o.ID)
		if there[o.ID] || o.Leaving {
			continue
		}
		k.waiter.Expect(key, o.Boot) // where a watch alone saw it
		if !k.waiter.Over(key, o.Boot) {
			k.others = append(k.others, o)
		}
	}
	k.settle()
}

// settle looks whether all others obey the newest layout. The caller holds mu.
func (k *layoutKeeper) settle() {
	k.settled = k.newest.Version > 0 && k.listed
	for _, o := range k.others {
		key := k.gateway.keys.Gateway(o.ID)
		if !o.Leaving && o.Layout < k.newest.Version && !k.waiter.Over(key, o.Boot) {
			k.settled = false
		}
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

// run obeys one layout after the other.
func (k *layoutKeeper) run(ctx context.Context) {
	for {
		select {
		case <-k.kick:
		case <-ctx.Done():
			return
		}
		version := k.Current().Version
		if k.gateway.router.Obey(ctx, version) != nil {
			return
		}
		k.mu.Lock()
		k.obeys = max(k.obeys, version)
		k.mu.Unlock()
		k.gateway.lease.Renew()
	}
}
