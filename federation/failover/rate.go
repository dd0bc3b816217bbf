package failover

import (
	"slices"
	"time"
)

// Bounds of how many failovers a record knows the times of: more than the rate limit asks
// for, so that it may be raised.
const (
	failoversLeast = 16
	failoversMost  = 128
)

// failoversKept is how many failovers a record keeps for a rate limit.
func failoversKept(perHourMax int) int { return min(max(perHourMax, failoversLeast), failoversMost) }

// failovers are when unplanned moves of a share that stands still, or is about to, ended.
// A record of a version that did not keep them tells only how many there were, and that
// none ended later than the last move: they count as if all had ended then, so that the
// rate limit holds over an upgrade. For an hour after the last move it may be stricter
// than it should; a person can move the share all the same.
func (s Share) failovers() []time.Time {
	if s.Failovers != nil {
		return s.Failovers
	}
	lossy := 0
	for _, t := range s.Terms {
		if t.Lossy {
			lossy++
		}
	}
	return slices.Repeat([]time.Time{s.Since}, min(lossy, failoversMost))
}

// FailoversAfter counts the unplanned moves that ended after a time, and those of
// automation that were given up.
func (s Share) FailoversAfter(after time.Time) int {
	n := 0
	for _, ended := range s.failovers() {
		if ended.After(after) {
			n++
		}
	}
	return n
}

// counted adds the move that has just ended to the failovers of the record, if it is one.
func (s Share) counted(limits Limits) Share {
	if s.Failovers != nil && s.Kind == Failover {
		return s.withFailover(limits)
	}
	return s.withFailovers(s.failovers(), limits) // it is among those of the terms
}

// withFailover adds one that has just ended, or was given up though automation began it:
// sites that come and go would make it begin others without end.
func (s Share) withFailover(limits Limits) Share {
	return s.withFailovers(append(slices.Clone(s.failovers()), s.Since), limits)
}

func (s Share) withFailovers(ended []time.Time, limits Limits) Share {
	s.Failovers = append([]time.Time{}, ended[max(0, len(ended)-failoversKept(limits.Group.Failover.PerHourMax)):]...)
	return s
}
