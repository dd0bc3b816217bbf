package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/rewrite"
)

// Lease is the right to write one target partition. Once lost it stays lost:
// whoever regains it is given another Lease, since somebody else may have had
// it in between.
type Lease interface {
	// Held tells whether the lease is valid at now.
	Held(now time.Time) bool
}

// Config of a Mirror. Worker, Local and Sources are required.
type Config struct {
	// Worker is unique per process start: it tells append sessions apart.
	Worker string
	// Local is the site that is fed.
	Local broker.Cluster
	// Sources are the other sites.
	Sources map[spillway.SiteID]broker.Cluster

	// Claim waits for the lease of a target partition. nil: this worker is
	// the only one and always holds it.
	Claim func(ctx context.Context, tp spillway.TopicPartition) (Lease, error)
	// Lead, if set, tells that several processes may feed the site under a control plane:
	// they share what flows in, without Claim. It returns the lease of the one that leads,
	// which does what moves ask for, and nil in all others.
	Lead func() Lease
	// IdentitySources are taken to serve all their topics in epoch 1 at
	// virtual = local where they have no map topic (mirror run).
	IdentitySources bool

	Replication       int16         // of topics created here; default −1: the cluster's
	FetchBytesMax     int           // of one answer, about; default 16 MiB
	PartitionBytesMax int           // of one partition in an answer; default 2 MiB
	FetchWait         time.Duration // how long a source may wait for new records; default 500 ms
	ProduceTimeout    time.Duration // the target's bound for replication; default 10 s
	TopicInterval     time.Duration // how often topics are looked up; default 1 s
	GroupInterval     time.Duration // how often group offsets are carried; default 1 s, negative: never
	VerifyInterval    time.Duration // how often the verified end is saved while data flows; default 1 s
	TransactionWait   time.Duration // for transactions of others at the target to end by themselves, before a flow begins; default 1 min
	MetadataInterval  time.Duration // how often topics are compared with the source; default MetadataIntervalDefault, negative: never
	DeletedAfter      time.Duration // for so long a source must lack a topic until that counts as a deletion; default 1 min
	SettingsExcluded  []string      // settings of topics that are not carried, beside metadata.Excluded: exact names, or a prefix followed by "*"
	// ACLs has entries of access control lists about the topics and groups of a
	// flow carried, but for those about PrincipalsExcluded: Spillway's own are each
	// site's.
	ACLs               bool
	PrincipalsExcluded []string
	// Quotas has all quotas of clients carried: only where one source is all there is.
	Quotas bool

	RefusedPause time.Duration // before a refused record is tried again; default 10 s
	// BoundPatience is how long a flow may take to come to the bound of a move; default
	// 1 s. One that takes longer is far behind, or stands: its connections may be left
	// over from a network that was gone. Then another one begins anew.
	BoundPatience time.Duration

	// MemoryBytes bounds what all flows hold of records at the same time: what was asked
	// for, what is written, and copies in requests. A batch that is larger gets through
	// alone. Default MemoryBytesDefault. What a batch decompresses to, where one has to be
	// decoded, comes on top.
	MemoryBytes int64

	quiet quietLimits

	Caps []Cap // of what is fetched; each that fits counts

	// Rewrite has records left out, or something added to them; only without a control
	// plane. The target's map remembers it by topic, and another one is refused.
	Rewrite rewrite.Rules
	// RepackBytes has batches that were fetched together written as one of so many bytes,
	// compressed, or of what the target takes, if that is less; 0: never. Only without a
	// control plane.
	RepackBytes int

	Events Events
	// Crash is called at every crash point with its name. Only tests set it.
	Crash func(point string)
	Now   func() time.Time // default time.Now
	// Boot is CLOCK_BOOTTIME, which counts while the machine is suspended; default: that
	// of the machine, 0 where there is none.
	Boot func() time.Duration
}

// MetadataIntervalDefault is soon enough for what people change.
const MetadataIntervalDefault = 30 * time.Second

