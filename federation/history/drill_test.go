package history

import (
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
)

// failedOver is a drill in which the group failed over to a site, or (epoch 0) was not let.
func failedOver(to spillway.SiteID, epoch spillway.Epoch, outcome Outcome) Drill {
	return Drill{Outcome: outcome, Moves: []DrillMove{
		{Kind: failover.Failover, From: "east", To: to, Epoch: epoch, SilentMillis: 700},
		{Kind: failover.Switchover, From: to, To: "east", Epoch: epoch + 1, SilentMillis: 90},
	}}
}

// Each other site has its turn; what was refused is no turn.
func TestDrillsGoRound(t *testing.T) {
	sites := []spillway.SiteID{"east", "west", "north"}
	var drills []Drill
	for i, want := range []spillway.SiteID{"west", "north", "west", "north"} {
		got, ok := DrillTarget(drills, sites, "east")
		if !ok || got != want {
			t.Errorf("drill %d goes to %q, want %s", i, got, want)
		}
		drills = append(drills, failedOver(got, spillway.Epoch(2+2*i), DrillPassed))
	}
	drills = append(drills, failedOver("west", 0, DrillRefused))
	if got, _ := DrillTarget(drills, sites, "east"); got != "west" {
		t.Errorf("after one to west was refused the next goes to %s", got)
	}
	if _, ok := DrillTarget(nil, sites[:1], "east"); ok {
		t.Error("a group of one site has somewhere to go")
	}
}

func TestOnlyTheLastDrillsAreKept(t *testing.T) {
	var drills []Drill
	for i := range DrillsMax + 7 {
		drills = WithDrill(drills, Drill{Sent: int64(i), Outcome: DrillFailed, Problems: []string{strings.Repeat("x", 200)}})
	}
	if len(drills) != DrillsMax || drills[0].Sent != 7 {
		t.Errorf("%d are kept, the first is %d", len(drills), drills[0].Sent)
	}
	again, err := DecodeDrills(EncodeDrills(drills))
	if err != nil || len(again) != DrillsMax || again[DrillsMax-1].Sent != DrillsMax+6 {
		t.Errorf("%d came back: %v", len(again), err)
	}
	if _, ok := LastPassed(drills); ok {
		t.Error("one passed among failed ones")
	}
	if _, err := DecodeDrills([]byte("{")); err == nil {
		t.Error("half an account was read")
	}
}

// What clients felt of a failover is the trend; the way home is a switchover.
func TestTheRecoveryIsThatOfTheFailover(t *testing.T) {
	drills := []Drill{failedOver("west", 2, DrillPassed), failedOver("north", 4, DrillFailed)}
	last, ok := LastPassed(drills)
	if recovery, known := last.Recovery(); !ok || !known || recovery != 700*time.Millisecond || last.Moves[0].To != "west" {
		t.Errorf("%v %v: %+v", ok, recovery, last)
	}
	if _, known := failedOver("west", 0, DrillRefused).Recovery(); known {
		t.Error("a drill that did not begin has a recovery")
	}
}
