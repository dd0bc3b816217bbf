package check

import (
	"fmt"
	"slices"

	"spillway/tests/orders/history"
)

// reader is one consumer group, or one client with assign().
type reader struct {
	name    string
	group   bool
	drained bool
	cursors map[Partition]*cursor
}

// cursor is what a reader has read of one partition.
type cursor struct {
	seen   []uint64 // one bit per index
	max    int32    // highest index read, or −1
	at     int32    // index read last since the last position, or −1
	client string   // who read it

	begin     int64 // lowest virtual offset that the reader ever asked for
	from      int64 // virtual offset that it asked for last; nothing below may come
	committed int64 // highest virtual offset whose commit was acknowledged

	// Reading again is allowed from repeatFrom (virtual) up to repeatMax (an
	// index), since the reader itself went back.
	repeatFrom int64
	repeatMax  int32

	// A loss set the group back (it began anew at a position), and it had not read again up
	// to where it was when the next planned move began: records behind late up to lateMax
	// (indices) may still come again, each once, until the move after that begins.
	setBack       bool
	late, lateMax int32

	repeated int // place in the findings of the run of re-reads that is open, or −1

	// lost are virtual offsets within announced losses that were handed out before
	// the loss. Their records may come again, at others, if they were sent again.
	lost map[int64]bool
}

func (c *Checker) readerName(client string) string {
	if g := c.clients[client].Group; g != "" {
		return "group " + g
	}
	return client
}

func (c *Checker) reader(e history.Event) *reader {
	name := c.readerName(e.Client)
	r := c.readers[name]
	if r == nil {
		r = &reader{name: name, group: c.clients[e.Client].Group != "", cursors: map[Partition]*cursor{}}
		c.readers[name] = r
	}
	return r
}

func (r *reader) cursor(e history.Event) *cursor {
	p := Partition{e.Topic, e.Partition}
	cur := r.cursors[p]
	if cur == nil {
		cur = &cursor{max: -1, at: -1, begin: -1, from: -1, repeatMax: -1, lateMax: -1, repeated: -1}
		r.cursors[p] = cur
	}
	return cur
}

// position notes that the reader begins or goes on somewhere.
func (r *reader) position(e history.Event, c *Checker) {
	known := r.cursors[Partition{e.Topic, e.Partition}] != nil
	cur := r.cursor(e)
	cur.at = -1
	cur.client = e.Client
	cur.from = -1
	cur.setBack = cur.setBack || c.setBack
	if e.Offset >= 0 {
		cur.from = e.Offset
		if !known || e.Offset < cur.begin {
			cur.begin = e.Offset
		}
	}
	switch {
	case !r.group && e.Offset >= 0:
		cur.repeatFrom, cur.repeatMax = e.Offset, cur.max // its own decision
	case r.group && c.expect.GroupsRepeat:
		cur.repeatFrom, cur.repeatMax = cur.committed, cur.max
	}
}

func (cur *cursor) has(i int32) bool {
	return int(i>>6) < len(cur.seen) && cur.seen[i>>6]&(1<<(i&63)) != 0
}

func (cur *cursor) set(i int32) {
	for int(i>>6) >= len(cur.seen) {
		cur.seen = append(cur.seen, 0)
	}
	cur.seen[i>>6] |= 1 << (i & 63)
}

// consume judges one record that a reader got. What can be told only from the
// whole history (was it sent at all, was it lost since) waits for Report.
func (c *Checker) consume(e history.Event) {
	c.report.Figures.Read++
	f := c.fate(e.Payload)
	if !slices.Contains(f.seen, e.Offset) {
		f.seen = append(f.seen, e.Offset)
	}
	if f.seenTime == 0 {
		f.seenTime, f.seenBy, f.seenIn = e.Time, e.Client, Partition{e.Topic, e.Partition}
	}
	r := c.reader(e)
	cur := r.cursor(e)
	if e.Payload.Topic != e.Topic || e.Payload.Partition != e.Partition {
		c.found(finding(Phantom, e, "handed out, but it belongs into another partition"))
		f.reported = true
		return
	}
	if cur.client != e.Client {
		cur.client, cur.at = e.Client, -1
	}
	if c.expect.announced(Partition{e.Topic, e.Partition}, e.Offset) {
		c.consumeLost(r, cur, e)
		return
	}
	k := f.index
	if cs := c.copies[e.Payload]; cs != nil {
		k = cs.which(cur, e.Offset)
	}
	if e.Offset < cur.from {
		c.reread(cur, e, fmt.Sprintf("began at %d and was given what lies before", cur.from))
		return
	}
	if k < 0 {
		return
	}
	switch {
	case !cur.has(k):
		if cur.at > k {
			// Whether the log itself is to blame is known at the end.
			c.turned = append(c.turned, turned{k, finding(Reordered, e, "handed out after a later record of the same partition")})
		}
		cur.repeated = -1
	case k <= cur.repeatMax && e.Offset >= cur.repeatFrom, r.group && c.setBack, k > cur.late && k <= cur.lateMax:
		if r.group {
			c.report.Figures.GroupRepeats++
		}
	default:
		c.reread(cur, e, r.name+" had read it already")
	}
	cur.set(k)
	cur.at, cur.max, cur.late = k, max(cur.max, k), max(cur.late, k)
}

