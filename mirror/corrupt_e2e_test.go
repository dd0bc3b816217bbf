//go:build e2e

package mirror

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/kafka"
	"spillway/mirror/maptopic"
	cluster "spillway/tests/cluster/kafka"
)

// TestACorruptBatchOnKafka changes a byte of a record on the disk of the source's broker,
// which hands it out as it lies there. The partition stops before that batch and says
// why and where; the other one goes on, and the first one too once the disk is mended.
func TestACorruptBatchOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	dir := t.TempDir()
	servers := cluster.ForTest(t, cluster.Config{Name: "east", Dir: dir}, cluster.Config{Name: "west", FirstNode: 11})
	var sites [2]*kafka.Cluster
	for i, id := range []spillway.SiteID{"east", "west"} {
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: servers[i].Bootstrap()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		sites[i] = c
	}
	createTopic(t, sites[0], "orders", 2, nil)
	write := func(values ...string) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(servers[0].Bootstrap()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, v := range values {
			for p := range int32(2) {
				if err := c.ProduceSync(ctx, &kgo.Record{Topic: "orders", Partition: p, Value: []byte(v)}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	write("the first order", "the second order", "the third order")
	onDisk := func(old, new string) {
		t.Helper()
		if err := servers[0].Brokers[0].Stop(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*", "data", "orders-0", "*.log"))
		if more, _ := filepath.Glob(filepath.Join(dir, "data", "orders-0", "*.log")); len(files) == 0 {
			files = more
		}
		if err != nil || len(files) != 1 {
			t.Fatalf("segments of the partition: %v, %v", files, err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil || bytes.Count(text, []byte(old)) != 1 {
			t.Fatalf("%q stands %d times in the segment, error %v", old, bytes.Count(text, []byte(old)), err)
		}
		if err := os.WriteFile(files[0], bytes.Replace(text, []byte(old), []byte(new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := servers[0].Brokers[0].Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	onDisk("the second order", "the secund order")
	m := testMirrorWith(t, Config{Local: sites[1], IdentitySources: true, RefusedPause: 500 * time.Millisecond}, sites[0])
	a := Assignment{Share: spillway.ShareID{Group: "run"}, Topics: []string{"*"}, Epoch: 1, Source: "east"}
	assign(t, m, a)
	tp, other := spillway.TopicPartition{Topic: "orders"}, spillway.TopicPartition{Topic: "orders", Partition: 1}
	eventually(t, "the partition says that it is corrupt", func() bool {
		return strings.Contains(m.Flows()[0].Problems[tp], "virtual offset 1 is corrupt as site east has it")
	})
	eventually(t, "the other partition is there", func() bool { return m.Ends(a.Share)[other] == 3 })
	eventually(t, "what lies before the corrupt batch is there", func() bool { return m.Ends(a.Share)[tp] == 1 })
	var gaps []maptopic.Gap
	eventually(t, "it is in the gap log", func() bool { gaps = m.Map().Gaps(); return len(gaps) > 0 })
	if len(gaps) != 1 || gaps[0].Kind != maptopic.GapCorrupt || gaps[0].From != 1 || gaps[0].To != 2 || !strings.Contains(gaps[0].Detail, "checksum") {
		t.Errorf("gaps: %+v", gaps)
	}
	onDisk("the secund order", "the second order")
	eventually(t, "it goes on", func() bool { return m.Ends(a.Share)[tp] == 3 })
	for p := range int32(2) {
		records, err := read(ctx, sites[1], spillway.TopicPartition{Topic: "orders", Partition: p})
		if err != nil || len(records) != 3 || string(records[1].value) != "the second order" {
			t.Errorf("partition %d: %+v, %v", p, records, err)
		}
	}
}
