//go:build e2e

package mirror

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/audit"
	"spillway/mirror/sitelog"
	cluster "spillway/tests/cluster/kafka"
)

// TestRewriteOnKafka carries records by filters, with provenance, and as larger batches
// between two versions of Kafka, and is killed at every step meanwhile.
func TestRewriteOnKafka(t *testing.T) {
	sites, servers := kafkaPair(t)
	east, west := sites[0], sites[1]
	createTopic(t, east, "orders", 2, nil)
	r, l := newRewritten(t, east, west), newLoad(t, servers[0].Bootstrap(), 94)
	t.Run("filters, provenance, groups", func(t *testing.T) { r.t = t; r.carry(testContext(t), l) })
	t.Run("killed at every step", func(t *testing.T) {
		t.Setenv(childReal, "1")
		r.t = t
		killWhileRewriting(t, r, l, servers[0].Bootstrap(), servers[1].Bootstrap(), 1)
	})
	t.Run("repack", func(t *testing.T) { repackOnKafka(t, east, west, servers[0]) })
}

// repackOnKafka has small batches of each codec written as large ones.
func repackOnKafka(t *testing.T, east, west broker.Cluster, server *cluster.Cluster) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const small = 400 // batches
	codecs := map[batch.Codec]kgo.CompressionCodec{batch.None: kgo.NoCompression(), batch.Gzip: kgo.GzipCompression(), batch.Snappy: kgo.SnappyCompression(), batch.LZ4: kgo.Lz4Compression(), batch.Zstd: kgo.ZstdCompression()}
	for codec, compression := range codecs {
		topic := "small-" + codec.String()
		createTopic(t, east, topic, 1, nil)
		client, err := kgo.NewClient(kgo.SeedBrokers(server.Bootstrap()...), kgo.ProducerBatchCompression(compression), kgo.DefaultProduceTopic(topic))
		if err != nil {
			t.Fatal(err)
		}
		for i := range small {
			var records []*kgo.Record
			for j := range 10 {
				records = append(records, &kgo.Record{Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "%0800d", 10*i+j), Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, j)}}})
			}
			if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		client.Close()
	}
	c := RunConfig{From: east, To: west, Topics: selected(t, "small-.*"), UntilCaughtUp: true, Mirror: Config{RepackBytes: 1 << 20}}
	report, err := Run(ctx, c)
	if err != nil || report.Records != int64(10*small*len(codecs)) || len(report.Gaps) != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	found, err := audit.Audit(ctx, east, west, c.Topics, audit.Scope{}, nil)
	if err != nil || !found.Equal || found.Records != report.Records {
		t.Errorf("audit: %+v, %v", found, err)
	}
	for codec := range codecs {
		theirs, ours := shapes(t, east, codec), shapes(t, west, codec)
		fmt.Printf("measured: %s: %d batches, %d bytes; repacked: %d batches, %d bytes\n", codec, theirs.batches, theirs.bytes, ours.batches, ours.bytes)
		if ours.batches > theirs.batches/10 || ours.largest > 1<<20 || ours.records != theirs.records {
			t.Errorf("%s: %+v at the source, %+v at the target", codec, theirs, ours)
		}
	}
}

// shape is what the batches of a topic look like.
type shape struct{ batches, records, bytes, largest int }

func shapes(t *testing.T, c broker.Cluster, codec batch.Codec) (s shape) {
	t.Helper()
	tp := spillway.TopicPartition{Topic: "small-" + codec.String()}
	ends, err := c.Admin().LogEnds(t.Context(), []spillway.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	err = sitelog.Scan(t.Context(), c, tp, 0, ends[tp], func(b sitelog.Batch) error {
		if b.Codec() != codec {
			t.Errorf("site %s has a batch of %s, want %s", c.Site(), b.Codec(), codec)
		}
		s.batches, s.records, s.bytes, s.largest = s.batches+1, s.records+int(b.Count), s.bytes+b.Size(), max(s.largest, b.Size())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
