package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
)

// admin implements broker.Admin.
type admin struct {
	cluster *Cluster
	sarama  client
}

var _ broker.Admin = (*admin)(nil)

func (a *admin) close() error { return a.sarama.close() }

// named is how the site calls a topic or group. sarama has connections of its own, which know
// no namespace.
func (a *admin) named(name string) string { return a.cluster.config.Namespace.Name(name) }

// call runs f with sarama and puts its errors into this project's words.
func (a *admin) call(ctx context.Context, what string, f func(sarama.ClusterAdmin) error) error {
	err := a.sarama.call(ctx, a.cluster.config, f)
	if err == nil {
		return nil
	}
	var answered sarama.KError
	if errors.As(err, &answered) {
		err = fmt.Errorf("%w (%w)", sentinel(kerr.ErrorForCode(int16(answered))), err)
	}
	return fmt.Errorf("site %s: %s: %w", a.cluster.config.Site, what, err)
}

// CreateTopic implements broker.Admin.
func (a *admin) CreateTopic(ctx context.Context, name string, partitions int32, replication int16, configs map[string]string) error {
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: replication, ConfigEntries: map[string]*string{}}
	for key, value := range configs {
		detail.ConfigEntries[key] = &value
	}
	err := a.call(ctx, "create topic "+name, func(s sarama.ClusterAdmin) error { return s.CreateTopic(a.named(name), detail, false) })
	if err != nil {
		return err
	}
	return a.await(ctx, "create topic "+name, func(m broker.TopicMetadata) bool {
		return led(m) && len(m.Partitions) >= int(partitions)
	}, name)
}

// DeleteTopic implements broker.Admin.
func (a *admin) DeleteTopic(ctx context.Context, name string) error {
	err := a.call(ctx, "delete topic "+name, func(s sarama.ClusterAdmin) error { return s.DeleteTopic(a.named(name)) })
	if err != nil {
		return err
	}
	return a.await(ctx, "delete topic "+name, func(m broker.TopicMetadata) bool { return len(m.Partitions) == 0 }, name)
}

// CreatePartitions implements broker.Admin.
func (a *admin) CreatePartitions(ctx context.Context, name string, count int32) error {
	what := fmt.Sprintf("grow topic %s to %d partitions", name, count)
	err := a.call(ctx, what, func(s sarama.ClusterAdmin) error { return s.CreatePartitions(a.named(name), count, nil, false) })
	if err != nil {
		return err
	}
	return a.await(ctx, what, func(m broker.TopicMetadata) bool { return led(m) && len(m.Partitions) >= int(count) }, name)
}

func led(m broker.TopicMetadata) bool {
	for _, p := range m.Partitions {
		if p.Leader < 0 || p.ErrorCode != 0 {
			return false
		}
	}
	return m.ErrorCode == 0 && len(m.Partitions) > 0
}

// await asks until the metadata shows what was done: brokers learn of it later
// than the controller answers.
func (a *admin) await(ctx context.Context, what string, done func(broker.TopicMetadata) bool, topics ...string) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		m, err := a.cluster.Metadata(ctx, topics...)
		if err != nil {
			return fmt.Errorf("%s: done, but not seen yet: %w", what, err)
		}
		if !slices.ContainsFunc(topics, func(name string) bool { return !done(m.Topics[name]) }) {
			return a.settle(ctx, m, topics)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("site %s: %s: done, but not seen by all brokers yet: %w", a.cluster.config.Site, what, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// settle waits until the leaders themselves know their partitions, which they
// learn a moment after the metadata names them.
func (a *admin) settle(ctx context.Context, m broker.Metadata, topics []string) error {
	if err := a.cluster.Refresh(ctx); err != nil {
		return err
	}
	var tps []spillway.TopicPartition
	for _, name := range topics {
		for _, p := range m.Topics[name].Partitions {
			tps = append(tps, spillway.TopicPartition{Topic: name, Partition: p.Partition})
		}
	}
	for began := time.Now(); ; {
		_, err := a.LogStarts(ctx, tps)
		if err == nil || !mayRetry(err) || ctx.Err() != nil || time.Since(began) > settleMax {
			return err
		}
	}
}

// settleMax is for leaders to make the files of many partitions.
const settleMax = 30 * time.Second

// TopicConfigs implements broker.Admin.
func (a *admin) TopicConfigs(ctx context.Context, topic string) (map[string]broker.ConfigValue, error) {
	var entries []sarama.ConfigEntry
	err := a.call(ctx, "read settings of topic "+topic, func(s sarama.ClusterAdmin) (err error) {
		entries, err = s.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: a.named(topic)})
		return err
	})
	if err != nil {
		return nil, err
	}
	configs := make(map[string]broker.ConfigValue, len(entries))
	for _, e := range entries {
		configs[e.Name] = broker.ConfigValue{Value: e.Value, Default: e.Source != sarama.SourceTopic}
	}
	return configs, nil
}

// BrokerConfig implements broker.Admin.
func (a *admin) BrokerConfig(ctx context.Context, name string) (map[int32]string, error) {
	md, err := a.cluster.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	values := make(map[int32]string, len(md.Nodes))
	for _, n := range md.Nodes {
		value, known, err := a.cluster.brokerConfig(ctx, n.ID, name)
		if err != nil {
			return nil, fmt.Errorf("read setting %s of broker %d: %w", name, n.ID, err)
		}
		if known {
			values[n.ID] = value
		}
	}
	return values, nil
}

// SetTopicConfigs implements broker.Admin.
func (a *admin) SetTopicConfigs(ctx context.Context, topic string, configs map[string]*string) error {
	entries := make(map[string]sarama.IncrementalAlterConfigsEntry, len(configs))
	for key, value := range configs {
		operation := sarama.IncrementalAlterConfigsOperationSet
		if value == nil {
			operation = sarama.IncrementalAlterConfigsOperationDelete
		}
		entries[key] = sarama.IncrementalAlterConfigsEntry{Operation: operation, Value: value}
	}
	return a.call(ctx, "change settings of topic "+topic, func(s sarama.ClusterAdmin) error {
		return s.IncrementalAlterConfig(sarama.TopicResource, a.named(topic), entries, false)
	})
}

// DeleteGroup implements broker.Admin.
func (a *admin) DeleteGroup(ctx context.Context, group string) error {
	return a.call(ctx, "delete group "+group, func(s sarama.ClusterAdmin) error { return s.DeleteConsumerGroup(a.named(group)) })
}
