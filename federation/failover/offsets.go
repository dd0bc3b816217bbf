package failover

import (
	"maps"
	"slices"

	"spillway"
)

// All calls fn for each partition, in order of topic and partition.
func (p PartitionOffsets) All(fn func(tp spillway.TopicPartition, o spillway.Offset)) {
	for _, topic := range slices.Sorted(maps.Keys(p)) {
		for i, o := range p[topic] {
			fn(spillway.TopicPartition{Topic: topic, Partition: int32(i)}, o)
		}
	}
}

// Clone copies it.
func (p PartitionOffsets) Clone() PartitionOffsets {
	if p == nil {
		return nil
	}
	c := PartitionOffsets{}
	for t, offs := range p {
		c[t] = slices.Clone(offs)
	}
	return c
}

// Exceeded finds a partition of p at which ends lie beyond it.
func (p PartitionOffsets) Exceeded(ends PartitionOffsets) (at spillway.TopicPartition, by int64, exceeded bool) {
	p.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		if end := ends.Get(tp); o >= 0 && end > o && !exceeded {
			at, by, exceeded = tp, int64(end-o), true
		}
	})
	return at, by, exceeded
}

// Reach tells whether p is at or above want everywhere.
func (p PartitionOffsets) Reach(want PartitionOffsets) bool {
	_, _, ok := p.reaches(want)
	return ok
}

// reaches tells whether p is at or above want everywhere, and if not, where not.
func (p PartitionOffsets) reaches(want PartitionOffsets) (missing spillway.TopicPartition, by int64, ok bool) {
	ok = true
	want.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		if have := p.Get(tp); have < o && ok {
			missing, by, ok = tp, int64(o-max(have, 0)), false
		}
	})
	return missing, by, ok
}

// longest finds the longest verified end of each partition, and who has it.
// Sites are asked in the given order, so the first with the longest wins.
func longest(order []spillway.SiteID, ends map[spillway.SiteID]PartitionOffsets) (PartitionOffsets, map[string][]spillway.SiteID) {
	prefix, site := PartitionOffsets{}, map[string][]spillway.SiteID{}
	for _, s := range order {
		ends[s].All(func(tp spillway.TopicPartition, o spillway.Offset) {
			if o < 0 || o <= prefix.Get(tp) {
				return
			}
			prefix.Set(tp, o)
			for int(tp.Partition) >= len(site[tp.Topic]) {
				site[tp.Topic] = append(site[tp.Topic], "")
			}
			site[tp.Topic][tp.Partition] = s
		})
	}
	return prefix, site
}

// above is the larger of the two, partition by partition.
func above(a, b PartitionOffsets) PartitionOffsets {
	m := a.Clone()
	if m == nil {
		m = PartitionOffsets{}
	}
	b.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		if o > m.Get(tp) {
			m.Set(tp, o)
		}
	})
	return m
}

// lossBetween bounds how many records lie beyond the prefix: at most what was
// reserved, and at least that without the block reserved ahead of use. base is
// where offsets begin: no survivor may know of a partition that is new.
func lossBetween(prefix, reserved PartitionOffsets, base spillway.Offset, block int64) (least, most int64) {
	reserved.All(func(tp spillway.TopicPartition, end spillway.Offset) {
		missing := int64(end - max(prefix.Get(tp), base))
		most += max(0, missing)
		least += max(0, missing-block)
	})
	return least, most
}
