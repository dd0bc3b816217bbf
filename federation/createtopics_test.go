package federation_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/federation"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/federation/router"
)

// topicWorld is two sites with the topic orders, and a group for what begins with shop-.
func topicWorld(t *testing.T, change func(*gatewaytest.Options)) *gatewaytest.World {
	t.Helper()
	o := gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"shop-orders": 1},
		Group: func(g *spillway.FailoverGroup) { g.Topics = []string{"shop-*"} },
		Gateway: func(c *federation.Config) {
			c.Router.Administration, c.Router.HoldMax = router.TopicAdministration, 500*time.Millisecond
		},
	}
	if change != nil {
		change(&o)
	}
	return gatewaytest.Start(t, o)
}

func newTopic(name string, partitions int32, replicas int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, replicas
	for _, text := range configs {
		key, value, set := strings.Cut(text, "=")
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name = key
		if set {
			c.Value = &value
		}
		rt.Configs = append(rt.Configs, c)
	}
	return rt
}

func createTopics(t *testing.T, c *conn.Conn, topics ...kmsg.CreateTopicsRequestTopic) []kmsg.CreateTopicsResponseTopic {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version, req.TimeoutMillis, req.Topics = 7, 20_000, topics
	return do[*kmsg.CreateTopicsResponse](t, c, req).Topics
}

// shown is what a gateway says of a topic.
func shown(t *testing.T, c *conn.Conn, name string) kmsg.MetadataResponseTopic {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &name
	req.Version, req.Topics = 12, []kmsg.MetadataRequestTopic{rt}
	return do[*kmsg.MetadataResponse](t, c, req).Topics[0]
}

func at(t *testing.T, w *gatewaytest.World, site spillway.SiteID, name string) int {
	t.Helper()
	md, err := w.Direct[site].Metadata(within(t, soon), name)
	if err != nil {
		t.Fatal(err)
	}
	return len(md.Topics[name].Partitions)
}

