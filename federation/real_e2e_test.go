//go:build e2e

package federation_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/conn"
	brokerkafka "spillway/broker/kafka"
	"spillway/federation/gatewaytest"
	"spillway/tests/cluster/kafka"
)

// realSites starts one Kafka cluster per version. They ask for credentials
// that only the gateway has, so that nobody can bypass it unseen.
func realSites(t *testing.T, topics map[string]int32, versions ...string) gatewaytest.Options {
	t.Helper()
	var configs []kafka.Config
	for i, version := range versions {
		configs = append(configs, kafka.Config{
			Version: version, FirstNode: 11 + 10*i, Users: map[string]string{"gateway": "secret"}, SuperUsers: []string{"gateway"},
		})
	}
	o := gatewaytest.Options{Real: make(map[spillway.SiteID]gatewaytest.RealSite), Topics: topics}
	for i, c := range kafka.ForTest(t, configs...) {
		id := spillway.SiteID(fmt.Sprintf("site-%d", i+1))
		o.Sites = append(o.Sites, id)
		o.Real[id] = gatewaytest.RealSite{
			Config: brokerkafka.Config{Bootstrap: c.Bootstrap(), SASL: &conn.SASL{Mechanism: "SCRAM-SHA-256", User: "gateway", Password: "secret"}},
			Dial:   c.Dial(),
		}
		cl, err := kgo.NewClient(c.Dial()...)
		if err != nil {
			t.Fatal(err)
		}
		for topic, partitions := range topics {
			req := kmsg.NewPtrCreateTopicsRequest()
			rt := kmsg.NewCreateTopicsRequestTopic()
			rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, 1
			req.Topics = append(req.Topics, rt)
			if resp, err := req.RequestWith(within(t, 30*time.Second), cl); err != nil || resp.Topics[0].ErrorCode != 0 {
				t.Fatalf("create %s: %+v, %v", topic, resp, err)
			}
		}
		cl.Close()
	}
	return o
}

func TestRealKafkaMoves(t *testing.T) {
	o := realSites(t, map[string]int32{"orders": 1}, "4.3.1", "3.9.2")
	again := func(t *testing.T) gatewaytest.Options {
		t.Helper()
		emptied(t, o, "orders", "__spillway_map")
		return o
	}
	t.Run("switchovers keep order", func(t *testing.T) { switchoversKeepOrder(t, again(t)) })
	t.Run("lost answers are found in the trail", func(t *testing.T) { lostAnswers(t, again(t)) })
	t.Run("loss of acknowledged records stops nobody", func(t *testing.T) { lossStopsNobody(t, again(t)) })
}

// emptied deletes and creates topics, so that each part begins with nothing.
func emptied(t *testing.T, o gatewaytest.Options, topics ...string) {
	t.Helper()
	for id, site := range o.Real {
		cl, err := kgo.NewClient(site.Dial...)
		if err != nil {
			t.Fatal(err)
		}
		del := kmsg.NewPtrDeleteTopicsRequest()
		del.TimeoutMillis = 10_000
		for _, topic := range topics {
			del.TopicNames = append(del.TopicNames, topic)
			rt := kmsg.NewDeleteTopicsRequestTopic()
			rt.Topic = kmsg.StringPtr(topic)
			del.Topics = append(del.Topics, rt)
		}
		if _, err := del.RequestWith(within(t, 30*time.Second), cl); err != nil {
			t.Fatalf("delete at %s: %v", id, err)
		}
		for topic, partitions := range o.Topics {
			gatewaytest.Eventually(t, "the topic is created", func() bool {
				req := kmsg.NewPtrCreateTopicsRequest()
				rt := kmsg.NewCreateTopicsRequestTopic()
				rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, 1
				req.Topics = append(req.Topics, rt)
				resp, err := req.RequestWith(within(t, 10*time.Second), cl)
				return err == nil && resp.Topics[0].ErrorCode == 0
			})
		}
		cl.Close()
	}
}

