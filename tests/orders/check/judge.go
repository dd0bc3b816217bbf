package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"spillway/tests/orders/history"
)

// Report ends the history and judges it. It is called once.
func (c *Checker) Report() *Report {
	for _, s := range c.sites {
		for _, p := range partitions(s) {
			c.judgeLog(s, p)
		}
	}
	c.split()
	c.fatesOfAll()
	c.offsets()
	c.causes()
	for _, s := range c.sites {
		if s != c.home {
			c.compare(s)
		}
	}
	c.transactions()
	c.outOfTurn()
	c.skips()
	for _, rule := range c.expect.Rules {
		for _, f := range rule(View{c}) {
			c.found(f)
		}
	}
	return c.finish()
}

func partitions(s *Site) []Partition {
	return slices.SortedFunc(maps.Keys(s.Logs), func(a, b Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Index, b.Index))
	})
}

// judgeLog looks at one log by itself: foreign and damaged records, copies,
// and producers' counters that fall.
func (c *Checker) judgeLog(s *Site, p Partition) {
	log := s.Logs[p]
	for i := range log.Records {
		r := &log.Records[i]
		if r.State != Visible || c.expect.hidden(s.Name, p, r.Offset) {
			continue
		}
		switch {
		case r.ID.IsZero():
			c.found(c.at(Phantom, s, p, r, "not a record of the workload: "+r.Damage))
		case r.Damage != "":
			c.found(c.at(Torn, s, p, r, r.Damage))
		case !belongs(r, p):
			c.found(c.at(Phantom, s, p, r, "belongs into another partition"))
		}
	}
	visible := c.visible[p]
	if s != c.home {
		visible = c.visibleAt(s, p)
	}
	c.report.Figures.Records[s.Name] += int64(len(visible))
	first := make(map[history.ID]int64, len(visible)) // local offset of the first copy
	tops := map[string][]top{}
	for i, r := range visible {
		if at, again := first[r.ID]; again {
			c.copied(s, p, r, at)
			continue
		}
		first[r.ID] = r.Offset
		c.turn(s, p, r, int32(i), tops)
	}
}

// top is a counter higher than all before it, and where it stands.
type top struct {
	counter int64
	index   int32
}

// turn checks that the counters of one producer rise.
func (c *Checker) turn(s *Site, p Partition, r *Record, i int32, tops map[string][]top) {
	ts := tops[r.ID.Producer]
	if len(ts) == 0 || ts[len(ts)-1].counter < r.ID.Counter {
		tops[r.ID.Producer] = append(ts, top{r.ID.Counter, i})
		return
	}
	if c.plain(r.ID.Producer) {
		if s == c.home {
			c.report.Figures.OutOfTurn++
		}
		return // where sites disagree, compare says so
	}
	// The stretch from the first record that overtook this one is disordered.
	over, _ := slices.BinarySearchFunc(ts, r.ID.Counter, func(t top, counter int64) int { return cmp.Compare(t.counter, counter) })
	if s == c.home {
		c.windows[p] = append(c.windows[p], window{ts[over].index, i})
	}
	c.fate(r.ID).reported = true
	c.found(c.at(Reordered, s, p, r, fmt.Sprintf("stands after %s/%s/%d/%d of the same producer", r.ID.Producer, p.Topic, p.Index, ts[over].counter)))
}

// copied judges a second copy. A plain producer's retry may write one, and the
// mirror must then have it too; compare looks for the difference.
func (c *Checker) copied(s *Site, p Partition, r *Record, first int64) {
	switch {
	case !c.plain(r.ID.Producer):
		c.found(c.at(Duplicated, s, p, r, fmt.Sprintf("is already there at local offset %d", first)))
	case s == c.home:
		c.report.Figures.Resent++
	}
}

// inWindow tells whether an index lies in a stretch already reported as
// reordered, of which everything else follows.
func (c *Checker) inWindow(p Partition, i int32) bool {
	for _, w := range c.windows[p] {
		if w.from <= i && i <= w.to {
			return true
		}
	}
	return false
}

// at makes a finding about a record in a log.
func (c *Checker) at(k Kind, s *Site, p Partition, r *Record, detail string) Finding {
	f := Finding{Kind: k, Site: s.Name, Topic: p.Topic, Partition: p.Index, Virtual: -1, Local: r.Offset, Detail: detail}
	if !r.ID.IsZero() {
		f.Payload = r.ID.String()
		f.Virtual = c.fate(r.ID).virtual()
	}
	return f
}

