package status

import (
	"testing"
	"time"

	"spillway/federation/failover"
)

func TestTheLastMoveInWords(t *testing.T) {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	asked := failover.Passage{State: failover.Fencing, At: at, Why: "ann asked for a switchover from east to west: power"}
	done := failover.Share{State: failover.Stable, Passages: []failover.Passage{asked, {State: failover.Open, At: at.Add(96 * time.Millisecond)}, {State: failover.Stable, Why: "all follow"}}}
	if got := last(done); got != "2026-03-04 12:00:00Z: ann asked for a switchover from east to west: power; clients were held for 96 ms" {
		t.Error(got)
	}
	given := failover.Share{State: failover.Stable, Passages: []failover.Passage{asked, {State: failover.Stable, Why: "given up in FENCING: too long"}}}
	if got := last(given); got != "2026-03-04 12:00:00Z: ann asked for a switchover from east to west: power; given up in FENCING: too long" {
		t.Error(got)
	}
	done.State = failover.Open
	if got := last(done) + last(failover.Share{State: failover.Stable}); got != "" {
		t.Error(got)
	}
}
