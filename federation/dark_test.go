package federation_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// twoHomes is a gateway over two sites with two failover groups: orders is at home at
// east, which goes dark, and carts at west.
func twoHomes(t *testing.T, gateway func(*federation.Config)) *gatewaytest.World {
	t.Helper()
	return gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 2, "carts": 1}, Gateway: gateway,
		Group: func(g *spillway.FailoverGroup) {
			g.Topics, g.ConsumerGroups = []string{"orders"}, []string{"orders-*"}
		},
		Also: []func(*spillway.FailoverGroup){func(g *spillway.FailoverGroup) {
			g.Name, g.Topics, g.ConsumerGroups = "carts", []string{"carts"}, []string{"carts-*"}
			g.Sites = []spillway.SiteID{"west", "east"}
		}},
	})
}

// darkMax is how long what a healthy site serves may take while another one is dark. A
// hold alone is 8 s.
const darkMax = 6 * time.Second

// fetchOf names partition 0 of topics.
func fetchOf(wait time.Duration, topics ...string) *kmsg.FetchRequest {
	req := fetchFrom(gatewaytest.OffsetBase)
	req.MaxWaitMillis = int32(wait.Milliseconds())
	one := req.Topics[0]
	req.Topics = nil
	for _, topic := range topics {
		one.Topic = topic
		req.Topics = append(req.Topics, one)
	}
	return req
}

func fetched(r *kmsg.FetchResponse) map[string]bool {
	with := make(map[string]bool)
	for _, t := range r.Topics {
		with[t.Topic] = len(t.Partitions[0].RecordBatches) > 0
	}
	return with
}

// A consumer reads from two sites over one connection, and one of them goes dark: what the
// other one has is handed out, whether connections to the dark one were open before or not.
func TestADarkSiteKeepsNoReaderFromAnother(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]bool{"connections are open": true, "none is": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := twoHomes(t, nil)
			c := raw(t, w.Addrs[0])
			for _, topic := range []string{"orders", "carts"} {
				if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest(topic, nil))); code != 0 {
					t.Fatalf("%s: error %d", topic, code)
				}
			}
			gatewaytest.Eventually(t, "both are read", func() bool {
				got := fetched(do[*kmsg.FetchResponse](t, c, fetchOf(5*time.Second, "orders", "carts")))
				return got["orders"] && got["carts"]
			})
			w.Wires["east"].Mute()
			if !open {
				c = raw(t, w.Addrs[0])
			}
			for i := range 4 {
				begun := time.Now()
				got := fetched(do[*kmsg.FetchResponse](t, c, fetchOf(5*time.Second, "orders", "carts")))
				if took := time.Since(begun); !got["carts"] || got["orders"] || took > darkMax {
					t.Errorf("fetch %d took %s: records %v", i, took, got)
				}
			}
			w.Wires["east"].Unmute()
			gatewaytest.Eventually(t, "both are read again", func() bool {
				got := fetched(do[*kmsg.FetchResponse](t, c, fetchOf(5*time.Second, "orders", "carts")))
				return got["orders"] && got["carts"]
			})
		})
	}
}

// A site that takes longer than the others are given once one has answered is slow, and not
// dark: its reader gets what it has, though each fetch has records of the fast one.
func TestASlowSiteGetsThroughBesideAFastOne(t *testing.T) {
	t.Parallel()
	w := twoHomes(t, nil)
	c := raw(t, w.Addrs[0])
	for _, topic := range []string{"orders", "carts"} {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest(topic, nil))); code != 0 {
			t.Fatalf("%s: error %d", topic, code)
		}
	}
	w.Wires["east"].Delay(1200 * time.Millisecond)
	gatewaytest.Eventually(t, "the slow one is read", func() bool {
		got := fetched(do[*kmsg.FetchResponse](t, c, fetchOf(5*time.Second, "orders", "carts")))
		return got["orders"]
	})
}

