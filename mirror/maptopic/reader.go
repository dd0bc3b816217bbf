package maptopic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/metadata"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/sitelog"
	"spillway/mirror/workers"
)

// Bounds of a Reader's requests.
const (
	readBytesMax  = 1 << 20
	recordsMax    = 64 << 20 // of one batch, decompressed
	readWait      = time.Second
	readMax       = 5 * time.Second // gateways and moves wait for the map
	readPause     = 100 * time.Millisecond
	readPauseLong = time.Second // while the topic does not exist
)

var topic = spillway.TopicPartition{Topic: spillway.MapTopic}

// Reader follows the map topic of one site and keeps its maps in memory. All
// methods may be called by any goroutine.
type Reader struct {
	// Set once, read by anyone.
	cluster  broker.Cluster
	onChange func(tp spillway.TopicPartition)
	cancel   context.CancelFunc
	done     chan struct{}

	// Owned by follow.
	conn *conn.Conn

	mu struct {
		sync.RWMutex
		maps    map[spillway.TopicPartition]*offsetmap.Map
		byTopic map[string][]spillway.TopicPartition // the keys of maps
		gaps    map[string]Gap
		hidden  map[spillway.TopicPartition]map[string]Gap  // those of gaps that hide a part of the log as it is
		highest map[spillway.TopicPartition]map[string]Gap  // of hidden, that of each kind which lies highest: it is in danger if any is
		lacks   map[spillway.TopicPartition]spillway.Offset // see Lacks
		owed    map[spillway.TopicPartition]spillway.Offset // what a log had that began anew, until it is there again
		origins map[string][]Origin                         // by topic, in the order of their claims
		rules   map[string]rewrite.Text
		floors  map[string]spillway.Epoch
		kept    map[string]spillway.Epoch // the last one of floors that was written
		workers map[string]*workers.Table // by flow
		changed chan struct{}             // closed when somebody may have to do other things
		topics  map[string]Topic
		levels  map[spillway.TopicPartition]Level
		acls    map[spillway.ACL]metadata.OwnedACL
		quotas  map[string]map[string]metadata.Owned
		next    int64         // the first offset of the topic that was not applied
		moved   chan struct{} // closed when next changes
		skipped int           // records that could not be understood
		problem error         // why nothing can be read, nil while it works
		whole   bool          // all that was there was read once, since it was forgotten last
		forgot  int           // how often that was
	}
}

// Tail starts to follow the map topic of a site. onChange, if not nil, is
// called by the reading goroutine after the map of a partition changed, and
// must not block. A topic that does not exist yet is waited for.
func Tail(ctx context.Context, cluster broker.Cluster, onChange func(spillway.TopicPartition)) *Reader {
	ctx, cancel := context.WithCancel(ctx)
	r := &Reader{cluster: cluster, onChange: onChange, cancel: cancel, done: make(chan struct{})}
	r.mu.moved = make(chan struct{})
	r.forget()
	go r.follow(ctx)
	return r
}

// Close ends the reading and waits for it.
func (r *Reader) Close() {
	r.cancel()
	<-r.done
}

var emptyView = offsetmap.New().View()

// View returns the verified map of a partition; an empty one if nothing is known.
func (r *Reader) View(tp spillway.TopicPartition) *offsetmap.View {
	r.mu.RLock()
	m := r.mu.maps[tp]
	r.mu.RUnlock()
	if m == nil {
		return emptyView
	}
	return m.View()
}

// Map returns the map of a partition, nil if nothing is known. Only the mirror
// needs it, for sessions and what is not verified.
func (r *Reader) Map(tp spillway.TopicPartition) *offsetmap.Map {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.maps[tp]
}

// Partitions lists the partitions that have a map, sorted.
func (r *Reader) Partitions() []spillway.TopicPartition {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(r.mu.maps), spillway.TopicPartition.Compare)
}

