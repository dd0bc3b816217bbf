package lb

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// fail lets n picks of a target fail in a row.
func fail(b *Balancer, now time.Duration, target, n int) (last Ejection, ejected bool) {
	for range n {
		b.Pick(now, nil, Of(target))
		if e, yes := b.Done(now, target, Failed, time.Millisecond); yes {
			last, ejected = e, true
		}
	}
	return last, ejected
}

func TestFailuresInARowEject(t *testing.T) {
	b := balancer(t, Config{Policy: RoundRobin, Targets: sites(1, 1, 1), SlowStart: -1})
	if _, yes := fail(b, 0, 1, 4); yes {
		t.Fatal("ejected after 4 failures")
	}
	picked(t, b, 0, "", Of(1))
	if _, yes := fail(b, 0, 1, 4); yes {
		t.Fatal("a success does not end the row")
	}
	b.Pick(0, nil, Of(1))
	b.Done(0, 1, Unknown, 0) // says nothing
	e, yes := fail(b, 0, 1, 1)
	if !yes || e.Target != 1 || e.Why != "5 failures in a row" || e.For < 4*time.Second || e.For > 5*time.Second {
		t.Fatalf("ejection %v %+v", yes, e)
	}
	if got := b.Healthy(e.For - 1); got != Of(0, 2) {
		t.Errorf("healthy are %b", got)
	}
	if got := counted(t, b, e.For-1, 30); got[1] != 0 {
		t.Errorf("an ejected target was picked: %v", got)
	}
	if got := counted(t, b, e.For, 30); got[1] != 10 {
		t.Errorf("it is not back: %v", got)
	}
	// The next one is longer, up to a bound; in good times that is forgotten.
	now, last := e.For, e.For
	for range 15 {
		e, yes = fail(b, now, 1, 5)
		if !yes || e.For > time.Minute {
			t.Fatalf("ejection %v %+v", yes, e)
		}
		now, last = now+e.For, e.For
	}
	if last < 48*time.Second {
		t.Errorf("after 16 ejections the next one takes %s", last)
	}
	for range 20 {
		now += 10 * time.Second
		picked(t, b, now, "", Of(1))
	}
	if e, _ = fail(b, now, 1, 5); e.For > 5*time.Second {
		t.Errorf("after good times an ejection takes %s", e.For)
	}
}

func TestShareOfFailuresEjects(t *testing.T) {
	b := balancer(t, Config{Policy: RoundRobin, Targets: sites(1, 1, 1)})
	for i := range 30 {
		e, yes := fail(b, 0, 2, 1)
		if yes != (i == 10) {
			t.Fatalf("after %d of each kind: %v %+v", i, yes, e)
		}
		if yes {
			if e.Why != "11 of 21 failed within 10s" {
				t.Errorf("why: %s", e.Why)
			}
			return
		}
		b.Pick(0, nil, Of(2))
		b.Done(0, 2, Succeeded, time.Millisecond)
	}
}

func TestLateAnswersEject(t *testing.T) {
	b := balancer(t, Config{Policy: RoundRobin, Targets: sites(1, 1), Outliers: Outliers{LatencyMax: time.Second}})
	for i := range 5 {
		b.Pick(0, nil, Of(0))
		e, yes := b.Done(0, 0, Succeeded, time.Second+1)
		if yes != (i == 4) || yes && !strings.Contains(e.Why, "more than 1s") {
			t.Fatalf("%d late answers: %v %+v", i+1, yes, e)
		}
	}
}

// B, with targets that all fail.
func TestEjectionsAreBounded(t *testing.T) {
	for n, most := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 10: 5} {
		weights := make([]int, n)
		for i := range weights {
			weights[i] = 1
		}
		b := balancer(t, Config{Policy: RoundRobin, Targets: sites(weights...)})
		out := 0
		for i := range n {
			if _, yes := fail(b, 0, i, 50); yes {
				out++
			}
		}
		if out != most {
			t.Errorf("%d of %d are ejected, want %d", out, n, most)
		}
	}
	b := balancer(t, Config{Policy: RoundRobin, Targets: sites(1, 1)})
	fail(b, 0, 0, 5)
	b.Verdict(0, 1, false)
	if p := picked(t, b, 0, "", All); p != (Pick{0, AllEjected}) {
		t.Errorf("the others are down: %+v", p)
	}
	b.Verdict(0, 1, true)
	if p := picked(t, b, 0, "", All); p.Target != 1 {
		t.Errorf("an ejected target is picked beside one that is up: %+v", p)
	}
}

func TestVerdictBeginsAnew(t *testing.T) {
	b := balancer(t, Config{Policy: RoundRobin, Targets: sites(1, 1), SlowStart: -1})
	fail(b, 0, 0, 5)
	b.Verdict(0, 0, false)
	b.Verdict(time.Second, 0, true)
	if got := counted(t, b, time.Second, 10); got[0] != 5 {
		t.Errorf("an ejection outlives the verdict: %v", got)
	}
}

// A and B hold whatever happens.
func TestInvariantsOnRandomInput(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(chance(seed))
		n := 1 + r.IntN(6)
		weights := make([]int, n)
		for i := range weights {
			weights[i] = 1 + r.IntN(9)
		}
		policy := Policies()[r.IntN(len(Policies()))]
		b := balancer(t, Config{Policy: policy, Targets: sites(weights...), Rand: chance(seed)})
		up, now, fails := Of()|1<<n-1, time.Duration(0), r.Float64()
		for range 3000 {
			now += time.Duration(r.IntN(200)) * time.Millisecond
			if r.IntN(40) == 0 {
				i := r.IntN(n)
				up ^= Of(i)
				b.Verdict(now, i, up.Has(i))
			}
			able := Set(r.Uint64())
			p, ok := b.Pick(now, []byte{byte(r.Uint64())}, able)
			if ok != (able&up != 0) || ok && !(able&up).Has(p.Target) {
				t.Fatalf("seed %d, %s: picked %+v (%v) of %b", seed, policy, p, ok, able&up)
			}
			if !ok {
				continue
			}
			ejected := b.ejected
			if ejected.Has(p.Target) != (p.Reason == AllEjected) {
				t.Fatalf("seed %d, %s: %+v while %b are ejected", seed, policy, p, ejected)
			}
			outcome := Succeeded
			if r.Float64() < fails {
				outcome = Failed
			}
			if e, yes := b.Done(now, p.Target, outcome, time.Millisecond); yes && (!up.Has(e.Target) || b.ejected&up == up) {
				t.Fatalf("seed %d, %s: %+v leaves nothing of %b", seed, policy, e, up)
			}
		}
	}
}
