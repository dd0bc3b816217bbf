package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"spillway"
	"spillway/mirror/maptopic"
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
// topics that others feed, which is an error.
//
// The source's map must have been read up to now since the topics were listed.
func (m *Mirror) allowed(s *source, tps []spillway.TopicPartition) (allowed []spillway.TopicPartition, circular []string, err error) {
	if !m.config.IdentitySources {
		return tps, nil, nil // the record of a failover group says who feeds whom
	}
	known := make(map[string]bool)
	for _, tp := range tps {
		ok, seen := known[tp.Topic]
		if !seen {
			theirs := s.origin(tp.Topic)
			ours, fed := m.reader.Origin(tp.Topic)
			switch {
			case theirs.From(m.site):
				circular = append(circular, tp.Topic)
			case fed && (ours.Site != theirs.Site || ours.Topic != theirs.Topic):
				err = fmt.Errorf("topic %s of site %s gets its records from topic %s of site %s; topic %s of site %s needs another name here", tp.Topic, m.site, ours.Topic, ours.Site, theirs.Topic, theirs.Site)
			default:
				ok = true
			}
			known[tp.Topic] = ok
		}
		if ok {
			allowed = append(allowed, tp)
		}
	}
	return allowed, circular, err
}

// claimTopics writes down that this source feeds the topics of the partitions.
func (m *Mirror) claimTopics(ctx context.Context, s *source, tps []spillway.TopicPartition) error {
	if !m.config.IdentitySources {
		return nil
	}
	entries := make(map[string]maptopic.Entry)
	for _, tp := range tps {
		o := s.origin(tp.Topic)
		if there, ok := m.reader.Origin(tp.Topic); !ok || there.Site != o.Site || there.Topic != o.Topic || !slices.Equal(there.Before, o.Before) {
			entries[tp.Topic] = maptopic.OriginEntry(tp.Topic, o)
		}
	}
	if len(entries) == 0 {
		return nil
	}
	at, err := m.writer.Save(ctx, slices.Collect(maps.Values(entries))...)
	if err != nil {
		return err
	}
	return m.reader.WaitFor(ctx, at)
}

// circular are the topics that a share's flow leaves out.
func (m *Mirror) circular(id spillway.ShareID) []string {
	s, err := m.share(id)
	if err != nil {
		return nil // the mirror was closed
	}
	s.mu.Lock()
	f := s.mu.flow
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.mu.circular)
}