// beLate lets groups finish what a loss has them read again, once a planned move begins: a
// client may come back to its partitions one after the other, and long after it has gone on
// in one. A move later nothing is excused any more.
func (c *Checker) beLate() {
	for _, r := range c.readers {
		for _, cur := range r.cursors {
			if cur.lateMax = -1; r.group && cur.setBack && cur.at < cur.max {
				cur.late, cur.lateMax = cur.at, cur.max
			}
			cur.setBack = false
		}
	}
}

// consumeLost judges a record that a reader got from a site that was lost, at an
// offset that no site has any more: where it would stand in the log of today
// says nothing.
func (c *Checker) consumeLost(r *reader, cur *cursor, e history.Event) {
	switch {
	case e.Offset < cur.from:
		c.reread(cur, e, fmt.Sprintf("began at %d and was given what lies before", cur.from))
		return
	case !cur.lost[e.Offset]:
		cur.repeated = -1
	case !r.group && cur.repeatMax >= 0 && e.Offset >= cur.repeatFrom, r.group && c.setBack:
	default:
		c.reread(cur, e, r.name+" had read it already")
	}
	if cur.lost == nil {
		cur.lost = map[int64]bool{}
	}
	cur.lost[e.Offset] = true
}

// copies are the places of a record that stands more than once in a log.
type copies struct {
	indices []int32
	at      map[int64]int32 // by virtual offset, as far as readers have shown
}

// which tells the copies apart: by an offset known already, else by what comes
// next for the reader, else it is the first one that the reader has not got.
func (cs *copies) which(cur *cursor, virtual int64) int32 {
	k, known := cs.at[virtual]
	if known {
		return k
	}
	k = cs.indices[0]
	if cur.at >= 0 && slices.Contains(cs.indices, cur.at+1) {
		k = cur.at + 1
	} else if i := slices.IndexFunc(cs.indices, func(i int32) bool { return !cur.has(i) }); i >= 0 {
		k = cs.indices[i]
	}
	cs.at[virtual] = k
	return k
}

// reread reports a run of records as one finding.
func (c *Checker) reread(cur *cursor, e history.Event, detail string) {
	if i := cur.repeated; i >= 0 {
		c.report.Counts[ReRead]++
		c.report.Findings[i].Records++
		return
	}
	before := len(c.report.Findings)
	c.found(finding(ReRead, e, detail))
	if len(c.report.Findings) > before {
		cur.repeated = before
	}
}

func finding(k Kind, e history.Event, detail string) Finding {
	return Finding{Kind: k, Topic: e.Topic, Partition: e.Partition, Virtual: e.Offset, Local: -1,
		Payload: e.Payload.String(), Client: e.Client, Detail: detail}
}

// turned is a record that a reader got out of turn.
type turned struct {
	index int32
	Finding
}

// outOfTurn reports what readers got the other way round than the home log has
// it, unless that log is what is out of order.
func (c *Checker) outOfTurn() {
	for _, t := range c.turned {
		if !c.inWindow(Partition{t.Topic, t.Partition}, t.index) {
			c.found(t.Finding)
		}
	}
}

// skips reports what readers went past, or never got though they had drained
// their partitions.
func (c *Checker) skips() {
	for _, r := range c.readers {
		for p, cur := range r.cursors {
			end := cur.max + 1
			if r.drained {
				end = int32(len(c.visible[p]))
			}
			c.skipsIn(r, p, cur, end)
		}
	}
}

func (c *Checker) skipsIn(r *reader, p Partition, cur *cursor, end int32) {
	var open *Finding
	flush := func() {
		if open != nil {
			c.found(*open)
		}
		open = nil
	}
	virtual := int64(-1) // of the record at hand, or the least it can be
	for i := range end {
		rec := c.visible[p][i]
		f := c.fates[rec.ID]
		virtual++
		if v := f.virtual(); v >= 0 {
			virtual = v
		}
		if cur.has(i) || f.index != i || !f.invoked || f.reported || virtual < cur.begin {
			flush()
			continue
		}
		if open == nil {
			detail := "went past it"
			if i > cur.max {
				detail = "never got it, though it had read to the end"
			}
			open = &Finding{Kind: Skipped, Topic: p.Topic, Partition: p.Index, Virtual: f.virtual(), Local: rec.Offset, Site: c.home.Name,
				Payload: rec.ID.String(), Client: r.name, Detail: r.name + " " + detail}
		}
		open.Records++
	}
	flush()
}

// virtual is the record's virtual offset as clients were told, or −1.
func (f *fate) virtual() int64 {
	if f.ackOffset >= 0 {
		return f.ackOffset
	}
	if len(f.seen) > 0 {
		return f.seen[0]
	}
	return -1
}
