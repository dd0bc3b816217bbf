package federation_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

func fetchFrom(from int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 11, 5000, 1, 1<<20
	ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	ft.Topic, fp.FetchOffset, fp.PartitionMaxBytes = "orders", from, 1<<20
	ft.Partitions = append(ft.Partitions, fp)
	req.Topics = append(req.Topics, ft)
	return req
}

func latestRequest() *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = 5, -1
	lt, lp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	lt.Topic, lp.Timestamp = "orders", -1
	lt.Partitions = append(lt.Partitions, lp)
	req.Topics = append(req.Topics, lt)
	return req
}

func commitRequest(group string, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group = 7, group
	ct, cp := kmsg.NewOffsetCommitRequestTopic(), kmsg.NewOffsetCommitRequestTopicPartition()
	ct.Topic, cp.Offset = "orders", offset
	ct.Partitions = append(ct.Partitions, cp)
	req.Topics = append(req.Topics, ct)
	return req
}

func joinRequest(group string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 3, group, "consumer", 6000, 6000
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name = "range"
	req.Protocols = append(req.Protocols, protocol)
	return req
}

// begun is a request on its way; its answer comes from wait.
func begun(t *testing.T, c *conn.Conn, req kmsg.Request) (wait func() kmsg.Response) {
	pending := c.Send(context.Background(), req.Key(), req.GetVersion(), true, req.AppendTo(nil))
	return func() kmsg.Response {
		t.Helper()
		return answered(t, pending, req)
	}
}

func answered(t *testing.T, pending *conn.Pending, req kmsg.Request) kmsg.Response {
	t.Helper()
	body, err := pending.Wait(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	resp := req.ResponseKind()
	if err := conn.Decode(resp, body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// Reads and consumer groups rest on the lease as produces do: what the site
// answers after its end is kept from the client (C10).
func TestNothingIsAnsweredWithoutLease(t *testing.T) {
	t.Parallel()
	answered := map[string]struct {
		req kmsg.Request
		// served tells whether the answer is that of the site.
		served func(kmsg.Response) bool
	}{
		"Fetch": {fetchFrom(gatewaytest.OffsetBase), func(r kmsg.Response) bool {
			return len(r.(*kmsg.FetchResponse).Topics) > 0 && len(r.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches) > 0
		}},
		"ListOffsets": {latestRequest(), func(r kmsg.Response) bool {
			p := r.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
			return p.ErrorCode == 0 && p.Offset == gatewaytest.OffsetBase+2
		}},
		"OffsetCommit": {commitRequest("billing", gatewaytest.OffsetBase+1), func(r kmsg.Response) bool {
			return r.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode == 0
		}},
		"JoinGroup": {joinRequest("shipping"), func(r kmsg.Response) bool {
			return r.(*kmsg.JoinGroupResponse).ErrorCode == 0
		}},
	}
	for name, a := range answered {
		t.Run(name, func(t *testing.T) {
			lease := newLapse()
			w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1},
				Gateway: func(c *federation.Config) {
					c.Router.HoldMax = 300 * time.Millisecond
					lease.of(c)
				}})
			if code, _ := produced(do[*kmsg.ProduceResponse](t, raw(t, w.Addrs[0]), produceRequest("orders", nil))); code != 0 {
				t.Fatalf("error %d", code)
			}
			c := raw(t, w.Addrs[0])
			if !a.served(begun(t, c, a.req)()) {
				t.Fatal("not served with a lease: the test shows nothing")
			}
			w.Wires["east"].Mute()
			wait := begun(t, c, a.req)
			lease.end(w)
			w.Wires["east"].Unmute()
			if resp := wait(); a.served(resp) {
				t.Errorf("answered from the site without a lease: %+v", resp)
			}
		})
	}
}

