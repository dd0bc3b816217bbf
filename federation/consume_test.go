package federation_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/mirror/offsetmap"
)

// fill writes records 0..n-1 round robin over the partitions of a topic.
func fill(t *testing.T, w *gatewaytest.World, topic string, partitions int32, n int) {
	t.Helper()
	cl := client(t, w)
	for i := range n {
		r := &kgo.Record{Topic: topic, Partition: int32(i) % partitions, Value: []byte(gatewaytest.Value(i))}
		if err := cl.ProduceSync(within(t, soon), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// read polls until count records have come, and a moment longer for any that
// should not.
func read(t *testing.T, cl *kgo.Client, count int) []*kgo.Record {
	t.Helper()
	var found []*kgo.Record
	ctx := within(t, soon)
	for len(found) < count {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(found), count, err)
		}
		found = append(found, fs.Records()...)
	}
	more, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	found = append(found, cl.PollFetches(more).Records()...)
	if len(found) != count {
		t.Fatalf("%d records, want %d", len(found), count)
	}
	return found
}

func TestAssignedReadersSeeVirtualNumbers(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Brokers: 2})
	fill(t, w, "orders", 2, 40)
	cl := client(t, w, kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	next := map[int32]int64{0: gatewaytest.OffsetBase, 1: gatewaytest.OffsetBase}
	for _, r := range read(t, cl, 40) {
		if r.Offset != next[r.Partition] || string(r.Value) != gatewaytest.Value(int(r.Offset-gatewaytest.OffsetBase)*2+int(r.Partition)) {
			t.Fatalf("partition %d: %s at %d, want offset %d", r.Partition, r.Value, r.Offset, next[r.Partition])
		}
		if r.LeaderEpoch != spillway.VirtualLeaderEpoch(1) {
			t.Fatalf("leader epoch %d", r.LeaderEpoch)
		}
		next[r.Partition]++
	}
}

// Records become visible with the durable mark and not before (C19), and a
// partition that waits for its mark holds up no other one.
func TestReadersSeeWhatIsDurable(t *testing.T) {
	t.Parallel()
	w, marks := markedWorld(t, 2, nil)
	cl := client(t, w)
	for p := range int32(2) {
		cl.Produce(t.Context(), &kgo.Record{Topic: "orders", Partition: p, Value: []byte(gatewaytest.Value(int(p)))}, nil)
	}
	siteLog(t, w, "east", "orders", 1)
	reader := client(t, w, kgo.FetchMaxWait(30*time.Second),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().At(gatewaytest.OffsetBase), 1: kgo.NewOffset().At(gatewaytest.OffsetBase)}}))
	early, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if fs := reader.PollFetches(early); fs.NumRecords() > 0 {
		t.Fatalf("%d records were handed out before any mark", fs.NumRecords())
	}
	for p := range 2 {
		marks <- markLine("west", 1-p, 1, gatewaytest.OffsetBase+1)
		fs := reader.PollFetches(within(t, 20*time.Second)) // less than one fetch may wait
		if got := fs.Records(); len(got) != 1 || got[0].Partition != int32(1-p) || got[0].Offset != gatewaytest.OffsetBase {
			t.Fatalf("after the mark of partition %d: %v, %v", 1-p, got, fs.Err())
		}
	}
}

