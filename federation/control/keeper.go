package control

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// layoutRest is how many times as long as a look at the layout took the next one waits: a
// thousand shares may change at once, and the layout names all of them.
const layoutRest = 4

// restFor is how long the next look waits, after one that was work for so long. What the
// store takes is no work; and gateways that are gone stay leaders no longer than their
// leases are looked at anyway.
func restFor(worked, leaseTTL time.Duration) time.Duration {
	return min(layoutRest*worked, leaseTTL/4)
}

// laidOut is what was decoded last of the layout and of the records, with the bytes.
type laidOut struct {
	layout layout.Layout
	bytes  []byte          // of the layout; nil: none
	homes  map[string]home // by key
}

// home is where a share is served, or will be.
type home struct {
	record []byte
	id     string
	site   spillway.SiteID
}

// keepLayout writes a new layout when gateways come or go, or when a share has
// a new home. All loops do; the compare-and-set lets one through.
func (c *Control) keepLayout(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.LeaseTTL / 4)
	defer ticker.Stop()
	for {
		changed := c.hub.wait()
		worked, err := c.layOut(ctx)
		if err != nil && ctx.Err() == nil {
			c.cfg.Events.storeLost(err)
		}
		ended := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
		pause(ctx, restFor(worked, c.cfg.LeaseTTL)-time.Since(ended))
	}
}

// layOut writes a new layout if there is to be one, and returns how long it has worked on
// it: reading and reckoning, not waiting for the store. After an error that is nothing, for
// the next look must not wait.
func (c *Control) layOut(ctx context.Context) (worked time.Duration, err error) {
	began := time.Now()
	if !c.hub.hasRead(c.keys.Layout(), c.keys.Gateways(), c.keys.Shares()) {
		return 0, nil // a loop that starts would lay out only what it has read
	}
	entry, ok := c.hub.entry(c.keys.Layout(), c.keys.Layout())
	if !ok {
		c.laidOut.layout, c.laidOut.bytes = layout.Layout{}, nil
	} else if !bytes.Equal(c.laidOut.bytes, entry.Value) {
		l, err := layout.Decode(entry.Value)
		if err != nil {
			return 0, err
		}
		c.laidOut.layout, c.laidOut.bytes = l, entry.Value
	}
	current := c.laidOut.layout
	live := c.liveGateways(current)
	next, why := layout.Next(current, live, c.homes(current, live))
	worked = time.Since(began)
	if why == "" {
		return worked, nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	version, err := c.cfg.Store.Put(ctx, c.keys.Layout(), next.Encode(), entry.Version)
	if errors.Is(err, coordination.ErrConflict) {
		return worked, nil // another loop was faster; its layout comes with the watch
	}
	if err != nil {
		return 0, err
	}
	c.hub.take(c.keys.Layout(), []coordination.Entry{{Key: c.keys.Layout(), Value: next.Encode(), Version: version}})
	c.cfg.Events.layoutChanged(next.Version, why)
	return worked, nil
}

// liveGateways are those whose lease may be valid. A gateway stays in the layout
// until its lease must be over; it comes in only once its lease was seen to
// move, so that loops which saw its last renewal at different moments do not
// undo each other's layouts.
func (c *Control) liveGateways(current layout.Layout) []layout.GatewayLease {
	var live []layout.GatewayLease
	for _, l := range decodeGateways(c.hub.entries(c.keys.Gateways())) {
		in := len(current.NodesOf(l.ID)) > 0
		if in && c.hub.left(l.ID, l.Boot) > 0 || c.hub.alive(c.keys.Gateway(l.ID)) {
			live = append(live, l)
		}
	}
	return live
}

// homes names the site whose gateways lead each share (layout.Home). A share of which
// another loop knows more keeps its home.
func (c *Control) homes(current layout.Layout, live []layout.GatewayLease) map[string]spillway.SiteID {
	homes := map[string]spillway.SiteID{}
	maps.Copy(homes, current.Homes)
	lives := func(site spillway.SiteID) bool {
		return slices.ContainsFunc(live, func(g layout.GatewayLease) bool { return g.Site == site && !g.Leaving })
	}
	decoded := map[string]home{}
	for _, e := range c.hub.entries(c.keys.Shares()) {
		h, ok := c.laidOut.homes[e.Key]
		if !ok || !bytes.Equal(h.record, e.Value) {
			s, err := failover.Decode(e.Value)
			if err != nil {
				continue
			}
			h = home{e.Value, s.ID().String(), s.Next()}
		}
		decoded[e.Key] = h
		homes[h.id] = layout.Home(current.Homes[h.id], h.site, lives)
	}
	c.laidOut.homes = decoded
	return homes
}
