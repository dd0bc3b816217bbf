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
func (m *Mirror) ensureTopics(ctx context.Context, a Assignment, from *source, tps []spillway.TopicPartition) (map[string]int, error) {
	counts := partitionCounts(tps)
	for name, count := range counts {
		counts[name] = max(count, a.Total)
	}
	if len(counts) == 0 {
		return nil, nil
	}
	md, err := m.local.Metadata(ctx, slices.Sorted(maps.Keys(counts))...)
	if err != nil {
		return nil, fmt.Errorf("list topics of site %s: %w", m.site, err)
	}
	var existing, absent []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		count := counts[name]
		t := md.Topics[name]
		switch {
		case !exists(t):
			absent = append(absent, name)
			continue
		case len(t.Partitions) < int(count):
			if err := m.local.Admin().CreatePartitions(ctx, name, count); err != nil {
				return nil, fmt.Errorf("grow topic %s/%s to %d partitions: %w", m.site, name, count, err)
			}
			m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindPartitions, Name: name, What: fmt.Sprintf("grown from %d to %d partitions", len(t.Partitions), count)})
		}
		existing = append(existing, name)
	}
	if err := m.createTopics(ctx, from, absent, counts); err != nil {
		return nil, err
	}
	if from != nil { // nil: its site is lost, and this one is about to serve
		if err := m.borrowSettings(ctx, from, existing); err != nil {
			return nil, err
		}
	}
	limits := make(map[string]int, len(counts))
	for name := range counts {
		if limits[name], err = m.batchBytesMax(ctx, name); err != nil {
			return nil, err
		}
	}
	return limits, nil
}

// createTopics creates topics with the settings that they have at the source. That
// these are the mirror's own is in the map before, for all at once: there may be
// thousands, and the source may be far away.
func (m *Mirror) createTopics(ctx context.Context, from *source, names []string, counts map[string]int32) error {
	if len(names) == 0 {
		return nil
	}
	nothing := make(map[string]map[string]string, len(names))
	for _, name := range names {
		nothing[name] = map[string]string{}
	}
	plans, err := m.planSettings(ctx, from, names, nothing)
	if err != nil {
		return fmt.Errorf("create %d topics at site %s: %w", len(names), m.site, err)
	}
	if len(plans) < len(names) {
		return fmt.Errorf("create %d topics at site %s: %w at site %s: some were deleted meanwhile", len(names), m.site, broker.ErrUnknownTopic, from.site)
	}
	for i := range plans {
		if from != nil {
			plans[i].known.Created = &metadata.Created{From: plans[i].source}
		}
	}
	if err := m.saveTopics(ctx, plans, topicPlan.intent); err != nil {
		return err
	}
	var created []string
	for _, p := range plans {
		var made bool
		if made, err = m.createTopic(ctx, from, p, counts[p.name]); err != nil {
			break
		}
		if made {
			created = append(created, p.name)
		}
	}
	return errors.Join(err, m.createdHere(ctx, created))
}

// createTopic tells whether it has created the topic.
func (m *Mirror) createTopic(ctx context.Context, from *source, p topicPlan, count int32) (made bool, err error) {
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
		again := m.local.Admin().CreateTopic(ctx, p.name, count, m.config.Replication, configs)
		if again == nil {
			m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindTopic, Name: p.name, What: fmt.Sprintf("created with %d partitions", count)})
			return true, nil
		}
		if errors.Is(again, broker.ErrTopicExists) {
			return false, nil
		}
		if err == nil {
			err = again
		}
		if ctx.Err() != nil {
			break
		}
	}
	return false, fmt.Errorf("create topic %s/%s with %d partitions: %w", m.site, p.name, count, err)
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
