package offsetmap

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"spillway"
)

// TestMillionRecords builds the map of a million records with the holes that
// transactions and compaction leave, and checks every offset both ways.
func TestMillionRecords(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	m := New()
	m.Apply(Session{Session: 1, Worker: "w", Opened: true})
	var source []spillway.Offset // virtual offset by local offset
	v, l, bytes := spillway.Offset(0), spillway.LocalOffset(0), 0
	for len(source) < 1_000_000 {
		c := &Chunk{Session: 1, Worker: "w", First: l, Sequence: int32(l)}
		for range 500 {
			n := int64(1 + r.IntN(4))
			if len(source) > 500_000 {
				n = int64(1 + r.IntN(40)) // compaction
			}
			c.Ranges = append(c.Ranges, Range{1, v, l, n})
			for i := range n {
				source = append(source, v+spillway.Offset(i))
			}
			v, l = v+spillway.Offset(n+int64(1+r.IntN(3))), l+spillway.LocalOffset(n) // markers
		}
		b := c.Encode()
		bytes += len(b)
		c, err := DecodeChunk(b)
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(c)
	}
	m.Apply(Verified{Session: 1, Local: l, Virtual: v})
	view := m.View()
	ranges := len(view.Ranges())
	memory := 0
	for _, b := range view.blocks {
		memory += len(b.data)
	}
	t.Logf("%d records, %d ranges, %.2f B per range stored, %.2f B in memory", len(source), ranges, float64(bytes)/float64(ranges), float64(memory)/float64(ranges))
	if perRange := float64(bytes) / float64(ranges); perRange > 3 {
		t.Errorf("a range takes %.2f B", perRange)
	}
	next := 0
	for o := range v {
		for next < len(source) && source[next] < o {
			next++
		}
		if next == len(source) {
			break
		}
		if local, at := view.ToLocal(o); int(local) != next || at != source[next] {
			t.Fatalf("ToLocal(%d) = %d, %d; want %d, %d", o, local, at, next, source[next])
		}
	}
	for local, want := range source {
		if o, visible := view.ToVirtual(spillway.LocalOffset(local)); o != want || !visible {
			t.Fatalf("ToVirtual(%d) = %d, %v; want %d", local, o, visible, want)
		}
	}
}

// TestEpochThatKeptNothingGivesNoProgress is a failover that was given up after
// its target had written the start of the epoch: what the start left out as
// burnt still exists at the site that goes on, and must be mirrored from there.
func TestEpochThatKeptNothingGivesNoProgress(t *testing.T) {
	t.Parallel()
	m := New()
	m.Apply(Session{Session: 1, Worker: "w", Opened: true})
	m.Apply(&Chunk{Session: 1, Worker: "w", Verified: true, Ranges: []Range{{1, 1000, 0, 90}}})
	m.Apply(Verified{Session: 1, Local: 90, Virtual: 1093}) // markers at the end
	m.Apply(EpochStart{Epoch: 2, Virtual: 5000, Local: 90, Session: 1})
	m.Apply(EpochEnd{Epoch: 2, Virtual: 5000, Local: 90, LogEnd: 92}) // somebody wrote two records past the gateways
	if v, l := m.View().End(); v != 1093 || l != 92 {
		t.Errorf("the site claims to have everything below %d, and goes on at %d; want 1093 and 92", v, l)
	}
	if l, v := m.View().ToLocal(5000); v < 5000 || l != 92 {
		t.Errorf("ToLocal(5000) = %d, %d", l, v)
	}
	// One that kept records had everything below its start.
	m.Apply(EpochStart{Epoch: 4, Virtual: 6000, Local: 92, Session: 1})
	m.Apply(EpochEnd{Epoch: 4, Virtual: 6003, Local: 95, LogEnd: 95})
	if v, l := m.View().End(); v != 6003 || l != 95 {
		t.Errorf("end %d, %d; want 6003 and 95", v, l)
	}
}