// The records of one partition are in the log, and no second site has them. A fetch
// waits for that; meanwhile another partition of it gets records, from the same node
// or from another one. They are handed out at once.
func TestAPartitionThatWaitsForItsMarkHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	const waits, partitions = 0, 32 // on two brokers
	w, marks := markedWorld(t, partitions, nil)
	same, other := int32(-1), int32(-1)
	led, err := w.Direct["east"].Leader(within(t, soon), spillway.TopicPartition{Topic: "orders", Partition: waits})
	if err != nil {
		t.Fatal(err)
	}
	for p := int32(waits + 1); p < partitions; p++ {
		node, err := w.Direct["east"].Leader(within(t, soon), spillway.TopicPartition{Topic: "orders", Partition: p})
		if err != nil {
			t.Fatal(err)
		}
		if node == led {
			same = p
		} else {
			other = p
		}
	}
	if same < 0 || other < 0 {
		t.Fatalf("partition %d: beside %d, apart from %d: the test shows nothing", waits, same, other)
	}
	write := func(p int32) {
		req := produceRequest("orders", nil)
		req.Topics[0].Partitions[0].Partition, req.TimeoutMillis = p, 100 // nobody waits for the answer
		begun(t, raw(t, w.Addrs[0]), req)
	}
	write(waits)
	siteLog(t, w, "east", "orders", 2)
	for _, p := range []int32{same, other} {
		req := fetchRequest(gatewaytest.OffsetBase, 30*time.Second)
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, req.Topics[0].Partitions[0])
		req.Topics[0].Partitions[1].Partition = p
		pending := raw(t, w.Addrs[0]).Send(t.Context(), 1, req.Version, true, req.AppendTo(nil))
		time.Sleep(200 * time.Millisecond) // it waits for the mark
		marks <- markLine("west", int(p), 1, gatewaytest.OffsetBase+2)
		write(p)
		select {
		case <-pending.Done():
		case <-time.After(20 * time.Second): // less than the fetch may wait
			t.Fatalf("partition %d is held up", p)
		}
		got := answered(t, pending, req).(*kmsg.FetchResponse).Topics[0].Partitions
		if len(got[0].RecordBatches) > 0 || len(got[1].RecordBatches) == 0 {
			t.Errorf("partition %d: %d bytes of the one that waits, %d of the other one", p, len(got[0].RecordBatches), len(got[1].RecordBatches))
		}
	}
}

func TestListOffsets(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	fill(t, w, "orders", 1, 10)
	adm := kadm.NewClient(client(t, w))
	for what, ask := range map[string]func() (kadm.ListedOffsets, error){
		"start": func() (kadm.ListedOffsets, error) { return adm.ListStartOffsets(within(t, soon), "orders") },
		"end":   func() (kadm.ListedOffsets, error) { return adm.ListEndOffsets(within(t, soon), "orders") },
		"time": func() (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(within(t, soon), 1, "orders")
		},
	} {
		got, err := ask()
		if err != nil {
			t.Fatal(what, err)
		}
		want := map[string]int64{"start": gatewaytest.OffsetBase, "end": gatewaytest.OffsetBase + 10, "time": gatewaytest.OffsetBase}[what]
		if o, _ := got.Lookup("orders", 0); o.Offset != want || o.Err != nil {
			t.Errorf("%s: %+v, want %d", what, o, want)
		}
	}
}

func TestOutOfRangeIsSaid(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	fill(t, w, "orders", 1, 3)
	for _, at := range []int64{5, gatewaytest.OffsetBase + 100} { // the site's own numbers mean nothing here
		cl := client(t, w, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().At(at)}}),
			kgo.ConsumeResetOffset(kgo.NoResetOffset()))
		fs := cl.PollFetches(within(t, soon))
		if fs.Err() == nil {
			t.Errorf("a fetch at %d got %d records", at, fs.NumRecords())
		}
	}
}

func TestGroupCommitsAreExact(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}})
	fill(t, w, "orders", 2, 20)
	member := func() *kgo.Client {
		return client(t, w, kgo.ConsumerGroup("shop"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}
	first := member()
	read(t, first, 20)
	if err := first.CommitUncommittedOffsets(within(t, soon)); err != nil {
		t.Fatal(err)
	}
	first.Close()

	committed, err := w.Sites["east"].Admin().FetchGroupOffsets(within(t, soon), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for tp, o := range committed {
		v, epoch, _, ok := offsetmap.DecodeCommit(o.Metadata)
		if o.Offset != 10 || !ok || v != gatewaytest.OffsetBase+10 || epoch != 1 || o.LeaderEpoch >= 0 {
			t.Errorf("%s is committed at the site as %+v", tp, o)
		}
	}
	seen, err := kadm.NewClient(client(t, w)).FetchOffsets(within(t, soon), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := seen.Lookup("orders", 1); !ok || o.At != gatewaytest.OffsetBase+10 || strings.HasPrefix(o.Metadata, "~") {
		t.Errorf("a client sees the commit as %+v", o)
	}

	fill(t, w, "orders", 2, 2)
	for _, r := range read(t, member(), 2) {
		if r.Offset != gatewaytest.OffsetBase+10 {
			t.Errorf("the group goes on at %d", r.Offset)
		}
	}
}

func TestAGroupWithoutAHomeIsRefused(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1},
		Group: func(g *spillway.FailoverGroup) { g.ConsumerGroups = []string{"shop-*"} }})
	_, err := kadm.NewClient(client(t, w)).FetchOffsets(within(t, soon), "somebody")
	if err == nil {
		t.Error("a group of no failover group was served")
	}
}

