package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/sitelog"
)

// A partition goes on by number, and the numbers say nothing about the records:
// a source that lost its end and grew again, or a topic that was created anew,
// has others in their place (C27). The leader epoch that stands in the map tells
// where the source knows it; the records themselves tell everywhere. They are
// compared when a process reads a source for the first time.

// pastOffsets is how many virtual offsets are compared at once, and pastOffsetsMax
// how many where there are only few records.
const (
	pastOffsets    = 1_000
	pastOffsetsMax = 64_000
)

// digests are records by virtual offset.
type digests map[spillway.Offset][sha256.Size]byte

// past is what of a partition is compared with a source.
type past struct {
	*partition
	ours, theirs logPart
	end          spillway.Offset // below it both sites must have the same
	// settled is the end of what this site took as the serving one. Below it the
	// source has not what was aborted here.
	settled spillway.Offset
}

// logPart is the log of one site.
type logPart struct {
	view       *offsetmap.View
	start, end spillway.LocalOffset
	began      spillway.Offset // what lies below was never asked for
	// rules are what became of the records on their way from there.
	rules *rewrite.Partition
}

// begin is the virtual offset below which the site may have deleted records in
// good order, or never had them.
func (l logPart) begin() spillway.Offset {
	if l.start == 0 {
		return l.began
	}
	v, _ := l.view.ToVirtual(l.start)
	return max(v, l.began)
}

// first is the virtual offset below which the site never had anything.
func (l logPart) first() spillway.Offset {
	_, v := l.view.ToLocal(0)
	return v
}

// oldest is the virtual offset of the first record that the log may have now.
func (l logPart) oldest() spillway.Offset {
	v, _ := l.view.ToVirtual(l.start)
	return v
}

// span is where the site has the virtual offsets in [from, to).
func (l logPart) span(from, to spillway.Offset) sitelog.Span {
	first, _ := l.view.ToLocal(from)
	last, _ := l.view.ToLocal(to)
	return sitelog.Span{From: max(first, l.start), To: min(last, l.end)}
}

// comparePast looks at partitions before they go on from a source. It returns
// those whose records are not the source's, with cutVirtual set to where they
// part, and for each that cannot be compared now why.
func (m *Mirror) comparePast(ctx context.Context, src *source, parts []*partition) (parted []*partition, problems map[*partition]error) {
	problems = make(map[*partition]error)
	pasts, err := m.pastOf(ctx, src, parts)
	chunks := slices.Collect(slices.Chunk(pasts, pastsAtOnce))
	readers := min(pastReaders, len(chunks))
	var mu sync.Mutex // guards parted and problems
	var reading sync.WaitGroup
	for i := range readers {
		reading.Go(func() {
			c := &comparison{m, src, sitelog.NewSpanReader(m.local), sitelog.NewSpanReader(src.cluster)}
			defer c.ours.Close()
			defer c.theirs.Close()
			for j := i; j < len(chunks); j += readers {
				met := make(map[*partition]error)
				apart := c.compareSome(ctx, chunks[j], err, met)
				mu.Lock()
				parted = append(parted, apart...)
				maps.Copy(problems, met)
				mu.Unlock()
			}
		})
	}
	reading.Wait()
	return parted, problems
}

// comparison reads this site and a source.
type comparison struct {
	m            *Mirror
	src          *source
	ours, theirs *sitelog.SpanReader
}

// pastsAtOnce bounds the partitions whose records are compared at once.
const pastsAtOnce = 128

// pastReaders is how many of these are read at the same time, each with connections of
// its own.
const pastReaders = 4

