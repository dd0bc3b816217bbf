package mirror

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/adopt"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Bounds of the reading of a log that is matched.
const (
	adoptBytesMax = 8 << 20 // of one answer
	adoptFaults   = 20      // in a row
)

// adoptLog reads the committed records of a partition, with those of aborted
// transactions where they are asked for. It implements adopt.Log. A goroutine reads ahead.
type adoptLog struct {
	// Set once, read by anyone.
	log      sitelog.PartitionReader
	view     *offsetmap.View // of a source: records are told by virtual offsets; nil: by the log's own
	aborted  bool
	seed     *maphash.Seed // of keys; nil: they are not asked for
	patience time.Duration // with open transactions
	chunks   chan []adopt.Record
	cancel   context.CancelFunc

	// Owned by read until chunks is closed, and then by who calls Next.
	next, end spillway.LocalOffset
	err       error
	undecided bool // an open transaction hid what comes from next on

	// Owned by who calls Next.
	now []adopt.Record
}

// start reads [next, end). close has to be called.
func (l *adoptLog) start(ctx context.Context) {
	ctx, l.cancel = context.WithCancel(ctx)
	l.chunks = make(chan []adopt.Record, 1)
	go l.read(ctx)
}

func (l *adoptLog) close() {
	l.cancel()
	for range l.chunks { //nolint:revive // until the reader has ended
	}
}

// Next implements adopt.Log.
func (l *adoptLog) Next() (adopt.Record, bool, error) {
	for len(l.now) == 0 {
		chunk, ok := <-l.chunks
		if !ok {
			return adopt.Record{}, false, l.err
		}
		l.now = chunk
	}
	r := l.now[0]
	l.now = l.now[1:]
	return r, true, nil
}

func (l *adoptLog) read(ctx context.Context) {
	defer close(l.chunks)
	defer l.log.Close()
	faults := 0
	var waits time.Time // since when nothing is decided
	for l.next < l.end && l.err == nil {
		f, err := l.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			l.err = ctx.Err()
			return
		case err != nil:
			l.log.Close()
			var kafka *kerr.Error
			if faults++; errors.As(err, &kafka) && !kafka.Retriable || faults == adoptFaults {
				l.err = fmt.Errorf("read %s/%s at %d: %w", l.log.Cluster.Site(), l.log.Of, l.next, err)
				return
			}
			_ = sitelog.Pause(ctx, time.Second/4)
			_ = l.log.Cluster.Refresh(ctx) // met again by the next fetch
			continue
		}
		faults = 0
		at := l.next
		if len(f.Records) > 0 {
			l.err = l.take(ctx, f)
		}
		switch {
		case l.next > at:
			waits = time.Time{}
		case f.LastStable <= at && waits.IsZero():
			waits = time.Now()
		case f.LastStable <= at && time.Since(waits) > l.patience:
			l.undecided = true
			return
		}
	}
}

func (l *adoptLog) fetch(ctx context.Context) (sitelog.Fetched, error) {
	return l.log.Fetch(ctx, l.next, adoptBytesMax, sitelog.FetchOptions{MaxWait: time.Second / 4, BytesMax: adoptBytesMax})
}

// take hands on what an answer holds.
func (l *adoptLog) take(ctx context.Context, f sitelog.Fetched) error {
	filter := abortedFilter{waiting: f.Aborted}
	w := batch.Over(f.Records)
	for w.Next() {
		h := w.Header
		if spillway.LocalOffset(h.BaseOffset) >= l.end {
			l.next = l.end
			return nil
		}
		if err := batch.Verify(w.Bytes); err != nil {
			return fmt.Errorf("read %s/%s at %d: %w", l.log.Cluster.Site(), l.log.Of, h.BaseOffset, err)
		}
		skip, err := filter.skips(h, w.Bytes)
		if err != nil {
			return fmt.Errorf("read %s/%s at %d: %w", l.log.Cluster.Site(), l.log.Of, h.BaseOffset, err)
		}
		if !h.Control() && (!skip || l.aborted) {
			records, err := batch.Records(w.Bytes, DecompressedBytesMax)
			if err != nil {
				return fmt.Errorf("read %s/%s at %d: %w", l.log.Cluster.Site(), l.log.Of, h.BaseOffset, err)
			}
			select {
			case l.chunks <- l.records(h, records, skip):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		l.next = max(l.next, spillway.LocalOffset(h.NextOffset()))
	}
	return w.Err()
}

func (l *adoptLog) records(h batch.Header, records []batch.Record, aborted bool) []adopt.Record {
	base := spillway.LocalOffset(h.BaseOffset)
	var visible []offsetmap.Range
	if l.view != nil {
		if l.view.Stale(h.ProducerID, base) {
			return nil
		}
		visible = l.view.Segments(base, spillway.LocalOffset(h.LastOffset()))
	}
	out := make([]adopt.Record, 0, len(records))
	for i := range records {
		local := base + spillway.LocalOffset(records[i].OffsetDelta)
		if local < l.next || local >= l.end {
			continue
		}
		r := adopt.Record{Offset: int64(local), Tombstone: records[i].Value == nil, Aborted: aborted}
		if l.view != nil {
			for len(visible) > 0 && visible[0].LocalEnd() <= local {
				visible = visible[1:]
			}
			if len(visible) == 0 || local < visible[0].Local {
				continue // nobody sees it there
			}
			r.Offset = int64(visible[0].Virtual) + int64(local-visible[0].Local)
		}
		sum := digest(h, &records[i])
		copy(r.Digest[:], sum[:])
		if l.seed != nil {
			r.Key = maphash.Bytes(*l.seed, records[i].Key)
		}
		out = append(out, r)
	}
	return out
}
