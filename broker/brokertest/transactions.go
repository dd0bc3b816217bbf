package brokertest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker"
)

// transactions: what is open is listed, described, and ended over its producer's head.
func transactions(t *testing.T, f *fixture) {
	tp, id := f.topic(1, nil), f.name("txn")
	if _, err := f.admin.DescribeTransaction(f.ctx, id); !errors.Is(err, broker.ErrUnknownTransactionalID) {
		t.Errorf("an id that was never used: %v", err)
	}
	node, err := f.Cluster.Coordinator(f.ctx, broker.TransactionCoordinator, id)
	f.must(err)
	c, err := f.Cluster.Dial(f.ctx, node)
	f.must(err)
	t.Cleanup(func() { c.Close() })
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis, init.ProducerID, init.ProducerEpoch = &id, 60_000, -1, -1
	var producer *kmsg.InitProducerIDResponse
	for {
		resp, err := c.Do(f.ctx, init)
		f.must(err)
		if producer = resp.(*kmsg.InitProducerIDResponse); producer.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
			break
		}
		time.Sleep(20 * time.Millisecond) // a cluster's first transaction makes the coordinator
	}
	f.must(kerr.ErrorForCode(producer.ErrorCode))
	add := func() int16 {
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, id, producer.ProducerID, producer.ProducerEpoch
		req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: tp.Topic, Partitions: []int32{0}}}
		resp, err := c.DoVersion(f.ctx, req)
		f.must(err)
		return resp.(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode
	}
	f.must(kerr.ErrorForCode(add()))
	open := func() bool {
		all, err := f.admin.OpenTransactions(f.ctx)
		f.must(err)
		return slices.ContainsFunc(all, func(x broker.Transaction) bool {
			return x.TransactionalID == id && x.State == broker.TransactionOngoing && x.ProducerID == producer.ProducerID
		})
	}
	if !open() {
		t.Error("what is open is not listed")
	}
	if x, err := f.admin.DescribeTransaction(f.ctx, id); err != nil || x.State != broker.TransactionOngoing || x.ProducerID != producer.ProducerID || x.ProducerEpoch != producer.ProducerEpoch {
		t.Errorf("%+v, %v", x, err)
	}
	for {
		err := f.admin.EndTransaction(f.ctx, id)
		if err == nil {
			break
		}
		if !errors.Is(err, broker.ErrTransactionEnding) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // the coordinator writes its markers
	}
	if open() {
		t.Error("it is open still")
	}
	if code := add(); code != kerr.ProducerFenced.Code {
		t.Errorf("its producer: %v", kerr.ErrorForCode(code))
	}
	if x, err := f.admin.DescribeTransaction(f.ctx, id); err != nil || x.State == broker.TransactionOngoing || x.ProducerID != producer.ProducerID || x.ProducerEpoch <= producer.ProducerEpoch {
		t.Errorf("%+v, %v", x, err)
	}
}
