package control

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// chunkBytes is the size of one part of a large record.
const chunkBytes = 128 << 10

// ending is how a move ends, as this loop has begun to write it. It is kept until it is
// written or another loop was faster: made anew after each fault, with parts under another
// id, it would fill the store for as long as the store refuses it.
type ending struct {
	version uint64 // of the record that it goes on from; 0: there is none
	next    failover.Share
	encoded []byte
	key     string // of the account
	value   []byte // of the account, or the head that names its parts
	parts   []coordination.Entry
	written int // of parts, from the first
}

// endingOf makes the end of a move, its account in parts where that is large.
func (d *driver) endingOf(next failover.Share) (ending, error) {
	e := ending{version: d.version, next: next, encoded: next.EncodeBeside(), key: d.c.keys.History(d.id, d.share.Epoch)}
	var err error
	if e.value, err = json.Marshal(history.Of(d.share, next, d.group.OffsetBase)); err == nil && len(e.value)+len(e.encoded) > 2*chunkBytes {
		err = e.chunk(d.id, d.share.Epoch)
	}
	return e, err
}

// finish writes the record that ends a move together with its history, so that
// neither is there without the other. It returns what it wrote: the same again, with the
// same times, as long as nothing else was written.
func (d *driver) finish(ctx context.Context, next failover.Share) (failover.Share, []byte, uint64, error) {
	e := &d.ending
	if e.version != d.version || e.next.Epoch != next.Epoch || e.next.Active != next.Active {
		d.drop()
		var err error
		if *e, err = d.endingOf(next); err != nil {
			*e = ending{}
			return next, nil, 0, err
		}
	}
	if err := d.writeParts(ctx, e); err != nil {
		return e.next, e.encoded, 0, err
	}
	ops := []coordination.Op{{Key: d.c.keys.Share(d.id), Value: e.encoded, Version: d.version}, {Key: e.key, Value: e.value}}
	err := d.c.cfg.Store.Txn(ctx, ops)
	if errors.Is(err, coordination.ErrConflict) && strings.Contains(err.Error(), e.key) {
		// Written by a loop that did not get to write the share; it says the same.
		err = d.c.cfg.Store.Txn(ctx, ops[:1])
	}
	if err != nil {
		if errors.Is(err, coordination.ErrConflict) {
			d.drop()
		}
		return next, nil, 0, err
	}
	next, encoded := e.next, e.encoded
	version, err := d.versionOf(ctx, encoded)
	if err == nil {
		*e = ending{}
	}
	return next, encoded, version, err
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

// chunk cuts a large account into parts, under an id that no other loop has: all loops end a
// move at once, and what they write differs in its times. The head that remains becomes
// valid with the record of the share.
func (e *ending) chunk(id spillway.ShareID, epoch spillway.Epoch) (err error) {
	h := history.Record{Group: id.Group, Index: id.Index, Epoch: epoch, Parts: fmt.Sprintf("%016x", rand.Uint64()), Sum: sumOf(e.value)}
	for rest := e.value; len(rest) > 0; h.Chunks++ {
		part := coordination.Entry{Key: partKey(e.key, h, h.Chunks), Value: rest[:min(chunkBytes, len(rest))]}
		rest = rest[len(part.Value):]
		e.parts = append(e.parts, part)
	}
	e.value, err = json.Marshal(h)
	return err
}

// writeParts writes what is not written yet of the parts.
func (d *driver) writeParts(ctx context.Context, e *ending) (err error) {
	for ; e.written < len(e.parts); e.written++ {
		part := &e.parts[e.written]
		part.Version, err = d.c.cfg.Store.Put(ctx, part.Key, part.Value, 0)
		if errors.Is(err, coordination.ErrConflict) {
			// Nobody else has the id: it was written, and the answer was lost.
			var there coordination.Entry
			if there, err = d.c.cfg.Store.Get(ctx, part.Key); err == nil {
				part.Version = there.Version
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// drop forgets how this loop wanted to end a move that another one has ended, or that went
// on in another way, and deletes the parts of it unless they are the account that stands:
// a write whose answer was lost may have been done. What cannot be deleted is never read,
// and swept later. It has its own time: often there was none left for the write.
func (d *driver) drop() {
	e := d.ending
	d.ending = ending{}
	if len(e.parts) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeMax)
	defer cancel()
	head, err := d.c.cfg.Store.Get(ctx, e.key)
	if err != nil && !errors.Is(err, coordination.ErrNotFound) || bytes.Equal(head.Value, e.value) {
		return
	}
	for _, part := range e.parts {
		if part.Version == 0 {
			continue // swept later, if it was written at all
		}
		if d.c.cfg.Store.Delete(ctx, part.Key, part.Version) != nil {
			return
		}
	}
}

// sweptMax bounds how many of the last moves are swept: those before were when they ended.
const sweptMax = 2

// sweep deletes parts of accounts that no head names: of a loop that died while it wrote
// them, or that could not delete them. Whoever writes parts of a move that is over cannot
// end it any more. It is tried once for each epoch.
func (d *driver) sweep(ctx context.Context) {
	if d.swept == d.share.Epoch {
		return
	}
	d.swept = d.share.Epoch
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	epochs := movesOf(d.share)
	for _, epoch := range epochs[max(0, len(epochs)-sweptMax):] {
		key := d.c.keys.History(d.id, epoch)
		parts, err := d.c.cfg.Store.List(ctx, key+"/")
		if err != nil || len(parts) == 0 {
			continue
		}
		e, err := d.c.cfg.Store.Get(ctx, key)
		var head history.Record
		if err != nil || json.Unmarshal(e.Value, &head) != nil {
			continue
		}
		named := map[string]bool{}
		for n := range head.Chunks {
			named[partKey(key, head, n)] = true
		}
		for _, part := range parts {
			if !named[part.Key] {
				_ = d.c.cfg.Store.Delete(ctx, part.Key, part.Version) // with the next move
			}
		}
	}
}

func sumOf(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:])
}

// partKey is where part n of a record is.
func partKey(key string, head history.Record, n int) string {
	if head.Parts == "" {
		return fmt.Sprintf("%s/%04d", key, n)
	}
	return fmt.Sprintf("%s/%s/%04d", key, head.Parts, n)
}

// errSpoilt means that what the store has is no account: it does not get better.
var errSpoilt = errors.New("the account is spoilt")

// decodeRecord reads the account of one move; get reads its parts. Where these cannot be
// read the record has what its head tells.
func decodeRecord(e coordination.Entry, get func(key string) ([]byte, error)) (history.Record, error) {
	var head, whole history.Record
	if err := json.Unmarshal(e.Value, &head); err != nil {
		return head, fmt.Errorf("history %s: %w: %w", e.Key, errSpoilt, err)
	}
	if head.Chunks == 0 {
		return head, nil
	}
	var value []byte
	for n := range head.Chunks {
		part, err := get(partKey(e.Key, head, n))
		if err != nil {
			return head, fmt.Errorf("history %s, part %d of %d: %w", e.Key, n, head.Chunks, err)
		}
		value = append(value, part...)
	}
	if head.Sum != "" && head.Sum != sumOf(value) {
		return head, fmt.Errorf("history %s: %w: its %d parts are not what was written", e.Key, errSpoilt, head.Chunks)
	}
	if err := json.Unmarshal(value, &whole); err != nil {
		return head, fmt.Errorf("history %s, %d parts: %w: %w", e.Key, head.Chunks, errSpoilt, err)
	}
	return whole, nil
}

// readHistory lists a share's moves, oldest first. One that cannot be read hides no other.
func readHistory(ctx context.Context, store coordination.Store, keys failover.Keys, id spillway.ShareID) ([]history.Record, error) {
	entries, err := store.List(ctx, keys.HistoryOf(id))
	if err != nil {
		return nil, err
	}
	values, records := map[string][]byte{}, []history.Record{}
	for _, e := range entries {
		values[e.Key] = e.Value
	}
	for _, e := range entries {
		name := strings.TrimPrefix(e.Key, keys.HistoryOf(id))
		if strings.Contains(name, "/") {
			continue // a part
		}
		r, err := decodeRecord(e, func(key string) ([]byte, error) {
			if value, ok := values[key]; ok {
				return value, nil
			}
			return nil, fmt.Errorf("%s: %w", key, coordination.ErrNotFound)
		})
		if err != nil {
			epoch, _, _ := strings.Cut(name, "-") // of a degrade
			n, _ := strconv.ParseInt(epoch, 10, 32)
			r = history.Record{Group: id.Group, Index: id.Index, Epoch: spillway.Epoch(n), HeldMillis: -1, Unread: err.Error()}
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
	return decodeRecord(e, func(key string) ([]byte, error) {
		part, err := store.Get(ctx, key)
		return part.Value, err
	})
}

const (
	// readAtOnce bounds the records of the history that are read at the same time.
	readAtOnce = 16
	// lastMax and lastWait bound what is read of earlier moves to reckon with: it is told
	// to people, and nothing waits for it.
	lastMax  = 2 * history.EarlierMax
	lastWait = time.Second
)

// lastMoves reads the accounts of the last moves of a share, oldest first, as far as they
// can be read in a moment. The record names their epochs: a listing would bring all that
// there ever were, with all their offsets.
func lastMoves(ctx context.Context, store coordination.Store, keys failover.Keys, share failover.Share) []history.Record {
	ctx, cancel := context.WithTimeout(ctx, lastWait)
	defer cancel()
	epochs := movesOf(share)
	epochs = epochs[max(0, len(epochs)-lastMax):]
	var records []history.Record
	readEpochs(ctx, store, keys, share.ID(), epochs, func(_ spillway.Epoch, r history.Record, err error) {
		if err == nil {
			records = append(records, r)
		}
	})
	slices.SortFunc(records, func(a, b history.Record) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return records
}

// movesOf are the epochs under which the accounts of a share's moves are, oldest first.
func movesOf(share failover.Share) []spillway.Epoch {
	var epochs []spillway.Epoch
	for _, t := range share.Terms {
		switch {
		case t.Continues:
			epochs = append(epochs, t.Epoch-1) // that the move was to open, before it was given up
		case t.Epoch > 1:
			epochs = append(epochs, t.Epoch)
		}
	}
	return epochs
}

// readEpochs reads the accounts of moves to some epochs, several at a time, and hands them
// over one by one, in any order.
func readEpochs(ctx context.Context, store coordination.Store, keys failover.Keys, id spillway.ShareID, epochs []spillway.Epoch, take func(spillway.Epoch, history.Record, error)) {
	slots := make(chan struct{}, readAtOnce)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, epoch := range epochs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			r, err := readRecord(ctx, store, keys.History(id, epoch))
			mu.Lock()
			defer mu.Unlock()
			take(epoch, r, err)
		})
	}
	wg.Wait()
}

// untrimmed is the record with the bounds of all its terms: those that it does not
// carry any more are in the history, which nobody changes. known keeps what was read. A
// listing would bring years of moves in one answer, which the store does not give in time.
func untrimmed(ctx context.Context, store coordination.Store, keys failover.Keys, share failover.Share, known map[spillway.Epoch]failover.Term) (failover.Share, error) {
	share.Terms = slices.Clone(share.Terms)
	var unread []spillway.Epoch
	for _, t := range share.Terms {
		if _, ok := known[t.Epoch]; t.Trimmed && !ok {
			unread = append(unread, t.Epoch)
		}
	}
	var faults []error
	readEpochs(ctx, store, keys, share.ID(), unread, func(epoch spillway.Epoch, r history.Record, err error) {
		if err == nil {
			known[epoch] = boundsOf(r)
			return
		}
		what := ""
		if errors.Is(err, coordination.ErrNotFound) || errors.Is(err, errSpoilt) {
			what = "; a mirror does nothing of the share without it: restore that key from a backup of the coordinator store"
		}
		faults = append(faults, fmt.Errorf("where epoch %d of share %s began: %w%s", epoch, share.ID(), err, what))
	})
	if len(faults) > 0 {
		return share, fmt.Errorf("%d of %d terms cannot be read, such as %w", len(faults), len(share.Terms), faults[0])
	}
	for i, t := range share.Terms {
		if t.Trimmed {
			share.Terms[i].Verified, share.Terms[i].Trimmed = known[t.Epoch].Verified, false
		}
	}
	return share, nil
}

// boundsOf is what a mirror needs of an older term, in one list: where the records of terms
// before end (failover.Term.Bound). There may be thousands of terms.
func boundsOf(r history.Record) failover.Term {
	bounds := r.Verified
	if bounds == nil {
		bounds = failover.PartitionOffsets{}
	}
	r.Start.All(func(tp spillway.TopicPartition, start spillway.Offset) {
		if start >= 0 && bounds.Get(tp) < 0 {
			bounds.Set(tp, 0)
		}
	})
	return failover.Term{Verified: bounds}
}

// clean removes the reports of epochs that are long over, and what nobody reads.
func (d *driver) clean(ctx context.Context) {
	if d.ending.version != 0 {
		d.drop() // another loop was faster
	}
	d.sweep(ctx)
	if d.cleaned == d.share.Epoch || d.share.Epoch < 3 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, writeMax)
	defer cancel()
	for epoch, reports := range d.c.hub.reportsOf(d.id) {
		if epoch >= d.share.Epoch-1 {
			continue
		}
		for _, e := range reports {
			if err := d.c.cfg.Store.Delete(ctx, e.Key, e.Version); err != nil && !errors.Is(err, coordination.ErrConflict) {
				return // tried again in the next epoch
			}
		}
	}
	d.cleaned = d.share.Epoch
}
