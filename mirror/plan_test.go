package mirror

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// sourceBatch builds a batch with records at the given offset deltas, as a
// cleaner leaves it.
func sourceBatch(t *rapid.T, base int64, deltas []int32, last int32, attributes int16, codec batch.Codec) []byte {
	records := make([]batch.Record, len(deltas))
	for i, d := range deltas {
		records[i] = batch.Record{OffsetDelta: d, TimestampDelta: int64(d), Key: fmt.Appendf(nil, "k%d", base+int64(d)), Value: make([]byte, 20+d%7)}
	}
	b, err := batch.Rebuild(batch.Header{BaseOffset: base, BaseTimestamp: 1000, MaxTimestamp: 5000, LastOffsetDelta: last, Attributes: attributes,
		ProducerID: spillway.ClientProducerID(7), ProducerEpoch: 3, BaseSequence: int32(base)}, records, codec)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPlanAgainstTwin plans random logs with compaction holes, hidden parts,
// append times and delete horizons, from random positions, to random bounds,
// with random limits of the target, and compares every record.
func TestPlanAgainstTwin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type rec struct {
			local     spillway.LocalOffset
			timestamp int64
		}
		var set []byte
		var all []rec
		base := int64(0)
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			last := rapid.Int32Range(0, 12).Draw(t, "last")
			var deltas []int32
			for d := range last + 1 {
				if rapid.IntRange(0, 3).Draw(t, "kept") > 0 {
					deltas = append(deltas, d)
				}
			}
			attributes := rapid.SampledFrom([]int16{0, 0, 0, batch.AttributeLogAppendTime, batch.AttributeDeleteHorizon}).Draw(t, "attributes")
			codec := rapid.SampledFrom([]batch.Codec{batch.None, batch.Zstd, batch.Gzip}).Draw(t, "codec")
			set = append(set, sourceBatch(t, base, deltas, last, attributes, codec)...)
			for _, d := range deltas {
				ts := 1000 + int64(d)
				if attributes == batch.AttributeLogAppendTime {
					ts = 5000
				}
				all = append(all, rec{spillway.LocalOffset(base) + spillway.LocalOffset(d), ts})
			}
			base += int64(last) + 1
		}
		m := offsetmap.New()
		m.Apply(offsetmap.Session{Session: 1, Worker: "w", ProducerID: 99, Opened: true})
		l, v := spillway.LocalOffset(0), spillway.Offset(100)
		for int64(l) < base { // ranges with hidden parts and virtual holes between
			l += spillway.LocalOffset(rapid.SampledFrom([]int{0, 0, 1, 4}).Draw(t, "hidden"))
			v += spillway.Offset(rapid.SampledFrom([]int{0, 1, 5}).Draw(t, "hole"))
			n := rapid.Int64Range(1, 20).Draw(t, "length")
			m.Apply(&offsetmap.Chunk{Session: 1, Worker: "w", First: l, Verified: true, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: v, Local: l, Length: n}}})
			l, v = l+spillway.LocalOffset(n), v+spillway.Offset(n)
		}
		view := m.View()
		at := position{virtual: spillway.Offset(rapid.Int64Range(90, int64(v)).Draw(t, "from")), local: 50, sequence: 1<<31 - 5, bound: noBound}
		at.source, _ = view.ToLocal(at.virtual)
		if rapid.Bool().Draw(t, "bounded") {
			at.bound = at.virtual + spillway.Offset(rapid.Int64Range(0, 60).Draw(t, "bound"))
		}
		w := writer{producerID: spillway.MirrorProducerID(3), producerEpoch: 2, batchBytesMax: rapid.SampledFrom([]int{1 << 20, 200, 90}).Draw(t, "limit")}
		p, err := planPart(sitelog.Fetched{Records: slices.Clone(set)}, view, at, w)
		if err != nil {
			t.Fatal(err)
		}

		// What must come out.
		var want []rec
		var virtuals []spillway.Offset
		for _, r := range all {
			if o, visible := view.ToVirtual(r.local); visible && o >= at.virtual && o < at.bound {
				want, virtuals = append(want, r), append(virtuals, o)
			}
		}
		var spelled []spillway.Offset
		local := at.local
		for _, r := range p.ranges {
			if r.Local != local {
				t.Fatalf("range %+v does not follow local offset %d", r, local)
			}
			for i := range r.Length {
				spelled = append(spelled, r.Virtual+spillway.Offset(i))
			}
			local = r.LocalEnd()
		}
		if !slices.Equal(spelled, virtuals) {
			t.Fatalf("ranges cover %v, want %v", spelled, virtuals)
		}
		i, sequence := 0, at.sequence
		for _, b := range p.batches {
			if err := batch.Verify(b.bytes); err != nil {
				t.Fatal(err)
			}
			h, _, err := batch.Parse(b.bytes)
			if err != nil {
				t.Fatal(err)
			}
			if h.BaseOffset != 0 || h.Count != h.LastOffsetDelta+1 || h.ProducerID != w.producerID || h.ProducerEpoch != 2 || h.BaseSequence != sequence || h.Count != b.records {
				t.Fatalf("header %+v, sequence %d", h, sequence)
			}
			if len(b.bytes) > w.batchBytesMax && h.Count > 1 {
				t.Fatalf("a batch of %d records has %d bytes, allowed are %d", h.Count, len(b.bytes), w.batchBytesMax)
			}
			if b.virtual != virtuals[i] || b.virtualEnd != virtuals[i+int(h.Count)-1]+1 {
				t.Fatalf("batch says %d to %d", b.virtual, b.virtualEnd)
			}
			records, err := batch.Records(b.bytes, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				if string(r.Key) != fmt.Sprintf("k%d", want[i].local) || h.BaseTimestamp+r.TimestampDelta != want[i].timestamp {
					t.Fatalf("record %s at %d, want %+v", r.Key, h.BaseTimestamp+r.TimestampDelta, want[i])
				}
				i++
			}
			sequence = batch.NextSequence(sequence, h.Count)
		}
		if i != len(want) || p.end.sequence != sequence || p.end.local != local {
			t.Fatalf("%d records, want %d; end %+v", i, len(want), p.end)
		}
		// From the end on nothing is missed and nothing comes twice.
		if p.end.virtual > at.bound || at.bound == noBound && p.end.virtual < view.Ranges()[0].Virtual && len(want) > 0 {
			t.Fatalf("end %+v", p.end)
		}
		for _, o := range virtuals {
			if o >= p.end.virtual {
				t.Fatalf("virtual offset %d was planned, the end is %d", o, p.end.virtual)
			}
		}
	})
}

