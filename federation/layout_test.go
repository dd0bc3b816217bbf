package federation_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// Gateways come and go under load: partitions change their leaders, and no
// record is lost, repeated or overtaken (C23).
func TestGatewaysComeAndGo(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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

// What is held for a partition that goes to another gateway is refused at once: the
// client finds the new leader, and the hold there is as long as ever. Held on, it
// came back after eight seconds, when batches behind it had been written elsewhere.
func TestWhatIsHeldIsRefusedWhenAnotherLeads(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 8}, Sites: []spillway.SiteID{"east", "west"},
		Gateway: func(c *federation.Config) { c.Router.HoldMax = time.Hour }})
	w.Fence("west", failover.Switchover)
	var answers []<-chan int16
	for partition := range int32(8) {
		req := produceRequest("orders", nil)
		req.TimeoutMillis = 60_000
		req.Topics[0].Partitions[0].Partition = partition
		answers = append(answers, later(t, raw(t, w.Addrs[0]), req))
	}
	w.StartGateway("gateway-2")
	next := w.LayOut("east")
	var kept []<-chan int16
	for partition, answer := range answers {
		if n, _ := next.Leader(gatewaytest.ShareID, spillway.TopicPartition{Topic: "orders", Partition: int32(partition)}, -1); n.Gateway == "gateway-1" {
			kept = append(kept, answer)
			continue
		}
		select {
		case code := <-answer:
			if code != kerr.NotLeaderForPartition.Code {
				t.Errorf("partition %d: error %d", partition, code)
			}
		case <-time.After(soon):
			t.Errorf("partition %d is held on", partition)
		}
	}
	if len(kept) == len(answers) {
		t.Error("no partition has another leader")
	}
	w.SetShare(func(s *failover.Share) { // the others end: the move is given up
		s.State, s.Epoch, s.Target = failover.Stable, s.Epoch+1, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: s.Active, Mask: s.Current().Mask, Continues: true})
	})
	for _, answer := range kept {
		if code := <-answer; code != 0 {
			t.Errorf("what was held and is led on: error %d", code)
		}
	}
}

// An abort raises the epoch and keeps site, mask and numbering: what was held
// goes on where it was.
func TestAbortedMoveGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
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
