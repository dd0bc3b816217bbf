//go:build e2e

package kafka_test

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/brokertest"
	"spillway/broker/conn"
	"spillway/broker/kafka"
	"spillway/broker/namespace"
	cluster "spillway/tests/cluster/kafka"
)

func init() {
	// The test clusters' starter keeps one thread, to which the life of the
	// brokers' processes is tied.
	known = append(known, goleak.IgnoreAnyFunction("spillway/tests/cluster/process.init.func1.1"))
}

// quickExpiry lets brokers look for producers to forget each second.
var quickExpiry = map[string]string{"producer.id.expiration.check.interval.ms": "1000"}

// namespaces of the versions that are tried in one.
var namespaces = map[string]namespace.Namespace{"4.4.0": "payments.", "3.9.2": "payments_"}

// The newest version behind TLS, SCRAM and an authorizer; the others open to
// everybody, so that the absence of an authorizer is seen too.
func TestContract(t *testing.T) {
	users := map[string]string{"admin": "for-the-admin", "guest": "for-a-guest"}
	for version, config := range map[string]cluster.Config{
		"4.3.1": {Version: "4.3.1", Users: users, SuperUsers: []string{"admin"}, TLS: true, Properties: quickExpiry},
		"4.4.0": {Version: "4.4.0", Properties: quickExpiry},
		"3.9.2": {Version: "3.9.2", Properties: quickExpiry},
	} {
		t.Run(version, func(t *testing.T) {
			running := cluster.ForTest(t, config)[0]
			site := brokertest.Site{ExpiryCheck: time.Second}
			if len(config.Users) == 0 {
				site.Cluster = reach(t, running, kafka.Config{Namespace: namespaces[version]})
			} else {
				roots := x509.NewCertPool()
				roots.AppendCertsFromPEM(running.CA())
				site.Cluster = reach(t, running, kafka.Config{
					TLS: &tls.Config{RootCAs: roots}, SASL: &conn.SASL{Mechanism: "SCRAM-SHA-512", User: "admin", Password: users["admin"]},
				})
				site.Guest = reach(t, running, kafka.Config{
					TLS: &tls.Config{RootCAs: roots}, SASL: &conn.SASL{Mechanism: "PLAIN", User: "guest", Password: users["guest"]},
				})
				site.GuestPrincipal, site.ScramUser = "User:guest", "admin"
			}
			want := broker.Capabilities{
				LogEndOffset: true, DescribeProducers: true, ProducerExpiry: true, Replicas: true,
				FirstSequenceOnEmptyPartition: true, SequenceWrap: true, ProducerEpochPerPartition: true, LogAppendTime: true,
				Durable: true, ProducersDurable: true, TransactionOutcome: true, DiskSpace: true,
				ACLs: len(config.Users) > 0, TimestampLimits: version != "3.9.2", ConsumerGroupV2: version != "3.9.2",
			}
			if got := site.Cluster.Capabilities(); got != want {
				t.Errorf("capabilities %+v\nnot          %+v", got, want)
			}
			brokertest.Run(t, site)
			if prefix := namespaces[version]; prefix != "" {
				brokertest.CheckNamespace(t, reach(t, running, kafka.Config{}), []namespace.Namespace{prefix})
			}
		})
	}
}

// reach makes the adapter and asks once, so that capabilities are probed.
func reach(t *testing.T, running *cluster.Cluster, config kafka.Config) *kafka.Cluster {
	t.Helper()
	config.Site, config.Bootstrap = "east", running.Bootstrap()
	c, err := kafka.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Metadata(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// A broker that was killed and came back is found again by the same adapter,
// with its records and the last batch of its producer (Durable, ProducersDurable).
func TestABrokerThatWasKilledIsFoundAgain(t *testing.T) {
	running := cluster.ForTest(t, cluster.Config{})[0]
	c := reach(t, running, kafka.Config{})
	ctx, tp := t.Context(), spillway.TopicPartition{Topic: "orders"}
	if err := c.Admin().CreateTopic(ctx, "orders", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	b, err := batch.Rebuild(batch.Header{LeaderEpoch: -1, BaseTimestamp: time.Now().UnixMilli(), ProducerID: 1 << 62}, []batch.Record{{Value: []byte("order")}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		offset, err := brokertest.Produce(ctx, c, tp, b)
		if err != nil || offset != 0 {
			t.Fatalf("offset %d, %v", offset, err)
		}
		if err := running.Brokers[0].Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Admin().LogEnds(ctx, []spillway.TopicPartition{tp}); err == nil {
			t.Fatal("a dead broker has a log end")
		}
		if err := running.Brokers[0].Start(ctx); err != nil {
			t.Fatal(err)
		}
		ends, err := c.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
		if err != nil || ends[tp] != 1 {
			t.Fatalf("log ends %v, %v", ends, err)
		}
		if _, err := c.Admin().TopicConfigs(ctx, "orders"); err != nil {
			t.Fatal(err)
		}
	}
}

// A record that a follower lacks lies above the high watermark. A planned move
// must see it (C9): this is what replica id −2 is for.
func TestLogEndsLieAboveTheHighWatermarkWhereAFollowerTrails(t *testing.T) {
	running := cluster.ForTest(t, cluster.Config{Brokers: 3})[0]
	c := reach(t, running, kafka.Config{})
	ctx, tp := t.Context(), spillway.TopicPartition{Topic: "orders"}
	if err := c.Admin().CreateTopic(ctx, "orders", 1, 2, nil); err != nil {
		t.Fatal(err)
	}
	m, err := c.Metadata(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	p := m.Topics["orders"].Partitions[0]
	for _, b := range running.Brokers {
		// The follower stays in the ISR for 30 s after its last word.
		if int32(b.Node) != p.Leader && slices.Contains(p.Replicas, int32(b.Node)) {
			if err := b.Pause(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := b.Resume(); err != nil {
					t.Error(err)
				}
			}()
		}
	}
	link, err := c.Dial(ctx, p.Leader)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	b, err := batch.Rebuild(batch.Header{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []batch.Record{{Value: []byte("order")}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, 1, 5000
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: "orders", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: b}}}}
	resp, err := link.DoVersion(ctx, req)
	if err != nil || resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	ends, err := c.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	if err != nil || ends[tp] != 1 {
		t.Errorf("log ends %v, %v", ends, err)
	}
	marks, err := c.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
	if err != nil || marks[tp] != 0 {
		t.Errorf("high watermarks %v, %v", marks, err)
	}
}
