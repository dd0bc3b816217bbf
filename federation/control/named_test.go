package control

import (
	"testing"

	"spillway"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// A failover for which nobody named a site waits for a person, as its target hides records.
// Who names that one is obeyed, and has accepted no less for it; who only accepts more has not
// named it.
func TestWhoNamesTheTargetOfAFailoverThatWaits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		to         spillway.SiteID
		accept     int64
		chosen     bool
		acceptance int64
	}{
		"it is named":                {"west", 0, false, 1000},
		"it is named, with any loss": {"west", -1, false, -1},
		"more is accepted":           {"", 5000, true, 5000},
		"another one is named":       {"north", 0, true, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := coordtest.NewMemory()
			group := spillway.FailoverGroup{Name: "orders", Sites: []spillway.SiteID{"east", "west", "north"}}
			o := NewOperator(spillway.NewTopology("shop", "shop-1", nil, []spillway.FailoverGroup{group}), store, nil)
			share := failover.Share{Group: "orders", State: failover.Fenced, Kind: failover.Failover, Epoch: 2, Active: "east", Target: "west", Chosen: true, LossMax: 1000,
				Terms: []failover.Term{{Epoch: 1, Site: "east"}}}
			if _, err := store.Put(t.Context(), o.keys.Share(share.ID()), share.Encode(), 0); err != nil {
				t.Fatal(err)
			}
			_, err := o.Failover(within(t), "orders", c.to, c.accept, "ann", "", false)
			if refused := c.to == "north"; refused != (err != nil) {
				t.Fatal(err)
			}
			next, _, err := o.share(within(t), "orders")
			if err != nil || next.Chosen != c.chosen || next.LossMax != c.acceptance || next.Target != "west" {
				t.Errorf("%v: chosen %t, accepted %d, to %s", err, next.Chosen, next.LossMax, next.Target)
			}
		})
	}
}
