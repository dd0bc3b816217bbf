package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/mirror"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Bounds of reading what a site alone had.
const (
	foundRetry    = 5 * time.Second
	foundReadMax  = 10 * time.Minute
	foundCountMax = 50_000_000 // in offsets of all partitions; beyond it nothing is counted
)

// recount writes into the history what this site alone had when a move gave it up. It
// reads the log beside everything else: nothing waits for it.
func (s *followed) recount(ctx context.Context) {
	written := map[spillway.Epoch]bool{}
	for ctx.Err() == nil {
		var share failover.Share
		select {
		case <-ctx.Done():
			return
		case share = <-s.settled:
		}
		for ctx.Err() == nil {
			err := s.tellFound(ctx, share, written)
			if err == nil {
				break
			}
			s.f.cfg.Events.actionFailed(s.id, "count what only "+string(s.f.site)+" had", err)
			pause(ctx, foundRetry)
			select {
			case share = <-s.settled:
			default:
			}
		}
	}
}

// settledAt hands over a share that this site follows, with all it served itself closed.
func (s *followed) settledAt(share failover.Share) {
	select {
	case <-s.settled:
	default:
	}
	s.settled <- share // only run sends, and there is room
}

// tellFound writes what is not written yet.
func (s *followed) tellFound(ctx context.Context, share failover.Share, written map[spillway.Epoch]bool) error {
	for i, t := range share.Terms {
		if i == 0 || !t.Lossy || written[t.Epoch] || share.Terms[i-1].Site != s.f.site {
			continue
		}
		key := s.f.keys.HistoryFound(s.id, t.Epoch, s.f.site)
		_, err := s.f.cfg.Store.Get(ctx, key)
		if errors.Is(err, coordination.ErrNotFound) {
			err = s.writeFound(ctx, share, t.Epoch, key)
		}
		if err != nil {
			return err
		}
		written[t.Epoch] = true
	}
	return nil
}

func (s *followed) writeFound(ctx context.Context, share failover.Share, epoch spillway.Epoch, key string) error {
	ctx, cancel := context.WithTimeout(ctx, foundReadMax)
	defer cancel()
	reader := s.f.cfg.Mirror.Map()
	if err := reader.CaughtUp(ctx); err != nil {
		return err
	}
	views := map[spillway.TopicPartition]*offsetmap.View{}
	for _, tp := range reader.Partitions() {
		if s.f.cfg.Topology.Has(s.group, tp) {
			views[tp] = reader.View(tp)
		}
	}
	ranges, spans, err := alone(share, epoch, views)
	if err != nil {
		return err
	}
	found := history.Found{Site: s.f.site, Records: -1, Ranges: ranges}
	if spans != nil {
		counts, err := mirror.CountRecords(ctx, s.f.cfg.Cluster, spans, nil)
		if err != nil {
			return fmt.Errorf("count the records of epoch %d and before that only %s has: %w", epoch-1, s.f.site, err)
		}
		found.Records = 0
		for i, r := range ranges {
			n, ok := counts[spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}]
			if !ok {
				return fmt.Errorf("%s-%d of %s could not be read to its end", r.Topic, r.Partition, s.f.site)
			}
			found.Ranges[i].Records = n.Records
			found.Records += n.Records
			if n.Records > 0 && (found.First.IsZero() || n.First.Before(found.First)) {
				found.First = n.First
			}
			if n.Records > 0 && n.Last.After(found.Last) {
				found.Last = n.Last
			}
		}
	}
	if found.More = len(ranges) - history.RangesMax; found.More > 0 {
		found.Ranges = ranges[:history.RangesMax]
	}
	found.More, found.At = max(0, found.More), time.Now().UTC()
	value, err := json.Marshal(found)
	if err != nil {
		return err
	}
	if _, err = s.f.cfg.Store.Put(ctx, key, value, 0); errors.Is(err, coordination.ErrConflict) {
		return nil // another process of the site has written it
	}
	return err
}

// alone lists what a site has of the terms that a move ended, beyond where they end for
// all, and the spans of its log in which it lies; no spans if that is too much to read.
func alone(share failover.Share, epoch spillway.Epoch, views map[spillway.TopicPartition]*offsetmap.View) ([]history.Range, map[spillway.TopicPartition]sitelog.Span, error) {
	var ranges []history.Range
	spans, offsets := map[spillway.TopicPartition]sitelog.Span{}, int64(0)
	for tp, v := range views {
		if open, ok := v.Open(); ok && open.Epoch < epoch {
			return nil, nil, fmt.Errorf("%s is not closed yet: epoch %d of it is open", tp, open.Epoch)
		}
		for _, e := range v.Ends() {
			if e.Local >= e.LogEnd || endedBy(share, e.Epoch) != epoch {
				continue
			}
			ranges = append(ranges, history.Range{Topic: tp.Topic, Partition: tp.Partition, From: e.Virtual, To: e.Virtual + spillway.Offset(e.LogEnd-e.Local), Records: -1})
			spans[tp] = sitelog.Span{From: e.Local, To: e.LogEnd}
			offsets += int64(e.LogEnd - e.Local)
		}
	}
	slices.SortFunc(ranges, func(a, b history.Range) int {
		return spillway.TopicPartition{Topic: a.Topic, Partition: a.Partition}.Compare(spillway.TopicPartition{Topic: b.Topic, Partition: b.Partition})
	})
	if offsets > foundCountMax {
		return ranges, nil, nil
	}
	return ranges, spans, nil
}

// endedBy is the epoch of the move that ended a term: that which opened the next one
// which is not its continuation; 0: it was not ended.
func endedBy(share failover.Share, term spillway.Epoch) spillway.Epoch {
	for _, t := range share.Terms {
		if t.Epoch > term && !t.Continues {
			return t.Epoch
		}
	}
	return 0
}
