package mirror

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/sitelog"
)

// sourceRecord is one record of a log that a twin made.
type sourceRecord struct {
	local     spillway.LocalOffset
	timestamp int64
	codec     batch.Codec
	record    batch.Record
	counts    bool // it is decided, and was committed
}

// twinLog is a log of batches of every shape, and what is in it.
type twinLog struct {
	batches [][]byte
	headers []batch.Header
	aborted []sitelog.AbortedTransaction
	records []sourceRecord
	end     spillway.LocalOffset
}

func drawLog(t *rapid.T) (l twinLog) {
	open := make(map[int64][]int) // records of transactions, by producer id
	add := func(h batch.Header, records []batch.Record, codec batch.Codec) {
		h.BaseOffset = int64(l.end)
		b, err := batch.Rebuild(h, records, codec)
		if err != nil {
			t.Fatal(err)
		}
		parsed, _, err := batch.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		l.batches, l.headers, l.end = append(l.batches, b), append(l.headers, parsed), spillway.LocalOffset(parsed.NextOffset())
	}
	for range rapid.IntRange(1, 14).Draw(t, "batches") {
		last := rapid.Int32Range(0, 9).Draw(t, "last")
		h := batch.Header{BaseTimestamp: 1000, MaxTimestamp: 5000, LastOffsetDelta: last, ProducerID: spillway.ClientProducerID(7), BaseSequence: int32(l.end)}
		h.Attributes = rapid.SampledFrom([]int16{0, 0, 0, 0, batch.AttributeLogAppendTime, batch.AttributeDeleteHorizon}).Draw(t, "attributes")
		holes := rapid.IntRange(0, 3).Draw(t, "holes") == 0
		codec := rapid.SampledFrom([]batch.Codec{batch.None, batch.None, batch.Zstd, batch.LZ4}).Draw(t, "codec")
		transaction := int64(0)
		if rapid.IntRange(0, 3).Draw(t, "transactional") == 0 {
			transaction = rapid.Int64Range(101, 102).Draw(t, "producer")
			h.ProducerID, h.Attributes = transaction, h.Attributes|batch.AttributeTransactional
			if open[transaction] == nil {
				open[transaction] = []int{}
			}
		}
		var records []batch.Record
		for d := range last + 1 {
			if holes && rapid.Bool().Draw(t, "gone") {
				continue
			}
			r := batch.Record{OffsetDelta: d, TimestampDelta: int64(d)}
			if n := rapid.IntRange(0, 4).Draw(t, "key"); n > 0 {
				r.Key = fmt.Appendf(nil, "k%d", n)
			}
			if rapid.IntRange(0, 4).Draw(t, "tombstone") > 0 {
				r.Value = bytes.Repeat([]byte{byte(d)}, rapid.IntRange(0, 40).Draw(t, "value"))
			}
			for range rapid.IntRange(0, 2).Draw(t, "headers") {
				r.Headers = append(r.Headers, batch.RecordHeader{Key: rapid.SampledFrom([]string{"h", "g"}).Draw(t, "name"), Value: []byte(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "text"))})
			}
			records = append(records, r)
			at := h.BaseTimestamp + r.TimestampDelta
			if h.Attributes&batch.AttributeLogAppendTime != 0 {
				at = h.MaxTimestamp
			}
			if transaction != 0 {
				open[transaction] = append(open[transaction], len(l.records))
			}
			l.records = append(l.records, sourceRecord{l.end + spillway.LocalOffset(d), at, codec, r, true})
		}
		if transaction != 0 && len(records) == 0 {
			h.Attributes &^= batch.AttributeTransactional
		}
		first := l.end
		add(h, records, codec)
		if transaction == 0 || rapid.Bool().Draw(t, "goes on") {
			continue
		}
		l.decide(t, transaction, open, first, add)
	}
	for _, transaction := range []int64{101, 102} {
		if open[transaction] != nil {
			l.decide(t, transaction, open, l.end, add)
		}
	}
	return l
}

// decide ends a transaction.
func (l *twinLog) decide(t *rapid.T, transaction int64, open map[int64][]int, first spillway.LocalOffset, add func(batch.Header, []batch.Record, batch.Codec)) {
	commits := rapid.Bool().Draw(t, "commits")
	marker := []byte{0, 0, 0, 1}
	if !commits {
		marker[3] = markerAbort
		for _, i := range open[transaction] {
			l.records[i].counts = false
			first = min(first, l.records[i].local)
		}
		l.aborted = append(l.aborted, sitelog.AbortedTransaction{ProducerID: transaction, First: first})
	}
	delete(open, transaction)
	add(batch.Header{ProducerID: transaction, Attributes: batch.AttributeTransactional | batch.AttributeControl}, []batch.Record{{Key: marker}}, batch.None)
}

