package orders

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/orders/history"
)

// Fill writes a log with holes into one partition: transactions, of which some
// are aborted, and keys that come back, for compaction. Every record carries
// its counter, so check.Translation can tell positions apart without any
// history.
type Fill struct {
	Bootstrap []string
	Options   []kgo.Opt // credentials, where the brokers want some
	Producer  string
	Topic     string
	Partition int32
	Records   int64
	// TxnRecords is the size of a transaction; 0 writes without transactions.
	TxnRecords int64
	// AbortEvery makes every n-th transaction an aborted one; 0 means none.
	AbortEvery int64
	// Keys is how many keys there are, coming round in turn; 0 gives every
	// record a key of its own.
	Keys int64
}

// Run writes the records and returns when all are there.
func (f Fill) Run(ctx context.Context) error {
	opts := append([]kgo.Opt{kgo.SeedBrokers(f.Bootstrap...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ClientID(f.Producer)}, f.Options...)
	chunk := f.Records
	if f.TxnRecords > 0 {
		opts = append(opts, kgo.TransactionalID(f.Producer))
		chunk = f.TxnRecords
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	for n, from := int64(1), int64(0); from < f.Records; n, from = n+1, from+chunk {
		end := kgo.TryCommit
		if f.AbortEvery > 0 && n%f.AbortEvery == 0 {
			end = kgo.TryAbort
		}
		if err := f.write(ctx, cl, from, min(from+chunk, f.Records), end); err != nil {
			return fmt.Errorf("fill %s-%d from record %d on: %w", f.Topic, f.Partition, from, err)
		}
	}
	return nil
}

func (f Fill) write(ctx context.Context, cl *kgo.Client, from, to int64, end kgo.TransactionEndTry) error {
	if f.TxnRecords > 0 {
		if err := cl.BeginTransaction(); err != nil {
			return err
		}
	}
	failed := make(chan error, 1)
	for i := from; i < to; i++ {
		key := i
		if f.Keys > 0 {
			key = i % f.Keys
		}
		p := history.Payload{ID: history.ID{Producer: f.Producer, Topic: f.Topic, Partition: f.Partition, Counter: i}, Order: fmt.Sprintf("order-%d", key)}
		cl.Produce(ctx, &kgo.Record{Topic: f.Topic, Partition: f.Partition, Key: []byte(p.Order), Value: p.Encode()}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	err := cl.Flush(ctx)
	select {
	case first := <-failed:
		err = errors.Join(err, first)
	default:
	}
	if err != nil || f.TxnRecords == 0 {
		return err
	}
	return cl.EndTransaction(ctx, end)
}
