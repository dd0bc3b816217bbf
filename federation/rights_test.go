package federation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/authorization"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/federation/layout"
	"spillway/federation/router"
	"spillway/lb"
)

// lists are the access control lists of a test's sites.
type lists struct {
	mu     sync.Mutex
	sites  map[spillway.SiteID][]spillway.ACL
	fault  error
	reads  int
	denied []string
}

func (l *lists) read(context.Context, spillway.SiteID) ([]spillway.ACL, error) {
	return l.at("east")
}

func (l *lists) at(site spillway.SiteID) ([]spillway.ACL, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	return l.sites[site], l.fault
}

// set puts a list of "allow User:alice read topic orders" in force.
func (l *lists) set(t *testing.T, site spillway.SiteID, lines ...string) {
	t.Helper()
	var all []spillway.ACL
	for _, line := range lines {
		w := strings.Fields(line)
		e := spillway.ACL{Permission: strings.ToUpper(w[0]), Principal: w[1], Operation: strings.ToUpper(w[2]), Resource: strings.ToUpper(w[3]), Name: w[4], Pattern: spillway.ACLLiteral, Host: "*"}
		if prefix, ok := strings.CutSuffix(e.Name, "*"); ok && prefix != "" {
			e.Pattern, e.Name = spillway.ACLPrefixed, prefix
		}
		all = append(all, e)
	}
	l.mu.Lock()
	l.sites[site], l.fault = all, nil
	l.mu.Unlock()
	l.again(t)
}

// fail has reads fail from now on.
func (l *lists) fail(t *testing.T, err error) {
	t.Helper()
	l.mu.Lock()
	l.fault = err
	l.mu.Unlock()
	l.again(t)
}

// again waits until what is read now counts: a site's list is read when the answer of before was
// looked at.
func (l *lists) again(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	now := l.reads
	l.mu.Unlock()
	gatewaytest.Eventually(t, "the list is read twice", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.reads >= now+4 // with two sites
	})
}

func (l *lists) tell(d router.Denial) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.denied = append(l.denied, fmt.Sprint(d.Client.Principal, " ", d.Operation, " ", d.Kind, " ", d.Name, " at ", d.Site, ": ", d.Decision))
}

// told takes what was denied since the last call.
func (l *lists) told() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.denied = nil }()
	return strings.Join(l.denied, "\n")
}

// authorize makes a gateway ask the lists.
func (l *lists) authorize(c *federation.Config, read func(context.Context, spillway.SiteID) ([]spillway.ACL, error), super ...string) {
	c.Authorization = &authorization.Config{Policy: authorization.Policy{SuperUsers: super}, Read: read, Every: 5 * time.Millisecond, EveryUnread: 5 * time.Millisecond}
	c.Events.Router.Denied = l.tell
}

func newLists() *lists { return &lists{sites: make(map[spillway.SiteID][]spillway.ACL)} }

// someTransactions are the ids that questions are about.
var someTransactions = []string{"app-1", "job-1"}

func namesTransactions(g *spillway.FailoverGroup) { g.TransactionalIDs = []string{"app-*", "job-*"} }

