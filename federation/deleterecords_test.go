package federation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

func deleteBefore(t *testing.T, c *conn.Conn, topic string, offset int64) kmsg.DeleteRecordsResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, 20_000
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Offset: offset}}}}
	return do[*kmsg.DeleteRecordsResponse](t, c, req).Topics[0].Partitions[0]
}

func listed(t *testing.T, c *conn.Conn, topic string, timestamp int64) kmsg.ListOffsetsResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = timestamp
	req.Version, req.ReplicaID = 7, -1
	req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
	return do[*kmsg.ListOffsetsResponse](t, c, req).Topics[0].Partitions[0]
}

func fetchAt(t *testing.T, c *conn.Conn, topic string, offset int64) kmsg.FetchResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrFetchRequest()
	p := kmsg.NewFetchRequestTopicPartition()
	p.FetchOffset, p.CurrentLeaderEpoch, p.PartitionMaxBytes = offset, -1, 1<<20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.Partitions = topic, []kmsg.FetchRequestTopicPartition{p}
	req.Version, req.MaxWaitMillis, req.MinBytes, req.Topics = 12, 200, 1, []kmsg.FetchRequestTopic{rt}
	return do[*kmsg.FetchResponse](t, c, req).Topics[0].Partitions[0]
}

func logStart(t *testing.T, w *gatewaytest.World, site spillway.SiteID, topic string) spillway.LocalOffset {
	t.Helper()
	tp := spillway.TopicPartition{Topic: topic}
	starts, err := w.Direct[site].Admin().LogStarts(within(t, soon), []spillway.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	return starts[tp]
}

// Records below a virtual offset are deleted: at the site that serves, at the other one, and
// for clients for good, also when that other one was away and comes to serve.
func TestDeletedRecordsStayDeletedAfterAMove(t *testing.T) {
	t.Parallel()
	const followMax = 500 * time.Millisecond
	w := topicWorld(t, func(o *gatewaytest.Options) {
		o.Gateway = func(c *federation.Config) { c.Router.FollowMax = followMax }
	})
	c := raw(t, w.Addrs[0])
	for range 5 { // two records each
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("shop-orders", nil))); code != 0 {
			t.Fatalf("error %d", code)
		}
	}
	const base = gatewaytest.OffsetBase
	move := func(to spillway.SiteID) {
		t.Helper()
		w.Fence(to, failover.Switchover)
		w.Open(0, 0)
	}
	move("west")
	move("east") // both have all 10

	if got := deleteBefore(t, c, "shop-orders", base+4); got.ErrorCode != 0 || got.LowWatermark != base+4 {
		t.Fatalf("%+v", got)
	}
	gatewaytest.Eventually(t, "both sites have deleted them", func() bool {
		return logStart(t, w, "east", "shop-orders") >= 4 && logStart(t, w, "west", "shop-orders") == 4
	})
	w.Wires["west"].Cut(true)
	if got := deleteBefore(t, c, "shop-orders", base+6); got.ErrorCode != 0 || got.LowWatermark != base+6 {
		t.Fatalf("%+v", got)
	}
	for given := time.Now(); time.Since(given) < 2*followMax; { // up by the gateway
		listed(t, c, "shop-orders", -1)
	}
	w.Wires["west"].Mend()
	begins := func(at string) {
		t.Helper()
		for what, timestamp := range map[string]int64{"earliest": -2, "of a time long ago": 1} {
			if got := listed(t, c, "shop-orders", timestamp); got.ErrorCode != 0 || got.Offset != base+6 {
				t.Errorf("%s, offset %s: %+v", at, what, got)
			}
		}
		if got := fetchAt(t, c, "shop-orders", base+5); got.ErrorCode != kerr.OffsetOutOfRange.Code {
			t.Errorf("%s, fetch of what was deleted: error %d, %d bytes", at, got.ErrorCode, len(got.RecordBatches))
		}
		if got := fetchAt(t, c, "shop-orders", base+6); got.ErrorCode != 0 || got.LogStartOffset != base+6 || len(got.RecordBatches) == 0 {
			t.Errorf("%s, fetch: error %d, log start %d, %d bytes", at, got.ErrorCode, got.LogStartOffset, len(got.RecordBatches))
		}
	}
	begins("east")
	move("west")
	if at := logStart(t, w, "west", "shop-orders"); at != 4 {
		t.Fatalf("west was not away: its log starts at %d", at)
	}
	begins("west")
	// A gateway that starts now has read the marks before it serves.
	w.StartGateway("gateway-2")
	w.LayOut("east")
	c = raw(t, w.Addrs[1])
	begins("gateway-2")

	if got := deleteBefore(t, c, "shop-orders", base+2); got.ErrorCode != 0 || got.LowWatermark != base+6 {
		t.Errorf("below what is deleted already: %+v", got)
	}
	if got := deleteBefore(t, c, "shop-orders", base+11); got.ErrorCode != kerr.OffsetOutOfRange.Code {
		t.Errorf("above the end: %+v", got)
	}
	if got := deleteBefore(t, c, "shop-orders", -2); got.ErrorCode != kerr.OffsetOutOfRange.Code {
		t.Errorf("a negative offset: %+v", got)
	}
	for _, name := range []string{"shop-none", "other", "__spillway_map"} {
		if got := deleteBefore(t, c, name, 0); got.ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Errorf("%s: %+v", name, got)
		}
	}
	begins("as before")
	if got := deleteBefore(t, c, "shop-orders", -1); got.ErrorCode != 0 || got.LowWatermark != base+10 {
		t.Errorf("all: %+v", got)
	}
	if first, last := listed(t, c, "shop-orders", -2), listed(t, c, "shop-orders", -1); first.Offset != base+10 || last.Offset != base+10 {
		t.Errorf("an empty log: %+v, %+v", first, last)
	}
	log := audited(t, w)
	if n := len(slices.DeleteFunc(log, func(a failover.AuditEntry) bool {
		return !strings.Contains(a.What, "records of topic shop-orders are deleted")
	})); n != 2 { // by clients of two gateways; the second time of each is not told again
		t.Errorf("told %d times", n)
	}
}

