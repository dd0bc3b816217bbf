package failover

import "spillway"

// roomFrom is how many partitions a group must have for its record to be reckoned: smaller
// ones always fit.
const roomFrom = 2000

// room refuses a move whose record would become too large for the coordinator store, before
// anything is held. A failover is refused only where it could not be over: it is tried
// with the differences that offsets have at least, a switchover with much larger ones, so
// that the share can be given back, and fail over, from where it goes.
//
// The record knows partitions only since it moved, and not those that were created later:
// sites say how many there are.
func room(share Share, kind Kind, target spillway.SiteID, view View, limits Limits) error {
	partitions := share.partitions()
	n := 0
	partitions.All(func(spillway.TopicPartition, spillway.Offset) { n++ })
	for _, site := range limits.Group.Sites {
		f := view.Sites[site].Following
		if f == nil {
			continue
		}
		if unknown := f.Partitions - n; unknown > 0 && f.Partitions >= roomFrom {
			// Nothing is known of where they end: as if they were at the beginning.
			n, partitions[unknownTopic] = f.Partitions, make([]spillway.Offset, unknown+len(partitions[unknownTopic]))
		}
	}
	if n < roomFrom {
		return nil
	}
	bits := 30
	if kind == Failover {
		bits = 7
	}
	if size := share.largest(partitions, target, bits, limits.Group.OffsetBase); size > RecordBytesMax {
		return refuse("the record of share %s would have about %d KB in this move, and at most %d KB go through a transaction of the coordinator store: its %d partitions are too many for one failover group; take topics out of it into another one", share.ID(), size>>10, RecordBytesMax>>10, n)
	}
	return nil
}

// unknownTopic stands for the partitions of which only the number is known: no topic is
// called so.
const unknownTopic = "?"

// partitions are those that the record knows, with the highest offset of each.
func (s Share) partitions() PartitionOffsets {
	all := PartitionOffsets{}
	for _, list := range s.lists() {
		all = above(all, *list)
	}
	return all
}

// largest is the size of the record where a failover makes it largest: when the new epoch
// is about to open, and when it has. Each partition has moved on by up to 2^bits records
// since, and may lose up to a 2^(bits/2).
func (s Share) largest(partitions PartitionOffsets, target spillway.SiteID, bits int, base spillway.Offset) int {
	next := s
	next.Kind, next.Target, next.Epoch, next.State = Failover, target, s.Epoch+1, CaughtUp
	next.Prefix, next.Start, next.PrefixSite = PartitionOffsets{}, PartitionOffsets{}, map[string][]spillway.SiteID{}
	random := uint64(1)
	for topic := range partitions {
		next.PrefixSite[topic] = make([]spillway.SiteID, len(partitions[topic]))
	}
	partitions.All(func(tp spillway.TopicPartition, o spillway.Offset) {
		random = random*6364136223846793005 + 1442695040888963407
		prefix := o + spillway.Offset(random>>(64-bits))
		next.Prefix.Set(tp, prefix)
		next.Start.Set(tp, prefix+spillway.Offset(random<<bits>>(64-bits/2)))
		next.PrefixSite[tp.Topic][tp.Partition] = target
	})
	size := len(next.EncodeBeside())
	next.Terms = append(append([]Term{}, s.Terms...), Term{Epoch: next.Epoch, Site: target, Mask: 1 << 60, Start: next.Start, Verified: next.Prefix, Lossy: true})
	return max(size, len(next.trim(base).EncodeBeside()))
}
