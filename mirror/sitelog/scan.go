package sitelog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
)

// ScanBytesMax bounds one answer of a Scan. A larger single batch still comes
// whole, as brokers always send at least one.
const ScanBytesMax = 4 << 20

// retryPause is how long a Scan waits before it asks again after a fault.
const retryPause = 100 * time.Millisecond

// Batch is one batch of a log as it lies there.
type Batch struct {
	batch.Header
	Bytes []byte
}

// Scan hands every batch of a partition that holds an offset in [from, to) to
// visit, committed or not, control batches included. It waits where the log
// end (−2) lies above the high watermark, and fails where that is below to: records
// were lost since. Lost connections and moving leaders are its own business; visit's
// error ends it.
func Scan(ctx context.Context, cluster broker.Cluster, tp spillway.TopicPartition, from, to spillway.LocalOffset, visit func(Batch) error) error {
	r := PartitionReader{Cluster: cluster, Of: tp}
	defer r.Close()
	for from < to {
		fetched, err := r.Fetch(ctx, from, ScanBytesMax, FetchOptions{MaxWait: time.Second, BytesMax: ScanBytesMax, Uncommitted: true})
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return fmt.Errorf("scan %s/%s at %d: %w", cluster.Site(), tp, from, ctx.Err())
		case errors.Is(err, kerr.OffsetOutOfRange):
			return fmt.Errorf("scan %s/%s: offset %d: %w", cluster.Site(), tp, from, err)
		default:
			if err := r.recover(ctx); err != nil {
				return err
			}
			continue
		}
		if len(fetched.Records) == 0 {
			if end, known := logEnd(ctx, cluster, tp); known && end < to {
				return fmt.Errorf("scan %s/%s at %d: the log ends at %d, and ended at %d: records were lost meanwhile", cluster.Site(), tp, from, end, to)
			}
		}
		w := batch.Over(fetched.Records)
		for w.Next() {
			if w.Header.LastOffset() < int64(from) {
				continue
			}
			if w.Header.BaseOffset >= int64(to) {
				return nil
			}
			if err := visit(Batch{w.Header, w.Bytes}); err != nil {
				return err
			}
			from = spillway.LocalOffset(w.Header.NextOffset())
		}
		if err := w.Err(); err != nil {
			return fmt.Errorf("scan %s/%s at %d: %w", cluster.Site(), tp, from, err)
		}
	}
	return nil
}

// logEnd is asked again with the next empty answer where it is not known.
func logEnd(ctx context.Context, cluster broker.Cluster, tp spillway.TopicPartition) (end spillway.LocalOffset, known bool) {
	ends, err := cluster.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
	end, known = ends[tp]
	return end, known && err == nil
}

// recover drops the connection and what is cached about leaders. It fails only
// when ctx ends.
func (r *PartitionReader) recover(ctx context.Context) error {
	r.Close()
	if err := Pause(ctx, retryPause); err != nil {
		return fmt.Errorf("scan %s/%s: %w", r.Cluster.Site(), r.Of, err)
	}
	_ = r.Cluster.Refresh(ctx) // an unreachable site is met again by the next fetch
	return nil
}

// Pause waits, or returns the error of ctx.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