// DecompressedBytesMax bounds one batch that has to be decoded.
const DecompressedBytesMax = 256 << 20

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.FetchWait, 500*time.Millisecond)
	def(&c.ProduceTimeout, 10*time.Second)
	def(&c.TopicInterval, time.Second)
	def(&c.GroupInterval, time.Second)
	def(&c.VerifyInterval, time.Second)
	def(&c.TransactionWait, time.Minute)
	def(&c.RefusedPause, 10*time.Second)
	def(&c.MetadataInterval, MetadataIntervalDefault)
	def(&c.BoundPatience, time.Second)
	def(&c.DeletedAfter, time.Minute)
	if c.Replication == 0 {
		c.Replication = -1
	}
	if c.FetchBytesMax == 0 {
		c.FetchBytesMax = 16 << 20
	}
	if c.PartitionBytesMax == 0 {
		c.PartitionBytesMax = 2 << 20
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = MemoryBytesDefault
	}
	if c.Claim == nil {
		c.Claim = func(context.Context, spillway.TopicPartition) (Lease, error) { return alwaysHeld{}, nil }
	}
	if c.Crash == nil {
		c.Crash = func(string) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.quiet == (quietLimits{}) {
		c.quiet = quietLimits{from: 256, after: 10 * time.Second, laneMax: 250}
	}
	if c.Boot == nil {
		c.Boot = bootTime
	}
	return c
}

// partitionBytesMin is what a partition may bring in one answer, however many
// there are.
const partitionBytesMin = 32 << 10

// answerBytesMax is what a lane asks for at most.
func (c Config) answerBytesMax() int {
	return int(min(int64(4*c.FetchBytesMax), c.MemoryBytes/4/costsCopied))
}

// partitionBytes is what a partition may bring in an answer of so many bytes: few
// partitions have records at the same moment, so each may have four times its share where
// the answer is bounded as a whole.
func (c Config) partitionBytes(partitions, answer int, whole bool) int {
	share := answer / max(partitions, 1)
	if whole {
		share *= 4
	}
	return min(c.PartitionBytesMax, answer, max(partitionBytesMin, share))
}

// Validate reports all faults.
func (c Config) Validate() error {
	var faults []error
	if c.Worker == "" {
		faults = append(faults, errors.New("mirror.worker: is missing; it must be unique per process start"))
	}
	if c.Local == nil {
		faults = append(faults, errors.New("mirror.local: there is no site to feed"))
	}
	for id := range c.Sources {
		if c.Local != nil && id == c.Local.Site() {
			faults = append(faults, fmt.Errorf("mirror.sources: site %s would feed itself", id))
		}
	}
	for key, d := range map[string]time.Duration{"fetchWait": c.FetchWait, "produceTimeout": c.ProduceTimeout, "topicInterval": c.TopicInterval,
		"verifyInterval": c.VerifyInterval, "refusedPause": c.RefusedPause, "transactionWait": c.TransactionWait, "boundPatience": c.BoundPatience, "deletedAfter": c.DeletedAfter} {
		if d < 0 {
			faults = append(faults, fmt.Errorf("mirror.%s: %s is negative", key, d))
		}
	}
	for i, limit := range c.Caps {
		if err := limit.validate(fmt.Sprintf("mirror.caps[%d]", i)); err != nil {
			faults = append(faults, err)
		}
	}
	if (c.Rewrite.Any() || c.RepackBytes != 0) && !c.IdentitySources {
		faults = append(faults, errors.New("mirror.rewrite, mirror.repackBytes: flows of failover groups carry all records as they are, for a failover would lose what a filter leaves out; use spillway mirror run"))
	}
	if c.Lead != nil && (c.Claim != nil || c.IdentitySources) {
		faults = append(faults, errors.New("mirror.lead: who leads is for several processes under a control plane, which know by themselves what is whose"))
	}
	if c.RepackBytes < 0 || c.RepackBytes > RepackBytesMax {
		faults = append(faults, fmt.Errorf("mirror.repackBytes: %d, want at most %d", c.RepackBytes, RepackBytesMax))
	}
	if c.MemoryBytes != 0 && c.MemoryBytes < MemoryBytesMin {
		faults = append(faults, fmt.Errorf("mirror.memory: %d bytes, want at least %d", c.MemoryBytes, MemoryBytesMin))
	}
	if c.FetchBytesMax < 0 || c.PartitionBytesMax < 0 {
		faults = append(faults, errors.New("mirror.fetchBytesMax, mirror.partitionBytesMax: must not be negative"))
	}
	return errors.Join(faults...)
}

type alwaysHeld struct{}

func (alwaysHeld) Held(time.Time) bool { return true }

// CrashPoints are the steps between which a process may die (promise H), in
// the order in which a record passes them.
var CrashPoints = []string{
	"afterClaim", "afterOpen", "afterFetch", "beforeSaveRanges", "afterSaveRanges", "afterProduceSent", "afterProduceAcked", "beforeMark", "afterMark", "afterVerified",
}
