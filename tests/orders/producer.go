package orders

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/orders/history"
)

// Libraries that producers may use.
const (
	Franz  = "franz-go"
	Sarama = "sarama"
)

// Producer is one producing client, named as in the history.
type Producer struct {
	Name    string
	Library string // Franz (default) or Sarama
	Plain   bool   // without idempotence
	Acks    string // "all" (default), "1" or "0"; less than all needs Plain
}

// sender is a client library. Send calls for one partition keep their order;
// done is called once, from any goroutine.
type sender interface {
	send(p history.ID, key string, value []byte, done func(offset int64, err error))
	// close gives up what is outstanding, which is then told as failed.
	close() error
}

// shop sends records under one name and writes down what it is told.
type shop struct {
	name   string
	rec    *history.Recorder
	counts *counts
	sender sender

	mu struct {
		sync.Mutex
		counters map[place]int64 // the next counter
	}
}

func openShop(bootstrap []string, spec Producer, rec *history.Recorder, counts *counts) (*shop, error) {
	s := &shop{name: spec.Name, rec: rec, counts: counts}
	s.mu.counters = map[place]int64{}
	var err error
	if spec.Library == Sarama {
		s.sender, err = newSarama(bootstrap, spec)
	} else {
		s.sender, err = newFranz(bootstrap, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("producer %s: %w", spec.Name, err)
	}
	rec.Record(history.Event{Kind: history.Start, Client: spec.Name, Role: history.Producer, Idempotent: !spec.Plain, Acks: spec.Acks})
	return s, nil
}

// send numbers a payload and hands it to the library. Number, history and
// library see the same order, since the lock spans all three.
func (s *shop) send(p history.Payload, topic string, partition int32, done func(history.ID, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := place{topic, partition}
	id := history.ID{Producer: s.name, Topic: topic, Partition: partition, Counter: s.mu.counters[at]}
	s.mu.counters[at]++
	p.ID = id
	s.counts.sent.Add(1)
	s.rec.Record(history.Event{Kind: history.Invoke, Client: s.name, Payload: id})
	s.sender.send(id, p.Order, p.Encode(), func(offset int64, err error) {
		e := history.Event{Kind: history.Ack, Client: s.name, Payload: id, Offset: offset}
		if err != nil {
			e = history.Event{Kind: history.Fail, Client: s.name, Payload: id, Error: err.Error()}
			s.counts.failed.Add(1)
		} else {
			s.counts.ack(at, offset)
		}
		s.rec.Record(e)
		done(id, err)
	})
}

func (s *shop) close() error {
	err := s.sender.close()
	s.rec.Record(history.Event{Kind: history.Stop, Client: s.name})
	return err
}

// franz sends with franz-go, which retries without end.
type franz struct {
	client *kgo.Client
}

func newFranz(bootstrap []string, spec Producer) (*franz, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(bootstrap...),
		kgo.ClientID(spec.Name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.UnknownTopicRetries(-1),
	}
	if spec.Plain {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	switch spec.Acks {
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()))
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()))
	}
	client, err := kgo.NewClient(opts...)
	return &franz{client: client}, err
}

func (f *franz) send(id history.ID, key string, value []byte, done func(int64, error)) {
	r := &kgo.Record{Topic: id.Topic, Partition: id.Partition, Key: []byte(key), Value: value}
	f.client.Produce(context.Background(), r, func(r *kgo.Record, err error) { done(r.Offset, err) })
}

func (f *franz) close() error {
	f.client.Close()
	return nil
}
