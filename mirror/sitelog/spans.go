package sitelog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/selection"
)

// Span is what is asked of one partition: [From, To).
type Span struct {
	From, To spillway.LocalOffset
}

// Bounds of one request for spans.
const (
	spansMax      = 256
	spanBytesMax  = 256 << 10 // a larger first batch comes when it is the first of its request
	spansBytesMax = 16 << 20
	spansWait     = 100 * time.Millisecond
	spansFaults   = 5 // in a row
)

// ErrUndecided means that a span reaches into what the site has not decided yet:
// open transactions, or records that too few replicas have.
var ErrUndecided = errors.New("not decided yet")

// SpanReader reads spans of one site, over one connection to each broker that it
// keeps. It belongs to one goroutine.
type SpanReader struct {
	cluster broker.Cluster
	conns   map[int32]*conn.Conn
}

// NewSpanReader connects with the first Scan. Close it.
func NewSpanReader(cluster broker.Cluster) *SpanReader {
	return &SpanReader{cluster: cluster, conns: make(map[int32]*conn.Conn)}
}

// Close closes the connections. The next Scan makes others.
func (r *SpanReader) Close() {
	for node, c := range r.conns {
		c.Close()
		delete(r.conns, node)
	}
}

// Scan reads a part of many partitions, with one request for all that a
// broker leads, and hands each answer to visit; it may hold batches from before
// From and from behind To. It returns what kept partitions from being read to
// the end of their spans, and fails where a site does not answer.
func (r *SpanReader) Scan(ctx context.Context, spans map[spillway.TopicPartition]Span, o FetchOptions, visit func(Fetched) error) (map[spillway.TopicPartition]error, error) {
	left := maps.Clone(spans)
	maps.DeleteFunc(left, func(_ spillway.TopicPartition, s Span) bool { return s.From >= s.To })
	failed := make(map[spillway.TopicPartition]error)
	cluster := r.cluster
	o.MaxWait, o.BytesMax, o.OnWire = spansWait, spansBytesMax, selection.OnWire(cluster)
	for faults := 0; len(left) > 0; {
		err := r.round(ctx, left, failed, o, visit)
		switch {
		case err == nil:
			faults = 0
			continue
		case ctx.Err() != nil:
			return failed, fmt.Errorf("read site %s: %w", cluster.Site(), ctx.Err())
		}
		if faults++; faults == spansFaults {
			return failed, fmt.Errorf("read site %s: %w", cluster.Site(), err)
		}
		r.Close()
		if err := Pause(ctx, retryPause); err != nil {
			return failed, fmt.Errorf("read site %s: %w", cluster.Site(), err)
		}
		_ = cluster.Refresh(ctx) // an unreachable site is met again by the next round
	}
	return failed, nil
}

// round asks one broker for what is left there.
func (r *SpanReader) round(ctx context.Context, left map[spillway.TopicPartition]Span, failed map[spillway.TopicPartition]error, o FetchOptions, visit func(Fetched) error) error {
	var node int32
	var parts []FetchPart
	for _, tp := range slices.SortedFunc(maps.Keys(left), spillway.TopicPartition.Compare) {
		leader, err := r.cluster.Leader(ctx, tp)
		if err != nil {
			return err
		}
		if len(parts) == 0 {
			node = leader
		}
		if leader == node && len(parts) < spansMax {
			parts = append(parts, FetchPart{TopicPartition: tp, Offset: left[tp].From, BytesMax: spanBytesMax})
		}
	}
	c := r.conns[node]
	if c == nil {
		var err error
		if c, err = r.cluster.Dial(ctx, node); err != nil {
			return err
		}
		r.conns[node] = c
	}
	answers, err := Fetch(ctx, c, parts, o)
	if err != nil {
		return err
	}
	moved := false
	for _, f := range answers {
		s, asked := left[f.TopicPartition]
		if !asked {
			continue
		}
		next, err := f.next(s.From)
		switch {
		case f.Err != nil && kerr.IsRetriable(f.Err):
			return f.Err
		case f.Err != nil:
			err = f.Err
		case err == nil && next == s.From && f.decided(o) <= s.From:
			err = ErrUndecided
		case err == nil && next == s.From:
			continue // others took the place in this answer
		case err == nil:
			err = visit(f)
		}
		moved = true
		if err != nil {
			failed[f.TopicPartition] = err
			delete(left, f.TopicPartition)
		} else if s.From = next; s.From >= s.To {
			delete(left, f.TopicPartition)
		} else {
			left[f.TopicPartition] = s
		}
	}
	if !moved {
		return fmt.Errorf("%d partitions of node %d, and nothing of any", len(parts), node)
	}
	return nil
}

// decided is the first offset that a reader is not shown yet.
func (f Fetched) decided(o FetchOptions) spillway.LocalOffset {
	if o.Uncommitted {
		return f.HighWatermark
	}
	return min(f.HighWatermark, f.LastStable)
}

// next is the offset behind the batches of the answer.
func (f Fetched) next(from spillway.LocalOffset) (spillway.LocalOffset, error) {
	w := batch.Over(f.Records)
	for w.Next() {
		from = max(from, spillway.LocalOffset(w.Header.NextOffset()))
	}
	return from, w.Err()
}
