package offsetmap

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"spillway"
)

// Map is the offset map of one partition at one site. Apply feeds it, View
// reads it; both may be called from any goroutine.
type Map struct {
	mu sync.Mutex

	session Session        // the newest that was claimed
	opened  spillway.Epoch // the newest in which a session was opened, void ones included
	begins  int64          // the newest session that was opened here
	fenced  int64          // chunks of this and older sessions are void
	pending *Chunk         // saved and not yet verified
	writer  Session        // that saved pending: a newer one may have been claimed since
	blocks  []block
	tail    []Range // behind the blocks, ascending, contiguous ones merged
	open    *EpochStart
	before  spillway.Offset // the verified end when the open epoch started
	end     struct {        // verified: log and map agree below it
		local   spillway.LocalOffset
		virtual spillway.Offset
	}
	epochs []EpochStart // ascending
	ends   []EpochEnd   // ascending
	ids    []int64      // producer ids under which mirrors wrote the partition
	source sourceAt
	trail  *trail
	begun  bool // an append session was opened, ranges were saved, or an epoch started
	logs   Logs // of the session that was opened last; none if an older version did

	view     *View // nil after a change
	followed struct {
		view  *View // nil after a change
		end   spillway.Offset
		whole bool
	}
}

// New returns the map of a partition about which nothing is known.
func New() *Map { return &Map{trail: &trail{}} }

// Apply takes the next record of the map topic and tells whether it changed
// anything: the record of a session that was succeeded is void (E).
func (m *Map) Apply(r Record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var changed bool
	switch r := r.(type) {
	case *Chunk:
		changed = m.applyChunk(r)
	case Session:
		changed = m.applySession(r)
	case Verified:
		changed = m.applyVerified(r)
	case EpochStart:
		changed = m.applyStart(r)
	case EpochEnd:
		changed = m.applyEnd(r)
	}
	if changed {
		m.view, m.followed.view = nil, nil
	}
	return changed
}

func (m *Map) applyChunk(c *Chunk) bool {
	if m.open != nil {
		return false // a session ends an epoch, by its opening (G)
	}
	if c.Session < m.session.Session || c.Session <= m.fenced || len(c.Ranges) == 0 {
		return false
	}
	if c.Session == m.session.Session && c.Worker != m.session.Worker {
		return false // lost the race for this session
	}
	if c.Session > m.session.Session {
		m.session = Session{Session: c.Session, Worker: c.Worker}
	}
	first, last := c.Ranges[0], c.Ranges[len(c.Ranges)-1]
	m.cut(first.Virtual, c.First)
	m.trail.add(c.Trail)
	m.begun = true
	if c.Verified {
		for _, r := range c.Ranges {
			m.append(r)
		}
		m.end.local, m.end.virtual = last.LocalEnd(), last.VirtualEnd()
		return true
	}
	m.pending, m.writer = c, m.session
	m.end.local, m.end.virtual = c.First, first.Virtual
	return true
}

func (m *Map) applySession(s Session) bool {
	if s.Opened {
		m.opened = max(m.opened, s.Epoch)
	}
	if s.Session < m.session.Session || s.Session <= m.fenced {
		return false
	}
	if s.Session == m.session.Session && s.Worker != m.session.Worker && (m.session.Opened || !s.Opened) {
		// The first claim of a session wins, and only who won opens it. That
		// counts for more than a claim, since compaction of the map topic may
		// have taken the winner's claim away and left the other.
		return false
	}
	if s.Opened && m.open != nil && s.Epoch <= m.open.Epoch {
		// The site serves, and who opens it has not heard so (G). It was claimed all
		// the same, and compaction has taken the entry that said no more than that.
		s.Opened, s.Local, s.Virtual = false, 0, -1
	}
	m.session = s
	if !slices.Contains(m.ids, s.ProducerID) {
		m.ids = append(slices.Clip(m.ids), s.ProducerID)
	}
	if !s.Opened {
		return true
	}
	m.begins = s.Session
	v := s.Virtual
	if v < 0 {
		v = math.MaxInt64
	}
	m.begun, m.logs = true, s.Logs
	reached := s.Virtual
	if o := m.open; o != nil { // its start came when the log had been read back already
		kept := max(0, min(int64(v-o.Virtual), int64(s.Local-o.Local)))
		if kept == 0 && v == o.Virtual {
			reached = min(m.before, v) // not what its start left out as burnt
		}
		end := EpochEnd{Epoch: o.Epoch, Virtual: o.Virtual + spillway.Offset(kept), Local: o.Local + spillway.LocalOffset(kept)}
		end.LogEnd = end.Local
		m.ended(end)
	}
	m.clip(s.Local)
	m.cut(v, s.Local)
	m.end.local, m.end.virtual = s.Local, reached
	return true
}

