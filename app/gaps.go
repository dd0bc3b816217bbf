package app

import (
	"context"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
)

// Gaps reads a site's gap log from its map topic. A site that was never
// mirrored to has none.
func Gaps(ctx context.Context, c broker.Cluster) ([]maptopic.Gap, error) {
	m, err := c.Metadata(ctx, spillway.MapTopic)
	if err != nil {
		return nil, err
	}
	if t, ok := m.Topics[spillway.MapTopic]; !ok || len(t.Partitions) == 0 {
		return nil, nil
	}
	r := maptopic.Tail(ctx, c, nil)
	defer r.Close()
	if err := r.CaughtUp(ctx); err != nil {
		return nil, err
	}
	return r.Gaps(), nil
}
