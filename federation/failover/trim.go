package failover

import (
	"slices"

	"spillway"
)

// trim drops the offsets of older terms: a store takes only so much in one value.
// The history of each move keeps them, and was written before the next move began;
// mirrors read them there. Kept are those of the newest term and of the newest that
// lost something. Of what failovers burnt, gateways need what has nothing below it:
// that is kept apart, once for each partition.
func (s Share) trim(base spillway.Offset) Share {
	s.Burnt = s.Burnt.Clone()
	s.Terms = slices.Clone(s.Terms)
	lossy := -1
	for i, t := range s.Terms {
		if !t.Lossy || t.Trimmed {
			continue
		}
		lossy = i
		t.Start.All(func(tp spillway.TopicPartition, start spillway.Offset) {
			below := max(base, s.Burnt.Get(tp))
			if t.Verified.Get(tp) <= below && start > below {
				if s.Burnt == nil {
					s.Burnt = PartitionOffsets{}
				}
				s.Burnt.Set(tp, start)
			}
		})
	}
	for i := range s.Terms[:len(s.Terms)-1] {
		if t := &s.Terms[i]; i != lossy && (t.Start != nil || t.Verified != nil) {
			t.Start, t.Verified, t.Trimmed = nil, nil, true
		}
	}
	return s
}