func (m *Map) applyVerified(v Verified) bool {
	if v.Session != m.session.Session || v.Session <= m.fenced || m.open != nil {
		return false
	}
	if p := m.pending; p != nil {
		verified, rest := split(p.Ranges, v.Local)
		for _, r := range verified {
			m.append(r)
		}
		m.pending = nil
		if len(rest) > 0 {
			kept := *p
			kept.Ranges = rest
			kept.Foretold = min(kept.Foretold, kept.Count())
			m.pending = &kept
		}
	}
	m.end.local, m.end.virtual = max(m.end.local, v.Local), max(m.end.virtual, v.Virtual)
	m.source = sourceAt{v.Source, v.Virtual}
	return true
}

// sourceAt is where the mirror stood at its source when everything below the
// virtual offset was here.
type sourceAt struct {
	SourcePosition
	virtual spillway.Offset
}

func (m *Map) applyStart(e EpochStart) bool {
	if n := len(m.epochs); n > 0 && e.Epoch <= m.epochs[n-1].Epoch {
		return false // an epoch starts once
	}
	if e.Epoch < m.opened {
		return false // its move was given up, and what follows was mirrored already (G)
	}
	m.begun = true
	m.before = max(m.end.virtual, e.Had)
	if m.open != nil { // given up and never closed
		m.before = m.open.Virtual
	}
	m.cut(e.Virtual, e.Local)
	if r, ok := last(m.blocks, m.tail); ok {
		m.before = max(m.before, r.VirtualEnd())
	}
	m.open, m.source = &e, sourceAt{} // where it stood at a source is compared anew
	m.fenced = max(m.fenced, e.Session)
	m.end.local, m.end.virtual = e.Local, e.Virtual
	m.epochs = append(slices.Clip(m.epochs), e)
	return true
}

func (m *Map) applyEnd(e EpochEnd) bool {
	m.ended(e)
	if m.open != nil && m.open.Epoch == e.Epoch {
		reached := e.Virtual
		if e.Virtual <= m.open.Virtual {
			// The epoch kept nothing, so nothing is here that was not here
			// before it: not what its start left out as burnt, either. The site
			// that goes on may have records there (promise B).
			reached = min(m.before, e.Virtual)
		}
		m.cut(e.Virtual, e.Local)
		m.end.local, m.end.virtual = max(e.Local, e.LogEnd), reached
	}
	return true
}

// ended notes where an epoch ended.
func (m *Map) ended(e EpochEnd) {
	i, known := slices.BinarySearchFunc(m.ends, e, func(a, b EpochEnd) int { return int(a.Epoch) - int(b.Epoch) })
	m.ends = slices.Clone(m.ends)
	if known {
		m.ends[i] = e
	} else {
		m.ends = slices.Insert(m.ends, i, e)
	}
}

// clip forgets of epochs of this site what it gave from the local offset l on: the log
// ends there, and what comes next is the mirror's. Of a log that begins anew the numbers
// mean other records, which would be taken for stale ones, and for unreplicated ones.
func (m *Map) clip(l spillway.LocalOffset) {
	if i := slices.IndexFunc(m.epochs, func(e EpochStart) bool { return e.Local > l }); i >= 0 {
		m.epochs = slices.Clone(m.epochs)
		for j := i; j < len(m.epochs); j++ {
			m.epochs[j].Local = min(m.epochs[j].Local, l)
		}
	}
	if i := slices.IndexFunc(m.ends, func(e EpochEnd) bool { return e.LogEnd > l || e.Local > l }); i >= 0 {
		m.ends = slices.Clone(m.ends)
		for j := i; j < len(m.ends); j++ {
			m.ends[j].Local, m.ends[j].LogEnd = min(m.ends[j].Local, l), min(m.ends[j].LogEnd, l)
		}
	}
}

