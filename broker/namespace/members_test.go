package namespace

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Brokers keep the positions of what a group subscribes to, by what its members say, and give
// members of both protocols topics by it.
func TestWhatMembersSubscribeTo(t *testing.T) {
	said := func(name string) []byte {
		m := kmsg.NewConsumerMemberMetadata()
		m.Version, m.Topics, m.UserData = 1, []string{name}, []byte("orders")
		m.OwnedPartitions = []kmsg.ConsumerMemberMetadataOwnedPartition{{Topic: name, Partitions: []int32{1}}}
		return m.AppendTo(nil)
	}
	given := func(name string) []byte {
		a := kmsg.NewConsumerMemberAssignment()
		a.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: name, Partitions: []int32{1}}}
		return a.AppendTo(nil)
	}
	for _, c := range []struct {
		kind          string
		says, sent    []byte
		gives, passed []byte
	}{
		{"consumer", said("orders"), said("payments.orders"), given("orders"), given("payments.orders")},
		{"connect", said("orders"), said("orders"), given("orders"), given("orders")},
		{"consumer", []byte("orders"), []byte("orders"), []byte{0}, []byte{0}}, // in words of their own
	} {
		join := kmsg.NewPtrJoinGroupRequest()
		join.Version, join.ProtocolType, join.Protocols = 7, c.kind, []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: c.says}}
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Version, sync.ProtocolType, sync.GroupAssignment = 5, &c.kind, []kmsg.SyncGroupRequestGroupAssignment{{MemberID: "a", MemberAssignment: c.gives}}
		for _, req := range []kmsg.Request{join, sync} {
			body, err := payments.Request(req.Key(), req.GetVersion(), [][]byte{req.AppendTo(nil)})
			if err != nil {
				t.Fatal(err)
			}
			if err := req.ReadFrom(joined(body)); err != nil {
				t.Fatal(err)
			}
		}
		if got := join.Protocols[0].Metadata; !bytes.Equal(got, c.sent) {
			t.Errorf("%s: %q is sent as %q", c.kind, c.says, got)
		}
		if got := sync.GroupAssignment[0].MemberAssignment; !bytes.Equal(got, c.passed) {
			t.Errorf("%s: %q is sent as %q", c.kind, c.gives, got)
		}
		joined, synced, described := kmsg.NewPtrJoinGroupResponse(), kmsg.NewPtrSyncGroupResponse(), kmsg.NewPtrDescribeGroupsResponse()
		joined.Version, joined.Members = 7, []kmsg.JoinGroupResponseMember{{ProtocolMetadata: c.sent}}
		synced.Version, synced.MemberAssignment = 5, c.passed
		described.Version = 5
		described.Groups = []kmsg.DescribeGroupsResponseGroup{{Group: "payments.shop", Members: []kmsg.DescribeGroupsResponseGroupMember{{ProtocolMetadata: c.sent, MemberAssignment: c.passed}}}}
		for _, resp := range []kmsg.Response{joined, synced, described} {
			body, err := payments.Response(resp.Key(), resp.GetVersion(), resp.AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.ReadFrom(body); err != nil {
				t.Fatal(err)
			}
		}
		m := described.Groups[0].Members[0]
		if !bytes.Equal(joined.Members[0].ProtocolMetadata, c.says) || !bytes.Equal(m.ProtocolMetadata, c.says) {
			t.Errorf("%s: %q comes back as %q and %q", c.kind, c.says, joined.Members[0].ProtocolMetadata, m.ProtocolMetadata)
		}
		if !bytes.Equal(synced.MemberAssignment, c.gives) || !bytes.Equal(m.MemberAssignment, c.gives) {
			t.Errorf("%s: %q comes back as %q and %q", c.kind, c.gives, synced.MemberAssignment, m.MemberAssignment)
		}
	}
}
