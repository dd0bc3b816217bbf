package federation_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation/gatewaytest"
)

// asker asks everything that depends on what a client may do, of a gateway or of a broker.
type asker struct {
	t      *testing.T
	conn   *conn.Conn
	ids    map[string][16]byte // of topics, as the one asked knows them
	topics []string
	groups []string

	transactions []string // ids
}

// refusal is what a code says of rights; other errors say that nothing was refused.
func refusal(code int16) string {
	switch code {
	case kerr.TopicAuthorizationFailed.Code:
		return " no-topic"
	case kerr.UnknownTopicID.Code:
		return " unknown-id"
	case kerr.TransactionalIDAuthorizationFailed.Code:
		return " no-transaction"
	case kerr.OperationNotAttempted.Code:
		return " not-attempted"
	case kerr.GroupAuthorizationFailed.Code:
		return " no-group"
	case kerr.ClusterAuthorizationFailed.Code:
		return " no-cluster"
	case kerr.NotLeaderForPartition.Code, kerr.LeaderNotAvailable.Code, kerr.CoordinatorLoadInProgress.Code, kerr.CoordinatorNotAvailable.Code, kerr.NotCoordinator.Code, kerr.NotController.Code:
		return " later"
	case kerr.RebalanceInProgress.Code:
		return " rejoin"
	}
	return ""
}

func nameOf(topic *string) string {
	if topic == nil {
		return "-"
	}
	return *topic
}

// knows is the name of a topic by id.
func (a *asker) knows(id [16]byte) string {
	for name, own := range a.ids {
		if own == id {
			return name
		}
	}
	return "-"
}

// questions in the order in which they are asked. An answer is what was refused, or what
// is listed.
func (a *asker) questions() []question {
	q := []question{
		{"Metadata of all topics", a.allTopics}, {"Metadata by name", a.byName}, {"Metadata by id", a.byID},
		{"Produce", a.produce(9)}, {"Produce by id", a.produce(13)}, {"Fetch", a.fetch(12)}, {"Fetch by id", a.fetch(16)}, {"ListOffsets", a.listOffsets}, {"OffsetForLeaderEpoch", a.epochEnds},
		{"OffsetCommit", a.commit(8)}, {"OffsetCommit by id", a.commit(10)}, {"OffsetFetch", a.offsetFetch(8)}, {"OffsetFetch by id", a.offsetFetch(10)},
		{"OffsetFetch of all", a.offsetFetchAll}, {"OffsetFetch of one", a.offsetFetchOne},
		{"FindCoordinator", a.coordinators}, {"FindCoordinator of one", a.coordinator}, {"JoinGroup", a.join}, {"Heartbeat", a.heartbeat}, {"SyncGroup", a.sync},
		{"LeaveGroup", a.leave}, {"DescribeGroups", a.describeGroups}, {"ListGroups", a.listGroups}, {"InitProducerId", a.initProducerID},
		{"DescribeConfigs", a.configs}, {"ConsumerGroupHeartbeat", a.beat}, {"ConsumerGroupDescribe", a.describeConsumerGroups},
		{"FindCoordinator of transactions", a.transactionCoordinators}, {"InitProducerId of a transaction", a.initTransaction}, {"AddPartitionsToTxn", a.addPartitions},
		{"AddOffsetsToTxn", a.addOffsets}, {"TxnOffsetCommit", a.commitInTransaction}, {"EndTxn", a.endTransaction}, {"Produce in a transaction", a.produceInTransaction},
		{"CreateTopics", a.create}, {"AlterConfigs", a.alter}, {"IncrementalAlterConfigs", a.alterIncrementally},
	}
	return slices.DeleteFunc(q, func(q question) bool {
		needs := map[string][2]int16{
			"Produce by id": {0, 13}, "OffsetCommit by id": {8, 10}, "OffsetFetch by id": {9, 10}, "ConsumerGroupHeartbeat": {68, 0}, "ConsumerGroupDescribe": {69, 0},
		}
		n, ok := needs[q.name]
		return ok && a.conn.MaxVersion(n[0]) < n[1]
	})
}

type question struct {
	name string
	ask  func() string
}

// answers to all questions, a line for each.
func (a *asker) answers() (all []string) {
	for _, q := range a.questions() {
		all = append(all, q.name+": "+q.ask())
	}
	return all
}