// cut hides everything at or above the virtual offset v or the local offset l,
// closes the open range there, and makes what remains of a pending chunk
// visible: whoever cuts has verified what lies below.
func (m *Map) cut(v spillway.Offset, l spillway.LocalOffset) {
	if p := m.pending; p != nil {
		for _, r := range p.Ranges {
			m.append(r)
		}
		m.pending = nil
	}
	if o := m.open; o != nil {
		m.open = nil
		if n := min(int64(v-o.Virtual), int64(l-o.Local)); n > 0 {
			m.append(Range{Epoch: o.Epoch, Virtual: o.Virtual, Local: o.Local, Length: n})
		}
	}
	for {
		if len(m.tail) == 0 {
			if len(m.blocks) == 0 {
				break
			}
			last := len(m.blocks) - 1
			if b := m.blocks[last]; b.virtualEnd <= v && b.localEnd <= l {
				break
			}
			m.tail = m.blocks[last].ranges(m.tail)
			m.blocks = slices.Clip(m.blocks[:last]) // views share what lies before
		}
		r := &m.tail[len(m.tail)-1]
		r.Length = min(r.Length, int64(v-r.Virtual), int64(l-r.Local))
		if r.Length > 0 {
			break
		}
		m.tail = m.tail[:len(m.tail)-1]
	}
	m.trail.cut(v)
	if v < m.source.virtual {
		m.source = sourceAt{}
	}
}

func last(blocks []block, tail []Range) (Range, bool) {
	if n := len(tail); n > 0 {
		return tail[n-1], true
	}
	if n := len(blocks); n > 0 {
		var buffer [blockRanges]Range
		rs := blocks[n-1].ranges(buffer[:0])
		return rs[len(rs)-1], true
	}
	return Range{}, false
}

// append adds a verified range behind all others.
func (m *Map) append(r Range) {
	if n := len(m.tail); n > 0 {
		last := &m.tail[n-1]
		if last.Epoch == r.Epoch && last.VirtualEnd() == r.Virtual && last.LocalEnd() == r.Local {
			last.Length += r.Length
			return
		}
	}
	if len(m.tail) > blockRanges {
		m.blocks = append(m.blocks, newBlock(m.tail[:blockRanges]))
		m.tail = append(m.tail[:0], m.tail[blockRanges:]...)
	}
	m.tail = append(m.tail, r)
}

// View returns what is verified now. It never changes.
func (m *Map) View() *View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now()
}

// Followed is View with what the mirror has marked since, in a session of its own: below
// the virtual offset end everything is here, so the log was compared with what was saved of
// it (F). Where end lies beyond what was saved, the rest is a hole if the map is whole, which
// is that it has heard all that was saved of what lies below end; else the View does not reach
// it. Nil where the session was not opened here yet: who has claimed one has not compared
// anything, and what it will find may be less. Nil also where the site itself gives offsets.
func (m *Map) Followed(session int64, end spillway.Offset, whole bool) *View {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open != nil || m.begins < session {
		return nil
	}
	if end <= m.end.virtual || m.begins > session {
		return m.now()
	}
	if v := m.followed.view; v != nil && m.followed.end == end && m.followed.whole == whole {
		return v
	}
	v := *m.now()
	v.tail = slices.Clone(v.tail)
	var ranges []Range
	if p := m.pending; p != nil && p.Session == session {
		ranges = p.Ranges
	}
	for _, r := range ranges {
		if r.Length = min(r.Length, int64(end-r.Virtual)); r.Length <= 0 {
			break
		}
		v.local, v.virtual = r.LocalEnd(), r.VirtualEnd()
		if n := len(v.tail); n > 0 && v.tail[n-1].Epoch == r.Epoch && v.tail[n-1].VirtualEnd() == r.Virtual && v.tail[n-1].LocalEnd() == r.Local {
			v.tail[n-1].Length += r.Length
		} else {
			v.tail = append(v.tail, r)
		}
	}
	if whole {
		v.virtual = max(v.virtual, end)
	}
	m.followed.view, m.followed.end, m.followed.whole = &v, end, whole
	return &v
}

