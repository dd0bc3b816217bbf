package federation_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// The store is put back to before a failover while the gateway restarts. The
// sites know better, and the gateway does not serve the old one again (promise
// A): each of the two sites alone is enough to tell.
func TestARestoredStoreIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, moved := range map[string]func(w *gatewaytest.World){
		"the old site closed its epoch": func(w *gatewaytest.World) {
			w.Fence("west", failover.Failover)
			w.Open(0, 0)
		},
		"the new site has seen a newer epoch": func(w *gatewaytest.World) { w.SetFloor("west", 2) },
		"the old site has seen a newer epoch": func(w *gatewaytest.World) { w.SetFloor("east", 2) },
	} {
		t.Run(name, func(t *testing.T) {
			w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
			if code, _ := produced(do[*kmsg.ProduceResponse](t, raw(t, w.Addrs[0]), produceRequest("orders", nil))); code != 0 {
				t.Fatalf("error %d", code)
			}
			backup := w.Share()
			moved(w)
			w.StopGateway("gateway-1")
			w.SetShare(func(s *failover.Share) { *s = backup })
			w.StartGateway("gateway-2")
			w.LayOut("east")
			req := produceRequest("orders", nil)
			req.TimeoutMillis = int32((2 * time.Second).Milliseconds())
			if code, offset := produced(do[*kmsg.ProduceResponse](t, raw(t, w.Addrs[1]), req)); code != kerr.NotLeaderForPartition.Code {
				t.Errorf("error %d, offset %d: the old site serves again", code, offset)
			}
			siteLog(t, w, "east", "orders", 2)
		})
	}
}