func TestSaramaConsumes(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	fill(t, w, "orders", 1, 20)
	c := sarama.NewConfig()
	c.Version, c.Consumer.Offsets.Initial = sarama.V4_0_0_0, sarama.OffsetOldest
	group, err := sarama.NewConsumerGroup(w.Addrs, "shop", c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	h := &saramaHandler{enough: cancel, want: 20}
	if err := group.Consume(ctx, []string{"orders"}, h); err != nil {
		t.Fatal(err)
	}
	if err := group.Close(); err != nil {
		t.Fatal(err)
	}
	if len(h.offsets) != 20 || h.offsets[0] != gatewaytest.OffsetBase {
		t.Errorf("offsets %v", h.offsets)
	}
}

type saramaHandler struct {
	enough  func()
	want    int
	offsets []int64
}

func (h *saramaHandler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (h *saramaHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *saramaHandler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for m := range c.Messages() {
		h.offsets = append(h.offsets, m.Offset)
		s.MarkMessage(m, "")
		if len(h.offsets) == h.want {
			h.enough()
		}
	}
	return nil
}

// A group that drains commits what it has read, gives up its partitions, and
// waits; the gateway says so; when the share goes on, the group reads on at the
// next record (experiments L, rule 4).
func TestGroupDrain(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		t.Run(protocol, func(t *testing.T) {
			w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2},
				Group: func(g *spillway.FailoverGroup) { g.GroupDrain = 5 * time.Second }})
			fill(t, w, "orders", 2, 20)
			var mu sync.Mutex
			var offsets []string
			opts := []kgo.Opt{kgo.ConsumerGroup("shop"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
				kgo.HeartbeatInterval(100 * time.Millisecond), kgo.AutoCommitInterval(time.Hour), // commits only when it gives up
				kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, _ map[string][]int32) {
					if err := cl.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				})}
			if protocol == "consumer" {
				var optIn any = "opt_in_kafka_next_gen_balancer_beta" // franz-go's own key
				opts = append(opts, kgo.WithContext(context.WithValue(t.Context(), optIn, true)))
			}
			cl := client(t, w, opts...)
			done := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				defer close(done)
				for ctx.Err() == nil {
					for _, r := range cl.PollFetches(ctx).Records() {
						mu.Lock()
						offsets = append(offsets, fmt.Sprintf("%d/%d", r.Partition, r.Offset))
						mu.Unlock()
					}
				}
			}()
			defer func() { cancel(); <-done }()
			count := func() int { mu.Lock(); defer mu.Unlock(); return len(offsets) }
			gatewaytest.Eventually(t, "the group has read 20 records", func() bool { return count() == 20 })

			w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Draining, 2, "west" })
			gatewaytest.Eventually(t, "the gateway says that the groups have drained", func() bool { return w.Report(2, "gateway-1").GroupsDrained })
			fill(t, w, "orders", 2, 2) // producers go on meanwhile
			w.SetShare(func(s *failover.Share) {
				s.State, s.Epoch, s.Target = failover.Stable, 3, ""
				s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
			})
			gatewaytest.Eventually(t, "the group has read 2 more", func() bool { return count() == 22 })
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(offsets)
			if len(slices.Compact(offsets)) != 22 {
				t.Errorf("some of %v were read again", offsets)
			}
		})
	}
}

