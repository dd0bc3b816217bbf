//go:build e2e

package mirror

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/kafka"
	"spillway/mirror/maptopic"
	cluster "spillway/tests/cluster/kafka"
)

// TestSourceThatGrewAgainOnKafka has the source elect a leader that trails, while
// no mirror reads, and grow beyond where the mirrors stood (C27). One mirror is a
// new process afterwards and compares the last records; the other goes on in
// the same process and asks with the leader epoch that stands in its map.
func TestSourceThatGrewAgainOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	servers := cluster.ForTest(t, cluster.Config{Name: "east", Brokers: 3}, cluster.Config{Name: "west", FirstNode: 11})
	var sites [2]broker.Cluster
	for i, id := range []spillway.SiteID{"east", "west"} {
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: servers[i].Bootstrap()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		sites[i] = c
	}
	east, west := sites[0], sites[1]
	topics := []string{"orders-records", "orders-epoch"}
	onTwoBrokers(t, east, topics)
	eastM := testMirror(t, east)
	assign(t, eastM, ordersAssignment("", 1))
	produce := func(from, to int, who string) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(servers[0].Bootstrap()...), kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := from; i < to; i++ {
			for _, topic := range topics {
				if err := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%d %s", i, who)}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	of := func(topic string) Assignment {
		a := ordersAssignment("east", 1)
		a.Share, a.Topics = spillway.ShareID{Group: topic}, []string{topic}
		return a
	}
	mirrors := make(map[string]*Mirror)
	follow := func(topic string) {
		t.Helper()
		if mirrors[topic] == nil {
			mirrors[topic] = testMirror(t, west, east)
		}
		assign(t, mirrors[topic], of(topic))
		eventually(t, "west has what east has of "+topic, func() bool { return caughtUp(ctx, east, eastM, mirrors[topic], of(topic)) })
	}

	everywhere := func(end spillway.LocalOffset) {
		t.Helper()
		eventually(t, fmt.Sprintf("all replicas in sync have %d records", end), func() bool {
			ends, err := east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{{Topic: topics[0]}, {Topic: topics[1]}})
			return err == nil && ends[spillway.TopicPartition{Topic: topics[0]}] == end && ends[spillway.TopicPartition{Topic: topics[1]}] == end
		})
	}
	t.Cleanup(func() {
		for _, m := range mirrors {
			if t.Failed() && m != nil {
				t.Logf("flows: %+v, gaps %+v", m.Flows(), m.Map().Gaps())
			}
		}
	})

	produce(0, 10, "both have")
	everywhere(10)
	leader, follower := servers[0].Brokers[0], servers[0].Brokers[1]
	if err := follower.Kill(); err != nil {
		t.Fatal(err)
	}
	produce(10, 20, "one has")
	everywhere(20)
	for _, topic := range topics {
		follow(topic)
	}
	mirrors["orders-records"].Close()
	mirrors["orders-records"] = nil
	if _, err := mirrors["orders-epoch"].Stop(ctx, of("orders-epoch").Share, 1); err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		tp := spillway.TopicPartition{Topic: topic}
		r := maptopic.Tail(ctx, west, nil)
		if err := r.CaughtUp(ctx); err != nil {
			t.Fatal(err)
		}
		virtual, _ := r.View(tp).End()
		if from, known := r.View(tp).Source(virtual); !known || from.Site != "east" || from.Next != 20 {
			t.Errorf("%s: the map says that the mirror read up to %+v, %v", topic, from, known)
		}
		r.Close()
	}

	if err := leader.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := follower.Start(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a leader that trails", func() bool {
		_ = east.Refresh(ctx)
		for _, topic := range topics {
			if node, err := east.Leader(ctx, spillway.TopicPartition{Topic: topic}); err != nil || node != int32(follower.Node) {
				return false
			}
		}
		return true
	})
	produce(10, 35, "the other has")
	everywhere(35)
	begun := time.Now()
	for _, topic := range topics {
		follow(topic)
		m, tp := mirrors[topic], spillway.TopicPartition{Topic: topic}
		compareSites(t, east, west, eastM, m, tp)
		found := 0
		for _, g := range m.Map().Gaps() {
			if g.Topic != topic {
				continue
			}
			found++
			if g.Kind != maptopic.GapSource || g.From != 1010 || g.To != 1020 || g.LocalFrom != 10 || g.LocalTo != 20 {
				t.Errorf("gap %+v", g)
			}
		}
		if found != 1 {
			t.Errorf("%s: %d gaps", topic, found)
		}
	}
	fmt.Printf("measured: an unclean election took 10 records, 25 others came: found by the records and by the leader epoch, %s after the mirrors were back\n", time.Since(begun).Round(time.Millisecond))
}

// onTwoBrokers makes topics of one partition, led by the first broker and copied
// to the second, that may be led by a replica that trails.
func onTwoBrokers(t *testing.T, c broker.Cluster, topics []string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	unclean, one := "true", "1"
	for _, name := range topics {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, -1, -1
		topic.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Replicas: []int32{1, 2}}}
		topic.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "unclean.leader.election.enable", Value: &unclean}, {Name: "min.insync.replicas", Value: &one}}
		req.Topics = append(req.Topics, topic)
	}
	md, err := c.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.Dial(t.Context(), md.Controller)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := conn.Do(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range resp.(*kmsg.CreateTopicsResponse).Topics {
		if topic.ErrorCode != 0 {
			t.Fatalf("create %s: error code %d", topic.Topic, topic.ErrorCode)
		}
	}
}
