// Package lag says how much of what the active site has appended no other site has, and
// what becomes of producers for it, where acknowledgements wait for one site only
// (ack.sites 1, ack.onLag). Pure: no clock, no network. It knows nothing of requests.
//
// What counts is the site that has most of a partition: a failover begins with the longest
// prefix that any survivor has.
//
//	A  an age is never too low for what was appended since the Track began, and too high by
//	   a 64th of the limit at most, or by a 32nd of itself where it is twice the limit
//	B  what is kept of a partition has a bound, however far the others are behind
//	C  what an acknowledgement waits for only rises with time, and never above its own end
package lag

import (
	"math"
	"slices"
	"time"

	"spillway"
)

// Lag is what no other site has.
type Lag struct {
	Records int64
	Age     time.Duration // since the oldest of them was appended
	// Drain is how long the mirrors would take for them, as fast as they were lately.
	Drain time.Duration
}

// Limits are those of one partition. 0: there is none.
type Limits struct {
	OnLag   string
	Age     time.Duration
	Records int64
}

// Of a failover group. ok: false where no acknowledgement can ever go ahead of
// the other sites, or there are none; and of siblings, which gateways write to that
// do not lead them: none of these knows all that was appended.
func Of(g spillway.FailoverGroup) (l Limits, ok bool) {
	return Limits{OnLag: g.Ack.OnLag, Age: g.Ack.LagMax, Records: g.Ack.LagRecordsMax}, g.Ack.Sites <= 1 && len(g.Sites) > 1 && g.Siblings.Of == ""
}

// Pressure is 1 at the limit that is nearest.
func (l Limits) Pressure(at Lag) float64 {
	var p float64
	if l.Age > 0 {
		p = float64(at.Age) / float64(l.Age)
	}
	if l.Records > 0 {
		p = max(p, float64(at.Records)/float64(l.Records))
	}
	return p
}

// Beyond tells whether the limits are passed.
func (l Limits) Beyond(at Lag) bool { return l.Pressure(at) > 1 }

// Slows tells whether producers are answered late so that they will not be.
func (l Limits) Slows(at Lag) bool { return l.OnLag == spillway.OnLagThrottle && l.Delay(at) > 0 }

const (
	// DelayMax is how late an answer may be because of a lag. The time that the request
	// itself allows bounds it too.
	DelayMax = 15 * time.Second
	// throttleFrom is the pressure at which delays begin.
	throttleFrom = 0.5
	// youngest is the part of the limit in time below which the time that mirrors would
	// take is no reason: after a quiet while a burst looks long, as the rate is that of
	// the little that there was.
	youngest = 0.1
)

// Delay is how late a producer is answered. It rises smoothly from half of the limit on
// and is longest at the limit. As a producer has a bounded number of requests
// unanswered, its rate falls with it, so the lag comes to rest between half of the limit
// and the limit, where producers write what the mirrors carry. What counts in time is
// Drain and not Age: an age tells of what was written so long ago, and rates that
// follow it swing. The longest delay is at most half of the limit in time.
func (l Limits) Delay(at Lag) time.Duration {
	longest := DelayMax
	if l.Age > 0 {
		longest = min(longest, l.Age/2)
	}
	if float64(at.Age) < youngest*float64(l.Age) {
		at.Drain = 0
	}
	pressure := l.Pressure(Lag{Records: at.Records, Age: at.Drain})
	x := min(max(0, (pressure-throttleFrom)/(1-throttleFrom)), 1)
	return time.Duration(float64(longest) * x * x)
}

// Track follows one partition through one term.
type Track struct {
	end     spillway.Offset // of the newest append
	marked  spillway.Offset // all below is at another site, or is not counted
	known   bool            // marked is what another site said
	first   spillway.Offset // end of the first append that was seen
	risen   time.Time       // when end last rose, or was asked for
	appends []appended      // oldest first, ends rise; all beyond marked
	step    time.Duration   // appends of so long are one
	least   time.Duration   // step, while there are few

	rate   float64 // records a second that come to the others while they lack some; 0: not known
	memory time.Duration
	since  time.Time // they lack some, and the rate does not count what came since
	from   spillway.Offset
}

type appended struct {
	end spillway.Offset
	at  time.Time // of the first append in it
}

const (
	appendsMax = 128
	// Where no time is the limit:
	stepDefault   = 500 * time.Millisecond
	memoryDefault = 5 * time.Second
)

// NewTrack counts from start on, until another site says how far it is.
func NewTrack(l Limits, start spillway.Offset) *Track {
	t := &Track{end: start, marked: start, least: stepDefault, memory: memoryDefault}
	if l.Age > 0 {
		t.least, t.memory = l.Age/64, l.Age/4
	}
	t.step = t.least
	return t
}