// While the share moves a deletion waits, and is refused so that it is sent again when that
// takes too long: nothing is deleted.
func TestDeletionsOfRecordsWhileAShareMoves(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("shop-orders", nil))); code != 0 {
		t.Fatalf("error %d", code)
	}
	w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Fencing, 2, "west" })
	gatewaytest.Eventually(t, "it is refused", func() bool {
		return deleteBefore(t, c, "shop-orders", gatewaytest.OffsetBase+99).ErrorCode == kerr.NotLeaderForPartition.Code
	})
	if got := deleteBefore(t, c, "shop-orders", gatewaytest.OffsetBase+1); got.ErrorCode != kerr.NotLeaderForPartition.Code {
		t.Errorf("%+v", got)
	}
	if entries, _ := w.Store.List(within(t, soon), w.Keys.LowMarks()); len(entries) > 0 || logStart(t, w, "east", "shop-orders") != 0 {
		t.Errorf("%d marks", len(entries))
	}
}

// A topic that was deleted and created anew under its name begins where it begins: the
// marks of the old one mean nothing.
func TestMarksOfATopicThatIsGone(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, func(o *gatewaytest.Options) {
		o.Gateway = func(c *federation.Config) { c.Router.MetadataMax = 200 * time.Millisecond }
	})
	c := raw(t, w.Addrs[0])
	for range 3 {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("shop-orders", nil))); code != 0 {
			t.Fatalf("error %d", code)
		}
	}
	if got := deleteBefore(t, c, "shop-orders", -1); got.ErrorCode != 0 {
		t.Fatalf("%+v", got)
	}
	for _, site := range []spillway.SiteID{"east", "west"} {
		admin := w.Direct[site].Admin()
		if err := admin.DeleteTopic(within(t, soon), "shop-orders"); err != nil {
			t.Fatal(err)
		}
		if err := admin.CreateTopic(within(t, soon), "shop-orders", 1, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	gatewaytest.Eventually(t, "the new topic begins at its first offset", func() bool { // once the gateway has asked for topics again
		got := listed(t, c, "shop-orders", -2)
		return got.ErrorCode == 0 && got.Offset == gatewaytest.OffsetBase
	})
}

// Groups, and positions of groups, are deleted at the site that serves and at the other one,
// which has copies; a group with members keeps what they read.
func TestGroupsAreDeletedAtAllSites(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, func(o *gatewaytest.Options) {
		gateway := o.Gateway
		o.Topics = map[string]int32{"shop-orders": 1, "shop-carts": 1}
		o.Gateway = func(c *federation.Config) { gateway(c); c.GroupSettle = time.Millisecond }
	})
	orders, carts := spillway.TopicPartition{Topic: "shop-orders"}, spillway.TopicPartition{Topic: "shop-carts"}
	has := func(site spillway.SiteID, group string) int {
		t.Helper()
		offsets, err := w.Direct[site].Admin().FetchGroupOffsets(within(t, soon), group)
		if err != nil && !errors.Is(err, broker.ErrUnknownGroup) {
			t.Fatal(err)
		}
		n := 0
		for _, o := range offsets {
			if o.Offset >= 0 {
				n++
			}
		}
		return n
	}
	for _, site := range []spillway.SiteID{"east", "west"} {
		for _, group := range []string{"readers", "others"} {
			at := map[spillway.TopicPartition]broker.GroupOffset{orders: {LeaderEpoch: -1}, carts: {LeaderEpoch: -1}}
			if err := w.Direct[site].Admin().CommitGroupOffsets(within(t, soon), group, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := raw(t, w.Addrs[0])
	positions := kmsg.NewPtrOffsetDeleteRequest()
	positions.Group = "others"
	positions.Topics = []kmsg.OffsetDeleteRequestTopic{
		{Topic: "shop-orders", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}},
		{Topic: "other", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}},
	}
	got := do[*kmsg.OffsetDeleteResponse](t, c, positions)
	if got.ErrorCode != 0 || len(got.Topics) != 2 || got.Topics[0].Partitions[0].ErrorCode != 0 || got.Topics[1].Partitions[0].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("%+v", got)
	}
	groups := kmsg.NewPtrDeleteGroupsRequest()
	groups.Version, groups.Groups = 2, []string{"readers", "nobody", "", strings.Repeat("x", 250)}
	told := do[*kmsg.DeleteGroupsResponse](t, c, groups).Groups
	for i, want := range []int16{0, kerr.GroupIDNotFound.Code, kerr.InvalidGroupID.Code, kerr.InvalidGroupID.Code} {
		if told[i].ErrorCode != want || told[i].Group != groups.Groups[i] {
			t.Errorf("%q: %+v, want error %d", groups.Groups[i], told[i], want)
		}
	}
	if has("east", "readers") != 0 || has("east", "others") != 1 {
		t.Errorf("east has %d and %d positions", has("east", "readers"), has("east", "others"))
	}
	gatewaytest.Eventually(t, "the other site has the same", func() bool { return has("west", "readers") == 0 && has("west", "others") == 1 })
	gatewaytest.Eventually(t, "nothing is under way", func() bool {
		entries, err := w.Store.List(within(t, soon), w.Keys.Groups())
		return err == nil && len(entries) == 0
	})
	names := func(a failover.AuditEntry) bool {
		return strings.Contains(a.What, "readers") || strings.Contains(a.What, "others")
	}
	if log := audited(t, w); len(log) != 4 || !names(log[0]) { // that of nobody is begun, and taken back
		t.Errorf("audit %+v", log)
	}
	joined := joinedGroup(t, c, "busy", "shop-orders")
	groups.Groups = []string{"busy"}
	if told := do[*kmsg.DeleteGroupsResponse](t, c, groups).Groups; told[0].ErrorCode != kerr.NonEmptyGroup.Code {
		t.Errorf("with the member %q: %+v", joined, told)
	}
}

// joinedGroup makes a group with one member, who waits for its part.
func joinedGroup(t *testing.T, c *conn.Conn, group, topic string) (member string) {
	t.Helper()
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = 5, group, 30_000, 30_000, "consumer"
	metadata := kmsg.NewConsumerMemberMetadata()
	metadata.Topics = []string{topic}
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: metadata.AppendTo(nil)}}
	for range 2 { // the first answer only gives the member its id (KIP-394)
		resp := do[*kmsg.JoinGroupResponse](t, c, join)
		if join.MemberID = resp.MemberID; resp.ErrorCode == 0 {
			break
		}
	}
	return join.MemberID
}
