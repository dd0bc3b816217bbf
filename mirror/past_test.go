package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// TestDifference says what of two sites has to be equal: all that neither has
// deleted in good order.
func TestDifference(t *testing.T) {
	t.Parallel()
	records := func(values map[spillway.Offset]string) digests {
		d := make(digests)
		for v, value := range values {
			d[v] = sha256.Sum256([]byte(value))
		}
		return d
	}
	m := offsetmap.New()
	m.Apply(offsetmap.EpochStart{Epoch: 1})
	view := m.View()
	for _, c := range []struct {
		name                 string
		ours, theirs         map[spillway.Offset]string
		ourStart, theirStart spillway.LocalOffset
		settled              spillway.Offset
		compacted            bool
		want                 spillway.Offset // 10: no difference
	}{
		{name: "equal", ours: map[spillway.Offset]string{7: "a", 9: "b"}, theirs: map[spillway.Offset]string{7: "a", 9: "b"}, want: 10},
		{name: "other record", ours: map[spillway.Offset]string{7: "a", 9: "b"}, theirs: map[spillway.Offset]string{7: "a", 9: "x"}, want: 9},
		{name: "the first one counts", ours: map[spillway.Offset]string{7: "a", 9: "b"}, theirs: map[spillway.Offset]string{7: "x", 9: "y"}, want: 7},
		{name: "a record where there was a marker", ours: map[spillway.Offset]string{7: "a"}, theirs: map[spillway.Offset]string{7: "a", 8: "x"}, want: 8},
		{name: "a marker where there was a record", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{7: "a"}, want: 8},
		{name: "the source deleted it", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{8: "b"}, theirStart: 8, want: 10},
		{name: "this site deleted it", ours: map[spillway.Offset]string{8: "b"}, theirs: map[spillway.Offset]string{7: "a", 8: "b"}, ourStart: 8, want: 10},
		{name: "compaction took it at the source", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{8: "b"}, compacted: true, want: 10},
		{name: "compaction took it here", ours: map[spillway.Offset]string{8: "b"}, theirs: map[spillway.Offset]string{7: "a", 8: "b"}, compacted: true, want: 10},
		{name: "compaction changes no record", ours: map[spillway.Offset]string{8: "b"}, theirs: map[spillway.Offset]string{7: "a", 8: "x"}, compacted: true, want: 8},
		{name: "aborted while this site served", ours: map[spillway.Offset]string{7: "a", 8: "b"}, theirs: map[spillway.Offset]string{8: "b"}, settled: 8, want: 10},
	} {
		p := past{end: 10, settled: c.settled, ours: logPart{view: view, start: c.ourStart, end: 10}, theirs: logPart{view: view, start: c.theirStart, end: 10}}
		if at, same := p.difference(records(c.ours), records(c.theirs), c.compacted); at != c.want || same != (c.want == 10) {
			t.Errorf("%s: they part at %d (same: %v), not at %d", c.name, at, same, c.want)
		}
	}
}

// Two mirrors of a site without a lease open one session after the other. What one
// compares may be the map of the other, which was cut where that one began: the
// source has lost nothing, and nothing is written into the gap log.
func TestNothingFollowsFromTheMapOfAnotherSession(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBounded(t, nil)
	b.write(t, 1)
	b.follows(t)
	tp := spillway.TopicPartition{Topic: "orders"}
	src, err := b.westM.source("east")
	if err != nil {
		t.Fatal(err)
	}
	held := b.westM.reader.Map(tp).Session()
	end, _ := b.westM.reader.View(tp).End()
	// The other one began some records before the end that this one has.
	other := held
	other.Session, other.Worker, other.Virtual = held.Session+1, "other", end-5
	other.Local, _ = b.westM.reader.View(tp).ToLocal(other.Virtual)
	at, err := b.westM.writer.Save(ctx, maptopic.SessionEntry(tp, other))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.westM.reader.WaitFor(ctx, at); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		session offsetmap.Session
		cut     bool
	}{{held, false}, {other, true}} {
		p := &partition{TopicPartition: tp, session: c.session, cutVirtual: noBound, sourceEpoch: -1, position: position{virtual: end, bound: noBound}}
		p.source, _ = src.view(tp).ToLocal(end)
		parted, problems := b.westM.comparePast(ctx, src, []*partition{p})
		if len(problems) > 0 || len(parted) != 1 || (p.cutVirtual != noBound) != c.cut {
			t.Errorf("session %d: parted %v, problems %v, cut at %d", c.session.Session, len(parted), problems, p.cutVirtual)
		}
	}
}

// What was found in one session is not done in a later one where another mirror has had
// one in between: that one has looked as well, and what there is may be its own.
func TestACutIsNotForTheMapOfAnotherSession(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBounded(t, nil)
	b.write(t, 1)
	b.follows(t)
	b.westM.Close()
	m := testMirrorWith(t, Config{Local: b.west}, b.east)
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := m.reader.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	end, _ := m.reader.View(tp).End()
	for _, c := range []struct {
		before int64 // sessions between the one in which the cut was found and the last one
		want   spillway.Offset
	}{{1, end}, {0, end - 5}} {
		last := m.reader.Map(tp).Session().Session
		p := &partition{TopicPartition: tp, session: offsetmap.Session{Session: last - c.before}, cutVirtual: noBound, sourceEpoch: -1, batchBytesMax: 1 << 20}
		p.cut(end-5, maptopic.GapSource)
		opened, _, err := m.open(ctx, ordersShare, 1, []*partition{p})
		if err != nil || len(opened) != 1 || p.virtual != c.want {
			t.Errorf("cut in session %d, the last was %d: opened %d partitions at %d, want at %d: %v", last-c.before, last, len(opened), p.virtual, c.want, err)
		}
	}
}

