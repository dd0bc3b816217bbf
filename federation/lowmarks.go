package federation

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/router"
)

// lowMarks knows below which virtual offsets clients have deleted records: one record for
// each topic in the store, written before a site is asked to delete (C35). A site that did
// not, since it was away, shows nothing below the mark when it comes to serve. It
// implements router.LowMarks.
//
//	A  a mark only rises, as long as the topic is the same
//	B  a mark is in the store before anything below it is deleted
//	C  a share opens only after the marks were read that were written before
type lowMarks struct {
	gateway *Gateway

	mu      sync.Mutex
	byTopic map[string]failover.LowMarks
}

func newLowMarks(g *Gateway) *lowMarks {
	return &lowMarks{gateway: g, byTopic: make(map[string]failover.LowMarks)}
}

// see takes what a watch or a read shows. One may be older than the other, but marks only
// rise.
func (l *lowMarks) see(entries []coordination.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		var r failover.LowMarks
		if err := json.Unmarshal(e.Value, &r); err != nil || l.gateway.keys.LowMarksOf(r.Topic) != e.Key {
			l.gateway.problem("read "+e.Key, cmp.Or(err, errOtherTopic))
			continue
		}
		if r.Newer(l.byTopic[r.Topic]) {
			l.byTopic[r.Topic] = r
		}
	}
}

var errOtherTopic = errors.New("the record is that of another topic")

// load reads all marks (C).
func (l *lowMarks) load(ctx context.Context) error {
	entries, err := l.gateway.config.Store.List(ctx, l.gateway.keys.LowMarks())
	if err == nil {
		l.see(entries)
	}
	return err
}

// Low implements router.LowMarks.
func (l *lowMarks) Low(site spillway.SiteID, tp spillway.TopicPartition, id func() [16]byte) spillway.Offset {
	l.mu.Lock()
	r, known := l.byTopic[tp.Topic]
	l.mu.Unlock()
	mark, ok := r.Marks[tp.Partition]
	if !known || !ok || !r.Of(site, id()) {
		return -1
	}
	return mark
}

// auditEvery is how often a topic's deletions by the same client are told: Kafka Streams
// deletes what it has read of its repartition topics every 30 s.
const auditEvery = time.Hour

// Raise implements router.LowMarks.
func (l *lowMarks) Raise(ctx context.Context, topic string, marks map[int32]spillway.Offset, ids map[spillway.SiteID][16]byte, who string) error {
	store, key := l.gateway.config.Store, l.gateway.keys.LowMarksOf(topic)
	for {
		e, err := store.Get(ctx, key)
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return err
		}
		var r failover.LowMarks
		if err == nil {
			if err := json.Unmarshal(e.Value, &r); err != nil {
				return fmt.Errorf("read %s: %w", e.Key, err)
			}
		}
		next := r.Raised(topic, marks, ids)
		now := time.Now().UTC()
		ops := []coordination.Op{{Key: key, Version: e.Version}}
		if r.Who != who || now.Sub(r.Told) >= auditEvery {
			next.Who, next.Told = who, now
			parts := slices.Sorted(maps.Keys(marks))
			ops = append(ops, l.gateway.changes.AuditOp(who, fmt.Sprintf("records of topic %s are deleted, in %d partitions, of partition %d below offset %d; told at most once an hour", topic, len(parts), parts[0], marks[parts[0]]), ""))
		}
		ops[0].Value = encode(next)
		err = store.Txn(ctx, ops)
		if errors.Is(err, coordination.ErrConflict) {
			continue
		}
		if err == nil {
			l.mu.Lock()
			if next.Newer(l.byTopic[topic]) {
				l.byTopic[topic] = next
			}
			l.mu.Unlock()
		}
		return err
	}
}

var _ router.LowMarks = (*lowMarks)(nil)
