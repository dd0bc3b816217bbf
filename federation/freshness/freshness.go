// Package freshness says how old what a standby has is, from questions to the site that
// serves how far it is, and from the standby's durable marks. It is pure: it reads no clock
// and knows neither clients nor networks.
//
// Invariants, cited by letter in tests:
//
//	A  an age is never too low: that long ago the standby had, or has got since, all that
//	   the active site had then. It may be too high by the time between two questions
//	B  what is not known is not fresh
//	C  a standby that was too old is taken for fresh again only once it has been well within
//	   the limit for as long as the limit is, so that clients are not sent to and fro
//	D  where the active site ended below the mark, asked when the mark was there already, it has
//	   lost records that the standby has: nothing is known of the standby any more until its
//	   mirror has marked in a newer append session, for which it has compared the two
package freshness

import (
	"time"

	"spillway"
)

// State is what is made of an age.
type State int

// States of a standby.
const (
	Unknown State = iota // nothing is known yet, or not for long that it lacks something
	Fresh
	Stale // older than allowed, or it was lately
)

// pointsMax bounds how many answers are remembered that the standby has not reached.
const pointsMax = 64

// Behind is how far a standby is behind the active site.
type Behind struct {
	Records int64         // virtual offsets that it lacks, holes included, of those that were there at the last answer
	Age     time.Duration // see invariant A
	Known   bool
}

// Track follows one partition at one standby through one term.
type Track struct {
	session int64           // the append session of the mark
	said    spillway.Offset // the highest mark of the session
	since   time.Time       // of said
	lost    bool            // the active site has lost records since (D)

	mark   spillway.Offset // as far as it is known what lies below
	first  time.Time       // of the first answer, or since records were lost
	proven time.Time       // when the active site had nothing that the standby lacks now; zero: not known
	newest point           // the newest answer
	ahead  []point         // answers that the standby has not reached, ascending in time

	state State
	near  time.Time // while Stale: since when the age has been well within the limit
}

// point is an answer of the active site.
type point struct {
	asked time.Time
	end   spillway.Offset
}

// Answer takes where the active site ended. asked is from before the question.
func (t *Track) Answer(end spillway.Offset, asked time.Time) {
	if !asked.After(t.newest.asked) {
		return
	}
	if t.newest = (point{asked, end}); t.first.IsZero() {
		t.first = asked
	}
	if end < t.said && asked.After(t.since) {
		t.lost = true // D
	}
	if end <= t.mark {
		t.proven, t.ahead = asked, t.ahead[:0]
		return
	}
	if len(t.ahead) == pointsMax { // what is forgotten makes ages higher, never lower
		kept := t.ahead[:0]
		for i, p := range t.ahead {
			if i%2 == 0 {
				kept = append(kept, p)
			}
		}
		t.ahead = kept
	}
	t.ahead = append(t.ahead, t.newest)
}

// Mark takes the standby's durable mark, and how much of what lies below is known: a map
// that hangs makes the standby old, as a mirror does. A mark that falls tells that the standby
// has lost records: what was proven before is not true any more.
func (t *Track) Mark(session int64, said, known spillway.Offset, now time.Time) {
	switch {
	case session > t.session:
		t.session, t.said, t.since, t.lost = session, said, now, false
	case session < t.session:
		return // late
	case said > t.said:
		t.said, t.since = said, now
	}
	mark := min(said, known)
	fell := mark < t.mark
	t.mark = mark
	if fell {
		t.first, t.proven, t.ahead = t.newest.asked, time.Time{}, t.ahead[:0]
		if t.newest.end > mark {
			t.ahead = append(t.ahead, t.newest)
		}
	}
	reached := 0
	for i, p := range t.ahead {
		if p.end <= mark {
			t.proven, reached = p.asked, i+1
		}
	}
	t.ahead = append(t.ahead[:0], t.ahead[reached:]...)
}

// Answered tells whether the active site was asked how far it is.
func (t *Track) Answered() bool { return !t.newest.asked.IsZero() }

// Lost tells whether the active site has lost records that the standby has (D).
func (t *Track) Lost() bool { return t.lost }

// Behind tells how far the standby is behind.
func (t *Track) Behind(now time.Time) Behind {
	if t.proven.IsZero() || t.lost {
		return Behind{Records: max(0, int64(t.newest.end-t.mark))}
	}
	return Behind{Records: max(0, int64(t.newest.end-t.mark)), Age: now.Sub(t.proven), Known: true}
}

// Ended is where the active site ended when it was asked last, and when that was.
func (t *Track) Ended() (end spillway.Offset, asked time.Time) { return t.newest.end, t.newest.asked }

// Judge tells what the standby is good for where ageMax is allowed.
func (t *Track) Judge(now time.Time, ageMax time.Duration) State {
	b := t.Behind(now)
	switch {
	case t.lost: // D
		t.state, t.near = Stale, time.Time{}
	case !b.Known && (t.first.IsZero() || t.state != Stale && now.Sub(t.first) <= ageMax):
		t.state = Unknown // B
	case !b.Known || b.Age > ageMax:
		t.state, t.near = Stale, time.Time{}
	case t.state != Stale:
		t.state = Fresh
	case b.Age > ageMax/2:
		t.near = time.Time{}
	case t.near.IsZero():
		t.near = now
	case now.Sub(t.near) >= ageMax: // C
		t.state = Fresh
	}
	return t.state
}
