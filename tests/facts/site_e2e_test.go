//go:build e2e

package facts

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/tests/cluster/kafka"
)

// site is one broker, real or embedded, talked to over a raw connection so that
// no client library smooths anything over.
type site struct {
	name    string        // the version, or kfake
	broker  *kafka.Broker // nil for kfake
	address string
	conn    *conn.Conn
	owner   *testing.T // the test whose end closes the connection
	topics  int
}

func realSite(t *testing.T, version string, properties map[string]string) *site {
	c := kafka.ForTest(t, kafka.Config{Version: version, Properties: properties})[0]
	s := &site{name: version, broker: c.Brokers[0], address: c.Brokers[0].Address()}
	s.owner = t
	s.connect(t)
	return s
}

func embeddedSite(t *testing.T) *site {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	must(t, err)
	t.Cleanup(c.Close)
	s := &site{name: "kfake", address: c.ListenAddrs()[0], owner: t}
	s.connect(t)
	return s
}

// connect opens the connection anew, after a restart too.
func (s *site) connect(t *testing.T) {
	if s.conn != nil {
		s.conn.Close()
	}
	c, err := conn.Open(t.Context(), conn.Config{Site: "facts", Node: -1, Address: s.address})
	must(t, err)
	s.owner.Cleanup(func() { c.Close() })
	s.conn = c
}

func (s *site) restart(t *testing.T) {
	must(t, s.broker.Restart(t.Context()))
	s.connect(t)
}

func (s *site) kill(t *testing.T) {
	must(t, s.broker.Kill())
	must(t, s.broker.Start(t.Context()))
	s.connect(t)
}

// topic makes a new topic of one partition. configs are pairs of key and value.
func (s *site) topic(t *testing.T, configs ...string) string {
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.NumPartitions, topic.ReplicationFactor = 1, 1
	for i := 0; i < len(configs); i += 2 {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = configs[i], &configs[i+1]
		topic.Configs = append(topic.Configs, config)
	}
	return s.create(t, topic)
}

// replicated makes a topic of one partition on these nodes; the first leads.
func (s *site) replicated(t *testing.T, nodes ...int32) string {
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.NumPartitions, topic.ReplicationFactor = -1, -1
	topic.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: nodes}}
	return s.create(t, topic)
}

func (s *site) create(t *testing.T, topic kmsg.CreateTopicsRequestTopic) string {
	s.topics++
	topic.Topic = fmt.Sprintf("fact-%d", s.topics)
	request := kmsg.NewPtrCreateTopicsRequest()
	request.Topics = append(request.Topics, topic)
	request.TimeoutMillis = 10_000
	answer := do(t, s, request).(*kmsg.CreateTopicsResponse)
	must(t, kerr.ErrorForCode(answer.Topics[0].ErrorCode))
	eventually(t, "the partition has a leader", func() bool { return s.end(t, topic.Topic) == 0 })
	return topic.Topic
}

// outcome is a broker's answer to one Produce request.
type outcome struct {
	code   int16
	offset int64
}

// String is "accepted" or the error's number.
func (o outcome) String() string {
	if o.code == 0 {
		return "accepted"
	}
	return fmt.Sprint(o.code)
}

// produceVersion is the last but few that name topics by name; all brokers speak it.
const (
	produceVersion = 9
	fetchVersion   = 12
)

func produceRequest(topic string, set []byte) *kmsg.ProduceRequest {
	request := kmsg.NewPtrProduceRequest()
	request.Version, request.Acks, request.TimeoutMillis = produceVersion, -1, 10_000
	partition := kmsg.NewProduceRequestTopicPartition()
	partition.Records = set
	named := kmsg.NewProduceRequestTopic()
	named.Topic, named.Partitions = topic, append(named.Partitions, partition)
	request.Topics = append(request.Topics, named)
	return request
}

func (s *site) produce(t *testing.T, topic string, set []byte) outcome {
	response, err := s.conn.DoVersion(t.Context(), produceRequest(topic, set))
	must(t, err)
	p := response.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return outcome{p.ErrorCode, p.BaseOffset}
}