func audited(t *testing.T, w *gatewaytest.World) (all []failover.AuditEntry) {
	t.Helper()
	entries, err := w.Store.List(within(t, soon), w.Keys.ClientAudits())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var a failover.AuditEntry
		if err := json.Unmarshal(e.Value, &a); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

func underWay(t *testing.T, w *gatewaytest.World) int {
	t.Helper()
	entries, err := w.Store.List(within(t, soon), w.Keys.Topics())
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A client creates topics through one gateway: they are at the site that serves, with what
// it asked for; the answer tells of them, and at once that gateway shows them, and the
// others soon. Who did it is in the audit log.
func TestTopicsAreCreatedThroughAGateway(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, func(o *gatewaytest.Options) { o.Gateways = []spillway.GatewayID{"gateway-1", "gateway-2"} })
	c := raw(t, w.Addrs[0])
	got := createTopics(t, c, newTopic("shop-carts", 3, 1, "retention.ms=12345678"), newTopic("shop-stock", -1, -1), newTopic("other", 1, 1))
	if len(got) != 3 || got[0].ErrorCode != 0 || got[1].ErrorCode != 0 || got[2].ErrorCode != kerr.PolicyViolation.Code {
		t.Fatalf("%+v", got)
	}
	if why := *got[2].ErrorMessage; !strings.Contains(why, "everything (shop-*)") {
		t.Errorf("the refusal does not name the failover groups: %s", why)
	}
	told := ""
	for _, s := range got[0].Configs {
		if s.Name == "retention.ms" {
			told = *s.Value
		}
	}
	md := shown(t, c, "shop-carts")
	if got[0].NumPartitions != 3 || got[0].ReplicationFactor != 1 || told != "12345678" || md.TopicID != got[0].TopicID || len(md.Partitions) != 3 || md.ErrorCode != 0 {
		t.Errorf("told %+v, shown %+v", got[0], md)
	}
	if n := at(t, w, "east", "shop-carts"); n != 3 {
		t.Errorf("the site has %d partitions", n)
	}
	other := raw(t, w.Addrs[1])
	gatewaytest.Eventually(t, "the other gateway shows it", func() bool { return len(shown(t, other, "shop-carts").Partitions) == 3 })
	if code := createTopics(t, other, newTopic("shop-carts", 5, 1))[0].ErrorCode; code != kerr.TopicAlreadyExists.Code {
		t.Errorf("once more: error %d", code)
	}
	log := audited(t, w)
	// No mirror creates topics at the other site here, so their records stay.
	if len(log) != 2 || underWay(t, w) != 2 {
		t.Fatalf("audit %+v, %d changes under way", log, underWay(t, w))
	}
	for _, a := range log {
		if !strings.Contains(a.Who, "at 127.0.0.1, gateway gateway-1") || !strings.Contains(a.What, " is created") {
			t.Errorf("audit %+v", a)
		}
	}
}

// What cannot be, or not at all sites, is refused with the code that clients know, and
// nothing of it is anywhere.
func TestTopicsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	placed := newTopic("shop-placed", -1, -1)
	placed.ReplicaAssignment = append(placed.ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: 0, Replicas: []int32{0}})
	for _, want := range []struct {
		topic kmsg.CreateTopicsRequestTopic
		err   *kerr.Error
		says  string
	}{
		{newTopic("", 1, 1), kerr.InvalidTopicException, "empty"},
		{newTopic("..", 1, 1), kerr.InvalidTopicException, "cannot be"},
		{newTopic("shop-a/b", 1, 1), kerr.InvalidTopicException, "only letters"},
		{newTopic("shop-"+strings.Repeat("x", 245), 1, 1), kerr.InvalidTopicException, "250 characters"},
		{newTopic("__consumer_offsets", 1, 1), kerr.PolicyViolation, "each site alone"},
		{newTopic("__spillway_map", 1, 1), kerr.PolicyViolation, "each site alone"},
		{newTopic("other", 1, 1), kerr.PolicyViolation, "no failover group"},
		{newTopic("shop-orders", 1, 1), kerr.TopicAlreadyExists, "already exists"},
		{newTopic("shop-a", 0, 1), kerr.InvalidPartitions, "-1 for the default"},
		{newTopic("shop-a", -2, 1), kerr.InvalidPartitions, "-1 for the default"},
		{newTopic("shop-a", 10_001, 1), kerr.PolicyViolation, "at most 10000"},
		{newTopic("shop-a", math.MaxInt32, 1), kerr.PolicyViolation, "at most 10000"},
		{newTopic("shop-a", 1, 0), kerr.InvalidReplicationFactor, "-1 for the default"},
		{newTopic("shop-a", 1, 7), kerr.InvalidReplicationFactor, "east"},
		{placed, kerr.InvalidReplicaAssignment, "cannot be placed"},
		{newTopic("shop-a", 1, 1, "retention.ms"), kerr.InvalidConfig, "no value"},
		{newTopic("shop-a", 1, 1, "retention.ms=1", "retention.ms=2"), kerr.InvalidConfig, "twice"},
		{newTopic("shop-a", 1, 1, "min.insync.replicas=2"), kerr.InvalidConfig, "nobody could write"},
		{newTopic("shop-a", 1, 1, "remote.storage.enable=true"), kerr.InvalidConfig, "tiered"},
		{newTopic("shop-a", 1, 1, "unclean.leader.election.enable=true"), kerr.InvalidConfig, "contradicts"},
		{newTopic("shop-a", 1, 1, "leader.replication.throttled.replicas=*"), kerr.InvalidConfig, "brokers"},
		{newTopic("shop-a", 1, 1, "retention.ms="+strings.Repeat("1", 17_000)), kerr.PolicyViolation, "bytes of settings"},
	} {
		got := createTopics(t, c, want.topic)[0]
		if got.ErrorCode != want.err.Code || got.ErrorMessage == nil || !strings.Contains(*got.ErrorMessage, want.says) {
			message := "nothing"
			if got.ErrorMessage != nil {
				message = *got.ErrorMessage
			}
			t.Errorf("%+v: error %d, want %d; told %s", want.topic, got.ErrorCode, want.err.Code, message)
		}
	}
	for _, got := range createTopics(t, c, newTopic("shop-a", 1, 1), newTopic("shop-a", 2, 1)) {
		if got.ErrorCode != kerr.InvalidRequest.Code {
			t.Errorf("named twice: %+v", got)
		}
	}
	many := make([]kmsg.CreateTopicsRequestTopic, 101) // each with the default number of partitions
	for i := range many {
		many[i] = newTopic(fmt.Sprintf("shop-many-%d", i), -1, 1)
	}
	for _, got := range createTopics(t, c, many...) {
		if got.ErrorCode != kerr.PolicyViolation.Code {
			t.Errorf("one of many: %+v", got)
		}
	}
	checked := kmsg.NewPtrCreateTopicsRequest()
	checked.Version, checked.TimeoutMillis, checked.ValidateOnly = 7, 20_000, true
	checked.Topics = []kmsg.CreateTopicsRequestTopic{newTopic("shop-a", 2, 1), newTopic("shop-b", 1, 7)}
	got := do[*kmsg.CreateTopicsResponse](t, c, checked).Topics
	if got[0].ErrorCode != 0 || got[1].ErrorCode != kerr.InvalidReplicationFactor.Code {
		t.Errorf("validated: %+v", got)
	}
	if n := at(t, w, "east", "shop-a"); n > 0 || len(audited(t, w)) > 0 || underWay(t, w) > 0 {
		t.Errorf("%d partitions, audit %+v, %d under way", n, audited(t, w), underWay(t, w))
	}
}

