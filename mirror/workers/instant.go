package workers

import (
	"math"
	"time"
)

// Instant is one reading of all clocks of a machine. CLOCK_MONOTONIC does not count while
// the machine is suspended; CLOCK_BOOTTIME does. The zero Instant is long before all
// others.
type Instant struct {
	Wall time.Time     // without a monotonic part
	Mono time.Duration // CLOCK_MONOTONIC, from any point
	Boot time.Duration // CLOCK_BOOTTIME; 0 where there is none
}

// jumpMax is how far the wall clock may move against the monotonic one before neither is
// believed: the machine may have stood still without any clock counting. It is no more
// than the margin of Limits.
const jumpMax = time.Second

// longest is the time from i to later by the clock that went further: for who may act.
func (i Instant) longest(later Instant) time.Duration {
	if i == (Instant{}) {
		return math.MaxInt64
	}
	return max(later.Mono-i.Mono, later.Boot-i.Boot)
}

// shortest is the time from i to later by the clock that went less far: for who waits
// until another one does not act.
func (i Instant) shortest(later Instant) time.Duration {
	switch {
	case i == Instant{}:
		return math.MaxInt64
	case i.Boot == 0 || later.Boot == 0:
		return later.Mono - i.Mono
	}
	return min(later.Mono-i.Mono, later.Boot-i.Boot)
}

// jumped tells whether the wall clock and the monotonic one disagree.
func (i Instant) jumped(later Instant) bool {
	if i == (Instant{}) {
		return false
	}
	diff := later.Wall.Sub(i.Wall) - (later.Mono - i.Mono)
	return diff > jumpMax || diff < -jumpMax
}
