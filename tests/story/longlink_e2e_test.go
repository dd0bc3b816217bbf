//go:build e2e

package story

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"spillway/tests/orders/check"
	"spillway/tests/world"
)

// How long switchovers hold producers where one of three sites is far away from the two others,
// and from the store's servers there: there and back in 0 to 80 ms. It is no stage.
func TestSwitchoversOverALongLink(t *testing.T) {
	const around = 3
	w := world.Start(t, world.Options{Isolated: "north"})
	r := begin(t, w, 200, nil)
	home := "east"
	for _, trip := range []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond, 80 * time.Millisecond} {
		end := func() world.Passed { return world.Passed{} }
		if trip > 0 {
			end = w.Detour(world.Weather{Delay: trip / 2})
			r.runOn(3 * time.Second)
		}
		held := make(map[string][]time.Duration)
		for range around {
			for _, leg := range []struct{ what, to string }{
				{"to the site that is far", "north"}, {"away from it", "west"}, {"between the others", "east"},
			} {
				r.switchover(home, leg.to)
				home = leg.to
				held[leg.what] = append(held[leg.what], r.holds[len(r.holds)-1])
			}
		}
		for what, of := range held {
			slices.Sort(of)
			fmt.Printf("measured: %3d ms there and back, %-24s held %d ms, median %d\n", trip.Milliseconds(), what, milliseconds(of), of[len(of)/2].Milliseconds())
		}
		t.Logf("on the link: %v", end())
	}
	r.finish(check.Expect{Home: home})
}
