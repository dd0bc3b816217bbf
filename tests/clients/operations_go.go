package clients

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Base64ID writes a topic id as Java and librdkafka do.
func Base64ID(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// franz runs franz-go with its defaults.
func (t Task) franz(ctx context.Context) ([]Told, error) {
	if t.Write {
		return t.franzWrites(ctx)
	}
	return t.franzReads(ctx)
}

func (t Task) franzClient(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(t.Bootstrap...), kgo.ClientID(t.Kind), kgo.WithContext(ctx)}, opts...)...)
}

func (t Task) franzWrites(ctx context.Context) ([]Told, error) {
	var told []Told
	for _, op := range Producing {
		acks, idempotent := producing(op)
		opts := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}[acks])}
		if !idempotent {
			opts = append(opts, kgo.DisableIdempotentWrite())
		}
		cl, err := t.franzClient(ctx, opts...)
		if err != nil {
			return told, err
		}
		var records []*kgo.Record
		for n := range t.Records {
			records = append(records, &kgo.Record{Topic: t.Topic, Value: []byte(t.value(op, n))})
		}
		for _, r := range cl.ProduceSync(ctx, records...) {
			if r.Err != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", op, r.Err))
				continue
			}
			one := Told{Op: op, Value: string(r.Record.Value), Offset: r.Record.Offset, Epoch: -1}
			if acks == "0" {
				one.Offset = -1 // nobody told the library, which counts from 0
			}
			told = append(told, one)
		}
		cl.Close()
		if err != nil {
			return told, err
		}
	}
	return told, nil
}

func (t Task) franzReads(ctx context.Context) ([]Told, error) {
	var told []Told
	for _, op := range t.groups() {
		inner := ctx
		if op == GroupConsumer {
			inner = context.WithValue(ctx, "opt_in_kafka_next_gen_balancer_beta", true) //nolint:staticcheck // the key is the library's
		}
		member := []kgo.Opt{
			kgo.ConsumerGroup(t.group(op)), kgo.ConsumeTopics(t.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		}
		for _, part := range t.members() {
			got, err := t.franzConsumes(inner, op, part.step, part.count, true, member...)
			if told = append(told, got...); err != nil {
				return told, err
			}
		}
	}
	got, err := t.franzConsumes(ctx, Assign, "", t.Rest, false,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.Topic: {0: kgo.NewOffset().At(t.From)}}))
	if told = append(told, got...); err != nil {
		return told, err
	}
	return t.franzAsks(ctx, told)
}

// franzConsumes handles a number of records; a member commits the last one's
// position and asks for it again.
func (t Task) franzConsumes(ctx context.Context, op, step string, count int, commits bool, opts ...kgo.Opt) ([]Told, error) {
	cl, err := t.franzClient(ctx, opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var told []Told
	var last *kgo.Record
	for len(told) < count {
		fetches := cl.PollRecords(ctx, count-len(told))
		if err := fetches.Err(); err != nil {
			return told, fmt.Errorf("%s: %d of %d records: %w", op, len(told), count, err)
		}
		for _, r := range fetches.Records() {
			told, last = append(told, Told{Op: op, Step: step, Value: string(r.Value), Offset: r.Offset, Epoch: int64(r.LeaderEpoch)}), r
		}
	}
	if !commits {
		return told, nil
	}
	if err := cl.CommitRecords(ctx, last); err != nil {
		return told, fmt.Errorf("%s: commit: %w", op, err)
	}
	committed, err := kadm.NewClient(cl).FetchOffsets(ctx, t.group(op))
	if err != nil {
		return told, fmt.Errorf("%s: %w", op, err)
	}
	at, _ := committed.Lookup(t.Topic, 0)
	return append(told, Told{Op: op, Step: step + " committed", Offset: at.At, Epoch: int64(at.LeaderEpoch)}), nil
}

func (t Task) franzAsks(ctx context.Context, told []Told) ([]Told, error) {
	cl, err := t.franzClient(ctx)
	if err != nil {
		return told, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	for _, at := range t.Times {
		offsets, err := adm.ListOffsetsAfterMilli(ctx, at, t.Topic)
		if err != nil {
			return told, err
		}
		o, _ := offsets.Lookup(t.Topic, 0)
		if o.Err != nil {
			return told, o.Err
		}
		told = append(told, Told{Op: OffsetByTime, Time: at, Offset: o.Offset, Epoch: int64(o.LeaderEpoch)})
	}
	md, err := adm.Metadata(ctx, t.Topic)
	if err != nil {
		return told, err
	}
	told = append(told, identity(ClusterID, md.Cluster), identity(TopicID, Base64ID(md.Topics[t.Topic].ID)))
	for _, b := range md.Brokers {
		told = append(told, identity(NodeID, strconv.Itoa(int(b.NodeID))))
	}
	told = append(told, identity(Leader, strconv.Itoa(int(md.Topics[t.Topic].Partitions[0].Leader))))
	settings, err := adm.DescribeTopicConfigs(ctx, t.Topic)
	if err != nil {
		return told, err
	}
	of, err := settings.On(t.Topic, nil)
	if err != nil {
		return told, err
	}
	for _, c := range of.Configs {
		if c.Key == "cleanup.policy" {
			told = append(told, identity(Setting, c.MaybeValue()))
		}
	}
	return told, of.Err
}

// sarama runs sarama with its defaults.
func (t Task) sarama(ctx context.Context) ([]Told, error) {
	if t.Write {
		return t.saramaWrites()
	}
	return t.saramaReads(ctx)
}

func (t Task) saramaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.ClientID, c.Version = t.Kind, sarama.V2_8_0_0
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	return c
}

func (t Task) saramaWrites() ([]Told, error) {
	var told []Told
	for _, op := range Producing {
		acks, idempotent := producing(op)
		c := t.saramaConfig()
		c.Producer.Return.Successes, c.Producer.Partitioner = true, sarama.NewManualPartitioner
		c.Producer.RequiredAcks = map[string]sarama.RequiredAcks{"0": sarama.NoResponse, "1": sarama.WaitForLocal, "all": sarama.WaitForAll}[acks]
		if idempotent {
			c.Producer.Idempotent, c.Net.MaxOpenRequests = true, 1 // the second is sarama's own condition for the first
		}
		producer, err := sarama.NewSyncProducer(t.Bootstrap, c)
		if err != nil {
			return told, err
		}
		for n := range t.Records {
			_, offset, sendErr := producer.SendMessage(&sarama.ProducerMessage{Topic: t.Topic, Value: sarama.StringEncoder(t.value(op, n))})
			if sendErr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", op, sendErr))
				break
			}
			if acks == "0" {
				offset = -1 // nobody told the library, which leaves 0
			}
			told = append(told, Told{Op: op, Value: t.value(op, n), Offset: offset, Epoch: -1})
		}
		if err := errors.Join(err, producer.Close()); err != nil {
			return told, err
		}
	}
	return told, nil
}