// Every API answers as a broker does for the same list; TestRealKafkaRights has one say so.
func TestRightsByAPI(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1, "carts": 1}, Group: namesTransactions, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read, "User:bob")
		c.Router.Administration = router.TopicAdministration
	}})
	names := []string{"carts", "orders"}
	ask := func(who string) *asker {
		return &asker{t: t, conn: login(t, w.Addrs[0], who, who+"'s"), ids: virtualIDs(w, names), topics: names, groups: []string{"buyers", "sellers"}, transactions: someTransactions}
	}
	alice, bob := ask("alice"), ask("bob")
	for _, line := range bob.answers() {
		if strings.Contains(line, "no-") && !strings.Contains(line, "nowhere no-id") {
			t.Errorf("a super user: %s", line)
		}
	}
	for name, c := range map[string]struct {
		list []string
		want map[string]string // by question; the others refuse all
	}{
		"nothing": {},
		"to read one topic": {[]string{"allow User:alice read topic orders", "allow User:alice read group buyers"}, map[string]string{
			"Metadata of all topics": "orders id", "Metadata by name": "carts no-id no-topic, nowhere no-id no-topic, orders id", "Metadata by id": "- id of carts unknown-id, - id unknown-id, orders id", "Produce by id": "carts unknown-id, orders no-topic",
			"Fetch": "carts no-topic to -1, nowhere no-topic to -1, orders", "Fetch by id": "carts unknown-id, orders", "ListOffsets": "carts no-topic, nowhere no-topic, orders", "OffsetForLeaderEpoch": "carts no-topic, nowhere no-topic, orders",
			"OffsetCommit":           "buyers carts no-topic, buyers orders, sellers carts no-group, sellers orders no-group",
			"OffsetCommit by id":     "buyers carts unknown-id, buyers orders, sellers carts no-group, sellers orders no-group",
			"OffsetFetch":            "buyers, buyers carts no-topic, buyers orders, sellers no-group",
			"OffsetFetch by id":      "buyers, buyers carts unknown-id, buyers orders, sellers no-group",
			"OffsetFetch of all":     "buyers, buyers orders, sellers no-group",
			"OffsetFetch of one":     "v1, v1 carts no-topic, v1 orders, v7, v7 carts no-topic, v7 orders",
			"ConsumerGroupHeartbeat": "carts: buyers no-topic, sellers no-group, orders: buyers, sellers no-group",
			"FindCoordinator":        "buyers, sellers no-group", "FindCoordinator of one": "buyers, sellers no-group",
			"JoinGroup": "buyers, sellers no-group", "Heartbeat": "buyers, sellers no-group", "SyncGroup": "buyers, sellers no-group", "LeaveGroup": "buyers, sellers no-group",
			"DescribeGroups": "buyers, sellers no-group", "ConsumerGroupDescribe": "buyers, sellers no-group", "ListGroups": "buyers",
		}},
		"to act for the cluster": {[]string{"allow User:alice cluster_action cluster kafka-cluster", "deny User:alice describe topic orders"}, map[string]string{"OffsetForLeaderEpoch": "carts, nowhere, orders"}},
		"to list groups":         {[]string{"allow User:alice describe cluster kafka-cluster"}, map[string]string{"ListGroups": "buyers, sellers"}},
		"to write one topic": {[]string{"allow User:alice write topic car*"}, map[string]string{
			"Metadata of all topics": "carts id", "Metadata by name": "carts id, nowhere no-id no-topic, orders no-id no-topic", "Metadata by id": "- id of orders unknown-id, - id unknown-id, carts id",
			"Produce": "carts, orders no-topic", "Produce by id": "carts, orders unknown-id", "Fetch by id": "carts no-topic to -1, orders unknown-id", "ListOffsets": "carts, nowhere no-topic, orders no-topic", "OffsetForLeaderEpoch": "carts, nowhere no-topic, orders no-topic", "InitProducerId": "",
		}},
		"to look": {[]string{"allow User:* describe topic *", "allow User:* describe group *", "allow User:* describe cluster kafka-cluster", "allow User:* idempotent_write cluster kafka-cluster", "allow User:* alter_configs topic orders"}, map[string]string{
			"Metadata of all topics": "carts id, orders id", "Metadata by name": "carts id, nowhere no-id, orders id", "Metadata by id": "- id unknown-id, carts id, orders id", "ListOffsets": "carts, nowhere, orders", "OffsetForLeaderEpoch": "carts, nowhere, orders",
			"OffsetFetch": "buyers, buyers carts, buyers orders, sellers, sellers carts, sellers orders", "OffsetFetch by id": "buyers, buyers carts, buyers orders, sellers, sellers carts, sellers orders",
			"OffsetFetch of all": "buyers, buyers carts, buyers orders, sellers, sellers carts, sellers orders",
			"OffsetFetch of one": "v1, v1 carts, v1 orders, v7, v7 carts, v7 orders",
			"FindCoordinator":    "buyers, sellers", "FindCoordinator of one": "buyers, sellers", "DescribeGroups": "buyers, sellers", "ConsumerGroupDescribe": "buyers, sellers",
			"ListGroups": "buyers, sellers", "InitProducerId": "", "DescribeConfigs": "carts no-topic false, orders true",
			"Produce by id": "carts no-topic, orders no-topic", "Fetch by id": "carts no-topic to -1, orders no-topic to -1",
			"AlterConfigs": "carts no-topic, nowhere no-topic, orders", "IncrementalAlterConfigs": "carts no-topic, orders",
		}},
		"to use a transactional id": {[]string{"allow User:alice write transactional_id app-*"}, map[string]string{
			"FindCoordinator of transactions": "app-1, app-1, job-1 no-transaction, job-1 no-transaction", "InitProducerId of a transaction": "app-1, job-1 no-transaction",
			"AddPartitionsToTxn": "app-1 carts of 1 no-topic, app-1 carts of 2 no-topic, app-1 orders of 1 no-topic, app-1 orders of 2 no-topic, " +
				"job-1 carts of 1 no-transaction, job-1 carts of 2 no-transaction, job-1 orders of 1 no-transaction, job-1 orders of 2 no-transaction",
			"AddOffsetsToTxn": "app-1 buyers no-group, app-1 sellers no-group, job-1 buyers no-transaction, job-1 sellers no-transaction",
			"TxnOffsetCommit": "app-1 buyers carts no-group, app-1 buyers orders no-group, app-1 sellers carts no-group, app-1 sellers orders no-group, " +
				"job-1 buyers carts no-transaction, job-1 buyers orders no-transaction, job-1 sellers carts no-transaction, job-1 sellers orders no-transaction",
			"EndTxn": "app-1, job-1 no-transaction", "Produce in a transaction": "app-1 carts no-topic, app-1 orders no-topic, job-1 carts no-transaction, job-1 orders no-transaction",
		}},
		"to write a topic in a transaction": {[]string{"allow User:alice write transactional_id app-1", "allow User:alice write topic orders", "allow User:alice describe transactional_id job-1"}, map[string]string{
			"FindCoordinator of transactions": "app-1, app-1, job-1, job-1", "InitProducerId of a transaction": "app-1, job-1 no-transaction",
			"AddPartitionsToTxn": "app-1 carts of 1 no-topic, app-1 carts of 2 no-topic, app-1 orders of 1, app-1 orders of 2 not-attempted, " +
				"job-1 carts of 1 no-transaction, job-1 carts of 2 no-transaction, job-1 orders of 1 no-transaction, job-1 orders of 2 no-transaction",
			"AddOffsetsToTxn": "app-1 buyers no-group, app-1 sellers no-group, job-1 buyers no-transaction, job-1 sellers no-transaction",
			"TxnOffsetCommit": "app-1 buyers carts no-group, app-1 buyers orders no-group, app-1 sellers carts no-group, app-1 sellers orders no-group, " +
				"job-1 buyers carts no-transaction, job-1 buyers orders no-transaction, job-1 sellers carts no-transaction, job-1 sellers orders no-transaction",
			"EndTxn": "app-1, job-1 no-transaction", "Produce in a transaction": "app-1 carts no-topic, app-1 orders, job-1 carts no-transaction, job-1 orders no-transaction",
			"Metadata of all topics": "orders id", "Metadata by name": "carts no-id no-topic, nowhere no-id no-topic, orders id", "Metadata by id": "- id of carts unknown-id, - id unknown-id, orders id",
			"Produce": "carts no-topic, orders", "Produce by id": "carts unknown-id, orders", "Fetch by id": "carts unknown-id, orders no-topic to -1", "ListOffsets": "carts no-topic, nowhere no-topic, orders", "OffsetForLeaderEpoch": "carts no-topic, nowhere no-topic, orders", "InitProducerId": "",
		}},
		"to read a group in a transaction": {[]string{"allow User:alice all transactional_id *", "allow User:alice read group buyers", "allow User:alice read topic orders"}, map[string]string{
			"FindCoordinator of transactions": "app-1, app-1, job-1, job-1", "InitProducerId of a transaction": "app-1, job-1",
			"AddPartitionsToTxn": "app-1 carts of 1 no-topic, app-1 carts of 2 no-topic, app-1 orders of 1 no-topic, app-1 orders of 2 no-topic, " +
				"job-1 carts of 1 no-topic, job-1 carts of 2 no-topic, job-1 orders of 1 no-topic, job-1 orders of 2 no-topic",
			"AddOffsetsToTxn": "app-1 buyers, app-1 sellers no-group, job-1 buyers, job-1 sellers no-group",
			"TxnOffsetCommit": "app-1 buyers carts no-topic, app-1 buyers orders, app-1 sellers carts no-group, app-1 sellers orders no-group, " +
				"job-1 buyers carts no-topic, job-1 buyers orders, job-1 sellers carts no-group, job-1 sellers orders no-group",
			"EndTxn": "app-1, job-1", "Produce in a transaction": "app-1 carts no-topic, app-1 orders no-topic, job-1 carts no-topic, job-1 orders no-topic",
			"Metadata of all topics": "orders id", "Metadata by name": "carts no-id no-topic, nowhere no-id no-topic, orders id", "Metadata by id": "- id of carts unknown-id, - id unknown-id, orders id",
			"Produce by id": "carts unknown-id, orders no-topic", "Fetch": "carts no-topic to -1, nowhere no-topic to -1, orders", "Fetch by id": "carts unknown-id, orders", "ListOffsets": "carts no-topic, nowhere no-topic, orders", "OffsetForLeaderEpoch": "carts no-topic, nowhere no-topic, orders",
			"OffsetCommit":           "buyers carts no-topic, buyers orders, sellers carts no-group, sellers orders no-group",
			"OffsetCommit by id":     "buyers carts unknown-id, buyers orders, sellers carts no-group, sellers orders no-group",
			"OffsetFetch":            "buyers, buyers carts no-topic, buyers orders, sellers no-group",
			"OffsetFetch by id":      "buyers, buyers carts unknown-id, buyers orders, sellers no-group",
			"OffsetFetch of all":     "buyers, buyers orders, sellers no-group",
			"OffsetFetch of one":     "v1, v1 carts no-topic, v1 orders, v7, v7 carts no-topic, v7 orders",
			"ConsumerGroupHeartbeat": "carts: buyers no-topic, sellers no-group, orders: buyers, sellers no-group",
			"FindCoordinator":        "buyers, sellers no-group", "FindCoordinator of one": "buyers, sellers no-group",
			"JoinGroup": "buyers, sellers no-group", "Heartbeat": "buyers, sellers no-group", "SyncGroup": "buyers, sellers no-group", "LeaveGroup": "buyers, sellers no-group",
			"DescribeGroups": "buyers, sellers no-group", "ConsumerGroupDescribe": "buyers, sellers no-group", "ListGroups": "buyers",
		}},
		"to create one topic":           {[]string{"allow User:alice create topic now*"}, map[string]string{"CreateTopics": "carts no-topic settings -1, nowhere settings no-topic -1, orders no-topic settings -1"}},
		"to create topics":              {[]string{"allow User:alice create cluster kafka-cluster"}, map[string]string{"CreateTopics": "carts settings -1, nowhere settings no-topic -1, orders settings -1"}},
		"to create one and be told how": {[]string{"allow User:alice create topic nowhere", "allow User:alice describe_configs topic nowhere"}, map[string]string{"CreateTopics": "carts no-topic settings -1, nowhere settings 1, orders no-topic settings -1"}},
		"to create, but not this one":   {[]string{"allow User:alice create topic *", "deny User:alice create topic nowhere"}, map[string]string{"CreateTopics": "carts settings -1, nowhere no-topic settings -1, orders settings -1"}},
	} {
		t.Run(name, func(t *testing.T) {
			alice.t = t
			l.set(t, "east", c.list...)
			for _, q := range alice.questions() {
				want, ok := c.want[q.name]
				if !ok {
					want = refusedAll[q.name]
				}
				if got := q.ask(); strings.TrimSpace(got) != strings.TrimSpace(want) {
					t.Errorf("%s:\n%s\n%s", q.name, got, want)
				}
			}
			l.told()
		})
	}
	l.set(t, "east", "deny User:alice read topic orders")
	_ = alice.fetch(12)()
	if got := l.told(); !strings.Contains(got, "User:alice READ TOPIC orders at east: denied by the entry deny read on topic orders to User:alice from *") {
		t.Errorf("told: %s", got)
	}
	_ = alice.allTopics()
	if got := l.told(); got != "" {
		t.Errorf("a list is no attempt: %s", got)
	}
}