// split finds acknowledgements by a site that did not serve: the record stands
// at that site under its producer's own id (not a mirror's), and the whole time
// from sending to acknowledgement lies outside the site's terms.
func (c *Checker) split() {
	terms := c.terms()
	if len(terms) == 0 {
		return
	}
	for _, s := range c.sites {
		for _, p := range partitions(s) {
			for i := range s.Logs[p].Records {
				r := &s.Logs[p].Records[i]
				f := c.fates[r.ID]
				if f == nil || !f.acked || !f.invoked || mirrored(r) || serves(terms, s.Name, f, c.expect.ClockSlackNanos) {
					continue
				}
				f.reported = true
				c.found(c.at(Split, s, p, r, fmt.Sprintf("sent and acknowledged while %s did not serve", s.Name)))
			}
		}
	}
}

func serves(terms []term, site string, f *fate, slack int64) bool {
	for _, t := range terms {
		if t.site == site && f.ackTime+slack >= t.from && (t.until == 0 || f.invokeTime-slack <= t.until) {
			return true
		}
	}
	return false
}

// fatesOfAll compares what was told about each record with the home log.
func (c *Checker) fatesOfAll() {
	missing := map[history.ID]*fate{}
	for id, f := range c.fates {
		p := Partition{id.Topic, id.Partition}
		if f.invoked && !f.failed && f.ackTime == 0 {
			c.report.Figures.Open++
		}
		switch {
		case f.reported:
		case f.index >= 0:
			c.unwanted(f, c.visible[p][f.index], p)
		case !f.invoked && len(f.seen) > 0:
			c.found(c.seen(Phantom, f, id, "handed out, but nobody sent it"))
		case f.txn != nil && f.txn.outcome == history.Aborted:
			if len(f.seen) > 0 {
				c.found(c.seen(Phantom, f, id, "handed out, but its transaction was aborted"))
			}
		case f.txn != nil && f.txn.outcome != history.Committed && len(f.seen) == 0:
		case c.announcedLoss(p, f):
			if f.acked {
				c.report.Figures.LostAnnounced++
			}
		case (f.acked || len(f.seen) > 0) && !slices.Contains(c.expect.Compacted, id.Topic):
			missing[id] = f
		}
	}
	c.lost(missing)
}

// unwanted reports a record that stands in the log and must not.
func (c *Checker) unwanted(f *fate, r *Record, p Partition) {
	detail := ""
	switch {
	case !f.invoked:
		detail = "nobody sent it"
	case f.failed && f.definite && !f.acked:
		detail = "its producer was told for certain that it was not written"
	case f.txn != nil && f.txn.outcome == history.Aborted:
		detail = "its transaction was aborted"
	default:
		return
	}
	f.reported = true
	c.found(c.at(Phantom, c.home, p, r, detail))
}

// announcedLoss tells whether all offsets that clients know of the record lie
// within announced ranges.
func (c *Checker) announcedLoss(p Partition, f *fate) bool {
	known := false
	for _, v := range append(slices.Clone(f.seen), f.ackOffset) {
		if v < 0 {
			continue
		}
		if known = true; !c.expect.announced(p, v) {
			return false
		}
	}
	return known
}

func (c *Checker) seen(k Kind, f *fate, id history.ID, detail string) Finding {
	return Finding{Kind: k, Topic: f.seenIn.Topic, Partition: f.seenIn.Index, Virtual: f.seen[0], Local: -1,
		Payload: id.String(), Client: f.seenBy, Detail: detail}
}

// lost reports records that are missing at the home site, with where else they
// stand.
func (c *Checker) lost(missing map[history.ID]*fate) {
	where := map[history.ID]string{}
	for _, s := range c.sites {
		for p, log := range s.Logs {
			for i := range log.Records {
				if r := &log.Records[i]; missing[r.ID] != nil {
					where[r.ID] += fmt.Sprintf("; %s has it in %s at local offset %d", s.Name, p, r.Offset)
				}
			}
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(missing), compareIDs) {
		f := missing[id]
		detail := "acknowledged"
		if !f.acked {
			detail = "handed out to " + f.seenBy
		}
		c.found(Finding{Kind: Lost, Site: c.home.Name, Topic: id.Topic, Partition: id.Partition, Virtual: f.virtual(), Local: -1,
			Payload: id.String(), Detail: detail + " and not in the log" + where[id]})
		f.reported = true
	}
}

func compareIDs(a, b history.ID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition),
		cmp.Compare(a.Producer, b.Producer), cmp.Compare(a.Counter, b.Counter))
}