// PartitionsOf lists those of topics that patterns name: exact names, or prefixes followed
// by "*". Where they are names it looks at no other topics.
func (r *Reader) PartitionsOf(patterns []string) []spillway.TopicPartition {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var tps []spillway.TopicPartition
	for _, topic := range spillway.Named(patterns, r.mu.byTopic) {
		tps = append(tps, r.mu.byTopic[topic]...)
	}
	slices.SortFunc(tps, spillway.TopicPartition.Compare)
	return tps
}

// Open returns the epochs that are open, by partition.
func (r *Reader) Open() map[spillway.TopicPartition]offsetmap.EpochStart {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[spillway.TopicPartition]offsetmap.EpochStart)
	for tp, m := range r.mu.maps {
		if o, open := m.Open(); open {
			all[tp] = o
		}
	}
	return all
}

// Began is the virtual offset at which the flow into a partition was told to start, 0
// where it was not: what lies below was not asked for.
func (r *Reader) Began(tp spillway.TopicPartition) spillway.Offset {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.gaps[StartID(tp)].To
}

// Followed is View with what the mirror has marked since (offsetmap.Map.Followed); nil
// where nothing is known. position is that of the mark, 0 where it has none.
func (r *Reader) Followed(tp spillway.TopicPartition, session int64, end spillway.Offset, position int64) *offsetmap.View {
	whole := position > 0 && r.Position() >= position // before the map: it only grows
	if m := r.Map(tp); m != nil {
		return m.Followed(session, end, whole)
	}
	return nil
}

// Lacks is the virtual offset below which the site was not given all that its source had:
// what is missing there looks as a hole, and another site may have it. 0 where it has all.
func (r *Reader) Lacks(tp spillway.TopicPartition) spillway.Offset {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.lacks[tp]
}

// Origin is the flow that feeds a topic; false where none does, or a failover group.
func (r *Reader) Origin(topic string) (Origin, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	claims := r.mu.origins[topic]
	if len(claims) == 0 {
		return Origin{}, false
	}
	return claims[0], true
}

// Origins lists the topics that flows feed, with the flows.
func (r *Reader) Origins() map[string]Origin {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[string]Origin, len(r.mu.origins))
	for topic, claims := range r.mu.origins {
		if len(claims) > 0 {
			all[topic] = claims[0]
		}
	}
	return all
}

// Rewrite is how the records of a topic of so many partitions are rewritten on their way
// here. Where nobody has said it they come as they are, once a mirror wrote, or was about
// to write, into a partition; false: nothing holds yet.
func (r *Reader) Rewrite(topic string, partitions int32) (rewrite.Text, bool) {
	r.mu.RLock()
	t, ok := r.mu.rules[topic]
	r.mu.RUnlock()
	for i := int32(0); i < partitions && !ok; i++ {
		m := r.Map(spillway.TopicPartition{Topic: topic, Partition: i})
		ok = m != nil && m.Session().Session > 0
	}
	return t, ok
}

// claim notes who feeds a topic, in the place of the same source's earlier claim.
func (r *Reader) claim(topic string, o Origin) {
	claims := slices.Clone(r.mu.origins[topic])
	if i := slices.IndexFunc(claims, func(c Origin) bool { return c.Site == o.Site }); i >= 0 {
		claims[i] = o
	} else {
		claims = append(claims, o)
	}
	r.mu.origins[topic] = claims
}

// unclaim takes a claim back.
func (r *Reader) unclaim(topic string, site spillway.SiteID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.origins[topic] = slices.DeleteFunc(slices.Clone(r.mu.origins[topic]), func(c Origin) bool { return c.Site == site })
}

// Gap is one entry of the gap log.
func (r *Reader) Gap(id string) (g Gap, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	g, ok = r.mu.gaps[id]
	return g, ok
}

// Gaps is the gap log of the site, oldest first.
func (r *Reader) Gaps() []Gap {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.mu.gaps), func(a, b Gap) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return slices.Compare([]byte(a.ID), []byte(b.ID))
	})
}