// refusedAll is what who may do nothing is answered.
var refusedAll = map[string]string{
	"Metadata of all topics": "", "Metadata by name": "carts no-id no-topic, nowhere no-id no-topic, orders no-id no-topic", "Metadata by id": "- id of carts unknown-id, - id of orders unknown-id, - id unknown-id",
	"Produce": "carts no-topic, orders no-topic", "Produce by id": "carts unknown-id, orders unknown-id",
	"Fetch": "carts no-topic to -1, nowhere no-topic to -1, orders no-topic to -1", "Fetch by id": "carts unknown-id, orders unknown-id", "ListOffsets": "carts no-topic, nowhere no-topic, orders no-topic", "OffsetForLeaderEpoch": "carts no-topic, nowhere no-topic, orders no-topic",
	"OffsetCommit":       "buyers carts no-group, buyers orders no-group, sellers carts no-group, sellers orders no-group",
	"OffsetCommit by id": "buyers carts no-group, buyers orders no-group, sellers carts no-group, sellers orders no-group",
	"OffsetFetch":        "buyers no-group, sellers no-group", "OffsetFetch by id": "buyers no-group, sellers no-group", "OffsetFetch of all": "buyers no-group, sellers no-group",
	"OffsetFetch of one": "v1, v1 carts no-group, v1 orders no-group, v7 no-group",
	"FindCoordinator":    "buyers no-group, sellers no-group", "FindCoordinator of one": "buyers no-group, sellers no-group",
	"JoinGroup": "buyers no-group, sellers no-group", "Heartbeat": "buyers no-group, sellers no-group", "SyncGroup": "buyers no-group, sellers no-group", "LeaveGroup": "buyers no-group, sellers no-group",
	"DescribeGroups": "buyers no-group, sellers no-group", "ConsumerGroupDescribe": "buyers no-group, sellers no-group", "ListGroups": "", "InitProducerId": "no-cluster",
	"DescribeConfigs": "carts no-topic false, orders no-topic false", "ConsumerGroupHeartbeat": "carts: buyers no-group, sellers no-group, orders: buyers no-group, sellers no-group",
	"FindCoordinator of transactions": "app-1 no-transaction, app-1 no-transaction, job-1 no-transaction, job-1 no-transaction", "InitProducerId of a transaction": "app-1 no-transaction, job-1 no-transaction",
	"AddPartitionsToTxn": "app-1 carts of 1 no-transaction, app-1 carts of 2 no-transaction, app-1 orders of 1 no-transaction, app-1 orders of 2 no-transaction, " +
		"job-1 carts of 1 no-transaction, job-1 carts of 2 no-transaction, job-1 orders of 1 no-transaction, job-1 orders of 2 no-transaction",
	"AddOffsetsToTxn": "app-1 buyers no-transaction, app-1 sellers no-transaction, job-1 buyers no-transaction, job-1 sellers no-transaction",
	"TxnOffsetCommit": "app-1 buyers carts no-transaction, app-1 buyers orders no-transaction, app-1 sellers carts no-transaction, app-1 sellers orders no-transaction, " +
		"job-1 buyers carts no-transaction, job-1 buyers orders no-transaction, job-1 sellers carts no-transaction, job-1 sellers orders no-transaction",
	"EndTxn": "app-1 no-transaction, job-1 no-transaction", "Produce in a transaction": "app-1 carts no-transaction, app-1 orders no-transaction, job-1 carts no-transaction, job-1 orders no-transaction",
	"CreateTopics": "carts no-topic settings -1, nowhere no-topic settings -1, orders no-topic settings -1",
	"AlterConfigs": "carts no-topic, nowhere no-topic, orders no-topic", "IncrementalAlterConfigs": "carts no-topic, orders no-topic",
}

