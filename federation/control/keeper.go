package control

import (
	"context"
	"errors"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// keepLayout writes a new layout when gateways come or go, or when a share has
// found a new home. All loops do; the compare-and-set lets one through.
func (c *Control) keepLayout(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.LeaseTTL / 4)
	defer ticker.Stop()
	for {
		changed := c.hub.wait()
		if err := c.layOut(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Events.storeLost(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}

func (c *Control) layOut(ctx context.Context) error {
	var current layout.Layout
	entry, ok := c.hub.entry(c.keys.Layout(), c.keys.Layout())
	if ok {
		var err error
		if current, err = layout.Decode(entry.Value); err != nil {
			return err
		}
	}
	next, why := layout.Next(current, c.liveGateways(), c.homes(current))
	if why == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	version, err := c.cfg.Store.Put(ctx, c.keys.Layout(), next.Encode(), entry.Version)
	if errors.Is(err, coordination.ErrConflict) {
		return nil // another loop was faster; its layout comes with the watch
	}
	if err != nil {
		return err
	}
	c.hub.take(c.keys.Layout(), []coordination.Entry{{Key: c.keys.Layout(), Value: next.Encode(), Version: version}})
	c.cfg.Events.layoutChanged(next.Version, why)
	return nil
}

// liveGateways are those whose lease may be valid. A gateway that nobody renewed
// since this loop began is taken as alive until its lease must be over.
func (c *Control) liveGateways() []layout.GatewayLease {
	var live []layout.GatewayLease
	for _, l := range decodeGateways(c.hub.entries(c.keys.Gateways())) {
		if c.hub.left(l.ID, l.Boot) > 0 {
			live = append(live, l)
		}
	}
	return live
}

// homes follows the active site of shares that stand still; a share that moves
// keeps its home, so that its held requests are forwarded by those who hold them.
func (c *Control) homes(current layout.Layout) map[string]spillway.SiteID {
	homes := map[string]spillway.SiteID{}
	for _, e := range c.hub.entries(c.keys.Shares()) {
		s, err := failover.Decode(e.Value)
		if err != nil {
			continue
		}
		id := s.ID().String()
		if home, ok := current.Homes[id]; ok && s.State != failover.Stable {
			homes[id] = home
		} else {
			homes[id] = s.Active
		}
	}
	return homes
}
