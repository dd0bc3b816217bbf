package router

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/session"
)

// Bounds for what clients name and count (promise G). Bytes are bounded by the
// session; see there.
const (
	// entriesMax bounds the partitions of one request, or the groups, keys or
	// members where it is about these.
	entriesMax = 10_000
	// entryBytes is what one of them costs here while its request is served.
	// It counts like the bytes of the request: a few on the wire may become many.
	entryBytes = 512
	// topicNameMax is Kafka's. Longer names belong to no failover group.
	topicNameMax = 249
	// waitingMax bounds the batches of one client connection that wait for a
	// missing one, askingMax how many of them ask the site about it at once.
	waitingMax = 1000
	askingMax  = 4
)

// weigh refuses a request with too many entries and counts what they cost.
func weigh(sreq session.Request, req kmsg.Request) error {
	n := entries(req)
	if n > entriesMax {
		return session.Close(session.ReasonTooMany, fmt.Errorf("%d entries in one request, at most %d are served", n, entriesMax))
	}
	sreq.Weigh(int64(n) * entryBytes)
	return nil
}

// entries counts what the gateway keeps something for while it serves a request.
func entries(req kmsg.Request) (n int) {
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		n = withPartitions(r.Topics, func(t kmsg.ProduceRequestTopic) int { return len(t.Partitions) })
	case *kmsg.FetchRequest:
		n = withPartitions(r.Topics, func(t kmsg.FetchRequestTopic) int { return len(t.Partitions) })
	case *kmsg.ListOffsetsRequest:
		n = withPartitions(r.Topics, func(t kmsg.ListOffsetsRequestTopic) int { return len(t.Partitions) })
	case *kmsg.OffsetCommitRequest:
		n = withPartitions(r.Topics, func(t kmsg.OffsetCommitRequestTopic) int { return len(t.Partitions) })
	case *kmsg.OffsetFetchRequest:
		n = withPartitions(r.Topics, func(t kmsg.OffsetFetchRequestTopic) int { return len(t.Partitions) })
		for _, g := range r.Groups {
			n += 1 + withPartitions(g.Topics, func(t kmsg.OffsetFetchRequestGroupTopic) int { return len(t.Partitions) })
		}
	case *kmsg.AddPartitionsToTxnRequest:
		n = withPartitions(r.Topics, func(t kmsg.AddPartitionsToTxnRequestTopic) int { return len(t.Partitions) })
	case *kmsg.TxnOffsetCommitRequest:
		n = withPartitions(r.Topics, func(t kmsg.TxnOffsetCommitRequestTopic) int { return len(t.Partitions) })
	case *kmsg.MetadataRequest:
		n = len(r.Topics)
	case *kmsg.FindCoordinatorRequest:
		n = len(r.CoordinatorKeys)
	case *kmsg.DescribeGroupsRequest:
		n = len(r.Groups)
	case *kmsg.ConsumerGroupDescribeRequest:
		n = len(r.Groups)
	case *kmsg.DescribeConfigsRequest:
		for _, r := range r.Resources {
			n += 1 + len(r.ConfigNames)
		}
	case *kmsg.CreateTopicsRequest:
		for _, t := range r.Topics {
			n += 1 + len(t.ReplicaAssignment) + len(t.Configs)
		}
	case *kmsg.IncrementalAlterConfigsRequest:
		n = withPartitions(r.Resources, func(t kmsg.IncrementalAlterConfigsRequestResource) int { return len(t.Configs) })
	case *kmsg.AlterConfigsRequest:
		n = withPartitions(r.Resources, func(t kmsg.AlterConfigsRequestResource) int { return len(t.Configs) })
	case *kmsg.LeaveGroupRequest:
		n = len(r.Members)
	case *kmsg.JoinGroupRequest:
		n = len(r.Protocols)
	case *kmsg.SyncGroupRequest:
		n = len(r.GroupAssignment)
	case *kmsg.ConsumerGroupHeartbeatRequest:
		n = len(r.SubscribedTopicNames) + withPartitions(r.Topics, func(t kmsg.ConsumerGroupHeartbeatRequestTopic) int { return len(t.Partitions) })
	}
	return n
}

// withPartitions counts topics and what they have of partitions.
func withPartitions[T any](topics []T, partitions func(T) int) int {
	n := len(topics)
	for _, t := range topics {
		n += partitions(t)
	}
	return n
}

// firsts leaves out what a request names again: brokers take topics as a set, and one answer
// about a group does as well. So a small request makes no large answer.
func firsts[T any, K comparable](named []T, as func(T) K) []T {
	seen := make(map[K]bool, len(named))
	once := make([]T, 0, len(named))
	for _, n := range named {
		if k := as(n); !seen[k] {
			seen[k] = true
			once = append(once, n)
		}
	}
	return once
}

func itself[T any](v T) T { return v }