// A real library writes and reads what it may, after its rights were taken away and given
// back too.
func TestALibraryMayWhatItsListSays(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read)
	}})
	l.set(t, "east", "allow User:alice write topic orders", "allow User:alice read topic orders", "allow User:alice read group buyers")
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.Addrs...), kgo.SASL(kgoLogins[authentication.ScramSHA256]("alice", "alice's")), kgo.DefaultProduceTopic("orders"),
		kgo.ConsumerGroup("buyers"), kgo.ConsumeTopics("orders"), kgo.MetadataMinAge(10*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	write := func() error { return cl.ProduceSync(within(t, soon), kgo.StringRecord("one")).FirstErr() }
	if err := write(); err != nil {
		t.Fatal(err)
	}
	read := 0
	for ctx := within(t, soon); read < 1 && ctx.Err() == nil; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		read += fetches.NumRecords()
	}
	l.set(t, "east", "allow User:alice read topic orders", "allow User:alice read group buyers")
	if err := write(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("without the right to write: %v", err)
	}
	l.set(t, "east", "allow User:alice all topic orders", "allow User:alice read group buyers")
	gatewaytest.Eventually(t, "it writes again", func() bool { return write() == nil })
}

// A virtual topic id is made of the name, which anybody may guess. To who may not know of the
// topic it is told byte for byte what is told of an id that stands for nothing.
func TestAGuessedIDTellsNothing(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read, "User:bob")
	}})
	l.set(t, "east", "allow User:alice read group buyers", "allow User:alice read topic carts")
	guessed, invented := w.Topology.TopicID("orders"), w.Topology.TopicID("nowhere")
	asked := map[string]func(id [16]byte) kmsg.Request{
		"Metadata": func(id [16]byte) kmsg.Request {
			req := kmsg.NewPtrMetadataRequest()
			req.Version, req.Topics = 12, []kmsg.MetadataRequestTopic{{TopicID: id}}
			return req
		},
		"Produce": func(id [16]byte) kmsg.Request {
			req := produceRequest("", nil)
			req.Version, req.Topics[0].TopicID = 13, id
			return req
		},
		"Fetch": func(id [16]byte) kmsg.Request {
			req := kmsg.NewPtrFetchRequest()
			req.Version, req.ReplicaID, req.SessionEpoch, req.MaxBytes = 16, -1, -1, 1<<20
			topic, p := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
			p.FetchOffset, p.PartitionMaxBytes = 3, 1<<20
			topic.TopicID, topic.Partitions = id, append(topic.Partitions, p)
			req.Topics = append(req.Topics, topic)
			return req
		},
		"OffsetCommit": func(id [16]byte) kmsg.Request {
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Version, req.Group, req.Generation = 10, "buyers", -1
			topic := kmsg.NewOffsetCommitRequestTopic()
			topic.TopicID, topic.Partitions = id, append(topic.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
			req.Topics = append(req.Topics, topic)
			return req
		},
		"OffsetFetch": func(id [16]byte) kmsg.Request {
			req := kmsg.NewPtrOffsetFetchRequest()
			group := kmsg.NewOffsetFetchRequestGroup()
			group.Group, group.MemberEpoch = "buyers", -1
			group.Topics = []kmsg.OffsetFetchRequestGroupTopic{{TopicID: id, Partitions: []int32{0}}}
			req.Version, req.Groups = 10, append(req.Groups, group)
			return req
		},
	}
	conns := map[string]*conn.Conn{"alice": login(t, w.Addrs[0], "alice", "alice's"), "bob": login(t, w.Addrs[0], "bob", "bob's")}
	for name, request := range asked {
		answer := func(who string, id [16]byte) string {
			req := request(id)
			body := do[kmsg.Response](t, conns[who], req).AppendTo(nil)
			return string(bytes.ReplaceAll(body, id[:], make([]byte, 16)))
		}
		if guess, invention := answer("alice", guessed), answer("alice", invented); guess != invention {
			t.Errorf("%s: %q of a guess, %q of an invention", name, guess, invention)
		}
		if guess, invention := answer("bob", guessed), answer("bob", invented); guess == invention {
			t.Errorf("%s: nobody is told of the topic", name)
		}
	}
}