// TestPlanLeavesOutWhatAStaleMirrorWrote has a mirror without its lease write
// into a partition that its site serves (C8): while it does, and when the epoch
// is over and others are fed from there.
func TestPlanLeavesOutWhatAStaleMirrorWrote(t *testing.T) {
	t.Parallel()
	var set []byte
	for base, producer := range []int64{99, spillway.ClientProducerID(7), 99, spillway.ClientProducerID(7)} {
		b, err := batch.Rebuild(batch.Header{BaseOffset: int64(base), ProducerID: producer}, []batch.Record{{Value: []byte("v")}}, batch.None)
		if err != nil {
			t.Fatal(err)
		}
		set = append(set, b...)
	}
	m := offsetmap.New()
	m.Apply(offsetmap.Session{Session: 1, Worker: "w", ProducerID: 99, Opened: true, Virtual: 100})
	m.Apply(&offsetmap.Chunk{Session: 1, Worker: "w", Verified: true, Ranges: []offsetmap.Range{{Epoch: 1, Virtual: 100, Length: 1}}})
	m.Apply(offsetmap.EpochStart{Epoch: 2, Virtual: 101, Local: 1, Session: 1})
	open := m.View()
	m.Apply(offsetmap.EpochEnd{Epoch: 2, Virtual: 104, Local: 4, LogEnd: 4})
	for name, view := range map[string]*offsetmap.View{"open": open, "closed": m.View()} {
		p, err := planPart(sitelog.Fetched{Records: slices.Clone(set)}, view, position{virtual: 100, bound: noBound}, writer{batchBytesMax: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		want := []offsetmap.Range{{Epoch: 1, Virtual: 100, Local: 0, Length: 1}, {Epoch: 2, Virtual: 101, Local: 1, Length: 1}, {Epoch: 2, Virtual: 103, Local: 2, Length: 1}}
		if !slices.Equal(p.ranges, want) || p.end.virtual != 104 || len(p.batches) != 3 {
			t.Errorf("%s: %d batches, ranges %v, end %d; want %v", name, len(p.batches), p.ranges, p.end.virtual, want)
		}
	}
}

// TestVerifyFindsWhatWasWritten cuts the end of a log at random, puts foreign
// batches and markers between, and expects the verifier to find each of the
// chunk's records where it lies.
func TestVerifyFindsWhatWasWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		session := offsetmap.Session{Session: 4, Worker: "w", ProducerID: spillway.MirrorProducerID(9), ProducerEpoch: 4}
		chunk := &offsetmap.Chunk{Session: 4, Worker: "w", First: 10, Sequence: 1<<31 - 7}
		v, l := spillway.Offset(100), chunk.First
		for range 1 + r.IntN(6) {
			v += spillway.Offset(r.IntN(3))
			n := int64(1 + r.IntN(6))
			chunk.Ranges = append(chunk.Ranges, offsetmap.Range{Epoch: 1, Virtual: v, Local: l, Length: n})
			v, l = v+spillway.Offset(n), l+spillway.LocalOffset(n)
		}
		var virtuals []spillway.Offset
		for _, rg := range chunk.Ranges {
			for i := range rg.Length {
				virtuals = append(virtuals, rg.Virtual+spillway.Offset(i))
			}
		}
		ver := newVerifier(10, 100, chunk, session, offsetmap.Session{Session: 5, Worker: "x"})
		at, done, sequence := int64(10), 0, chunk.Sequence
		want := make(map[spillway.LocalOffset]spillway.Offset)
		written := r.IntN(len(virtuals) + 1)
		foreign := 0
		for done < written || r.IntN(3) == 0 {
			n := 1 + r.IntN(4)
			h := batch.Header{BaseOffset: at, LastOffsetDelta: int32(n - 1), Count: int32(n), ProducerID: -1, BaseSequence: -1}
			switch kind := r.IntN(5); {
			case kind == 0:
				foreign += n
			case kind == 1:
				h.Attributes = batch.AttributeControl
			case done < written:
				n = min(n, written-done)
				h.LastOffsetDelta, h.Count = int32(n-1), int32(n)
				h.ProducerID, h.ProducerEpoch, h.BaseSequence = session.ProducerID, session.ProducerEpoch, sequence
				for i := range n {
					want[spillway.LocalOffset(at)+spillway.LocalOffset(i)] = virtuals[done+i]
				}
				done += n
				sequence = batch.NextSequence(sequence, int32(n))
			default:
				foreign += n
			}
			ver.see(h)
			at += int64(n)
		}
		m := offsetmap.New()
		m.Apply(session)
		m.Apply(offsetmap.Session{Session: 4, Worker: "w", ProducerID: session.ProducerID, ProducerEpoch: 4, Opened: true, Local: 10, Virtual: 100})
		m.Apply(chunk)
		m.Apply(offsetmap.Session{Session: 5, Worker: "x"})
		m.Apply(offsetmap.Session{Session: 5, Worker: "x", Opened: true, Local: ver.straight.Local, Virtual: ver.straight.Virtual})
		for _, c := range ver.pieces {
			m.Apply(c)
		}
		got := make(map[spillway.LocalOffset]spillway.Offset)
		for _, rg := range m.View().Ranges() {
			for i := range rg.Length {
				got[rg.Local+spillway.LocalOffset(i)] = rg.Virtual + spillway.Offset(i)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("found %v, want %v", got, want)
		}
		foreignFound := 0
		for _, h := range ver.hidden {
			if h.kind == hiddenForeign {
				foreignFound += int(h.to - h.from)
			}
		}
		if foreignFound != foreign || int64(ver.verdict.end) != at {
			t.Fatalf("%d foreign records, want %d; end %d, want %d", foreignFound, foreign, ver.verdict.end, at)
		}
	})
}

