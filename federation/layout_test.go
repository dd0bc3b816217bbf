package federation_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// Gateways come and go under load: partitions change their leaders, and no
// record is lost, repeated or overtaken (C23).
func TestGatewaysComeAndGo(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateways: []spillway.GatewayID{"gateway-1"}})
	wr := startWriter(t, w, "idempotent", kgo.MetadataMinAge(10e6))
	goOn := func() {
		t.Helper()
		before := wr.acked()
		gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > before+100 })
	}
	goOn()
	for _, id := range []spillway.GatewayID{"gateway-2", "gateway-3", "gateway-4"} {
		w.StartGateway(id)
		w.LayOut("east")
		goOn()
	}
	w.StopGateway("gateway-1")
	w.LayOut("east")
	goOn()
	wr.end(t)
	checkLog(t, w, "east", wr)
}

// Only the leader accepts, and Metadata says who it is, everywhere the same.
func TestOnlyTheLeaderAccepts(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 8}, Gateways: []spillway.GatewayID{"a", "b", "c"}})
	leaders := make(map[int32]int32)
	for _, address := range w.Addrs {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 12
		resp := do[*kmsg.MetadataResponse](t, raw(t, address), req)
		for _, p := range resp.Topics[0].Partitions {
			if old, ok := leaders[p.Partition]; ok && old != p.Leader {
				t.Fatalf("two leaders of partition %d", p.Partition)
			}
			leaders[p.Partition] = p.Leader
		}
	}
	for i, address := range w.Addrs {
		c := raw(t, address)
		for partition, leader := range leaders {
			req := produceRequest("orders", nil)
			req.Topics[0].Partitions[0].Partition = partition
			want := int16(0)
			if leader != 1000+int32(i) {
				want = kerr.NotLeaderForPartition.Code
			}
			if code, _ := produced(do[*kmsg.ProduceResponse](t, c, req)); code != want {
				t.Errorf("gateway %d, partition %d led by %d: error %d", i, partition, leader, code)
			}
		}
	}
}

// An abort raises the epoch and keeps site, mask and numbering: what was held
// goes on where it was.
func TestAbortedMoveGoesOnWhereItWas(t *testing.T) {
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
	writers := []*writer{startWriter(t, w, "idempotent"), startWriter(t, w, "plain", kgo.DisableIdempotentWrite())}
	gatewaytest.Eventually(t, "producers go on", func() bool { return writers[0].acked() > 100 })
	w.Fence("west", failover.Switchover)
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Target = failover.Stable, s.Epoch+1, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: s.Active, Mask: s.Current().Mask, Continues: true})
	})
	before := writers[0].acked()
	gatewaytest.Eventually(t, "producers go on", func() bool { return writers[0].acked() > before+100 })
	for _, wr := range writers {
		wr.end(t)
	}
	checkLog(t, w, "east", writers...)
}
