//go:build e2e

package deploy

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

var backgroundContext = context.Background()

const consumePatience = 30 * time.Second

// site is a deployed cluster as Spillway's own user sees it.
type site struct {
	name    string
	brokers []string
	config  *sarama.Config
}

// openSite also checks that nobody gets in without the password.
func openSite(t *testing.T, inventory string, h *host) *site {
	t.Helper()
	s := &site{name: h.name, brokers: []string{net.JoinHostPort(h.address, "9093")}, config: sarama.NewConfig()}
	s.config.Producer.Return.Successes = true
	s.config.Producer.RequiredAcks = sarama.WaitForAll
	if client, err := sarama.NewClient(s.brokers, s.config); err == nil {
		_ = client.Close()
		t.Errorf("%s serves a client without credentials", s.name)
	}
	s.config.Net.SASL.Enable = true
	s.config.Net.SASL.Mechanism = sarama.SASLTypePlaintext
	s.config.Net.SASL.User, s.config.Net.SASL.Password = "spillway", secret(t, inventory, "kafka-spillway")
	return s
}

// roundTrip creates a topic, writes n records and reads them.
func (s *site) roundTrip(t *testing.T, topic string, n int) {
	t.Helper()
	admin, err := sarama.NewClusterAdmin(s.brokers, s.config)
	must(t, err)
	defer func() { _ = admin.Close() }()
	must(t, admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false))
	producer, err := sarama.NewSyncProducer(s.brokers, s.config)
	must(t, err)
	defer func() { _ = producer.Close() }()
	records := make([]*sarama.ProducerMessage, n)
	for i := range records {
		records[i] = &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(fmt.Sprint(i))}
	}
	must(t, producer.SendMessages(records))
	if read := s.count(t, topic); read != n {
		t.Fatalf("%s: wrote %d records, read %d", s.name, n, read)
	}
}

// count reads the topic up to its end and checks that every record is in its place.
func (s *site) count(t *testing.T, topic string) int {
	t.Helper()
	client, err := sarama.NewClient(s.brokers, s.config)
	must(t, err)
	defer func() { _ = client.Close() }()
	end, err := client.GetOffset(topic, 0, sarama.OffsetNewest)
	must(t, err)
	consumer, err := sarama.NewConsumerFromClient(client)
	must(t, err)
	defer func() { _ = consumer.Close() }()
	partition, err := consumer.ConsumePartition(topic, 0, 0)
	must(t, err)
	defer func() { _ = partition.Close() }()
	deadline := time.After(consumePatience)
	for i := range int(end) {
		select {
		case record := <-partition.Messages():
			if string(record.Value) != fmt.Sprint(i) {
				t.Fatalf("%s: record %d says %q", s.name, i, record.Value)
			}
		case <-deadline:
			t.Fatalf("%s: read %d of %d records in %s", s.name, i, end, consumePatience)
		}
	}
	return int(end)
}