// A batch that has to be built anew must be what was written into it: a new checksum
// would hide that it is not.
func TestPlanDoesNotSealWhatIsCorrupt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := sourceBatch(t, 40, []int32{0, 2}, 3, 0, batch.None) // with holes
		at := rapid.IntRange(batch.HeaderBytes, len(b)-1).Draw(t, "at")
		b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		om := offsetmap.New()
		om.Apply(offsetmap.EpochStart{Epoch: 1})
		good := sourceBatch(t, 36, []int32{0, 1, 2, 3}, 3, 0, batch.None)
		p, err := planPart(sitelog.Fetched{Records: append(good, b...)}, om.View(), position{source: 36, virtual: 36, bound: noBound}, writer{batchBytesMax: 1 << 20})
		if err != nil || p.corrupt == nil {
			t.Fatalf("byte %d: %v, it passes for good", at, err)
		}
		if !errors.Is(p.corrupt.why, batch.ErrCorrupt) || !strings.Contains(p.corrupt.why.Error(), "at 40") || p.corrupt.from != 40 || p.corrupt.to != 44 {
			t.Errorf("byte %d: %+v", at, p.corrupt)
		}
		if len(p.batches) != 1 || p.end.source != 40 || p.end.virtual != 40 || len(p.trail) != 1 {
			t.Errorf("byte %d: what lies before it is not planned alone: %+v", at, p)
		}
	})
}