// Brokers fail at an isolation level that does not exist, and say that it is their fault:
// it would look as if their leaders had moved, to all clients.
func TestAnIsolationLevelThatDoesNotExistIsRefused(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := raw(t, w.Addrs[0])
	const listOffsets = 2
	before := w.Wires["east"].Sent(listOffsets)
	for _, level := range []int8{-1, 2, 5} {
		req := fetchFrom(gatewaytest.OffsetBase)
		req.IsolationLevel = level
		got := do[*kmsg.FetchResponse](t, c, req)
		if code := got.Topics[0].Partitions[0].ErrorCode; code != kerr.InvalidRequest.Code || got.ErrorCode != code {
			t.Errorf("Fetch at level %d: error %d, of the partition %d", level, got.ErrorCode, code)
		}
		ends := latestRequest()
		ends.IsolationLevel = level
		if code := do[*kmsg.ListOffsetsResponse](t, c, ends).Topics[0].Partitions[0].ErrorCode; code != kerr.InvalidRequest.Code {
			t.Errorf("ListOffsets at level %d: error %d", level, code)
		}
	}
	if n := w.Wires["east"].Sent(listOffsets) - before; n > 0 {
		t.Errorf("the site was asked %d times", n)
	}
}

// A producer writes to two sites over one connection, and one of them swallows all that is
// sent to it. What is for the other one goes there, also behind requests that have both; and
// what was held for the dark one keeps its order.
func TestADarkSiteKeepsNoProducerFromAnother(t *testing.T) {
	t.Parallel()
	w := twoHomes(t, nil)
	first := raw(t, w.Addrs[0]) // leaders are known from here on
	for _, topic := range []string{"orders", "carts"} {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, first, produceRequest(topic, nil))); code != 0 {
			t.Fatalf("%s: error %d", topic, code)
		}
	}
	w.Wires["east"].Mute()
	c := raw(t, w.Addrs[0])
	const each = 5
	var both, carts []func() kmsg.Response
	begin := time.Now()
	for range each {
		req := produceRequest("orders", nil)
		req.TimeoutMillis = 60_000
		req.Topics = append(req.Topics, produceRequest("carts", nil).Topics...)
		both = append(both, begun(t, c, req))
		carts = append(carts, begun(t, c, produceRequest("carts", nil)))
	}
	tp := spillway.TopicPartition{Topic: "carts"}
	gatewaytest.Eventually(t, "all that is for west is there", func() bool {
		ends, err := w.Direct["west"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{tp})
		if err != nil {
			t.Fatal(err)
		}
		return ends[tp] == 2+2*each*2
	})
	if took := time.Since(begin); took > darkMax {
		t.Errorf("it took %s until west had what is for it", took)
	}
	w.Wires["east"].Unmute()
	for i := range each {
		resp := both[i]().(*kmsg.ProduceResponse)
		if code, offset := produced(resp); code != 0 || offset != gatewaytest.OffsetBase+2+2*int64(i) {
			t.Errorf("request %d for both: error %d, offset %d in orders", i, code, offset-gatewaytest.OffsetBase)
		}
		if code, offset := produced(carts[i]().(*kmsg.ProduceResponse)); code != 0 || offset != gatewaytest.OffsetBase+4+4*int64(i) {
			t.Errorf("request %d for west: error %d, offset %d", i, code, offset-gatewaytest.OffsetBase)
		}
	}
}

// A member joins while the site of its group is dark, so that nobody can tell which broker
// coordinates it, and fails over. It waits for the move, and not for the dark site.
func TestAGroupCallDoesNotOutlastTheMove(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
	w.Wires["east"].Mute()
	begin := time.Now()
	join := begun(t, raw(t, w.Addrs[0]), joinRequest("billing"))
	time.Sleep(500 * time.Millisecond) // it looks for the coordinator
	w.Fence("west", failover.Failover)
	w.Open(0, 100)
	opened := time.Now()
	if code := join().(*kmsg.JoinGroupResponse).ErrorCode; code != 0 || time.Since(opened) > darkMax {
		t.Errorf("error %d, %s after the move and %s after the request", code, time.Since(opened), time.Since(begin))
	}
}