// Two gateways are asked for the same topic at the same time, again and again: one answer
// is success, the other that it exists, and the topic is the winner's.
func TestTwoGatewaysCreateTheSameTopic(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, func(o *gatewaytest.Options) { o.Gateways = []spillway.GatewayID{"gateway-1", "gateway-2"} })
	for round := range 5 {
		name := fmt.Sprintf("shop-%d", round)
		var both sync.WaitGroup
		var codes [2]int16
		for i := range 2 {
			c := raw(t, w.Addrs[i])
			both.Go(func() {
				req := kmsg.NewPtrCreateTopicsRequest()
				req.Version, req.TimeoutMillis = 7, 20_000
				req.Topics = []kmsg.CreateTopicsRequestTopic{newTopic(name, int32(i+1), 1)}
				resp, err := c.DoVersion(within(t, soon), req)
				if err != nil {
					t.Error(err)
					return
				}
				codes[i] = resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode
			})
		}
		both.Wait()
		winner := 0
		if codes[0] != 0 {
			winner = 1
		}
		if codes[winner] != 0 || codes[1-winner] != kerr.TopicAlreadyExists.Code || at(t, w, "east", name) != winner+1 {
			t.Errorf("round %d: errors %v, %d partitions", round, codes, at(t, w, "east", name))
		}
	}
}

// A site that follows is away, even as a black hole: topics are created without it, and
// nobody waits for it. Its mirror creates them when it is back.
func TestTopicsWhileASiteIsAway(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	w.Wires["west"].Cut(true)
	if got := createTopics(t, c, newTopic("shop-carts", 1, 1))[0]; got.ErrorCode != 0 {
		t.Errorf("created: error %d", got.ErrorCode)
	}
}

// The site that serves is away: the client is told that nothing was created, and not where the
// brokers of the site are (promise D). The gateway's log has that.
func TestRefusalsDoNotNameBrokers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var logged []error
	w := topicWorld(t, func(o *gatewaytest.Options) {
		o.Gateway = func(c *federation.Config) {
			c.Router.Administration = router.TopicAdministration
			c.Events.Problem = func(_ string, err error) {
				mu.Lock()
				defer mu.Unlock()
				logged = append(logged, err)
			}
		}
	})
	c := raw(t, w.Addrs[0])
	w.Wires["east"].Cut(true)
	check := func(what string, code int16, message *string) {
		t.Helper()
		if code == 0 || message == nil || strings.Contains(*message, "127.0.0.1") || strings.Contains(*message, "node") {
			t.Errorf("%s: error %d, %v", what, code, message)
		}
	}
	created := createTopics(t, c, newTopic("shop-carts", 1, 1))[0]
	check("created", created.ErrorCode, created.ErrorMessage)
	changed := alter(t, c, "shop-orders", change("retention.ms", kmsg.IncrementalAlterConfigOpSet, "12345678"))
	check("changed", changed.ErrorCode, changed.ErrorMessage)
	mu.Lock()
	defer mu.Unlock()
	if !slices.ContainsFunc(logged, func(err error) bool { return strings.Contains(err.Error(), "east") }) {
		t.Errorf("the log says %v", logged)
	}
}

// A topic that was deleted at each site is not created anew under its name: clients would
// be told offsets of the one for the other.
func TestATopicIsNotCreatedTwice(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	gatewaytest.Eventually(t, "a record is written", func() bool {
		code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("shop-orders", nil)))
		return code == 0
	})
	for _, site := range []spillway.SiteID{"east", "west"} {
		if err := w.Direct[site].Admin().DeleteTopic(within(t, soon), "shop-orders"); err != nil {
			t.Fatal(err)
		}
	}
	if got := createTopics(t, c, newTopic("shop-orders", 1, 1))[0]; got.ErrorCode != kerr.PolicyViolation.Code || !strings.Contains(*got.ErrorMessage, "there was a topic") || at(t, w, "east", "shop-orders") > 0 {
		t.Errorf("%+v", got)
	}
}

