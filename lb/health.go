package lb

import (
	"fmt"
	"math/bits"
	"time"
)

// Outliers says which targets are left out for a time. All fields have defaults.
type Outliers struct {
	// Consecutive failures eject a target; default 5.
	Consecutive int
	// FailedShare of the picks within Interval ejects it too, if there were at least
	// PicksMin of them; defaults 0.5, 10 s and 20.
	FailedShare float64
	Interval    time.Duration
	PicksMin    int
	// LatencyMax: what takes longer counts as failed; 0: no limit.
	LatencyMax time.Duration
	// EjectFor is how long a target stays out at first, up to a fifth less by chance,
	// so that balancers do not come back to it together; each ejection that follows
	// soon is longer by as much, up to EjectMax. Defaults 5 s and 60 s.
	EjectFor time.Duration
	EjectMax time.Duration
	// ShareMax of the targets that are up may be out at a time, at least one where
	// there are two, and never all; default 0.5.
	ShareMax float64
}

func (o *Outliers) setDefaults() {
	def(&o.Consecutive, 5)
	def(&o.FailedShare, 0.5)
	def(&o.Interval, 10*time.Second)
	def(&o.PicksMin, 20)
	def(&o.EjectFor, 5*time.Second)
	def(&o.EjectMax, 60*time.Second)
	def(&o.ShareMax, 0.5)
}

func def[T int | float64 | time.Duration](v *T, to T) {
	if *v <= 0 {
		*v = to
	}
}

// health is what is known of a target's answers.
type health struct {
	row          int           // failures since the last success
	interval     time.Duration // when the present interval began
	done, failed int           // in it
	until        time.Duration // end of the ejection
	times        int           // ejections lately
}

// Outcome is what became of a pick.
type Outcome int

// Outcomes.
const (
	// Unknown says nothing of the target: the caller gave up, or did not use it.
	Unknown Outcome = iota
	Succeeded
	Failed
)

// Ejection tells that a target is left out from now on.
type Ejection struct {
	Target int
	For    time.Duration
	Why    string
}

// Done ends a pick that took so long. It returns an ejection where this one was too
// much (true).
func (b *Balancer) Done(now time.Duration, target int, outcome Outcome, took time.Duration) (Ejection, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &b.targets[target]
	t.inFlight--
	if outcome == Unknown {
		return Ejection{}, false
	}
	late := b.outliers.LatencyMax > 0 && took > b.outliers.LatencyMax
	if outcome == Succeeded {
		b.note(now, t, took)
	}
	if now-t.interval >= b.outliers.Interval {
		if t.done > 0 && t.failed == 0 && t.times > 0 {
			t.times--
		}
		t.interval, t.done, t.failed = now, 0, 0
	}
	t.done++
	if outcome == Succeeded && !late {
		t.row = 0
		return Ejection{}, false
	}
	t.failed++
	t.row++
	if b.ejected.Has(target) {
		return Ejection{}, false
	}
	var why string
	switch o := &b.outliers; {
	case t.row >= o.Consecutive:
		why = fmt.Sprintf("%d failures in a row", t.row)
	case t.done >= o.PicksMin && float64(t.failed) >= o.FailedShare*float64(t.done):
		why = fmt.Sprintf("%d of %d failed within %s", t.failed, t.done, o.Interval)
	default:
		return Ejection{}, false
	}
	if late {
		why += fmt.Sprintf(", the last one took more than %s", b.outliers.LatencyMax)
	}
	return b.eject(now, target, why)
}

// eject leaves a target out, if that is not one too many (B).
func (b *Balancer) eject(now time.Duration, target int, why string) (Ejection, bool) {
	b.readmit(now)
	up := bits.OnesCount64(uint64(b.up))
	most := min(max(int(b.outliers.ShareMax*float64(up)), 1), up-1)
	if !b.up.Has(target) || bits.OnesCount64(uint64(b.ejected&b.up)) >= most {
		return Ejection{}, false
	}
	t := &b.targets[target]
	t.times++
	length := min(time.Duration(t.times)*b.outliers.EjectFor, b.outliers.EjectMax)
	length -= time.Duration(unit(b.random()) * float64(length) / 5)
	t.row, t.done, t.failed, t.until = 0, 0, 0, now+length
	b.ejected |= Of(target)
	b.warming &^= Of(target)
	return Ejection{Target: target, For: length, Why: why}, true
}

// readmit takes back the targets whose ejection is over.
func (b *Balancer) readmit(now time.Duration) {
	for s := uint64(b.ejected); s != 0; s &= s - 1 {
		if i := bits.TrailingZeros64(s); now >= b.targets[i].until {
			b.ejected &^= Of(i)
			b.start(now, i)
		}
	}
}

// Verdict takes the control loop's word that a target is up or down. One that comes
// up begins anew: how it answered before says nothing any more.
func (b *Balancer) Verdict(now time.Duration, target int, up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.up.Has(target) == up {
		return
	}
	b.ejected &^= Of(target)
	if !up {
		b.up &^= Of(target)
		b.warming &^= Of(target)
		return
	}
	b.up |= Of(target)
	t := &b.targets[target]
	t.health = health{interval: now}
	t.latency = 0
	b.start(now, target)
}

// start begins a slow start.
func (b *Balancer) start(now time.Duration, target int) {
	if b.slowStart > 0 {
		b.targets[target].warm = now
		b.warming |= Of(target)
	}
}

// slowStartMin is the share of its picks that a target gets at once, as in Envoy.
const slowStartMin = 0.1

// admit leaves targets in slow start out of some picks (D). Which ones depends on the
// key where there is one, so that each key comes back once.
func (b *Balancer) admit(now time.Duration, hash uint64, free Set) Set {
	admitted := free
	for s := uint64(free & b.warming); s != 0; s &= s - 1 {
		i := bits.TrailingZeros64(s)
		t := &b.targets[i]
		share := slowStartMin + (1-slowStartMin)*float64(now-t.warm)/float64(b.slowStart)
		if share >= 1 {
			b.warming &^= Of(i)
			continue
		}
		chance := hash ^ bits.RotateLeft64(t.hash, 32) // not the one that decides about the key
		if b.policy != KeyAffinity {
			chance = b.random()
		}
		if unit(mix(chance)) >= share {
			admitted &^= Of(i)
		}
	}
	if admitted == 0 {
		return free
	}
	return admitted
}
