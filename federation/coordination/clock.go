package coordination

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock reads the time for leases.
type Clock interface{ Now() Instant }

// Instant is one reading of all clocks. CLOCK_MONOTONIC, which time.Time
// carries, does not count while the machine is suspended; CLOCK_BOOTTIME does.
type Instant struct {
	Time time.Time     // wall and monotonic
	Boot time.Duration // CLOCK_BOOTTIME; 0 where there is none
}

// SystemClock reads the machine's clocks.
type SystemClock struct{}

// Now reads them.
func (SystemClock) Now() Instant {
	now := Instant{Time: time.Now()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		now.Boot = time.Duration(ts.Nano())
	}
	return now
}

// GoClock reads only Go's clock, which testing/synctest can replace.
type GoClock struct{}

// Now reads it.
func (GoClock) Now() Instant { return Instant{Time: time.Now()} }

// Longest is the time from i to later by the clock that went further: for the
// holder of a lease.
func (i Instant) Longest(later Instant) time.Duration {
	return max(later.Time.Sub(i.Time), later.Boot-i.Boot)
}

// Shortest is the time from i to later by the clock that went less far: for
// those who wait.
func (i Instant) Shortest(later Instant) time.Duration {
	mono := later.Time.Sub(i.Time)
	if i.Boot == 0 || later.Boot == 0 {
		return mono
	}
	return min(mono, later.Boot-i.Boot)
}

// jumped tells whether the wall clock and the monotonic clock disagree.
func (i Instant) jumped(later Instant) bool {
	wall := later.Time.Round(0).Sub(i.Time.Round(0))
	diff := wall - later.Time.Sub(i.Time)
	return diff > jumpMax || diff < -jumpMax
}
