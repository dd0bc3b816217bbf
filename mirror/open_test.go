package mirror

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// meanwhile is a site at which something happens before the next connection is made.
type meanwhile struct {
	broker.Cluster
	do atomic.Pointer[func()]
}

func (m *meanwhile) Dial(ctx context.Context, node int32) (*conn.Conn, error) {
	if do := m.do.Swap(nil); do != nil {
		(*do)()
	}
	return m.Cluster.Dial(ctx, node)
}

// Three mirrors of a site without a lease: what the first one sent arrives late, behind the
// end that the second one has read. The second one opens its session, in which nothing is
// pending any more, while the third one is about to claim its own. Whatever the third one
// finds then, the map may not say that everything is here below an end and show nothing of
// it (promise E).
func TestAnotherMirrorOpensBeforeTheClaim(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBounded(t, nil)
	b.write(t, 1)
	b.follows(t)
	b.westM.Close()
	tp := spillway.TopicPartition{Topic: "orders"}
	others := testMirror(t, b.west, b.east)
	site := &meanwhile{Cluster: b.west}
	third := testMirrorWith(t, Config{Local: site, Worker: "third"}, b.east)
	if err := third.reader.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	save := func(entries ...maptopic.Entry) {
		at, err := others.writer.Save(ctx, entries...)
		if err := errors.Join(err, third.reader.WaitFor(ctx, at)); err != nil {
			t.Error(err)
		}
	}
	virtual, local := third.reader.View(tp).End()
	last := third.reader.Map(tp).Session()
	session := func(n int64, worker string, opened bool) maptopic.Entry {
		s := last
		s.Session, s.Worker, s.ProducerEpoch = last.Session+n, worker, last.ProducerEpoch+int16(n)
		s.Opened, s.Local, s.Virtual = opened, local, virtual
		return maptopic.SessionEntry(tp, s)
	}
	const records = 6
	save(session(1, "first", false), session(1, "first", true),
		maptopic.ChunkEntry(tp, &offsetmap.Chunk{Session: last.Session + 1, Worker: "first", First: local, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: virtual, Local: local, Length: records}}}),
		session(2, "second", false))
	opens := func() {
		lateBatch(t, b.west, tp, batch.Header{ProducerID: last.ProducerID, ProducerEpoch: last.ProducerEpoch + 1}, records, local)
		save(session(2, "second", true))
	}
	site.do.Store(&opens)
	p := &partition{TopicPartition: tp, cutVirtual: noBound, sourceEpoch: -1, batchBytesMax: 1 << 20}
	opened, _, err := third.open(ctx, ordersShare, 1, []*partition{p})
	if err != nil || len(opened) != 1 || site.do.Load() != nil {
		t.Fatalf("opened %d partitions: %v", len(opened), err)
	}
	view := third.reader.View(tp)
	if end, _ := view.End(); view.Count(virtual, end) != int64(end-virtual) || p.virtual != end || p.local != local+records {
		t.Errorf("the map says that all below %d is here and shows %d records from %d on; the partition goes on at %d, local offset %d",
			end, view.Count(virtual, end), virtual, p.virtual, p.local)
	}
}

// lateBatch appends records under a producer, which come to lie at a local offset.
func lateBatch(t *testing.T, site broker.Cluster, tp spillway.TopicPartition, h batch.Header, records int, at spillway.LocalOffset) {
	t.Helper()
	ctx := testContext(t)
	h.LeaderEpoch, h.BaseTimestamp = -1, time.Now().UnixMilli()
	rs := make([]batch.Record, records)
	for i := range rs {
		rs[i] = batch.Record{OffsetDelta: int32(i), Value: []byte("late")}
	}
	raw, err := batch.Rebuild(h, rs, batch.None)
	node, err2 := site.Leader(ctx, tp)
	c, err3 := site.Dial(ctx, node)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if a, err := sitelog.ProduceOne(ctx, c, sitelog.ProducePart{TopicPartition: tp, Batch: raw}, 5*time.Second); err != nil || a.Base != at {
		t.Errorf("written at %d, wanted %d: %v", a.Base, at, err)
	}
}
