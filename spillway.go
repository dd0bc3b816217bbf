// Package spillway holds the nouns that every other package speaks: sites,
// failover groups, epochs, and the two kinds of offsets. It imports no other
// package of the project, no Kafka library, and does no I/O.
package spillway

import (
	"cmp"
	"fmt"
	"strconv"
)

// SiteID names one Kafka cluster in one place.
type SiteID string

// GatewayID names one gateway process. It is unique among the gateways of a
// virtual cluster and stays the same when the process restarts.
type GatewayID string

// Epoch is the term of a share. It only rises; an aborted move raises it too.
// The first epoch is 1.
type Epoch int32

// Offset is a virtual offset: the number that clients of the virtual cluster
// see. It is the offset that the record's first site gave it plus the constant
// of the epoch in which it was written, and is never used twice.
type Offset int64

// LocalOffset is an offset in the numbering of one site's own log.
type LocalOffset int64

// TopicPartition names one partition. The name is the same at all sites.
type TopicPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

// String returns "topic-partition", as Kafka's own tools print it.
func (tp TopicPartition) String() string { return fmt.Sprintf("%s-%d", tp.Topic, tp.Partition) }

// Compare orders by topic, then by partition.
func (tp TopicPartition) Compare(o TopicPartition) int {
	return cmp.Or(cmp.Compare(tp.Topic, o.Topic), cmp.Compare(tp.Partition, o.Partition))
}

// ShareID names one share of a failover group.
type ShareID struct {
	Group string `json:"group"`
	Index int    `json:"index"`
}

// String returns "group/index".
func (id ShareID) String() string { return id.Group + "/" + strconv.Itoa(id.Index) }
