package control

import (
	"testing"
	"time"

	"spillway/federation/failover"
	"spillway/mirror"
)

// A site says that it has caught up only of what flows in the epoch of the share: without
// a flow it knows of no lag.
func TestWithoutAFlowASiteIsCatchingUp(t *testing.T) {
	t.Parallel()
	share := failover.Share{Group: "orders", Epoch: 3, State: failover.Stable}
	flow := mirror.FlowInfo{Share: share.ID(), Source: "east", Epoch: 3, Partitions: 4, LagTime: 2 * time.Second}
	other, older, late := flow, flow, flow
	other.Share.Group, older.Epoch, late.CatchingUp = "carts", 2, true
	moving := share
	moving.State = failover.Cutover
	for name, c := range map[string]struct {
		share      failover.Share
		flows      []mirror.FlowInfo
		catchingUp bool
		carries    bool
	}{
		"nothing flows in":        {share, nil, true, false},
		"another share does":      {share, []mirror.FlowInfo{other}, true, false},
		"it does in an older one": {share, []mirror.FlowInfo{older}, true, true},
		"it does":                 {share, []mirror.FlowInfo{other, flow}, false, true},
		"it has not had all yet":  {share, []mirror.FlowInfo{late}, true, true},
		"a move has ended it":     {moving, nil, false, false},
	} {
		at := failover.Following{Epoch: c.share.Epoch}
		carries := lateness(&at, c.share, c.flows)
		if at.CatchingUp != c.catchingUp || (carries != nil) != c.carries || c.carries && at.LagSeconds != 2 {
			t.Errorf("%s: %+v, carries %+v", name, at, carries)
		}
	}
}
