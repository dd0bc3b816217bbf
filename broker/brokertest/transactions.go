package brokertest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
)

// transaction is one of a producer that the site's coordinator knows.
type transaction struct {
	f        *fixture
	c        *conn.Conn // to the coordinator
	id       string
	tp       spillway.TopicPartition
	producer *kmsg.InitProducerIDResponse
}

// begin begins one in a partition.
func (f *fixture) begin(id string, tp spillway.TopicPartition) *transaction {
	f.Helper()
	node, err := f.Cluster.Coordinator(f.ctx, broker.TransactionCoordinator, id)
	f.must(err)
	x := &transaction{f: f, id: id, tp: tp}
	x.c, err = f.Cluster.Dial(f.ctx, node)
	f.must(err)
	f.Cleanup(func() { x.c.Close() })
	init := kmsg.NewPtrInitProducerIDRequest()
	init.TransactionalID, init.TransactionTimeoutMillis, init.ProducerID, init.ProducerEpoch = &id, 60_000, -1, -1
	for {
		resp, err := x.c.Do(f.ctx, init)
		f.must(err)
		if x.producer = resp.(*kmsg.InitProducerIDResponse); x.producer.ErrorCode != kerr.CoordinatorLoadInProgress.Code {
			break
		}
		time.Sleep(20 * time.Millisecond) // a cluster's first transaction makes the coordinator
	}
	f.must(kerr.ErrorForCode(x.producer.ErrorCode))
	f.must(kerr.ErrorForCode(x.add()))
	return x
}

func (x *transaction) add() int16 {
	x.f.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, x.id, x.producer.ProducerID, x.producer.ProducerEpoch
	req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: x.tp.Topic, Partitions: []int32{x.tp.Partition}}}
	resp, err := x.c.DoVersion(x.f.ctx, req)
	x.f.must(err)
	return resp.(*kmsg.AddPartitionsToTxnResponse).Topics[0].Partitions[0].ErrorCode
}

// write produces a batch of the transaction.
func (x *transaction) write(set []byte) {
	x.f.Helper()
	req := produceRequest(x.tp, -1, set)
	req.TransactionID = &x.id
	resp, err := x.f.dial(x.f.Cluster, x.tp).DoVersion(x.f.ctx, req)
	x.f.must(err)
	x.f.must(kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode))
}

func (x *transaction) end(commit bool) {
	x.f.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 3, x.id, x.producer.ProducerID, x.producer.ProducerEpoch, commit
	resp, err := x.c.DoVersion(x.f.ctx, req)
	x.f.must(err)
	x.f.must(kerr.ErrorForCode(resp.(*kmsg.EndTxnResponse).ErrorCode))
}

// transactions: what is open is listed, described, and ended over its producer's head.
func transactions(t *testing.T, f *fixture) {
	tp, id := f.topic(1, nil), f.name("txn")
	if _, err := f.admin.DescribeTransaction(f.ctx, id); !errors.Is(err, broker.ErrUnknownTransactionalID) {
		t.Errorf("an id that was never used: %v", err)
	}
	x := f.begin(id, tp)
	producer := x.producer
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
	if code := x.add(); code != kerr.ProducerFenced.Code {
		t.Errorf("its producer: %v", kerr.ErrorForCode(code))
	}
	if x, err := f.admin.DescribeTransaction(f.ctx, id); err != nil || x.State == broker.TransactionOngoing || x.ProducerID != producer.ProducerID || x.ProducerEpoch <= producer.ProducerEpoch {
		t.Errorf("%+v, %v", x, err)
	}
	id = f.name("txn")
	x = f.begin(id, tp)
	x.end(true)
	var after broker.Transaction
	f.eventually("it is committed", func() bool {
		found, err := f.admin.DescribeTransaction(f.ctx, id)
		f.must(err)
		after = found
		return after.State == broker.TransactionCommitted || after.State == broker.TransactionNone
	})
	f.declared("TransactionOutcome", after.State == broker.TransactionCommitted, f.can.TransactionOutcome)
	if after.ProducerID != x.producer.ProducerID || after.ProducerEpoch != x.producer.ProducerEpoch {
		t.Errorf("%+v is not of producer %d in epoch %d", after, x.producer.ProducerID, x.producer.ProducerEpoch)
	}
}