// While a list was never read nobody but super users may do anything, and is told to come
// again, not that it may not.
func TestAListThatWasNeverRead(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	l.fault = errors.New("the site does not answer")
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Group: namesTransactions, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read, "User:bob")
		c.Router.Administration = router.TopicAdministration
	}})
	names := []string{"orders"}
	alice := &asker{t: t, conn: login(t, w.Addrs[0], "alice", "alice's"), ids: virtualIDs(w, names), topics: names, groups: []string{"buyers"}, transactions: someTransactions[:1]}
	bob := &asker{t: t, conn: login(t, w.Addrs[0], "bob", "bob's"), ids: alice.ids, topics: names, groups: alice.groups}
	if got := bob.produce(9)(); got != "orders" {
		t.Errorf("a super user: %s", got)
	}
	for q, want := range map[string]string{
		"Metadata of all topics": "", "Metadata by name": "nowhere no-id later, orders no-id later", "Produce": "orders later", "Fetch": "nowhere later, orders later", "ListOffsets": "nowhere later, orders later", "OffsetForLeaderEpoch": "nowhere later, orders later",
		"OffsetCommit": "buyers orders later", "OffsetFetch": "buyers later", "JoinGroup": "buyers later", "Heartbeat": "buyers rejoin", "SyncGroup": "buyers rejoin", "LeaveGroup": "buyers later",
		"DescribeGroups": "buyers later", "ListGroups": " later", "InitProducerId": " later", "DescribeConfigs": "orders later false", "ConsumerGroupHeartbeat": "orders: buyers later",
		"FindCoordinator of transactions": "app-1 later, app-1 later", "InitProducerId of a transaction": "app-1 later", "AddPartitionsToTxn": "app-1 orders of 1 later, app-1 orders of 1 later",
		"AddOffsetsToTxn": "app-1 buyers later", "TxnOffsetCommit": "app-1 buyers orders later", "EndTxn": "app-1 later", "Produce in a transaction": "app-1 orders later",
		"CreateTopics": "nowhere later settings -1, orders later settings -1", "AlterConfigs": "nowhere later, orders later", "IncrementalAlterConfigs": "orders later",
	} {
		for _, one := range alice.questions() {
			if one.name == q {
				if got := one.ask(); got != want {
					t.Errorf("%s: %q, not %q", q, got, want)
				}
			}
		}
	}
	if got := l.told(); got != "" {
		t.Errorf("told as denials: %s", got)
	}
	l.set(t, "east", "allow User:alice all topic orders")
	if got := alice.produce(9)(); got != "orders" {
		t.Errorf("after it was read: %s", got)
	}
	l.fail(t, errors.New("the site is away"))
	if got := alice.produce(9)(); got != "orders" {
		t.Errorf("while the site is away: %s", got)
	}
}