// Floor is the highest epoch of a share that the site saw, 0 if none.
func (r *Reader) Floor(id spillway.ShareID) spillway.Epoch {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.floors[id.String()]
}

// FloorKept is the floor that compaction leaves: one that came late may be below it.
func (r *Reader) FloorKept(id spillway.ShareID) spillway.Epoch {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.kept[id.String()]
}

// Workers are those of a flow, at the position that was read.
func (r *Reader) Workers(flow string) *workers.Table {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.mu.workers[flow]; t != nil {
		return t
	}
	return workers.Empty()
}

// WorkersChanged is closed when the workers of a flow have changed, or what they hold.
func (r *Reader) WorkersChanged() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.changed
}

// Topic is what the site's mirror did to a topic; what it says is not to be changed.
func (r *Reader) Topic(name string) Topic {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.topics[name]
}

// Level is until when the site was level with the source of a partition, as far as that was
// written down.
func (r *Reader) Level(tp spillway.TopicPartition) (Level, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	l, known := r.mu.levels[tp]
	return l, known
}

// Topics lists the topics of which Topic tells something, sorted.
func (r *Reader) Topics() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.mu.topics))
}

// ACLs are the entries of the access control list that the site's mirror made.
func (r *Reader) ACLs() map[spillway.ACL]metadata.OwnedACL {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return maps.Clone(r.mu.acls)
}

// Quotas are the values that the site's mirror set, by entity and key.
func (r *Reader) Quotas() map[string]map[string]metadata.Owned {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return maps.Clone(r.mu.quotas)
}

// Skipped is the number of records that could not be understood.
func (r *Reader) Skipped() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.skipped
}

// Position is the offset of the last record that was applied, −1 before the first.
func (r *Reader) Position() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.mu.next - 1
}

// WaitFor returns once the record at the map position was applied.
func (r *Reader) WaitFor(ctx context.Context, mapPosition int64) error {
	for {
		r.mu.RLock()
		next, moved, problem := r.mu.next, r.mu.moved, r.mu.problem
		r.mu.RUnlock()
		if next > mapPosition {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for position %d of %s/%s, read up to %d: %w", mapPosition, r.cluster.Site(), spillway.MapTopic, next-1, errors.Join(ctx.Err(), problem))
		case <-r.done:
			return fmt.Errorf("wait for position %d of %s/%s: the reader was closed", mapPosition, r.cluster.Site(), spillway.MapTopic)
		}
	}
}

// CaughtUp returns once everything was applied that was in the topic when it
// was called. Error: broker.ErrUnknownTopic if the site has no map topic.
func (r *Reader) CaughtUp(ctx context.Context) error {
	last, err := r.Last(ctx)
	if err != nil {
		return err
	}
	return r.WaitFor(ctx, last)
}

// Last asks for the position of the last record in the topic, −1 if it is empty. Error:
// broker.ErrUnknownTopic if the site has no map topic.
func (r *Reader) Last(ctx context.Context) (position int64, err error) {
	ends, err := r.cluster.Admin().HighWatermarks(ctx, []spillway.TopicPartition{topic})
	if err != nil {
		return -1, fmt.Errorf("read the map of site %s: %w", r.cluster.Site(), err)
	}
	return int64(ends[topic]) - 1, nil
}

// Whole returns once everything was applied that was in the topic at some time since it was
// read from its beginning: until then what is not found may only not have been read. A site
// without a map topic has nothing to read.
func (r *Reader) Whole(ctx context.Context) error {
	for {
		r.mu.RLock()
		whole, forgot := r.mu.whole, r.mu.forgot
		r.mu.RUnlock()
		if whole {
			return nil
		}
		err := r.CaughtUp(ctx)
		if errors.Is(err, broker.ErrUnknownTopic) {
			return nil // asked again: it may be created with what it had
		}
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.mu.whole = r.mu.forgot == forgot
		r.mu.Unlock()
	}
}

