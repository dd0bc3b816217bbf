package mirror

import (
	"spillway"
	"spillway/mirror/offsetmap"
)

// foretoldMax is how many records without a hole a flow describes ahead.
const foretoldMax = 1 << 16

// foretell adds to a chunk the records that come next unless there is a hole, so that
// the map need not be written for them. Who reads the log back takes of it what is
// there. Nobody asks a flow without a control plane for its producer trail.
func (p *planned) foretell(c *offsetmap.Chunk) {
	c.Trail = nil
	last := &c.Ranges[len(c.Ranges)-1]
	p.ahead = offsetmap.Range{Epoch: last.Epoch, Virtual: last.VirtualEnd(), Local: last.LocalEnd(), Length: foretoldMax}
	last.Length += foretoldMax
	c.Foretold = foretoldMax
}

// has tells whether the map knows a session: a map topic that has lost its end, or was
// deleted, knows nothing of what was foretold.
func (m *Mirror) has(s offsetmap.Session, tp spillway.TopicPartition) bool {
	om := m.reader.Map(tp)
	return om != nil && om.Session().Session == s.Session
}

// foretold tells whether the map describes all of the plan already.
func (p *planned) foretold() bool {
	if len(p.plan.ranges) != 1 {
		return false
	}
	r, ahead := p.plan.ranges[0], p.ahead
	return r.Epoch == ahead.Epoch && r.Local >= ahead.Local && r.LocalEnd() <= ahead.LocalEnd() && int64(r.Virtual-ahead.Virtual) == int64(r.Local-ahead.Local)
}
