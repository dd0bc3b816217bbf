package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

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

// has tells whether a partition is of the share.
func (a Assignment) has(tp spillway.TopicPartition) bool {
	return a.covers(tp.Topic) && (a.Owns == nil || a.Owns(tp))
}

// partitionsAt lists the assignment's partitions at a site.
func (a Assignment) partitionsAt(ctx context.Context, c broker.Cluster) ([]spillway.TopicPartition, error) {
	md, err := c.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("list topics of site %s: %w", c.Site(), err)
	}
	var tps []spillway.TopicPartition
	for _, name := range slices.Sorted(maps.Keys(md.Topics)) {
		t := md.Topics[name]
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
	return tps, nil // partitions ascend
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
	return m.batchBytesMax(ctx, slices.Sorted(maps.Keys(counts)))
}

// createTopics creates topics with the settings that they have at the source. That
// these are the mirror's own is in the map before, for all at once: there may be
// thousands, and the source may be far away.
func (m *Mirror) createTopics(ctx context.Context, from *source, names []string, counts map[string]int32) error {
	if len(names) == 0 {
		return nil
	}
	nothing := make(settings, len(names))
	for _, name := range names {
		nothing[name] = map[string]string{}
	}
	plans, err := m.planSettings(ctx, from, names, func() (settings, error) { return nothing, nil })
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
	created, err := m.makeTopics(ctx, from, plans, counts)
	return errors.Join(err, m.createdHere(ctx, created))
}

// makeTopics creates topics, and returns those that nobody else has created meanwhile.
// A broker that does not know a setting still can hold the topic; what it then refuses is
// in the gap log.
func (m *Mirror) makeTopics(ctx context.Context, from *source, plans []topicPlan, counts map[string]int32) (created []string, err error) {
	first := make(map[string]error) // why a topic was not created as it should be
	var faults []error
	for _, with := range []func(topicPlan) []metadata.Change{topicPlan.changes, func(p topicPlan) []metadata.Change { return p.settings.Changes }, nil} {
		var topics []broker.NewTopic
		for _, p := range plans {
			t := broker.NewTopic{Name: p.name, Partitions: counts[p.name], Replication: m.config.Replication, Configs: make(map[string]string)}
			if with != nil {
				for _, c := range with(p) {
					t.Configs[c.Key] = *c.New
				}
			}
			topics = append(topics, t)
		}
		made, refused, err := m.local.Admin().CreateTopics(ctx, topics)
		for _, name := range made {
			m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindTopic, Name: name, What: fmt.Sprintf("created with %d partitions", counts[name])})
		}
		created = append(created, made...)
		if err != nil {
			return created, err
		}
		plans = slices.DeleteFunc(slices.Clone(plans), func(p topicPlan) bool {
			err, is := refused[p.name]
			if is && first[p.name] == nil {
				first[p.name] = err
			}
			switch {
			case !is, errors.Is(err, broker.ErrTopicExists):
				return true
			case with != nil && forSettings(err):
				return false
			}
			faults = append(faults, fmt.Errorf("create topic %s/%s with %d partitions: %w", m.site, p.name, counts[p.name], first[p.name]))
			return true
		})
		if len(plans) == 0 {
			break
		}
	}
	return created, errors.Join(faults...)
}

// forSettings tells whether a topic may have been refused for its settings. All else
// passes, or would be refused without them too.
func forSettings(err error) bool {
	return errors.Is(err, kerr.InvalidConfig) || errors.Is(err, kerr.InvalidRequest) || errors.Is(err, kerr.PolicyViolation)
}

// batchBytesDefault is Kafka's max.message.bytes.
const batchBytesDefault = 1048588

// batchBytesMax is the largest batch that each topic takes. Topics that do not exist are
// left out.
func (m *Mirror) batchBytesMax(ctx context.Context, topics []string) (map[string]int, error) {
	values, err := m.local.Admin().TopicValues(ctx, topics, "max.message.bytes")
	if err != nil {
		return nil, fmt.Errorf("how large a batch topics of site %s take: %w", m.site, err)
	}
	limits := make(map[string]int, len(values))
	for name, value := range values {
		limits[name] = batchBytesDefault
		if n, err := strconv.Atoi(value); err == nil && n > 0 {
			limits[name] = n
		}
	}
	return limits, nil
}
