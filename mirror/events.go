package mirror

import (
	"time"

	"spillway"
	"spillway/mirror/maptopic"
)

// Events is how the mirror tells what happened. A nil func is skipped, a slow
// one slows the mirror, so listeners only count or enqueue.
type Events struct {
	BatchMirrored  func(BatchInfo)
	MarkPublished  func(Mark)
	GapLogged      func(maptopic.Gap)
	Resync         func(ResyncInfo)
	ForeignWriter  func(ForeignInfo)
	SessionOpened  func(SessionInfo)
	FlowState      func(FlowInfo) // about once a second per flow
	FlowEnded      func(FlowInfo) // the last word of a flow
	GroupCarried   func(GroupInfo)
	PartitionState func(PartitionInfo) // a partition stopped or runs again
	Metadata       func(MetadataInfo)
	RecordsLeftOut func(LeftOutInfo)
	Workers        func(WorkersInfo) // of a flow: one has come or gone
	Throttled      func(ThrottleInfo)
}

// BatchInfo is one batch that was appended and compared.
type BatchInfo struct {
	spillway.TopicPartition
	Source, Target spillway.SiteID
	Records, Bytes int
	Rebuilt        bool  // decoded and written anew
	Aged           bool  // older than the target remembers producers
	MaxTimestamp   int64 // milliseconds since 1970
}

// LeftOutInfo are records that filters left out. Those of batches that are planned again
// after a fault count once; a process that dies may have told of some that its successor
// tells of again.
type LeftOutInfo struct {
	spillway.TopicPartition
	Source, Target spillway.SiteID
	Records        int64
}

// ResyncInfo says why a partition's position was read back from the target.
type ResyncInfo struct {
	spillway.TopicPartition
	Target spillway.SiteID
	Why    string
}

// ForeignInfo says that others wrote to a partition that only the mirror writes.
type ForeignInfo struct {
	spillway.TopicPartition
	Target   spillway.SiteID
	From, To spillway.LocalOffset // hidden
	Stale    bool                 // another mirror, not a client
}

// SessionInfo is one opened append session.
type SessionInfo struct {
	spillway.TopicPartition
	Target  spillway.SiteID
	Session int64
	Local   spillway.LocalOffset
	Virtual spillway.Offset
}

// ThrottleInfo is a pause that a broker asked for, since the mirror's principal has a quota
// at that site. What goes over other brokers goes on.
type ThrottleInfo struct {
	Site   spillway.SiteID
	Node   int32
	Target bool // records are written there; else they are read
	Pause  time.Duration
}

// PartitionInfo is a change of one partition's state; Problem is empty when it runs.
type PartitionInfo struct {
	spillway.TopicPartition
	Share          spillway.ShareID
	Source, Target spillway.SiteID
	Problem        string
}

// Kinds of metadata.
const (
	KindTopic      = "topic" // was created
	KindPartitions = "partitions"
	KindSetting    = "setting" // of a topic
	KindACL        = "acl"
	KindQuota      = "quota"
)

// Kinds of MetadataInfo.
var Kinds = []string{KindTopic, KindPartitions, KindSetting, KindACL, KindQuota}

// MetadataInfo is something that the mirror changed at its site beside records, or
// could not change.
type MetadataInfo struct {
	Source, Target spillway.SiteID
	Kind           string
	Name           string // of the topic, or of what else it is about
	What           string // was done, in a sentence
	Kept           bool   // What differs from the source, and was left so
	Problem        string // why nothing was done; tried again
}