// A start that reaches the map when its move was given up takes nothing back, whenever it
// comes, and one that counts is not ended by a mirror that has not heard of it (G).
func TestStartsAndSessionsCountByTheirEpoch(t *testing.T) {
	t.Parallel()
	late := EpochStart{Epoch: 2, Virtual: 1010, Local: 10, Session: 1, Had: 1010}
	claim := Session{Session: 2, Worker: "next", Epoch: 1, Virtual: -1}
	opened := Session{Session: 2, Worker: "next", Epoch: 3, Opened: true, Local: 10, Virtual: 1010}
	mirrored := &Chunk{Session: 2, Worker: "next", First: 10, Ranges: []Range{{1, 1012, 10, 5}}} // behind a hole
	verified := Verified{Session: 2, Local: 15, Virtual: 1017}
	starts := Range{Epoch: 2, Virtual: 1010, Local: 10, Length: OpenEnd}
	before := Range{Epoch: 1, Virtual: 1000, Local: 0, Length: 10}
	for name, c := range map[string]struct {
		records []Record
		ranges  []Range
		end     spillway.Offset
	}{
		"a start in time":                             {[]Record{late}, []Range{before, starts}, 1010},
		"a start behind what was mirrored since":      {[]Record{claim, opened, mirrored, verified, late}, []Range{before, mirrored.Ranges[0]}, 1017},
		"a start while the log is read back":          {[]Record{claim, late, opened, mirrored, verified}, []Range{before, mirrored.Ranges[0]}, 1017},
		"an opening by who has not heard of the move": {[]Record{late, Session{Session: 2, Worker: "old", Epoch: 1, Virtual: -1}, Session{Session: 2, Worker: "old", Epoch: 1, Opened: true, Local: 10, Virtual: 1010}}, []Range{before, starts}, 1010},
		"one in the same move":                        {[]Record{late, Session{Session: 2, Worker: "other", Epoch: 2, Opened: true, Local: 10, Virtual: 1010}}, []Range{before, starts}, 1010},
		"what such an opening writes": {[]Record{late, Session{Session: 2, Worker: "old", Epoch: 1, Virtual: -1}, Session{Session: 2, Worker: "old", Epoch: 1, Opened: true, Local: 10, Virtual: 1010},
			&Chunk{Session: 2, Worker: "old", First: 10, Ranges: []Range{{1, 1012, 10, 5}}}}, []Range{before, starts}, 1010},
		"an opening that took a burnt start for what is here": {[]Record{claim, EpochStart{Epoch: 2, Virtual: 5000, Local: 10, Session: 1, Had: 1010},
			Session{Session: 2, Worker: "next", Epoch: 3, Opened: true, Local: 10, Virtual: 5000}}, []Range{before}, 1010},
		"one that was void already": {[]Record{Session{Session: 3, Worker: "next", Epoch: 1, Virtual: -1}, opened, late}, []Range{before}, 1010},
	} {
		m := New()
		m.Apply(Session{Session: 1, Worker: "w", Epoch: 1, Opened: true, Virtual: 1000})
		m.Apply(&Chunk{Session: 1, Worker: "w", Verified: true, Ranges: []Range{before}})
		for _, r := range c.records {
			m.Apply(r)
		}
		v := m.View()
		if end, _ := v.End(); end != c.end || !slices.Equal(v.Ranges(), c.ranges) {
			t.Errorf("%s: ranges %v up to %d, want %v up to %d", name, v.Ranges(), end, c.ranges, c.end)
		}
		// What was mirrored is no stale mirror's (C8) when the site serves next.
		m.Apply(EpochStart{Epoch: 5, Virtual: 2000, Local: 15, Session: m.Session().Session})
		if m.View().served(12) && slices.Contains(c.ranges, mirrored.Ranges[0]) {
			t.Errorf("%s: what was mirrored counts as the site's own", name)
		}
	}
}

