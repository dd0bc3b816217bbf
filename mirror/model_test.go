package mirror

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// What a consumer sees at any site is compared with the truth: a list of
// records and their virtual offsets. Sites are logs in memory; maps, plans, the
// reading back of a log's end, and the rules about terms are the real ones. There
// are mirrors that die between any two steps, foreign and stale writers,
// switchovers, failovers that hear some of the sites, moves that are given up at
// any step, and sites that come back much later (promises B, C, D).

var modelPartition = spillway.TopicPartition{Topic: "orders"}

type modelSite struct {
	id  spillway.SiteID
	m   *Mirror
	om  *offsetmap.Map
	log []byte
	end spillway.LocalOffset

	p *partition // with an append session; nil after a crash or a stop
}

type model struct {
	t     *rapid.T
	sites []*modelSite
	// active serves; terms is what the share's record says.
	active *modelSite
	epoch  spillway.Epoch
	terms  []Term
	// truth is all that counts, by virtual offset.
	truth   map[spillway.Offset]string
	highest spillway.Offset // above all virtual offsets that were ever given
	written int
	moves   []string
}

func TestSitesAgainstTwin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &model{t: t, epoch: 1, truth: make(map[spillway.Offset]string), highest: 1000}
		for _, id := range []spillway.SiteID{"east", "west", "north", "south"} {
			w.sites = append(w.sites, &modelSite{id: id, om: offsetmap.New(),
				m: &Mirror{site: id, events: &Events{}, config: Config{Worker: string(id), Now: time.Now}}})
		}
		w.active = w.sites[0]
		w.active.om.Apply(offsetmap.EpochStart{Epoch: 1, Virtual: 1000})
		w.terms = []Term{{Epoch: 1, Site: "east"}}
		t.Repeat(map[string]func(*rapid.T){
			"":           func(*rapid.T) { w.check() },
			"produce":    func(*rapid.T) { w.produce() },
			"mirror":     func(*rapid.T) { w.mirror(w.draw("site", w.standbys())) },
			"mirror on":  func(*rapid.T) { w.mirror(w.draw("site", w.standbys())) },
			"crash":      func(*rapid.T) { w.draw("site", w.sites).p = nil },
			"foreign":    func(*rapid.T) { w.foreign(w.draw("site", w.standbys())) },
			"switchover": func(*rapid.T) { w.switchover() },
			"failover":   func(*rapid.T) { w.failover() },
		})
		for _, s := range w.standbys() {
			w.reach(s, w.active, w.end(), noBound, false)
		}
		w.check()
		t.Logf("%d records, %v", w.written, w.moves)
	})
}

func (w *model) draw(what string, sites []*modelSite) *modelSite {
	return sites[rapid.IntRange(0, len(sites)-1).Draw(w.t, what)]
}

func (w *model) standbys() []*modelSite {
	return slices.DeleteFunc(slices.Clone(w.sites), func(s *modelSite) bool { return s == w.active })
}

// end is the virtual log end of the site that serves.
func (w *model) end() spillway.Offset {
	open, _ := w.active.om.View().Open()
	return open.Virtual + spillway.Offset(w.active.end-open.Local)
}

func (s *modelSite) append(b []byte) (first spillway.LocalOffset) {
	b = slices.Clone(b)
	first = s.end
	batch.SetBaseOffset(b, int64(first))
	h, _, err := batch.Parse(b)
	if err != nil {
		panic(err)
	}
	s.log, s.end = append(s.log, b...), first+spillway.LocalOffset(h.LastOffsetDelta)+1
	return first
}

