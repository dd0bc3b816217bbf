package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/mirror"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// Bounds of reading what a site alone had.
const (
	foundRetry    = 5 * time.Second // doubled with each fault
	foundRetryMax = 5 * time.Minute
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
		for wait := foundRetry; ctx.Err() == nil; wait = min(2*wait, foundRetryMax) {
			err := s.tellFound(ctx, share, written)
			if err == nil {
				break
			}
			s.f.cfg.Events.actionFailed(s.id, "count what only "+string(s.f.site)+" had", err)
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-timer.C:
			case share = <-s.settled:
			}
			timer.Stop()
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

// tellFound writes what is not written yet. A move of which that fails keeps no other one
// from being told of.
func (s *followed) tellFound(ctx context.Context, share failover.Share, written map[spillway.Epoch]bool) error {
	var faults []error
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
			faults = append(faults, fmt.Errorf("the move to epoch %d: %w", t.Epoch, err))
			continue
		}
		written[t.Epoch] = true
	}
	return errors.Join(faults...)
}

func (s *followed) writeFound(ctx context.Context, share failover.Share, epoch spillway.Epoch, key string) error {
	reading, cancel := context.WithTimeout(ctx, foundReadMax)
	defer cancel()
	reader := s.f.cfg.Mirror.Map()
	if err := reader.CaughtUp(reading); err != nil {
		return err
	}
	views := map[spillway.TopicPartition]*offsetmap.View{}
	s.views(views)
	ranges, spans, err := alone(share, epoch, views)
	if err != nil {
		return err
	}
	counts, err := countFound(reading, s.f.cfg.Cluster, spans)
	if err != nil && (ctx.Err() != nil || reading.Err() == nil) {
		return fmt.Errorf("count the records of epoch %d and before that only %s has: %w", epoch-1, s.f.site, err)
	} // else it takes too long, and would each time: nothing is counted
	found := foundOf(s.f.site, ranges, counts)
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

// countFound counts what lies in spans of a site's log. What is not there any more, since
// its topic was deleted or its time was over, is not in the answer, nor what cannot be read.
func countFound(ctx context.Context, cluster broker.Cluster, spans map[spillway.TopicPartition]sitelog.Span) (map[spillway.TopicPartition]mirror.Counted, error) {
	if len(spans) == 0 {
		return nil, nil
	}
	md, err := cluster.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(spans, func(tp spillway.TopicPartition, _ sitelog.Span) bool {
		return !slices.ContainsFunc(md.Topics[tp.Topic].Partitions, func(p broker.PartitionMetadata) bool { return p.Partition == tp.Partition })
	})
	return mirror.CountRecords(ctx, cluster, spans, nil)
}

// foundOf sums up what was counted. A range that was not leaves the sum unknown.
func foundOf(site spillway.SiteID, ranges []history.Range, counts map[spillway.TopicPartition]mirror.Counted) history.Found {
	found := history.Found{Site: site, Ranges: ranges}
	for i, r := range ranges {
		n, ok := counts[spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}]
		if !ok {
			found.Records = -1
			continue
		}
		found.Ranges[i].Records = n.Records
		if found.Records >= 0 {
			found.Records += n.Records
		}
		if n.Records > 0 && (found.First.IsZero() || n.First.Before(found.First)) {
			found.First = n.First
		}
		if n.Records > 0 && n.Last.After(found.Last) {
			found.Last = n.Last
		}
	}
	if found.Records < 0 {
		found.First, found.Last = time.Time{}, time.Time{}
	}
	return found
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