// A batch that comes to a gateway that has never read the list of the site which is away waits
// for the failover as any does, and what the next site's list says counts then.
func TestBatchesWaitForTheListOfTheNextSite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		list []string
		id   string
		want int16
	}{
		"it may":                     {[]string{"allow User:alice write topic orders"}, "", 0},
		"it may not":                 {nil, "", kerr.TopicAuthorizationFailed.Code},
		"it may not use its id":      {[]string{"allow User:alice write topic orders"}, "app-1", kerr.TransactionalIDAuthorizationFailed.Code},
		"nor write in a transaction": {[]string{"allow User:alice write transactional_id app-1"}, "app-1", kerr.TopicAuthorizationFailed.Code},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, l := newFront(t), newLists()
			w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}, Group: namesTransactions, Gateway: func(c *federation.Config) {
				f.ask(c, 0, authentication.ScramSHA256)
				l.authorize(c, func(_ context.Context, site spillway.SiteID) ([]spillway.ACL, error) {
					if site == "east" {
						return nil, errors.New("the site is away")
					}
					return l.at(site)
				})
				c.Router.HoldMax = time.Minute
			}})
			l.set(t, "west", c.list...)
			alice := login(t, w.Addrs[0], "alice", "alice's")
			write := func() int16 {
				req := produceRequest("orders", func(h *batch.Header) {
					if c.id != "" {
						h.Attributes, h.ProducerID, h.ProducerEpoch, h.BaseSequence = h.Attributes|batch.AttributeTransactional, nobody, 0, 0
					}
				})
				if req.TimeoutMillis = 60_000; c.id != "" {
					req.TransactionID = &c.id
				}
				return do[*kmsg.ProduceResponse](t, alice, req).Topics[0].Partitions[0].ErrorCode
			}
			if code := write(); code != kerr.NotLeaderForPartition.Code {
				t.Errorf("while the site serves: %v", kerr.ErrorForCode(code))
			}
			w.Fence("west", failover.Failover)
			done := make(chan int16, 1)
			go func() { done <- write() }()
			select {
			case code := <-done:
				t.Fatalf("nobody waited: %v", kerr.ErrorForCode(code))
			case <-time.After(50 * time.Millisecond):
			}
			w.Open(0, 0)
			if code := <-done; code != c.want {
				t.Errorf("%v, want %v", kerr.ErrorForCode(code), kerr.ErrorForCode(c.want))
			}
		})
	}
}

// The list of the site that serves counts, before and after a move.
func TestRightsAreThoseOfTheSiteThatServes(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, func(_ context.Context, site spillway.SiteID) ([]spillway.ACL, error) { return l.at(site) })
	}})
	l.set(t, "east", "allow User:alice write topic orders")
	l.set(t, "west", "allow User:alice read topic orders")
	names := []string{"orders"}
	alice := &asker{t: t, conn: login(t, w.Addrs[0], "alice", "alice's"), ids: virtualIDs(w, names), topics: names, groups: []string{"buyers"}}
	if w, r := alice.produce(9)(), alice.fetch(12)(); w != "orders" || r != "nowhere no-topic to -1, orders no-topic to -1" {
		t.Errorf("before: %s; %s", w, r)
	}
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	if w, r := alice.produce(9)(), alice.fetch(12)(); w != "orders no-topic" || r != "nowhere no-topic to -1, orders" {
		t.Errorf("after: %s; %s", w, r)
	}
}

// The fence of a move is about gateways: it makes no topic one that only some may use.
func TestTheFenceIsNoEntry(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{
		Topics: map[string]int32{"orders": 1, "carts": 1}, Site: func(s *spillway.Site) { s.GatewayPrincipal = "User:gateway" },
		Gateway: func(c *federation.Config) {
			f.ask(c, 0, authentication.ScramSHA256)
			l.authorize(c, l.read)
			c.Authorization.AllowUnlisted = true
		},
	})
	names := []string{"carts", "orders"}
	alice := &asker{t: t, conn: login(t, w.Addrs[0], "alice", "alice's"), ids: virtualIDs(w, names), topics: names}
	l.set(t, "east", "deny User:gateway write topic orders", "deny User:other write topic carts")
	if got := alice.produce(9)(); got != "carts no-topic, orders" {
		t.Error(got)
	}
	l.set(t, "east", "deny User:gateway write topic orders", "deny User:gateway read topic orders")
	if got := alice.produce(9)(); got != "carts, orders no-topic" {
		t.Errorf("what is no fence: %s", got)
	}
}

// The first client finds the lists read: no gateway is laid out before.
func TestClientsWaitForTheFirstLists(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	l.sites["east"] = []spillway.ACL{{Resource: "TOPIC", Pattern: "LITERAL", Name: "orders", Principal: "User:alice", Host: "*", Operation: "WRITE", Permission: "ALLOW"}}
	leased := make(chan struct{}, 1)
	var first sync.Once
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, func(_ context.Context, site spillway.SiteID) ([]spillway.ACL, error) {
			first.Do(func() {
				select {
				case <-leased:
					t.Error("the gateway has its lease before anybody knows what clients may do")
				case <-time.After(200 * time.Millisecond): // it would have it in no time
				}
			})
			return l.at(site)
		})
		c.Authorization.FirstMax = time.Hour // a machine that stands still makes nobody go on
		told := c.Events.LeaseState
		c.Events.LeaseState = func(err error) {
			if err == nil {
				select {
				case leased <- struct{}{}:
				default:
				}
			}
			if told != nil {
				told(err)
			}
		}
	}})
	alice := &asker{t: t, conn: login(t, w.Addrs[0], "alice", "alice's"), topics: []string{"orders"}}
	if got := alice.produce(9)(); got != "orders" {
		t.Error(got)
	}
}

