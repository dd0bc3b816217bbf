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
//	   lost records that the standby has. Who keeps the marks is told (Answer), and says with
//	   each mark for how long nothing is known of the standby
//	E  within an append session nothing that was known is unknown again: a map that is behind
//	   its mark is no loss of records
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
	lost    bool            // the active site has lost what the mark speaks of (D)

	mark   spillway.Offset // as far as it is known what lies below
	first  time.Time       // of the first answer, or since records were lost
	proven time.Time       // when the active site had nothing that the standby lacks now; zero: not known
	newest Log             // the newest answer
	ahead  []Log           // answers that the standby has not reached, ascending in time

	state State
	near  time.Time // while Stale: since when the age has been well within the limit
}

// Log is what the active site said of its log.
type Log struct {
	Start, End spillway.Offset // −1: it did not say where it starts
	Asked      time.Time       // before the question; zero: it was not asked yet
}

// Low tells whether by an answer the active site has lost records, as was not known before
// (D). Who may have asked a node that only thinks that it leads asks again before Answer.
func (t *Track) Low(log Log) bool {
	return !t.lost && log.End < t.said && log.Asked.After(t.since) && log.Asked.After(t.newest.Asked)
}

// Answer takes what the active site said. lost: it has lost records that the standby has (D).
func (t *Track) Answer(log Log) (lost bool) {
	if !log.Asked.After(t.newest.Asked) {
		return t.lost
	}
	if t.newest = log; t.first.IsZero() {
		t.first = log.Asked
	}
	t.lost = t.lost || log.End < t.said && log.Asked.After(t.since)
	if log.End <= t.mark {
		t.proven, t.ahead = log.Asked, t.ahead[:0]
		return t.lost
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
	return t.lost
}

// Mark takes the standby's durable mark, how much of what lies below is known (a map that
// hangs makes the standby old, as a mirror does), and whether the active site has lost records
// that it speaks of. A mark that falls, which it does only with a newer append session, tells
// that the standby has lost records: what was proven before is not true any more.
func (t *Track) Mark(session int64, said, known spillway.Offset, lost bool, now time.Time) {
	mark := min(said, known)
	switch {
	case session > t.session:
		t.session, t.said, t.since = session, said, now
	case session < t.session:
		return // late
	default:
		if said > t.said {
			t.said, t.since = said, now
		}
		mark = max(mark, t.mark) // E
	}
	t.lost = lost
	fell := mark < t.mark
	t.mark = mark
	if fell {
		t.first, t.proven, t.ahead = t.newest.Asked, time.Time{}, t.ahead[:0]
		if t.newest.End > mark {
			t.ahead = append(t.ahead, t.newest)
		}
	}
	reached := 0
	for i, p := range t.ahead {
		if p.End <= mark {
			t.proven, reached = p.Asked, i+1
		}
	}
	t.ahead = append(t.ahead[:0], t.ahead[reached:]...)
}

// Behind tells how far the standby is behind.
func (t *Track) Behind(now time.Time) Behind {
	if t.proven.IsZero() || t.lost {
		return Behind{Records: max(0, int64(t.newest.End-t.mark))}
	}
	return Behind{Records: max(0, int64(t.newest.End-t.mark)), Age: now.Sub(t.proven), Known: true}
}

// Session is the append session of the mark.
func (t *Track) Session() int64 { return t.session }

// Log is what the active site said of its log when it was asked last.
func (t *Track) Log() Log { return t.newest }

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
