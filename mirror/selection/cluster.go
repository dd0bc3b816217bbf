package selection

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"spillway"
	"spillway/broker"
)

// Of shows the topics of a cluster that are meant, under their names at the target.
// What is shown is for reading: to create or change a topic through it is refused.
// Spillway's own topics are shown as they are.
func Of(c broker.Cluster, topics Topics) broker.Cluster {
	return &selected{Cluster: c, topics: topics}
}

// OnWire tells how a cluster's brokers call a topic; nil: as the cluster does.
// Of a topic that the cluster does not show (any more) it is false: by its name there
// may be another one.
func OnWire(c broker.Cluster) func(topic string) (name string, ok bool) {
	s, ok := c.(*selected)
	if !ok {
		return nil
	}
	return func(topic string) (string, bool) {
		name, err := s.there(topic)
		return name, err == nil
	}
}

type selected struct {
	broker.Cluster
	topics Topics

	mu     sync.Mutex
	source map[string]string // by the name at the target, that at the source
}

// there is the name at the source of a topic that was shown.
func (s *selected) there(topic string) (string, error) {
	if strings.HasPrefix(topic, spillway.InternalTopicPrefix) {
		return topic, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name, ok := s.source[topic]
	if !ok {
		return "", fmt.Errorf("topic %s of site %s: %w", topic, s.Site(), broker.ErrUnknownTopic)
	}
	return name, nil
}

// here are the topics that were shown: by the name at the source, that at the target.
func (s *selected) here() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	here := make(map[string]string, len(s.source))
	for name, there := range s.source {
		here[there] = name
	}
	return here
}

// Metadata asks for all topics: which of them have a name shows only there.
func (s *selected) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	if len(topics) > 0 && !slices.ContainsFunc(topics, func(t string) bool { return !strings.HasPrefix(t, spillway.InternalTopicPrefix) }) {
		return s.Cluster.Metadata(ctx, topics...)
	}
	md, err := s.Cluster.Metadata(ctx)
	if err != nil {
		return md, err
	}
	source, err := s.topics.names(slices.Sorted(maps.Keys(md.Topics)))
	if err != nil {
		return md, err
	}
	s.mu.Lock()
	s.source = source
	s.mu.Unlock()
	all := md.Topics
	md.Topics = make(map[string]broker.TopicMetadata, len(source))
	for name, there := range source {
		t := all[there]
		t.Name = name
		md.Topics[name] = t
	}
	if len(topics) == 0 {
		return md, nil
	}
	asked := make(map[string]broker.TopicMetadata, len(topics))
	for _, name := range topics {
		t, ok := md.Topics[name]
		if !ok {
			t = broker.TopicMetadata{Name: name, ErrorCode: unknownTopic}
		}
		asked[name] = t
	}
	md.Topics = asked
	return md, nil
}

// unknownTopic is Kafka's UNKNOWN_TOPIC_OR_PARTITION.
const unknownTopic = 3

func (s *selected) Leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	name, err := s.there(tp.Topic)
	if err != nil {
		return -1, err
	}
	return s.Cluster.Leader(ctx, spillway.TopicPartition{Topic: name, Partition: tp.Partition})
}

func (s *selected) KnownLeader(tp spillway.TopicPartition) (int32, bool) {
	name, err := s.there(tp.Topic)
	if err != nil {
		return -1, false
	}
	return s.Cluster.KnownLeader(spillway.TopicPartition{Topic: name, Partition: tp.Partition})
}

func (s *selected) Admin() broker.Admin { return &admin{s.Cluster.Admin(), s} }