// After an unplanned failover a member goes on at a site that knows its group by
// the offsets that were mirrored, and not as a group of this protocol. It has to be
// told to join anew: "no such group", as the site says, ends the Java consumer.
func TestAMemberMeetsASiteThatKnowsOnlyOffsets(t *testing.T) {
	t.Parallel()
	site, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(site.Close)
	site.ControlKey(68, func(req kmsg.Request) (kmsg.Response, error, bool) { // as Kafka answers
		site.KeepControl()
		resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.ErrorCode = kerr.GroupIDNotFound.Code
		return resp, nil, true
	})
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Real: map[spillway.SiteID]gatewaytest.RealSite{"east": {
		Config: kafka.Config{Bootstrap: site.ListenAddrs(), Capabilities: embedded.Capabilities(false)},
		Dial:   []kgo.Opt{kgo.SeedBrokers(site.ListenAddrs()...)},
	}}})
	c := raw(t, w.Addrs[0])
	for name, epoch := range map[string]int32{"goes on": 3, "leaves": -1} {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "shop", "bWVtYmVyLW9uZS1vbmUxMQ", epoch
		r := do[*kmsg.ConsumerGroupHeartbeatResponse](t, c, req)
		if r.ErrorCode != kerr.UnknownMemberID.Code {
			t.Errorf("a member that %s: %v, want %v", name, kerr.ErrorForCode(r.ErrorCode), kerr.UnknownMemberID)
		}
	}
}

