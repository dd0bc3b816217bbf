package mirror

import (
	"sync/atomic"
	"time"

	"spillway"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
)

// partition is one target partition of a flow. Whoever has it owns all of it:
// the flow while it is opened, then one lane.
type partition struct {
	spillway.TopicPartition
	lease   Lease
	terms   []Term
	session offsetmap.Session
	position
	// sourceEpoch is the leader epoch of the last fetched batch, −1 unknown:
	// with it the source tells when it has lost records (KIP-595).
	sourceEpoch int32
	epochAt     spillway.LocalOffset // the source offset behind that batch
	// batchBytesMax is what the target topic takes, or less where a batch was too
	// large; topicLimit is the former, and limitSeen its last value.
	batchBytesMax int
	topicLimit    *atomic.Int64
	limitSeen     int64
	pacers        []*pacer // of the caps that bound it
	rules         *rewrite.Partition
	repackBytes   int

	// durable is the append session of which all in-sync replicas have what was read back.
	durable int64

	// compared says that the last records here were found to be the source's, or
	// that there are none.
	compared bool
	// agreed is the append session in which the source answered to where the partition goes
	// on from: with compared, or the leader epoch, that says that it has what is here.
	agreed int64
	// resumes says that the session before was this process's own too: it has
	// compared what it read, so that the leader epoch says enough.
	resumes bool

	// What the map says that is verified.
	savedVirtual spillway.Offset
	savedLocal   spillway.LocalOffset

	// ahead is what the map says of records that are still to come.
	ahead offsetmap.Range

	// forceNewID makes the next session start with another producer id.
	forceNewID bool
	// cutVirtual, if not noBound, is where the source turned out to have lost
	// records, or other ones: what this site has above is hidden at the next
	// opening, if the session in which that was found is still the last one then. Where
	// another mirror has had one in between, it has looked too, and may have cut.
	cutVirtual spillway.Offset
	cutKind    string // of the gap
	cutIn      int64  // the session
	// alone says that nobody else had a transaction open here when the flow
	// began, or no more; transactionSeen is when one was seen first.
	alone           bool
	transactionSeen time.Time
	// reopen asks whoever has the partition to give it back and have it opened anew: its
	// topic is gone here. Set by the flow.
	reopen atomic.Bool
	// anew says that the log is not the one any more that was opened here last.
	anew bool
	// retryAt is when a partition with a problem is tried again.
	retryAt time.Time
	failed  int    // openings without success, one after the other
	notice  string // what people should know of it while it runs

	// told says that an answer of the source was taken since the partition came to its
	// lane: there need not be another one while nothing is new.
	told bool
	// newsAt is when records came last, or the partition to its lane.
	newsAt time.Time

	// For FlowInfo; read by others only through the flow's reports.
	answered      time.Time            // when it had all that the source had, at the last
	asks          int64                // of its lane, when it was among what was asked for last
	followed      bool                 // it was so the time before, too
	highWatermark spillway.LocalOffset // of the source, −1 while unknown
	lastStable    spillway.LocalOffset // the same
	heardAt       time.Time            // when the answer with both came; zero: none did
	heldBack      time.Time            // since when lastStable stands still below highWatermark; zero: it does not
}

// heard notes the ends that the source told with an answer.
func (p *partition) heard(lastStable, highWatermark spillway.LocalOffset, now time.Time) {
	switch {
	case lastStable < 0 || lastStable >= highWatermark:
		p.heldBack = time.Time{}
	case p.heldBack.IsZero() || lastStable != p.lastStable:
		p.heldBack = now
	}
	p.lastStable, p.highWatermark = lastStable, highWatermark
}

// cut notes that the source has other records from a virtual offset on.
func (p *partition) cut(from spillway.Offset, kind string) {
	p.cutVirtual, p.cutKind, p.cutIn = from, kind, p.session.Session
}

// undecided are the offsets that readers of committed records cannot have yet.
func (p *partition) undecided() int64 {
	if p.heldBack.IsZero() {
		return 0
	}
	return int64(p.highWatermark - p.lastStable)
}

func (p *partition) writer() writer {
	if p.topicLimit != nil {
		if now := p.topicLimit.Load(); now != p.limitSeen {
			p.limitSeen, p.batchBytesMax = now, int(now)
		}
	}
	return writer{producerID: p.session.ProducerID, producerEpoch: p.session.ProducerEpoch, batchBytesMax: p.batchBytesMax, rules: p.rules, repackBytes: min(p.repackBytes, p.batchBytesMax), rangesMax: planRangesMax}
}

// lag is how many offsets the source has that were not looked at yet.
func (p *partition) lag() int64 { return max(0, int64(p.highWatermark-p.source)) }

// due are those of lag that could be here: all but the undecided ones. They alone say
// that the partition is behind. Where transactions overlap, lag never is 0.
func (p *partition) due() int64 { return max(0, p.lag()-p.undecided()) }
