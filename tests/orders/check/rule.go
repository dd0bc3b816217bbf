package check

// Rule is a check of the application's own: it looks at the home site's
// visible records and says what is wrong.
type Rule func(View) []Finding

// View is what a Rule may look at.
type View struct{ c *Checker }

// Partitions lists the partitions of a topic at the home site.
func (v View) Partitions(topic string) []Partition {
	var out []Partition
	for _, p := range partitions(v.c.home) {
		if p.Topic == topic {
			out = append(out, p)
		}
	}
	return out
}

// Records lists the visible records of a partition in their order, each once.
func (v View) Records(p Partition) []*Record {
	var out []*Record
	for i, r := range v.c.visible[p] {
		if v.c.fates[r.ID].index == int32(i) {
			out = append(out, r)
		}
	}
	return out
}

// AnnouncedLoss tells whether a failover announced a loss in the partition.
func (v View) AnnouncedLoss(p Partition) bool {
	for _, r := range v.c.expect.Losses {
		if r.Topic == p.Topic && r.Partition == p.Index {
			return true
		}
	}
	return false
}

// Finding makes a finding about a record of the home site.
func (v View) Finding(k Kind, p Partition, r *Record, detail string) Finding {
	return v.c.at(k, v.c.home, p, r, detail)
}