// Each client connection has upstream connections of its own, and produces,
// fetches and group calls have their own again: a broker serves the requests of
// a connection one after the other, so one that waits would hold up others (C22).
func TestUpstreamConnectionsAreNotShared(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	carrying := func(keys ...int16) int {
		n := 0
		for _, sent := range w.Wires["east"].APIKeys() {
			all := true
			for _, key := range keys {
				all = all && sent[key]
			}
			if all {
				n++
			}
		}
		return n
	}
	gatewaytest.Eventually(t, "the gateway reads the map of east", func() bool { return carrying(1) > 0 })
	mapReaders := carrying(1)
	const clients, produce, fetch, commit = 3, 0, 1, 8
	for range clients {
		c := raw(t, w.Addrs[0])
		for range 2 {
			do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))
			do[*kmsg.FetchResponse](t, c, fetchFrom(gatewaytest.OffsetBase))
			do[*kmsg.OffsetCommitResponse](t, c, commitRequest("billing", gatewaytest.OffsetBase+1))
		}
	}
	if p, f, g := carrying(produce), carrying(fetch)-mapReaders, carrying(commit); p != clients || f != clients || g != clients {
		t.Errorf("%d clients have %d connections for produces, %d for fetches, %d for group calls", clients, p, f, g)
	}
	if carrying(produce, fetch)+carrying(produce, commit)+carrying(fetch, commit) > 0 {
		t.Error("a connection carries requests of two kinds")
	}
}

// The gateway that leads a partition changes while a plain producer has five
// requests in flight: nothing overtakes and nothing comes twice (C23).
func TestPlainProducersKeepOrderWhenTheLayoutChanges(t *testing.T) {
	t.Parallel()
	at := map[spillway.GatewayID]spillway.SiteID{"gateway-1": "east", "gateway-2": "west"}
	o := gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}, Brokers: 2,
		Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}, Gateway: func(c *federation.Config) { c.Site = at[c.ID] }}
	w := gatewaytest.Start(t, o)
	wr := startWriter(t, w, "plain", kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5), kgo.MetadataMinAge(10*time.Millisecond))
	led := make(map[spillway.GatewayID]bool)
	for _, home := range []spillway.SiteID{"west", "east", "west", "east"} {
		before := wr.acked()
		gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > before+100 })
		n, _ := w.LayOut(home).Leader(gatewaytest.ShareID, spillway.TopicPartition{Topic: "orders"}, -1)
		led[n.Gateway] = true
	}
	before := wr.acked()
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > before+100 })
	wr.end(t)
	checkLog(t, w, "east", wr)
	if len(led) != 2 {
		t.Errorf("only %v led: the test shows nothing", led)
	}
}

// The gateway that led a partition before still has a produce without an answer.
// The one that leads it now holds what comes to it until the other has let go.
func TestANewLeaderWaitsForTheFormer(t *testing.T) {
	t.Parallel()
	at := map[spillway.GatewayID]spillway.SiteID{"gateway-1": "east", "gateway-2": "west"}
	held := make(chan struct{}, 10) // at the next one
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1},
		Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}, Gateway: func(c *federation.Config) {
			c.Site, c.Router.HoldMax = at[c.ID], time.Hour
			if c.ID == "gateway-2" {
				c.Events.Router.Held = func(spillway.ShareID) { held <- struct{}{} }
			}
		}})
	former, next := raw(t, w.Addrs[0]), raw(t, w.Addrs[1])
	if code, _ := produced(do[*kmsg.ProduceResponse](t, former, produceRequest("orders", nil))); code != 0 {
		t.Fatalf("error %d", code)
	}
	end := func() spillway.LocalOffset {
		tp := spillway.TopicPartition{Topic: "orders"}
		ends, err := w.Direct["east"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{tp})
		if err != nil {
			t.Fatal(err)
		}
		return ends[tp]
	}
	w.Wires["east"].Mute()
	first := begun(t, former, produceRequest("orders", nil))
	gatewaytest.Eventually(t, "the produce is in the log", func() bool { return end() == 4 })
	w.ProposeLayout("west")
	behind := produceRequest("orders", nil)
	behind.TimeoutMillis = 60_000
	var second *conn.Pending
	for waits := false; !waits; {
		second = next.Send(t.Context(), 0, behind.Version, true, behind.AppendTo(nil))
		select {
		case <-held:
			waits = true
		case <-second.Done(): // it does not know yet that it leads
			if code, _ := produced(answered(t, second, behind).(*kmsg.ProduceResponse)); code != kerr.NotLeaderForPartition.Code {
				t.Fatalf("error %d: a produce overtook one without an answer", code)
			}
		}
	}
	if n := end(); n != 4 {
		t.Errorf("the log ends at %d: a produce overtook one without an answer", n)
	}
	w.Wires["east"].Unmute()
	if code, offset := produced(first().(*kmsg.ProduceResponse)); code != 0 || offset != gatewaytest.OffsetBase+2 {
		t.Errorf("error %d, offset %d at the former leader", code, offset)
	}
	if code, offset := produced(answered(t, second, behind).(*kmsg.ProduceResponse)); code != 0 || offset != gatewaytest.OffsetBase+4 {
		t.Errorf("error %d, offset %d at the new one", code, offset)
	}
}