// A site that says nothing holds a gateway up for a moment, and the gateway says so.
func TestNobodyWaitsLongForTheFirstLists(t *testing.T) {
	t.Parallel()
	f, l, told := newFront(t), newLists(), make(chan string, 100)
	began := time.Now()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, func(ctx context.Context, _ spillway.SiteID) ([]spillway.ACL, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "User:bob")
		c.Authorization.FirstMax = 300 * time.Millisecond
		c.Events.Problem = func(what string, err error) {
			select {
			case told <- fmt.Sprint(what, ": ", err):
			default:
			}
		}
	}})
	bob := &asker{t: t, conn: login(t, w.Addrs[0], "bob", "bob's"), topics: []string{"orders"}}
	if got := bob.produce(9)(); got != "orders" {
		t.Errorf("a super user: %s", got)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("nobody waited: %s", took)
	}
	var lease layout.GatewayLease
	if e, err := w.Store.Get(t.Context(), w.Keys.Gateway("gateway-1")); err != nil || json.Unmarshal(e.Value, &lease) != nil {
		t.Fatal(err)
	}
	if len(lease.RightsUnread) != 1 || lease.RightsUnread[0] != "east" {
		t.Errorf("its lease tells of %q", lease.RightsUnread)
	}
	for ctx := within(t, soon); ; {
		select {
		case one := <-told:
			if strings.Contains(one, "know what clients may do before they come: within 300ms no access control list came from site east;") {
				return
			}
		case <-ctx.Done():
			t.Fatal("it was not said")
		}
	}
}

// A site that serves nothing holds no gateway up: its list may come later, as it is away.
func TestNobodyWaitsForTheListOfAStandby(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, func(ctx context.Context, site spillway.SiteID) ([]spillway.ACL, error) {
			if site == "west" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return l.at(site)
		}, "User:bob")
		c.Authorization.FirstMax = time.Hour // far beyond the test's patience
	}})
	bob := &asker{t: t, conn: login(t, w.Addrs[0], "bob", "bob's"), topics: []string{"orders"}}
	if got := bob.produce(9)(); got != "orders" {
		t.Errorf("a super user: %s", got)
	}
	// A request for what that site serves after all is to come again.
	w.Fence("west", failover.Failover)
	w.Open(0, 0)
	alice := &asker{t: t, conn: login(t, w.Addrs[0], "alice", "alice's"), topics: []string{"orders"}}
	if got := alice.byName(); !strings.Contains(got, "orders no-id later") {
		t.Errorf("after a failover: %s", got)
	}
}

// A gateway that begins while the store does not answer knows of no site that serves anything:
// it refuses nobody for good.
func TestAGatewayWithoutAStoreRefusesNobody(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read)
	}})
	w.Store.Fail(func(coordtest.Moment, []coordination.Op) error { return errors.New("the store is away") })
	w.StartGateway("gateway-2")
	alice := &asker{t: t, conn: login(t, w.Addrs[1], "alice", "alice's"), topics: []string{"orders"}, groups: []string{"buyers"}}
	for name, ask := range map[string]func() string{"InitProducerId": alice.initProducerID, "Metadata": alice.byName, "JoinGroup": alice.join} {
		if got := ask(); !strings.Contains(got, " later") || strings.Contains(got, "no-topic") {
			t.Errorf("%s: %q", name, got)
		}
	}
	w.Store.Fail(nil)
	gatewaytest.Eventually(t, "it knows that alice may nothing", func() bool { return alice.initProducerID() == " no-cluster" })
}

// beater is a member of the new group protocol.
type beater struct {
	conn  *conn.Conn
	names map[[16]byte]string
	epoch int32
	owned []kmsg.ConsumerGroupHeartbeatRequestTopic
}

func newBeater(w *gatewaytest.World, c *conn.Conn, topics ...string) *beater {
	b := &beater{conn: c, names: make(map[[16]byte]string), owned: []kmsg.ConsumerGroupHeartbeatRequestTopic{}}
	for _, name := range topics {
		b.names[w.Topology.TopicID(name)] = name
	}
	return b
}

// beat says all that the member wants, and tells its topics.
func (b *beater) beat(t *testing.T, expression string, names ...string) (string, *kmsg.ConsumerGroupHeartbeatResponse) {
	t.Helper()
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, "buyers", "bWVtYmVyLW9uZS1vbmUxMQ", b.epoch, 10_000
	req.Topics, req.SubscribedTopicNames, req.SubscribedTopicRegex = b.owned, append([]string{}, names...), &expression
	resp := do[*kmsg.ConsumerGroupHeartbeatResponse](t, b.conn, req)
	if resp.ErrorCode != 0 {
		return kerr.ErrorForCode(resp.ErrorCode).Error(), resp
	}
	if b.epoch = resp.MemberEpoch; resp.Assignment != nil {
		b.owned = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for _, topic := range resp.Assignment.Topics {
			b.owned = append(b.owned, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: topic.TopicID, Partitions: topic.Partitions})
		}
	}
	var reads []string
	for _, topic := range b.owned {
		reads = append(reads, fmt.Sprint(b.names[topic.TopicID], len(topic.Partitions)))
	}
	return sorted(reads), resp
}

