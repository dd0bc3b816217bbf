package adopt

// Digest stands for key, value, headers and time of a record.
type Digest [16]byte

// Record is one record of a log.
type Record struct {
	Offset int64
	Digest
	// Key and Tombstone are asked for where a log is compacted.
	Key       uint64 // a hash
	Tombstone bool
	// Aborted says, at the source, that an aborted transaction wrote it. The target's
	// are not shown at all.
	Aborted bool
}

// Log hands out the records of a log in their order. ok is false at its end.
type Log interface {
	Next() (r Record, ok bool, err error)
}

// Range says that the Length records from Source on lie from Target on.
type Range struct{ Source, Target, Length int64 }

// Limits bound what Match remembers, in records, and say what may be.
type Limits struct {
	Behind      int // of the source, to know runs that lie at the target again
	Ahead       int // of the source, to find where the target goes on
	TargetAhead int // of the target, to get past what is not the source's
	// SourceDeleted says that the source has not its beginning any more; of one that
	// Resumes, that it has not what came first behind Known.
	SourceDeleted bool
	// Compacted says that one of the logs is: records may be missing at either side.
	Compacted bool
	// Resumes says that what the source has below Known is mapped already: it is read
	// only to know copies of it that came later. Then nothing at the beginning is as a
	// matter of course without a pair.
	Resumes bool
	Known   int64
}

// DefaultLimits keep a partition below about 100 MiB.
func DefaultLimits() Limits { return Limits{Behind: 1 << 19, Ahead: 1 << 16, TargetAhead: 1 << 12} }

// Result is what Match found.
type Result struct {
	Records   int64 // in pairs
	First     int64 // source offset of the first pair, −1 without any
	SourceEnd int64 // source offset behind the last pair, −1 without any
	TargetEnd int64 // target offset behind the last pair, −1 without any
	Findings
}

// Match reads both logs and hands the pairs to emit, ascending. It ends where the
// target does; the source is read a little further.
func Match(limits Limits, source, target Log, emit func(Range)) (Result, error) {
	m := &matcher{
		limits: limits, source: newAhead(limits, source), target: target, emit: emit,
		behind: newBehind(limits.Behind), lost: make(map[uint64]int64), found: newFindings(),
		result: Result{First: -1, SourceEnd: -1, TargetEnd: -1},
	}
	if err := m.run(); err != nil {
		return Result{}, err
	}
	m.result.Findings = m.found.sorted()
	return m.result, nil
}

// keysMax bounds the keys of a compacted topic that are remembered because a record of
// theirs lacks at the target.
const keysMax = 1 << 20

type matcher struct {
	limits Limits
	source *ahead
	target Log
	queue  []Record // of the target, read and not looked at
	ended  bool     // the target has no more
	emit   func(Range)

	behind *behind // source records that are passed, with where they are at the target
	again  *again  // a run that lies at the target again; nil: none
	pair   Range   // the last one, not emitted yet

	lost   map[uint64]int64 // compacted: the last record of a key that lacks at the target
	found  *findings
	result Result
}

// again is a run of records that lies at the target once more.
type again struct {
	from int64   // number of its first record
	at   []int64 // where its records are
}

// Where a source record is at the target, other than an offset there.
const (
	nowhere = -1
	settled = -2 // it was known before, and stays where it is
)

func (m *matcher) run() error {
	for m.limits.Resumes {
		s, ok, err := m.source.first()
		if err != nil {
			return err
		}
		if !ok || s.Offset >= m.limits.Known {
			break
		}
		m.pass(m.source.take(), settled)
	}
	for {
		t, ok, err := m.peek(0)
		if err != nil {
			return err
		}
		if !ok {
			return m.finish()
		}
		if err := m.step(t); err != nil {
			return err
		}
	}
}

// step takes a record of the target, or finds out where to go on.
func (m *matcher) step(t Record) error {
	s, ok, err := m.source.first()
	if err != nil {
		return err
	}
	if a := m.again; a != nil {
		if next := a.from + int64(len(a.at)); m.behind.at(next).digest == t.Digest {
			m.queue = m.queue[1:]
			a.at = append(a.at, t.Offset)
			if next+1 == m.behind.end {
				m.takeAgain()
			}
			return nil
		}
	}
	if ok && s.Digest == t.Digest {
		m.queue = m.queue[1:]
		m.dropAgain()
		m.pass(m.source.take(), t.Offset)
		return nil
	}
	if n, there := m.behind.find(t.Digest); there {
		m.queue = m.queue[1:]
		m.dropAgain()
		m.again = &again{from: n, at: []int64{t.Offset}}
		if n+1 == m.behind.end {
			m.takeAgain()
		}
		return nil
	}
	if m.source.aborted(t.Digest) {
		m.queue = m.queue[1:]
		m.found.add(Aborted, t.Offset, 1)
		return nil
	}
	return m.goOn()
}

