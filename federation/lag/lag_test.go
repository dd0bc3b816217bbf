package lag_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"spillway"
	"spillway/federation/lag"
)

var start = time.Unix(1_000_000, 0)

func at(d time.Duration) time.Time { return start.Add(d) }

const second = time.Second

func TestWhatIsActedOn(t *testing.T) {
	age := lag.Limits{Age: 10 * second}
	records := lag.Limits{Records: 1000}
	both := lag.Limits{Age: 10 * second, Records: 1000}
	for name, row := range map[string]struct {
		limits   lag.Limits
		at       lag.Lag
		pressure float64
	}{
		"nothing":                   {both, lag.Lag{}, 0},
		"half of the age":           {age, lag.Lag{Records: 1 << 40, Age: 5 * second}, 0.5},
		"twice the records":         {records, lag.Lag{Records: 2000, Age: time.Hour}, 2},
		"the nearer one counts":     {both, lag.Lag{Records: 900, Age: 2 * second}, 0.9},
		"the nearer one is the age": {both, lag.Lag{Records: 1, Age: 20 * second}, 2},
		"no limits":                 {lag.Limits{}, lag.Lag{Records: 1 << 40, Age: time.Hour}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := row.limits.Pressure(row.at); got != row.pressure {
				t.Errorf("pressure %g, want %g", got, row.pressure)
			}
			if got := row.limits.Beyond(row.at); got != (row.pressure > 1) {
				t.Errorf("beyond: %v", got)
			}
			row.at.Drain = row.at.Age
			for onLag, slows := range map[string]bool{spillway.OnLagWarn: false, spillway.OnLagBlock: false, spillway.OnLagThrottle: row.pressure > 0.5} {
				row.limits.OnLag = onLag
				if got := row.limits.Slows(row.at); got != slows {
					t.Errorf("%s slows producers down: %v", onLag, got)
				}
			}
		})
	}
}

