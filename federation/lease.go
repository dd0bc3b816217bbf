package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("%T cannot be encoded: %v", v, err)) // plain data, cannot happen
	}
	return b
}

// leaseOwner reads which process start wrote a gateway lease.
func leaseOwner(value []byte) string {
	var l layout.GatewayLease
	if json.Unmarshal(value, &l) != nil {
		return ""
	}
	return l.Boot
}

func (g *Gateway) leaseChanged(err error) {
	if g.events.LeaseState != nil {
		g.events.LeaseState(err)
	}
	for _, s := range g.shares {
		s.Wake() // held requests look at the lease again
	}
}

// readShares is the second half of a renewal: the lease is extended only once
// the records were read, so a watch that hangs cannot leave the gateway serving
// an old epoch (C30). The gateways' list says who obeys which layout.
func (g *Gateway) readShares(ctx context.Context) error {
	if err := g.listShares(ctx); err != nil {
		return err
	}
	now := g.layout.now()
	gateways, err := g.config.Store.List(ctx, g.keys.Gateways())
	if err != nil {
		return err
	}
	g.layout.observe(now, gateways)
	l, err := g.config.Store.List(ctx, g.keys.Layout())
	if err != nil {
		return err
	}
	g.layout.seeLayout(l)
	return nil
}

func (g *Gateway) seeShares(entries []coordination.Entry) { g.takeShares(entries, nil) }

// listShares takes notice of the records that the store has now.
func (g *Gateway) listShares(ctx context.Context) error {
	before := g.seenVersions()
	shares, err := g.config.Store.List(ctx, g.keys.Shares())
	if err == nil {
		g.takeShares(shares, before)
	}
	return err
}

// seenVersions are those of the newest records seen.
func (g *Gateway) seenVersions() map[spillway.ShareID]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.mu.versions)
}

// takeShares takes notice of share records. A watch may be late, so what is older than what
// was seen is dropped. A read is not, of what had been seen before it (readBefore; nil: a
// watch), though a watch may have overtaken it. An epoch that fell means that the store was
// put back, and is refused (invariant D).
func (g *Gateway) takeShares(entries []coordination.Entry, readBefore map[spillway.ShareID]uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range entries {
		r, err := failover.Decode(e.Value)
		if err != nil {
			g.problem("read "+e.Key, err)
			continue
		}
		id := spillway.ShareID{Group: r.Group, Index: r.Index}
		s := g.shares[id]
		if s == nil || strings.TrimPrefix(e.Key, g.keys.Shares()) != id.String() {
			continue
		}
		seen, newest := s.Record(), g.mu.versions[id]
		switch {
		case r.Epoch < seen.Epoch:
			g.problem("read "+e.Key, fmt.Errorf("epoch %d is older than %d, which was seen; was the store restored?", r.Epoch, seen.Epoch))
		case e.Version == newest, e.Version < newest && r.Epoch == seen.Epoch && readBefore[id] != newest:
		default:
			g.mu.versions[id] = e.Version
			if _, opens := r.Serves(); opens { // with its leaders and coordinators
				g.layout.serves(id, r.Next())
			}
			s.SetRecord(r)
			g.layout.serves(id, r.Next()) // a share that closes has the former ones until it has
		}
	}
}