// forget empties the maps: at the start, and when the topic lost records.
func (r *Reader) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.maps = make(map[spillway.TopicPartition]*offsetmap.Map)
	r.mu.byTopic = make(map[string][]spillway.TopicPartition)
	r.mu.gaps = make(map[string]Gap)
	r.mu.hidden = make(map[spillway.TopicPartition]map[string]Gap)
	r.mu.highest = make(map[spillway.TopicPartition]map[string]Gap)
	r.mu.lacks = make(map[spillway.TopicPartition]spillway.Offset)
	r.mu.owed = make(map[spillway.TopicPartition]spillway.Offset)
	r.mu.origins = make(map[string][]Origin)
	r.mu.rules = make(map[string]rewrite.Text)
	r.mu.floors, r.mu.kept = make(map[string]spillway.Epoch), make(map[string]spillway.Epoch)
	if r.mu.workers == nil {
		r.mu.workers = make(map[string]*workers.Table)
	}
	for flow, t := range r.mu.workers {
		r.mu.workers[flow] = t.Forgotten()
	}
	if r.mu.changed != nil {
		close(r.mu.changed)
	}
	r.mu.changed = make(chan struct{})
	r.mu.topics = make(map[string]Topic)
	r.mu.levels = make(map[spillway.TopicPartition]Level)
	r.mu.acls = make(map[spillway.ACL]metadata.OwnedACL)
	r.mu.quotas = make(map[string]map[string]metadata.Owned)
	r.mu.next = 0
	r.mu.whole = false
	r.mu.forgot++
}

// follow reads until ctx ends. It goes on after every fault.
func (r *Reader) follow(ctx context.Context) {
	defer close(r.done)
	defer func() {
		if r.conn != nil {
			r.conn.Close()
		}
	}()
	for ctx.Err() == nil {
		err := r.read(ctx)
		r.mu.Lock()
		r.mu.problem = err
		r.mu.Unlock()
		if err == nil {
			continue
		}
		if r.conn != nil {
			r.conn.Close()
			r.conn = nil
		}
		pause := readPause
		if errors.Is(err, broker.ErrUnknownTopic) {
			pause = readPauseLong
		}
		if sitelog.Pause(ctx, pause) == nil {
			_ = r.cluster.Refresh(ctx) // an unreachable site is met again by the next read
		}
	}
}

// read asks for the next records and applies them.
func (r *Reader) read(ctx context.Context) error {
	if r.conn == nil {
		node, err := r.cluster.Leader(ctx, topic)
		if err != nil {
			return err
		}
		if r.conn, err = r.cluster.Dial(ctx, node); err != nil {
			return err
		}
	}
	next := r.Position() + 1
	if err := r.conn.Unmuted(ctx); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, readMax)
	defer cancel()
	parts, err := sitelog.Fetch(bounded, r.conn, []sitelog.FetchPart{{TopicPartition: topic, Offset: spillway.LocalOffset(next), BytesMax: readBytesMax}},
		sitelog.FetchOptions{MaxWait: readWait, BytesMax: readBytesMax, Uncommitted: true})
	if err != nil {
		return err
	}
	if len(parts) != 1 {
		return fmt.Errorf("fetch %s: %d partitions in the answer", topic, len(parts))
	}
	f := parts[0]
	switch {
	case errors.Is(f.Err, kerr.OffsetOutOfRange):
		// The topic was emptied, re-created or truncated. What was read from
		// it may be wrong, so start over.
		if next == 0 {
			return r.startAt(ctx)
		}
		r.forget()
		return fmt.Errorf("%s/%s has no offset %d any more; reading it again", r.cluster.Site(), topic, next)
	case f.Err != nil:
		return f.Err
	}
	w := batch.Over(f.Records)
	for w.Next() {
		if err := r.apply(w.Header, w.Bytes); err != nil {
			return err
		}
	}
	return w.Err()
}