func (a *asker) metadata(topics []kmsg.MetadataRequestTopic) (parts []string) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.Topics, req.AllowAutoTopicCreation = 12, topics, false
	for _, t := range do[*kmsg.MetadataResponse](a.t, a.conn, req).Topics {
		if name := nameOf(t.Topic); !strings.HasPrefix(name, "__") {
			id := "id"
			if t.TopicID == [16]byte{} {
				id = "no-id"
			} else if known := a.knows(t.TopicID); known != name {
				id = "id of " + known
			}
			parts = append(parts, name+" "+id+refusal(t.ErrorCode))
		}
	}
	slices.Sort(parts)
	return parts
}

func (a *asker) allTopics() string { return strings.Join(a.metadata(nil), ", ") }

func (a *asker) byName() string {
	var asked []kmsg.MetadataRequestTopic
	for _, name := range append(slices.Clone(a.topics), "nowhere") {
		asked = append(asked, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr(name)})
	}
	return strings.Join(a.metadata(asked), ", ")
}

func (a *asker) byID() string {
	var asked []kmsg.MetadataRequestTopic
	for _, name := range a.topics {
		asked = append(asked, kmsg.MetadataRequestTopic{TopicID: a.ids[name]})
	}
	return strings.Join(a.metadata(append(asked, kmsg.MetadataRequestTopic{TopicID: [16]byte{1, 2, 3}})), ", ")
}

// produce sends no records: what is not refused for them is allowed.
func (a *asker) produce(version int16) func() string {
	return func() string {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = version, 1, 5000
		for _, name := range a.topics {
			t := kmsg.NewProduceRequestTopic()
			t.Topic, t.TopicID = name, a.ids[name]
			p := kmsg.NewProduceRequestTopicPartition()
			p.Records = []byte{}
			t.Partitions = append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
		}
		var parts []string
		for _, t := range do[*kmsg.ProduceResponse](a.t, a.conn, req).Topics {
			parts = append(parts, a.called(t.Topic, t.TopicID, version >= 13)+refusal(t.Partitions[0].ErrorCode))
		}
		return sorted(parts)
	}
}

func (a *asker) called(name string, id [16]byte, byID bool) string {
	if byID {
		return a.knows(id)
	}
	return name
}

func sorted(parts []string) string {
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (a *asker) fetch(version int16) func() string {
	return func() string {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.ReplicaID, req.SessionEpoch, req.MaxBytes = version, -1, -1, 1<<20
		names := slices.Clone(a.topics)
		if version < 13 {
			names = append(names, "nowhere")
		}
		for _, name := range names {
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = name, a.ids[name]
			p := kmsg.NewFetchRequestTopicPartition()
			p.CurrentLeaderEpoch, p.LastFetchedEpoch, p.PartitionMaxBytes = -1, -1, 1<<20
			t.Partitions = append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
		}
		var parts []string
		for _, t := range do[*kmsg.FetchResponse](a.t, a.conn, req).Topics {
			p := t.Partitions[0]
			part := a.called(t.Topic, t.TopicID, version >= 13) + refusal(p.ErrorCode)
			if p.ErrorCode == kerr.TopicAuthorizationFailed.Code {
				part += fmt.Sprint(" to ", p.HighWatermark)
			}
			parts = append(parts, part)
		}
		return sorted(parts)
	}
}

func (a *asker) listOffsets() string {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = 7, -1
	for _, name := range append(slices.Clone(a.topics), "nowhere") {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = name
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Timestamp, p.CurrentLeaderEpoch = -1, -1
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
	}
	var parts []string
	for _, t := range do[*kmsg.ListOffsetsResponse](a.t, a.conn, req).Topics {
		parts = append(parts, t.Topic+refusal(t.Partitions[0].ErrorCode))
	}
	return sorted(parts)
}

// epochEnds asks for no epoch, so that what is told of a topic is the same everywhere.
func (a *asker) epochEnds() string {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = 4, -1
	for _, name := range append(slices.Clone(a.topics), "nowhere") {
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.CurrentLeaderEpoch, p.LeaderEpoch = -1, -1
		req.Topics = append(req.Topics, kmsg.OffsetForLeaderEpochRequestTopic{Topic: name, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}})
	}
	var parts []string
	for _, t := range do[*kmsg.OffsetForLeaderEpochResponse](a.t, a.conn, req).Topics {
		parts = append(parts, t.Topic+refusal(t.Partitions[0].ErrorCode))
	}
	return sorted(parts)
}

