package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
)

// Gateways of which members did not pause in time stay in the record until the move is
// over: the history says who may have read again.
func TestWhoDidNotPauseInTimeStaysInTheRecord(t *testing.T) {
	share := Share{Group: "orders", State: Draining, Kind: Switchover, Epoch: 2, Active: "east", Target: "west", Terms: []Term{{Epoch: 1, Site: "east"}}}
	limits := Limits{Group: spillway.FailoverGroup{Name: "orders", GroupDrain: time.Second}}
	view := View{InState: time.Second, Gateways: []GatewayView{{ID: "a", Report: &GatewayReport{GroupsDrained: true}}, {ID: "b"}, {ID: "c", Over: true}, {ID: "old", Over: true, OverFor: time.Minute}, {ID: "d", Leaving: true}}}
	next, _ := Step(share, view, limits)
	if next.State != Fencing || !slices.Equal(next.Undrained, []spillway.GatewayID{"b", "c"}) {
		t.Fatalf("%s, %v", next.State, next.Undrained)
	}
	if over := next.settled(); over.Undrained != nil {
		t.Errorf("%v stays beyond the move", over.Undrained)
	}
	view.Gateways[1].Report = &GatewayReport{GroupsDrained: true}
	if next, _ = Step(share, view, limits); next.State != Fencing || !slices.Equal(next.Undrained, []spillway.GatewayID{"c"}) {
		t.Errorf("nobody waits for one that is gone: %s, %v", next.State, next.Undrained)
	}
	if why := next.Passages[0].Why; !strings.Contains(why, "but those at c, whose lease ran out") {
		t.Error(why)
	}
	view.Gateways[2].OverFor = time.Hour
	if next, _ = Step(share, view, limits); next.State != Fencing || next.Undrained != nil {
		t.Errorf("%s, %v", next.State, next.Undrained)
	}
}

// A gateway that waits for a transaction alone says nothing of its consumers.
func TestATransactionThatDoesNotEndIsNoConsumerThatReadsAgain(t *testing.T) {
	share := Share{Group: "orders", State: Draining, Kind: Switchover, Epoch: 2, Active: "east", Target: "west", Terms: []Term{{Epoch: 1, Site: "east"}}}
	limits := Limits{Group: spillway.FailoverGroup{Name: "orders", GroupDrain: time.Second, TransactionalIDs: []string{"app"}}}
	view := View{Gateways: []GatewayView{{ID: "a", Report: &GatewayReport{GroupsDrained: true}}, {ID: "b", Report: &GatewayReport{MembersWait: true}}}}
	next, actions := Step(share, view, limits)
	if next.State != Draining || len(actions) != 1 || !strings.Contains(actions[0].Why, "transactions end that were begun through b") {
		t.Fatalf("%s, %+v", next.State, actions)
	}
	view.InState = time.Second
	next, _ = Step(share, view, limits)
	if next.State != Fencing || next.Undrained != nil || !slices.Equal(next.Unended, []spillway.GatewayID{"b"}) {
		t.Fatalf("%s, undrained %v, unended %v", next.State, next.Undrained, next.Unended)
	}
	if why := next.Passages[0].Why; !strings.Contains(why, "transactions that are open through b are aborted") {
		t.Error(why)
	}
	if over := next.settled(); over.Unended != nil {
		t.Errorf("%v stays beyond the move", over.Unended)
	}
}
