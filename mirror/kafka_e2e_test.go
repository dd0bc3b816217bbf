//go:build e2e

package mirror

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/kafka"
	cluster "spillway/tests/cluster/kafka"
)

// forgetful makes a broker forget producers within seconds, as it otherwise
// does within minutes (experiments A), and clean compacted topics at once.
var forgetful = map[string]string{
	"producer.id.expiration.check.interval.ms": "2000",
	"log.cleaner.backoff.ms":                   "200",
	"log.retention.check.interval.ms":          "300000",
}

// kafkaPair starts two sites of different versions.
func kafkaPair(t *testing.T) (sites [2]broker.Cluster, servers []*cluster.Cluster) {
	t.Helper()
	servers = cluster.ForTest(t, cluster.Config{Name: "east", Version: cluster.Versions[0], Properties: forgetful},
		cluster.Config{Name: "west", Version: cluster.Versions[len(cluster.Versions)-1], FirstNode: 11, Properties: forgetful})
	for i, id := range []spillway.SiteID{"east", "west"} {
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: servers[i].Bootstrap()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		sites[i] = c
	}
	return sites, servers
}

func createTopic(t *testing.T, c broker.Cluster, name string, partitions int32, configs map[string]string) {
	t.Helper()
	if err := c.Admin().CreateTopic(testContext(t), name, partitions, 1, configs); err != nil {
		t.Fatal(err)
	}
}

func TestKilledAtEveryStepOnKafka(t *testing.T) {
	sites, servers := kafkaPair(t)
	t.Setenv(childReal, "1")
	createTopic(t, sites[0], "orders", 2, nil)
	killAtEveryStep(t, sites[0], sites[1], servers[0].Bootstrap(), servers[1].Bootstrap(), 10)
}

// TestTargetBrokerDiesOnKafka kills the target's broker under load, with records of
// today and with records of last year, for which the broker remembers no
// producer (C3).
func TestTargetBrokerDiesOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	sites, servers := kafkaPair(t)
	east, west := sites[0], sites[1]
	year := fmt.Sprint(400 * 24 * time.Hour.Milliseconds() * 10)
	createTopic(t, east, "orders", 1, nil)
	createTopic(t, east, "orders-aged", 1, map[string]string{"retention.ms": year})
	var aged, resyncs atomic.Int64
	eastM := testMirror(t, east, west)
	westM := testMirrorWith(t, Config{Local: west, ProduceTimeout: 2 * time.Second, Events: Events{
		BatchMirrored: func(i BatchInfo) {
			if i.Aged {
				aged.Add(1)
			}
		},
		Resync: func(ResyncInfo) { resyncs.Add(1) },
	}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	old, err := kgo.NewClient(kgo.SeedBrokers(servers[0].Bootstrap()...))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	l := newLoad(t, servers[0].Bootstrap(), 71)
	lastYear := time.Now().Add(-390 * 24 * time.Hour)
	written := 0
	write := func(n int) {
		t.Helper()
		for range n {
			if err := l.write(ctx, "orders", 1, 1); err != nil {
				t.Fatal(err)
			}
			r := &kgo.Record{Topic: "orders-aged", Key: fmt.Append(nil, written), Value: make([]byte, 100), Timestamp: lastYear.Add(time.Duration(written) * time.Second)}
			if err := old.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			written++
		}
	}
	for range 4 {
		write(60)
		b := servers[1].Brokers[0]
		if err := b.Kill(); err != nil {
			t.Fatal(err)
		}
		write(30)
		if err := b.Start(ctx); err != nil {
			t.Fatal(err)
		}
		write(60)
	}
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	for _, topic := range []string{"orders", "orders-aged"} {
		tp := spillway.TopicPartition{Topic: topic}
		compareSites(t, east, west, eastM, westM, tp)
		ours, err := read(ctx, west, tp)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := read(ctx, east, tp)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d records at east, %d at west; %d batches aged, %d resyncs", topic, len(theirs), len(ours), aged.Load(), resyncs.Load())
		if len(ours) != len(theirs) {
			t.Errorf("%s: %d records at west, %d at east", topic, len(ours), len(theirs))
		}
	}
	if aged.Load() == 0 {
		t.Error("no batch was written in aged mode")
	}
}

// TestCompactedAndAppendTimeOnKafka mirrors a topic that the source's cleaner has made
// holes in, and one whose times are the broker's.
func TestCompactedAndAppendTimeOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	sites, servers := kafkaPair(t)
	east, west := sites[0], sites[1]
	createTopic(t, east, "orders", 1, map[string]string{"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "100"})
	createTopic(t, east, "orders-stamped", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	c, err := kgo.NewClient(kgo.SeedBrokers(servers[0].Bootstrap()...), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := 0
	write := func(count int) {
		t.Helper()
		for range count {
			var rs []*kgo.Record
			for range 50 {
				rs = append(rs, &kgo.Record{Topic: "orders", Key: fmt.Append(nil, n%97), Value: fmt.Append(nil, n)},
					&kgo.Record{Topic: "orders-stamped", Value: fmt.Append(nil, n), Timestamp: time.UnixMilli(12345)})
				n++
			}
			if err := c.ProduceSync(ctx, rs...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	write(20)
	eventually(t, "the cleaner has made holes", func() bool {
		time.Sleep(150 * time.Millisecond)
		write(1) // rolls the segment
		records, err := read(ctx, east, tp)
		return err == nil && len(records) < n/2
	})
	eastM, rebuilt := testMirror(t, east, west), new(atomic.Int64)
	westM := testMirrorWith(t, Config{Local: west, Events: Events{BatchMirrored: func(i BatchInfo) {
		if i.Rebuilt {
			rebuilt.Add(1)
		}
	}}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	if rebuilt.Load() == 0 {
		t.Error("no batch was rebuilt")
	}
	// By key: both sites go on cleaning.
	latest := func(c broker.Cluster) map[string]string {
		records, err := read(ctx, c, tp)
		if err != nil {
			t.Fatal(err)
		}
		m := make(map[string]string)
		for _, r := range records {
			m[string(r.key)] = string(r.value)
		}
		return m
	}
	if a, b := latest(east), latest(west); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("last records by key: %v at east, %v at west", a, b)
	}
	stamped := spillway.TopicPartition{Topic: "orders-stamped"}
	theirs, err := read(ctx, east, stamped)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := read(ctx, west, stamped)
	if err != nil || len(ours) != len(theirs) {
		t.Fatalf("%d records at west, %d at east, %v", len(ours), len(theirs), err)
	}
	for i := range ours {
		if ours[i].timestamp == 12345 || string(ours[i].value) != string(theirs[i].value) {
			t.Fatalf("record %d: time %d, value %s", i, ours[i].timestamp, ours[i].value)
		}
	}
}
