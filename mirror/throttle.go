package mirror

import (
	"time"

	"spillway"
)

// throttled is what a lane knows of a broker that asks for pauses, since the mirror's
// principal has a quota there. Pure.
//
//	A  nothing is sent before the pause is over
//	B  requests become so small that the pauses that they bring are short: what else
//	   the mirror writes at this site, its map above all, shares the quota and waits too
//	C  it is forgotten when it has not asked for pauses lately
type throttled struct {
	until    time.Time // nothing is sent before
	bytesMax int       // of one request; 0: no bound
}

const (
	// pauseAim is how long a pause should be at most.
	pauseAim = time.Second
	// throttledFor is how long a broker counts as one that throttles, behind the pause.
	throttledFor = 15 * time.Second
	// throttledBytesMin is what a request may always have; a batch that is larger goes alone.
	throttledBytesMin = 64 << 10
	// throttledBytesMax is where a bound is none any more.
	throttledBytesMax = 64 << 20
)

// answered takes the answer to a request of so many bytes.
func (t *throttled) answered(bytes int, pause time.Duration, now time.Time) {
	if pause <= 0 {
		if t.bytesMax *= 2; t.bytesMax > throttledBytesMax {
			t.bytesMax = 0
		}
		return
	}
	t.until = now.Add(pause)
	if fits := int(float64(bytes) * float64(pauseAim) / float64(pause)); pause > pauseAim || t.bytesMax > 0 {
		if t.bytesMax > 0 {
			fits = min(fits, 2*t.bytesMax)
		}
		t.bytesMax = max(throttledBytesMin, fits)
	}
}

// lately tells whether the broker throttles these days.
func (t *throttled) lately(now time.Time) bool {
	return t != nil && now.Before(t.until.Add(throttledFor))
}

// quiet is until when nothing is sent to the leader of a partition at the target; the zero
// time where nothing is known of that.
func (t *target) quiet(tp spillway.TopicPartition, now time.Time) (until time.Time, lately bool) {
	node, known := t.leads[tp]
	if !known || !t.throttled[node].lately(now) {
		return time.Time{}, false
	}
	return t.throttled[node].until, true
}

// answered notes what an answer of a broker of the target asks for.
func (t *target) answered(node int32, bytes int, pause time.Duration, now time.Time) {
	if t.throttled[node] == nil {
		if pause <= 0 {
			return
		}
		t.throttled[node] = &throttled{}
	}
	t.throttled[node].answered(bytes, pause, now)
	if pause <= 0 && !t.throttled[node].lately(now) {
		delete(t.throttled, node)
	}
}

// park puts those plans aside whose broker at the target wants a pause, so that nobody
// waits for it: the partitions of other brokers go on. They are taken up by unpark.
func (l *lane) park(plans []*planned) []*planned {
	now := time.Now()
	kept := plans[:0]
	for _, p := range plans {
		if until, _ := l.target.quiet(p.TopicPartition, now); now.Before(until) {
			p.saved = true
			l.holdAlone(p)
			l.parked[p.TopicPartition] = p
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// unpark returns the plans whose pause is over.
func (l *lane) unpark() (due []*planned) {
	now := time.Now()
	for tp, p := range l.parked {
		if until, _ := l.target.quiet(tp, now); !now.Before(until) {
			delete(l.parked, tp)
			due = append(due, p)
		}
	}
	return due
}

// quiet is until when a partition is not asked for because its broker at the target wants
// a pause. One that throttles gets nothing asked ahead for it: it would be dropped when
// the plan before it has to wait.
func (l *lane) quiet(tp spillway.TopicPartition, ahead bool, now time.Time) (until time.Time, yes bool) {
	until, lately := l.target.quiet(tp, now)
	if l.parked[tp] != nil || now.Before(until) || lately && ahead {
		return until, true
	}
	return until, false
}

// sourceThrottles notes a pause that the source wants since its answer came, which may
// have lain for a while: the lane asks for nothing before it is over.
func (l *lane) sourceThrottles(pause time.Duration, since time.Time) {
	if pause <= 0 {
		return
	}
	l.sourceQuiet = since.Add(pause)
	l.m.events.throttled(ThrottleInfo{Site: l.flow.source.site, Node: l.node, Pause: pause})
}
