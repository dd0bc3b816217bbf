package namespace

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// consumers is the type of groups whose members brokers understand: what they subscribe to keeps
// positions from expiring (OffsetMetadataManager), and from being deleted.
const consumers = "consumer"

// said are requests whose answers have no names but in what members say.
var said = keys(11, 14)

// subscriptions puts the namespace before what members of a classic group say to their leader,
// and their leader to them.
func (n Namespace) subscriptions(req kmsg.Request) {
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		if r.ProtocolType != consumers {
			return
		}
		for i := range r.Protocols {
			r.Protocols[i].Metadata = subscription(r.Protocols[i].Metadata, n.enter)
		}
	case *kmsg.SyncGroupRequest:
		if r.ProtocolType != nil && *r.ProtocolType != consumers {
			return
		}
		for i := range r.GroupAssignment {
			r.GroupAssignment[i].MemberAssignment = assignment(r.GroupAssignment[i].MemberAssignment, n.enter)
		}
	}
}

// subscribed takes it off again.
func (n Namespace) subscribed(resp kmsg.Response) {
	switch r := resp.(type) {
	case *kmsg.JoinGroupResponse:
		for i := range r.Members {
			r.Members[i].ProtocolMetadata = subscription(r.Members[i].ProtocolMetadata, n.leave)
		}
	case *kmsg.SyncGroupResponse:
		r.MemberAssignment = assignment(r.MemberAssignment, n.leave)
	case *kmsg.DescribeGroupsResponse:
		for i := range r.Groups {
			for j := range r.Groups[i].Members {
				m := &r.Groups[i].Members[j]
				m.ProtocolMetadata = subscription(m.ProtocolMetadata, n.leave)
				m.MemberAssignment = assignment(m.MemberAssignment, n.leave)
			}
		}
	}
}

// subscription rewrites the topics of one, and leaves what is no subscription as it is.
func subscription(text []byte, name func(kind, string) (string, bool)) []byte {
	var m kmsg.ConsumerMemberMetadata
	if m.ReadFrom(text) != nil || !bytes.Equal(m.AppendTo(nil), text) {
		return text
	}
	for i := range m.Topics {
		own, ok := name(topic, m.Topics[i])
		if !ok {
			return text
		}
		m.Topics[i] = own
	}
	for i := range m.OwnedPartitions {
		own, ok := name(topic, m.OwnedPartitions[i].Topic)
		if !ok {
			return text
		}
		m.OwnedPartitions[i].Topic = own
	}
	return m.AppendTo(nil)
}

// assignment is subscription for what a member is given.
func assignment(text []byte, name func(kind, string) (string, bool)) []byte {
	var a kmsg.ConsumerMemberAssignment
	if a.ReadFrom(text) != nil || !bytes.Equal(a.AppendTo(nil), text) {
		return text
	}
	for i := range a.Topics {
		own, ok := name(topic, a.Topics[i].Topic)
		if !ok {
			return text
		}
		a.Topics[i].Topic = own
	}
	return a.AppendTo(nil)
}