func (a *asker) commit(version int16) func() string {
	return func() string {
		var parts []string
		for _, group := range a.groups {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Version, req.Group, req.Generation = version, group, -1
			for _, name := range a.topics {
				t := kmsg.NewOffsetCommitRequestTopic()
				t.Topic, t.TopicID = name, a.ids[name]
				p := kmsg.NewOffsetCommitRequestTopicPartition()
				p.LeaderEpoch = -1
				t.Partitions = append(t.Partitions, p)
				req.Topics = append(req.Topics, t)
			}
			for _, t := range do[*kmsg.OffsetCommitResponse](a.t, a.conn, req).Topics {
				parts = append(parts, group+" "+a.called(t.Topic, t.TopicID, version >= 10)+refusal(t.Partitions[0].ErrorCode))
			}
		}
		return sorted(parts)
	}
}

func (a *asker) positions(version int16, topics []string) string {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = version
	for _, group := range a.groups {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group, g.MemberEpoch = group, -1
		for _, name := range topics {
			g.Topics = append(g.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: name, TopicID: a.ids[name], Partitions: []int32{0}})
		}
		req.Groups = append(req.Groups, g)
	}
	var parts []string
	for _, g := range do[*kmsg.OffsetFetchResponse](a.t, a.conn, req).Groups {
		parts = append(parts, g.Group+refusal(g.ErrorCode))
		for _, t := range g.Topics {
			parts = append(parts, g.Group+" "+a.called(t.Topic, t.TopicID, version >= 10)+refusal(t.Partitions[0].ErrorCode))
		}
	}
	return sorted(parts)
}

func (a *asker) offsetFetch(version int16) func() string {
	return func() string { return a.positions(version, a.topics) }
}

func (a *asker) offsetFetchAll() string { return a.positions(8, nil) }

// offsetFetchOne is the older form; version 1 has no place for an error of the group.
func (a *asker) offsetFetchOne() string {
	var parts []string
	for _, version := range []int16{1, 7} {
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version, req.Group = version, a.groups[0]
		for _, name := range a.topics {
			req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: name, Partitions: []int32{0}})
		}
		resp := do[*kmsg.OffsetFetchResponse](a.t, a.conn, req)
		parts = append(parts, fmt.Sprint("v", version, refusal(resp.ErrorCode)))
		for _, t := range resp.Topics {
			parts = append(parts, fmt.Sprint("v", version, " ", t.Topic, refusal(t.Partitions[0].ErrorCode)))
		}
	}
	return sorted(parts)
}

func (a *asker) coordinators() string {
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorKeys = 4, a.groups
	var parts []string
	for _, c := range do[*kmsg.FindCoordinatorResponse](a.t, a.conn, req).Coordinators {
		parts = append(parts, c.Key+refusal(c.ErrorCode))
	}
	return sorted(parts)
}

// ofGroups asks about one group after the other.
func (a *asker) ofGroups(ask func(group string) int16) string {
	var parts []string
	for _, group := range a.groups {
		parts = append(parts, group+refusal(ask(group)))
	}
	return sorted(parts)
}

func (a *asker) coordinator() string {
	return a.ofGroups(func(group string) int16 {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version, req.CoordinatorKey = 3, group
		return do[*kmsg.FindCoordinatorResponse](a.t, a.conn, req).ErrorCode
	})
}

// join is asked for an id only: no group gets a member.
func (a *asker) join() string {
	return a.ofGroups(func(group string) int16 {
		req := kmsg.NewPtrJoinGroupRequest()
		req.Version, req.Group, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 7, group, "consumer", 10_000, 10_000
		req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
		return do[*kmsg.JoinGroupResponse](a.t, a.conn, req).ErrorCode
	})
}

func (a *asker) heartbeat() string {
	return a.ofGroups(func(group string) int16 {
		req := kmsg.NewPtrHeartbeatRequest()
		req.Version, req.Group, req.MemberID = 4, group, "nobody"
		return do[*kmsg.HeartbeatResponse](a.t, a.conn, req).ErrorCode
	})
}

func (a *asker) sync() string {
	return a.ofGroups(func(group string) int16 {
		req := kmsg.NewPtrSyncGroupRequest()
		req.Version, req.Group, req.MemberID = 4, group, "nobody"
		return do[*kmsg.SyncGroupResponse](a.t, a.conn, req).ErrorCode
	})
}

func (a *asker) leave() string {
	return a.ofGroups(func(group string) int16 {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group = 4, group
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: "nobody"}}
		return do[*kmsg.LeaveGroupResponse](a.t, a.conn, req).ErrorCode
	})
}

func (a *asker) describeGroups() string {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version, req.Groups = 5, a.groups
	var parts []string
	for _, g := range do[*kmsg.DescribeGroupsResponse](a.t, a.conn, req).Groups {
		parts = append(parts, g.Group+refusal(g.ErrorCode))
	}
	return sorted(parts)
}