// compareSome compares some of the partitions, unless there is an error already.
func (c *comparison) compareSome(ctx context.Context, pasts []*past, err error, problems map[*partition]error) (parted []*partition) {
	var ours, theirs map[spillway.TopicPartition]digested
	if err == nil {
		// The last ones of all partitions at once, further back one by one.
		ours, theirs, err = c.digest(ctx, pasts, (*past).lastRecords)
	}
	for _, p := range pasts {
		if err != nil {
			problems[p.partition] = err
			continue
		}
		a, b := ours[p.TopicPartition], theirs[p.TopicPartition]
		at, same := p.difference(a.digests, b.digests, false)
		fault := errors.Join(a.err, b.err)
		if fault == nil && same {
			same, fault = c.sameLast(ctx, *p)
		}
		if fault == nil && !same {
			at, same, fault = c.commonPoint(ctx, *p)
		}
		switch {
		case fault != nil:
			problems[p.partition] = fmt.Errorf("compare the last records of %s with site %s: %w", p.TopicPartition, c.src.site, fault)
		case same:
			p.compared = true
		case c.m.overtaken(ctx, p.partition):
			// The map that was compared with is that of another session by now, and
			// may have been cut where that one began: nothing follows from it.
			parted = append(parted, p.partition)
		default:
			if at <= p.ours.began {
				at = p.theirs.oldest() // nothing is as it was when the flow began
			}
			kind := maptopic.GapSource
			if at < p.settled {
				kind = maptopic.GapDivergence
			}
			p.cut(at, kind)
			parted = append(parted, p.partition)
		}
	}
	return parted
}

// sameLast compares the last record that is here, where filters have left out so much
// behind it that it was not among those that were compared.
func (c *comparison) sameLast(ctx context.Context, p past) (same bool, err error) {
	last, found := p.lastHere()
	if p.theirs.rules == nil || !found || last >= p.lastRecords() {
		return true, nil
	}
	p.end = last + 1
	ours, theirs, err := c.digest(ctx, []*past{&p}, func(*past) spillway.Offset { return last })
	a, b := ours[p.TopicPartition], theirs[p.TopicPartition]
	if err := errors.Join(err, a.err, b.err); err != nil {
		return false, err
	}
	_, same = p.difference(a.digests, b.digests, false)
	return same, nil
}

// overtaken tells whether another mirror has opened a newer append session until
// now. Where the map cannot be read it has, as far as anybody knows.
func (m *Mirror) overtaken(ctx context.Context, p *partition) bool {
	return m.reader.CaughtUp(ctx) != nil || m.succeeded(p)
}

// pastOf chooses the partitions whose records have to be compared, and tells the
// others the leader epoch with which the source can.
func (m *Mirror) pastOf(ctx context.Context, src *source, parts []*partition) ([]*past, error) {
	var pasts []*past
	var tps []spillway.TopicPartition
	for _, p := range parts {
		o := &past{partition: p, ours: logPart{view: m.reader.View(p.TopicPartition), began: m.reader.Began(p.TopicPartition)}, theirs: logPart{view: src.view(p.TopicPartition), rules: p.rules}, end: p.virtual}
		if ends := o.ours.view.Ends(); len(ends) > 0 {
			o.settled = ends[len(ends)-1].Virtual
		}
		if from, known := o.ours.view.Source(p.virtual); known && from.Site == src.site && from.Next == p.source {
			p.sourceEpoch, p.epochAt = from.LeaderEpoch, from.Next
		}
		if p.epochAt != p.source {
			p.sourceEpoch = -1
		}
		if p.compared || p.virtual <= 0 || p.resumes && p.sourceEpoch >= 0 && p.virtual != o.settled {
			continue
		}
		pasts, tps = append(pasts, o), append(tps, p.TopicPartition)
	}
	if len(pasts) == 0 {
		return nil, nil
	}
	ourStarts, err1 := m.local.Admin().LogStarts(ctx, tps)
	ourEnds, err2 := m.local.Admin().LogEnds(ctx, tps)
	theirStarts, err3 := src.cluster.Admin().LogStarts(ctx, tps)
	theirEnds, err4 := src.cluster.Admin().LogEnds(ctx, tps)
	for _, p := range pasts {
		p.ours.start, p.ours.end = ourStarts[p.TopicPartition], ourEnds[p.TopicPartition]
		p.theirs.start, p.theirs.end = theirStarts[p.TopicPartition], theirEnds[p.TopicPartition]
		end, _ := p.theirs.view.ToVirtual(p.theirs.end)
		p.end = min(p.end, end) // a source that is shorter is met by the first fetch
		if end < p.ours.began {
			p.ours.began = 0 // it ends before the flow began: it is not what it was then
		}
	}
	return pasts, errors.Join(err1, err2, err3, err4)
}

