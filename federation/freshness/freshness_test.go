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
	track.Mark(100)
	step("nobody was asked", second, freshness.Unknown, 0, 0)
	track.Answer(100, at(2*second))
	step("it has all", 3*second, freshness.Fresh, 0, second)
	track.Answer(150, at(4*second))
	step("the active site has more", 5*second, freshness.Fresh, 50, 3*second)
	track.Answer(170, at(6*second))
	track.Mark(160)
	step("it has reached the answer before the last", 7*second, freshness.Fresh, 10, 3*second)
	step("the active site says nothing any more", 14*second+1, freshness.Stale, 10, limit+1)
	track.Mark(170)
	track.Answer(170, at(15*second))
	step("it has all again, just now", 15*second, freshness.Stale, 0, 0)
	track.Answer(170, at(20*second))
	step("for five seconds", 20*second, freshness.Stale, 0, 0)
	track.Answer(170, at(25*second))
	step("for as long as the limit", 25*second, freshness.Fresh, 0, 0)
	track.Answer(169, at(24*second))
	step("an answer that is late", 25*second, freshness.Fresh, 0, 0)
	track.Mark(165)
	step("it has lost records", 26*second, freshness.Unknown, 5, 0)
	track.Mark(170)
	step("and has them again", 27*second, freshness.Fresh, 0, 2*second)
	track.Mark(169)
	step("lost again", 35*second, freshness.Unknown, 1, 0)
	step("and never found", 36*second, freshness.Stale, 1, 0)
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
				track.Answer(end, at(now))
			}
			if random.IntN(200) > 0 || mark == 0 {
				if random.IntN(20) == 0 {
					mark = end - spillway.Offset(random.IntN(int(end)+1)/4)
				}
			}
			track.Mark(mark)
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
