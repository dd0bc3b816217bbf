package federation

import (
	"encoding/json"
	"testing"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/federation/router"
)

// A gateway that leaves vouches for no client any more: it has no router that it could ask,
// and its key stays.
func TestAGatewayThatLeavesVouchesForNobody(t *testing.T) {
	id := spillway.ShareID{Group: "shop"}
	s := router.NewShare(id, spillway.FailoverGroup{Name: "shop"})
	s.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Adoption: &failover.Adoption{}})
	if !s.Adopting() {
		t.Fatal("the share is not adopting")
	}
	g := &Gateway{layout: &layoutKeeper{}, shares: map[spillway.ShareID]*router.Share{id: s}}
	g.mu.leaving = true
	var lease layout.GatewayLease
	if err := json.Unmarshal(g.leaseValue(0), &lease); err != nil || !lease.Leaving {
		t.Errorf("%+v, %v", lease, err)
	}
}

// What is told of clients fits into a lease, over all shares.
func TestWhatALeaseTellsIsBounded(t *testing.T) {
	room, told := toldBytesMax, 0
	for range 100 {
		told += len(within(&room, make([]uint64, 1000), func(uint64) int { return 24 }))
	}
	if told != toldBytesMax/24 {
		t.Errorf("%d members are told", told)
	}
}