func TestTrailKeepsFivePerProducerEpoch(t *testing.T) {
	t.Parallel()
	m := New()
	c := &Chunk{Session: 1, Worker: "w", Ranges: []Range{{1, 0, 0, 1000}}}
	for i := range int32(40) {
		c.Trail = append(c.Trail,
			TrailEntry{ProducerID: 7, Epoch: 1, ProducerEpoch: int16(i / 10), First: i, Last: i, Virtual: spillway.Offset(2 * i)},
			TrailEntry{ProducerID: 8, Epoch: 1, First: i, Last: i, Virtual: spillway.Offset(2*i + 1)})
	}
	m.Apply(Session{Session: 1, Worker: "w", Opened: true})
	m.Apply(c)
	if got := m.View().LastOf(7, 1); len(got) != 0 {
		t.Fatalf("the trail of unverified records is believed: %v", got)
	}
	m.Apply(Verified{Session: 1, Local: 1000, Virtual: 1000})
	got := m.View().LastOf(7, 1)
	if len(got) != 15 || got[0].First != 15 || got[14].First != 39 {
		t.Errorf("trail of id 7: %v", got)
	}
	if got := m.View().LastOf(8, 1); len(got) != 5 || got[4].Virtual != 79 {
		t.Errorf("trail of id 8: %v", got)
	}
	if got := m.View().LastOf(8, 2); len(got) != 0 {
		t.Errorf("trail of another epoch: %v", got)
	}
	// The target lost its end: what was behind it is not in the log any more.
	m.Apply(Session{Session: 2, Worker: "w", Opened: true, Local: 75, Virtual: 75})
	if got := m.View().LastOf(8, 1); len(got) != 2 || got[1].Virtual != 73 {
		t.Errorf("trail after a truncation: %v", got)
	}
	if got := m.View().TrailBetween(70, 73); len(got) != 3 {
		t.Errorf("trail between 70 and 73: %v", got)
	}
}

func TestTrailIsBounded(t *testing.T) {
	t.Parallel()
	tr := &trail{}
	for i := range TrailProducersMax + 10 {
		tr.add([]TrailEntry{{ProducerID: int64(i), Virtual: spillway.Offset(i)}})
	}
	if n := len(tr.producers); n > TrailProducersMax {
		t.Errorf("%d producers kept", n)
	}
	if len(tr.lastOf(TrailProducersMax+9, 0, 1<<40)) != 1 {
		t.Error("the newest producer was dropped")
	}
}

func TestConcurrentReaders(t *testing.T) {
	t.Parallel()
	m := New()
	m.Apply(Session{Session: 1, Worker: "w", Opened: true})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				v := m.View()
				end, _ := v.End()
				for o := max(0, end-300); o < end; o++ {
					l, at := v.ToLocal(o)
					if back, visible := v.ToVirtual(l); at < end && (back != at || !visible) {
						t.Errorf("ToVirtual(%d) = %d, %v; want %d", l, back, visible, at)
						return
					}
				}
				v.LastOf(1, 1)
			}
		})
	}
	for i := range int64(3000) {
		v, l := spillway.Offset(5*i), spillway.LocalOffset(4*i)
		m.Apply(&Chunk{Session: 1, Worker: "w", First: l, Ranges: []Range{{1, v, l, 3}, {1, v + 4, l + 3, 1}},
			Trail: []TrailEntry{{ProducerID: 1, Epoch: 1, First: int32(i), Last: int32(i), Virtual: v}}})
	}
	close(stop)
	readers.Wait()
}

func TestCommitPrefix(t *testing.T) {
	t.Parallel()
	for _, metadata := range []string{"", "a", "~s1/1/1/", "/", "\x00\xff"} {
		s := EncodeCommit(1<<62, 1<<30, metadata)
		v, e, m, ok := DecodeCommit(s)
		if v != 1<<62 || e != 1<<30 || m != metadata || !ok {
			t.Errorf("%q: %d %d %q %v", s, v, e, m, ok)
		}
		if len(s) > CommitPrefixMax+len(metadata) {
			t.Errorf("prefix of %q is too long", s)
		}
	}
	for _, s := range []string{"", "x", "~s1/", "~s1/1", "~s1/1/2", "~s1/-1/2/x", "~s1/_/2/x", "~s1/1/zzzzzzzzz/x"} {
		if _, _, m, ok := DecodeCommit(s); ok || m != s {
			t.Errorf("%q was taken for a prefix", s)
		}
	}
}

func FuzzDecodeChunk(f *testing.F) {
	f.Add((&Chunk{Session: 3, Worker: "w", First: 9, Sequence: 1, Foretold: 3, Ranges: []Range{{1, 5, 9, 4}}}).Encode())
	f.Add((&Chunk{Session: 3, Worker: "w", First: 9, Sequence: 1, Ranges: []Range{{1, 5, 9, 2}, {2, 9, 11, 1}},
		Trail: []TrailEntry{{ProducerID: 1 << 62, Epoch: 1, ProducerEpoch: 2, First: 1<<31 - 1, Last: 3, Virtual: 5}}}).Encode())
	f.Add(Verified{Session: 1, Local: 2, Virtual: -1}.Encode())
	f.Add(Verified{Session: 1, Local: 2, Virtual: 9, Source: SourcePosition{Site: "east", Next: 12, LeaderEpoch: 3}}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeVerified(b); err == nil {
			if again, err := DecodeVerified(v.Encode()); err != nil || again != v {
				t.Fatalf("%v became %v, %v", v, again, err)
			}
		}
		c, err := DecodeChunk(b)
		if err != nil {
			return
		}
		again, err := DecodeChunk(c.Encode())
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if again.Session != c.Session || again.First != c.First || again.Foretold != c.Foretold || !slices.Equal(again.Ranges, c.Ranges) || !slices.Equal(again.Trail, c.Trail) {
			t.Fatalf("%+v became %+v", c, again)
		}
		for i, r := range c.Ranges {
			if r.Length <= 0 || i > 0 && (r.Virtual < c.Ranges[i-1].VirtualEnd() || r.Local != c.Ranges[i-1].LocalEnd()) {
				t.Fatalf("ranges break A: %v", c.Ranges)
			}
		}
		m := New()
		m.Apply(c)
		m.Apply(Verified{Session: c.Session, Local: c.First + spillway.LocalOffset(c.Count())})
		m.View().ToLocal(0)
	})
}

func BenchmarkToLocal(b *testing.B) {
	m := New()
	c := &Chunk{Session: 1, Verified: true}
	for i := range int64(100_000) {
		c.Ranges = append(c.Ranges, Range{1, spillway.Offset(2 * i), spillway.LocalOffset(i), 1})
	}
	m.Apply(c)
	v := m.View()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.ToLocal(spillway.Offset(i % 200_000))
	}
}

// A batch that was split for its target, and of which only the first half
// arrived, is not vouched for: a client that sends it again is not told that it
// is there. Neither is one that was cut off in the middle, whatever follows.
func TestTrailVouchesForWholeBatchesOnly(t *testing.T) {
	t.Parallel()
	m := New()
	split := TrailEntry{ProducerID: 7, Epoch: 1, First: 0, Last: 9, Virtual: 100}
	m.Apply(Session{Session: 1, Worker: "w", ProducerID: 99})
	m.Apply(&Chunk{Session: 1, Worker: "w", Ranges: []Range{{1, 100, 0, 10}}, Trail: []TrailEntry{split}})
	m.Apply(Verified{Session: 1, Local: 5, Virtual: 105})
	if got := m.View().LastOf(7, 1); len(got) != 0 {
		t.Errorf("half a batch is there: %v", got)
	}
	m.Apply(Verified{Session: 1, Local: 10, Virtual: 110})
	if got := m.View().LastOf(7, 1); len(got) != 1 || got[0] != split {
		t.Errorf("got %v", got)
	}
	m.Apply(Session{Session: 2, Worker: "w", ProducerID: 99, ProducerEpoch: 1})
	m.Apply(Session{Session: 2, Worker: "w", ProducerID: 99, ProducerEpoch: 1, Opened: true, Local: 5, Virtual: 105})
	m.Apply(EpochStart{Epoch: 2, Virtual: 200, Local: 5, Session: 2})
	if got := m.View().LastOf(7, 1); len(got) != 0 {
		t.Errorf("half of the batch was cut off: %v", got)
	}
}