// A client asks for the ends of many partitions: each broker is asked once, and a site that
// is dark costs the time of the hold, whatever is there.
func TestEndsOfManyPartitions(t *testing.T) {
	t.Parallel()
	const partitions, listOffsets = 30, 2
	w := gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": partitions, "carts": partitions}, Brokers: 2,
		Gateway: func(c *federation.Config) { c.Router.HoldMax = time.Second },
		Group:   func(g *spillway.FailoverGroup) { g.Topics = []string{"orders"} },
		Also: []func(*spillway.FailoverGroup){func(g *spillway.FailoverGroup) {
			g.Name, g.Topics, g.ConsumerGroups, g.Sites = "carts", []string{"carts"}, []string{"carts-*"}, []spillway.SiteID{"west", "east"}
		}},
	})
	c := raw(t, w.Addrs[0])
	req := latestRequest()
	req.Topics = nil
	for _, topic := range []string{"orders", "carts"} {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest(topic, nil))); code != 0 {
			t.Fatalf("%s: error %d", topic, code)
		}
		of := kmsg.NewListOffsetsRequestTopic()
		of.Topic = topic
		for p := range int32(partitions) {
			one := kmsg.NewListOffsetsRequestTopicPartition()
			one.Partition, one.Timestamp = p, -1
			of.Partitions = append(of.Partitions, one)
		}
		req.Topics = append(req.Topics, of)
	}
	check := func(dark bool) {
		t.Helper()
		for i, topic := range do[*kmsg.ListOffsetsResponse](t, c, req).Topics {
			for p, got := range topic.Partitions {
				code, end := int16(0), int64(gatewaytest.OffsetBase)
				if p == 0 {
					end += 2
				}
				if dark && i == 0 {
					code, end = kerr.NotLeaderForPartition.Code, -1
				}
				if got.Partition != int32(p) || got.ErrorCode != code || got.Offset != end {
					t.Errorf("%s/%d: error %d, offset %d", topic.Topic, got.Partition, got.ErrorCode, got.Offset-gatewaytest.OffsetBase)
				}
			}
		}
	}
	check(false)
	before := w.Wires["west"].Sent(listOffsets)
	check(false)
	if n := w.Wires["west"].Sent(listOffsets) - before; n < 1 || n > 10 { // the gateway asks some for itself
		t.Errorf("the brokers of west were asked %d times", n)
	}
	w.Wires["east"].Mute()
	begin := time.Now()
	check(true)
	if took := time.Since(begin); took > darkMax {
		t.Errorf("it took %s with a dark site", took)
	}
}

// A consumer of two sites asks where epochs end, and one of the sites is dark: it is told of
// the other one's soon. Two that are dark cost a list of groups the time of one.
func TestADarkSiteHidesNothingOfAnother(t *testing.T) {
	t.Parallel()
	w := twoHomes(t, nil)
	c := raw(t, w.Addrs[0])
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = 4, -1
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.CurrentLeaderEpoch, p.LeaderEpoch = spillway.VirtualLeaderEpoch(1), spillway.VirtualLeaderEpoch(1)
	for _, topic := range []string{"orders", "carts"} {
		req.Topics = append(req.Topics, kmsg.OffsetForLeaderEpochRequestTopic{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}})
	}
	ask := func(what string, orders int16, most time.Duration) {
		t.Helper()
		begun := time.Now()
		got := do[*kmsg.OffsetForLeaderEpochResponse](t, c, req)
		took := time.Since(begun)
		if code := got.Topics[0].Partitions[0].ErrorCode; code != orders {
			t.Errorf("%s: error %d of orders, want %d", what, code, orders)
		}
		if of := got.Topics[1].Partitions[0]; of.ErrorCode != 0 || of.EndOffset != gatewaytest.OffsetBase || took > most {
			t.Errorf("%s: after %s %+v of carts", what, took, of)
		}
	}
	ask("both answer", 0, darkMax)
	w.Wires["east"].Mute()
	const soonEnough = 4 * time.Second // the request itself ends after 5
	ask("east is dark", kerr.NotLeaderForPartition.Code, darkMax)
	ask("east was dark a moment ago", kerr.NotLeaderForPartition.Code, soonEnough)

	w.Wires["west"].Mute()
	groups := kmsg.NewPtrListGroupsRequest()
	groups.Version = 3
	begun := time.Now()
	if got := do[*kmsg.ListGroupsResponse](t, c, groups); got.ErrorCode != kerr.CoordinatorNotAvailable.Code {
		t.Errorf("both are dark: %+v", got)
	}
	if took := time.Since(begun); took > darkMax {
		t.Errorf("the groups of two dark sites took %s", took)
	}
}
