package mirror

import (
	"context"
	"errors"
	"sync"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/selection"
)

// source is another site, from which records are fetched, with its map.
type source struct {
	site    spillway.SiteID
	cluster broker.Cluster
	reader  *maptopic.Reader

	mu       sync.Mutex
	identity *offsetmap.View // set if the site has no map and is taken as it is
}

// id is the site's name, empty where there is no source.
func (s *source) id() spillway.SiteID {
	if s == nil {
		return ""
	}
	return s.site
}

// view is the source's map of a partition.
func (s *source) view(tp spillway.TopicPartition) *offsetmap.View {
	s.mu.Lock()
	identity := s.identity
	s.mu.Unlock()
	if v := s.reader.View(s.onWire(tp)); identity == nil || !v.Empty() {
		return v
	}
	return identity
}

// onWire is the partition as the source itself calls it, its map as well.
func (s *source) onWire(tp spillway.TopicPartition) spillway.TopicPartition {
	if name := selection.OnWire(s.cluster); name != nil {
		tp.Topic, _ = name(tp.Topic) // "": nothing is known of such a topic
	}
	return tp
}

// ready waits until the map is read up to now. A site without a map topic is
// taken as it is, where the configuration says so.
func (s *source) ready(ctx context.Context, identity bool) error {
	err := s.reader.CaughtUp(ctx)
	if err == nil && !identity {
		return nil
	}
	if identity && (err == nil || errors.Is(err, broker.ErrUnknownTopic)) {
		m := offsetmap.New()
		m.Apply(offsetmap.EpochStart{Epoch: 1})
		s.mu.Lock()
		s.identity = m.View()
		s.mu.Unlock()
		return nil
	}
	return err
}
