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

// lateStart is the start of an epoch that was given up, above the reserved end, which reaches
// the map of west while a mirror opens a partition.
type lateStart struct {
	site    *meanwhile
	m       *Mirror
	tp      spillway.TopicPartition
	virtual spillway.Offset // and local: where west is
	local   spillway.LocalOffset
	claimed func() // happens when the next claims are in the map
	arrives func()
}

func newLateStart(t *testing.T) *lateStart {
	t.Helper()
	ctx := testContext(t)
	b := newBounded(t, nil)
	b.write(t, 1)
	b.follows(t)
	b.westM.Close()
	s := &lateStart{site: &meanwhile{Cluster: b.west}, tp: spillway.TopicPartition{Topic: "orders"}}
	s.m = testMirrorWith(t, Config{Local: s.site, Crash: func(point string) {
		if do := s.claimed; point == "afterClaim" && do != nil {
			s.claimed = nil
			do()
		}
	}}, b.east)
	if err := s.m.readMap(ctx); err != nil {
		t.Fatal(err)
	}
	s.virtual, s.local = s.m.reader.View(s.tp).End()
	start := offsetmap.EpochStart{Epoch: 2, Virtual: s.virtual + 5000, Local: s.local, Session: s.m.reader.Map(s.tp).Session().Session, Had: s.virtual, Worker: "late"}
	late := testMirror(t, b.west)
	s.arrives = func() {
		at, err := late.writer.Save(ctx, maptopic.StartEntry(s.tp, start))
		if err := errors.Join(err, s.m.reader.WaitFor(ctx, at)); err != nil {
			t.Error(err)
		}
	}
	return s
}

// givenUpTwo are the terms of a share that never came to epoch 2.
var givenUpTwo = []Term{{Epoch: 1, Site: "east"}, {Epoch: 3, Site: "east"}}

// opens opens the partition, and tells whether it is open then.
func (s *lateStart) opens(t *testing.T, terms []Term) (p *partition, is bool) {
	t.Helper()
	p = &partition{TopicPartition: s.tp, cutVirtual: noBound, sourceEpoch: -1, batchBytesMax: 1 << 20, terms: terms}
	opened, lost, err := s.m.open(testContext(t), ordersShare, 3, []*partition{p})
	if err != nil || len(opened)+len(lost) != 1 {
		t.Fatalf("opened %d, lost %d: %v", len(opened), len(lost), err)
	}
	return p, len(opened) == 1
}

// What an epoch left out as burnt that was given up is not taken for what is here, whenever
// its start comes while a partition is opened. An opening that the start voids is none.
func TestAStartThatComesWhileAPartitionIsOpened(t *testing.T) {
	t.Parallel()
	foreign := batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	for name, c := range map[string]struct {
		terms   []Term
		reading bool // it comes while the log is read back, or before
		opened  bool
	}{
		"before the log is read back":                        {givenUpTwo, false, false},
		"while the log is read back":                         {givenUpTwo, true, true},
		"while who has not heard of the move reads it back":  {nil, true, false},
		"before who has not heard of the move reads it back": {nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newLateStart(t)
			s.claimed = s.arrives
			if c.reading {
				lateBatch(t, s.site, s.tp, foreign, 1, s.local) // so that there is something to read
				s.claimed = func() { s.site.do.Store(&s.arrives) }
			}
			p, opened := s.opens(t, c.terms)
			if opened != c.opened || s.claimed != nil || s.site.do.Load() != nil {
				t.Fatalf("opened: %v", opened)
			}
			view := s.m.reader.View(s.tp)
			if end, _ := view.End(); opened && (end != s.virtual || p.virtual != s.virtual) {
				t.Errorf("the map ends at %d, the partition goes on at %d; west has all below %d", end, p.virtual, s.virtual)
			}
			if _, open := view.Open(); open == opened {
				t.Errorf("the late epoch is open: %v", open)
			}
		})
	}
}

// A site does not tell a failover that it has what an epoch left out as burnt that was given
// up, though its start comes only then.
func TestAStartThatComesWhileEndsAreReadBack(t *testing.T) {
	t.Parallel()
	s := newLateStart(t)
	if err := s.m.Know(ordersAssignment("east", 3, givenUpTwo...)); err != nil {
		t.Fatal(err)
	}
	s.claimed = s.arrives
	ends, err := s.m.Stop(testContext(t), ordersShare, 4)
	if err != nil || ends[s.tp] != s.virtual || s.claimed != nil {
		t.Errorf("it tells %d, west has all below %d: %v", ends[s.tp], s.virtual, err)
	}
}

// A claim that was not opened has compared nothing with the source.
func TestAClaimThatWasNotOpenedIsNoComparison(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	west := embeddedSite(t, "west", map[string]int32{"orders": 1})
	m := testMirrorWith(t, Config{Local: west, Worker: "own"})
	if err := m.readMap(ctx); err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	other := offsetmap.Session{Session: 1, Worker: "other", Epoch: 1, Opened: true}
	claim := offsetmap.Session{Session: 2, Worker: "own", Epoch: 1, Virtual: -1}
	if err := m.saveAndRead(ctx, []maptopic.Entry{maptopic.SessionEntry(tp, other), maptopic.SessionEntry(tp, claim)}); err != nil {
		t.Fatal(err)
	}
	p := &partition{TopicPartition: tp, cutVirtual: noBound}
	for _, resumes := range []bool{false, true} {
		if opened, _, err := m.open(ctx, ordersShare, 1, []*partition{p}); err != nil || len(opened) != 1 || p.resumes != resumes {
			t.Errorf("%d opened, resumes: %v, want %v: %v", len(opened), p.resumes, resumes, err)
		}
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

// A mirror dies with records in the log that the map does not call verified yet, and the
// cleaner takes some of them whole before the next one looks: what is left is the mirror's
// all the same.
func TestWhatTheCleanerTookBeforeTheOpening(t *testing.T) {
	t.Parallel()
	previous := offsetmap.Session{Session: 1, Worker: "w", ProducerID: 7, ProducerEpoch: 3}
	batchOf := func(at int64, sequence int32, n int32) batch.Header {
		return batch.Header{ProducerID: 7, ProducerEpoch: 3, BaseOffset: at, BaseSequence: sequence, LastOffsetDelta: n - 1}
	}
	for name, c := range map[string]struct {
		seen   batch.Header
		hidden int
		end    spillway.LocalOffset
	}{
		"the first records are gone":             {batchOf(104, 4, 6), 0, 110},
		"there are sequences where no offset is": {batchOf(102, 4, 6), 2, 100},
		"more than was on its way":               {batchOf(104, 4, 60), 2, 100},
	} {
		pending := &offsetmap.Chunk{Session: 1, Worker: "w", First: 100, Sequence: 0, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: 1100, Local: 100, Length: 10}}}
		v := newVerifier(100, 1100, pending, previous, offsetmap.Session{Session: 2, Worker: "w"})
		v.see(c.seen)
		if len(v.hidden) != c.hidden || v.straight.Local != c.end {
			t.Errorf("%s: %+v is hidden, and the log as it was saved up to %d", name, v.hidden, v.straight.Local)
		}
	}
}
