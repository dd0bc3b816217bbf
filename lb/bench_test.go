package lb

import (
	"fmt"
	"testing"
	"time"
)

// rounds is a pick of three sites with its end, as one produce has it.
func round(b *Balancer, now time.Duration, key []byte) {
	p, _ := b.Pick(now, key, All)
	b.Done(now, p.Target, Succeeded, time.Millisecond)
}

// The goal is 50 ns and nothing allocated for a pick; "pick and done" is what a
// produce costs.
func BenchmarkPick(b *testing.B) {
	key := []byte("order-4711")
	for _, policy := range Policies() {
		for _, n := range []int{3, 10} {
			weights := make([]int, n)
			for i := range weights {
				weights[i] = 1 + i
			}
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				lb := balancer(b, Config{Policy: policy, Targets: sites(weights...)})
				for range 100 {
					round(lb, 0, key)
				}
				b.ReportAllocs()
				now := time.Duration(0)
				for b.Loop() {
					now += time.Microsecond
					lb.Pick(now, key, All)
				}
			})
		}
	}
	b.Run("pick and done", func(b *testing.B) {
		lb := balancer(b, Config{Policy: LeastLatency, Targets: sites(1, 1, 1)})
		b.ReportAllocs()
		now := time.Duration(0)
		for b.Loop() {
			now += time.Microsecond
			round(lb, now, key)
		}
	})
}

func TestPicksAllocateNothing(t *testing.T) {
	key := []byte("order-4711")
	for _, policy := range Policies() {
		b := balancer(t, Config{Policy: policy, Targets: sites(1, 2, 3)})
		b.Verdict(0, 0, false)
		b.Verdict(0, 0, true) // in slow start
		now := time.Duration(0)
		if n := testing.AllocsPerRun(1000, func() { now += time.Millisecond; round(b, now, key) }); n != 0 {
			t.Errorf("%s: %v allocations", policy, n)
		}
	}
}