// wanted is what filters say, in the plainest words.
func wanted(filters []string, r batch.Record) bool {
	for _, f := range filters {
		left, value, _ := strings.Cut(f, "=")
		left, negated := strings.CutSuffix(left, "!")
		found := false
		if left == "key" {
			found = r.Key != nil && string(r.Key) == value
		} else {
			if r.Key != nil && r.Value == nil {
				continue
			}
			for _, h := range r.Headers {
				found = found || "header:"+h.Key == left && string(h.Value) == value
			}
		}
		if found == negated {
			return false
		}
	}
	return true
}

// TestRewriteAgainstTwin carries logs of every shape by filters, with provenance, and
// with batches that are written as one, an answer at a time, and compares every record,
// the map, and what was counted with a list.
func TestRewriteAgainstTwin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := drawLog(t)
		filters := rapid.SliceOfN(rapid.SampledFrom([]string{"key=k1", "key!=k2", "header:h=x", "header:g!=y"}), 0, 2).Draw(t, "filters")
		parsed, err := rewrite.ParseFilters(filters)
		if err != nil {
			t.Fatal(err)
		}
		marks := rapid.Bool().Draw(t, "provenance")
		from := spillway.TopicPartition{Topic: "orders", Partition: 3}
		w := writer{producerID: spillway.MirrorProducerID(3), producerEpoch: 2, batchBytesMax: rapid.SampledFrom([]int{1 << 20, 250}).Draw(t, "limit"),
			rules: rewrite.Rules{Filters: parsed, Provenance: marks, Cluster: "c"}.For(from)}
		w.repackBytes = min(rapid.SampledFrom([]int{0, 0, 300, 1 << 20}).Draw(t, "repack"), w.batchBytesMax)
		w.rangesMax = rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "ranges of a plan")
		identity := offsetmap.New()
		identity.Apply(offsetmap.EpochStart{Epoch: 1})
		view := identity.View()
		at := position{local: 50, sequence: 1<<31 - 5, bound: noBound}
		if rapid.Bool().Draw(t, "bounded") {
			at.bound = spillway.Offset(rapid.Int64Range(1, int64(l.end)).Draw(t, "bound"))
		}
		target := &carried{t: t, w: w, source: &l, om: offsetmap.New()}
		target.om.Apply(offsetmap.Session{Session: 1, Worker: "w", ProducerID: w.producerID, Opened: true, Local: at.local, Virtual: 0})
		for begin := at; at.source < l.end && at.virtual < at.bound; begin = at {
			n := rapid.IntRange(1, 8).Draw(t, "batches of the answer")
			var set []byte
			for i, h := range l.headers {
				if spillway.LocalOffset(h.NextOffset()) > at.source && n > 0 {
					set, n = append(set, l.batches[i]...), n-1
				}
			}
			p, err := planPart(sitelog.Fetched{Records: bytes.Clone(set), Aborted: abortedFrom(l, at.source)}, view, at, w)
			if err != nil {
				t.Fatal(err)
			}
			target.take(p, begin)
			at = p.end
			if at.source == begin.source && at.virtual < at.bound {
				t.Fatalf("nothing was done at %+v", at)
			}
		}

		// What must be there.
		var want []sourceRecord
		leftOut := int64(0)
		for _, r := range l.records {
			switch {
			case !r.counts || spillway.Offset(r.local) >= at.bound:
			case wanted(filters, r.record):
				want = append(want, r)
			default:
				leftOut++
			}
		}
		target.compare(want, marks, from)
		if n := untouched(l, filters, at.bound, w.batchBytesMax); w.repackBytes == 0 && !marks && target.passed != n {
			t.Fatalf("%d batches passed as they are, %d could", target.passed, n)
		}
		if target.leftOut != leftOut {
			t.Fatalf("%d records are counted as left out, %d are", target.leftOut, leftOut)
		}
		// A group that stands anywhere at the source goes on at the next carried record.
		target.om.Apply(offsetmap.Verified{Session: 1, Local: at.local, Virtual: at.virtual})
		ours := target.om.View()
		for o := spillway.LocalOffset(0); o < l.end; o++ {
			next, _ := slices.BinarySearchFunc(want, o, func(r sourceRecord, o spillway.LocalOffset) int { return int(r.local - o) })
			v, _ := view.ToVirtual(o)
			if got, _ := ours.ToLocal(v); got != 50+spillway.LocalOffset(next) {
				t.Fatalf("offset %d of the source is %d here, want %d", o, got, 50+next)
			}
		}
	})
}