// Append notes that the site has all below end. Late news are none.
func (t *Track) Append(end spillway.Offset, now time.Time) {
	if end <= t.end {
		return
	}
	if t.risen.IsZero() {
		t.first = end
	}
	t.risen = now
	if end <= t.marked { // the others had it before it was answered here
		t.end = end
		return
	}
	if t.end <= t.marked {
		t.since, t.from = now, t.marked
	}
	t.end = end
	if n := len(t.appends); n > 0 && now.Sub(t.appends[n-1].at) < t.step {
		t.appends[n-1].end = end
		return
	}
	if len(t.appends) >= appendsMax {
		t.thin()
	}
	t.appends = append(t.appends, appended{end, now})
}

// lateMax is how much later than those behind it an append is noted.
const lateMax = 15 * time.Second

// Doubts tells, once in lateMax, whether the log may be shorter than it was: its topic was
// made anew, or records were lost there. Most of such batches came again.
func (t *Track) Doubts(end spillway.Offset, now time.Time) bool {
	if end >= t.end || now.Sub(t.risen) < lateMax {
		return false
	}
	t.risen = now
	return true
}

// Cut notes that the site had nothing from end on, when it was asked at that time. What was
// appended since says that this is over.
func (t *Track) Cut(end spillway.Offset, asked time.Time) {
	if t.risen.After(asked) {
		return
	}
	t.end = min(t.end, end)
	if i := slices.IndexFunc(t.appends, func(a appended) bool { return a.end >= end }); i >= 0 {
		t.appends[i].end = end
		t.appends = t.appends[:i+1]
	}
	t.forget()
}

// forget what another site has.
func (t *Track) forget() {
	i := 0
	for i < len(t.appends) && t.appends[i].end <= t.marked {
		i++
	}
	if t.appends = slices.Delete(t.appends, 0, i); len(t.appends) == 0 {
		t.step = t.least
	}
}

// thin makes one of every two, which is as old as the older.
func (t *Track) thin() {
	kept := t.appends[:0]
	for i := 0; i < len(t.appends); i += 2 {
		kept = append(kept, appended{t.appends[min(i+1, len(t.appends)-1)].end, t.appends[i].at})
	}
	t.appends, t.step = kept, 2*t.step
}

// Mark notes how far the site is that has most. A negative one is no news: a mirror that
// begins anew says nothing at first, and what was there is there. A lower one than before
// is believed: records were lost there. The first mark, and those that lie before the
// first append that was seen, tell of no rate: what they leap over came long ago.
func (t *Track) Mark(end spillway.Offset, now time.Time) {
	if end < 0 || end == t.marked && t.known {
		return
	}
	if lost := min(t.marked, t.end); end < lost {
		a := appended{lost, now}
		if len(t.appends) > 0 {
			a.at = t.appends[0].at // at least as old as what came behind it
		}
		t.appends = slices.Insert(t.appends, 0, a)
	}
	leap := !t.known || t.marked < t.first || end < t.marked
	t.marked, t.known = end, true
	if leap {
		t.since, t.from = now, end
	} else {
		t.measure(now)
	}
	t.forget()
}

// measure takes what came lately into the rate, which forgets what is older than memory.
func (t *Track) measure(now time.Time) {
	took := now.Sub(t.since)
	if took < t.memory/measures && t.marked < t.end || took <= 0 {
		return
	}
	lately := float64(t.marked-t.from) / took.Seconds()
	if t.rate == 0 {
		t.rate = lately
	}
	old := math.Exp(-float64(took) / float64(t.memory))
	t.rate = old*t.rate + (1-old)*lately
	t.since, t.from = now, t.marked
}

// measures is how many there are in the memory of a rate.
const measures = 16

// drain is how long the others take for records. Where they had none for longer than
// between two measures, their rate is what it would be if they got the next ones now.
func (t *Track) drain(records int64, now time.Time) time.Duration {
	rate := t.rate
	if still := now.Sub(t.since); still > t.memory/measures {
		old := math.Exp(-float64(still) / float64(t.memory))
		rate = old*rate + (1-old)*float64(t.marked-t.from)/still.Seconds()
	}
	if seconds := float64(records) / rate; seconds < drainMax.Seconds() {
		return time.Duration(seconds * float64(time.Second))
	}
	return drainMax
}

const drainMax = 24 * time.Hour

// Marked is the offset below which another site has everything.
func (t *Track) Marked() spillway.Offset { return t.marked }

// Lag at a moment.
func (t *Track) Lag(now time.Time) Lag {
	if t.end <= t.marked {
		return Lag{}
	}
	at := Lag{Records: int64(t.end - t.marked)}
	if len(t.appends) > 0 {
		at.Age = max(0, now.Sub(t.appends[0].at))
	}
	if at.Drain = at.Age; t.rate > 0 {
		at.Drain = t.drain(at.Records, now)
	}
	return at
}

// Needs is how far another site has to be, so that the limits allow a batch that ends at
// end to be acknowledged now.
func (t *Track) Needs(l Limits, end spillway.Offset, now time.Time) spillway.Offset {
	need := spillway.Offset(-1)
	if l.Records > 0 {
		need = end - spillway.Offset(l.Records)
	}
	if l.Age > 0 {
		for _, a := range t.appends {
			if now.Sub(a.at) < l.Age {
				break
			}
			need = max(need, min(a.end, end))
		}
	}
	return need
}
