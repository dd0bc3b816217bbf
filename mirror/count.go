package mirror

import (
	"context"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Counted is what a span of a partition holds. First and Last are the times of its
// records by the headers of their batches, zero if there are none; a batch that lies
// partly in the span counts whole.
type Counted struct {
	Records     int64
	First, Last time.Time
}

// CountRecords counts the records that a site shows in spans of its log, as an export
// would list them: no markers, nothing of transactions that were aborted or are not
// decided, nothing that is hidden. Of a partition without a view all counts, hidden or
// not. Partitions that could not be read to the ends of their spans are not in the answer.
func CountRecords(ctx context.Context, cluster broker.Cluster, spans map[spillway.TopicPartition]sitelog.Span, views map[spillway.TopicPartition]*offsetmap.View) (map[spillway.TopicPartition]Counted, error) {
	r := sitelog.NewSpanReader(cluster)
	defer r.Close()
	tallies := make(map[spillway.TopicPartition]*tally, len(spans))
	for tp := range spans {
		tallies[tp] = &tally{open: make(map[int64]int64)}
	}
	failed, err := r.Scan(ctx, spans, sitelog.FetchOptions{Uncommitted: true}, func(f sitelog.Fetched) error {
		return tallies[f.TopicPartition].add(f, spans[f.TopicPartition], views[f.TopicPartition])
	})
	if err != nil {
		return nil, err
	}
	counts := make(map[spillway.TopicPartition]Counted, len(spans))
	for tp, t := range tallies {
		if failed[tp] == nil {
			counts[tp] = t.counted()
		}
	}
	return counts, nil
}

// tally is the count of one partition.
type tally struct {
	decided int64
	// The times of what was shown, in milliseconds since 1970, if any was.
	first, last int64
	any         bool
	open        map[int64]int64      // of transactions, by producer id
	next        spillway.LocalOffset // a batch that comes in two answers counts once
}

func (t *tally) counted() Counted {
	if !t.any {
		return Counted{Records: t.decided}
	}
	return Counted{Records: t.decided, First: time.UnixMilli(t.first).UTC(), Last: time.UnixMilli(t.last).UTC()}
}

func (t *tally) add(f sitelog.Fetched, span sitelog.Span, view *offsetmap.View) error {
	w := batch.Over(f.Records)
	for w.Next() {
		h, base := w.Header, spillway.LocalOffset(w.Header.BaseOffset)
		last := spillway.LocalOffset(h.LastOffset())
		if last < max(span.From, t.next) || base >= span.To {
			continue
		}
		t.next = last + 1
		if h.Control() {
			records, err := batch.Records(w.Bytes, DecompressedBytesMax)
			if err != nil {
				return err
			}
			if !Aborts(records) {
				t.decided += t.open[h.ProducerID]
			}
			delete(t.open, h.ProducerID)
			continue
		}
		if view != nil && view.Stale(h.ProducerID, base) {
			continue
		}
		n, err := shown(h, w.Bytes, span, view)
		if err != nil {
			return err
		}
		if n > 0 {
			first := min(h.BaseTimestamp, h.MaxTimestamp) // the base is a horizon in cleaned batches
			if !t.any || first < t.first {
				t.first = first
			}
			if !t.any || h.MaxTimestamp > t.last {
				t.last = h.MaxTimestamp
			}
			t.any = true
		}
		if h.Transactional() {
			t.open[h.ProducerID] += n
		} else {
			t.decided += n
		}
	}
	return w.Err()
}

// shown is how many records of a batch are in the span and visible.
func shown(h batch.Header, b []byte, span sitelog.Span, view *offsetmap.View) (n int64, err error) {
	first, last := spillway.LocalOffset(h.BaseOffset), spillway.LocalOffset(h.LastOffset())
	from, to := max(first, span.From), min(last, span.To-1)
	segments := []offsetmap.Range{{Local: from, Length: int64(to-from) + 1}}
	if view != nil {
		segments = view.Segments(from, to)
	}
	if len(segments) == 0 {
		return 0, nil
	}
	if len(segments) == 1 && segments[0].Local == first && segments[0].LocalEnd() > last {
		return int64(h.Count), nil // all of it, without decompressing
	}
	records, err := batch.Records(b, DecompressedBytesMax)
	if err != nil {
		return 0, err
	}
	for _, r := range records {
		l := first + spillway.LocalOffset(r.OffsetDelta)
		for _, s := range segments {
			if l >= s.Local && l < s.LocalEnd() {
				n++
			}
		}
	}
	return n, nil
}