// untouched counts the batches of which nothing has to be left out or changed.
func untouched(l twinLog, filters []string, bound spillway.Offset, bytesMax int) (n int) {
	for i, h := range l.headers {
		good := h.PassThrough() && len(l.batches[i]) <= bytesMax && spillway.Offset(h.NextOffset()) <= bound
		for _, r := range l.records {
			if int64(r.local) >= h.BaseOffset && int64(r.local) < h.NextOffset() {
				good = good && r.counts && wanted(filters, r.record)
			}
		}
		if good {
			n++
		}
	}
	return n
}

// abortedFrom are the aborted transactions that an answer from an offset on names: those
// whose marker lies behind it.
func abortedFrom(l twinLog, from spillway.LocalOffset) (named []sitelog.AbortedTransaction) {
	for _, a := range l.aborted {
		for _, h := range l.headers {
			if h.Control() && h.ProducerID == a.ProducerID && spillway.LocalOffset(h.BaseOffset) > a.First {
				if spillway.LocalOffset(h.BaseOffset) >= from {
					named = append(named, a)
				}
				break
			}
		}
	}
	slices.SortStableFunc(named, func(a, b sitelog.AbortedTransaction) int { return int(a.First - b.First) })
	return named
}

// largest is the size of the largest batch, or what compression may add to a small one.
func (l *twinLog) largest() (n int) {
	for _, b := range l.batches {
		n = max(n, len(b)+20)
	}
	return n
}

// carried is a target that a twin reads.
type carried struct {
	t       *rapid.T
	w       writer
	source  *twinLog
	om      *offsetmap.Map
	records []sourceRecord // as they are there
	virtual []spillway.Offset
	leftOut int64
	passed  int // batches
}

// take appends what a plan asks for, and its chunk.
func (c *carried) take(p plan, begin position) {
	local, sequence := begin.local, begin.sequence
	for i, b := range p.batches {
		c.leftOut += b.leftOut
		if !b.rebuilt {
			c.passed++
		}
		if codecOf := func(i int) byte { return p.batches[i].bytes[22] & 7 }; i > 0 && c.w.repackBytes == 1<<20 && c.w.rangesMax == 0 && codecOf(i) == codecOf(i-1) {
			c.t.Fatalf("batches %d and %d of a plan could be one", i-1, i)
		}
		if err := batch.Verify(b.bytes); err != nil {
			c.t.Fatal(err)
		}
		h, _, err := batch.Parse(b.bytes)
		if err != nil {
			c.t.Fatal(err)
		}
		if !h.PassThrough() || h.Count != b.records || h.BaseSequence != sequence || h.ProducerID != c.w.producerID || h.ProducerEpoch != 2 || h.MaxTimestamp != b.maxTimestamp {
			c.t.Fatalf("header %+v, sequence %d, %+v", h, sequence, b.records)
		}
		if len(b.bytes) > c.w.batchBytesMax && h.Count > 1 {
			c.t.Fatalf("a batch of %d records has %d bytes, allowed are %d", h.Count, len(b.bytes), c.w.batchBytesMax)
		}
		if c.w.repackBytes > 0 && !c.w.rules.Marks() && len(b.bytes) > max(c.w.repackBytes, c.source.largest()) {
			c.t.Fatalf("a batch of %d bytes, they are to have %d", len(b.bytes), c.w.repackBytes)
		}
		records, err := batch.Records(b.bytes, 1<<20)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, r := range records {
			c.records = append(c.records, sourceRecord{timestamp: h.BaseTimestamp + r.TimestampDelta, codec: h.Codec(), record: r})
		}
		sequence, local = batch.NextSequence(sequence, h.Count), local+spillway.LocalOffset(h.Count)
	}
	c.leftOut += p.leftOut
	if p.end.sequence != sequence || p.end.local != local || p.held != nil {
		c.t.Fatalf("end %+v, want local %d and sequence %d", p.end, local, sequence)
	}
	at := begin.local
	for _, r := range p.ranges {
		if r.Local != at {
			c.t.Fatalf("range %+v does not follow local offset %d", r, at)
		}
		for i := range r.Length {
			c.virtual = append(c.virtual, r.Virtual+spillway.Offset(i))
		}
		at = r.LocalEnd()
	}
	if len(p.ranges) > 0 {
		c.om.Apply(&offsetmap.Chunk{Session: 1, Worker: "w", First: begin.local, Sequence: begin.sequence, Ranges: p.ranges})
		c.om.Apply(offsetmap.Verified{Session: 1, Local: p.end.local, Virtual: p.end.virtual})
	}
}