// FlowInfo is the state of one flow: a share and the site that feeds it.
type FlowInfo struct {
	Share          spillway.ShareID
	Source, Target spillway.SiteID
	Epoch          spillway.Epoch
	Partitions     int // of this worker
	Elsewhere      int // partitions of other workers
	Running        int
	LagRecords     int64 // at the source and not yet here, as far as known
	// UndecidedRecords are those of LagRecords that open transactions hold back at the
	// source: no reader of committed records can have them yet.
	UndecidedRecords int64
	LagTime          time.Duration // since when the target may lack what the source has and transactions do not hold back; 0 while nothing is known that it lacks
	CatchingUp       bool          // since it began, it never had everything that the source had
	Problem          string        // of the flow as a whole; empty if there is none
	Problems         map[spillway.TopicPartition]string
	// HeldBack is for how long open transactions have held back the same records of a
	// partition, the longest of all; HeldBackBy says which, and whose. Where transactions
	// overlap, each that ends begins it anew.
	HeldBack   time.Duration
	HeldBackBy string
	// DeletionsBehind is for how long a partition of a compacted topic has not been level
	// with the source, as a part of the time for which deletions are kept there, the longest.
	// At 1 they may be missed.
	DeletionsBehind float64
	// Hanging tells of transactions that are open for longer than TransactionWait.
	Hanging map[spillway.TopicPartition]string
	// GroupAge is for how long the positions of a consumer group have not been carried, the
	// longest, GroupBehind which it is and why, and GroupsBehind how many there are; zero if
	// all are carried.
	GroupAge     time.Duration
	GroupBehind  string
	GroupsBehind int
	// MemoryBytes are held of records by all flows of the mirror, MemoryBytesMax may be.
	MemoryBytes, MemoryBytesMax int64
	// Workers share the flow; none where a control plane says who writes.
	Workers []WorkerShare
}

// GroupInfo is one consumer group whose offsets were carried over.
type GroupInfo struct {
	Share      spillway.ShareID
	Group      string
	Partitions int
}

// And tells two listeners.
func (e Events) And(o Events) Events {
	return Events{
		BatchMirrored:  both(e.BatchMirrored, o.BatchMirrored),
		MarkPublished:  both(e.MarkPublished, o.MarkPublished),
		GapLogged:      both(e.GapLogged, o.GapLogged),
		Resync:         both(e.Resync, o.Resync),
		ForeignWriter:  both(e.ForeignWriter, o.ForeignWriter),
		SessionOpened:  both(e.SessionOpened, o.SessionOpened),
		FlowState:      both(e.FlowState, o.FlowState),
		FlowEnded:      both(e.FlowEnded, o.FlowEnded),
		GroupCarried:   both(e.GroupCarried, o.GroupCarried),
		PartitionState: both(e.PartitionState, o.PartitionState),
		Metadata:       both(e.Metadata, o.Metadata),
		RecordsLeftOut: both(e.RecordsLeftOut, o.RecordsLeftOut),
		Workers:        both(e.Workers, o.Workers),
		Throttled:      both(e.Throttled, o.Throttled),
	}
}

func both[T any](a, b func(T)) func(T) {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(v T) {
		a(v)
		b(v)
	}
}

func (e *Events) batchMirrored(i BatchInfo) {
	if e.BatchMirrored != nil {
		e.BatchMirrored(i)
	}
}

func (e *Events) markPublished(m Mark) {
	if e.MarkPublished != nil {
		e.MarkPublished(m)
	}
}

func (e *Events) gapLogged(g maptopic.Gap) {
	if e.GapLogged != nil {
		e.GapLogged(g)
	}
}

func (e *Events) resync(i ResyncInfo) {
	if e.Resync != nil {
		e.Resync(i)
	}
}

func (e *Events) foreignWriter(i ForeignInfo) {
	if e.ForeignWriter != nil {
		e.ForeignWriter(i)
	}
}

func (e *Events) sessionOpened(i SessionInfo) {
	if e.SessionOpened != nil {
		e.SessionOpened(i)
	}
}

func (e *Events) flowState(i FlowInfo) {
	if e.FlowState != nil {
		e.FlowState(i)
	}
}

func (e *Events) flowEnded(i FlowInfo) {
	if e.FlowEnded != nil {
		e.FlowEnded(i)
	}
}

func (e *Events) groupCarried(i GroupInfo) {
	if e.GroupCarried != nil {
		e.GroupCarried(i)
	}
}

func (e *Events) partitionState(i PartitionInfo) {
	if e.PartitionState != nil {
		e.PartitionState(i)
	}
}

func (e *Events) workersChanged(i WorkersInfo) {
	if e.Workers != nil {
		e.Workers(i)
	}
}

func (e *Events) metadata(i MetadataInfo) {
	if e.Metadata != nil {
		e.Metadata(i)
	}
}

func (e *Events) recordsLeftOut(i LeftOutInfo) {
	if e.RecordsLeftOut != nil && i.Records > 0 {
		e.RecordsLeftOut(i)
	}
}

func (e *Events) throttled(i ThrottleInfo) {
	if e.Throttled != nil {
		e.Throttled(i)
	}
}
