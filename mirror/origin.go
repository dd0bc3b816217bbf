package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/selection"
)

// Without a control plane nothing says which flows there are, so each writes down at
// its target where the records of a topic come from: before it creates the topic, so
// that whoever sees the topic can know. From there a flow sees that it would carry
// records back to where they were, and that another flow feeds a topic already.

// origin is what a flow from this source writes about a topic.
func (s *source) origin(topic string) maptopic.Origin {
	o := maptopic.Origin{Site: s.site, Topic: s.onWire(spillway.TopicPartition{Topic: topic}).Topic}
	if before, ok := s.reader.Origin(o.Topic); ok {
		o.Before = append([]spillway.SiteID{before.Site}, before.Before...)
	}
	return o
}

// allowed leaves out the partitions whose records were at this site before, which is
// as it should be where two sites send each other what is their own, and those of
// topics that others feed, or that were carried by other rules, which is an error.
//
// The source's map must have been read up to now since the topics were listed.
func (m *Mirror) allowed(s *source, tps []spillway.TopicPartition) (allowed []spillway.TopicPartition, circular []string, err error) {
	var faults []error
	ok := make(map[string]bool)
	counts := partitionCounts(tps)
	for _, topic := range slices.Sorted(maps.Keys(counts)) {
		if err := m.rewritten(s, topic, counts[topic]); err != nil {
			faults = append(faults, err)
			continue
		}
		if !m.config.IdentitySources {
			ok[topic] = true // the record of a failover group says who feeds whom
			continue
		}
		theirs := s.origin(topic)
		ours, fed := m.reader.Origin(topic)
		switch {
		case theirs.From(m.site):
			circular = append(circular, topic)
		case fed && (ours.Site != theirs.Site || ours.Topic != theirs.Topic):
			faults = append(faults, fmt.Errorf("topic %s of site %s gets its records from topic %s of site %s; topic %s of site %s needs another name here, or that flow has to be given up (spillway mirror release)",
				topic, m.site, ours.Topic, ours.Site, theirs.Topic, theirs.Site))
		default:
			ok[topic] = true
		}
	}
	allowed = slices.DeleteFunc(slices.Clone(tps), func(tp spillway.TopicPartition) bool { return !ok[tp.Topic] })
	return allowed, circular, errors.Join(faults...)
}

// claimTopics writes down that this source feeds the topics of the partitions, and by
// which rules, and leaves out those that another flow has claimed at the same time and
// before.
func (m *Mirror) claimTopics(ctx context.Context, s *source, tps []spillway.TopicPartition) ([]spillway.TopicPartition, error) {
	if !m.config.IdentitySources {
		return tps, nil
	}
	entries := make(map[string]maptopic.Entry)
	var all []maptopic.Entry
	for topic, count := range partitionCounts(tps) {
		o := s.origin(topic)
		if there, ok := m.reader.Origin(topic); !ok || !slices.Equal(there.Before, o.Before) {
			entries[topic] = maptopic.OriginEntry(topic, o)
			all = append(all, entries[topic])
		}
		if _, holds := m.reader.Rewrite(topic, count); !holds {
			all = append(all, maptopic.RewriteEntry(topic, m.config.Rewrite.Of(o.Topic)))
		}
	}
	if len(all) == 0 {
		return tps, nil
	}
	if err := m.saveAndRead(ctx, all); err != nil {
		return nil, err
	}
	ours, _, conflict := m.allowed(s, tps)
	if conflict == nil {
		return ours, nil
	}
	var back []maptopic.Entry
	for topic := range entries {
		if first, ok := m.reader.Origin(topic); ok && first.Site != s.site {
			back = append(back, maptopic.NoOriginEntry(topic, s.site))
		}
	}
	return ours, errors.Join(conflict, m.saveAndRead(ctx, back))
}

// rewritten refuses to go on with a topic whose records were carried by other rules: which
// of them are missing, and which were left out, nobody could tell any more.
func (m *Mirror) rewritten(s *source, topic string, partitions int32) error {
	there, holds := m.reader.Rewrite(topic, partitions)
	if !holds {
		return nil // as is asked for now
	}
	asked := m.config.Rewrite.Of(s.onWire(spillway.TopicPartition{Topic: topic}).Topic)
	switch {
	case asked.Equal(there):
		return nil
	case !m.config.IdentitySources:
		return fmt.Errorf("topic %s of site %s was carried with %s by spillway mirror run, and a failover group needs all records as they are; use a topic of another name", topic, m.site, there)
	default:
		return fmt.Errorf("topic %s of site %s was carried with %s, and this flow has %s; give it what it had, or another name here (--rename)", topic, m.site, there, asked)
	}
}

// circular are the topics that a share's flow leaves out.
func (m *Mirror) circular(id spillway.ShareID) []string {
	s, err := m.share(id)
	if err != nil {
		return nil // the mirror was closed
	}
	f := s.running()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.mu.circular)
}

// fedBy is how a source calls a topic that it feeds here; empty if it does not.
func (m *Mirror) fedBy(src *source, topic string) string {
	if !m.config.IdentitySources {
		return topic
	}
	o, known := m.reader.Origin(topic)
	if !known || o.Site != src.site || selection.TopicsOf(src.cluster).NameAt(o.Topic) != topic {
		return ""
	}
	return o.Topic
}

// Released is a topic whose flow was given up.
type Released struct {
	Topic string `json:"topic"`
	maptopic.Origin
}

// Release has topics of a cluster forget which flow feeds them, so that another one
// may, or the one back: to be done when the former has ended for good. Records and
// offsets that were mirrored stay as they are.
func Release(ctx context.Context, c broker.Cluster, topics selection.Topics) ([]Released, error) {
	r := maptopic.Tail(ctx, c, nil)
	defer r.Close()
	if err := r.CaughtUp(ctx); err != nil {
		return nil, err
	}
	released := []Released{}
	var entries []maptopic.Entry
	for topic, o := range r.Origins() {
		if topics.NameAt(topic) != "" {
			released = append(released, Released{topic, o})
			entries = append(entries, maptopic.NoOriginEntry(topic, o.Site))
		}
	}
	slices.SortFunc(released, func(a, b Released) int { return strings.Compare(a.Topic, b.Topic) })
	if len(entries) == 0 {
		return released, nil
	}
	w := maptopic.NewWriter(ctx, c, -1)
	defer w.Close()
	_, err := w.Save(ctx, entries...)
	return released, err
}