// now is View for who holds mu.
func (m *Map) now() *View {
	if m.view == nil {
		m.view = &View{
			blocks: m.blocks, tail: slices.Clone(m.tail), open: m.open,
			local: m.end.local, virtual: m.end.virtual,
			epochs: m.epochs, ends: m.ends, ids: m.ids, trail: m.trail, source: m.source, begun: m.begun,
		}
	}
	return m.view
}

// Logs tell which log was opened last.
func (m *Map) Logs() Logs {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs
}

// Open is View().Open() without a View.
func (m *Map) Open() (EpochStart, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.open == nil {
		return EpochStart{}, false
	}
	return *m.open, true
}

// Session returns the newest append session that was claimed.
func (m *Map) Session() Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.newest()
}

// newest is Session for who holds mu.
func (m *Map) newest() Session {
	s := m.session
	s.Session = max(s.Session, m.fenced)
	return s
}

// Pending returns what was saved and not yet verified, or nil, and the session that
// wrote last: who claims one later and does not come to open it has written nothing. The
// chunk must not be changed.
func (m *Map) Pending() (saved *Chunk, by Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pending == nil {
		return nil, m.newest()
	}
	return m.pending, m.writer
}

// split divides ranges at a local offset.
func split(ranges []Range, at spillway.LocalOffset) (below, above []Range) {
	for i, r := range ranges {
		if r.LocalEnd() <= at {
			continue
		}
		if r.Local >= at {
			return ranges[:i], ranges[i:]
		}
		n := int64(at - r.Local)
		below = append(slices.Clone(ranges[:i]), Range{Epoch: r.Epoch, Virtual: r.Virtual, Local: r.Local, Length: n})
		above = append([]Range{{Epoch: r.Epoch, Virtual: r.Virtual + spillway.Offset(n), Local: at, Length: r.Length - n}}, ranges[i+1:]...)
		return below, above
	}
	return ranges, nil
}

// blockRanges is how many ranges share one block: few enough to decode one in
// well under a microsecond, enough to make the index small.
const blockRanges = 128

// block holds blockRanges closed ranges in two to three bytes each, so that
// millions of small transactions fit into memory (C12).
type block struct {
	first      Range // its length is 0: the start from which data counts
	virtualEnd spillway.Offset
	localEnd   spillway.LocalOffset
	data       []byte
}

func newBlock(ranges []Range) block {
	first, last := ranges[0], ranges[len(ranges)-1]
	first.Length = 0
	b := block{first: first, virtualEnd: last.VirtualEnd(), localEnd: last.LocalEnd()}
	buffer := make([]byte, 0, 4*len(ranges))
	prev := first
	for _, r := range ranges {
		buffer = appendRange(buffer, prev, r)
		prev = r
	}
	b.data = slices.Clip(buffer)
	return b
}

// until is the first range that in wants, the last one if there is none. To decode no
// more than these, and with no more checks than a block needs, is most of what a
// translation costs.
func (b block) until(in func(Range) bool) Range {
	r, data := b.first, b.data
	next := func() (v uint64) {
		if c := data[0]; c < 1<<7 { // nearly all are
			data = data[1:]
			return uint64(c)
		}
		v, n := binary.Uvarint(data)
		data = data[n:]
		return v
	}
	for len(data) > 0 {
		virtual, local := r.VirtualEnd(), r.LocalEnd()
		head := next()
		r.Length, r.Virtual, r.Local = int64(head>>rangeFlagBits), virtual+spillway.Offset(next()), local
		if head&rangeLocalGap != 0 {
			r.Local += spillway.LocalOffset(next())
		}
		if head&rangeEpoch != 0 {
			epoch, n := binary.Varint(data)
			r.Epoch, data = r.Epoch+spillway.Epoch(epoch), data[n:]
		}
		if in(r) {
			break
		}
	}
	return r
}

// ranges appends the ranges of the block to rs.
func (b block) ranges(rs []Range) []Range {
	d := decoder{b: b.data}
	prev := b.first
	for len(d.b) > 0 {
		prev = d.readRange(prev)
		if d.err != nil {
			panic("offsetmap: a block that newBlock wrote cannot be read: " + d.err.Error())
		}
		rs = append(rs, prev)
	}
	return rs
}
