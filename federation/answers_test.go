package federation_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// A batch lies at the old site alone when the share is fenced. The mirror copies
// it while the target catches up, and marks it in the numbering of the epoch
// that is about to open. It is below the cutover, so that mark counts: the
// producer is told, and has nothing to send again (promise C).
func TestAMarkOfTheNextEpochCountsBelowTheCutover(t *testing.T) {
	w, west := markedWorld(t, 1, nil)
	answer := later(t, raw(t, w.Addrs[0]), sequenced(0, 10*time.Second))
	siteLog(t, w, "east", "orders", 2)
	w.Fence("west", failover.Switchover)
	west <- markLine("west", 0, 2, gatewaytest.OffsetBase+2)
	select {
	case code := <-answer:
		t.Fatalf("error %d before the epoch was open: it may be given up", code)
	case <-time.After(100 * time.Millisecond):
	}
	w.Open(0, 0)
	if code := <-answer; code != 0 {
		t.Errorf("error %d", code)
	}
}

// After a failover that may have lost records, marks of the new epoch say
// nothing about what was written in the old one: other records may have its offsets.
func TestAMarkBehindALossDoesNotCount(t *testing.T) {
	w, west := markedWorld(t, 1, nil)
	answer := later(t, raw(t, w.Addrs[0]), sequenced(0, 2*time.Second))
	siteLog(t, w, "east", "orders", 2)
	w.Fence("west", failover.Failover)
	w.Open(2, 1000)
	west <- markLine("west", 0, 2, gatewaytest.OffsetBase+2)
	east := markStream(t, w, "east")
	east <- markLine("east", 0, 2, gatewaytest.OffsetBase+2)
	if code := <-answer; code == 0 || code == kerr.DuplicateSequenceNumber.Code {
		t.Errorf("acknowledged, and lost: error %d", code)
	}
}
