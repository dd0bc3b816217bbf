package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror"
	"spillway/mirror/sitelog"
)

// Bounds of reading the virtual cluster's log.
const (
	readBytes = 4 << 20
	readWait  = 500 * time.Millisecond
	// undecidedMax bounds the records of transactions of which the log has not told
	// the end yet.
	undecidedMax = 1 << 20
)

// unknownMax is how long a partition may be unknown to gateways before it counts as
// deleted: those that have just started do not know all of them yet.
const unknownMax = 10 * time.Second

// end is where the log ends, as a gateway says that serves and knows what is durable. The
// end that comes with an empty answer to a fetch tells nothing: it may be what was asked for.
func (r *run) end(ctx context.Context, tp spillway.TopicPartition) (spillway.LocalOffset, error) {
	for until, unknown := r.patience(), time.Now().Add(min(unknownMax, r.PatienceMax)); ; {
		within, cancel := context.WithDeadline(ctx, until)
		ends, err := r.Virtual.Admin().HighWatermarks(within, []spillway.TopicPartition{tp})
		cancel()
		end, ok := ends[tp]
		switch {
		case err == nil && ok:
			return end, nil
		case ctx.Err() != nil:
			return 0, fmt.Errorf("ask for the end of %s: %w", tp, ctx.Err())
		case errors.Is(err, broker.ErrUnknownTopic) && time.Now().After(unknown):
			return 0, refuse("the virtual cluster has no %s any more: create it, or give the records up", tp)
		case time.Now().After(until):
			return 0, silent{fmt.Errorf("ask for the end of %s: %w; is the group served? See spillway status", tp, err)}
		}
		if err := r.again(ctx); err != nil {
			return 0, err
		}
	}
}

// read shows the comparison a partition of the virtual cluster from where it was read to
// before, up to where the log ends when it is asked first.
func (l *virtualLog) read(ctx context.Context, r *run) error {
	end, err := r.end(ctx, l.tp)
	if err != nil {
		return err
	}
	end = max(end, l.written)
	reader := sitelog.PartitionReader{Cluster: r.Virtual, Of: l.tp}
	defer reader.Close()
	for until := r.patience(); l.at < end; {
		fetched, err := reader.Fetch(ctx, l.at, readBytes, sitelog.FetchOptions{MaxWait: readWait, BytesMax: readBytes, Uncommitted: true})
		gone := errors.Is(err, kerr.OffsetOutOfRange)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("read %s from offset %d: %w", l.tp, l.at, ctx.Err())
		case gone && l.at < l.begun:
			l.at = l.begun
			continue
		case gone:
			return refuse("the log does not reach back far enough: %s begins behind offset %d by now, and what was written from there on has to be compared; export the records, and write back what is wanted", l.tp, l.at)
		case err != nil && time.Now().After(until):
			return silent{fmt.Errorf("read %s from offset %d: %w; is the group served? See spillway status", l.tp, l.at, err)}
		case err != nil:
			reader.Close()
			if err := r.again(ctx); err != nil {
				return err
			}
			continue
		}
		before := l.at
		if fetched.LogStart >= 0 { // else the gateway has not asked its site, and knows nothing
			if err := l.take(fetched); err != nil {
				return err
			}
		}
		switch {
		case l.at > before:
			until = r.patience()
		case time.Now().After(until):
			return silent{fmt.Errorf("read %s: it ends at offset %d, and no records come from %d on for %s; see spillway status", l.tp, end, l.at, r.PatienceMax)}
		}
	}
	return nil
}

// take takes an answer of a gateway that has asked its site.
func (l *virtualLog) take(fetched sitelog.Fetched) error {
	l.at = max(l.at, min(fetched.LogStart, l.begun)) // nothing is below, and no hole is told of there
	w := batch.Over(fetched.Records)
	for w.Next() {
		if w.Header.LastOffset() < int64(l.at) {
			continue
		}
		if err := l.visit(sitelog.Batch{Header: w.Header, Bytes: w.Bytes}); err != nil {
			return err
		}
		l.at = spillway.LocalOffset(w.Header.NextOffset())
	}
	if err := w.Err(); err != nil {
		return refuse("read %s at offset %d: %w", l.tp, l.at, err)
	}
	return nil
}

// again prepares for another try.
func (r *run) again(ctx context.Context) error {
	if err := sitelog.Pause(ctx, retryPause); err != nil {
		return err
	}
	_ = r.Virtual.Refresh(ctx) // gateways that do not answer are met again by the next try
	return nil
}

// virtualLog shows a comparison what the log has, and finds the last sequence that was
// written under an id. Within a term a log only grows, so it is read on from where it
// was read to.
type virtualLog struct {
	c     *comparison
	terms Terms
	tp    spillway.TopicPartition
	own   int64
	from  spillway.Offset
	begun spillway.LocalOffset // virtual; nothing was ever written between from and here

	at      spillway.LocalOffset // virtual
	next    int32                // behind the last sequence under own
	written spillway.LocalOffset // virtual; behind all that was acknowledged to this run
	unsure  unsure
	// proved: a record of this run was acknowledged, so that nothing below it is hidden for
	// want of durability or of reserved offsets, as it may be when the end is asked for.
	proved    bool
	undecided map[int64][]seen // by the producer of the transaction
	kept      int
}