// However long two logs are, however much of them differs, and where there are holes:
// it is found where they part, with few looks.
func TestPartingPoint(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		low, length := spillway.Offset(r.IntN(3)*1000), spillway.Offset(1+r.IntN(1<<(4+r.IntN(16))))
		end := low + length
		parts := end - spillway.Offset(r.IntN(1+int(length)))
		if r.IntN(5) == 0 {
			parts = low
		}
		every := 1 + r.IntN(3)*r.IntN(500) // how sparse the records are
		holeAt := low + spillway.Offset(r.IntN(int(length)))
		holeEnd := holeAt + spillway.Offset(r.IntN(int(length)))
		there := func(v spillway.Offset) bool { return int(v)%every == 0 && (v < holeAt || v >= holeEnd) }
		want, records := end, 0
		for v := low; v < end; v++ {
			if there(v) {
				records++
				if v >= parts {
					want = min(want, v)
				}
			}
		}
		looks := 0
		at, err := partingPoint(low, end, func(from, to spillway.Offset) (glimpse, error) {
			if looks++; from < low || to > end || from >= to || to-from > pastOffsetsMax {
				t.Fatalf("seed %d: a look at [%d, %d) of [%d, %d)", seed, from, to, low, end)
			}
			s := glimpse{first: to, same: true, empty: true}
			for v := from; v < to; v++ {
				if there(v) {
					s.empty = false
					if v >= parts {
						s.first, s.same = min(s.first, v), false
					}
				}
			}
			return s, nil
		})
		if err != nil || at != want {
			t.Fatalf("seed %d: they part at %d, found %d, %v", seed, want, at, err)
		}
		if looks > 100 {
			t.Errorf("seed %d: %d looks at %d offsets, %d records", seed, looks, length, records)
		}
	}
	// Dense logs of a billion records, all of which differ, are no matter of hours.
	looks := 0
	at, err := partingPoint(0, 1_000_000_000, func(from, _ spillway.Offset) (glimpse, error) {
		looks++
		return glimpse{first: from}, nil
	})
	if err != nil || at != 0 || looks > 30 {
		t.Errorf("found %d with %d looks, %v", at, looks, err)
	}
	if at, err := partingPoint(5, 3, nil); err != nil || at != 3 {
		t.Errorf("with nothing to compare: %d, %v", at, err)
	}
}

// Below the first offset of both sites there is nothing to look at, however large
// the offset base is.
func TestPartingPointBeginsAtTheFirstOffset(t *testing.T) {
	t.Parallel()
	const base = spillway.Offset(1) << 60
	at := func(virtual spillway.Offset, start spillway.LocalOffset) logPart {
		m := offsetmap.New()
		m.Apply(offsetmap.EpochStart{Epoch: 1, Virtual: virtual})
		return logPart{view: m.View(), start: start, end: 5000}
	}
	for _, c := range []struct {
		name         string
		ours, theirs logPart
		want         spillway.Offset
	}{
		{"both from the beginning", at(base, 0), at(base, 0), base},
		{"this site came later", at(base+500, 0), at(base, 0), base},
		{"the source came later", at(base, 0), at(base+500, 0), base},
		{"this site deleted some", at(base, 300), at(base, 0), base + 300},
		{"the source deleted some", at(base, 0), at(base, 400), base + 400},
	} {
		p, looks := past{ours: c.ours, theirs: c.theirs, end: base + 5000}, 0
		found, err := partingPoint(p.low(), p.end, func(from, _ spillway.Offset) (glimpse, error) {
			if looks++; looks > 100 {
				return glimpse{}, errors.New("more than a hundred looks")
			}
			if from < c.want {
				return glimpse{same: true, empty: true}, nil
			}
			return glimpse{first: from}, nil
		})
		if err != nil || found != c.want {
			t.Errorf("%s: they part at %d (%d from the base), %v", c.name, found, found-base, err)
		}
	}
}

type counted struct {
	broker.Cluster
	dials atomic.Int64
}

func (c *counted) Dial(ctx context.Context, node int32) (*conn.Conn, error) {
	c.dials.Add(1)
	return c.Cluster.Dial(ctx, node)
}

// A comparison that goes back in steps keeps its connections.
func TestSpansAreReadOverOneConnection(t *testing.T) {
	t.Parallel()
	b := newBounded(t, nil)
	end := b.write(t, 1)[spillway.TopicPartition{Topic: "orders"}]
	site := &counted{Cluster: b.east}
	r := sitelog.NewSpanReader(site)
	defer r.Close()
	for range 3 {
		spans := map[spillway.TopicPartition]sitelog.Span{{Topic: "orders"}: {To: spillway.LocalOffset(end) - 1000}}
		if failed, err := r.Scan(testContext(t), spans, sitelog.FetchOptions{Uncommitted: true}, func(sitelog.Fetched) error { return nil }); err != nil || len(failed) > 0 {
			t.Fatal(failed, err)
		}
	}
	if n := site.dials.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
