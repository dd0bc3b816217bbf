package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
)

// kafkaGo runs segmentio's kafka-go with its defaults, but for the time it waits for a batch
// to fill.
func (t Task) kafkaGo(ctx context.Context) ([]Told, error) {
	if t.Write {
		return t.kafkaGoWrites(ctx)
	}
	return t.kafkaGoReads(ctx)
}

func (t Task) kafkaGoWrites(ctx context.Context) ([]Told, error) {
	var told []Told
	for _, op := range t.producing() {
		acks, _ := producing(op)
		level := map[string]kafka.RequiredAcks{"0": kafka.RequireNone, "1": kafka.RequireOne, "all": kafka.RequireAll}[acks]
		var answers []kafka.Message // written by the one call for the one partition
		transport := &kafka.Transport{ClientID: t.Kind}
		w := &kafka.Writer{
			Addr: kafka.TCP(t.Bootstrap...), Topic: t.Topic, RequiredAcks: level, BatchTimeout: 10 * time.Millisecond, Transport: transport,
			Completion: func(messages []kafka.Message, _ error) { answers = append(answers, messages...) },
		}
		var records []kafka.Message
		for n := range t.Records {
			records = append(records, kafka.Message{Value: []byte(t.value(op, n))})
		}
		err := w.WriteMessages(ctx, records...)
		if err := errors.Join(err, w.Close()); err != nil {
			return told, fmt.Errorf("%s: %w", op, err)
		}
		transport.CloseIdleConnections()
		for _, m := range answers {
			one := Told{Op: op, Value: string(m.Value), Offset: m.Offset, Epoch: -1}
			if acks == "0" {
				one.Offset = -1 // nobody told the library, which counts from 0
			}
			told = append(told, one)
		}
	}
	return told, nil
}

func (t Task) kafkaGoReads(ctx context.Context) ([]Told, error) {
	var told []Told
	for _, op := range t.groups() {
		for _, part := range t.members() {
			got, err := t.kafkaGoMember(ctx, op, part)
			if told = append(told, got...); err != nil {
				return told, err
			}
		}
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: t.Bootstrap, Topic: t.Topic, Partition: 0, Dialer: t.kafkaGoDialer(), MaxWait: 200 * time.Millisecond})
	err := r.SetOffset(t.From)
	for n := 0; n < t.Rest && err == nil; n++ {
		var m kafka.Message
		if m, err = r.ReadMessage(ctx); err == nil {
			told = append(told, Told{Op: Assign, Value: string(m.Value), Offset: m.Offset, Epoch: -1})
		}
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return told, fmt.Errorf("%s: %d of %d records: %w", Assign, len(of(told, Assign)), t.Rest, err)
	}
	got, err := t.kafkaGoAsks(ctx)
	return append(told, got...), err
}

func of(told []Told, op string) (some []Told) {
	for _, one := range told {
		if one.Op == op {
			some = append(some, one)
		}
	}
	return some
}

func (t Task) kafkaGoDialer() *kafka.Dialer {
	return &kafka.Dialer{ClientID: t.Kind, Timeout: 10 * time.Second}
}

// kafkaGoMember handles a number of records, commits, and leaves.
func (t Task) kafkaGoMember(ctx context.Context, op string, part member) (told []Told, err error) {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: t.Bootstrap, Topic: t.Topic, GroupID: t.group(op), StartOffset: kafka.FirstOffset, Dialer: t.kafkaGoDialer(), MaxWait: 200 * time.Millisecond,
	})
	defer func() { err = errors.Join(err, r.Close()) }()
	for len(told) < part.count {
		m, err := r.FetchMessage(ctx)
		if err != nil {
			return told, fmt.Errorf("%s: %d of %d records: %w", op, len(told), part.count, err)
		}
		told = append(told, Told{Op: op, Step: part.step, Value: string(m.Value), Offset: m.Offset, Epoch: -1})
		if len(told) == part.count {
			if err := r.CommitMessages(ctx, m); err != nil {
				return told, fmt.Errorf("%s: commit: %w", op, err)
			}
		}
	}
	cl, done := t.kafkaGoClient()
	defer done()
	at, err := cl.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: t.group(op), Topics: map[string][]int{t.Topic: {0}}})
	if err != nil {
		return told, fmt.Errorf("%s: %w", op, err)
	}
	return append(told, Told{Op: op, Step: part.step + " committed", Offset: at.Topics[t.Topic][0].CommittedOffset, Epoch: -1}), nil
}

func (t Task) kafkaGoClient() (cl *kafka.Client, done func()) {
	transport := &kafka.Transport{ClientID: t.Kind}
	return &kafka.Client{Addr: t.kafkaGoAddress(), Transport: transport}, transport.CloseIdleConnections
}

func (t Task) kafkaGoAddress() net.Addr { return kafka.TCP(t.Bootstrap...) }

func (t Task) kafkaGoAsks(ctx context.Context) ([]Told, error) {
	cl, done := t.kafkaGoClient()
	defer done()
	var told []Told
	for _, at := range t.Times {
		answer, err := cl.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{t.Topic: {kafka.TimeOffsetOf(0, time.UnixMilli(at))}}})
		if err != nil {
			return told, err
		}
		for offset := range answer.Topics[t.Topic][0].Offsets {
			told = append(told, Told{Op: OffsetByTime, Time: at, Offset: offset, Epoch: -1})
		}
	}
	md, err := cl.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{t.Topic}})
	if err != nil {
		return told, err
	}
	told = append(told, identity(ClusterID, md.ClusterID))
	for _, b := range md.Brokers {
		told = append(told, identity(NodeID, strconv.Itoa(b.ID)))
	}
	told = append(told, identity(Leader, strconv.Itoa(md.Topics[0].Partitions[0].Leader.ID)))
	settings, err := cl.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{
		{ResourceType: kafka.ResourceTypeTopic, ResourceName: t.Topic, ConfigNames: []string{"cleanup.policy"}},
	}})
	if err != nil {
		return told, err
	}
	for _, entry := range settings.Resources[0].ConfigEntries {
		told = append(told, identity(Setting, entry.ConfigValue))
	}
	return told, nil
}