func TestAGroupWithoutOthersHasNoLimits(t *testing.T) {
	sites := []spillway.SiteID{"east", "west"}
	for name, row := range map[string]struct {
		group spillway.FailoverGroup
		ok    bool
	}{
		"one of two":  {spillway.FailoverGroup{Sites: sites, Ack: spillway.AckPolicy{Sites: 1}}, true},
		"two of two":  {spillway.FailoverGroup{Sites: sites, Ack: spillway.AckPolicy{Sites: 2}}, false},
		"one of one":  {spillway.FailoverGroup{Sites: sites[:1], Ack: spillway.AckPolicy{Sites: 1}}, false},
		"siblings":    {spillway.FailoverGroup{Sites: sites, Ack: spillway.AckPolicy{Sites: 1}, Siblings: spillway.Siblings{Of: "clicks"}}, false},
		"none is one": {spillway.FailoverGroup{Sites: sites}, true},
	} {
		if _, ok := lag.Of(row.group); ok != row.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

func TestDelay(t *testing.T) {
	l := lag.Limits{OnLag: spillway.OnLagThrottle, Records: 1000}
	for records, want := range map[int64]time.Duration{
		0: 0, 500: 0, 750: lag.DelayMax / 4, 1000: lag.DelayMax, 1 << 40: lag.DelayMax,
	} {
		if got := l.Delay(lag.Lag{Records: records}); got != want {
			t.Errorf("%d records: %s, want %s", records, got, want)
		}
	}
	short := lag.Limits{OnLag: spillway.OnLagThrottle, Age: 2 * second}
	if got := short.Delay(lag.Lag{Age: second, Drain: time.Hour}); got != second {
		t.Errorf("a limit of 2s: delay %s", got)
	}
	if got := short.Delay(lag.Lag{Age: second / 10, Drain: time.Hour}); got != 0 {
		t.Errorf("a burst that has just come: delay %s", got)
	}
}

// Producers with a few requests each write into a site whose mirror carries less than
// they could: the rate falls to what it carries, and the lag rests within the limit. When
// the mirror is fast again, nobody is late any more.
func TestTheRateFallsToWhatTheMirrorCarries(t *testing.T) {
	for name, l := range map[string]lag.Limits{"age": {Age: 10 * second}, "records": {Records: 100_000}, "both": {Age: 10 * second, Records: 100_000}, "a short age": {Age: 2 * second}} {
		t.Run(name, func(t *testing.T) {
			l.OnLag = spillway.OnLagThrottle
			const tick, inFlight, each, round = 10 * time.Millisecond, 8, 50.0, 20 * time.Millisecond
			carries := 4000.0 // records a second; producers could write 20,000
			// The term is long: the gateway has just begun to lead the partition.
			track := lag.NewTrack(l, 0)
			end, marked := 1e9, 1e9-100
			track.Append(spillway.Offset(end), at(0))
			track.Mark(spillway.Offset(marked), at(0))
			most, least, last := 0.0, 0.0, 0.0
			now := time.Duration(0)
			run := func(for_ time.Duration, from time.Duration) {
				until := now + for_
				wrote, since := 0.0, now
				most, least = 0, 100
				for ; now < until; now += tick {
					delay := l.Delay(track.Lag(at(now)))
					n := inFlight * each * tick.Seconds() / (round + delay).Seconds()
					end += n
					track.Append(spillway.Offset(end), at(now))
					marked += min(end-marked, carries*tick.Seconds())
					if now%(200*time.Millisecond) == 0 { // marks come in lumps
						track.Mark(spillway.Offset(marked), at(now))
					}
					if now-since >= from {
						most = max(most, l.Pressure(track.Lag(at(now))))
						least = min(least, l.Pressure(track.Lag(at(now))))
						wrote += n
					}
				}
				last = wrote / (for_ - from).Seconds()
			}
			run(20*second, 15*second)
			if most > 1 {
				t.Errorf("soon after the start: pressure %.2f", most)
			}
			run(4*time.Minute, 3*time.Minute)
			if least < 0.5 || most > 0.7 || last < 0.95*carries || last > 1.05*carries {
				t.Errorf("producers wrote %.0f records a second where %.0f are carried; pressure %.2f to %.2f", last, carries, least, most)
			}
			carries = 1e6
			run(time.Minute, 30*second)
			if most > 0.5 || last < 19_000 {
				t.Errorf("the mirror is fast again: %.0f records a second, pressure up to %.2f", last, most)
			}
		})
	}
}

func TestTrack(t *testing.T) {
	l := lag.Limits{Age: 10 * second, Records: 100}
	track := lag.NewTrack(l, 1000)
	want := func(what string, now time.Duration, records int64, age time.Duration) {
		t.Helper()
		if got := track.Lag(at(now)); got.Records != records || got.Age != age {
			t.Errorf("%s: %+v", what, got)
		}
	}
	want("at the start", 0, 0, 0)
	track.Mark(-1, at(0))
	track.Append(1010, at(second))
	track.Append(1005, at(2*second)) // late news
	track.Append(1020, at(3*second))
	want("two appends", 5*second, 20, 4*second)
	track.Mark(1010, at(5*second))
	want("the older is there", 6*second, 10, 3*second)
	track.Mark(-1, at(6*second))
	want("no news", 6*second, 10, 3*second)
	track.Mark(1002, at(7*second)) // records were lost there
	want("lost", 8*second, 18, 5*second)
	track.Mark(1020, at(9*second))
	want("all there", 9*second, 0, 0)
	track.Mark(1015, at(10*second))
	want("lost, and nothing else is missing", 12*second, 5, 2*second)
	track.Mark(1040, at(13*second)) // it was faster than the answer to the producer
	track.Append(1030, at(14*second))
	track.Mark(1025, at(15*second))
	want("lost, of what was ahead", 16*second, 5, second)
	track.Append(1050, at(17*second))
	want("more", 18*second, 25, 3*second)
	track.Mark(1035, at(18*second))
	want("all that was lost is there again", 18*second, 15, second)
}

// A gateway that begins to lead a partition counts from there, until another site says how
// far it is.
func TestWhatLiesBeforeATrackIsCountedWhenItIsKnown(t *testing.T) {
	track := lag.NewTrack(lag.Limits{Age: 10 * second}, 1000)
	track.Append(1010, at(0))
	track.Mark(-1, at(second))
	if got := track.Lag(at(second)); got.Records != 10 {
		t.Errorf("nobody has said how far he is: %+v", got)
	}
	track.Mark(400, at(2*second))
	if got := track.Lag(at(2 * second)); got.Records != 610 || got.Age != 2*second {
		t.Errorf("another site is at 400: %+v", got)
	}
}

// A topic that was made anew, or a log that was cut, begins at lower offsets.
func TestALogThatIsShorter(t *testing.T) {
	track := lag.NewTrack(lag.Limits{Age: 10 * second}, 0)
	track.Append(100, at(0))
	track.Append(1000, at(second))
	track.Mark(50, at(second))
	if track.Doubts(1000, at(time.Hour)) || track.Doubts(999, at(15*second)) {
		t.Error("batches come late, or again")
	}
	if !track.Doubts(110, at(17*second)) || track.Doubts(110, at(18*second)) {
		t.Error("nothing was appended for long, and a batch ends far below")
	}
	track.Cut(110, at(17*second))
	if got := track.Lag(at(18 * second)); got.Records != 60 || got.Age != 18*second {
		t.Errorf("%+v", got)
	}
	track.Append(120, at(19*second))
	track.Mark(110, at(19*second))
	if got := track.Lag(at(20 * second)); got.Records != 10 || got.Age != second {
		t.Errorf("appended since: %+v", got)
	}
	track.Cut(50, at(18*second)) // asked before the batch came
	if got := track.Lag(at(20 * second)); got.Records != 10 {
		t.Errorf("an answer that is too old: %+v", got)
	}
	track.Cut(90, at(20*second))
	if got := track.Lag(at(20 * second)); got != (lag.Lag{}) {
		t.Errorf("the others have more: %+v", got)
	}
}

func TestNeeds(t *testing.T) {
	track := lag.NewTrack(lag.Limits{Age: 10 * second}, 0)
	for i := range 5 {
		track.Append(spillway.Offset(10*(i+1)), at(time.Duration(i)*second))
	}
	for name, row := range map[string]struct {
		limits lag.Limits
		end    spillway.Offset
		now    time.Duration
		want   spillway.Offset
	}{
		"no limit":                          {lag.Limits{}, 50, time.Hour, -1},
		"all are young":                     {lag.Limits{Age: 10 * second}, 50, 9 * second, -1},
		"the oldest is as old as the limit": {lag.Limits{Age: 10 * second}, 50, 10 * second, 10},
		"three are":                         {lag.Limits{Age: 10 * second}, 50, 12*second + 1, 30},
		"all are":                           {lag.Limits{Age: 10 * second}, 50, time.Hour, 50},
		"never more than its own end":       {lag.Limits{Age: 10 * second}, 25, time.Hour, 25},
		"records":                           {lag.Limits{Records: 15}, 50, 0, 35},
		"the stricter one":                  {lag.Limits{Age: 10 * second, Records: 45}, 50, 11 * second, 20},
	} {
		if got := track.Needs(row.limits, row.end, at(row.now)); got != row.want {
			t.Errorf("%s: %d, want %d", name, got, row.want)
		}
	}
}

// twin remembers each record.
type twin struct {
	appended []time.Time // by offset
	marked   int
}

func (w *twin) age(now time.Time) time.Duration {
	if w.marked >= len(w.appended) {
		return 0
	}
	return now.Sub(w.appended[w.marked])
}

// Invariants A, B and C.
func TestTrackAgainstADumbTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := lag.Limits{Age: 8 * second, Records: rapid.Int64Range(0, 300).Draw(t, "records")}
		track, w, now := lag.NewTrack(limits, 0), &twin{}, start
		needed := map[spillway.Offset]spillway.Offset{}
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			if rapid.IntRange(0, 3).Draw(t, "what") > 0 {
				for range rapid.IntRange(1, 20).Draw(t, "n") {
					w.appended = append(w.appended, now)
				}
				track.Append(spillway.Offset(len(w.appended)), now)
			} else {
				// The mark may be ahead of the answer to the producer.
				w.marked = rapid.IntRange(w.marked, max(w.marked, len(w.appended)+30)).Draw(t, "mark")
				track.Mark(spillway.Offset(w.marked), now)
			}
			got, age := track.Lag(now), w.age(now)
			if got.Records != int64(max(0, len(w.appended)-w.marked)) || got.Age < age || got.Age > age+max(limits.Age/64, got.Age/32) {
				t.Fatalf("%+v, want %d records of %s", got, len(w.appended)-w.marked, age)
			}
			end := spillway.Offset(len(w.appended))
			for of := range needed {
				need := track.Needs(limits, of, now)
				if need > of || need < needed[of] && needed[of] > spillway.Offset(w.marked) {
					t.Fatalf("end %d needed %d, now %d", of, needed[of], need)
				}
				needed[of] = need
			}
			need := track.Needs(limits, end, now)
			needed[end] = need
			// What may be acknowledged leaves the others within the limits.
			if need <= spillway.Offset(w.marked) && (limits.Records > 0 && got.Records > limits.Records || age >= limits.Age && got.Records > 0) {
				t.Fatalf("acknowledged at %d with %+v", w.marked, got)
			}
		}
	})
}
