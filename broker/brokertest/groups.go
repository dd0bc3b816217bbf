package brokertest

import (
	"errors"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
)

func commits(t *testing.T, f *fixture) {
	a, b := f.topic(1, nil), f.topic(3, nil)
	b.Partition = 2
	group := f.name("group")
	none, err := f.admin.FetchGroupOffsets(f.ctx, group)
	if err != nil || len(none) != 0 {
		t.Errorf("offsets of an absent group: %v, %v", none, err)
	}
	if d, err := f.admin.DescribeGroup(f.ctx, group); err != nil || d.State != "Dead" {
		t.Errorf("an absent group: %+v, %v", d, err)
	}
	want := map[spillway.TopicPartition]broker.GroupOffset{
		a: {Offset: 5, LeaderEpoch: -1, Metadata: "spillway: exact position"},
		b: {Offset: 0, LeaderEpoch: 0},
	}
	f.must(f.admin.CommitGroupOffsets(f.ctx, group, want))
	got, err := f.admin.FetchGroupOffsets(f.ctx, group)
	if err != nil || len(got) != 2 || got[a] != want[a] || got[b] != want[b] {
		t.Errorf("offsets %+v, %v", got, err)
	}
	// A commit may also go back (C28).
	f.must(f.admin.CommitGroupOffsets(f.ctx, group, map[spillway.TopicPartition]broker.GroupOffset{a: {Offset: 3, LeaderEpoch: -1}}))
	got, err = f.admin.FetchGroupOffsets(f.ctx, group)
	if err != nil || got[a].Offset != 3 || got[b] != want[b] {
		t.Errorf("offsets after going back %+v, %v", got, err)
	}
	groups, err := f.admin.ListGroups(f.ctx)
	f.must(err)
	if !slices.ContainsFunc(groups, func(g broker.GroupListing) bool { return g.ID == group && g.State == "Empty" }) {
		t.Errorf("the group is not among %+v", groups)
	}
	if d, err := f.admin.DescribeGroup(f.ctx, group); err != nil || d.State != "Empty" || len(d.Members) != 0 {
		t.Errorf("description %+v, %v", d, err)
	}
	f.must(f.admin.DeleteGroup(f.ctx, group))
	if err := f.admin.DeleteGroup(f.ctx, group); !errors.Is(err, broker.ErrUnknownGroup) {
		t.Errorf("second deletion: %v", err)
	}
}

// activeGroup: members of the classic protocol keep others from committing.
func activeGroup(t *testing.T, f *fixture) {
	tp, group := f.topic(1, nil), f.name("group")
	c := f.coordinator(group)
	member := f.join(c, group, tp.Topic)
	offsets := map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 1, LeaderEpoch: -1}}
	if err := f.admin.CommitGroupOffsets(f.ctx, group, offsets); !errors.Is(err, broker.ErrGroupActive) {
		t.Errorf("commit beside a member: %v", err)
	}
	if err := f.admin.DeleteGroup(f.ctx, group); !errors.Is(err, broker.ErrGroupActive) {
		t.Errorf("deletion of an active group: %v", err)
	}
	d, err := f.admin.DescribeGroup(f.ctx, group)
	if err != nil || d.State == "Empty" || len(d.Members) != 1 || d.Members[0].ID != member || !slices.Equal(d.Members[0].Assigned, []spillway.TopicPartition{tp}) {
		t.Errorf("description %+v, %v", d, err)
	}
	f.must(f.admin.RemoveMembers(f.ctx, group))
	f.must(f.admin.RemoveMembers(f.ctx, group)) // nobody is there any more
	if d, err := f.admin.DescribeGroup(f.ctx, group); err != nil || len(d.Members) != 0 {
		t.Errorf("after all members were removed: %+v, %v", d, err)
	}
	f.must(f.admin.CommitGroupOffsets(f.ctx, group, offsets))
}

func (f *fixture) coordinator(group string) *conn.Conn {
	f.Helper()
	node, err := f.Cluster.Coordinator(f.ctx, broker.GroupCoordinator, group)
	f.must(err)
	c, err := f.Cluster.Dial(f.ctx, node)
	f.must(err)
	f.Cleanup(func() { c.Close() })
	return c
}

