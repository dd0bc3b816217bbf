package sitelog

import (
	"context"
	"fmt"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/mirror/selection"
)

// PartitionReader fetches from one partition, over one connection to its leader. It
// belongs to one goroutine.
type PartitionReader struct {
	Cluster broker.Cluster
	Of      spillway.TopicPartition

	conn *conn.Conn
}

// Fetch asks the leader for at most so many bytes from an offset on; the topic's name on
// the wire is the cluster's business. After an error Close drops the connection, and
// Refresh of the cluster what is cached about leaders.
func (r *PartitionReader) Fetch(ctx context.Context, from spillway.LocalOffset, bytesMax int, o FetchOptions) (Fetched, error) {
	if r.conn == nil {
		node, err := r.Cluster.Leader(ctx, r.Of)
		if err != nil {
			return Fetched{}, err
		}
		if r.conn, err = r.Cluster.Dial(ctx, node); err != nil {
			return Fetched{}, err
		}
	}
	o.OnWire = selection.OnWire(r.Cluster)
	parts, err := Fetch(ctx, r.conn, []FetchPart{{TopicPartition: r.Of, Offset: from, BytesMax: bytesMax}}, o)
	if err != nil {
		return Fetched{}, err
	}
	if len(parts) != 1 {
		return Fetched{}, fmt.Errorf("%d partitions in the answer for one", len(parts))
	}
	return parts[0], parts[0].Err
}

// Close ends the connection. Another Fetch opens one again.
func (r *PartitionReader) Close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}
