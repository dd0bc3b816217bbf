package check

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"spillway/tests/orders/history"
)

// fate is all that is known of one record.
type fate struct {
	invoked, acked, failed, definite bool

	invokeTime, ackTime int64
	ackOffset           int64 // virtual, or NoOffset
	txn                 *txn

	seen     []int64 // distinct virtual offsets at which readers got it
	seenBy   string  // the first of them
	seenTime int64
	seenIn   Partition

	index    int32 // first one among the home site's visible records, or −1
	copies   int32 // how many of those
	reported bool  // a finding names it, so consequences need no other
}

type txn struct {
	outcome string
	ids     []history.ID
}

// term is a time in which a site may acknowledge; until 0 means to the end.
type term struct {
	site        string
	from, until int64
}

// Checker takes a history, event by event, and judges it.
type Checker struct {
	expect  Expect
	sites   []*Site
	home    *Site
	visible map[Partition][]*Record // at the home site
	fates   map[history.ID]*fate
	clients map[string]history.Event // by name: how it started
	txns    map[string]*txn
	readers map[string]*reader
	waits   map[string]*wait // by producer
	moves   []*move
	windows map[Partition][]window // reordered stretches of the home log
	turned  []turned
	setBack bool                   // groups may read again, since something was killed
	copies  map[history.ID]*copies // of records that stand more than once in the home log
	report  Report
}

type move struct {
	MoveGap
	start, end int64
}

// window is a stretch of indices in which order is broken.
type window struct{ from, to int32 }

// wait measures how long a producer goes without an acknowledgement.
type wait struct {
	outstanding int64
	since       int64
}

// Run judges a whole history.
func Run(events iter.Seq2[history.Event, error], sites []*Site, expect Expect) (*Report, error) {
	c, err := New(sites, expect)
	if err != nil {
		return nil, err
	}
	for e, err := range events {
		if err != nil {
			return nil, err
		}
		c.Add(e)
	}
	return c.Report(), nil
}

// New prepares a check against the sites' logs.
func New(sites []*Site, expect Expect) (*Checker, error) {
	c := &Checker{
		expect: expect, sites: sites,
		visible: map[Partition][]*Record{}, fates: map[history.ID]*fate{}, clients: map[string]history.Event{},
		txns: map[string]*txn{}, readers: map[string]*reader{}, waits: map[string]*wait{}, windows: map[Partition][]window{},
		copies: map[history.ID]*copies{},
	}
	for _, s := range sites {
		if s.Name == expect.Home {
			c.home = s
		}
	}
	if c.home == nil {
		return nil, fmt.Errorf("check: the home site %q is not among the %d sites whose logs were read", expect.Home, len(sites))
	}
	c.report.Counts = map[Kind]int64{}
	for _, k := range Kinds {
		c.report.Counts[k] = 0
	}
	c.report.Figures.Records = map[string]int64{}
	c.report.Figures.AckGapMax = map[string]time.Duration{}
	for _, r := range expect.Losses {
		c.report.Figures.AnnouncedSize += r.To - r.From
	}
	for p := range c.home.Logs {
		c.visible[p] = c.visibleAt(c.home, p)
		for i, r := range c.visible[p] {
			f := c.fate(r.ID)
			switch f.copies++; f.copies {
			case 1:
				f.index = int32(i)
			case 2:
				c.copies[r.ID] = &copies{indices: []int32{f.index, int32(i)}, at: map[int64]int32{}}
			default:
				c.copies[r.ID].indices = append(c.copies[r.ID].indices, int32(i))
			}
		}
	}
	return c, nil
}

// visibleAt lists what a site shows of a partition: records that belong there,
// committed, and not in a hidden range. Foreign ones are reported by judgeLog.
func (c *Checker) visibleAt(s *Site, p Partition) []*Record {
	log := s.Logs[p]
	if log == nil {
		return nil
	}
	out := make([]*Record, 0, len(log.Records))
	for i := range log.Records {
		r := &log.Records[i]
		if r.State == Visible && belongs(r, p) && !c.expect.hidden(s.Name, p, r.Offset) {
			out = append(out, r)
		}
	}
	return out
}

func belongs(r *Record, p Partition) bool {
	return r.ID.Topic == p.Topic && r.ID.Partition == p.Index
}

func (c *Checker) fate(id history.ID) *fate {
	f := c.fates[id]
	if f == nil {
		f = &fate{ackOffset: history.NoOffset, index: -1}
		c.fates[id] = f
	}
	return f
}

// plain tells whether a producer works without idempotence, so that its
// retries may repeat and reorder.
func (c *Checker) plain(producer string) bool {
	start, ok := c.clients[producer]
	return ok && !start.Idempotent
}

