package gatewaytest

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	"spillway/broker/kafka"
	cluster "spillway/tests/cluster/kafka"
)

// RealSites starts one Kafka cluster per version, each with the topics, and
// names the sites after the versions. The clusters ask for credentials that only
// the gateway has, so that nobody can bypass it unseen.
func RealSites(t testing.TB, topics map[string]int32, versions ...string) Options {
	t.Helper()
	return RealSitesWith(t, func(*cluster.Config) {}, topics, versions...)
}

// RealSitesWith changes the configuration of each cluster.
func RealSitesWith(t testing.TB, change func(*cluster.Config), topics map[string]int32, versions ...string) Options {
	t.Helper()
	var configs []cluster.Config
	for i, version := range versions {
		c := cluster.Config{Version: version, FirstNode: 11 + 10*i, Users: map[string]string{"gateway": "secret"}, SuperUsers: []string{"gateway"}}
		change(&c)
		configs = append(configs, c)
	}
	o := Options{Real: make(map[spillway.SiteID]RealSite), Topics: topics}
	for i, c := range cluster.ForTest(t, configs...) {
		id := spillway.SiteID("kafka-" + versions[i])
		o.Sites = append(o.Sites, id)
		o.Real[id] = RealSite{
			Config: kafka.Config{Bootstrap: c.Bootstrap(), SASL: &conn.SASL{Mechanism: "SCRAM-SHA-256", User: "gateway", Password: "secret"}},
			Dial:   c.Dial(),
		}
		createTopics(t, topics, c.Dial()...)
	}
	return o
}

func createTopics(t testing.TB, topics map[string]int32, dial ...kgo.Opt) {
	t.Helper()
	cl, err := kgo.NewClient(dial...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	for topic, partitions := range topics {
		rt := kmsg.NewCreateTopicsRequestTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, 1
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range resp.Topics {
		if topic.ErrorCode != 0 {
			t.Fatalf("create %s: error %d", topic.Topic, topic.ErrorCode)
		}
	}
}
