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
)

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
