package lb

import (
	"testing"
	"time"
)

const herdGateways, herdSites = 10, 3

// herd has gateways that know nothing of each other send to the same sites, whose
// latency grows with what all of them sent. Answers come a tick later, so all act on
// old news, as they do in practice. It returns the greatest share of a tick's picks
// that one site got, after a time to settle, and the mean of it.
func herd(t *testing.T, pick func(gateway int, now time.Duration) int, done func(gateway, site int, now, took time.Duration)) (most, mean float64) {
	t.Helper()
	const ticks, perTick = 400, 6
	type answer struct{ gateway, site int }
	var flying []answer
	latency := make([]time.Duration, herdSites)
	for tick := range ticks {
		now := time.Duration(tick) * 50 * time.Millisecond
		load := make([]int, herdSites)
		for _, a := range flying {
			done(a.gateway, a.site, now, latency[a.site])
		}
		flying = flying[:0]
		for range perTick {
			for g := range herdGateways {
				s := pick(g, now)
				load[s]++
				flying = append(flying, answer{g, s})
			}
		}
		top := 0.0
		for s, n := range load {
			latency[s] = 5*time.Millisecond + time.Duration(n*n)*20*time.Microsecond
			top = max(top, float64(n)/(herdGateways*perTick))
		}
		if tick >= 50 {
			most, mean = max(most, top), mean+top/(ticks-50)
		}
	}
	return most, mean
}

// E: a third of the picks is a site's fair share.
func TestGatewaysDoNotMoveInStep(t *testing.T) {
	for _, policy := range []Policy{RoundRobin, Weighted, LeastInFlight, LeastLatency} {
		var gateways []*Balancer
		first := make([]int, herdSites)
		for g := range herdGateways {
			b := balancer(t, Config{Policy: policy, Targets: sites(1, 1, 1), Rand: chance(uint64(g + 1))})
			gateways = append(gateways, b)
			p, _ := b.Pick(0, nil, All)
			b.Done(0, p.Target, Unknown, 0)
			first[p.Target]++
		}
		for s, n := range first {
			if n == 0 || n > herdGateways*7/10 {
				t.Errorf("%s: the first picks of %d gateways: %v (site %d)", policy, herdGateways, first, s)
			}
		}
		most, mean := herd(t, func(g int, now time.Duration) int {
			p, _ := gateways[g].Pick(now, nil, All)
			return p.Target
		}, func(g, s int, now, took time.Duration) { gateways[g].Done(now, s, Succeeded, took) })
		if most > 0.65 || mean > 0.5 {
			t.Errorf("%s: one site got %.2f of a tick's picks, %.2f on average", policy, most, mean)
		}
	}
}

// The measure above sees a herd where there is one: gateways that all take the site
// that answered soonest.
func TestAHerdIsSeen(t *testing.T) {
	var latency [herdGateways][herdSites]time.Duration
	most, mean := herd(t, func(g int, _ time.Duration) int {
		best := 0
		for s, l := range latency[g] {
			if l < latency[g][best] {
				best = s
			}
		}
		return best
	}, func(g, s int, _, took time.Duration) { latency[g][s] = took })
	if most < 0.9 || mean < 0.8 {
		t.Errorf("a herd counts as %.2f, %.2f on average", most, mean)
	}
}

// After an ejection gateways do not come back together.
func TestReturnsAreSpread(t *testing.T) {
	ends := map[time.Duration]bool{}
	least, most := time.Hour, time.Duration(0)
	for g := range uint64(herdGateways) {
		b := balancer(t, Config{Policy: RoundRobin, Targets: sites(1, 1, 1), Rand: chance(g)})
		e, yes := fail(b, 0, 0, 5)
		if !yes {
			t.Fatal("not ejected")
		}
		ends[e.For] = true
		least, most = min(least, e.For), max(most, e.For)
	}
	if len(ends) < herdGateways || most-least < 300*time.Millisecond {
		t.Errorf("%d gateways come back within %s", herdGateways, most-least)
	}
}
