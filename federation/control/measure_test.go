package control

import (
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
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

// After a failover the lost site hides some of each topic. Where no site compacts any the lease
// says only how many, which makes the site unfit as soon as one does.
func TestALeaseNamesWhatIsHiddenWhereSomebodyCompacts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}})
	w.settled(1)
	f := NewFollower(FollowerConfig{Topology: w.topology, Store: w.store, Cluster: w.sites["west"].cluster, Mirror: w.sites["west"].mirror})
	f.hides.all, f.hides.when = map[string]string{"orders": "unreplicated in partition 0"}, time.Now().Add(time.Hour)
	s := &followed{f: f, group: w.topology.Groups()[0], id: spillway.ShareID{Group: "orders"}}
	lease := func(share string, said failover.Following) []coordination.Entry {
		return []coordination.Entry{{Key: "mirrors/east/1", Value: encodeLease(failover.MirrorLease{Site: "east", Following: map[string]failover.Following{share: said}})}}
	}
	for name, c := range map[string]struct {
		here  []string
		there []coordination.Entry // nil: not read yet
		named bool
	}{
		"it is not known":              {nil, nil, true},
		"nobody does":                  {nil, lease("orders/0", failover.Following{}), false},
		"another site does":            {nil, lease("orders/0", failover.Following{Compacted: []string{"orders"}}), true},
		"another one has not named it": {nil, lease("orders/0", failover.Following{CompactedMore: 1}), true},
		"another group is compacted":   {nil, lease("carts/0", failover.Following{Compacted: []string{"carts"}}), false},
		"this site does":               {[]string{"orders"}, lease("orders/0", failover.Following{}), true},
	} {
		f.compact.Store(nil)
		if c.there != nil {
			compact := compactedIn(c.there)
			f.compact.Store(&compact)
		}
		var at failover.Following
		s.tellCompacted(within(t), &at, c.here)
		if named := at.Hiding["orders"] != ""; at.Hiding == nil || named != c.named || len(at.Hiding)+at.HidingMore != 1 {
			t.Errorf("%s: %v and %d more", name, at.Hiding, at.HidingMore)
		}
	}
}