// The order to join anew is lost with its answer. The member comes again as
// before and must be told again: its coordinator would let it go on for ever
// without partitions.
func TestTheOrderToJoinAnewIsLost(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2},
		Group: func(g *spillway.FailoverGroup) { g.GroupDrain = 5 * time.Second }})
	c := raw(t, w.Addrs[0])
	beat := func(epoch int32, change func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatResponse {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "shop", "bWVtYmVyLW9uZS1vbmUxMQ", epoch
		if change != nil {
			change(req)
		}
		return do[*kmsg.ConsumerGroupHeartbeatResponse](t, c, req)
	}
	join := func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.SubscribedTopicNames, req.RebalanceTimeoutMillis = []string{"orders"}, 10_000
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	joined := beat(0, join)
	if joined.ErrorCode != 0 || joined.MemberEpoch < 1 {
		t.Fatalf("%+v", joined)
	}
	epoch := joined.MemberEpoch
	w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Draining, 2, "west" })
	gatewaytest.Eventually(t, "the member is told to give up its partitions", func() bool {
		r := beat(epoch, nil)
		return r.ErrorCode == 0 && r.Assignment != nil && len(r.Assignment.Topics) == 0
	})
	beat(epoch, func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	})
	w.SetShare(func(s *failover.Share) { // the move is given up
		s.State, s.Epoch, s.Target = failover.Stable, 3, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	gatewaytest.Eventually(t, "the member is fenced", func() bool { return beat(epoch, nil).ErrorCode == kerr.FencedMemberEpoch.Code })
	for range 3 { // whoever got these answers, it was not the member
		if r := beat(epoch, nil); r.ErrorCode != kerr.FencedMemberEpoch.Code {
			t.Fatalf("told once, and then %+v", r)
		}
	}
	again := beat(0, join)
	if again.ErrorCode != 0 || again.MemberEpoch < epoch || again.Assignment == nil || len(again.Assignment.Topics) != 1 {
		t.Fatalf("joined anew: %+v", again)
	}
	if r := beat(again.MemberEpoch, nil); r.ErrorCode != 0 {
		t.Errorf("after it has joined anew: %+v", r)
	}
}

// A member is told to give up its partitions by one gateway, the move is given up,
// and the member comes to another gateway. That one has it join anew, once.
func TestAMemberComesToAnotherGatewayAfterADrain(t *testing.T) {
	t.Parallel()
	served := make(chan spillway.Epoch, 100)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"},
		Group: func(g *spillway.FailoverGroup) { g.GroupDrain = 5 * time.Second },
		Gateway: func(c *federation.Config) {
			if c.ID == "gateway-2" {
				c.Events.ShareState = func(_ spillway.ShareID, epoch spillway.Epoch, _ failover.State, serving bool) {
					if serving {
						served <- epoch
					}
				}
			}
		}})
	beat := func(c *conn.Conn, epoch int32, change func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatResponse {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "shop", "bWVtYmVyLW9uZS1vbmUxMQ", epoch
		if change != nil {
			change(req)
		}
		return do[*kmsg.ConsumerGroupHeartbeatResponse](t, c, req)
	}
	join := func(req *kmsg.ConsumerGroupHeartbeatRequest) {
		req.SubscribedTopicNames, req.RebalanceTimeoutMillis = []string{"orders"}, 10_000
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	first, second := raw(t, w.Addrs[0]), raw(t, w.Addrs[1])
	epoch := beat(first, 0, join).MemberEpoch
	w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Draining, 2, "west" })
	gatewaytest.Eventually(t, "the member is told to give up its partitions", func() bool {
		r := beat(first, epoch, nil)
		return r.ErrorCode == 0 && r.Assignment != nil && len(r.Assignment.Topics) == 0
	})
	w.SetShare(func(s *failover.Share) { // the move is given up
		s.State, s.Epoch, s.Target = failover.Stable, 3, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	for e := range served {
		if e == 3 {
			break
		}
	}
	if r := beat(second, epoch, nil); r.ErrorCode != kerr.FencedMemberEpoch.Code {
		t.Fatalf("the other gateway lets it go on without partitions: %+v", r)
	}
	again := beat(second, 0, join)
	if again.ErrorCode != 0 || again.Assignment == nil || len(again.Assignment.Topics) != 1 {
		t.Fatalf("joined anew: %+v", again)
	}
	if r := beat(second, again.MemberEpoch, nil); r.ErrorCode != 0 {
		t.Errorf("after it has joined anew: %+v", r)
	}
}

// A share is not served, and its groups were not drained: a failover that is given up.
// A member keeps its partitions meanwhile. It comes again to the gateway where clients
// find its group, and is sent away from any other.
func TestAMemberKeepsItsPartitionsWhileNobodyServes(t *testing.T) {
	t.Parallel()
	again := make(chan spillway.GatewayID, 100) // who serves after the failover
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"},
		Gateway: func(c *federation.Config) {
			c.Events.ShareState = func(_ spillway.ShareID, epoch spillway.Epoch, _ failover.State, serving bool) {
				if serving && epoch == 3 {
					again <- c.ID
				}
			}
		}})
	request := func(epoch int32) *kmsg.ConsumerGroupHeartbeatRequest {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "shop", "bWVtYmVyLW9uZS1vbmUxMQ", epoch
		return req
	}
	conns := []*conn.Conn{raw(t, w.Addrs[0]), raw(t, w.Addrs[1])}
	coordinator, _ := w.LayOut("east").Coordinator(gatewaytest.ShareID, "shop")
	home := slices.Index([]spillway.GatewayID{"gateway-1", "gateway-2"}, coordinator.Gateway)
	join := request(0)
	join.SubscribedTopicNames, join.RebalanceTimeoutMillis = []string{"orders"}, 10_000
	join.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	epoch := do[*kmsg.ConsumerGroupHeartbeatResponse](t, conns[home], join).MemberEpoch
	if epoch < 1 {
		t.Fatalf("joined in epoch %d", epoch)
	}
	w.Fence("west", failover.Failover)
	for i, c := range conns {
		want := kerr.CoordinatorLoadInProgress.Code
		if i != home {
			want = kerr.NotCoordinator.Code
		}
		if r := do[*kmsg.ConsumerGroupHeartbeatResponse](t, c, request(epoch)); r.ErrorCode != want || r.Assignment != nil {
			t.Errorf("gateway-%d answers %+v, want error %d", i+1, r, want)
		}
	}
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Target = failover.Stable, 3, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	for id := range again {
		if id == coordinator.Gateway {
			break
		}
	}
	if r := do[*kmsg.ConsumerGroupHeartbeatResponse](t, conns[home], request(epoch)); r.ErrorCode != 0 {
		t.Errorf("after the move was given up: %+v", r)
	}
}

