package freshness_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"spillway"
	"spillway/federation/freshness"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

const second = time.Second

func TestTrack(t *testing.T) {
	var track freshness.Track
	const limit = 10 * second
	step := func(when string, now time.Duration, want freshness.State, records int64, age time.Duration) {
		t.Helper()
		if got := track.Judge(at(now), limit); got != want {
			t.Errorf("%s: state %d, want %d", when, got, want)
		}
		if b := track.Behind(at(now)); b.Records != records || b.Age != age {
			t.Errorf("%s: %+v, want %d records, %s", when, b, records, age)
		}
	}
	session := int64(1)
	mark := func(end spillway.Offset, now time.Duration) { track.Mark(session, end, end, false, at(now)) }
	mark(100, second)
	step("nobody was asked", second, freshness.Unknown, 0, 0)
	track.Answer(freshness.Log{End: 100, Asked: at(2 * second)})
	step("it has all", 3*second, freshness.Fresh, 0, second)
	track.Answer(freshness.Log{End: 150, Asked: at(4 * second)})
	step("the active site has more", 5*second, freshness.Fresh, 50, 3*second)
	track.Answer(freshness.Log{End: 170, Asked: at(6 * second)})
	mark(160, 7*second)
	step("it has reached the answer before the last", 7*second, freshness.Fresh, 10, 3*second)
	step("the active site says nothing any more", 14*second+1, freshness.Stale, 10, limit+1)
	mark(170, 14*second)
	track.Answer(freshness.Log{End: 170, Asked: at(15 * second)})
	step("it has all again, just now", 15*second, freshness.Stale, 0, 0)
	track.Answer(freshness.Log{End: 170, Asked: at(20 * second)})
	step("for five seconds", 20*second, freshness.Stale, 0, 0)
	track.Answer(freshness.Log{End: 170, Asked: at(25 * second)})
	step("for as long as the limit", 25*second, freshness.Fresh, 0, 0)
	track.Answer(freshness.Log{End: 169, Asked: at(24 * second)})
	step("an answer that is late", 25*second, freshness.Fresh, 0, 0)
	session = 2
	mark(165, 26*second)
	step("it has lost records", 26*second, freshness.Unknown, 5, 0)
	mark(170, 27*second)
	step("and has them again", 27*second, freshness.Fresh, 0, 2*second)
	session = 3
	mark(169, 28*second)
	step("lost again", 35*second, freshness.Unknown, 1, 0)
	step("and never found", 36*second, freshness.Stale, 1, 0)
}

// A standby ends where it is known what it has, and is as old as that.
func TestWhatIsNotKnownMakesOld(t *testing.T) {
	var track freshness.Track
	track.Mark(1, 100, 100, false, at(second))
	track.Answer(freshness.Log{End: 100, Asked: at(2 * second)})
	track.Mark(1, 150, 120, false, at(3*second)) // the mirror goes on, and the map hangs
	track.Answer(freshness.Log{End: 150, Asked: at(4 * second)})
	if s, b := track.Judge(at(13*second), 10*second), track.Behind(at(13*second)); s != freshness.Stale || b.Age != 11*second || b.Records != 30 {
		t.Errorf("state %d, %+v", s, b)
	}
	track.Mark(1, 150, 150, false, at(14*second))
	if b := track.Behind(at(14 * second)); b.Age != 10*second || b.Records != 0 {
		t.Errorf("when the map is read: %+v", b)
	}
}

// A map that is behind a newer mark of the same append session makes nothing unknown that was
// known (E).
func TestAMapThatIsBehindIsNoLoss(t *testing.T) {
	var track freshness.Track
	track.Mark(1, 100, 100, false, at(second))
	track.Answer(freshness.Log{End: 100, Asked: at(2 * second)})
	track.Mark(1, 110, 90, false, at(3*second)) // what lies behind a hole at its end is not told yet
	if s, b := track.Judge(at(3*second), 10*second), track.Behind(at(3*second)); s != freshness.Fresh || !b.Known || b.Age != second || b.Records != 0 {
		t.Errorf("state %d, %+v", s, b)
	}
	track.Mark(2, 110, -1, false, at(4*second)) // nothing was compared in the next one
	if s, b := track.Judge(at(4*second), 10*second), track.Behind(at(4*second)); s != freshness.Unknown || b.Known {
		t.Errorf("in the next session: state %d, %+v", s, b)
	}
}

// The active site has lost what the standby has: nothing is known until who keeps the marks
// says otherwise (D).
func TestTheActiveSiteLosesRecords(t *testing.T) {
	var track freshness.Track
	known := false
	answer := func(end spillway.Offset, asked time.Duration, lost bool, what string) {
		t.Helper()
		if got := track.Low(freshness.Log{End: end, Asked: at(asked)}); got != (lost && !known) {
			t.Errorf("%s: asked again %t", what, got)
		}
		known = lost
		if got := track.Answer(freshness.Log{End: end, Asked: at(asked)}); got != lost {
			t.Errorf("%s: %t", what, got)
		}
	}
	track.Mark(1, 100, 100, false, at(5*second))
	answer(90, 4*second, false, "an answer that is older than the mark tells nothing")
	answer(100, 6*second, false, "it has all")
	if track.Judge(at(6*second), 10*second) != freshness.Fresh {
		t.Error("it has all")
	}
	track.Mark(1, 110, 110, false, at(7*second))
	answer(109, 8*second, true, "it ended below the mark")
	for _, when := range []time.Duration{8 * second, 9 * second} {
		if b := track.Behind(at(when)); track.Judge(at(when), 10*second) != freshness.Stale || b.Known {
			t.Errorf("the active site ended at 109 after the mark was 110: %+v", b)
		}
		track.Mark(1, 112, 112, true, at(9*second))
		answer(200, 9*second, true, "others are there now")
	}
	track.Mark(2, 108, 108, false, at(10*second))
	answer(108, 11*second, false, "its mirror has compared the two")
	if !track.Behind(at(11 * second)).Known {
		t.Error("its mirror has compared the two")
	}
	track.Mark(1, 120, 120, true, at(12*second))
	answer(109, 13*second, false, "a mark of the session before, which is late")
	if track.Behind(at(13*second)).Records != 1 {
		t.Error("a mark of the session before, which is late")
	}
}

// Against a dumb twin that remembers all: an age is never lower than true, and no higher
// than by what was forgotten (A).
func TestAnAgeIsNeverTooLow(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		var track freshness.Track
		type said struct {
			at  time.Duration
			end spillway.Offset
		}
		var answers []said
		end, mark := spillway.Offset(0), spillway.Offset(0)
		for n := range 2000 {
			now := time.Duration(n+1) * second
			end += spillway.Offset(random.IntN(5))
			if random.IntN(3) > 0 {
				answers = append(answers, said{now, end})
				track.Answer(freshness.Log{End: end, Asked: at(now)})
			}
			if random.IntN(200) > 0 || mark == 0 {
				if random.IntN(20) == 0 {
					mark = end - spillway.Offset(random.IntN(int(end)+1)/4)
				}
			}
			track.Mark(int64(n), mark, mark, false, at(now)) // a session of its own, so that it may fall
			proven := time.Duration(-1)
			for _, a := range answers {
				if a.end <= mark {
					proven = a.at
				}
			}
			b := track.Behind(at(now))
			if b.Known && (proven < 0 || b.Age < now-proven) {
				t.Fatalf("seed %d, %s: age %s, and what the standby has was all at %s", seed, now, b.Age, proven)
			}
		}
	}
}