// TestRealKafkaShowsNothing asks clients of several kinds what they see:
// nothing of it is the broker's.
func TestRealKafkaShowsNothing(t *testing.T) {
	o := realSites(t, map[string]int32{"orders": 1}, "4.3.1")
	w := gatewaytest.Start(t, o)
	md, err := w.Direct["site-1"].Metadata(within(t, 10*time.Second), "orders")
	if err != nil {
		t.Fatal(err)
	}
	next := int64(gatewaytest.OffsetBase)
	id := w.Topology.TopicID("orders")
	uuid := kafkaID(id)
	for _, version := range kafka.Versions {
		t.Run("java "+version, func(t *testing.T) {
			java, err := kafka.Tools(t.Context(), version)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := java.Run(ctx, "testdata/Sees.java", w.Addrs[0], "orders")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			saw := make(map[string][]string)
			for line := range strings.Lines(out) {
				if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
					saw[name] = append(saw[name], value)
				}
			}
			node := slices.Compact(slices.Sorted(slices.Values(saw["node"])))
			if slices.Contains(node, strconv.Itoa(int(md.Nodes[0].ID))) || len(node) == 0 || !slices.Contains(node, "1000") {
				t.Errorf("nodes %v", node)
			}
			for name, want := range map[string]string{
				"cluster": gatewaytest.ClusterID, "topic": uuid, "leader": "1000", "begin": strconv.Itoa(gatewaytest.OffsetBase),
				"end": strconv.FormatInt(next+100, 10), "epoch": strconv.Itoa(int(spillway.VirtualLeaderEpoch(1))),
			} {
				if got := slices.Compact(slices.Clone(saw[name])); !slices.Equal(got, []string{want}) {
					t.Errorf("%s is %v, want %s", name, got, want)
				}
			}
			if n := len(saw["produced"]); n != 100 || saw["produced"][0] != strconv.FormatInt(next, 10) {
				t.Errorf("%d records produced from %v, want 100 from %d", n, saw["produced"][:min(1, n)], next)
			}
			next += 100
			for i, offset := range saw["consumed"] {
				if offset != strconv.Itoa(gatewaytest.OffsetBase+i) {
					t.Fatalf("record %d was consumed at %s", i, offset)
				}
			}
			if int64(len(saw["consumed"])) != next-gatewaytest.OffsetBase {
				t.Errorf("%d records consumed of %d", len(saw["consumed"]), next-gatewaytest.OffsetBase)
			}
		})
	}
	if md.ClusterID == gatewaytest.ClusterID || md.Topics["orders"].ID == id || md.Topics["orders"].Partitions[0].LeaderEpoch == spillway.VirtualLeaderEpoch(1) {
		t.Error("the broker has the same numbers: the test shows nothing")
	}
	t.Run("kcat", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		in := exec.CommandContext(ctx, "kcat", "-P", "-b", w.Addrs[0], "-t", "orders", "-p", "0", "-X", "enable.idempotence=true")
		in.Stdin = strings.NewReader("one\ntwo\nthree\n")
		if out, err := in.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		out, err := exec.CommandContext(ctx, "kcat", "-C", "-q", "-b", w.Addrs[0], "-t", "orders", "-p", "0", "-o", strconv.FormatInt(next, 10), "-e", "-f", "%o %s\n").Output()
		want := fmt.Sprintf("%d one\n%d two\n%d three\n", next, next+1, next+2)
		if err != nil || string(out) != want {
			t.Errorf("%v: got\n%s want\n%s", err, out, want)
		}
		out, err = exec.CommandContext(ctx, "kcat", "-L", "-b", w.Addrs[0]).Output()
		if err != nil || !strings.Contains(string(out), "broker 1000 at "+w.Addrs[0]) || strings.Contains(string(out), fmt.Sprintf("broker %d ", md.Nodes[0].ID)) {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// kafkaID prints a topic id as Java does: base64 for URLs, without padding.
func kafkaID(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }
