package offsetmap

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"spillway"
)

// twin is the dumb Map: it keeps every pair of offsets.
type twin struct {
	session, fenced int64
	pairs, pending  []pair
	open            *EpochStart
	before          spillway.Offset // how far the site was when the epoch started
	local           spillway.LocalOffset
	virtual         spillway.Offset
}

type pair struct {
	epoch   spillway.Epoch
	virtual spillway.Offset
	local   spillway.LocalOffset
}

func pairsOf(rs []Range) []pair {
	var ps []pair
	for _, r := range rs {
		for i := range r.Length {
			ps = append(ps, pair{r.Epoch, r.Virtual + spillway.Offset(i), r.Local + spillway.LocalOffset(i)})
		}
	}
	return ps
}

// horizon is how far the twin spells out an open range.
const horizon = 200

func (t *twin) cut(v spillway.Offset, l spillway.LocalOffset) {
	t.pairs = append(t.pairs, t.pending...)
	t.pending = nil
	if t.open != nil {
		t.pairs = append(t.pairs, t.openPairs(5*horizon)...)
		t.open = nil
	}
	t.pairs = slices.DeleteFunc(t.pairs, func(p pair) bool { return p.virtual >= v || p.local >= l })
}

func (t *twin) openPairs(n int64) []pair {
	return pairsOf([]Range{{t.open.Epoch, t.open.Virtual, t.open.Local, n}})
}

func (t *twin) visible() []pair {
	if t.open == nil {
		return t.pairs
	}
	return slices.Concat(t.pairs, t.openPairs(horizon))
}

// TestMapAgainstTwin plays random histories of sessions, chunks, crashes,
// epochs and stale writers, and compares every offset of every view with the
// twin, also of views that were taken earlier.
func TestMapAgainstTwin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m, tw := New(), &twin{}
		var old []*View
		var oldPairs [][]pair
		steps := rapid.IntRange(1, 60).Draw(t, "steps")
		for range steps {
			step(t, m, tw)
			v := m.View()
			compare(t, v, tw)
			old, oldPairs = append(old, v), append(oldPairs, slices.Clone(tw.visible()))
		}
		for i, v := range old {
			if got, want := spelled(v), oldPairs[i]; !slices.Equal(got, want) {
				t.Fatalf("view %d changed later: %v, was %v", i, got, want)
			}
		}
	})
}

func step(t *rapid.T, m *Map, tw *twin) {
	switch rapid.SampledFrom([]string{"chunk", "chunk", "chunk", "verified", "session", "stale", "start", "end", "takes over", "unheard"}).Draw(t, "kind") {
	case "chunk":
		if tw.open != nil {
			return
		}
		stepChunk(t, m, tw)
	case "verified":
		if tw.open != nil || len(tw.pending) == 0 || tw.session <= tw.fenced {
			return
		}
		n := rapid.IntRange(0, len(tw.pending)).Draw(t, "verified")
		tw.pairs = append(tw.pairs, tw.pending[:n]...)
		tw.pending = slices.Clone(tw.pending[n:])
		if n > 0 {
			tw.local, tw.virtual = tw.pairs[len(tw.pairs)-1].local+1, tw.pairs[len(tw.pairs)-1].virtual+1
		}
		m.Apply(Verified{Session: tw.session, Local: tw.local, Virtual: tw.virtual})
	case "session": // a worker starts: claims, verifies, opens
		if tw.open != nil {
			return
		}
		tw.session = max(tw.session, tw.fenced) + 1
		m.Apply(Session{Session: tw.session, Worker: "w"})
		n := rapid.IntRange(0, len(tw.pending)).Draw(t, "there")
		local, virtual := tw.local, tw.virtual
		if n > 0 {
			local, virtual = tw.pending[n-1].local+1, tw.pending[n-1].virtual+1
		} else {
			back := spillway.Offset(rapid.IntRange(0, 3).Draw(t, "truncated"))
			local, virtual = max(0, local-spillway.LocalOffset(back)), max(0, virtual-back)
		}
		tw.cut(virtual, local)
		tw.local, tw.virtual = local, virtual
		m.Apply(Session{Session: tw.session, Worker: "w", Opened: true, Local: local, Virtual: virtual})
	case "stale":
		if tw.session < 2 {
			return
		}
		s := rapid.Int64Range(1, tw.session-1).Draw(t, "stale session")
		if m.Apply(&Chunk{Session: s, Worker: "w", First: tw.local, Ranges: []Range{{1, tw.virtual, tw.local, 3}}}) {
			t.Fatalf("a chunk of session %d was taken in session %d", s, tw.session)
		}
		if m.Apply(&Chunk{Session: tw.session, Worker: "other", First: tw.local, Ranges: []Range{{1, tw.virtual, tw.local, 3}}}) {
			t.Fatal("a chunk of a worker that lost the race was taken")
		}
	case "start":
		burnt := spillway.Offset(rapid.IntRange(0, 4).Draw(t, "burnt"))
		e := EpochStart{Epoch: nextEpoch(m), Virtual: tw.virtual + burnt, Local: tw.local, Session: tw.session}
		if tw.open != nil {
			e.Virtual, e.Local = tw.open.Virtual+7+burnt, tw.open.Local+7
		}
		if n := len(tw.pending); n > 0 {
			e.Virtual, e.Local = tw.pending[n-1].virtual+1+burnt, tw.pending[n-1].local+1
		}
		before := tw.virtual
		if tw.open != nil {
			before = tw.open.Virtual
		}
		tw.cut(e.Virtual, e.Local)
		if n := len(tw.pairs); n > 0 {
			before = max(before, tw.pairs[n-1].virtual+1)
		}
		tw.before = before
		tw.open, tw.fenced, tw.local, tw.virtual = &e, max(tw.fenced, e.Session), e.Local, e.Virtual
		m.Apply(e)
	case "unheard": // a worker opens a session that has not heard of the epoch (G)
		if tw.open == nil {
			return
		}
		tw.session = max(tw.session, tw.fenced) + 1
		m.Apply(Session{Session: tw.session, Worker: "w", Epoch: tw.open.Epoch - 1})
		m.Apply(Session{Session: tw.session, Worker: "w", Epoch: tw.open.Epoch - spillway.Epoch(rapid.IntRange(0, 1).Draw(t, "older")), Opened: true, Local: tw.open.Local + 3, Virtual: tw.open.Virtual + 3})
		m.Apply(&Chunk{Session: tw.session, Worker: "w", First: tw.open.Local + 3, Ranges: []Range{{1, tw.open.Virtual + 3, tw.open.Local + 3, 2}}})
	case "takes over": // the epoch was given up, and its start came when a worker had read the log back
		if tw.open == nil {
			return
		}
		tw.session = max(tw.session, tw.fenced) + 1
		m.Apply(Session{Session: tw.session, Worker: "w"})
		n := rapid.IntRange(0, 9).Draw(t, "behind the start")
		local, virtual := tw.open.Local+spillway.LocalOffset(n), tw.open.Virtual+spillway.Offset(n)
		m.Apply(Session{Session: tw.session, Worker: "w", Epoch: tw.open.Epoch + 1, Opened: true, Local: local, Virtual: virtual})
		before := tw.before
		tw.cut(virtual, local)
		if tw.local, tw.virtual = local, virtual; n == 0 {
			tw.virtual = before
		}
	case "end":
		if tw.open == nil {
			return
		}
		n := rapid.IntRange(0, 9).Draw(t, "served")
		e := EpochEnd{Epoch: tw.open.Epoch, Virtual: tw.open.Virtual + spillway.Offset(n), Local: tw.open.Local + spillway.LocalOffset(n)}
		e.LogEnd = e.Local + spillway.LocalOffset(rapid.IntRange(0, 3).Draw(t, "unreplicated"))
		before := tw.before
		tw.cut(e.Virtual, e.Local)
		tw.local, tw.virtual = e.LogEnd, e.Virtual
		if n == 0 {
			tw.virtual = before
		}
		m.Apply(e)
	}
}

func nextEpoch(m *Map) spillway.Epoch {
	es := m.View().Epochs()
	if len(es) == 0 {
		return 1
	}
	return es[len(es)-1].Epoch + 1
}

func stepChunk(t *rapid.T, m *Map, tw *twin) {
	tw.session = max(tw.session, tw.fenced+1)
	local, virtual := tw.local, tw.virtual
	if n := len(tw.pending); n > 0 { // the chunk before was produced, or part of it
		k := rapid.IntRange(0, n).Draw(t, "produced")
		if k > 0 {
			local, virtual = tw.pending[k-1].local+1, tw.pending[k-1].virtual+1
		}
	}
	local += spillway.LocalOffset(rapid.SampledFrom([]int{0, 0, 0, 2}).Draw(t, "foreign"))
	c := &Chunk{Session: tw.session, Worker: "w", First: local, Verified: rapid.Bool().Draw(t, "verified chunk")}
	if s := m.Session(); s.Session == tw.session && s.Worker == "" {
		c.Worker = ""
	}
	l := local
	for range rapid.IntRange(1, 40).Draw(t, "ranges") {
		virtual += spillway.Offset(rapid.SampledFrom([]int{0, 1, 1, 3}).Draw(t, "hole"))
		n := rapid.Int64Range(1, 4).Draw(t, "length")
		c.Ranges = append(c.Ranges, Range{1, virtual, l, n})
		virtual, l = virtual+spillway.Offset(n), l+spillway.LocalOffset(n)
	}
	c2, err := DecodeChunk(c.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(c2) != fmt.Sprint(c) {
		t.Fatalf("decoded %v, encoded %v", c2, c)
	}
	tw.cut(c.Ranges[0].Virtual, c.First)
	ps := pairsOf(c.Ranges)
	if c.Verified {
		tw.pairs = append(tw.pairs, ps...)
		tw.local, tw.virtual = l, virtual
	} else {
		tw.pending = ps
		tw.local, tw.virtual = c.First, c.Ranges[0].Virtual
	}
	m.Apply(c2)
}

func spelled(v *View) []pair {
	rs := v.Ranges()
	if n := len(rs); n > 0 && rs[n-1].Length == OpenEnd {
		rs[n-1].Length = horizon
	}
	return pairsOf(rs)
}

func compare(t *rapid.T, v *View, tw *twin) {
	want := tw.visible()
	if got := spelled(v); !slices.Equal(got, want) {
		t.Fatalf("visible %v, want %v", got, want)
	}
	if ev, el := v.End(); ev != tw.virtual || el != tw.local {
		t.Fatalf("end %d/%d, want %d/%d", ev, el, tw.virtual, tw.local)
	}
	top := pair{virtual: max(tw.virtual, 0), local: max(tw.local, 0)}
	if len(want) > 0 {
		top = want[len(want)-1]
	}
	for o := spillway.Offset(0); o <= top.virtual; o++ {
		i := slices.IndexFunc(want, func(p pair) bool { return p.virtual >= o })
		if i < 0 {
			continue
		}
		l, at := v.ToLocal(o)
		if l != want[i].local || at != want[i].virtual {
			t.Fatalf("ToLocal(%d) = %d, %d; want %d, %d", o, l, at, want[i].local, want[i].virtual)
		}
		if back, visible := v.ToVirtual(l); back != at || !visible {
			t.Fatalf("ToVirtual(%d) = %d, %v; want %d (C)", l, back, visible, at)
		}
		from, to, hole := v.Hole(o)
		inHole := at != o && i > 0
		if hole != inHole || hole && (from != want[i-1].virtual+1 || to != want[i].virtual) {
			t.Fatalf("Hole(%d) = %d, %d, %v", o, from, to, hole)
		}
	}
	for l := spillway.LocalOffset(0); l <= top.local; l++ {
		i := slices.IndexFunc(want, func(p pair) bool { return p.local >= l })
		if i < 0 {
			continue
		}
		o, visible := v.ToVirtual(l)
		if o != want[i].virtual || visible != (want[i].local == l) {
			t.Fatalf("ToVirtual(%d) = %d, %v; want %d", l, o, visible, want[i].virtual)
		}
	}
	a := spillway.LocalOffset(rapid.Int64Range(0, int64(top.local)).Draw(t, "first"))
	b := a + spillway.LocalOffset(rapid.Int64Range(0, 20).Draw(t, "more"))
	var part []pair
	for _, p := range want {
		if p.local >= a && p.local <= b {
			part = append(part, p)
		}
	}
	if got := pairsOf(v.Segments(a, b)); !slices.Equal(got, part) && b < top.local {
		t.Fatalf("Segments(%d, %d) = %v, want %v", a, b, got, part)
	}
	if n := v.Count(0, top.virtual+1); n != int64(len(want)) {
		t.Fatalf("Count = %d, want %d", n, len(want))
	}
}
