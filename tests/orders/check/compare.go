package check

import (
	"fmt"
	"slices"

	"spillway"
	"spillway/tests/orders/history"
)

// mirrored tells whether a mirror wrote the batch. This is the one thing that
// the checker takes from the product: which producer ids are a mirror's.
func mirrored(r *Record) bool { return spillway.IsMirrorProducerID(r.ProducerID) }

// compare holds another site's log against the home site's: the same records
// in the same order with the same bytes.
func (c *Checker) compare(s *Site) {
	behind := slices.Contains(c.expect.Behind, s.Name)
	for _, p := range partitions(c.home) {
		there := c.visibleAt(s, p)
		has, copies := c.walk(s, p, there)
		if !behind {
			c.lacking(s, p, has, c.compacted(s, p, there))
		}
		for id, n := range copies {
			f := c.fates[id]
			if !c.plain(id.Producer) || f.index < 0 || n == f.copies {
				continue // an idempotent producer's copies are reported by judgeLog
			}
			more, less, most := s, c.home, n
			if n < f.copies {
				more, less, most = c.home, s, f.copies
			}
			c.found(Finding{Kind: Duplicated, Site: more.Name, Topic: p.Topic, Partition: p.Index, Virtual: f.virtual(), Local: -1, Payload: id.String(),
				Detail: fmt.Sprintf("stands there %d times, and %d times at %s", most, min(n, f.copies), less.Name)})
		}
	}
}

// walk goes through a site's partition and reports what is out of order, other
// in bytes, or not at home. It returns which of the home records it met, and
// how often each record is there.
func (c *Checker) walk(s *Site, p Partition, there []*Record) (has []bool, copies map[history.ID]int32) {
	home := c.visible[p]
	has = make([]bool, len(home))
	copies = make(map[history.ID]int32, len(there))
	top := int32(-1)
	for _, r := range there {
		f := c.fate(r.ID)
		if copies[r.ID]++; copies[r.ID] > 1 {
			continue
		}
		if f.index < 0 {
			if !f.reported && !(f.invoked && c.announcedLoss(p, f)) {
				c.found(c.at(Phantom, s, p, r, c.home.Name+" has no such record, and nothing says that it is hidden here"))
			}
			continue
		}
		has[f.index] = true
		if r.Digest != home[f.index].Digest && r.Damage == "" && home[f.index].Damage == "" {
			c.found(c.at(Torn, s, p, r, fmt.Sprintf("key, value, headers or timestamp differ from %s (local %d)", c.home.Name, home[f.index].Offset)))
		}
		if f.index < top && !f.reported {
			c.found(c.at(Reordered, s, p, r, fmt.Sprintf("stands after %s, at %s before it", home[top].ID, c.home.Name)))
		}
		top = max(top, f.index)
	}
	return has, copies
}

// compacted tells which home records a site may lack since compaction has gone
// further there: those with a later record of the same key.
func (c *Checker) compacted(s *Site, p Partition, there []*Record) func(i int) bool {
	if !slices.Contains(c.expect.Compacted, p.Topic) {
		return func(int) bool { return false }
	}
	newest := map[uint64]int32{}
	for _, r := range there {
		newest[r.Key] = max(newest[r.Key], c.fate(r.ID).index)
	}
	return func(i int) bool { return newest[c.visible[p][i].Key] > int32(i) }
}

// lacking reports home records that a site does not have, neighbours as one.
func (c *Checker) lacking(s *Site, p Partition, has []bool, excused func(int) bool) {
	var open *Finding
	for i, r := range c.visible[p] {
		f := c.fates[r.ID]
		if has[i] || f.index != int32(i) || f.reported || excused(i) {
			if open != nil {
				c.found(*open)
				open = nil
			}
			continue
		}
		if open == nil {
			lack := c.at(Lost, s, p, r, fmt.Sprintf("at %s from local offset %d on, and not here", c.home.Name, r.Offset))
			lack.Local = -1
			open = &lack
		}
		open.Records++
	}
	if open != nil {
		c.found(*open)
	}
}

// finish sums up.
func (c *Checker) finish() *Report {
	r := &c.report
	r.OK = true
	for _, n := range r.Counts {
		r.OK = r.OK && n == 0
	}
	for _, m := range c.moves {
		r.Figures.MoveGaps = append(r.Figures.MoveGaps, m.MoveGap)
	}
	r.Promises = map[string]string{}
	untested := func(letter, why string, tested bool) {
		r.Promises[letter] = "held"
		if !tested {
			r.Promises[letter] = "not tested: " + why
		}
	}
	untested("A", "nothing moved", len(c.moves) > 0)
	untested("B", "nothing was acknowledged", r.Figures.Acked > 0)
	untested("C", "nothing was acknowledged", r.Figures.Acked > 0)
	untested("D", "nothing was read, or nothing moved", r.Figures.Read > 0 && len(c.moves) > 0)
	untested("E", "one site's log was read", len(c.sites) > 1)
	for k, n := range r.Counts {
		if n > 0 {
			r.Promises[k.Promise()] = "broken"
		}
	}
	return r
}
