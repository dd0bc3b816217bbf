//go:build e2e

package story

import (
	"testing"
	"time"

	"spillway/tests/clients"
	"spillway/tests/orders/check"
	"spillway/tests/world"
)

// Twenty switchovers under 2,000 records a second lose, repeat and reorder
// nothing, and every reader goes on at the next record.
func TestTwentySwitchovers(t *testing.T) { goAround(t, clients.Usual, 10, 20) }

// A hundred switchovers with two libraries only, so that the machine is not full and the
// times are those of the moves. It is no stage.
func TestAHundredSwitchovers(t *testing.T) { goAround(t, nil, 20, 100) }

// goAround lets all clients, or those of two libraries only, work for some stretches without
// a move, and moves the group from site to site then.
func goAround(t *testing.T, others []clients.Spec, rests, moves int) {
	w := world.Start(t, world.Options{})
	r := begin(t, w, 2000, others)
	home := 0
	r.rest(w.Sites[home], rests, 2*time.Second)
	for range moves {
		next := (home + 1) % len(w.Sites)
		r.switchover(w.Sites[home], w.Sites[next])
		home = next
	}
	r.finish(check.Expect{Home: w.Sites[home]})
}
