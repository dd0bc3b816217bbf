package federation_test

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/federation/layout"
	"spillway/federation/router"
)

// lagWorld has one site that serves and one whose mirror says what the test puts into the
// channel. Acknowledgements wait for one site, and ten records may lie there alone.
func lagWorld(t *testing.T, onLag string) (w *gatewaytest.World, west chan<- string, lag func() router.LagInfo) {
	t.Helper()
	var mu sync.Mutex
	var last router.LagInfo
	w = gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Sites: []spillway.SiteID{"east", "west"},
		Group: func(g *spillway.FailoverGroup) {
			g.Ack = spillway.AckPolicy{Sites: 1, OnLag: onLag, LagRecordsMax: 10}
		},
		Gateway: func(c *federation.Config) {
			c.Events.Lag = func(_ spillway.ShareID, info router.LagInfo) {
				mu.Lock()
				defer mu.Unlock()
				last = info
			}
		}})
	return w, markStream(t, w, "west"), func() router.LagInfo {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

// leaseLagging is what the gateway's lease says of the share.
func leaseLagging(t *testing.T, w *gatewaytest.World) layout.Lagging {
	t.Helper()
	e, err := w.Store.Get(t.Context(), w.Keys.Gateway("gateway-1"))
	if err != nil {
		t.Fatal(err)
	}
	var l layout.GatewayLease
	if err := json.Unmarshal(e.Value, &l); err != nil {
		t.Fatal(err)
	}
	return l.Lagging[gatewaytest.ShareID.String()]
}

func TestOnLagWarn(t *testing.T) {
	t.Parallel()
	w, west, lag := lagWorld(t, spillway.OnLagWarn)
	c := raw(t, w.Addrs[0])
	for sequence := int32(0); sequence < 40; sequence += 2 {
		resp := do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 5*time.Second))
		if code, _ := produced(resp); code != 0 || resp.ThrottleMillis != 0 {
			t.Fatalf("sequence %d: error %d, throttle time %d ms", sequence, code, resp.ThrottleMillis)
		}
	}
	gatewaytest.Eventually(t, "the gateway tells", func() bool { return lag().Records == 40 && lag().Beyond == 1 })
	gatewaytest.Eventually(t, "its lease tells", func() bool { return leaseLagging(t, w).Records == 40 })
	if l := leaseLagging(t, w); l.Partitions != 1 || l.Worst != "orders-0" {
		t.Errorf("the lease says %+v", l)
	}
	west <- markLine("west", 0, 1, gatewaytest.OffsetBase+30)
	gatewaytest.Eventually(t, "the gateway tells that it is over", func() bool { return lag().Records == 10 && lag().Beyond == 0 })
	gatewaytest.Eventually(t, "its lease tells nothing", func() bool { return leaseLagging(t, w) == layout.Lagging{} })
}

func TestOnLagThrottle(t *testing.T) {
	t.Parallel()
	w, west, _ := lagWorld(t, spillway.OnLagThrottle)
	c := raw(t, w.Addrs[0])
	throttled := func(sequence int32) int32 {
		t.Helper()
		resp := do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 1400*time.Millisecond))
		if code, _ := produced(resp); code != 0 {
			t.Fatalf("sequence %d: error %d", sequence, code)
		}
		return resp.ThrottleMillis
	}
	for sequence, want := range []int32{0, 0, 600, 700, 700, 700} { // half of the request's timeout at most
		if got := throttled(int32(2 * sequence)); got != want {
			t.Errorf("%d records are at one site: throttle time %d ms, want %d", 2*(sequence+1), got, want)
		}
	}
	west <- markLine("west", 0, 1, gatewaytest.OffsetBase+12)
	gatewaytest.Eventually(t, "the mark arrives", func() bool { return leaseLagging(t, w) == layout.Lagging{} })
	if got := throttled(12); got != 0 {
		t.Errorf("the mirror is near: throttle time %d ms", got)
	}
}