// lastRecords is the virtual offset from which on records are compared at first:
// the last one that was mirrored, and more where this site served, since nothing
// that it took then has been compared with anything.
func (p *past) lastRecords() spillway.Offset {
	if p.end <= p.settled {
		return max(0, p.end-pastOffsets)
	}
	last, found := p.lastHere()
	switch {
	case !found:
		return max(0, p.end-pastOffsets)
	case p.theirs.rules != nil:
		return max(last, p.end-pastOffsetsMax) // filters may have left much out since
	}
	return last
}

// lastHere is the last record that is at this site.
func (p *past) lastHere() (v spillway.Offset, found bool) {
	local := p.ours.span(0, p.end).To
	if segments := p.ours.view.Segments(max(0, local-pastOffsets), local-1); len(segments) > 0 {
		return segments[len(segments)-1].VirtualEnd() - 1, true
	}
	return 0, false
}

// low is where there begins to be something to compare. Below it one site may have
// deleted everything, or neither ever had a record: the first offset of a partition
// may be as large as its offset base.
func (p *past) low() spillway.Offset {
	return max(p.ours.begin(), p.theirs.begin(), min(p.ours.first(), p.theirs.first()))
}

// difference returns the first virtual offset at which the sites do not agree.
func (p *past) difference(ours, theirs digests, compacted bool) (first spillway.Offset, same bool) {
	first = p.end
	ourBegin, theirBegin := p.ours.begin(), max(p.theirs.begin(), p.settled)
	for v, d := range theirs {
		if have, here := ours[v]; d != have && (here || !compacted && v >= ourBegin) {
			first = min(first, v)
		}
	}
	for v := range ours {
		if _, there := theirs[v]; !there && !compacted && v >= theirBegin {
			first = min(first, v)
		}
	}
	return first, first == p.end
}

// commonPoint finds where the sites part.
func (c *comparison) commonPoint(ctx context.Context, p past) (at spillway.Offset, same bool, err error) {
	compacted := false
	for _, site := range []broker.Cluster{c.m.local, c.src.cluster} {
		configs, err := site.Admin().TopicConfigs(ctx, p.Topic)
		if err != nil {
			return 0, false, err
		}
		compacted = compacted || strings.Contains(configs["cleanup.policy"].Value, "compact")
	}
	end := p.end
	at, err = partingPoint(p.low(), end, func(from, to spillway.Offset) (glimpse, error) {
		p.end = to
		ours, theirs, err := c.digest(ctx, []*past{&p}, func(*past) spillway.Offset { return from })
		a, b := ours[p.TopicPartition], theirs[p.TopicPartition]
		if err := errors.Join(err, a.err, b.err); err != nil {
			return glimpse{}, err
		}
		first, same := p.difference(a.digests, b.digests, compacted)
		return glimpse{first, same, same && !a.meets(b.digests)}, nil
	})
	return at, at == end, err
}

// glimpse is what a look at some virtual offsets showed: the first difference, that
// there is none, or that there is nothing to compare.
type glimpse struct {
	first       spillway.Offset
	same, empty bool
}

// partingPoint finds in [low, end) the virtual offset from which on two logs differ,
// with few looks: a source that was created anew may differ in all of a long log,
// and the flow waits. It takes it that what lies below records that are the same is
// the same too: where some old records differ and all later ones do not, only an
// audit finds them. It goes back from the end, twice as far each time, and then
// halves what is left. Where there is nothing to compare, it looks further down.
// end: they do not differ.
func partingPoint(low, end spillway.Offset, look func(from, to spillway.Offset) (glimpse, error)) (at spillway.Offset, err error) {
	at, low = end, min(low, end)
	differs, found := end, false // from differs on they differ, and below low, once it is found, they do not
	for low < differs {
		to := differs - max(0, end-differs-pastOffsets)
		if found {
			to = low + (differs-low)/2
		}
		to = max(to, min(differs, low+pastOffsets))
		from, s := to, glimpse{same: true, empty: true}
		for size := spillway.Offset(pastOffsets); s.empty && from > low; size = min(2*size, pastOffsetsMax) {
			upper := from
			from = max(low, upper-size)
			if s, err = look(from, upper); err != nil {
				return 0, err
			}
		}
		if s.same {
			low, found = to, true
		} else {
			at, differs = s.first, from
		}
	}
	return at, nil
}