func (a *asker) listGroups() string {
	req := kmsg.NewPtrListGroupsRequest()
	req.Version = 4
	resp := do[*kmsg.ListGroupsResponse](a.t, a.conn, req)
	var parts []string
	for _, g := range resp.Groups {
		if slices.Contains(a.groups, g.Group) {
			parts = append(parts, g.Group)
		}
	}
	return sorted(parts) + refusal(resp.ErrorCode)
}

func (a *asker) initProducerID() string {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.ProducerID, req.ProducerEpoch = 4, -1, -1
	return refusal(do[*kmsg.InitProducerIDResponse](a.t, a.conn, req).ErrorCode)
}

func (a *asker) configs() string {
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	for _, name := range a.topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		req.Resources = append(req.Resources, r)
	}
	var parts []string
	for _, r := range do[*kmsg.DescribeConfigsResponse](a.t, a.conn, req).Resources {
		parts = append(parts, fmt.Sprint(r.ResourceName, refusal(r.ErrorCode), " ", len(r.Configs) > 0))
	}
	return sorted(parts)
}

// beat is of a member that leaves and was never there.
func (a *asker) beat() string {
	var parts []string
	for _, name := range a.topics {
		parts = append(parts, name+": "+a.ofGroups(func(group string) int16 {
			req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
			req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = group, "nobody", -1, -1
			req.SubscribedTopicNames = []string{name}
			return do[*kmsg.ConsumerGroupHeartbeatResponse](a.t, a.conn, req).ErrorCode
		}))
	}
	return sorted(parts)
}

func (a *asker) describeConsumerGroups() string {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = a.groups
	var parts []string
	for _, g := range do[*kmsg.ConsumerGroupDescribeResponse](a.t, a.conn, req).Groups {
		parts = append(parts, g.Group+refusal(g.ErrorCode))
	}
	return sorted(parts)
}

// virtualIDs are those of the gateway.
func virtualIDs(w *gatewaytest.World, topics []string) map[string][16]byte {
	ids := make(map[string][16]byte)
	for _, name := range topics {
		ids[name] = w.Topology.TopicID(name)
	}
	return ids
}

func opened(ctx context.Context, address, name, password string) (*conn.Conn, error) {
	return conn.Open(ctx, conn.Config{Address: address, Node: -1, SASL: &conn.SASL{Mechanism: "SCRAM-SHA-256", User: name, Password: password}})
}

// login connects as a user of newFront.
func login(t *testing.T, address, name, password string) *conn.Conn {
	t.Helper()
	c, err := opened(within(t, soon), address, name, password)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ofTransactions asks about one transactional id after the other.
func (a *asker) ofTransactions(ask func(id string) []string) string {
	var parts []string
	for _, id := range a.transactions {
		for _, part := range ask(id) {
			parts = append(parts, id+part)
		}
	}
	return sorted(parts)
}

func (a *asker) transactionCoordinators() string {
	return a.ofTransactions(func(id string) []string {
		one, some := kmsg.NewPtrFindCoordinatorRequest(), kmsg.NewPtrFindCoordinatorRequest()
		one.Version, one.CoordinatorType, one.CoordinatorKey = 3, 1, id
		some.Version, some.CoordinatorType, some.CoordinatorKeys = 4, 1, []string{id}
		return []string{refusal(do[*kmsg.FindCoordinatorResponse](a.t, a.conn, one).ErrorCode), refusal(do[*kmsg.FindCoordinatorResponse](a.t, a.conn, some).Coordinators[0].ErrorCode)}
	})
}

func (a *asker) initTransaction() string {
	return a.ofTransactions(func(id string) []string {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 4, &id, 10_000, -1, -1
		return []string{refusal(do[*kmsg.InitProducerIDResponse](a.t, a.conn, req).ErrorCode)}
	})
}

// nobody is a producer id that nobody has, so that what is asked for it and not refused
// changes nothing.
const nobody = 1<<40 + 7

// addPartitions asks for all topics at once, and for each alone: one that is refused keeps
// the others from being added.
func (a *asker) addPartitions() string {
	return a.ofTransactions(func(id string) (parts []string) {
		sets := [][]string{a.topics}
		for _, name := range a.topics {
			sets = append(sets, []string{name})
		}
		for _, names := range sets {
			req := kmsg.NewPtrAddPartitionsToTxnRequest()
			req.Version, req.TransactionalID, req.ProducerID = 3, id, nobody
			for _, name := range names {
				req.Topics = append(req.Topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: name, Partitions: []int32{0}})
			}
			for _, t := range do[*kmsg.AddPartitionsToTxnResponse](a.t, a.conn, req).Topics {
				parts = append(parts, fmt.Sprint(" ", t.Topic, " of ", len(names), refusal(t.Partitions[0].ErrorCode)))
			}
		}
		return parts
	})
}

