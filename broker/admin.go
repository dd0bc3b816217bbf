package broker

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"spillway"
)

// ConfigValue is one setting of a topic.
type ConfigValue struct {
	Value   string
	Default bool // inherited, not set on the topic itself
}

// NewTopic is a topic to be created. Partitions and replication −1: the cluster's
// defaults.
type NewTopic struct {
	Name        string
	Partitions  int32
	Replication int16
	Configs     map[string]string
}

// SettingOp is what is done to one setting.
type SettingOp int8

// Operations, numbered as in Kafka. The last two are for lists.
const (
	SetSetting      SettingOp = 0
	ResetSetting    SettingOp = 1 // to its default
	AppendSetting   SettingOp = 2
	SubtractSetting SettingOp = 3
)

// SettingChange changes one setting of a topic.
type SettingChange struct {
	Key   string
	Op    SettingOp
	Value *string // nil with ResetSetting
}

// GroupListing is one consumer group in a list.
type GroupListing struct {
	ID           string
	State        string // as Kafka names it: Empty, Stable, PreparingRebalance, ...
	ProtocolType string
	Type         string // classic or consumer; empty if the cluster does not tell
	Coordinator  int32
}

// GroupMember is one member of a group.
type GroupMember struct {
	ID         string
	InstanceID string
	ClientID   string
	ClientHost string
	Assigned   []spillway.TopicPartition
}

// GroupDescription is one consumer group.
type GroupDescription struct {
	ID       string
	State    string
	Protocol string // assignor
	Members  []GroupMember
}

// GroupOffset is one committed position.
type GroupOffset struct {
	Offset      spillway.LocalOffset
	LeaderEpoch int32 // −1 if none
	Metadata    string
}

// ProducerState is what a partition's leader remembers of one producer.
type ProducerState struct {
	ID              int64
	Epoch           int16
	LastSequence    int32
	LastTimestamp   int64 // milliseconds since 1970
	CurrentTxnStart int64 // first offset of the open transaction, −1 if none
	// CoordinatorEpoch of the last marker of its transactions, −1 if none.
	CoordinatorEpoch int32
}

// TransactionOngoing is the state of a transaction that is neither committed nor aborted
// yet, TransactionNone that of a producer that has begun none, TransactionCommitting that of one which is decided and whose markers are being
// written, TransactionCommitted that of one which has them all, as Kafka names them.
const (
	TransactionOngoing    = "Ongoing"
	TransactionNone       = "Empty"
	TransactionCommitting = "PrepareCommit"
	TransactionCommitted  = "CompleteCommit"
)

// Transaction is the newest transaction of a transactional id, as its coordinator sees it.
type Transaction struct {
	TransactionalID string
	State           string // as Kafka names it: Empty, Ongoing, PrepareCommit, CompleteAbort, ...
	ProducerID      int64
	ProducerEpoch   int16 // −1 where it was not told
}

// LogDir is a directory in which a broker keeps logs.
type LogDir struct {
	Path string
	// Offline: the broker has given it up; nothing else is known of it then.
	Offline bool
	// TotalBytes and UsableBytes are those of its volume; −1: not told.
	TotalBytes, UsableBytes int64
	// Sizes, in bytes, of the partitions that were asked for and lie here.
	Sizes map[spillway.TopicPartition]int64
}

// UndecidedMax is for how long StableGroupOffsets waits for the ends of transactions.
const UndecidedMax = time.Second