// Where rights are looked at nobody joins by an expression, whatever it may describe, and is told
// why; a member of names that turns to one keeps them.
func TestNobodySubscribesByAnExpression(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"carts": 2, "orders": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read)
	}})
	l.set(t, "east", "allow User:alice read group buyers", "allow User:alice all topic *")
	alice := newBeater(w, login(t, w.Addrs[0], "alice", "alice's"), "carts", "orders")
	refused := func(when string, names ...string) {
		t.Helper()
		got, resp := alice.beat(t, "ord.*", names...)
		if resp.ErrorCode != kerr.InvalidRequest.Code || !strings.Contains(nameOf(resp.ErrorMessage), "gateway.authorization.rules") || !strings.Contains(nameOf(resp.ErrorMessage), "by names") {
			t.Errorf("%s: %s, %q", when, got, nameOf(resp.ErrorMessage))
		}
	}
	refused("as it joins")
	gatewaytest.Eventually(t, "it joins by names", func() bool { got, _ := alice.beat(t, "", "carts"); return got == "carts2" })
	refused("later", "carts")
	if got, _ := alice.beat(t, "", "carts"); got != "carts2" {
		t.Errorf("after that it reads %q", got)
	}
}

// Where rights are not looked at the site's coordinator has the expression.
func TestExpressionsAreTheSitesWithoutRules(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"carts": 2, "orders": 1}, Gateway: func(c *federation.Config) { f.ask(c, 0, authentication.ScramSHA256) }})
	alice := newBeater(w, login(t, w.Addrs[0], "alice", "alice's"), "carts", "orders")
	gatewaytest.Eventually(t, "it reads what matches", func() bool { got, _ := alice.beat(t, "ord.*"); return got == "orders1" })
}

// Of a topic whose partitions live at several sites each is decided about by its own site.
func TestRightsOfSiblings(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 2}, Spread: 1,
		Gateway: func(c *federation.Config) {
			f.ask(c, 0, authentication.ScramSHA256)
			l.authorize(c, func(_ context.Context, site spillway.SiteID) ([]spillway.ACL, error) { return l.at(site) })
		},
	})
	c := login(t, w.Addrs[0], "alice", "alice's")
	l.set(t, "east", "allow User:alice read topic orders")
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = 7
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = "orders"
	for p := range int32(2) {
		one := kmsg.NewListOffsetsRequestTopicPartition()
		one.Partition, one.Timestamp = p, -2
		topic.Partitions = append(topic.Partitions, one)
	}
	req.Topics = append(req.Topics, topic)
	var refused []string
	for _, p := range do[*kmsg.ListOffsetsResponse](t, c, req).Topics[0].Partitions {
		refused = append(refused, refusal(p.ErrorCode))
	}
	if fmt.Sprintf("%q", refused) != `["" " no-topic"]` {
		t.Errorf("%q", refused)
	}
}

// A batch of an unordered group is written at no site whose list does not allow it, though
// it could be written there, and refused only where none does.
func TestBatchesAreWrittenWhereTheListAllows(t *testing.T) {
	t.Parallel()
	for _, balance := range []string{spillway.HomeFirst, string(lb.RoundRobin)} {
		t.Run(balance, func(t *testing.T) {
			t.Parallel()
			f, l := newFront(t), newLists()
			var read atomic.Bool // at west
			w := spreadAs(t, gatewaytest.Options{
				Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"clicks": 4}, Balance: balance,
				Gateway: func(c *federation.Config) {
					f.ask(c, 0, authentication.ScramSHA256)
					l.authorize(c, func(_ context.Context, site spillway.SiteID) ([]spillway.ACL, error) {
						if site == "west" && !read.Load() {
							return nil, errors.New("the site is away")
						}
						return l.at(site)
					})
					c.Router.HoldMax = 300 * time.Millisecond
				},
			})
			alice := login(t, w.Addrs[0], "alice", "alice's")
			write := func(partition int32) int16 {
				req := produceRequest("clicks", nil)
				req.Topics[0].Partitions[0].Partition = partition
				return do[*kmsg.ProduceResponse](t, alice, req).Topics[0].Partitions[0].ErrorCode
			}
			if code := write(0); code != kerr.NotLeaderForPartition.Code {
				t.Errorf("while nobody knows of one site: %v", kerr.ErrorForCode(code))
			}
			read.Store(true)
			l.set(t, "west", "allow User:alice write topic clicks")
			gatewaytest.Eventually(t, "the list of west is read", func() bool { return write(0) == 0 })
			for range 4 {
				if code := write(0); code != 0 {
					t.Errorf("with the right at one site: %v", kerr.ErrorForCode(code))
				}
			}
			if n := len(w.at(t, "west", 2)); n != 10 {
				t.Errorf("%d records where the client may write", n)
			}
			w.SetShareOf(westShare, fence)
			gatewaytest.Eventually(t, "what may be written at a site that moves is held", func() bool { return write(0) == kerr.NotLeaderForPartition.Code })
			w.want(t, "east", 0)
			if got := l.told(); got != "" {
				t.Errorf("told as denials: %s", got)
			}
			l.set(t, "west", "deny User:alice write topic clicks")
			if code := write(0); code != kerr.TopicAuthorizationFailed.Code {
				t.Errorf("without any right: %v", kerr.ErrorForCode(code))
			}
			if got := l.told(); !strings.Contains(got, "User:alice WRITE TOPIC clicks at east: denied") {
				t.Errorf("told: %s", got)
			}
		})
	}
}