func (a *asker) addOffsets() string {
	return a.ofTransactions(func(id string) (parts []string) {
		for _, group := range a.groups {
			req := kmsg.NewPtrAddOffsetsToTxnRequest()
			req.Version, req.TransactionalID, req.ProducerID, req.Group = 3, id, nobody, group
			parts = append(parts, " "+group+refusal(do[*kmsg.AddOffsetsToTxnResponse](a.t, a.conn, req).ErrorCode))
		}
		return parts
	})
}

func (a *asker) commitInTransaction() string {
	return a.ofTransactions(func(id string) (parts []string) {
		for _, group := range a.groups {
			req := kmsg.NewPtrTxnOffsetCommitRequest()
			req.Version, req.TransactionalID, req.Group, req.ProducerID, req.Generation = 3, id, group, nobody, -1
			for _, name := range a.topics {
				t := kmsg.NewTxnOffsetCommitRequestTopic()
				t.Topic = name
				p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
				p.LeaderEpoch = -1
				t.Partitions = append(t.Partitions, p)
				req.Topics = append(req.Topics, t)
			}
			for _, t := range do[*kmsg.TxnOffsetCommitResponse](a.t, a.conn, req).Topics {
				parts = append(parts, " "+group+" "+t.Topic+refusal(t.Partitions[0].ErrorCode))
			}
		}
		return parts
	})
}

func (a *asker) endTransaction() string {
	return a.ofTransactions(func(id string) []string {
		req := kmsg.NewPtrEndTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID = 3, id, nobody
		return []string{refusal(do[*kmsg.EndTxnResponse](a.t, a.conn, req).ErrorCode)}
	})
}

// produceInTransaction sends batches of a transaction that was never begun.
func (a *asker) produceInTransaction() string {
	return a.ofTransactions(func(id string) (parts []string) {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis, req.TransactionID = 9, -1, 5000, &id
		for _, name := range a.topics {
			one := produceRequest(name, func(h *batch.Header) {
				h.Attributes, h.ProducerID, h.ProducerEpoch, h.BaseSequence = h.Attributes|batch.AttributeTransactional, nobody, 0, 0
			})
			req.Topics = append(req.Topics, one.Topics...)
		}
		for _, t := range do[*kmsg.ProduceResponse](a.t, a.conn, req).Topics {
			parts = append(parts, " "+t.Topic+refusal(t.Partitions[0].ErrorCode))
		}
		return parts
	})
}

// create asks for topics that are there and one that is not, and has none created.
func (a *asker) create() string {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis, req.ValidateOnly = 7, 5000, true
	for _, name := range append(slices.Clone(a.topics), "nowhere") {
		req.Topics = append(req.Topics, newTopic(name, 1, 1))
	}
	var parts []string
	for _, t := range do[*kmsg.CreateTopicsResponse](a.t, a.conn, req).Topics {
		parts = append(parts, fmt.Sprint(t.Topic, refusal(t.ErrorCode), " settings", refusal(t.ConfigErrorCode), " ", t.NumPartitions))
	}
	return sorted(parts)
}

func (a *asker) alter() string {
	req := kmsg.NewPtrAlterConfigsRequest()
	req.Version, req.ValidateOnly = 1, true
	for _, name := range append(slices.Clone(a.topics), "nowhere") {
		r := kmsg.NewAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		r.Configs = []kmsg.AlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr("1000000")}}
		req.Resources = append(req.Resources, r)
	}
	var parts []string
	for _, r := range do[*kmsg.AlterConfigsResponse](a.t, a.conn, req).Resources {
		parts = append(parts, r.ResourceName+refusal(r.ErrorCode))
	}
	return sorted(parts)
}

func (a *asker) alterIncrementally() string {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version, req.ValidateOnly = 1, true
	for _, name := range a.topics {
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		r.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "retention.ms", Value: kmsg.StringPtr("1000000")}}
		req.Resources = append(req.Resources, r)
	}
	var parts []string
	for _, r := range do[*kmsg.IncrementalAlterConfigsResponse](a.t, a.conn, req).Resources {
		parts = append(parts, r.ResourceName+refusal(r.ErrorCode))
	}
	return sorted(parts)
}