// Admin is what mirrors, failover and operators do to a cluster. Every method
// retries what may be retried for itself within ctx (not leader, coordinator
// moved) and returns errors that name site and request.
type Admin interface {
	// CreateTopic returns when the topic has leaders. partitions and
	// replication −1: the cluster's defaults. Error: ErrTopicExists.
	CreateTopic(ctx context.Context, name string, partitions int32, replication int16, configs map[string]string) error
	// CreateTopics creates many, some with each request, and returns when they have
	// leaders. refused has the topics that the cluster did not create, with its reason:
	// ErrTopicExists for one. One that is there after an attempt without an answer counts
	// as created. With an error nothing is said of those that are in
	// neither: they may have been created.
	CreateTopics(ctx context.Context, topics []NewTopic) (created []string, refused map[string]error, err error)
	// CheckTopics asks whether topics could be created so, and creates none. refused has
	// those that could not, with the cluster's reason.
	CheckTopics(ctx context.Context, topics []NewTopic) (refused map[string]error, err error)
	// DeleteTopic: ErrUnknownTopic if there is none.
	DeleteTopic(ctx context.Context, name string) error
	// CreatePartitions grows a topic to count partitions.
	CreatePartitions(ctx context.Context, name string, count int32) error
	TopicConfigs(ctx context.Context, topic string) (map[string]ConfigValue, error)
	// TopicSettings reads what is set on the topics themselves and not inherited.
	// Topics that do not exist are left out. With an error, the settings are those
	// that could be read.
	TopicSettings(ctx context.Context, topics []string) (map[string]map[string]string, error)
	// TopicValues reads one setting of many topics as it holds for them, inherited or
	// not. Topics that do not exist, or know no such setting, are left out.
	TopicValues(ctx context.Context, topics []string, key string) (map[string]string, error)
	// SetTopicConfigs changes only the named settings; nil resets one to its default.
	SetTopicConfigs(ctx context.Context, topic string, configs map[string]*string) error
	// AlterTopic changes settings of a topic, or with checkOnly asks whether it could.
	AlterTopic(ctx context.Context, topic string, changes []SettingChange, checkOnly bool) error
	// BrokerConfig reads one setting of every broker, by node id. Brokers that
	// do not tell it are left out.
	BrokerConfig(ctx context.Context, name string) (map[int32]string, error)

	// LogDirs are the directories of every broker, by node id. With an error, those of the
	// brokers that told them.
	LogDirs(ctx context.Context, tps []spillway.TopicPartition) (map[int32][]LogDir, error)
	// Features are those that the cluster has finalized (KIP-584), with their levels.
	Features(ctx context.Context) (map[string]int16, error)

	// ListGroups: with an error, the groups of the brokers that answered.
	ListGroups(ctx context.Context) ([]GroupListing, error)
	// DescribeGroup: state "Dead" for a group that does not exist.
	DescribeGroup(ctx context.Context, group string) (GroupDescription, error)
	FetchGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]GroupOffset, error)
	// StableGroupOffsets waits a moment, UndecidedMax, for transactions of which the group's coordinator
	// has not heard the end yet. Positions that are undecided after that are the older ones.
	StableGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]GroupOffset, error)
	// CommitGroupOffsets commits without being a member. ErrGroupActive if
	// the group has members.
	CommitGroupOffsets(ctx context.Context, group string, offsets map[spillway.TopicPartition]GroupOffset) error
	// RemoveMembers makes all members leave the group, of both protocols, as
	// if they had asked for it. A group without members is no error.
	RemoveMembers(ctx context.Context, group string) error
	// DeleteGroup: ErrGroupActive, ErrUnknownGroup.
	DeleteGroup(ctx context.Context, group string) error

	// LogEnds are the ends of the leaders' logs, acknowledged or not (C9).
	// On a cluster without that capability they are the high watermarks.
	LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error)
	HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error)
	// StableEnds are the last stable offsets: where readers of committed records
	// end, because of an open transaction or of replicas that lack the rest. Where not
	// all could be found, those that were come with the error.
	StableEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error)
	// LogStarts are the first offsets that readers may ask for. Where not all could be found,
	// those that were come with the error.
	LogStarts(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error)
	// LogBounds are LogStarts and StableEnds for who asks again in any case: each leader is
	// asked once, and if it refuses, or does not answer, nothing of what others know of the
	// cluster is forgotten. Who leads is to be asked anew then (Cluster.Metadata). Where not
	// all could be found, those that were come with the error.
	LogBounds(ctx context.Context, tps []spillway.TopicPartition) (starts, ends map[spillway.TopicPartition]spillway.LocalOffset, err error)
	// OffsetsForTime is the first offset at or after a time in milliseconds
	// since 1970, −1 where there is none.
	OffsetsForTime(ctx context.Context, tps []spillway.TopicPartition, milliseconds int64) (map[spillway.TopicPartition]spillway.LocalOffset, error)

	// NewProducerID has the cluster hand out a producer id, which nobody uses.
	NewProducerID(ctx context.Context) (int64, error)
	// DescribeProducers of one partition. An empty answer for a log that has
	// records means "forgotten", not "none" (experiments C).
	DescribeProducers(ctx context.Context, tp spillway.TopicPartition) ([]ProducerState, error)

	// AbortTransaction ends a producer's open transaction in one partition as
	// aborted, over the head of its coordinator, as kafka-transactions.sh does.
	AbortTransaction(ctx context.Context, tp spillway.TopicPartition, of ProducerState) error

	// OpenTransactions are those that are not ended, markers included. Without producer epochs.
	OpenTransactions(ctx context.Context) ([]Transaction, error)
	// DescribeTransaction: ErrUnknownTransactionalID for an id that was never used, or
	// not for long.
	DescribeTransaction(ctx context.Context, transactionalID string) (Transaction, error)
	// EndTransaction takes a transactional id over: its coordinator aborts what is open
	// and refuses the producer that had it. ErrTransactionEnding while one is being ended:
	// ask again.
	EndTransaction(ctx context.Context, transactionalID string) error

	// DenyWrite is the resource fence: principal ("User:name") may no longer
	// write these topics, whatever else allows it. AllowWrite takes exactly
	// that back. Both may be repeated. ErrNotSupported without an authorizer.
	DenyWrite(ctx context.Context, principal string, topics []string) error
	AllowWrite(ctx context.Context, principal string, topics []string) error

	// ACLs are all entries about topics and groups. ErrNotSupported without an
	// authorizer, here and for the three that follow.
	ACLs(ctx context.Context) ([]spillway.ACL, error)
	// AllACLs are those about everything else too: the cluster, transactional ids, and
	// what newer releases know.
	AllACLs(ctx context.Context) ([]spillway.ACL, error)
	// CreateACLs and DeleteACLs change exactly these. Both may be repeated.
	CreateACLs(ctx context.Context, acls []spillway.ACL) error
	DeleteACLs(ctx context.Context, acls []spillway.ACL) error

	// Quotas are those of clients, by entity.
	Quotas(ctx context.Context) (map[QuotaEntity]map[string]float64, error)
	// SetQuota changes only the named values; nil removes one.
	SetQuota(ctx context.Context, entity QuotaEntity, values map[string]*float64) error
	// ScramUsers are the users that have SCRAM credentials, with their mechanisms;
	// the credentials themselves cannot be read.
	ScramUsers(ctx context.Context) (map[string][]string, error)
}

// QuotaEntity is whom a quota binds: parts like user=alice, sorted and joined by
// commas, with names escaped as in URLs; a name that is missing is the default
// for all of that kind.
type QuotaEntity string

// NewQuotaEntity makes one of names by kind (user, client-id, ip); nil: the default.
func NewQuotaEntity(parts map[string]*string) QuotaEntity {
	words := make([]string, 0, len(parts))
	for kind, name := range parts {
		word := kind
		if name != nil {
			word += "=" + url.QueryEscape(*name)
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return QuotaEntity(strings.Join(words, ","))
}

// Parts takes it apart again.
func (e QuotaEntity) Parts() (map[string]*string, error) {
	parts := make(map[string]*string)
	for word := range strings.SplitSeq(string(e), ",") {
		kind, escaped, named := strings.Cut(word, "=")
		if !named {
			parts[kind] = nil
			continue
		}
		name, err := url.QueryUnescape(escaped)
		if err != nil {
			return nil, fmt.Errorf("quota entity %q: %w", e, err)
		}
		parts[kind] = &name
	}
	return parts, nil
}
