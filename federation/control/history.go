package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// chunkBytes is the size of one part of a large record.
const chunkBytes = 128 << 10

// finish writes the record that ends a move together with its history, so that
// neither is there without the other.
func (d *driver) finish(ctx context.Context, next failover.Share, encoded []byte) (uint64, error) {
	key := d.c.keys.History(d.id, d.share.Epoch)
	value, err := json.Marshal(history.Of(d.share, next, d.group.OffsetBase))
	if err != nil {
		return 0, err
	}
	if len(value)+len(encoded) > 2*chunkBytes {
		if value, err = d.chunk(ctx, key, value); err != nil {
			return 0, err
		}
	}
	ops := []coordination.Op{{Key: d.c.keys.Share(d.id), Value: encoded, Version: d.version}, {Key: key, Value: value}}
	err = d.c.cfg.Store.Txn(ctx, ops)
	if errors.Is(err, coordination.ErrConflict) && strings.Contains(err.Error(), key) {
		// Written by a loop that did not get to write the share; it says the same.
		err = d.c.cfg.Store.Txn(ctx, ops[:1])
	}
	if err != nil {
		return 0, err
	}
	return d.versionOf(ctx, encoded)
}

// writeDegrade writes the record that begins or ends weaker acknowledgements,
// together with its account in the history.
func (d *driver) writeDegrade(ctx context.Context, next failover.Share, encoded []byte) (uint64, error) {
	key := d.c.keys.HistoryDegrade(d.id, next.DegradedEpoch, next.Degrades)
	e, err := d.c.cfg.Store.Get(ctx, key)
	if err != nil && !errors.Is(err, coordination.ErrNotFound) {
		return 0, err
	}
	value, err := json.Marshal(history.Record{
		Group: next.Group, Index: next.Index, Epoch: next.DegradedEpoch, Kind: failover.Degrade, From: next.Active, To: next.Active,
		Who: "automation", Why: next.DegradedWhy, Started: next.DegradedAt, Ended: next.DegradedEnd, HeldMillis: -1,
	})
	if err != nil {
		return 0, err
	}
	err = d.c.cfg.Store.Txn(ctx, []coordination.Op{
		{Key: d.c.keys.Share(d.id), Value: encoded, Version: d.version},
		{Key: key, Value: value, Version: e.Version},
	})
	if err != nil {
		return 0, err
	}
	return d.versionOf(ctx, encoded)
}

func (d *driver) chunk(ctx context.Context, key string, value []byte) ([]byte, error) {
	n := 0
	for rest := value; len(rest) > 0; n++ {
		part := rest[:min(chunkBytes, len(rest))]
		rest = rest[len(part):]
		e, err := d.c.cfg.Store.Get(ctx, fmt.Sprintf("%s/%04d", key, n))
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return nil, err
		}
		if _, err := d.c.cfg.Store.Put(ctx, fmt.Sprintf("%s/%04d", key, n), part, e.Version); err != nil {
			return nil, err
		}
	}
	return json.Marshal(history.Record{Group: d.id.Group, Index: d.id.Index, Epoch: d.share.Epoch, Chunks: n})
}

// readHistory lists a share's moves, oldest first.
func readHistory(ctx context.Context, store coordination.Store, keys failover.Keys, id spillway.ShareID) ([]history.Record, error) {
	entries, err := store.List(ctx, keys.HistoryOf(id))
	if err != nil {
		return nil, err
	}
	parts, records := map[string][]byte{}, []history.Record{}
	for _, e := range entries {
		name := strings.TrimPrefix(e.Key, keys.HistoryOf(id))
		if head, _, ok := strings.Cut(name, "/"); ok {
			parts[head] = append(parts[head], e.Value...) // sorted by key, so in order
		}
	}
	for _, e := range entries {
		name := strings.TrimPrefix(e.Key, keys.HistoryOf(id))
		if strings.Contains(name, "/") {
			continue
		}
		var r history.Record
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return nil, fmt.Errorf("history %s: %w", e.Key, err)
		}
		if r.Chunks > 0 {
			if err := json.Unmarshal(parts[name], &r); err != nil {
				return nil, fmt.Errorf("history %s, %d parts: %w", e.Key, r.Chunks, err)
			}
		}
		records = append(records, r)
	}
	return records, nil
}

// readRecord reads the account of one move.
func readRecord(ctx context.Context, store coordination.Store, key string) (history.Record, error) {
	e, err := store.Get(ctx, key)
	if err != nil {
		return history.Record{}, fmt.Errorf("history %s: %w", key, err)
	}
	var r history.Record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return history.Record{}, fmt.Errorf("history %s: %w", key, err)
	}
	if r.Chunks == 0 {
		return r, nil
	}
	var value []byte
	for n := range r.Chunks {
		part, err := store.Get(ctx, fmt.Sprintf("%s/%04d", key, n))
		if err != nil {
			return history.Record{}, fmt.Errorf("history %s, part %d of %d: %w", key, n, r.Chunks, err)
		}
		value = append(value, part.Value...)
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return history.Record{}, fmt.Errorf("history %s, %d parts: %w", key, r.Chunks, err)
	}
	return r, nil
}

// untrimmed is the record with the offsets of all its terms: those that it does not
// carry any more are in the history, which nobody changes. known keeps what was read.
func untrimmed(ctx context.Context, store coordination.Store, keys failover.Keys, share failover.Share, known map[spillway.Epoch]failover.Term) (failover.Share, error) {
	share.Terms = slices.Clone(share.Terms)
	for i, t := range share.Terms {
		if !t.Trimmed {
			continue
		}
		full, ok := known[t.Epoch]
		if !ok {
			r, err := readRecord(ctx, store, keys.History(share.ID(), t.Epoch))
			if err != nil {
				return share, fmt.Errorf("where epoch %d of share %s began: %w", t.Epoch, share.ID(), err)
			}
			full = t
			full.Start, full.Verified, full.Trimmed = r.Start, r.Verified, false
			known[t.Epoch] = full
		}
		share.Terms[i] = full
	}
	return share, nil
}

// failoversSince counts the unplanned moves that ended after a time.
func failoversSince(records []history.Record, after time.Time) int {
	n := 0
	for _, r := range records {
		if r.Kind == failover.Failover && r.Aborted == "" && r.Ended.After(after) {
			n++
		}
	}
	return n
}

// clean removes the reports of epochs that are long over.
func (d *driver) clean(ctx context.Context) {
	if d.cleaned == d.share.Epoch || d.share.Epoch < 3 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	prefix := d.c.keys.Moves() + d.id.String() + "/"
	for _, e := range d.c.hub.entries(d.c.keys.Moves()) {
		rest, ok := strings.CutPrefix(e.Key, prefix)
		if !ok {
			continue
		}
		epoch, _, _ := strings.Cut(rest, "/")
		if n, err := strconv.Atoi(epoch); err == nil && spillway.Epoch(n) < d.share.Epoch-1 {
			if err := d.c.cfg.Store.Delete(ctx, e.Key, e.Version); err != nil && !errors.Is(err, coordination.ErrConflict) {
				return // tried again in the next epoch
			}
		}
	}
	d.cleaned = d.share.Epoch
}
