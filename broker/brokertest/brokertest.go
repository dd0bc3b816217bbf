// Package brokertest is the contract of package broker: what every adapter
// does, and for each capability a test that fails when an adapter does less or
// more than it declares. It knows neither adapter.
package brokertest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
)

// Site is a running cluster, seen through the adapter under test.
type Site struct {
	// Cluster uses a principal that no ACL binds.
	Cluster broker.Cluster
	// Guest is the same cluster with the credentials of another principal;
	// nil where there is no authorizer.
	Guest          broker.Cluster
	GuestPrincipal string
	ScramUser      string // a user with SCRAM credentials, empty where there is none
	// ExpiryCheck is how often the brokers look for producers to forget
	// (producer.id.expiration.check.interval.ms), or would.
	ExpiryCheck time.Duration
}

// Run runs the contract. Each test makes its own topics and groups.
func Run(t *testing.T, site Site) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"Topics", topics},
		{"ManyTopics", manyTopics},
		{"Settings", settings},
		{"Leaders", leaders},
		{"Nodes", nodes},
		{"Records", records},
		{"EveryShapeOfBatch", shapes},
		{"Unanswered", unanswered},
		{"Offsets", offsets},
		{"Commits", commits},
		{"ActiveGroup", activeGroup},
		{"LogEnd", logEnd},
		{"Producers", producers},
		{"ProducerExpiry", producerExpiry},
		{"FirstSequence", firstSequence},
		{"SequenceWrap", sequenceWrap},
		{"NewProducerID", newProducerID},
		{"ProducerEpochs", producerEpochs},
		{"TimestampLimits", timestampLimits},
		{"LogAppendTime", logAppendTime},
		{"ConsumerGroupV2", consumerGroupV2},
		{"Expressions", subscribed},
		{"Transactions", transactions},
		{"AbortedInCutAnswers", abortedInCutAnswers},
		{"StableOffsets", stableOffsets},
		{"LogDirs", logDirs},
		{"Features", features},
		{"ACLs", acls},
		{"Quotas", quotas},
		{"ScramUsers", scramUsers},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.run(t, &fixture{T: t, Site: site, ctx: ctx, admin: site.Cluster.Admin(), can: site.Cluster.Capabilities()})
		})
	}
}

// fixture is what one test works with.
type fixture struct {
	*testing.T
	Site
	ctx   context.Context
	admin broker.Admin
	can   broker.Capabilities
}

var names atomic.Int64

// name makes a name that no other test uses.
func (f *fixture) name(kind string) string { return fmt.Sprintf("%s-%d", kind, names.Add(1)) }

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// topic creates a topic and returns its first partition.
func (f *fixture) topic(partitions int32, configs map[string]string) spillway.TopicPartition {
	f.Helper()
	name := f.name("topic")
	f.must(f.admin.CreateTopic(f.ctx, name, partitions, 1, configs))
	return spillway.TopicPartition{Topic: name}
}

// dial opens a connection to the leader of tp.
func (f *fixture) dial(cluster broker.Cluster, tp spillway.TopicPartition) *conn.Conn {
	f.Helper()
	node, err := cluster.Leader(f.ctx, tp)
	f.must(err)
	c, err := cluster.Dial(f.ctx, node)
	f.must(err)
	f.Cleanup(func() { c.Close() })
	return c
}

// Versions that name topics; later ones carry topic ids.
const (
	produceByName = 9
	fetchByName   = 12
)

func produceRequest(tp spillway.TopicPartition, acks int16, set []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = produceByName, acks, 10_000
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = tp.Partition, set
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: tp.Topic, Partitions: []kmsg.ProduceRequestTopicPartition{p}}}
	return req
}

// produce returns base offset and Kafka's error code.
func (f *fixture) produce(cluster broker.Cluster, tp spillway.TopicPartition, acks int16, set []byte) (int64, int16) {
	f.Helper()
	resp, err := f.dial(cluster, tp).DoVersion(f.ctx, produceRequest(tp, acks, set))
	f.must(err)
	p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return p.BaseOffset, p.ErrorCode
}

// Produce writes one batch with acks=all and returns its offset.
func Produce(ctx context.Context, cluster broker.Cluster, tp spillway.TopicPartition, set []byte) (int64, error) {
	node, err := cluster.Leader(ctx, tp)
	if err != nil {
		return -1, err
	}
	c, err := cluster.Dial(ctx, node)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	resp, err := c.DoVersion(ctx, produceRequest(tp, -1, set))
	if err != nil {
		return -1, err
	}
	p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return p.BaseOffset, kerr.ErrorForCode(p.ErrorCode)
}

// append produces and expects success.
func (f *fixture) append(tp spillway.TopicPartition, set []byte) int64 {
	f.Helper()
	offset, code := f.produce(f.Cluster, tp, -1, set)
	if code != 0 {
		f.Fatalf("produce %s: error code %d", tp, code)
	}
	return offset
}

// fetch returns the record set from an offset on.
func (f *fixture) fetch(tp spillway.TopicPartition, offset int64) []byte {
	f.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = fetchByName, -1, 500, 1, 32<<20
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = tp.Partition, offset, 32<<20, -1
	req.Topics = []kmsg.FetchRequestTopic{{Topic: tp.Topic, Partitions: []kmsg.FetchRequestTopicPartition{p}}}
	resp, err := f.dial(f.Cluster, tp).DoVersion(f.ctx, req)
	f.must(err)
	answer := resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	if answer.ErrorCode != 0 {
		f.Fatalf("fetch %s at %d: error code %d", tp, offset, answer.ErrorCode)
	}
	return answer.RecordBatches
}

// writer is a producer id that nobody else uses.
type writer struct {
	id         int64
	epoch      int16
	attributes int16
}

func newWriter() writer { return writer{id: 1<<62 + names.Add(1)} }

// batch makes count small records from a sequence on.
func (w writer) batch(sequence int32, count int, at time.Time) []byte {
	records := make([]batch.Record, count)
	for i := range records {
		records[i] = batch.Record{OffsetDelta: int32(i), Key: fmt.Appendf(nil, "order-%d", i), Value: fmt.Appendf(nil, "%d", i)}
	}
	b, err := batch.Rebuild(batch.Header{
		LeaderEpoch: -1, Attributes: w.attributes, BaseTimestamp: at.UnixMilli(), ProducerID: w.id, ProducerEpoch: w.epoch, BaseSequence: sequence,
	}, records, batch.None)
	if err != nil {
		panic(err) // these records can always be written
	}
	return b
}

// plain is a batch without a producer id.
func plain(count int, at time.Time) []byte {
	return writer{id: -1, epoch: -1}.batch(-1, count, at)
}

// eventually polls until done or the test's time is over.
func (f *fixture) eventually(what string, done func() bool) {
	f.Helper()
	for !done() {
		select {
		case <-f.ctx.Done():
			f.Fatalf("%s: not seen in time", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
