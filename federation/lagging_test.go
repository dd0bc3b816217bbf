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
	w = gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
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
	gatewaytest.Eventually(t, "the gateway tells", func() bool { return lag().Records == 40 && lag().Acting == 1 })
	gatewaytest.Eventually(t, "its lease tells", func() bool { return leaseLagging(t, w).Records == 40 })
	if l := leaseLagging(t, w); l.Partitions != 1 || l.Worst != "orders-0" {
		t.Errorf("the lease says %+v", l)
	}
	west <- markLine("west", 0, 1, gatewaytest.OffsetBase+30)
	gatewaytest.Eventually(t, "the gateway tells that it is over", func() bool { return lag().Records == 10 && lag().Acting == 0 })
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

// A move does not wait for answers that are late because of a lag, and these do not get
// lost: what is in flight is answered before the barrier.
func TestOnLagThrottleLetsGoForAMove(t *testing.T) {
	t.Parallel()
	w, _, _ := lagWorld(t, spillway.OnLagThrottle)
	c := raw(t, w.Addrs[0])
	for sequence := int32(0); sequence < 10; sequence += 2 {
		do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 10*time.Millisecond))
	}
	late := later(t, c, sequenced(10, time.Minute))
	siteLog(t, w, "east", "orders", 12)
	w.Fence("west", failover.Switchover)
	if code := <-late; code != 0 {
		t.Errorf("error %d", code)
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
	gatewaytest.Eventually(t, "the gateway tells", func() bool { return lag().Records == 14 && lag().Acting == 1 })
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
