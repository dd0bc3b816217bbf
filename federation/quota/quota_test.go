package quota

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_000_000, 0)

func rates(kind Kind, rate int64) func(string) Terms {
	return func(string) Terms {
		var t Terms
		t.Rates[kind] = rate
		return t
	}
}

func account(t testing.TB, kind Kind, rate int64, burst time.Duration) *Account {
	t.Helper()
	a, refused := NewLedger(rates(kind, rate), burst).Enter("alice", start)
	if refused != None {
		t.Fatal(refused)
	}
	return a
}

func TestPauses(t *testing.T) {
	a := account(t, Produce, 1000, time.Second)
	for _, step := range []struct {
		after  time.Duration // since the start
		amount int64
		want   time.Duration
	}{
		{0, 1000, 0},                     // the burst
		{0, 500, 500 * time.Millisecond}, // owed
		{250 * time.Millisecond, 0, 250 * time.Millisecond},
		{500 * time.Millisecond, 0, 0},
		{500 * time.Millisecond, 1, time.Millisecond},
		{400 * time.Millisecond, 1, 2 * time.Millisecond}, // a clock that goes back brings nothing
		{time.Hour, 1001, time.Millisecond},               // no more than the burst is saved up
		{2 * time.Hour, 100_000, PauseMax},                // invariant B
		{2*time.Hour + 98*time.Second, 0, time.Second},    // but it is all owed
		{3 * time.Hour, 1 << 40, PauseMax},
		{3*time.Hour + DebtMax - time.Second, 0, time.Second}, // up to DebtMax
	} {
		if got := a.Charge(Produce, step.amount, start.Add(step.after)); got != step.want {
			t.Errorf("%s: %d used, pause %s, want %s", step.after, step.amount, got, step.want)
		}
	}
}

// The sum of what comes in may be a rounding short of what is owed.
func TestARoundingIsNotOwed(t *testing.T) {
	a, _ := NewLedger(rates(Fetch, 15), 0).Enter("alice", start)
	wait := a.Charge(Fetch, 273, start)
	if wait != 8200*time.Millisecond || a.Owes(Fetch, start.Add(wait)) {
		t.Errorf("something is owed after a pause of %s", wait)
	}
}

// A pause that was kept to is enough, for any rate: the next one is not told at once.
func TestWhoKeptToItsPauseOwesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, 1<<33).Draw(t, "rate")
		a, _ := NewLedger(rates(Fetch, rate), 0).Enter("alice", start)
		now := start
		for range 20 {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "passed")))
			wait := a.Charge(Fetch, rapid.Int64Range(0, 20*rate).Draw(t, "used"), now)
			now = now.Add(wait)
			if wait < PauseMax && a.Owes(Fetch, now) {
				t.Fatalf("something is owed after a pause of %s", wait)
			}
		}
	})
}

// Invariant A, for one that sends as much as it can and keeps to its pauses.
func TestTheRateIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1000, 1<<30).Draw(t, "rate")
		burst := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(20*time.Second)).Draw(t, "burst"))
		a, _ := NewLedger(rates(Produce, rate), burst).Enter("alice", start)
		now, used, last := start, int64(0), int64(0)
		for range 200 {
			last = rapid.Int64Range(1, rate).Draw(t, "batch")
			used += last
			now = now.Add(a.Charge(Produce, last, now))
		}
		passed := now.Sub(start)
		if most := float64(rate)*(burst+passed).Seconds() + 1; float64(used-last) > most {
			t.Fatalf("%d used in %s at %d a second, burst %s", used-last, passed, rate, burst)
		}
		if least := float64(rate) * (passed - 200*time.Millisecond).Seconds(); float64(used) < least {
			t.Fatalf("%d used in %s at %d a second: the pauses are too long", used, passed, rate)
		}
	})
}

func TestHoldersAreApart(t *testing.T) {
	l := NewLedger(rates(Produce, 1000), time.Second)
	alice, _ := l.Enter("alice", start)
	bob, _ := l.Enter("bob", start)
	again, _ := l.Enter("alice", start)
	if alice.Charge(Produce, 3000, start) == 0 || again.Charge(Produce, 0, start) == 0 {
		t.Error("two connections of one holder have an account each")
	}
	if bob.Charge(Produce, 1000, start) != 0 || bob.Charge(Fetch, 1<<40, start) != 0 {
		t.Error("one holder pays for another, or for what has no rate")
	}
}

// What is owed is owed by who comes again.
func TestAHolderCannotComeAnew(t *testing.T) {
	l := NewLedger(rates(Produce, 1000), time.Second)
	a, _ := l.Enter("alice", start)
	a.Charge(Produce, 10_000, start)
	l.Leave("alice", start)
	if a, _ = l.Enter("alice", start.Add(time.Second)); a.Charge(Produce, 0, start.Add(time.Second)) != 8*time.Second {
		t.Error("it was forgotten")
	}
	l.Leave("alice", start.Add(time.Minute))
	if n := l.Remembered(); n != 0 {
		t.Errorf("%d accounts are kept that say nothing", n)
	}
}

func TestNumbersOpen(t *testing.T) {
	l := NewLedger(func(string) Terms { return Terms{OpenMax: 2} }, 0)
	for i, want := range []Refusal{None, None, TooMany, TooMany} {
		if _, got := l.Enter("alice", start); got != want {
			t.Errorf("%d: refusal %d, want %d", i, got, want)
		}
	}
	if _, got := l.Enter("bob", start); got != None {
		t.Error("another is refused")
	}
	l.Leave("alice", start)
	if _, got := l.Enter("alice", start); got != None {
		t.Error("refused though one has left")
	}
}

func TestHowFastTheyCome(t *testing.T) {
	l := NewLedger(rates(Connections, 2), time.Second)
	come := func(at time.Duration, want Refusal) {
		t.Helper()
		if _, got := l.Enter("alice", start.Add(at)); got != want {
			t.Errorf("%s: refusal %d, want %d", at, got, want)
		}
		if want == None {
			l.Leave("alice", start.Add(at)) // it is counted all the same
		}
	}
	come(0, None)
	come(0, None)
	come(0, TooFast)
	come(400*time.Millisecond, TooFast) // who is refused does not wait longer for it
	come(500*time.Millisecond, None)
	come(500*time.Millisecond, TooFast)
}

// Invariant C.
func TestWhatIsRememberedIsBounded(t *testing.T) {
	l := NewLedger(rates(Produce, 1000), time.Second)
	stays, _ := l.Enter("stays", start)
	stays.Charge(Produce, 50_000, start)
	for i := range IdleMax + 100 {
		who := fmt.Sprint(i)
		a, _ := l.Enter(who, start)
		a.Charge(Produce, 50_000, start)
		l.Leave(who, start)
	}
	if n := l.Remembered(); n != IdleMax+1 {
		t.Errorf("%d are remembered", n)
	}
	if a, _ := l.Enter("stays", start); a.Charge(Produce, 0, start) == 0 {
		t.Error("one that is open was forgotten")
	}
	last, _ := l.Enter(fmt.Sprint(IdleMax+99), start)
	if last.Charge(Produce, 0, start) == 0 {
		t.Error("the newest was forgotten before the oldest")
	}
}

// Who has no quota pays nothing for those that have.
func BenchmarkCharge(b *testing.B) {
	l := NewLedger(rates(Produce, 1<<40), 0)
	limited, _ := l.Enter("alice", start)
	now := time.Now()
	for name, a := range map[string]*Account{"no quotas": nil, "set": limited} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Charge(Request, 1, now)
				a.Charge(Produce, 100, now)
			}
		})
	}
}
