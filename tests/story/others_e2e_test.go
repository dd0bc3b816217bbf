//go:build e2e

package story

import (
	"testing"
	"time"

	"spillway/tests/clients"
	"spillway/tests/orders/check"
	"spillway/tests/world"
)

// Libraries that the other stories do not have go on by themselves through whatever happens:
// planned moves, the death of the gateway that they speak to, its return, and the loss of the
// site that serves. Two sites acknowledge, so nothing may be missing at all.
func TestOtherClientsGoOn(t *testing.T) {
	w := world.Start(t, world.Options{Automatic: true, AckSites: 2, ReservedBlock: 2000, Control: hasty, MirrorApart: true, LeaderFirst: true})
	r := begin(t, w, lossRate, clients.Others)
	r.chapter("nothing happens")
	r.rest("east", 3, 2*time.Second)

	r.chapter("the group moves from site to site")
	for _, move := range [][2]string{{"east", "west"}, {"west", "north"}, {"north", "east"}} {
		r.switchover(move[0], move[1])
		r.runOn(2 * time.Second)
	}

	r.chapter("the gateway of west is killed, and comes back")
	r.must(w.Spillway("west").Kill())
	r.runOn(5 * time.Second)
	w.StartServing("west")
	r.eventuallyHealthy()

	r.chapter("everything of east dies")
	r.lose(&loss{what: "the whole site died, two had to acknowledge", site: "east", bound: resumeAfterSite, act: func() { w.LoseSite("east") }})
	r.runOn(3 * time.Second)
	w.ReturnSite("east")
	r.home("east")

	report := r.finish(check.Expect{Home: "east"})
	r.judgeLosses(report)
	if n := report.Figures.LostAnnounced; n > 0 {
		t.Errorf("%d acknowledged records are missing", n)
	}
}