func (c *carried) compare(want []sourceRecord, marks bool, from spillway.TopicPartition) {
	if len(c.records) != len(want) || len(c.virtual) != len(want) {
		c.t.Fatalf("%d records at %v, want %d", len(c.records), c.virtual, len(want))
	}
	for i, w := range want {
		got, headers := c.records[i], slices.Clone(w.record.Headers)
		if marks {
			for _, h := range [][2]string{{"cluster", "c"}, {"topic", from.Topic}, {"partition", "3"}, {"offset", strconv.Itoa(int(w.local))}} {
				headers = append(headers, batch.RecordHeader{Key: "spillway." + h[0], Value: []byte(h[1])})
			}
		}
		if c.virtual[i] != spillway.Offset(w.local) || got.timestamp != w.timestamp || got.codec != w.codec || string(got.record.Key) != string(w.record.Key) ||
			(got.record.Key == nil) != (w.record.Key == nil) || (got.record.Value == nil) != (w.record.Value == nil) || !bytes.Equal(got.record.Value, w.record.Value) ||
			fmt.Sprintf("%q", got.record.Headers) != fmt.Sprintf("%q", headers) {
			c.t.Fatalf("record %d at virtual offset %d: %+v, want %+v with headers %q", i, c.virtual[i], got, w, headers)
		}
	}
}

// hostileSeeds are what bytes of anybody are made of.
func hostileSeeds(t testing.TB) (sets [][]byte) {
	for _, codec := range []batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd} {
		var set []byte
		for i := range 3 {
			b, err := batch.Rebuild(batch.Header{BaseOffset: int64(2 * i), Attributes: int16(i&1) * batch.AttributeLogAppendTime},
				[]batch.Record{{Key: []byte("k1"), Value: []byte("v")}, {OffsetDelta: 1, Key: []byte("k2"), Headers: []batch.RecordHeader{{Key: "h", Value: []byte("x")}}}}, codec)
			if err != nil {
				t.Fatal(err)
			}
			set = append(set, b...)
		}
		sets = append(sets, set)
	}
	return sets
}

func FuzzRewrite(f *testing.F) {
	for i, set := range hostileSeeds(f) {
		f.Add(set, uint8(i))
	}
	f.Fuzz(func(t *testing.T, set []byte, how uint8) { rewriteHostile(t, set, how) })
}

// TestRewriteOfHostileBatches does the same with good batches in which some bytes are others.
func TestRewriteOfHostileBatches(t *testing.T) {
	t.Parallel()
	seeds := hostileSeeds(t)
	random := rand.New(rand.NewPCG(95, 1))
	for range 20_000 {
		set := bytes.Clone(seeds[random.IntN(len(seeds))])
		for range random.IntN(4) {
			set[random.IntN(len(set))] = byte(random.Uint32())
		}
		rewriteHostile(t, set, uint8(random.Uint32()))
	}
}

// rewriteHostile gives bytes of anybody to a plan that looks into all of them. What it makes
// of them are batches, in order, of which none is too large but those of one record.
func rewriteHostile(t testing.TB, set []byte, how uint8) {
	filters, err := rewrite.ParseFilters([]string{"key!=k1", "header:h!=y"}[:how&3%3])
	if err != nil {
		t.Fatal(err)
	}
	w := writer{producerID: spillway.MirrorProducerID(3), batchBytesMax: 300, rangesMax: int(how >> 6),
		rules: rewrite.Rules{Filters: filters, Provenance: how&4 != 0}.For(spillway.TopicPartition{Topic: "orders"})}
	w.repackBytes = int(how>>3&1) * 200
	for walk := batch.Over(set); walk.Next(); {
		binary.BigEndian.PutUint32(walk.Bytes[17:], batch.CRC(walk.Bytes)) // or nothing would be looked into
	}
	identity := offsetmap.New()
	identity.Apply(offsetmap.EpochStart{Epoch: 1})
	p, err := planPart(sitelog.Fetched{Records: set}, identity.View(), position{bound: noBound}, w)
	if err != nil {
		return
	}
	records := int64(0)
	for _, b := range p.batches {
		h, rest, err := batch.Parse(b.bytes)
		if err != nil || len(rest) > 0 || h.Count != b.records || len(b.bytes) > w.batchBytesMax && h.Count > 1 {
			t.Fatalf("%+v, %v, %d bytes left", h, err, len(rest))
		}
		records += int64(h.Count)
	}
	for _, r := range p.ranges {
		records -= r.Length
	}
	if records != 0 || p.held != nil {
		t.Fatalf("ranges and batches differ by %d records", records)
	}
}