// startAt skips to the log start of a topic whose first records are gone.
func (r *Reader) startAt(ctx context.Context) error {
	starts, err := r.cluster.Admin().LogStarts(ctx, []spillway.TopicPartition{topic})
	if err != nil {
		return err
	}
	r.advance(int64(starts[topic]))
	return nil
}

func (r *Reader) apply(h batch.Header, b []byte) error {
	if !h.Control() {
		records, err := batch.Records(b, recordsMax)
		if err != nil {
			return fmt.Errorf("%s/%s at %d: %w", r.cluster.Site(), topic, h.BaseOffset, err)
		}
		next := r.Position() + 1
		base := h.BaseOffset
		for i := range records {
			if base+int64(records[i].OffsetDelta) >= next {
				r.applyRecord(base+int64(records[i].OffsetDelta), records[i].Key, records[i].Value)
			}
		}
	}
	r.advance(h.NextOffset())
	return nil
}

func (r *Reader) applyRecord(position int64, key, value []byte) {
	if topic, site, ok := originOf(string(key)); ok && value == nil {
		r.unclaim(topic, site)
		return
	}
	d, err := decode(key, value)
	if value == nil && d.acl == nil && d.quota == nil && d.worker == nil {
		return // a cleaned-up entry; what it said is below both log starts
	}
	r.mu.Lock()
	if err != nil {
		r.mu.skipped++
		r.mu.Unlock()
		return
	}
	var m *offsetmap.Map
	switch {
	case d.gap != nil:
		r.mu.gaps[d.name] = *d.gap
		r.note(*d.gap)
		if g := d.gap; g.Kind == GapMissing || g.Kind == GapStart || g.Kind == GapRetention {
			tp := spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}
			r.mu.lacks[tp] = max(r.mu.lacks[tp], g.To)
		}
	case d.floor != nil:
		r.mu.floors[d.name], r.mu.kept[d.name] = max(r.mu.floors[d.name], d.floor.Epoch), d.floor.Epoch
	case d.worker != nil:
		r.applyWorker(position, d.name, *d.worker, d.gone)
	case d.origin != nil:
		r.claim(d.name, *d.origin)
	case d.rules != nil:
		if _, claimed := r.mu.rules[d.name]; !claimed {
			r.mu.rules[d.name] = *d.rules
		}
	case d.topic != nil:
		r.mu.topics[d.name] = *d.topic
	case d.level != nil:
		r.mu.levels[d.tp] = *d.level
	case d.acl != nil && d.gone:
		delete(r.mu.acls, d.acl.ACL)
	case d.acl != nil:
		r.mu.acls[d.acl.ACL] = d.acl.OwnedACL
	case d.quota != nil && d.gone:
		delete(r.mu.quotas, d.name)
	case d.quota != nil:
		r.mu.quotas[d.name] = *d.quota
	default:
		m = r.mu.maps[d.tp]
		if m == nil {
			m = offsetmap.New()
			r.mu.maps[d.tp] = m
			r.mu.byTopic[d.tp.Topic] = append(r.mu.byTopic[d.tp.Topic], d.tp)
		}
	}
	r.mu.Unlock()
	if m == nil {
		return
	}
	changed := m.Apply(d.record)
	r.mu.Lock()
	r.settle(d.tp, m)
	r.mu.Unlock()
	if changed && r.onChange != nil {
		r.onChange(d.tp)
	}
}

func (r *Reader) applyWorker(position int64, flow string, said workers.Record, gone bool) {
	t := r.mu.workers[flow]
	if t == nil {
		t = workers.Empty()
	}
	next := t.With(position, said)
	if gone {
		next = t.Without(position, said.Worker)
	}
	r.mu.workers[flow] = next
	if next.Version() != t.Version() {
		close(r.mu.changed)
		r.mu.changed = make(chan struct{})
	}
}

func (r *Reader) advance(next int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next > r.mu.next {
		r.mu.next = next
		close(r.mu.moved)
		r.mu.moved = make(chan struct{})
	}
}