func (s *modelSite) write(t *rapid.T, h batch.Header, values ...string) spillway.LocalOffset {
	records := make([]batch.Record, len(values))
	for i, v := range values {
		records[i] = batch.Record{OffsetDelta: int32(i), Value: []byte(v)}
	}
	b, err := batch.Rebuild(h, records, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	return s.append(b)
}

func (w *model) values() []string {
	values := make([]string, rapid.IntRange(1, 4).Draw(w.t, "records"))
	for i := range values {
		w.written++
		values[i] = fmt.Sprint(w.written)
	}
	return values
}

// produce has a client write where the share is served, or, unseen by it, a
// transaction end there, or a mirror that lost its lease.
func (w *model) produce() {
	s := w.active
	open, _ := s.om.View().Open()
	switch rapid.IntRange(0, 5).Draw(w.t, "writer") {
	case 0:
		s.write(w.t, batch.Header{ProducerID: 4, Attributes: batch.AttributeControl}, "marker")
	case 1:
		id := s.om.Session().ProducerID
		if id != 0 {
			s.write(w.t, batch.Header{ProducerID: id}, "stale", "stale")
		}
	default:
		values := w.values()
		first := s.write(w.t, batch.Header{ProducerID: spillway.ClientProducerID(7), BaseSequence: int32(w.written)}, values...)
		for i, v := range values {
			w.truth[open.Virtual+spillway.Offset(first-open.Local)+spillway.Offset(i)] = v
		}
	}
	w.highest = max(w.highest, w.end())
}

func (w *model) foreign(s *modelSite) {
	s.write(w.t, batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, "foreign")
}

func (w *model) mirror(s *modelSite) { w.pump(s, w.active, noBound, true) }

// closeOver is what Mirror.closeOver does.
func (w *model) closeOver(s *modelSite) {
	o, open := s.om.View().Open()
	if !open {
		return
	}
	if end, isOver := over(w.terms, s.id, modelPartition, o); isOver {
		local := min(max(o.Local, o.Local+spillway.LocalOffset(end-o.Virtual)), s.end)
		s.om.Apply(offsetmap.EpochEnd{Epoch: o.Epoch, Virtual: o.Virtual + spillway.Offset(local-o.Local), Local: local, LogEnd: s.end})
	}
}

// open is what Mirror.open does. The mirror may die between claim and opening.
func (w *model) open(s *modelSite, mayCrash bool) bool {
	w.closeOver(s)
	previous := s.om.Session()
	p := &partition{TopicPartition: modelPartition, terms: w.terms, cutVirtual: noBound, batchBytesMax: 1 << 20, position: position{virtual: -1, bound: noBound}}
	var err error
	if p.session, err = s.m.nextSession(previous, false); err != nil {
		w.t.Fatal(err)
	}
	s.om.Apply(p.session)
	if mayCrash && rapid.IntRange(0, 7).Draw(w.t, "dies after the claim") == 0 {
		return false
	}
	pending, writer := unverified(s.om, previous)
	entries, err := s.m.agree(s.om.View(), w.epoch, p, writer, pending, 0, s.end, func(from spillway.LocalOffset, see func(batch.Header)) error {
		walk := batch.Over(s.log)
		for walk.Next() {
			if spillway.LocalOffset(walk.Header.NextOffset()) > from {
				see(walk.Header)
			}
		}
		return walk.Err()
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Key[0] {
		case 's':
			var session offsetmap.Session
			err = json.Unmarshal(e.Value, &session)
			s.om.Apply(session)
		case 'r':
			var c *offsetmap.Chunk
			c, err = offsetmap.DecodeChunk(e.Value)
			s.om.Apply(c)
		case 'v':
			var v offsetmap.Verified
			v, err = offsetmap.DecodeVerified(e.Value)
			s.om.Apply(v)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	s.p = p
	return true
}

// pump moves one chunk, or opens the partition. The mirror may die before or
// after the ranges are saved, and with any part of the chunk written.
func (w *model) pump(s, source *modelSite, bound spillway.Offset, mayCrash bool) {
	if s.p == nil {
		w.open(s, mayCrash)
		return
	}
	p, view := s.p, source.om.View()
	if !told(view) {
		return
	}
	p.bound = bound
	if p.virtual < 0 {
		p.virtual, _ = view.ToVirtual(0)
	}
	p.source, _ = view.ToLocal(p.virtual)
	var set []byte
	batches := rapid.IntRange(1, 5).Draw(w.t, "batches")
	walk := batch.Over(source.log)
	for n := 0; n < batches && walk.Next(); {
		if spillway.LocalOffset(walk.Header.NextOffset()) > p.source {
			set = append(set, walk.Bytes...)
			n++
		}
	}
	made, err := planPart(sitelog.Fetched{Records: set}, view, p.position, p.writer())
	if err != nil {
		w.t.Fatal(err)
	}
	pl := &planned{partition: p, plan: made}
	written := len(made.batches)
	dies := mayCrash && rapid.IntRange(0, 5).Draw(w.t, "dies") == 0
	if dies {
		if rapid.Bool().Draw(w.t, "before the ranges are saved") {
			s.p = nil
			return
		}
		written = rapid.IntRange(0, written).Draw(w.t, "written")
	}
	if len(made.batches) > 0 {
		c, err := offsetmap.DecodeChunk(pl.chunk(0, p.local).Encode())
		if err != nil {
			w.t.Fatal(err)
		}
		s.om.Apply(c)
	}
	for i, b := range made.batches[:written] {
		base := s.append(b.bytes)
		if base > p.local { // as classify does
			c, err := offsetmap.DecodeChunk(pl.chunk(i, base).Encode())
			if err != nil {
				w.t.Fatal(err)
			}
			s.om.Apply(c)
			p.local = base
		}
		p.local += spillway.LocalOffset(b.records)
		p.sequence, p.virtual = batch.NextSequence(b.sequence, b.records), b.virtualEnd
	}
	if dies {
		s.p = nil
		return
	}
	pl.arrive()
	s.om.Apply(offsetmap.Verified{Session: p.session.Session, Local: p.local, Virtual: p.virtual})
}

// reach pumps until the site has everything below a virtual offset.
func (w *model) reach(s, source *modelSite, end, bound spillway.Offset, mayCrash bool) {
	for i := 0; s.p == nil || s.p.virtual < end; i++ {
		if i == 500 {
			w.fail("%s does not get to %d from %s: it stands at %+v", s.id, end, source.id, s.p)
		}
		w.pump(s, source, bound, mayCrash)
	}
}

// stop is what Mirror.Stop does; it returns the verified end.
func (w *model) stop(s *modelSite) spillway.Offset {
	s.p = nil
	w.open(s, false)
	end := max(s.p.virtual, 0)
	s.p = nil
	return end
}

func (w *model) catchUp(s, source *modelSite, until spillway.Offset) {
	running := s.p
	if s != source {
		w.reach(s, source, until, until, true)
	}
	var end spillway.Offset
	if s.p != nil && s.p == running && s.p.virtual == until && s.p.stands(s.om, s.end) {
		// As Mirror.boundFlow does with a flow that ran before.
		w.moves = append(w.moves, "bounded")
		end = s.p.virtual
		s.p = nil
	} else {
		end = w.stop(s)
	}
	if end != until {
		w.t.Fatalf("%s was brought to %d from %s, and says that it has %d", s.id, until, source.id, end)
	}
}

// begin writes the start of the next epoch at the target. It may be given up
// before that, or after.
func (w *model) begin(kind string, target *modelSite, bound, start spillway.Offset) {
	w.moves = append(w.moves, fmt.Sprintf("%s to %s in %d", kind, target.id, w.epoch+1))
	fate := rapid.SampledFrom([]string{"opens", "opens", "opens", "given up after the start", "given up before the start"}).Draw(w.t, "fate")
	w.epoch++
	if fate != "given up before the start" {
		target.om.Apply(offsetmap.EpochStart{Epoch: w.epoch, Virtual: start, Local: target.end, Session: target.om.Session().Session})
	}
	if fate != "opens" {
		w.epoch++
		w.terms = append(slices.Clone(w.terms), Term{Epoch: w.epoch, Site: w.active.id})
		w.moves = append(w.moves, fate)
		target.p = nil
		return
	}
	w.terms = append(slices.Clone(w.terms), term(w.epoch, target.id, map[spillway.TopicPartition]spillway.Offset{modelPartition: bound}))
	w.active, target.p = target, nil
	w.highest = max(w.highest, start)
	maps.DeleteFunc(w.truth, func(v spillway.Offset, _ string) bool { return v >= bound })
	for _, s := range w.sites {
		s.p = nil // assigned anew
	}
}

func (w *model) switchover() {
	target, cutover := w.draw("target", w.standbys()), w.end()
	w.catchUp(target, w.active, cutover)
	w.begin("switchover", target, cutover, cutover)
}

// failover hears the target and some others, never the site that served.
func (w *model) failover() {
	target := w.draw("target", w.standbys())
	ends := make(map[*modelSite]spillway.Offset)
	longest := target
	for _, s := range w.standbys() {
		if s != target && rapid.Bool().Draw(w.t, "silent") {
			continue
		}
		if ends[s] = w.stop(s); ends[s] > ends[longest] || s == target {
			longest = s
		}
	}
	for s, end := range ends {
		if end > ends[longest] {
			longest = s
		}
	}
	prefix := ends[longest]
	w.catchUp(target, longest, prefix)
	start := prefix
	if rapid.Bool().Draw(w.t, "reserved above") {
		start = max(prefix, w.highest) + spillway.Offset(rapid.IntRange(0, 9).Draw(w.t, "block"))
	}
	w.begin("failover", target, prefix, max(start, 1000))
}

type seen struct {
	virtual spillway.Offset
	local   spillway.LocalOffset
	value   string
}

// visible is what a reader of the site sees.
func (s *modelSite) visible(t *rapid.T) []seen {
	view := s.om.View()
	var all []seen
	walk := batch.Over(s.log)
	for walk.Next() {
		h := walk.Header
		if h.Control() {
			continue
		}
		records, err := batch.Records(walk.Bytes, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range view.Segments(spillway.LocalOffset(h.BaseOffset), spillway.LocalOffset(h.LastOffset())) {
			if view.Stale(h.ProducerID, r.Local) {
				continue
			}
			for i := range r.Length {
				l := r.Local + spillway.LocalOffset(i)
				all = append(all, seen{r.Virtual + spillway.Offset(i), l, string(records[int64(l)-h.BaseOffset].Value)})
			}
		}
	}
	return all
}

// check compares each site that follows, and the one that serves, with the
// truth below its end.
func (w *model) check() {
	for _, s := range w.sites {
		var end spillway.Offset
		switch {
		case s == w.active:
			end = w.end()
		case s.p != nil:
			end = s.p.virtual
		default:
			continue // it is not known yet what of it counts
		}
		var want []spillway.Offset
		for v := range w.truth {
			if v < end {
				want = append(want, v)
			}
		}
		slices.Sort(want)
		got := s.visible(w.t)
		for i := range max(len(got), len(want)) {
			switch {
			case i >= len(got):
				w.fail("%s lacks %d=%s; it has everything below %d", s.id, want[i], w.truth[want[i]], end)
			case i >= len(want) || got[i].virtual != want[i] || got[i].value != w.truth[want[i]]:
				w.fail("%s shows %+v as its record %d of %d, end %d", s.id, got[i], i, len(want), end)
			}
		}
		view, next := s.om.View(), 0
		for o := spillway.Offset(990); o < end && next < len(got); o++ {
			if got[next].virtual < o {
				if next++; next == len(got) {
					break
				}
			}
			// A reader that resumes at o reads on from there and finds the next
			// record that counts, not one that it has read.
			l, at := view.ToLocal(o)
			first := slices.IndexFunc(got, func(r seen) bool { return r.local >= l })
			if at < o || first != next {
				w.fail("%s: resuming at %d leads to %d/%d, which reads on at record %d of %v, not at %d", s.id, o, at, l, first, got, next)
			}
		}
	}
}

func (w *model) fail(format string, args ...any) {
	var state strings.Builder
	for _, s := range w.sites {
		v, l := s.om.View().End()
		fmt.Fprintf(&state, "\n%s: %v, end %d/%d, log end %d, epochs %v, ends %v", s.id, s.om.View().Ranges(), v, l, s.end, s.om.View().Epochs(), s.om.View().Ends())
	}
	w.t.Fatalf(format+"\n%v%s", append(args, w.moves, state.String())...)
}