// A gateway has lost its lease. A member of a group that clients find there has to ask
// for its coordinator: another gateway may serve it.
func TestAMemberLeavesAGatewayWithoutLease(t *testing.T) {
	t.Parallel()
	lease := newLapse()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Gateway: lease.of})
	lease.end(w)
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "shop", "bWVtYmVyLW9uZS1vbmUxMQ", 1
	if r := do[*kmsg.ConsumerGroupHeartbeatResponse](t, raw(t, w.Addrs[0]), req); r.ErrorCode != kerr.NotCoordinator.Code {
		t.Errorf("%+v", r)
	}
}

// A move was given up long ago. A gateway that starts now lets members go on that it
// does not know: all that were told to give up their partitions have joined anew.
func TestAMoveThatWasGivenUpLongAgoFencesNobody(t *testing.T) {
	t.Parallel()
	served := make(chan struct{})
	var once sync.Once
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 2},
		Gateway: func(c *federation.Config) {
			if c.ID == "gateway-2" {
				c.Events.ShareState = func(_ spillway.ShareID, _ spillway.Epoch, _ failover.State, serving bool) {
					if serving {
						once.Do(func() { close(served) })
					}
				}
			}
		}})
	beat := func(c *conn.Conn, epoch int32, change func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatResponse {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "shop", "bWVtYmVyLW9uZS1vbmUxMQ", epoch
		if change != nil {
			change(req)
		}
		return do[*kmsg.ConsumerGroupHeartbeatResponse](t, c, req)
	}
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Since = failover.Stable, 3, time.Now().Add(-10*time.Minute)
		s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	first := raw(t, w.Addrs[0])
	var epoch int32
	gatewaytest.Eventually(t, "the member joins", func() bool {
		epoch = beat(first, 0, func(req *kmsg.ConsumerGroupHeartbeatRequest) {
			req.SubscribedTopicNames, req.RebalanceTimeoutMillis = []string{"orders"}, 10_000
			req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}).MemberEpoch
		return epoch > 0
	})
	w.StartGateway("gateway-2")
	<-served
	second := raw(t, w.Addrs[1])
	var code int16
	gatewaytest.Eventually(t, "gateway-2 knows the topics of the group", func() bool {
		code = beat(second, epoch, nil).ErrorCode
		return code != kerr.CoordinatorLoadInProgress.Code && code != kerr.NotCoordinator.Code // as long as it has no lease
	})
	if code != 0 {
		t.Errorf("error %d", code)
	}
}

// A partition that is refused, in each request anew, keeps no other from its records, and is
// told at once where nothing comes.
func TestARefusedPartitionStarvesNoOther(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	fill(t, w, "orders", 1, 3)
	c := raw(t, w.Addrs[0])
	ask := func(at int64) (refused, served kmsg.FetchResponseTopicPartition) {
		req := fetchRequest(at, time.Minute)
		of, nothing := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		nothing.FetchOffset = gatewaytest.OffsetBase
		of.Topic, of.Partitions = "nothing-of-that-name", []kmsg.FetchRequestTopicPartition{nothing}
		req.Topics = append([]kmsg.FetchRequestTopic{of}, req.Topics...)
		resp := do[*kmsg.FetchResponse](t, c, req)
		return resp.Topics[0].Partitions[0], resp.Topics[1].Partitions[0]
	}
	for at := int64(gatewaytest.OffsetBase); at < gatewaytest.OffsetBase+3; at++ {
		refused, served := ask(at)
		if refused.ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("the unknown topic: error %d", refused.ErrorCode)
		}
		if served.ErrorCode != 0 || len(served.RecordBatches) == 0 {
			t.Fatalf("the other one, at %d: error %d, %d bytes", at, served.ErrorCode, len(served.RecordBatches))
		}
	}
	if refused, served := ask(gatewaytest.OffsetBase + 3); refused.ErrorCode == 0 || len(served.RecordBatches) > 0 {
		t.Errorf("at the end: error %d, %d bytes", refused.ErrorCode, len(served.RecordBatches))
	}
}
