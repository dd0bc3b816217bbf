//go:build e2e

package story

import (
	"testing"
	"time"

	"spillway/tests/orders/check"
	"spillway/tests/world"
)

// Twenty switchovers under 2,000 records a second lose, repeat and reorder
// nothing, and every reader goes on at the next record.
func TestTwentySwitchovers(t *testing.T) {
	w := world.Start(t, world.Options{})
	r := begin(t, w, 2000, true)
	home := 0
	r.rest(w.Sites[home], 10, 2*time.Second)
	for range 20 {
		next := (home + 1) % len(w.Sites)
		r.switchover(w.Sites[home], w.Sites[next])
		home = next
	}
	r.finish(check.Expect{Home: w.Sites[home]})
}

// A hundred switchovers with two libraries only, so that the machine is not full and the
// times are those of the moves. It is no stage: docs/performance.md has its figures.
func TestAHundredSwitchovers(t *testing.T) {
	w := world.Start(t, world.Options{})
	r := begin(t, w, 2000, false)
	home := 0
	r.rest(w.Sites[home], 20, 2*time.Second)
	for range 100 {
		next := (home + 1) % len(w.Sites)
		r.switchover(w.Sites[home], w.Sites[next])
		home = next
	}
	r.finish(check.Expect{Home: w.Sites[home]})
}
