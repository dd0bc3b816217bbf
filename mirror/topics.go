package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/mirror/metadata"
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

// ensureTopics creates the topics that the source has and this site has not,
// and grows those that are smaller. It returns the largest batch each takes.
func (m *Mirror) ensureTopics(ctx context.Context, from *source, tps []spillway.TopicPartition) (map[string]int, error) {
	counts := partitionCounts(tps)
	if len(counts) == 0 {
		return nil, nil
	}
	md, err := m.local.Metadata(ctx, slices.Sorted(maps.Keys(counts))...)
	if err != nil {
		return nil, fmt.Errorf("list topics of site %s: %w", m.site, err)
	}
	limits := make(map[string]int, len(counts))
	var existing []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		count := counts[name]
		t := md.Topics[name]
		switch {
		case !exists(t):
			if err := m.createTopic(ctx, from, name, count); err != nil {
				return nil, err
			}
			continue
		case len(t.Partitions) < int(count):
			if err := m.local.Admin().CreatePartitions(ctx, name, count); err != nil {
				return nil, fmt.Errorf("grow topic %s/%s to %d partitions: %w", m.site, name, count, err)
			}
			m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindPartitions, Name: name, What: fmt.Sprintf("grown from %d to %d partitions", len(t.Partitions), count)})
		}
		existing = append(existing, name)
	}
	if from != nil { // nil: its site is lost, and this one is about to serve
		if err := m.borrowSettings(ctx, from, existing); err != nil {
			return nil, err
		}
	}
	for name := range counts {
		if limits[name], err = m.batchBytesMax(ctx, name); err != nil {
			return nil, err
		}
	}
	return limits, nil
}

// createTopic creates a topic with the settings that it has at the source. That
// they are the mirror's own is in the map before.
func (m *Mirror) createTopic(ctx context.Context, from *source, name string, count int32) error {
	plans, err := m.planSettings(ctx, from, []string{name}, map[string]map[string]string{name: {}})
	if err != nil {
		return fmt.Errorf("create topic %s/%s: %w", m.site, name, err)
	}
	if len(plans) == 0 { // it was deleted at the source meanwhile
		return fmt.Errorf("create topic %s/%s: %w at site %s", m.site, name, broker.ErrUnknownTopic, from.site)
	}
	if from != nil {
		plans[0].known.Created = &metadata.Created{From: plans[0].source}
	}
	p := plans[0]
	if err := m.saveTopics(ctx, plans, topicPlan.intent); err != nil {
		return err
	}
	all, carried := make(map[string]string), make(map[string]string)
	for _, c := range p.settings.Changes {
		all[c.Key], carried[c.Key] = *c.New, *c.New
	}
	for _, c := range p.borrows {
		all[c.Key] = *c.New
	}
	// A broker that does not know a setting still can hold the topic; what it
	// then refuses is in the gap log.
	for _, configs := range []map[string]string{all, carried, nil} {
		again := m.local.Admin().CreateTopic(ctx, name, count, m.config.Replication, configs)
		if again == nil {
			m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindTopic, Name: name, What: fmt.Sprintf("created with %d partitions", count)})
			return m.createdHere(ctx, name)
		}
		if errors.Is(again, broker.ErrTopicExists) {
			return nil
		}
		if err == nil {
			err = again
		}
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("create topic %s/%s with %d partitions: %w", m.site, name, count, err)
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
