// Package broker is one cluster as the other packages see it: metadata,
// connections, and the administration that mirrors and failover need. Adapters
// are broker/kafka and broker/embedded; broker/brokertest is the contract that
// both pass. It knows neither federation nor mirror.
package broker

import (
	"context"

	"spillway"
	"spillway/broker/conn"
)

// Capabilities is what an adapter or a cluster can do. Nobody asks for names
// or versions of brokers (C40).
type Capabilities struct {
	// LogEndOffset: ListOffsets with replica id −2 answers the log end and
	// not the high watermark (C9).
	LogEndOffset bool
	// DescribeProducers lists also non-transactional producers, so it is a
	// restart point for a mirror (experiments C).
	DescribeProducers bool
	// ProducerExpiry: brokers forget producers by the age of their records,
	// so a mirror needs its aged mode (C3).
	ProducerExpiry bool
	// ACLs: an authorizer exists, so the resource fence works.
	ACLs bool
	// Replicas: partitions have replicas that may trail, so the high watermark
	// may lie below the log end. No test on one broker can see this.
	Replicas bool
	// TimestampLimits: records from the future are refused.
	TimestampLimits bool
	// FirstSequenceOnEmptyPartition: a partition never written accepts a
	// producer that starts at a sequence other than 0.
	FirstSequenceOnEmptyPartition bool
	// SequenceWrap: the sequence after 2^31−1 is 0.
	SequenceWrap bool
	// ProducerEpochPerPartition: producer epochs are checked by partition and
	// not over the whole cluster.
	ProducerEpochPerPartition bool
	// LogAppendTime: the broker writes its own time into batches of topics
	// that ask for it.
	LogAppendTime bool
	// ConsumerGroupV2: the group protocol of KIP-848.
	ConsumerGroupV2 bool
	// Durable: acknowledged records survive the end of the process.
	Durable bool
	// ProducersDurable: so does the memory of producers' last batches. Where
	// it does not, a resend after a crash is appended a second time.
	ProducersDurable bool
	// TransactionOutcome: coordinators tell whether the last transaction of a producer was
	// committed. Where they do not it is Empty, like one that was aborted.
	TransactionOutcome bool
	// DiskSpace: brokers tell how much room the volumes of their logs have (KIP-827).
	DiskSpace bool
}

// Node is one broker.
type Node struct {
	ID   int32
	Host string
	Port int32
	Rack string
}

// PartitionMetadata is one partition; Leader is −1 while there is none.
type PartitionMetadata struct {
	Partition   int32
	Leader      int32
	LeaderEpoch int32
	Replicas    []int32
	ISR         []int32
	ErrorCode   int16 // Kafka's error code, 0 if none
}

// TopicMetadata is one topic; partitions ascend.
type TopicMetadata struct {
	Name       string
	ID         [16]byte
	Internal   bool
	Partitions []PartitionMetadata
	ErrorCode  int16
}

// Metadata is what a cluster says about itself.
type Metadata struct {
	ClusterID  string
	Controller int32
	Nodes      []Node
	Topics     map[string]TopicMetadata
}

// CoordinatorKind says whose coordinator is looked up (FindCoordinator).
type CoordinatorKind int8

// Kinds of coordinators.
const (
	GroupCoordinator       CoordinatorKind = 0
	TransactionCoordinator CoordinatorKind = 1
)

// AnyNode makes Dial use whichever bootstrap address answers.
const AnyNode int32 = -1

// Cluster is one site's cluster. All methods may be called by any goroutine.
type Cluster interface {
	Site() spillway.SiteID
	Capabilities() Capabilities

	// Dial opens a connection of the caller's own to a node, authenticated
	// and with versions negotiated. Node AnyNode: any bootstrap address.
	Dial(ctx context.Context, node int32) (*conn.Conn, error)

	// Address of a node, as far as it is known without a question. A connection to another
	// one leads to where the node was.
	Address(node int32) (address string, known bool)

	// Metadata asks the cluster; without names, for all topics. Topics that
	// do not exist are in the answer with their error code.
	Metadata(ctx context.Context, topics ...string) (Metadata, error)

	// Leader of a partition, cached. Errors: ErrUnknownTopic, ErrNoLeader.
	Leader(ctx context.Context, tp spillway.TopicPartition) (node int32, err error)

	// KnownLeader is Leader where that needs no question.
	KnownLeader(tp spillway.TopicPartition) (node int32, known bool)

	// Coordinator of a group or transactional id, cached.
	Coordinator(ctx context.Context, kind CoordinatorKind, key string) (node int32, err error)

	// Relocate asks anew who coordinates groups or transactional ids. What is known of
	// others stays. Call it after NOT_COORDINATOR.
	Relocate(ctx context.Context, kind CoordinatorKind, keys ...string) error

	// Refresh drops the caches of Leader and Coordinator and asks for the
	// nodes anew. Call it after NOT_LEADER_OR_FOLLOWER or a lost connection.
	Refresh(ctx context.Context) error

	Admin() Admin

	// Close closes the cluster's own connections and waits for their
	// goroutines. Connections made by Dial are their callers'.
	Close() error
}

// Moved tells whether the node that a connection leads to is known to be elsewhere by now: the
// process there may live on, and say for ever that it coordinates nothing.
func Moved(c Cluster, to *conn.Conn) bool {
	now, known := c.Address(to.Config().Node)
	return known && now != to.Config().Address
}
