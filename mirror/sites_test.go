package mirror

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/embedded"
	"spillway/mirror/sitelog"
)

// The tests of this package run on embedded sites, which do not do everything
// that Kafka does (see broker/embedded); those tagged e2e run on Kafka.

func embeddedSite(t *testing.T, id spillway.SiteID, topics map[string]int32) *embedded.Cluster {
	t.Helper()
	c, err := embedded.Start(embedded.Config{Site: id, Brokers: 2, Topics: topics})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func testMirror(t *testing.T, local broker.Cluster, sources ...broker.Cluster) *Mirror {
	t.Helper()
	return testMirrorWith(t, Config{Local: local}, sources...)
}

func testMirrorWith(t *testing.T, c Config, sources ...broker.Cluster) *Mirror {
	t.Helper()
	if c.Worker == "" {
		c.Worker = fmt.Sprintf("%s-%x", c.Local.Site(), rand.Uint64())
	}
	c.Sources = make(map[spillway.SiteID]broker.Cluster)
	for _, s := range sources {
		c.Sources[s.Site()] = s
	}
	c.FetchWait, c.TopicInterval, c.GroupInterval = 50*time.Millisecond, 100*time.Millisecond, cmp.Or(c.GroupInterval, 100*time.Millisecond)
	c.VerifyInterval, c.MetadataInterval = 200*time.Millisecond, cmp.Or(c.MetadataInterval, 100*time.Millisecond)
	if c.quiet == (quietLimits{}) { // so that partitions go to and fro
		c.quiet = quietLimits{from: 2, after: 50 * time.Millisecond, laneMax: 1}
	}
	m, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// soon bounds what is to come at once. No test judges how long that takes, and a busy
// machine may take long.
const soon = time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*soon)
	t.Cleanup(cancel)
	return ctx
}

var ordersShare = spillway.ShareID{Group: "orders"}

func ordersAssignment(source spillway.SiteID, epoch spillway.Epoch, terms ...Term) Assignment {
	return Assignment{Terms: terms, Share: ordersShare, Topics: []string{"orders*"}, ConsumerGroups: []string{"app*"}, Epoch: epoch, Source: source, OffsetBase: 1000, Mask: uint64(epoch) * 77}
}

func assign(t *testing.T, m *Mirror, a Assignment) {
	t.Helper()
	if err := m.Assign(testContext(t), a); err != nil {
		t.Fatal(err)
	}
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", soon, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// load writes records of random sizes to a topic, some in transactions that
// commit or abort, so that the log has markers and holes.
type load struct {
	plain, transactional *kgo.Client
	random               *rand.Rand
	written              int
	at                   time.Time // of the records, if it is set; each is a second younger
}

func newLoad(t *testing.T, addresses []string, seed uint64) *load {
	t.Helper()
	l := &load{random: rand.New(rand.NewPCG(seed, 1))}
	var err error
	l.plain, err = kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.plain.Close)
	l.transactional, err = kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID(fmt.Sprintf("load-%d", seed)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.transactional.Close)
	return l
}

// records are some that are still to be written.
func (l *load) records(topic string, partitions int32) []*kgo.Record {
	records := make([]*kgo.Record, 1+l.random.IntN(20))
	for i := range records {
		l.written++
		value := make([]byte, l.random.IntN(200))
		for j := range value {
			value[j] = byte('a' + l.random.IntN(4))
		}
		records[i] = &kgo.Record{Topic: topic, Partition: l.random.Int32N(partitions), Key: fmt.Appendf(nil, "key-%d", l.written), Value: value,
			Headers: []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, l.written)}}}
		if !l.at.IsZero() {
			l.at = l.at.Add(time.Second)
			records[i].Timestamp = l.at
		}
	}
	return records
}

// write appends n batches spread over the partitions of a topic.
func (l *load) write(ctx context.Context, topic string, partitions int32, n int) error {
	for range n {
		records := l.records(topic, partitions)
		if l.random.IntN(3) > 0 {
			if err := l.plain.ProduceSync(ctx, records...).FirstErr(); err != nil {
				return err
			}
			continue
		}
		if err := l.transactional.BeginTransaction(); err != nil {
			return err
		}
		err := l.transactional.ProduceSync(ctx, records...).FirstErr()
		commit := kgo.TransactionEndTry(l.random.IntN(3) > 0)
		if err := errors.Join(err, l.transactional.EndTransaction(ctx, commit)); err != nil {
			return err
		}
	}
	return nil
}

// logged is a record as a reader sees it.
type logged struct {
	offset     int64
	timestamp  int64
	key, value []byte
	headers    []batch.RecordHeader
}