// The share moves while settings are changed: the client is not told that it is done.
func TestSettingsThatAMoveOvertakes(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	var once sync.Once
	w.Store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.AfterWrite && slices.ContainsFunc(ops, func(op coordination.Op) bool { return strings.HasPrefix(op.Key, w.Keys.ClientAudits()) }) {
			once.Do(func() {
				w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Fencing, 2, "west" })
			})
		}
		return nil
	})
	got := alter(t, c, "shop-orders", change("retention.ms", kmsg.IncrementalAlterConfigOpSet, "12345678"))
	w.Store.Fail(nil)
	if got.ErrorCode != kerr.NotController.Code || len(audited(t, w)) != 1 {
		t.Errorf("%+v, audit %+v", got, audited(t, w))
	}
}

// What clients may do is said by the configuration: what is not allowed is not in the list
// of what is served, and closes the connection.
func TestAdministrationIsAllowedByLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[router.Administration][]int16{
		router.NoAdministration: nil, router.TopicAdministration: {19, 33, 44},
	} {
		w := topicWorld(t, func(o *gatewaytest.Options) {
			o.Gateway = func(c *federation.Config) { c.Router.Administration = level }
		})
		c := raw(t, w.Addrs[0])
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, "test", "1"
		var listed []int16
		for _, k := range do[*kmsg.ApiVersionsResponse](t, c, req).ApiKeys {
			if slices.Contains([]int16{19, 33, 44}, k.ApiKey) {
				listed = append(listed, k.ApiKey)
			}
		}
		if !slices.Equal(listed, want) {
			t.Errorf("level %d: listed %v, want %v", level, listed, want)
		}
		if level == router.NoAdministration {
			create := kmsg.NewPtrCreateTopicsRequest()
			create.Version, create.Topics = 7, []kmsg.CreateTopicsRequestTopic{newTopic("shop-carts", 1, 1)}
			if _, err := c.DoVersion(within(t, soon), create); err == nil || at(t, w, "east", "shop-carts") > 0 {
				t.Errorf("topics are created all the same: %v", err)
			}
		}
	}
}

