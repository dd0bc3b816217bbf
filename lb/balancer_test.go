package lb

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

func chance(seed uint64) rand.Source { return rand.NewPCG(seed, 1) }

// sites makes one target for each weight, named a, b, c, …
func sites(weights ...int) []Target {
	var ts []Target
	for i, w := range weights {
		ts = append(ts, Target{Name: string(rune('a' + i)), Weight: w})
	}
	return ts
}

func balancer(t testing.TB, c Config) *Balancer {
	t.Helper()
	if c.Rand == nil {
		c.Rand = chance(1)
	}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// picked picks, and ends the pick with a success at once.
func picked(t testing.TB, b *Balancer, now time.Duration, key string, able Set) Pick {
	t.Helper()
	p, ok := b.Pick(now, []byte(key), able)
	if !ok {
		t.Fatal("nothing was picked")
	}
	b.Done(now, p.Target, Succeeded, time.Millisecond)
	return p
}

func counted(t testing.TB, b *Balancer, now time.Duration, n int) []float64 {
	t.Helper()
	counts := make([]float64, len(b.targets))
	for i := range n {
		counts[picked(t, b, now, fmt.Sprint("key-", i), All).Target]++
	}
	return counts
}

// fits is Pearson's chi-square test at a level of one in 100,000; the seeds are fixed,
// so what passes passes always. A policy that is off by a few percent fails.
func fits(t *testing.T, what string, got []float64, shares ...float64) {
	t.Helper()
	critical := []float64{0, 19.5, 23.0, 25.9, 28.5}[len(shares)-1]
	n, sum, chi := 0.0, 0.0, 0.0
	for i := range got {
		n, sum = n+got[i], sum+shares[i]
	}
	for i, s := range shares {
		want := n * s / sum
		chi += (got[i] - want) * (got[i] - want) / want
	}
	if chi > critical {
		t.Errorf("%s: %v does not look like %v (chi-square %.1f, critical %.1f)", what, got, shares, chi, critical)
	}
}

func TestFaultsOfAConfiguration(t *testing.T) {
	for want, c := range map[string]Config{
		`"fastest" is no policy`:    {Policy: "fastest", Targets: sites(1), Rand: chance(1)},
		"0 targets":                 {Policy: Weighted, Rand: chance(1)},
		"65 targets":                {Policy: Weighted, Targets: make([]Target, 65), Rand: chance(1)},
		"a source of chance":        {Policy: Weighted, Targets: sites(1)},
		`"a" has weight 0`:          {Policy: Weighted, Targets: sites(0), Rand: chance(1)},
		`"a" has weight 1001`:       {Policy: Weighted, Targets: sites(1001), Rand: chance(1)},
		`target "a" is named twice`: {Policy: Weighted, Targets: append(sites(1), sites(1)...), Rand: chance(1)},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestReasons(t *testing.T) {
	for policy, want := range map[Policy]string{RoundRobin: InTurn, Weighted: ByWeight, LeastInFlight: FewestInFlight,
		LeastLatency: LowestLatency, LocalFirst: IsLocal, KeyAffinity: ByKey} {
		b := balancer(t, Config{Policy: policy, Targets: sites(1, 1, 1)})
		b.Near(Of(1))
		if p := picked(t, b, 0, "k", All); p.Reason != want || policy == LocalFirst && p.Target != 1 {
			t.Errorf("%s picked %+v", policy, p)
		}
		if p := picked(t, b, 0, "k", Of(2)); p != (Pick{2, OnlyOne}) {
			t.Errorf("%s, one usable: %+v", policy, p)
		}
		if p, ok := b.Pick(0, nil, 0); ok || p.Target != -1 {
			t.Errorf("%s, none usable: %+v", policy, p)
		}
	}
	b := balancer(t, Config{Policy: LocalFirst, Targets: sites(1, 1, 1)})
	b.Near(Of(1))
	b.Verdict(0, 1, false)
	if p := picked(t, b, 0, "", All); p.Reason != NoneLocal || p.Target == 1 {
		t.Errorf("the local one is down: %+v", p)
	}
}

// The example of nginx: with weights 5, 1 and 1 the heavy one is never picked more than
// three times in a row, and every round is exact.
func TestWeightedTurnsAreSmooth(t *testing.T) {
	b := balancer(t, Config{Policy: Weighted, Targets: sites(5, 1, 1)})
	row, order := 0, ""
	for range 70 {
		i := picked(t, b, 0, "", All).Target
		if order += string(rune('a' + i)); i == 0 {
			row++
		} else {
			row = 0
		}
		if row > 4 { // over the end of a round: aab aca a|a ab
			t.Fatalf("not smooth: %s", order)
		}
	}
	for i := range 10 {
		if round := order[7*i : 7*i+7]; strings.Count(round, "a") != 5 || strings.Count(round, "b") != 1 {
			t.Errorf("round %d is %s", i, round)
		}
	}
}

func TestDistribution(t *testing.T) {
	const n = 100_000
	if got := counted(t, balancer(t, Config{Policy: RoundRobin, Targets: sites(7, 1, 2)}), 0, n-1); got[0] != 33333 || got[1] != 33333 || got[2] != 33333 {
		t.Errorf("in turn: %v", got)
	}
	if got := counted(t, balancer(t, Config{Policy: Weighted, Targets: sites(7, 1, 2)}), 0, n); got[0] != 70000 || got[1] != 10000 || got[2] != 20000 {
		t.Errorf("by weight: %v", got)
	}
	fits(t, "by key", counted(t, balancer(t, Config{Policy: KeyAffinity, Targets: sites(7, 1, 2)}), 0, n), 7, 1, 2)
	fits(t, "by key, equal weights", counted(t, balancer(t, Config{Policy: KeyAffinity, Targets: sites(1, 1, 1, 1, 1)}), 0, n), 1, 1, 1, 1, 1)
	fits(t, "fewest in flight, all equal", counted(t, balancer(t, Config{Policy: LeastInFlight, Targets: sites(1, 1, 1)}), 0, n), 1, 1, 1)

	// Picks that stay in flight are spread by weight.
	b := balancer(t, Config{Policy: LeastInFlight, Targets: sites(7, 1, 2)})
	for range 1000 {
		b.Pick(0, nil, All)
	}
	for i, want := range []int64{700, 100, 200} {
		if got := b.targets[i].inFlight; got < want-2 || got > want+2 {
			t.Errorf("fewest in flight: %d in flight at target %d, want %d", got, i, want)
		}
	}
	// Of three with the same latency, each is in two of three pairs.
	b = balancer(t, Config{Policy: LeastLatency, Targets: sites(1, 1, 1)})
	counted(t, b, 0, 100)
	fits(t, "pairs", pairs(b, 60_000), 1, 1, 1)
}

// pairs has the same costs everywhere, so that the choice is the pair's first.
func pairs(b *Balancer, n int) []float64 {
	counts := make([]float64, len(b.targets))
	for range n {
		p, _ := b.Pick(0, nil, All)
		counts[p.Target]++
		b.Done(0, p.Target, Unknown, 0)
	}
	return counts
}

func TestLeastLatencyLeavesTheSlowOne(t *testing.T) {
	b := balancer(t, Config{Policy: LeastLatency, Targets: sites(1, 1, 1)})
	took := []time.Duration{10 * time.Millisecond, 30 * time.Millisecond, 80 * time.Millisecond}
	count := make([]int, 3)
	now := time.Duration(0)
	for range 3000 {
		p, _ := b.Pick(now, nil, All)
		count[p.Target]++
		now += time.Millisecond
		b.Done(now, p.Target, Succeeded, took[p.Target])
	}
	if count[0] < 1800 || count[2] > 300 {
		t.Errorf("latencies %v were picked %v times", took, count)
	}
	// What is slow once counts at once, and is forgotten bit by bit.
	b.Pick(now, nil, Of(0))
	b.Done(now, 0, Succeeded, 2*time.Second)
	if b.soonest(now, Of(0, 1)) != 1 {
		t.Error("a peak does not count")
	}
	for range 200 {
		now += 500 * time.Millisecond
		b.Pick(now, nil, Of(1))
		b.Done(now, 1, Succeeded, took[1])
	}
	if b.soonest(now, Of(0, 1)) != 0 {
		t.Error("a peak counts for ever")
	}
	// One that has never answered gets no second pick while others answer.
	b = balancer(t, Config{Policy: LeastLatency, Targets: sites(1, 1)})
	counted(t, b, 0, 10)
	b.Verdict(0, 0, false)
	b.Verdict(0, 0, true)
	b.Pick(0, nil, Of(0))
	if b.soonest(0, All&Of(0, 1)) != 1 {
		t.Error("one that may be silent is preferred")
	}
}

func owners(t *testing.T, b *Balancer, now time.Duration, able Set) []int {
	t.Helper()
	owner := make([]int, 20_000)
	for i := range owner {
		owner[i] = picked(t, b, now, fmt.Sprint("order-", i), able).Target
	}
	return owner
}

// C: loss and return of a target, and a new weight, move only what they must.
func TestKeysStayWhereTheyAre(t *testing.T) {
	weights := sites(3, 1, 2, 2)
	b := balancer(t, Config{Policy: KeyAffinity, Targets: weights, SlowStart: -1})
	before := owners(t, b, 0, All)
	b.Verdict(0, 0, false)
	moved := make([]float64, 3)
	for i, now := range owners(t, b, 0, All) {
		switch {
		case before[i] != 0 && now != before[i]:
			t.Fatalf("key %d moved from %d to %d, but 0 was lost", i, before[i], now)
		case before[i] == 0:
			moved[now-1]++
		}
	}
	fits(t, "keys of the lost one", moved, 1, 2, 2)
	b.Verdict(0, 0, true)
	for i, now := range owners(t, b, 0, All) {
		if now != before[i] {
			t.Fatalf("key %d of %d is at %d after the return", i, before[i], now)
		}
	}
	weights[1].Weight = 2
	grown := balancer(t, Config{Policy: KeyAffinity, Targets: weights})
	gained := 0
	for i, now := range owners(t, grown, 0, All) {
		if now != before[i] {
			if gained++; now != 1 {
				t.Fatalf("key %d moved from %d to %d, but 1 grew", i, before[i], now)
			}
		}
	}
	if want := 20_000 * (2.0/9 - 1.0/8); math.Abs(float64(gained)-want) > want/10 {
		t.Errorf("%d keys moved, want about %.0f", gained, want)
	}
	if other := balancer(t, Config{Policy: KeyAffinity, Targets: sites(3, 1, 2, 2), Rand: chance(99)}); fmt.Sprint(owners(t, other, 0, All)) != fmt.Sprint(before) {
		t.Error("two balancers disagree about keys")
	}
}

// D: after a return the share grows, for keys one by one.
func TestSlowStart(t *testing.T) {
	for _, policy := range Policies() {
		b := balancer(t, Config{Policy: policy, Targets: sites(1, 1)})
		b.Verdict(0, 0, false)
		b.Verdict(time.Minute, 0, true)
		last := 0.0
		for _, at := range []time.Duration{0, 5 * time.Second, 10 * time.Second} {
			share := counted(t, b, time.Minute+at, 10_000)[0] / 10_000
			want := 0.5 * (0.1 + 0.9*at.Seconds()/10)
			if math.Abs(share-want) > 0.03 || share <= last {
				t.Errorf("%s: share %.3f after %s, want about %.3f", policy, share, at, want)
			}
			last = share
		}
	}
	b := balancer(t, Config{Policy: KeyAffinity, Targets: sites(1, 1)})
	settled := owners(t, b, 0, All)
	b.Verdict(0, 0, false)
	b.Verdict(0, 0, true)
	back := make([]bool, len(settled))
	for at := time.Duration(0); at <= 10*time.Second; at += time.Second {
		for i, now := range owners(t, b, at, All) {
			if settled[i] != 0 && now == 0 || back[i] && now != 0 {
				t.Fatalf("key %d moved more than once", i)
			}
			back[i] = now == 0
		}
	}
}

func TestPicksAreSafeTogether(t *testing.T) {
	for _, policy := range Policies() {
		b := balancer(t, Config{Policy: policy, Targets: sites(1, 2, 3)})
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				for i := range 500 {
					now := time.Duration(i) * time.Millisecond
					if g == 0 && i%50 == 0 {
						b.Verdict(now, 1, i%100 == 0)
						b.Healthy(now)
					}
					p, ok := b.Pick(now, []byte("k"), All)
					if !ok {
						t.Error("nothing was picked")
						return
					}
					b.Done(now, p.Target, Outcome(i%3), time.Millisecond)
				}
			})
		}
		wg.Wait()
		for i := range b.targets {
			if n := b.targets[i].inFlight; n != 0 {
				t.Errorf("%s: %d in flight at target %d at the end", policy, n, i)
			}
		}
	}
}

// The short ways to a logarithm and a decay are compared with the long ones.
func TestNumbers(t *testing.T) {
	r := rand.New(chance(3))
	for i := range 100_000 {
		u := unit(r.Uint64())
		switch i % 4 {
		case 0:
			u = 1 - u/float64(uint64(1)<<(i%40))
		case 1:
			u /= float64(uint64(1) << (i % 40))
		}
		if u >= 1 {
			continue
		}
		if got, want := logarithm(u), math.Log(u); math.Abs(got-want) > 1e-8*math.Abs(want) {
			t.Fatalf("ln(%v) = %v, want %v", u, got, want)
		}
	}
	for x := 0.0; x < 10; x += 0.01 {
		if got, want := left(x), math.Exp(-x); got < want-1e-9 || got > want+0.02 {
			t.Fatalf("left(%.2f) = %v, want about %v", x, got, want)
		}
	}
}