func (a logged) equal(b logged) bool {
	return a.timestamp == b.timestamp && bytes.Equal(a.key, b.key) && bytes.Equal(a.value, b.value) &&
		slices.EqualFunc(a.headers, b.headers, func(x, y batch.RecordHeader) bool { return x.Key == y.Key && bytes.Equal(x.Value, y.Value) })
}

// read returns the committed records of a partition.
func read(ctx context.Context, c broker.Cluster, tp spillway.TopicPartition) ([]logged, error) {
	tps := []spillway.TopicPartition{tp}
	ends, err := c.Admin().LogEnds(ctx, tps)
	if err != nil {
		return nil, err
	}
	starts, err := c.Admin().LogStarts(ctx, tps)
	if err != nil {
		return nil, err
	}
	node, err := c.Leader(ctx, tp)
	if err != nil {
		return nil, err
	}
	conn, err := c.Dial(ctx, node)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var all []logged
	for at := starts[tp]; at < ends[tp]; {
		fs, err := sitelog.Fetch(ctx, conn, []sitelog.FetchPart{{TopicPartition: tp, Offset: at, BytesMax: 1 << 20}}, sitelog.FetchOptions{MaxWait: time.Second, BytesMax: 4 << 20})
		if err != nil {
			return nil, err
		}
		aborted := abortedFilter{waiting: fs[0].Aborted}
		w := batch.Over(fs[0].Records)
		for w.Next() {
			h := w.Header
			skip, err := aborted.skips(h, w.Bytes)
			if err != nil {
				return nil, err
			}
			if !skip {
				rs, err := batch.Records(w.Bytes, DecompressedBytesMax)
				if err != nil {
					return nil, err
				}
				for _, r := range rs {
					if o := h.BaseOffset + int64(r.OffsetDelta); o >= int64(at) {
						all = append(all, logged{o, h.BaseTimestamp + r.TimestampDelta, r.Key, r.Value, r.Headers})
					}
				}
			}
			at = spillway.LocalOffset(h.NextOffset())
		}
	}
	return all, nil
}

// compareSites checks that the visible records of the target are the source's
// committed ones, each under its virtual offset (promises D, E).
func compareSites(t *testing.T, source, target broker.Cluster, sm, tm *Mirror, tp spillway.TopicPartition) {
	t.Helper()
	ctx := testContext(t)
	theirs, err := read(ctx, source, tp)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := read(ctx, target, tp)
	if err != nil {
		t.Fatal(err)
	}
	if err := tm.Map().CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	sv, tv := sm.Map().View(tp), tm.Map().View(tp)
	theirs = slices.DeleteFunc(theirs, func(r logged) bool {
		_, visible := sv.ToVirtual(spillway.LocalOffset(r.offset))
		return !visible
	})
	ours = slices.DeleteFunc(ours, func(r logged) bool {
		_, visible := tv.ToVirtual(spillway.LocalOffset(r.offset))
		return !visible
	})
	if len(ours) != len(theirs) {
		t.Errorf("%s: %d records are visible at the target, %d at the source", tp, len(ours), len(theirs))
	}
	for i := range min(len(ours), len(theirs)) {
		v, _ := sv.ToVirtual(spillway.LocalOffset(theirs[i].offset))
		w, _ := tv.ToVirtual(spillway.LocalOffset(ours[i].offset))
		if v != w || !ours[i].equal(theirs[i]) {
			t.Fatalf("%s: record %d: virtual offset %d at the source, %d at the target, equal: %v", tp, i, v, w, ours[i].equal(theirs[i]))
		}
		if l, at := tv.ToLocal(v); l != spillway.LocalOffset(ours[i].offset) || at != v {
			t.Fatalf("%s: ToLocal(%d) = %d, %d; the record lies at %d", tp, v, l, at, ours[i].offset)
		}
	}
}

// caughtUp tells whether the marks of all partitions have reached the source's
// log ends.
func caughtUp(ctx context.Context, source broker.Cluster, sm, tm *Mirror, a Assignment) bool {
	tps, err := a.partitionsAt(ctx, source)
	if err != nil || len(tps) == 0 {
		return false
	}
	ends, err := source.Admin().HighWatermarks(ctx, tps)
	if err != nil {
		return false
	}
	have := tm.Ends(a.Share)
	for _, tp := range tps {
		v, _ := sm.Map().View(tp).ToVirtual(ends[tp])
		if end, ok := have[tp]; !ok || end < v {
			return false
		}
	}
	// The verified ends follow the marks.
	for _, tp := range tps {
		if v, _ := tm.Map().View(tp).End(); v < have[tp] {
			return false
		}
	}
	return true
}
