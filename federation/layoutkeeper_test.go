package federation

import (
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/layout"
)

// A gateway serves until its lease is over, also if somebody deletes the key of it in the
// store: who leads its partitions next waits for that long. One that is back, or has left in
// order, is not waited for.
func TestAGatewayWhoseLeaseWasDeletedIsWaitedFor(t *testing.T) {
	const long = coordination.LeaseTTL + coordination.LeaseMargin
	for name, c := range map[string]struct {
		watched, leaving, back bool
		dead                   time.Duration // when the key vanishes
		after                  time.Duration
		ready                  bool
	}{
		"a read saw it":                     {},
		"a watch alone saw it":              {watched: true},
		"its lease may last":                {after: long - time.Second},
		"its lease is over":                 {after: long, ready: true},
		"over, and a watch alone saw it":    {watched: true, after: long, ready: true},
		"dead for a second, then deleted":   {dead: time.Second},
		"dead for an hour, then deleted":    {dead: time.Hour, ready: true},
		"it had left":                       {leaving: true, ready: true},
		"it is back, and obeys the new one": {back: true, ready: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shop := spillway.ShareID{Group: "shop"}
				g := &Gateway{config: Config{ID: "first", Store: coordtest.NewMemory(), Clock: coordination.GoClock{}}, keys: "test"}
				k := newLayoutKeeper(g)
				lease := func(id spillway.GatewayID, obeys int64) layout.GatewayLease {
					return layout.GatewayLease{ID: id, Boot: "of " + string(id), Site: "east", Layout: obeys, Slots: 1}
				}
				entries := func(leases ...layout.GatewayLease) (all []coordination.Entry) {
					for i, l := range leases {
						all = append(all, coordination.Entry{Key: g.keys.Gateway(l.ID), Value: encode(l), Version: uint64(i + 1)})
					}
					return all
				}
				layOut := func(current layout.Layout, leases ...layout.GatewayLease) layout.Layout {
					next, _ := layout.Next(current, leases, map[string]spillway.SiteID{shop.String(): "east"})
					k.seeLayout([]coordination.Entry{{Key: g.keys.Layout(), Value: next.Encode(), Version: uint64(next.Version)}})
					return next
				}
				k.serves(shop, "east")
				first, second := lease("first", 1), lease("second", 1)
				both := layOut(layout.Layout{}, first, second)
				second.Leaving = c.leaving
				tp := spillway.TopicPartition{Topic: "orders"}
				for k.leads(k.Current(), shop, tp) { // until one that the other one leads
					tp.Partition++
				}
				if c.watched {
					k.observe(k.now(), entries(first))
					k.seeGateways(entries(first, second))
				} else {
					k.observe(k.now(), entries(first, second))
				}
				layOut(both, first)
				if time.Sleep(c.dead); c.dead > 0 {
					k.observe(k.now(), entries(first, second))
				}

				k.observe(k.now(), entries(first)) // the key of the second is gone
				time.Sleep(c.after)
				now := entries(first)
				if second.Layout = k.Current().Version; c.back {
					now = entries(first, second)
				}
				k.observe(k.now(), now)
				if mine, ready := k.Leads(shop, tp); !mine || ready != c.ready {
					t.Errorf("leads %v, ready %v, want %v", mine, ready, c.ready)
				}
			})
		})
	}
}
