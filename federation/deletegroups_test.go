package federation_test

import (
	"errors"
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