func TestOnLagBlock(t *testing.T) {
	t.Parallel()
	w, west, lag := lagWorld(t, spillway.OnLagBlock)
	c, other := raw(t, w.Addrs[0]), raw(t, w.Addrs[0])
	code := func(sequence int32, timeout time.Duration) int16 {
		code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, timeout)))
		return code
	}
	for sequence := int32(0); sequence < 10; sequence += 2 {
		if got := code(sequence, 5*time.Second); got != 0 {
			t.Fatalf("within the limit: error %d", got)
		}
	}
	if got := code(10, 300*time.Millisecond); got != kerr.RequestTimedOut.Code {
		t.Errorf("beyond the limit: error %d", got)
	}
	again, next := later(t, c, sequenced(10, 20*time.Second)), later(t, other, sequenced(12, 20*time.Second))
	siteLog(t, w, "east", "orders", 14)
	gatewaytest.Eventually(t, "the gateway tells", func() bool { return lag().Records == 14 && lag().Beyond == 1 })
	west <- markLine("west", 0, 1, gatewaytest.OffsetBase+2)
	if got := <-again; got != 0 {
		t.Errorf("within the limit again: error %d", got)
	}
	select {
	case got := <-next:
		t.Errorf("the next one is beyond it, and was answered with %d", got)
	default:
	}
	// A switchover brings the rest to the other site; what waits is acknowledged then.
	w.Fence("west", failover.Switchover)
	west <- markLine("west", 0, 2, gatewaytest.OffsetBase+14)
	w.Open(0, 0)
	if got := <-next; got != 0 {
		t.Errorf("moved: error %d", got)
	}
}

// blockedWorld has ten records at one site, and a batch of two more that waits for the other.
func blockedWorld(t *testing.T, timeout time.Duration) (w *gatewaytest.World, west chan<- string, answer <-chan int16) {
	t.Helper()
	w, west, _ = lagWorld(t, spillway.OnLagBlock)
	c := raw(t, w.Addrs[0])
	for sequence := int32(0); sequence < 10; sequence += 2 {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, soon))); code != 0 {
			t.Fatalf("within the limit: error %d", code)
		}
	}
	answer = later(t, c, sequenced(10, timeout))
	siteLog(t, w, "east", "orders", 12)
	return w, west, answer
}

// A switchover acknowledges what one request wrote to a partition within the limit, and to one
// beyond it, when the new site has both: a plain producer would write the first one again.
func TestOnLagBlockOfOneOfTwoPartitions(t *testing.T) {
	t.Parallel()
	w, west, _ := lagWorld(t, spillway.OnLagBlock)
	c := raw(t, w.Addrs[0])
	for range 5 {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 {
			t.Fatalf("within the limit: error %d", code)
		}
	}
	both := produceRequest("orders", nil)
	other := both.Topics[0].Partitions[0]
	other.Partition = 1
	both.Topics[0].Partitions = append(both.Topics[0].Partitions, other)
	both.TimeoutMillis = int32(soon.Milliseconds())
	answer := begun(t, c, both)
	siteLog(t, w, "east", "orders", 12)
	w.Fence("west", failover.Switchover)
	west <- markLine("west", 0, 2, gatewaytest.OffsetBase+12)
	w.Open(0, 0)
	west <- markLine("west", 1, 2, gatewaytest.OffsetBase+2)
	for _, p := range answer().(*kmsg.ProduceResponse).Topics[0].Partitions {
		if p.ErrorCode != 0 {
			t.Errorf("partition %d: error %d", p.Partition, p.ErrorCode)
		}
	}
}

// What waits for another site holds up no change of leaders, for none of it is on its way.
func TestOnLagBlockHoldsUpNoLayout(t *testing.T) {
	t.Parallel()
	w, west, answer := blockedWorld(t, soon)
	w.StartGateway("gateway-2")
	w.LayOut("east")
	select {
	case code := <-answer:
		t.Fatalf("the layout is obeyed when the answer is given: error %d", code)
	default:
	}
	west <- markLine("west", 0, 1, gatewaytest.OffsetBase+2)
	if code := <-answer; code != 0 {
		t.Errorf("within the limit again: error %d", code)
	}
}

// Who waits for another site goes on elsewhere where waiting makes no sense any more.
func TestOnLagBlockEndsEarly(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*gatewaytest.World){
		"a failover loses it":    func(w *gatewaytest.World) { w.Fence("west", failover.Failover) },
		"the gateway is leaving": func(w *gatewaytest.World) { w.StopGateway("gateway-1") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, answer := blockedWorld(t, soon)
			end(w)
			if code := <-answer; code != kerr.NotLeaderForPartition.Code {
				t.Errorf("error %d", code)
			}
		})
	}
}
