package check

import (
	"cmp"
	"fmt"
	"slices"

	"spillway/tests/orders/history"
)

// placed is a record with the one virtual offset that clients know of it.
type placed struct {
	virtual int64
	id      history.ID
	index   int32
}

// offsets checks the virtual offsets: one per record, whoever saw it; one
// record per offset; and ascending with the home log.
func (c *Checker) offsets() {
	byPartition := map[Partition][]placed{}
	for id, f := range c.fates {
		p := Partition{id.Topic, id.Partition}
		vs := slices.Clone(f.seen)
		if f.ackOffset >= 0 && !slices.Contains(vs, f.ackOffset) {
			vs = append(vs, f.ackOffset)
		}
		// A record whose first writing was announced as lost may have been
		// written again, at a new offset.
		if len(vs) > 1 {
			vs = slices.DeleteFunc(vs, func(v int64) bool { return c.expect.announced(p, v) })
		}
		if f.reported || len(vs) == 0 || f.index >= 0 && c.inWindow(p, f.index) {
			continue
		}
		switch {
		case len(vs) > int(max(1, f.copies)):
			detail := fmt.Sprintf("clients saw it at %d", f.seen)
			if f.ackOffset >= 0 {
				detail = fmt.Sprintf("acknowledged at %d, seen at %d", f.ackOffset, f.seen)
			}
			c.found(Finding{Kind: Misplaced, Topic: p.Topic, Partition: p.Index, Virtual: vs[0], Local: -1, Payload: id.String(),
				Client: f.seenBy, Detail: detail})
			f.reported = true
		case len(vs) == 1 && f.copies <= 1:
			byPartition[p] = append(byPartition[p], placed{vs[0], id, f.index})
		}
	}
	for p, list := range byPartition {
		slices.SortFunc(list, func(a, b placed) int {
			return cmp.Or(cmp.Compare(a.virtual, b.virtual), cmp.Compare(a.index, b.index), compareIDs(a.id, b.id))
		})
		c.ascending(p, list)
	}
}

func (c *Checker) ascending(p Partition, list []placed) {
	top := placed{virtual: -1, index: -1}
	for _, at := range list {
		clash := ""
		switch {
		case at.virtual == top.virtual:
			clash = fmt.Sprintf("is also the offset of %s", top.id)
		case at.index >= 0 && at.index < top.index:
			clash = fmt.Sprintf("stands before %s (offset %d) in the log of %s", top.id, top.virtual, c.home.Name)
		}
		if clash != "" {
			c.found(Finding{Kind: Misplaced, Topic: p.Topic, Partition: p.Index, Virtual: at.virtual, Local: -1, Payload: at.id.String(), Detail: clash})
		}
		if at.index >= top.index {
			top = at
		}
	}
}

// causes checks that no step stands without the step it follows. Between
// partitions Kafka has no order to check; there only existence counts, and
// that nobody sent the effect before the cause.
func (c *Checker) causes() {
	for p, records := range c.visible {
		for i, r := range records {
			for _, cause := range r.After {
				c.cause(p, int32(i), r, cause)
			}
		}
	}
}

func (c *Checker) cause(p Partition, i int32, effect *Record, id history.ID) {
	f := c.fates[id]
	e := c.fates[effect.ID]
	detail := ""
	switch {
	case e.reported || e.index != i:
	case f == nil || !f.invoked:
		detail = fmt.Sprintf("follows %s, which nobody sent", id)
	case f.reported:
	case f.index < 0 && slices.Contains(c.expect.Compacted, id.Topic):
	case f.index < 0 && c.announcedLoss(Partition{id.Topic, id.Partition}, f):
		c.report.Figures.TornOrders++
	case f.index < 0:
		detail = fmt.Sprintf("follows %s, which is not there", id)
	case id.Topic == p.Topic && id.Partition == p.Index && f.index > i:
		if !c.inWindow(p, i) && !c.inWindow(p, f.index) {
			detail = fmt.Sprintf("stands before %s, which it follows", id)
		}
	case e.invoked && e.invokeTime+c.expect.ClockSlackNanos < f.invokeTime:
		detail = fmt.Sprintf("was sent before %s, which it follows", id)
	}
	if detail != "" {
		c.found(c.at(EffectBeforeCause, c.home, p, effect, detail))
	}
}

// transactions checks that each one is there as a whole or not at all.
func (c *Checker) transactions() {
	for name, t := range c.txns {
		var in, out, excused int
		for _, id := range t.ids {
			f := c.fates[id]
			switch {
			case f.index >= 0:
				in++
			case c.announcedLoss(Partition{id.Topic, id.Partition}, f) || f.reported:
				excused++
			default:
				out++
			}
		}
		// A committed one that lacks records has lost them; an aborted one that
		// shows any shows phantoms. Torn is what is neither.
		if in > 0 && out > 0 && t.outcome != history.Aborted {
			id := t.ids[0]
			c.found(Finding{Kind: Torn, Site: c.home.Name, Topic: id.Topic, Partition: id.Partition, Virtual: -1, Local: -1, Payload: id.String(),
				Detail: fmt.Sprintf("transaction %s shows %d of its %d records (%d lie in announced losses or are reported)", name, in, len(t.ids), excused)})
		}
	}
}