// meets tells whether there is an offset at which both have a record.
func (d digests) meets(others digests) bool {
	for v := range d {
		if _, there := others[v]; there {
			return true
		}
	}
	return false
}

// digested is what was read of one partition.
type digested struct {
	digests
	err error
}

// digest reads partitions from a virtual offset on, here and at a source.
func (c *comparison) digest(ctx context.Context, pasts []*past, from func(*past) spillway.Offset) (ours, theirs map[spillway.TopicPartition]digested, err error) {
	// What was written in transactions here was undecided only while this site
	// served; of the source only what counts is taken.
	ours, err = readPast(ctx, c.ours, pasts, from, func(p *past) logPart { return p.ours }, sitelog.FetchOptions{Uncommitted: true})
	if err != nil {
		return nil, nil, err
	}
	theirs, err = readPast(ctx, c.theirs, pasts, from, func(p *past) logPart { return p.theirs }, sitelog.FetchOptions{})
	return ours, theirs, err
}

func readPast(ctx context.Context, r *sitelog.SpanReader, pasts []*past, from func(*past) spillway.Offset, log func(*past) logPart, o sitelog.FetchOptions) (map[spillway.TopicPartition]digested, error) {
	found := make(map[spillway.TopicPartition]digested, len(pasts))
	spans := make(map[spillway.TopicPartition]sitelog.Span, len(pasts))
	byName := make(map[spillway.TopicPartition]*past, len(pasts))
	for _, p := range pasts {
		found[p.TopicPartition] = digested{digests: make(digests)}
		spans[p.TopicPartition] = log(p).span(from(p), p.end)
		byName[p.TopicPartition] = p
	}
	failed, err := r.Scan(ctx, spans, o, func(f sitelog.Fetched) error {
		p := byName[f.TopicPartition]
		return found[f.TopicPartition].add(f, log(p), from(p), p.end)
	})
	for tp, fault := range failed {
		if errors.Is(fault, kerr.OffsetOutOfRange) {
			continue // deleted meanwhile, or shorter than it was: met by the first fetch
		}
		d := found[tp]
		d.err = fault
		found[tp] = d
	}
	return found, err
}

// add takes the records with virtual offsets in [from, to) that count, as they are when
// they have been carried from the log.
func (d digests) add(f sitelog.Fetched, log logPart, from, to spillway.Offset) error {
	view := log.view
	aborted := abortedFilter{waiting: f.Aborted}
	w := batch.Over(f.Records)
	for w.Next() {
		h := w.Header
		skip, err := aborted.skips(h, w.Bytes)
		if err != nil {
			return err
		}
		base := spillway.LocalOffset(h.BaseOffset)
		segments := within(view.Segments(base, spillway.LocalOffset(h.LastOffset())), from, to)
		if skip || len(segments) == 0 || view.Stale(h.ProducerID, base) {
			continue
		}
		records, err := batch.Records(w.Bytes, DecompressedBytesMax)
		if err != nil {
			return err
		}
		for i := range records {
			l := base + spillway.LocalOffset(records[i].OffsetDelta)
			for _, s := range segments {
				if l >= s.Local && l < s.LocalEnd() && log.rules.Keeps(&records[i]) {
					log.rules.Mark(&records[i], int64(l))
					d[s.Virtual+spillway.Offset(l-s.Local)] = digest(h, &records[i])
				}
			}
		}
	}
	return w.Err()
}

// digest covers what promise E covers: key, value, headers, and the time.
func digest(h batch.Header, r *batch.Record) (sum [sha256.Size]byte) {
	timestamp := h.BaseTimestamp + r.TimestampDelta
	if h.Attributes&batch.AttributeLogAppendTime != 0 {
		timestamp = h.MaxTimestamp
	}
	hash := sha256.New()
	field := func(b []byte) {
		length := int64(len(b))
		if b == nil {
			length = -1
		}
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(length)))
		hash.Write(b)
	}
	hash.Write(binary.BigEndian.AppendUint64(nil, uint64(timestamp)))
	field(r.Key)
	field(r.Value)
	for _, header := range r.Headers {
		field([]byte(header.Key))
		field(header.Value)
	}
	hash.Sum(sum[:0])
	return sum
}
