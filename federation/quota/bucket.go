package quota

import "time"

// Bounds.
const (
	// BurstDefault is how much of its rate a holder may save up: the window of Kafka's own
	// quotas (quota.window.num 11 of one second, of which ten are full).
	BurstDefault = 10 * time.Second
	// PauseMax is the longest pause that is asked for at a time. A request that was sent
	// before its client was told lies unread for as long, and must be answered within the
	// 30 s after which clients give it up and send it again.
	PauseMax = 10 * time.Second
	// DebtMax is the most that is remembered of what a holder owes: so much of its rate.
	DebtMax = 5 * time.Minute
)

// bucket is one rate. What it holds may be used; below zero it is owed.
type bucket struct {
	rate  float64 // a second; 0: there is no limit
	burst float64 // the most that it holds
	holds float64
	at    time.Time // when that was counted
}

func newBucket(rate int64, burst time.Duration, now time.Time) bucket {
	most := max(float64(rate)*burst.Seconds(), 1) // else nothing could ever be taken
	return bucket{rate: float64(rate), burst: most, holds: most, at: now}
}

// fill counts what came in since the last time. A clock that goes back brings nothing.
func (b *bucket) fill(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.holds, b.at = min(b.holds+b.rate*passed.Seconds(), b.burst), now
	}
}

// charge takes what was used, whether it is there or not.
func (b *bucket) charge(amount int64, now time.Time) {
	b.fill(now)
	b.holds = max(b.holds-float64(amount), -b.rate*DebtMax.Seconds())
}

// take takes one, if it is there.
func (b *bucket) take(now time.Time) bool {
	if b.fill(now); b.holds < 1 {
		return false
	}
	b.holds--
	return true
}

// roundingSeconds: what comes in so soon is owed by the rounding of sums alone. 15 a second for
// 8.2 s are a little less than 123.
const roundingSeconds = 1e-6

// pause is how long until nothing is owed: whole milliseconds, since that is what clients
// are told, and upwards, or something would be owed still when they come again.
func (b *bucket) pause() time.Duration {
	if b.holds >= -b.rate*roundingSeconds {
		return 0
	}
	owed := min(-b.holds/b.rate*1000, float64(PauseMax.Milliseconds()))
	millis := int64(owed)
	if float64(millis) < owed {
		millis++
	}
	return time.Duration(millis) * time.Millisecond
}

func (b *bucket) full() bool { return b.holds >= b.burst }
