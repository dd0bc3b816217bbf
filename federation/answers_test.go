package federation_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// A batch lies at the old site alone when the share is fenced. The mirror copies
// it while the target catches up, and marks it in the numbering of the epoch
// that is about to open. It is below the cutover, so that mark counts: the
// producer is told, and has nothing to send again (promise C).
func TestAMarkOfTheNextEpochCountsBelowTheCutover(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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

// pair is a request for both partitions of orders: the first batch may go at
// once; the second is of a producer whose first batches are missing, so that it
// waits, and the answer with it.
func pair(timeout time.Duration) *kmsg.ProduceRequest {
	req := produceRequest("orders", nil)
	waits := sequenced(100, timeout).Topics[0].Partitions[0]
	waits.Partition = 1
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, waits)
	req.TimeoutMillis = int32(timeout.Milliseconds())
	return req
}

// waitingPair is a world in which the answer to a pair waits although its first
// batch is in the log of west, the site that serves.
func waitingPair(t *testing.T, lease func(*federation.Config)) (*gatewaytest.World, <-chan int16) {
	t.Helper()
	waits := make(chan string, 10)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Sites: []spillway.SiteID{"east", "west"},
		Gateway: func(c *federation.Config) {
			c.Events.Router.FirstContact = func(outcome string) { waits <- outcome }
			lease(c)
		}})
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	answer := later(t, raw(t, w.Addrs[0]), pair(4*time.Second))
	for outcome := range waits {
		if outcome == "waited" {
			break
		}
	}
	siteLog(t, w, "west", "orders", 2)
	return w, answer
}

// A batch was acknowledged, but its answer waits for another part of the
// request. Meanwhile the share fails over and the batch is lost: the client
// must not be told that all is well (promise A).
func TestAnAcknowledgementThatWaitedIsWithdrawn(t *testing.T) {
	t.Parallel()
	w, answer := waitingPair(t, func(*federation.Config) {})
	w.Fence("east", failover.Failover)
	select {
	case code := <-answer:
		t.Fatalf("error %d: the move waited for the answer of another partition", code)
	default:
	}
	w.Open(2, 0)
	if code := <-answer; code != kerr.NotLeaderForPartition.Code {
		t.Errorf("acknowledged, and lost: error %d", code)
	}
}

// The same where nobody asks the gateway: its lease ends while the answer waits,
// and others count on that.
func TestAnAcknowledgementThatOutlivesTheLeaseIsWithdrawn(t *testing.T) {
	t.Parallel()
	lease := newLapse()
	w, answer := waitingPair(t, lease.of)
	lease.end(w)
	w.Store.Fail(nil)
	if code := <-answer; code != kerr.NotLeaderForPartition.Code {
		t.Errorf("acknowledged across the end of the lease: error %d", code)
	}
}

// The mirror found that records were lost: its next append session says less.
// What was marked before counts no more, also if its line comes late.
func TestAMarkFallsWithALaterSession(t *testing.T) {
	t.Parallel()
	w, west := markedWorld(t, 2, nil)
	c := raw(t, w.Addrs[0])
	line := func(partition, session, end int) string {
		return fmt.Sprintf(`{"site":"west","topic":"orders","partition":%d,"epoch":1,"session":%d,"end":%d}`, partition, session, gatewaytest.OffsetBase+end)
	}
	west <- line(0, 5, 100)
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(0, 5*time.Second))); code != 0 {
		t.Fatalf("error %d", code)
	}
	west <- line(0, 6, 2)
	west <- line(0, 5, 200)
	west <- line(0, 6, 3)
	west <- line(1, 1, 100)
	other := sequenced(0, 5*time.Second) // acknowledged once all lines were read
	other.Topics[0].Partitions[0].Partition = 1
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, other)); code != 0 {
		t.Fatalf("error %d", code)
	}
	waits := later(t, c, sequenced(2, 10*time.Second))
	siteLog(t, w, "east", "orders", 4)
	select {
	case code := <-waits:
		t.Fatalf("error %d: acknowledged by the mark of a session that is over", code)
	case <-time.After(100 * time.Millisecond):
	}
	west <- line(0, 6, 4)
	if code := <-waits; code != 0 {
		t.Errorf("error %d", code)
	}
}
