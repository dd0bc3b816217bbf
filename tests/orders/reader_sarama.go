package orders

import (
	"context"
	"errors"
	"sync"

	"github.com/IBM/sarama"

	"spillway/tests/orders/history"
)

func (d *desk) saramaConfig() *sarama.Config {
	cfg := sarama.NewConfig()
	cfg.ClientID = d.client
	cfg.Version = sarama.V2_8_0_0
	cfg.Consumer.Return.Errors = true
	cfg.Consumer.IsolationLevel = sarama.ReadCommitted
	cfg.Consumer.Offsets.Initial = sarama.OffsetOldest
	if d.spec.CommitEvery > 0 {
		cfg.Consumer.Offsets.AutoCommit.Interval = d.spec.CommitEvery
	}
	return cfg
}

// saramaAssign reads all partitions from the stored positions on, one partition
// consumer each, until ctx ends or one of them ends for good.
func (d *desk) saramaAssign(ctx context.Context, partitions int32) error {
	consumer, err := sarama.NewConsumer(d.bootstrap, d.saramaConfig())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var reading sync.WaitGroup
	for at, offset := range d.starts(partitions) {
		if offset == history.NoOffset {
			offset = sarama.OffsetOldest
		}
		var pc sarama.PartitionConsumer
		if pc, err = consumer.ConsumePartition(at.topic, at.partition, offset); err != nil {
			cancel()
			break
		}
		reading.Go(func() { d.saramaPartition(ctx, at, pc) })
	}
	reading.Wait()
	return errors.Join(err, consumer.Close())
}

func (d *desk) saramaPartition(ctx context.Context, at place, pc sarama.PartitionConsumer) {
	defer pc.AsyncClose()
	for {
		select {
		case m, ok := <-pc.Messages():
			if !ok {
				return
			}
			d.got(at, []message{{m.Offset, m.Value}})
		case err, ok := <-pc.Errors():
			if ok {
				d.readError(at.topic, at.partition, err.Err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// saramaMember reads as a member of the group, until ctx ends. The library
// commits by itself, as by default it does.
func (d *desk) saramaMember(ctx context.Context) error {
	group, err := sarama.NewConsumerGroup(d.bootstrap, d.spec.Group, d.saramaConfig())
	if err != nil {
		return err
	}
	var complaining sync.WaitGroup
	complaining.Go(func() {
		for err := range group.Errors() {
			d.readError("", 0, err)
		}
	})
	for ctx.Err() == nil {
		if err := group.Consume(ctx, Topics, (*saramaHandler)(d)); err != nil {
			d.readError("", 0, err)
			pause(ctx)
		}
	}
	err = group.Close()
	complaining.Wait()
	return err
}

// saramaHandler is a desk as sarama wants to call it.
type saramaHandler desk

// Setup is called when partitions were assigned.
func (h *saramaHandler) Setup(s sarama.ConsumerGroupSession) error {
	for topic, ps := range s.Claims() {
		for _, p := range ps {
			h.rec.Record(history.Event{Kind: history.Position, Client: h.client, Group: h.spec.Group, Topic: topic, Partition: p, Offset: history.NoOffset})
		}
	}
	return nil
}

// Cleanup is called when they were given away.
func (*saramaHandler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

// ConsumeClaim reads one partition for as long as it is assigned.
func (h *saramaHandler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	d := (*desk)(h)
	for {
		select {
		case m, ok := <-claim.Messages():
			if !ok {
				return nil
			}
			d.got(place{m.Topic, m.Partition}, []message{{m.Offset, m.Value}})
			s.MarkMessage(m, "")
		case <-s.Context().Done():
			return nil
		}
	}
}