// unsure is a batch of which nobody knows whether it is in the log. It is not sent again:
// brokers forget producers whose records are old, and would take it twice. It is looked for.
type unsure struct {
	next    int32 // behind its last sequence
	records int64
	err     error // nil: there is none
	until   time.Time
}

// appended tells whether the batch is in a log for certain, though not durable yet: nobody
// is shown it until it is.
func (u unsure) appended() bool {
	return errors.Is(u.err, kerr.RequestTimedOut) || errors.Is(u.err, kerr.NotEnoughReplicasAfterAppend)
}

func (l *virtualLog) visit(b sitelog.Batch) error {
	if b.Count == 0 {
		return nil // covers a hole
	}
	records, err := batch.Records(b.Bytes, mirror.DecompressedBytesMax)
	if err != nil {
		return refuse("the batch of %s at offset %d cannot be read: %w; export the records, and write back what is wanted", l.tp, b.BaseOffset, err)
	}
	if b.Control() {
		if !mirror.Aborts(records) {
			for _, s := range l.undecided[b.ProducerID] {
				l.c.see(s)
			}
		}
		l.kept -= len(l.undecided[b.ProducerID])
		delete(l.undecided, b.ProducerID)
		return nil
	}
	p := l.terms.producer(b.Header, spillway.EpochOfLeaderEpoch(b.LeaderEpoch))
	if p.id == l.own && !b.Transactional() {
		l.next = following(b.LastSequence())
	}
	for _, rec := range records {
		if spillway.Offset(b.BaseOffset)+spillway.Offset(rec.OffsetDelta) < l.from {
			continue
		}
		s := l.c.look(recordOf(b.Header, p, rec))
		if !b.Transactional() {
			l.c.see(s)
			continue
		}
		if l.kept++; l.kept > undecidedMax {
			return refuse("more than %d records of open transactions in %s at offset %d; give the command again when they have ended", undecidedMax, l.tp, b.BaseOffset)
		}
		l.undecided[b.ProducerID] = append(l.undecided[b.ProducerID], s)
	}
	return nil
}

// likeMissing counts the records of open transactions with the content of a missing one.
func (l *virtualLog) likeMissing(fates []fate) (n int64) {
	for _, of := range l.undecided {
		for _, s := range of {
			if slices.ContainsFunc(l.c.same[s.content], func(i int32) bool { return fates[i] == missing }) {
				n++
			}
		}
	}
	return n
}

func following(sequence int32) int32 { return batch.NextSequence(sequence, 1) }

func recordOf(h batch.Header, p producer, rec batch.Record) record {
	out := record{key: rec.Key, value: rec.Value, timestamp: h.BaseTimestamp + rec.TimestampDelta, producer: p, sequence: -1}
	if p != (producer{}) {
		out.sequence = batch.NextSequence(h.BaseSequence, rec.OffsetDelta)
	}
	for _, header := range rec.Headers {
		out.headers = append(out.headers, mirror.UnreplicatedHeader{Key: header.Key, Value: header.Value})
	}
	return out
}

// Term is one epoch of the share.
type Term struct {
	Epoch spillway.Epoch
	Mask  uint64 // XORed over client producer ids
	// Start is where the epoch begins in a partition, and Verified where what is kept of
	// those before it ends; −1 where that is not known.
	Start, Verified func(spillway.TopicPartition) spillway.Offset
}

// Terms of the share, oldest first; the last one is in force.
type Terms []Term

func (ts Terms) current() spillway.Epoch {
	if len(ts) == 0 {
		return 0
	}
	return ts[len(ts)-1].Epoch
}

// producer is the client that wrote a batch in an epoch, if its id is in the log: a
// mirror writes under ids of its own, and those of transactions mean little elsewhere.
func (ts Terms) producer(h batch.Header, epoch spillway.Epoch) producer {
	if h.BaseSequence < 0 || h.Transactional() || !spillway.IsClientProducerID(h.ProducerID) {
		return producer{}
	}
	for _, t := range ts {
		if t.Epoch == epoch {
			return producer{spillway.MaskProducerID(h.ProducerID, t.Mask), h.ProducerEpoch}
		}
	}
	return producer{}
}

// begun is where the first record can lie in a partition that was written after an
// epoch, or 0. Epochs of which nothing was kept do not count.
func (ts Terms) begun(tp spillway.TopicPartition, after spillway.Epoch) (begun spillway.Offset) {
	for _, t := range ts {
		if t.Epoch > after && t.Start != nil && t.Start(tp) >= 0 && (begun == 0 || t.Verified(tp) <= begun) {
			begun = t.Start(tp)
		}
	}
	return begun
}
