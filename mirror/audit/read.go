package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Bounds of the audit's reads.
const (
	fetchBytesMax  = 8 << 20
	decodeBytesMax = 256 << 20
	// aheadBytesMax is how many bytes of records the audit holds of a site until it reads
	// no further ahead; one answer more may come on top.
	aheadBytesMax = 64 << 20
	fetchWait     = time.Second
	retryPause    = 200 * time.Millisecond
)

// reader hands out the committed, visible records of one partition in order.
type reader struct {
	log  sitelog.PartitionReader
	view *offsetmap.View // nil: all is visible

	next, end spillway.LocalOffset
	// What the log had when it was first looked at.
	logStart, logEnd spillway.LocalOffset
	queue            []record
	queueBytes       int // in memory
	hidden           int64

	leaves      *rules // left out are records that these do not want; nil: none
	showLeftOut bool   // they are in the queue all the same
	leftOut     int64
	marked      bool // provenance headers are taken off
}

// start fixes the part of the log that is read.
func (r *reader) start(ctx context.Context) error {
	tps := []spillway.TopicPartition{r.log.Of}
	starts, err := r.log.Cluster.Admin().LogStarts(ctx, tps)
	if err != nil {
		return err
	}
	ends, err := r.log.Cluster.Admin().HighWatermarks(ctx, tps)
	if err != nil {
		return err
	}
	r.logStart, r.logEnd = starts[r.log.Of], ends[r.log.Of]
	r.reset(r.logStart, r.logEnd)
	return nil
}

func (r *reader) close() { r.log.Close() }

// reset has another part of the log read.
func (r *reader) reset(from, to spillway.LocalOffset) {
	r.next, r.end, r.queue, r.queueBytes = from, to, nil, 0
}

// skipTo leaves out what lies below a local offset.
func (r *reader) skipTo(l spillway.LocalOffset) { r.next = max(r.next, l) }

// peek returns the i-th record that comes, if there is one. Of those behind the next two
// there is none while the ones before take too much memory.
func (r *reader) peek(ctx context.Context, i int) (record, bool, error) {
	for len(r.queue) <= i && r.next < r.end && (i < 2 || r.queueBytes < aheadBytesMax) {
		if err := r.fill(ctx); err != nil {
			return record{}, false, err
		}
	}
	if len(r.queue) <= i {
		return record{}, false, nil
	}
	return r.queue[i], true, nil
}

func (r *reader) drop(n int) {
	for _, rec := range r.queue[:n] {
		r.queueBytes -= rec.holds
	}
	clear(r.queue[:n]) // what the array holds stays in memory
	r.queue = r.queue[n:]
}

// fill reads on. It tries again after lost connections and moved leaders.
func (r *reader) fill(ctx context.Context) error {
	f, err := r.fetch(ctx)
	if err != nil {
		r.close()
		if !retriable(err) || sitelog.Pause(ctx, retryPause) != nil {
			return fmt.Errorf("read %s/%s at %d: %w", r.log.Cluster.Site(), r.log.Of, r.next, err)
		}
		_ = r.log.Cluster.Refresh(ctx) // met again by the next fetch
		return nil
	}
	if len(f.Records) == 0 && f.LastStable <= r.next {
		return fmt.Errorf("read %s/%s at %d: an open transaction hides the rest; audit when it is decided", r.log.Cluster.Site(), r.log.Of, r.next)
	}
	return r.decode(f)
}

// retriable tells whether reading again may help: lost connections do, and what
// Kafka says passes by itself.
func retriable(err error) bool {
	var kafka *kerr.Error
	return !errors.As(err, &kafka) || kafka.Retriable
}

func (r *reader) fetch(ctx context.Context) (sitelog.Fetched, error) {
	return r.log.Fetch(ctx, r.next, fetchBytesMax, sitelog.FetchOptions{MaxWait: fetchWait, BytesMax: 4 * fetchBytesMax})
}

// decode takes the records that count: not those of aborted transactions, not
// markers, not what is hidden. It follows the protocol's description of
// read_committed and shares no code with the mirror's.
func (r *reader) decode(f sitelog.Fetched) error {
	slices.SortFunc(f.Aborted, func(a, b sitelog.AbortedTransaction) int { return int(a.First - b.First) })
	inAborted := make(map[int64]bool)
	next, queued, decoded := 0, len(r.queue), 0
	w := batch.Over(f.Records)
	for w.Next() {
		h := w.Header
		for next < len(f.Aborted) && int64(f.Aborted[next].First) <= h.LastOffset() {
			inAborted[f.Aborted[next].ProducerID] = true
			next++
		}
		if err := batch.Verify(w.Bytes); err != nil {
			return fmt.Errorf("read %s/%s at %d: %w", r.log.Cluster.Site(), r.log.Of, h.BaseOffset, err)
		}
		records, err := batch.Records(w.Bytes, decodeBytesMax)
		if err != nil {
			return fmt.Errorf("read %s/%s at %d: %w", r.log.Cluster.Site(), r.log.Of, h.BaseOffset, err)
		}
		if h.Codec() != batch.None {
			for _, rec := range records {
				decoded += contentBytes(rec.Key, rec.Value, rec.Headers)
			}
		}
		switch {
		case h.Control():
			if len(records) > 0 && len(records[0].Key) >= 4 && binary.BigEndian.Uint16(records[0].Key[2:]) == 0 {
				delete(inAborted, h.ProducerID)
			}
		case h.Transactional() && inAborted[h.ProducerID]:
		default:
			r.take(h, records)
		}
		r.next = max(r.next, spillway.LocalOffset(h.NextOffset()))
	}
	r.account(queued, len(f.Records)+decoded)
	return w.Err()
}

// account notes what the records from the i-th on, which came in one answer, keep in
// memory: they point into the answer and into what was decompressed of it. Where most of
// that belongs to records that are not needed it is let go.
func (r *reader) account(i, answerBytes int) {
	added := r.queue[i:]
	if len(added) == 0 {
		return
	}
	own, kept := len(added)*recordBytes, 0
	for _, rec := range added {
		kept += contentBytes(rec.key, rec.value, rec.headers)
	}
	if 4*kept < answerBytes {
		for k := range added {
			added[k].detach()
		}
		answerBytes = kept
	}
	last := &added[len(added)-1]
	last.holds = own + answerBytes
	r.queueBytes += last.holds
}

func (r *reader) take(h batch.Header, records []batch.Record) {
	for _, rec := range records {
		local := spillway.LocalOffset(h.BaseOffset) + spillway.LocalOffset(rec.OffsetDelta)
		if local < r.next || local >= r.end {
			continue
		}
		out := record{local: local, virtual: -1, timestamp: h.BaseTimestamp + rec.TimestampDelta, key: rec.Key, value: rec.Value, headers: rec.Headers}
		if h.Attributes&batch.AttributeLogAppendTime != 0 {
			out.timestamp = h.MaxTimestamp
		}
		if r.view != nil {
			v, visible := r.view.ToVirtual(local)
			if !visible || r.view.Stale(h.ProducerID, local) {
				r.hidden++
				continue
			}
			out.virtual = v
		}
		if r.marked {
			out.headers, out.says = split(out.headers)
		}
		if r.leaves != nil && !r.leaves.wants(out) {
			r.leftOut++
			if !r.showLeftOut {
				continue
			}
		}
		r.queue = append(r.queue, out)
	}
}