// abortedInCutAnswers: an answer that ends where the bytes asked for are used up tells of the
// aborted transactions of the records that it has.
func abortedInCutAnswers(t *testing.T, f *fixture) {
	tp, id := f.topic(1, nil), f.name("txn")
	x := f.begin(id, tp)
	w := writer{id: x.producer.ProducerID, epoch: x.producer.ProducerEpoch, attributes: batch.AttributeTransactional}
	const batches = 20
	for i := range int32(batches) {
		x.write(w.batch(i, 1, time.Now()))
	}
	x.end(false)
	f.eventually("the transaction is aborted", func() bool {
		stable, err := f.admin.StableEnds(f.ctx, []spillway.TopicPartition{tp})
		f.must(err)
		return stable[tp] == batches+1
	})
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = fetchByName, -1, 500, 1, 1000, 1
	for _, of := range []int32{1000, 1 << 20} { // of a partition
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.PartitionMaxBytes, p.CurrentLeaderEpoch = tp.Partition, of, -1
		req.Topics = []kmsg.FetchRequestTopic{{Topic: tp.Topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
		resp, err := f.dial(f.Cluster, tp).DoVersion(f.ctx, req)
		f.must(err)
		answer := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
		f.must(kerr.ErrorForCode(answer.ErrorCode))
		if len(answer.RecordBatches) == 0 || len(answer.RecordBatches) > 2000 {
			t.Errorf("%d bytes were asked for and %d came", req.MaxBytes, len(answer.RecordBatches))
		}
		if a := answer.AbortedTransactions; len(a) != 1 || a[0].ProducerID != w.id || a[0].FirstOffset != 0 {
			t.Errorf("aborted, with %d bytes of a partition: %+v", of, a)
		}
	}
}

// stableOffsets: a position that was committed in a transaction is told when that has ended,
// and one that stays undecided is waited for a moment only.
func stableOffsets(t *testing.T, f *fixture) {
	tp, group := f.topic(1, nil), f.name("group")
	f.must(f.admin.CommitGroupOffsets(f.ctx, group, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 3, LeaderEpoch: -1}}))
	x := f.begin(f.name("txn"), tp)
	x.position(group, 5)
	want := func(what string, read func(context.Context, string) (map[spillway.TopicPartition]broker.GroupOffset, error), want spillway.LocalOffset) {
		t.Helper()
		if got, err := read(f.ctx, group); err != nil || got[tp].Offset != want {
			t.Errorf("%s: %+v, %v; want %d", what, got, err, want)
		}
	}
	want("undecided", f.admin.FetchGroupOffsets, 3)
	want("undecided, waited for", f.admin.StableGroupOffsets, 3)
	type answer struct {
		found map[spillway.TopicPartition]broker.GroupOffset
		err   error
	}
	told := make(chan answer, 1)
	go func() {
		found, err := f.admin.StableGroupOffsets(f.ctx, group)
		told <- answer{found, err}
	}()
	time.Sleep(100 * time.Millisecond)
	x.end(true)
	if got := <-told; got.err != nil || got.found[tp].Offset != 5 {
		t.Errorf("decided meanwhile: %+v, %v; want 5", got.found, got.err)
	}
}

// position commits a position in the transaction.
func (x *transaction) position(group string, offset int64) {
	x.f.Helper()
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.Version, add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = 3, x.id, x.producer.ProducerID, x.producer.ProducerEpoch, group
	resp, err := x.c.DoVersion(x.f.ctx, add)
	x.f.must(err)
	x.f.must(kerr.ErrorForCode(resp.(*kmsg.AddOffsetsToTxnResponse).ErrorCode))
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, x.id, x.producer.ProducerID, x.producer.ProducerEpoch
	req.Group, req.Generation = group, -1
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch = x.tp.Partition, offset, -1
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: x.tp.Topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{p}}}
	x.f.eventually("the partition of the coordinator is in the transaction", func() bool {
		resp, err := x.f.coordinator(group).DoVersion(x.f.ctx, req)
		x.f.must(err)
		code := resp.(*kmsg.TxnOffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
		if code != kerr.ConcurrentTransactions.Code && code != kerr.CoordinatorLoadInProgress.Code {
			x.f.must(kerr.ErrorForCode(code))
		}
		return code == 0
	})
}
