package lb

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// processor is the time that this process has used: on a busy machine it says more
// than a clock does.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func measured(b *testing.B, do func(now time.Duration)) {
	b.ReportAllocs()
	now, began := time.Duration(0), processor(b)
	for b.Loop() {
		now += 10 * time.Nanosecond
		do(now)
	}
	b.ReportMetric(float64(processor(b)-began)/float64(b.N), "cpu-ns/op")
}

// round is a pick of three sites with its end, as one produce has it.
func round(b *Balancer, now time.Duration, key []byte) {
	p, _ := b.Pick(now, key, All)
	b.Done(now, p.Target, Succeeded, time.Millisecond)
}

// The goal is 50 ns and nothing allocated for a pick; "pick and done" is what a
// produce costs.
func BenchmarkPick(b *testing.B) {
	key := []byte("order-4711")
	for _, policy := range Policies() {
		for _, weights := range [][]int{{1, 1, 1}, {1, 2, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
			b.Run(fmt.Sprintf("%s/%v", policy, weights), func(b *testing.B) {
				lb := balancer(b, Config{Policy: policy, Targets: sites(weights...)})
				for range 100 {
					round(lb, 0, key)
				}
				measured(b, func(now time.Duration) { lb.Pick(now, key, All) })
			})
		}
	}
	b.Run("pick and done", func(b *testing.B) {
		lb := balancer(b, Config{Policy: LeastLatency, Targets: sites(1, 1, 1)})
		measured(b, func(now time.Duration) { round(lb, now, key) })
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