// goOn finds the nearest place where both logs agree again, counted in records that are
// passed over on both sides, and passes them over.
func (m *matcher) goOn() error {
	if err := m.source.fill(); err != nil {
		return err
	}
	best, records, others := -1, 0, 0 // passed over: of the source, of the target
	i := 0
	for ; i < m.limits.TargetAhead && (best < 0 || i < best); i++ {
		t, ok, err := m.peek(i)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		distance := 0
		if n, there := m.source.find(t.Digest); there {
			distance = n
		} else if _, there := m.behind.find(t.Digest); !there || i == 0 {
			continue
		}
		if best < 0 || i+distance < best {
			best, records, others = i+distance, distance, i
		}
	}
	if best < 0 {
		others = i // none of them is known
	}
	for _, t := range m.queue[:others] {
		m.unknown(t)
	}
	m.queue = m.queue[others:]
	if records > 0 {
		m.dropAgain()
	}
	for range records {
		m.pass(m.source.take(), nowhere)
	}
	return nil
}

// unknown notes a record of the target that is no committed one of the source.
func (m *matcher) unknown(t Record) {
	_, comes := m.source.find(t.Digest)
	switch {
	case comes:
		m.found.add(Duplicate, t.Offset, 1) // the target has it, or gets it, in its place
	case m.source.aborted(t.Digest):
		m.found.add(Aborted, t.Offset, 1)
	case m.limits.Compacted:
		m.found.add(Superseded, t.Offset, 1)
	case m.limits.SourceDeleted && m.behind.end == 0:
		m.found.add(Older, t.Offset, 1)
	default:
		m.found.add(Unknown, t.Offset, 1)
	}
}

// takeAgain pairs the later copies, since they go on to where the copies had come (E).
func (m *matcher) takeAgain() {
	for i, at := range m.again.at {
		e := m.behind.at(m.again.from + int64(i))
		if e.target == settled {
			m.found.add(Duplicate, at, 1)
			continue
		}
		if e.target != nowhere {
			m.found.add(Duplicate, e.target, 1)
		}
		e.target = at
	}
	m.again = nil
}

// dropAgain leaves a run that did not come so far as it is: what was copied behind it
// would be lost (C).
func (m *matcher) dropAgain() {
	if m.again == nil {
		return
	}
	for _, at := range m.again.at {
		m.found.add(Duplicate, at, 1)
	}
	m.again = nil
}

// pass puts a record of the source behind, with where it is at the target.
func (m *matcher) pass(s Record, target int64) {
	if e, full := m.behind.push(s, target); full {
		m.settle(e)
	}
}

// settle decides about a record of the source that no later run reaches.
func (m *matcher) settle(e entry) {
	if m.limits.Compacted {
		delete(m.lost, e.key)
	}
	switch {
	case e.target == settled:
	case e.target != nowhere:
		m.emitPair(e.offset, e.target)
	case m.result.Records == 0 && !m.limits.Resumes:
		m.found.add(Before, e.offset, 1)
	case m.limits.Compacted && e.tombstone:
	case m.limits.Compacted && len(m.lost) < keysMax:
		m.lost[e.key] = e.offset // unless a later one of the key comes
	default:
		m.found.add(Missing, e.offset, 1)
	}
}

func (m *matcher) emitPair(source, target int64) {
	if m.result.Records == 0 {
		m.result.First = source
	}
	m.result.Records++
	m.result.SourceEnd, m.result.TargetEnd = source+1, target+1
	if m.pair.Source+m.pair.Length == source && m.pair.Target+m.pair.Length == target {
		m.pair.Length++
		return
	}
	if m.pair.Length > 0 {
		m.emit(m.pair)
	}
	m.pair = Range{source, target, 1}
}

func (m *matcher) finish() error {
	m.dropAgain()
	for n := m.behind.begin; n < m.behind.end; n++ {
		m.settle(*m.behind.at(n))
	}
	if m.pair.Length > 0 {
		m.emit(m.pair)
	}
	// What comes later at the source is still to be copied, and may supersede.
	for len(m.lost) > 0 {
		s, ok, err := m.source.first()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		m.source.take()
		delete(m.lost, s.Key)
	}
	for _, offset := range m.lost {
		m.found.add(Missing, offset, 1)
	}
	return nil
}

// peek returns the i-th record of the target that comes.
func (m *matcher) peek(i int) (Record, bool, error) {
	for len(m.queue) <= i {
		if m.ended {
			return Record{}, false, nil
		}
		t, ok, err := m.target.Next()
		if err != nil {
			return Record{}, false, err
		}
		if !ok {
			m.ended = true
			return Record{}, false, nil
		}
		m.queue = append(m.queue, t)
	}
	return m.queue[i], true, nil
}