// Add takes the next event. Events come in the order of their times.
func (c *Checker) Add(e history.Event) {
	switch e.Kind {
	case history.Start:
		c.clients[e.Client] = e
	case history.Invoke:
		c.invoke(e)
	case history.Ack, history.Fail:
		c.answer(e)
	case history.TxnEnd:
		c.txn(e.Txn).outcome = e.Outcome
	case history.Position:
		c.reader(e).position(e, c)
	case history.Consume:
		c.consume(e)
	case history.Commit:
		if e.Error == "" {
			cur := c.reader(e).cursor(e)
			cur.committed = max(cur.committed, e.Offset)
		}
	case history.Stop:
		if r := c.readers[c.readerName(e.Client)]; r != nil {
			r.drained = r.drained || e.Drained
		}
	case history.Mark:
		c.mark(e)
	}
}

func (c *Checker) txn(name string) *txn {
	t := c.txns[name]
	if t == nil {
		t = &txn{}
		c.txns[name] = t
	}
	return t
}

func (c *Checker) invoke(e history.Event) {
	f := c.fate(e.Payload)
	f.invoked, f.invokeTime = true, e.Time
	c.report.Figures.Sent++
	if e.Txn != "" {
		f.txn = c.txn(e.Txn)
		f.txn.ids = append(f.txn.ids, e.Payload)
	}
	if f.seenTime != 0 && f.seenTime+c.expect.ClockSlackNanos < e.Time {
		c.found(Finding{Kind: EffectBeforeCause, Topic: f.seenIn.Topic, Partition: f.seenIn.Index, Virtual: f.seen[0], Local: -1,
			Payload: e.Payload.String(), Client: f.seenBy,
			Detail: fmt.Sprintf("read %s before it was sent", time.Duration(e.Time-f.seenTime))})
	}
	w := c.waits[e.Client]
	if w == nil {
		w = &wait{}
		c.waits[e.Client] = w
	}
	if w.outstanding++; w.outstanding == 1 {
		w.since = e.Time
	}
}

func (c *Checker) answer(e history.Event) {
	f := c.fate(e.Payload)
	if w := c.waits[e.Client]; w != nil && w.outstanding > 0 {
		w.outstanding--
		c.gap(e.Client, w.since, e.Time)
		if e.Kind == history.Ack || w.outstanding == 0 {
			w.since = e.Time // what has failed was waited for all the same
		}
	}
	if e.Kind == history.Fail {
		f.failed, f.definite = true, e.Definite
		c.report.Figures.Failed++
		return
	}
	c.report.Figures.Acked++
	f.ackTime = e.Time
	// An acknowledgement that the broker never gave promises nothing.
	f.acked = c.clients[e.Client].Acks != "0"
	f.ackOffset = e.Offset
}

func (c *Checker) gap(producer string, from, to int64) {
	d := time.Duration(to - from)
	c.report.Figures.AckGapMax[producer] = max(c.report.Figures.AckGapMax[producer], d)
	for _, m := range slices.Backward(c.moves) {
		if m.end != 0 && m.end < from {
			return
		}
		if to >= m.start {
			m.Gap = max(m.Gap, d)
			if m.Producers == nil {
				m.Producers = map[string]time.Duration{}
			}
			m.Producers[producer] = max(m.Producers[producer], d)
		}
	}
}

func (c *Checker) mark(e history.Event) {
	switch e.Name {
	case history.MoveStart:
		c.moves = append(c.moves, &move{MoveGap: MoveGap{Kind: e.Move, From: e.From, To: e.To}, start: e.Time})
	case history.MoveEnd:
		for _, m := range slices.Backward(c.moves) {
			// Where a failover goes to is known only once it is over.
			if m.end == 0 && m.From == e.From && (m.To == e.To || m.To == "") {
				m.end, m.To = e.Time, e.To
				break
			}
		}
	case history.Kill:
	default:
		return
	}
	// From a kill or failover on, until the next planned move, groups may be
	// set back: their commits are replicated after the fact, as data are. Where one
	// has not come back by then to where it was, it may do so later.
	setBack := e.Name == history.Kill || e.Move == history.Failover
	if !setBack && e.Name == history.MoveEnd {
		return
	}
	if !setBack {
		c.beLate()
	}
	c.setBack = setBack
}

// terms lists when each site may acknowledge: from the start of the move that
// opened it to the end of the move that closed it, so that only what is
// certainly outside counts against it.
func (c *Checker) terms() []term {
	var ts []term
	for _, m := range c.moves {
		if m.end == 0 {
			continue
		}
		if len(ts) == 0 {
			ts = append(ts, term{site: m.From})
		}
		ts[len(ts)-1].until = m.end
		ts = append(ts, term{site: m.To, from: m.start})
	}
	return ts
}

// found counts a finding and keeps it while there are few of its kind.
func (c *Checker) found(f Finding) {
	f.Records = max(f.Records, 1)
	f.Promise = f.Kind.Promise()
	c.report.Counts[f.Kind] += f.Records
	n := 0
	for _, other := range c.report.Findings {
		if other.Kind == f.Kind {
			n++
		}
	}
	if n < FindingsMax {
		c.report.Findings = append(c.report.Findings, f)
	}
}
