//go:build e2e

package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/mirror/sitelog"
	"spillway/tests/orders/history"
)

// transactionSizes in records. Each transaction leaves a marker, so the small
// ones make most of the holes, and the large ones most of the records.
var transactionSizes = []int{1, 1, 2, 3, 7, 20, 100, 400, 1500}

// holey writes one partition with holes of all kinds: transactions of many
// sizes, of which some are aborted; records of another producer between theirs;
// and keys of which half come back in no order, for the log cleaner. Every
// record carries its counter (package history).
type holey struct {
	topic                string
	partition            int32
	random               *rand.Rand
	transactional, plain *kgo.Client
	counters             map[*kgo.Client]int64
	failed               atomic.Pointer[error]
}

// hotKeys are those that come back.
const hotKeys = 500

func newHoley(t *testing.T, addresses []string, tp spillway.TopicPartition, codec kgo.CompressionCodec) *holey {
	t.Helper()
	h := &holey{topic: tp.Topic, partition: tp.Partition, random: rand.New(rand.NewPCG(uint64(tp.Partition), 5)), counters: make(map[*kgo.Client]int64)}
	open := func(opts ...kgo.Opt) *kgo.Client {
		c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	h.transactional, h.plain = open(kgo.TransactionalID(fmt.Sprintf("holes-%s-%d", tp.Topic, tp.Partition))), open()
	return h
}

// write appends n records in transactions, and some beside them.
func (h *holey) write(ctx context.Context, n int) error {
	for n > 0 {
		size := min(n, transactionSizes[h.random.IntN(len(transactionSizes))])
		n -= size
		if err := h.transactional.BeginTransaction(); err != nil {
			return err
		}
		beside := 0
		if h.random.IntN(3) == 0 {
			beside = 1 + h.random.IntN(50)
		}
		for range size {
			h.send(ctx, h.transactional, "txn")
		}
		for range beside {
			h.send(ctx, h.plain, "plain")
		}
		err := errors.Join(h.transactional.Flush(ctx), h.plain.Flush(ctx))
		if first := h.failed.Load(); first != nil {
			err = errors.Join(err, *first)
		}
		if err == nil {
			err = h.transactional.EndTransaction(ctx, kgo.TransactionEndTry(h.random.IntN(6) > 0))
		}
		if err != nil {
			return fmt.Errorf("write %s-%d: %w", h.topic, h.partition, err)
		}
	}
	return nil
}

func (h *holey) send(ctx context.Context, c *kgo.Client, producer string) {
	id := history.ID{Producer: producer, Topic: h.topic, Partition: h.partition, Counter: h.counters[c]}
	h.counters[c]++
	key := fmt.Sprintf("%s-%d", producer, id.Counter)
	if h.random.IntN(2) == 0 {
		key = fmt.Sprintf("hot-%d", h.random.IntN(hotKeys))
	}
	value := history.Payload{ID: id, Order: key}.Encode()
	c.Produce(ctx, &kgo.Record{Topic: h.topic, Partition: h.partition, Key: []byte(key), Value: value}, func(_ *kgo.Record, err error) {
		if err != nil {
			h.failed.CompareAndSwap(nil, &err)
		}
	})
}

// remaining is the part of a log's offsets that still have a record, by the
// headers of its batches.
func remaining(ctx context.Context, c broker.Cluster, tp spillway.TopicPartition) (float64, error) {
	tps := []spillway.TopicPartition{tp}
	starts, err := c.Admin().LogStarts(ctx, tps)
	if err != nil {
		return 0, err
	}
	ends, err := c.Admin().HighWatermarks(ctx, tps)
	if err != nil {
		return 0, err
	}
	records := 0
	err = sitelog.Scan(ctx, c, tp, starts[tp], ends[tp], func(b sitelog.Batch) error {
		if !b.Control() {
			records += int(b.Count)
		}
		return nil
	})
	return float64(records) / float64(max(1, ends[tp]-starts[tp])), err
}