// fetch returns the record set from an offset on, and the error.
func (s *site) fetch(t *testing.T, topic string, offset int64) ([]byte, int16) {
	request := kmsg.NewPtrFetchRequest()
	request.Version, request.MaxWaitMillis, request.MinBytes, request.MaxBytes = fetchVersion, 100, 1, 16<<20
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.FetchOffset, partition.PartitionMaxBytes, partition.CurrentLeaderEpoch = offset, 16<<20, -1
	named := kmsg.NewFetchRequestTopic()
	named.Topic, named.Partitions = topic, append(named.Partitions, partition)
	request.Topics = append(request.Topics, named)
	response, err := s.conn.DoVersion(t.Context(), request)
	must(t, err)
	p := response.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	return p.RecordBatches, p.ErrorCode
}

// log reads a whole partition.
func (s *site) log(t *testing.T, topic string) (values []string) {
	for offset, end := int64(0), s.end(t, topic); offset < end; {
		set, code := s.fetch(t, topic, offset)
		must(t, kerr.ErrorForCode(code))
		walk := batch.Over(set)
		for walk.Next() {
			records, err := batch.Records(walk.Bytes, 1<<20)
			must(t, err)
			for _, record := range records {
				values = append(values, string(record.Value))
			}
			offset = walk.Header.NextOffset()
		}
		must(t, walk.Err())
	}
	return values
}

// stored returns the header of the batch at an offset, and whether its checksum is right.
func (s *site) stored(t *testing.T, topic string, offset int64) (batch.Header, bool) {
	set, code := s.fetch(t, topic, offset)
	must(t, kerr.ErrorForCode(code))
	header, rest, err := batch.Parse(set)
	must(t, err)
	return header, batch.Verify(set[:len(set)-len(rest)]) == nil
}

// listOffset asks for the end of the log: as a consumer (replica −1) the high
// watermark, as a debugger (−2) the end of the leader's log.
func (s *site) listOffset(t *testing.T, topic string, replica int32) (int64, int16) {
	request := kmsg.NewPtrListOffsetsRequest()
	request.ReplicaID = replica
	partition := kmsg.NewListOffsetsRequestTopicPartition()
	partition.Timestamp, partition.CurrentLeaderEpoch = -1, -1
	named := kmsg.NewListOffsetsRequestTopic()
	named.Topic, named.Partitions = topic, append(named.Partitions, partition)
	request.Topics = append(request.Topics, named)
	answer := do(t, s, request).(*kmsg.ListOffsetsResponse)
	return answer.Topics[0].Partitions[0].Offset, answer.Topics[0].Partitions[0].ErrorCode
}

// end is −1 while the partition has no leader.
func (s *site) end(t *testing.T, topic string) int64 {
	offset, code := s.listOffset(t, topic, -1)
	if code != 0 {
		return -1
	}
	return offset
}

// producer is what DescribeProducers says of one producer id.
func (s *site) producer(t *testing.T, topic string, id int64) (state kmsg.DescribeProducersResponseTopicPartitionActiveProducer, listed bool) {
	request := kmsg.NewPtrDescribeProducersRequest()
	named := kmsg.NewDescribeProducersRequestTopic()
	named.Topic, named.Partitions = topic, []int32{0}
	request.Topics = append(request.Topics, named)
	answer := do(t, s, request).(*kmsg.DescribeProducersResponse)
	must(t, kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode))
	for _, p := range answer.Topics[0].Partitions[0].ActiveProducers {
		if p.ProducerID == id {
			return p, true
		}
	}
	return state, false
}

func do(t *testing.T, s *site, request kmsg.Request) kmsg.Response {
	response, err := s.conn.Do(t.Context(), request)
	must(t, err)
	return response
}

// shape says what a batch is like; values become its records, in the same millisecond.
type shape struct {
	id         int64
	epoch      int16
	sequence   int32
	at         time.Time // now if zero
	attributes int16
	leader     int32
	offset     int64
}

func (f shape) batch(t *testing.T, values ...string) []byte {
	if f.at.IsZero() {
		f.at = time.Now()
	}
	var records []batch.Record
	for i, value := range values {
		records = append(records, batch.Record{OffsetDelta: int32(i), Value: []byte(value)})
	}
	set, err := batch.Rebuild(batch.Header{
		BaseOffset: f.offset, LeaderEpoch: f.leader, Attributes: f.attributes,
		BaseTimestamp: f.at.UnixMilli(), MaxTimestamp: f.at.UnixMilli(),
		ProducerID: f.id, ProducerEpoch: f.epoch, BaseSequence: f.sequence,
	}, records, batch.None)
	must(t, err)
	return set
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("still not so after 30 s: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
