package control

import (
	"slices"
	"strings"
	"testing"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/preflight"
	"spillway/mirror"
)

// The plan of a failover says which consumer group has an old position at the target.
func TestAPlanTellsOfGroupsThatAreNotCarried(t *testing.T) {
	t.Parallel()
	g := testGroup([]spillway.SiteID{"east", "west"})
	share := failover.Share{Group: "orders", Epoch: 3, Active: "east"}
	next := share
	next.Kind, next.Target = failover.Failover, "west"
	for _, c := range []struct {
		seconds float64
		told    bool
	}{{0, false}, {3, false}, {7200, true}} {
		var p Plan
		p.explain(g, share, next, failover.View{Sites: map[spillway.SiteID]failover.SiteView{"west": {Following: &failover.Following{GroupSeconds: c.seconds, GroupBehind: "group app: not authorized"}}}})
		told := slices.ContainsFunc(p.Findings, func(f preflight.Finding) bool {
			return f.About == preflight.AboutGroups && !f.Refuses && strings.Contains(f.What, "have not been carried for 2h0m0s: group app: not authorized at west")
		})
		if told != c.told || strings.Contains(p.Reread, "not carried") != c.told {
			t.Errorf("%v s: %+v, %q", c.seconds, p.Findings, p.Reread)
		}
	}
}

// What the flow says of groups is in the lease.
func TestTheLeaseTellsOfGroups(t *testing.T) {
	t.Parallel()
	at := failover.Following{Epoch: 3}
	share := failover.Share{Group: "orders", Epoch: 3, State: failover.Stable}
	part := lateness(&at, share, []mirror.FlowInfo{{Share: share.ID(), Epoch: 3, GroupAge: 61_000_000_000, GroupBehind: "group app"}})
	for _, f := range []failover.Following{at, *part} {
		if f.GroupSeconds != 61 || f.GroupBehind != "group app" {
			t.Errorf("%+v", f)
		}
	}
}
