package sitelog

import (
	"context"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/embedded"
)

// What a log has lost since its end was read never comes.
func TestScanOfALogThatShrank(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cluster, err := embedded.Start(embedded.Config{Site: "east", Topics: map[string]int32{"orders": 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	tp := spillway.TopicPartition{Topic: "orders"}
	node, err := cluster.Leader(ctx, tp)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Dial(ctx, node)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := batch.Rebuild(batch.Header{BaseTimestamp: time.Now().UnixMilli(), LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []batch.Record{{Value: []byte("order")}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ProduceOne(ctx, c, ProducePart{tp, b}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = Scan(ctx, cluster, tp, 0, 3, func(Batch) error { seen++; return nil })
	if seen != 1 || err == nil || !strings.Contains(err.Error(), "the log ends at 1, and ended at 3") {
		t.Errorf("%d batches, %v", seen, err)
	}
}
