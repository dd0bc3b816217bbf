package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"spillway"
	"spillway/broker"
)

// matches tells whether a name is meant by one of the patterns: exact names, or
// a prefix followed by "*".
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, ok := strings.CutSuffix(p, "*")
		return p == name || ok && strings.HasPrefix(name, prefix)
	})
}

// covers tells whether the assignment means the topic.
func (a Assignment) covers(topic string) bool {
	if strings.HasPrefix(topic, spillway.InternalTopicPrefix) || strings.HasPrefix(topic, "__") {
		return false
	}
	return matches(a.Topics, topic) && (a.Match == nil || a.Match(topic))
}

// partitionsAt lists the assignment's partitions at a site.
func (a Assignment) partitionsAt(ctx context.Context, c broker.Cluster) ([]spillway.TopicPartition, error) {
	md, err := c.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics of site %s: %w", c.Site(), err)
	}
	var tps []spillway.TopicPartition
	for name, t := range md.Topics {
		if t.ErrorCode != 0 || t.Internal || !a.covers(name) {
			continue
		}
		for _, p := range t.Partitions {
			tp := spillway.TopicPartition{Topic: name, Partition: p.Partition}
			if a.Owns == nil || a.Owns(tp) {
				tps = append(tps, tp)
			}
		}
	}
	slices.SortFunc(tps, spillway.TopicPartition.Compare)
	return tps, nil
}

// configsCopied are the settings of a topic that decide what its log keeps.
// Replication, min.insync.replicas and placement are each site's own.
var configsCopied = []string{
	"cleanup.policy", "retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes",
	"min.compaction.lag.ms", "max.compaction.lag.ms", "segment.bytes", "segment.ms", "min.cleanable.dirty.ratio",
}

// configsOwn are what a topic needs so that its records can be equal to their
// source (C36): no recompression, the producer's times, and any time allowed.
var configsOwn = map[string]string{
	"compression.type":                "producer",
	"message.timestamp.type":          "CreateTime",
	"message.timestamp.before.max.ms": strconv.FormatInt(math.MaxInt64, 10),
	"message.timestamp.after.max.ms":  strconv.FormatInt(math.MaxInt64, 10),
	"unclean.leader.election.enable":  "false",
}

// ensureTopics creates the topics that the source has and this site has not,
// and grows those that are smaller. It returns the largest batch each takes.
func (m *Mirror) ensureTopics(ctx context.Context, from *source, tps []spillway.TopicPartition) (map[string]int, error) {
	counts := make(map[string]int32)
	for _, tp := range tps {
		counts[tp.Topic] = max(counts[tp.Topic], tp.Partition+1)
	}
	if len(counts) == 0 {
		return nil, nil
	}
	md, err := m.local.Metadata(ctx, slices.Sorted(maps.Keys(counts))...)
	if err != nil {
		return nil, fmt.Errorf("list topics of site %s: %w", m.site, err)
	}
	limits := make(map[string]int, len(counts))
	for name, count := range counts {
		t, ok := md.Topics[name]
		switch {
		case !ok || t.ErrorCode != 0 || len(t.Partitions) == 0:
			if err := m.createTopic(ctx, from, name, count); err != nil {
				return nil, err
			}
		case len(t.Partitions) < int(count):
			if err := m.local.Admin().CreatePartitions(ctx, name, count); err != nil {
				return nil, fmt.Errorf("grow topic %s/%s to %d partitions: %w", m.site, name, count, err)
			}
		}
		if limits[name], err = m.batchBytesMax(ctx, name); err != nil {
			return nil, err
		}
	}
	return limits, nil
}

func (m *Mirror) createTopic(ctx context.Context, from *source, name string, count int32) error {
	configs := make(map[string]string)
	if from != nil { // nil: its site is lost
		theirs, err := from.cluster.Admin().TopicConfigs(ctx, name)
		if err != nil {
			return fmt.Errorf("create topic %s/%s: read its settings at %s: %w", m.site, name, from.site, err)
		}
		for _, key := range configsCopied {
			if v, ok := theirs[key]; ok && !v.Default {
				configs[key] = v.Value
			}
		}
	}
	essential := maps.Clone(configs)
	maps.Copy(configs, configsOwn)
	admin := m.local.Admin()
	err := admin.CreateTopic(ctx, name, count, m.config.Replication, configs)
	if err != nil && !errors.Is(err, broker.ErrTopicExists) && ctx.Err() == nil {
		// A broker that does not know one of our own settings still can hold
		// the topic; what it then refuses is in the gap log.
		if again := admin.CreateTopic(ctx, name, count, m.config.Replication, essential); again == nil || errors.Is(again, broker.ErrTopicExists) {
			err = nil
		}
	}
	if err != nil && !errors.Is(err, broker.ErrTopicExists) {
		return fmt.Errorf("create topic %s/%s with %d partitions: %w", m.site, name, count, err)
	}
	return nil
}

// batchBytesDefault is Kafka's max.message.bytes.
const batchBytesDefault = 1048588

func (m *Mirror) batchBytesMax(ctx context.Context, topic string) (int, error) {
	configs, err := m.local.Admin().TopicConfigs(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("read the settings of %s/%s: %w", m.site, topic, err)
	}
	if n, err := strconv.Atoi(configs["max.message.bytes"].Value); err == nil && n > 0 {
		return n, nil
	}
	return batchBytesDefault, nil
}