// join makes a group of one member that has partition 0 of the topic.
func (f *fixture) join(c *conn.Conn, group, topic string) string {
	f.Helper()
	join := kmsg.NewPtrJoinGroupRequest()
	join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = group, 30_000, 30_000, "consumer"
	metadata := kmsg.NewConsumerMemberMetadata()
	metadata.Topics = []string{topic}
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: metadata.AppendTo(nil)}}
	var joined *kmsg.JoinGroupResponse
	for range 2 { // the first answer only gives the member its id (KIP-394)
		resp, err := c.Do(f.ctx, join)
		f.must(err)
		joined = resp.(*kmsg.JoinGroupResponse)
		join.MemberID = joined.MemberID
		if joined.ErrorCode == 0 {
			break
		}
	}
	if joined.ErrorCode != 0 {
		f.Fatalf("join: error code %d", joined.ErrorCode)
	}
	assignment := kmsg.NewConsumerMemberAssignment()
	assignment.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: topic, Partitions: []int32{0}}}
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.Generation, sync.MemberID = group, joined.Generation, joined.MemberID
	protocolType, protocol := "consumer", "range"
	sync.ProtocolType, sync.Protocol = &protocolType, &protocol
	sync.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{{MemberID: joined.MemberID, MemberAssignment: assignment.AppendTo(nil)}}
	resp, err := c.Do(f.ctx, sync)
	f.must(err)
	if code := resp.(*kmsg.SyncGroupResponse).ErrorCode; code != 0 {
		f.Fatalf("sync: error code %d", code)
	}
	return joined.MemberID
}

func consumerGroupV2(t *testing.T, f *fixture) {
	tp, group := f.topic(1, nil), f.name("group")
	c := f.coordinator(group)
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Group, beat.MemberID, beat.MemberEpoch, beat.RebalanceTimeoutMillis = group, "AAAAAAAAAAAAAAAAAAAAAA", 0, 30_000
	beat.SubscribedTopicNames = []string{tp.Topic}
	beat.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	resp, err := c.Do(f.ctx, beat)
	if works := err == nil && resp.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode == 0; works != f.can.ConsumerGroupV2 {
		t.Fatalf("heartbeat %+v, %v; ConsumerGroupV2 is declared %v", resp, err, f.can.ConsumerGroupV2)
	}
	if !f.can.ConsumerGroupV2 {
		return
	}
	member := resp.(*kmsg.ConsumerGroupHeartbeatResponse).MemberID
	if d, err := f.admin.DescribeGroup(f.ctx, group); err != nil || len(d.Members) != 1 || d.Members[0].ID != *member {
		t.Errorf("description %+v, %v", d, err)
	}
	err = f.admin.CommitGroupOffsets(f.ctx, group, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 1, LeaderEpoch: -1}})
	if !errors.Is(err, broker.ErrGroupActive) {
		t.Errorf("commit beside a member: %v", err)
	}
	f.must(f.admin.RemoveMembers(f.ctx, group))
	f.must(f.admin.CommitGroupOffsets(f.ctx, group, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 1, LeaderEpoch: -1}}))
}

// subscribed waits until a member that subscribes by an expression is given a topic, and says
// whether that is all that it was given.
func subscribed(t *testing.T, f *fixture) {
	tp, group := f.topic(1, nil), f.name("group")
	f.topic(1, nil) // another one, of which the expression says nothing
	m, err := f.Cluster.Metadata(f.ctx, tp.Topic)
	f.must(err)
	c := f.coordinator(group)
	if c.MaxVersion(int16(kmsg.ConsumerGroupHeartbeat)) < 1 {
		return // no expressions yet, before Kafka 4.0
	}
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = group, "AAAAAAAAAAAAAAAAAAAAAQ", 30_000
	expression := "^" + regexp.QuoteMeta(tp.Topic) + "$"
	beat.SubscribedTopicRegex, beat.SubscribedTopicNames = &expression, []string{}
	beat.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for {
		answer, err := c.Do(f.ctx, beat)
		f.must(err)
		resp := answer.(*kmsg.ConsumerGroupHeartbeatResponse)
		switch resp.ErrorCode {
		case 0:
			beat.MemberEpoch = resp.MemberEpoch
		case kerr.NotCoordinator.Code, kerr.CoordinatorLoadInProgress.Code, kerr.CoordinatorNotAvailable.Code: // has just begun to be
		default:
			t.Fatalf("heartbeat: error code %d", resp.ErrorCode)
		}
		if a := resp.Assignment; a != nil && len(a.Topics) > 0 {
			if len(a.Topics) != 1 || a.Topics[0].TopicID != m.Topics[tp.Topic].ID {
				t.Errorf("%q is given %v", expression, a.Topics)
			}
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
