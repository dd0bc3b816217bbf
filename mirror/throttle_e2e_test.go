//go:build e2e

package mirror

import (
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/broker"
	"spillway/mirror/audit"
)

// A mirror whose principal has quotas at both sites stays within them, goes on, and takes
// no pause for a lost answer: nothing is read back, no partition stops.
func TestQuotasOnKafka(t *testing.T) {
	const quota, batch, batches = 128 << 10, 100 << 10, 50 // at the target; the source allows twice as much
	sites, servers := kafkaPair(t)
	east, west := sites[0], sites[1]
	ctx := testContext(t)
	createTopic(t, east, "orders", 4, nil)
	cl, err := kgo.NewClient(kgo.SeedBrokers(servers[0].Bootstrap()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range batches {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Partition: int32(i % 4), Value: make([]byte, batch)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	anonymous := "ANONYMOUS"
	entity := broker.NewQuotaEntity(map[string]*string{"user": &anonymous})
	bound := func(consume, produce *float64) {
		t.Helper()
		for site, values := range map[broker.Cluster]map[string]*float64{east: {"consumer_byte_rate": consume}, west: {"producer_byte_rate": produce}} {
			if err := site.Admin().SetQuota(ctx, entity, values); err != nil {
				t.Fatal(err)
			}
		}
	}
	twice, once := float64(2*quota), float64(quota)
	bound(&twice, &once)
	var mu sync.Mutex
	pauses, resyncs := map[bool]time.Duration{}, 0
	began := time.Now()
	report, err := Run(ctx, RunConfig{From: east, To: west, Topics: selected(t, "orders"), UntilCaughtUp: true, Events: Events{
		Throttled: func(i ThrottleInfo) {
			mu.Lock()
			defer mu.Unlock()
			pauses[i.Target] += i.Pause
		},
		Resync: func(i ResyncInfo) {
			mu.Lock()
			defer mu.Unlock()
			resyncs++
			t.Logf("resync %s: %s", i.TopicPartition, i.Why)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	mu.Lock()
	defer mu.Unlock()
	t.Logf("measured: %d records of %d bytes in %s; pauses %s at the source, %s at the target", report.Records, batch, took, pauses[false], pauses[true])
	if pauses[false] == 0 || pauses[true] == 0 || resyncs > 0 || len(report.Gaps) > 0 || report.Records != batches {
		t.Errorf("pauses %v, %d resyncs, gaps %v, %d records", pauses, resyncs, report.Gaps, report.Records)
	}
	// Brokers average over eleven seconds.
	if allowed := quota * (took.Seconds() + 11); batch*batches > allowed {
		t.Errorf("%d bytes in %s, the quota allows %.0f", batch*batches, took, allowed)
	}
	bound(nil, nil)
	audited, err := audit.Audit(ctx, east, west, selected(t, "orders"), audit.Scope{}, nil)
	if err != nil || !audited.Equal {
		t.Errorf("audit: %+v, %v", audited, err)
	}
}