// What a search decodes of a block is what all of it is decoded to.
func TestBlockUntil(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ranges []Range
		last := Range{Epoch: 1, Virtual: 1000, Local: 10}
		for range rapid.IntRange(1, blockRanges).Draw(t, "ranges") {
			last.Virtual = last.VirtualEnd() + spillway.Offset(rapid.Int64Range(0, 1<<20).Draw(t, "hole"))
			last.Local = last.LocalEnd() + spillway.LocalOffset(rapid.SampledFrom([]int64{0, 0, 1, 300, 1 << 40}).Draw(t, "gap"))
			last.Epoch += spillway.Epoch(rapid.SampledFrom([]int32{0, 0, 0, 1, 1000}).Draw(t, "epoch"))
			last.Length = rapid.SampledFrom([]int64{1, 10, 31, 32, 5000, 1 << 33}).Draw(t, "length")
			ranges = append(ranges, last)
		}
		b := newBlock(ranges)
		if all := b.ranges(nil); !slices.Equal(all, ranges) {
			t.Fatalf("%v became %v", ranges, all)
		}
		for i, want := range append(ranges, ranges[len(ranges)-1]) {
			seen := 0
			if got := b.until(func(Range) bool { seen++; return seen > i }); got != want {
				t.Fatalf("range %d is %v, not %v", i, got, want)
			}
		}
	})
}

// A log begins anew at a site that has served: somebody has deleted the topic there. What
// the mirror writes then lies at numbers that the site gave once, and is neither stale nor
// unreplicated.
func TestALogThatBeginsAnewWhereItServed(t *testing.T) {
	t.Parallel()
	m := New()
	m.Apply(EpochStart{Epoch: 1, Virtual: 1000, Local: 0})
	m.Apply(EpochEnd{Epoch: 1, Virtual: 1080, Local: 80, LogEnd: 90})
	m.Apply(Session{Session: 1, Worker: "w", ProducerID: 7, Opened: true, Epoch: 2, Local: 90, Virtual: 1080})
	m.Apply(&Chunk{Session: 1, Worker: "w", First: 90, Ranges: []Range{{2, 1080, 90, 20}}})
	m.Apply(Verified{Session: 1, Local: 110, Virtual: 1100})
	v := m.View()
	if !v.Stale(7, 79) || v.Stale(7, 90) || v.Ends()[0].LogEnd != 90 {
		t.Fatalf("before: stale %t, %t; ends %+v", v.Stale(7, 79), v.Stale(7, 90), v.Ends())
	}
	m.Apply(Session{Session: 2, Worker: "w", ProducerID: 7, ProducerEpoch: 1, Opened: true, Epoch: 2, Local: 0, Virtual: 1000})
	m.Apply(&Chunk{Session: 2, Worker: "w", First: 0, Ranges: []Range{{1, 1000, 0, 80}, {2, 1080, 80, 20}}})
	m.Apply(Verified{Session: 2, Local: 100, Virtual: 1100})
	v = m.View()
	for l := range spillway.LocalOffset(100) {
		if o, visible := v.ToVirtual(l); v.Stale(7, l) || !visible || o != 1000+spillway.Offset(l) {
			t.Fatalf("local offset %d: stale %t, virtual %d, visible %t", l, v.Stale(7, l), o, visible)
		}
	}
	if e := v.Ends()[0]; e.Local < e.LogEnd || e.Virtual != 1080 {
		t.Fatalf("unreplicated records are told of that are gone: %+v", e)
	}
	m.Apply(EpochStart{Epoch: 3, Virtual: 1100, Local: 100, Session: 2})
	if v = m.View(); v.Stale(7, 99) || !v.Stale(7, 100) {
		t.Fatalf("in an epoch that follows: stale %t, %t", v.Stale(7, 99), v.Stale(7, 100))
	}
}