// A batch comes before one that its producer sent earlier: it waits for that one
// and goes behind it. If it never comes, the batch is sent back.
func TestABatchWaitsForTheMissingOne(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
	c := raw(t, w.Addrs[0])
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(0, 5*time.Second))); code != 0 {
		t.Fatalf("error %d", code)
	}
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	begin := time.Now()
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(8, 500*time.Millisecond))); code != kerr.NotLeaderForPartition.Code || time.Since(begin) < 400*time.Millisecond {
		t.Errorf("error %d after %s: a batch whose predecessors never come", code, time.Since(begin))
	}
	waits, missing := begun(t, c, sequenced(4, 10*time.Second)), begun(t, c, sequenced(2, 10*time.Second))
	if code, offset := produced(waits().(*kmsg.ProduceResponse)); code != 0 || offset != gatewaytest.OffsetBase+4 {
		t.Errorf("error %d, offset %d: the batch that waited", code, offset)
	}
	if code, offset := produced(missing().(*kmsg.ProduceResponse)); code != 0 || offset != gatewaytest.OffsetBase+2 {
		t.Errorf("error %d, offset %d: the batch that was missing", code, offset)
	}
}

// A produce without an answer is in the log before the gateway says that it has
// drained, or the gateway says that it cannot know (C9).
func TestAcksZeroIsBehindTheBarrier(t *testing.T) {
	t.Parallel()
	for name, mute := range map[string]bool{"the barrier comes back": false, "it does not": true} {
		t.Run(name, func(t *testing.T) {
			w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"},
				Gateway: func(c *federation.Config) { c.DrainMax = 300 * time.Millisecond }})
			c := raw(t, w.Addrs[0])
			if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 {
				t.Fatalf("error %d", code)
			}
			if mute {
				w.Wires["east"].Mute()
			}
			req := produceRequest("orders", nil)
			req.Acks = 0
			if _, err := c.DoVersion(within(t, soon), req); err != nil {
				t.Fatal(err)
			}
			after := kmsg.NewPtrApiVersionsRequest() // answered once the produce was begun
			do[*kmsg.ApiVersionsResponse](t, c, after)
			w.Fence("west", failover.Switchover)
			if unsure := w.Report(2, "gateway-1").Unsure; unsure != mute {
				t.Errorf("unsure: %t", unsure)
			}
			tp := spillway.TopicPartition{Topic: "orders"}
			ends, err := w.Direct["east"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{tp})
			if err != nil {
				t.Fatal(err)
			}
			if !mute && ends[tp] != 4 {
				t.Errorf("drained, and the log ends at %d", ends[tp])
			}
		})
	}
}

// A commit that comes behind the fence waits, and goes to the new site: nothing
// is read again there (C16, C28).
func TestACommitBehindTheFenceGoesToTheNewSite(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
	c := raw(t, w.Addrs[0])
	for range 2 {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 {
			t.Fatalf("error %d", code)
		}
	}
	w.Fence("west", failover.Failover)
	wait := begun(t, c, commitRequest("billing", gatewaytest.OffsetBase+2))
	w.Open(0, 100) // other numbers at west from here on
	if code := wait().(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
		t.Fatalf("error %d", code)
	}
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 {
		t.Fatalf("error %d", code)
	}
	reader := client(t, w, kgo.ConsumerGroup("billing"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit())
	var offsets []int64
	for len(offsets) < 4 {
		fs := reader.PollFetches(within(t, soon))
		if err := fs.Err(); err != nil {
			t.Fatalf("after %v: %v", offsets, err)
		}
		fs.EachRecord(func(r *kgo.Record) { offsets = append(offsets, r.Offset-gatewaytest.OffsetBase) })
	}
	if offsets[0] != 2 || offsets[1] != 3 || offsets[2] != 104 || offsets[3] != 105 {
		t.Errorf("read %v from the commit at 2 on", offsets)
	}
}