// While the share moves a request waits, and is refused so that it is sent again when that
// takes too long.
func TestTopicsWhileAShareMoves(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	w.Fence("west", failover.Switchover) // known to the gateway: a creation that it begins before is nobody's here
	if got := createTopics(t, c, newTopic("shop-carts", 1, 1))[0]; got.ErrorCode != kerr.NotController.Code {
		t.Errorf("while the share moves: %+v", got)
	}
	answer := begun(t, c, func() kmsg.Request {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.Version, req.TimeoutMillis, req.Topics = 7, 20_000, []kmsg.CreateTopicsRequestTopic{newTopic("shop-carts", 1, 1)}
		return req
	}())
	w.SetShare(func(s *failover.Share) { // the move is given up
		s.State, s.Epoch, s.Target = failover.Stable, 3, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	if got := answer().(*kmsg.CreateTopicsResponse).Topics[0]; got.ErrorCode != 0 {
		t.Errorf("%+v", got)
	}
}

// Topics of an unordered group have the partitions that its configuration says.
func TestTopicsOfAnUnorderedGroup(t *testing.T) {
	t.Parallel()
	w := topicWorld(t, func(o *gatewaytest.Options) { o.Spread, o.Topics = 2, map[string]int32{"shop-clicks": 4} })
	c := raw(t, w.Addrs[0])
	if got := createTopics(t, c, newTopic("shop-views", 3, 1))[0]; got.ErrorCode != kerr.InvalidPartitions.Code || !strings.Contains(*got.ErrorMessage, "4 in all") {
		t.Errorf("%+v", got)
	}
	if got := createTopics(t, c, newTopic("shop-views", 4, 1))[0]; got.ErrorCode != 0 || len(shown(t, c, "shop-views").Partitions) != 4 {
		t.Errorf("%+v", got)
	}
}

func alter(t *testing.T, c *conn.Conn, name string, changes ...kmsg.IncrementalAlterConfigsRequestResourceConfig) kmsg.IncrementalAlterConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.Configs = kmsg.ConfigResourceTypeTopic, name, changes
	req.Version, req.Resources = 1, []kmsg.IncrementalAlterConfigsRequestResource{r}
	return do[*kmsg.IncrementalAlterConfigsResponse](t, c, req).Resources[0]
}

func change(key string, op kmsg.IncrementalAlterConfigOp, value string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Op = key, op
	if op != kmsg.IncrementalAlterConfigOpDelete {
		c.Value = &value
	}
	return c
}

// Settings of topics are changed at the site that serves; who did it is in the audit log.
// What is a site's own is refused, or left as it is by a client that does not know of it.
func TestSettingsOfTopicsAreChanged(t *testing.T) {
	t.Parallel()
	const set, reset, add = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend
	w := topicWorld(t, nil)
	c := raw(t, w.Addrs[0])
	there := func() map[string]string {
		t.Helper()
		all, err := w.Direct["east"].Admin().TopicSettings(within(t, soon), []string{"shop-orders"})
		if err != nil {
			t.Fatal(err)
		}
		return all["shop-orders"]
	}
	if got := alter(t, c, "shop-orders", change("retention.ms", set, "12345678"), change("cleanup.policy", set, "compact,delete"), change("min.insync.replicas", set, "1")); got.ErrorCode != 0 {
		t.Fatalf("%+v", got)
	}
	if got := alter(t, c, "shop-orders", change("cleanup.policy", add, "delete"), change("retention.ms", set, "12345678"), change("segment.ms", reset, "")); got.ErrorCode != 0 {
		t.Fatalf("what is so already: %+v", got)
	}
	if got := there(); got["retention.ms"] != "12345678" || got["cleanup.policy"] != "compact,delete" || got["min.insync.replicas"] != "1" {
		t.Errorf("%v", got)
	}
	if log := audited(t, w); len(log) != 1 || log[0].What != "settings of topic shop-orders at site east: retention.ms=12345678, cleanup.policy=compact,delete, min.insync.replicas=1" || !log[0].Client {
		t.Errorf("audit %+v", log)
	}
	for _, want := range []struct {
		topic string
		c     kmsg.IncrementalAlterConfigsRequestResourceConfig
		err   *kerr.Error
	}{
		{"shop-orders", change("min.insync.replicas", set, "2"), kerr.InvalidConfig},
		{"shop-orders", change("unclean.leader.election.enable", set, "true"), kerr.InvalidConfig},
		{"shop-orders", change("remote.storage.enable", set, "true"), kerr.InvalidConfig},
		{"shop-orders", change("leader.replication.throttled.replicas", set, "*"), kerr.InvalidConfig},
		{"shop-orders", change("retention.ms", 9, "1"), kerr.InvalidRequest},
		{"shop-none", change("retention.ms", set, "1"), kerr.UnknownTopicOrPartition},
		{"other", change("retention.ms", set, "1"), kerr.UnknownTopicOrPartition},
		{"__spillway_map", change("retention.ms", set, "1"), kerr.UnknownTopicOrPartition},
	} {
		if got := alter(t, c, want.topic, want.c); got.ErrorCode != want.err.Code {
			t.Errorf("%s %+v: error %d, want %d", want.topic, want.c, got.ErrorCode, want.err.Code)
		}
	}
	broker := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, "0"
	broker.Version, broker.Resources = 1, []kmsg.IncrementalAlterConfigsRequestResource{r}
	if got := do[*kmsg.IncrementalAlterConfigsResponse](t, c, broker).Resources[0]; got.ErrorCode != kerr.InvalidRequest.Code || !strings.Contains(*got.ErrorMessage, "BROKER") {
		t.Errorf("%+v", got)
	}

	all := kmsg.NewPtrAlterConfigsRequest()
	whole := kmsg.NewAlterConfigsRequestResource()
	whole.ResourceType, whole.ResourceName = kmsg.ConfigResourceTypeTopic, "shop-orders"
	value := "777"
	whole.Configs = []kmsg.AlterConfigsRequestResourceConfig{{Name: "segment.ms", Value: &value}}
	all.Version, all.ValidateOnly, all.Resources = 2, true, []kmsg.AlterConfigsRequestResource{whole}
	if got := do[*kmsg.AlterConfigsResponse](t, c, all).Resources[0]; got.ErrorCode != 0 || there()["segment.ms"] != "" {
		t.Errorf("validated: %+v, %v", got, there())
	}
	all.ValidateOnly = false
	if got := do[*kmsg.AlterConfigsResponse](t, c, all).Resources[0]; got.ErrorCode != 0 {
		t.Errorf("%+v", got)
	}
	if got := there(); got["segment.ms"] != "777" || got["retention.ms"] != "" || got["cleanup.policy"] != "" || got["min.insync.replicas"] != "1" {
		t.Errorf("replaced: %v", got)
	}
	if got := alter(t, c, "shop-orders", change("segment.ms", reset, "")); got.ErrorCode != 0 || there()["segment.ms"] != "" || len(audited(t, w)) != 3 {
		t.Errorf("%+v, %v, audit %d", got, there(), len(audited(t, w)))
	}
}