func (t Task) saramaReads(ctx context.Context) ([]Told, error) {
	var told []Told
	for _, part := range t.members() {
		got, err := t.saramaMember(ctx, part.step, part.count)
		if told = append(told, got...); err != nil {
			return told, err
		}
	}
	cl, err := sarama.NewClient(t.Bootstrap, t.saramaConfig())
	if err != nil {
		return told, err
	}
	defer func() { _ = cl.Close() }() // it only asks
	got, err := t.saramaAssigned(ctx, cl)
	if told = append(told, got...); err != nil {
		return told, err
	}
	for _, at := range t.Times {
		offset, err := cl.GetOffset(t.Topic, 0, at)
		if err != nil {
			return told, err
		}
		told = append(told, Told{Op: OffsetByTime, Time: at, Offset: offset, Epoch: -1})
	}
	for _, b := range cl.Brokers() {
		told = append(told, identity(NodeID, strconv.Itoa(int(b.ID()))))
	}
	leader, err := cl.Leader(t.Topic, 0)
	if err != nil {
		return told, err
	}
	told = append(told, identity(Leader, strconv.Itoa(int(leader.ID()))))
	admin, err := sarama.NewClusterAdminFromClient(cl)
	if err != nil {
		return told, err
	}
	settings, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: t.Topic, ConfigNames: []string{"cleanup.policy"}})
	for _, s := range settings {
		told = append(told, identity(Setting, s.Value))
	}
	return told, err
}

func (t Task) saramaAssigned(ctx context.Context, cl sarama.Client) ([]Told, error) {
	consumer, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		return nil, err
	}
	pc, err := consumer.ConsumePartition(t.Topic, 0, t.From)
	if err != nil {
		return nil, err
	}
	defer pc.AsyncClose()
	var told []Told
	for len(told) < t.Rest {
		select {
		case m := <-pc.Messages():
			told = append(told, Told{Op: Assign, Value: string(m.Value), Offset: m.Offset, Epoch: -1})
		case <-ctx.Done():
			return told, fmt.Errorf("%s: %d of %d records: %w", Assign, len(told), t.Rest, ctx.Err())
		}
	}
	return told, nil
}

func (t Task) saramaMember(ctx context.Context, step string, count int) ([]Told, error) {
	c := t.saramaConfig()
	c.Consumer.Offsets.AutoCommit.Enable = false
	group, err := sarama.NewConsumerGroup(t.Bootstrap, t.group(GroupClassic), c)
	if err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &saramaMember{step: step, count: count, done: cancel}
	for inner.Err() == nil && err == nil { // Consume returns at each rebalance
		err = group.Consume(inner, []string{t.Topic}, m)
	}
	if err := errors.Join(err, group.Close()); err != nil && len(m.told) < count {
		return m.told, fmt.Errorf("%s: %d of %d records: %w", GroupClassic, len(m.told), count, err)
	}
	if len(m.told) < count {
		return m.told, fmt.Errorf("%s: %d of %d records: %w", GroupClassic, len(m.told), count, ctx.Err())
	}
	admin, err := sarama.NewClusterAdmin(t.Bootstrap, t.saramaConfig())
	if err != nil {
		return m.told, err
	}
	defer func() { _ = admin.Close() }() // it only asks
	committed, err := admin.ListConsumerGroupOffsets(t.group(GroupClassic), map[string][]int32{t.Topic: {0}})
	if err != nil {
		return m.told, err
	}
	block := committed.GetBlock(t.Topic, 0)
	return append(m.told, Told{Op: GroupClassic, Step: step + " committed", Offset: block.Offset, Epoch: int64(block.LeaderEpoch)}), nil
}

// saramaMember handles count records, commits, and ends.
type saramaMember struct {
	step  string
	count int
	done  func()
	told  []Told // owned by the one claim, read when it is over
}

func (*saramaMember) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*saramaMember) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (m *saramaMember) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case r, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			m.told = append(m.told, Told{Op: GroupClassic, Step: m.step, Value: string(r.Value), Offset: r.Offset, Epoch: -1})
			s.MarkMessage(r, "")
			if len(m.told) == m.count {
				s.Commit()
				m.done()
				return nil
			}
		case <-s.Context().Done():
			return nil
		}
	}
}
