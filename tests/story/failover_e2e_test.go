//go:build e2e

package story

import (
	"path/filepath"
	"testing"
	"time"

	"spillway/tests/clients"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/world"
)

// hasty are the settings of the control role with which a site whose machine lives
// is found dead after 1.5 s, and a failover may follow soon after another move. A
// probe may take as long as by default: everything runs on two cores, and a site that
// is slow is not dead.
const hasty = "probeInterval: 500ms, holdDown: 2s"

// lossRate is the load, in records a second. Most of its batches have one record,
// and a site that comes back takes five batches of each partition in a round trip: it
// has to be several times faster than this to catch up, on a machine of two cores that
// runs all three sites.
const lossRate = 200

// How soon acknowledgements must go on after a loss.
const (
	resumeAfterBrokers = 5 * time.Second
	resumeAfterSite    = 15 * time.Second
	// A producer that hears nothing at all waits for its own request to time out
	// and then for a sequence that will never come.
	resumeAfterHole = 35 * time.Second
	// slack is for a machine of two cores that runs thirty processes, and may share
	// them with others: a run prints the times, and fails for those of a client that
	// does not go on by itself.
	slack = 15 * time.Second
)

// A site that serves seven kinds of clients is lost three times: its brokers
// alone, then everything that it has with the Consul leader, then its network.
// The last two times at least 500 of its acknowledged records are nowhere else.
// Each time the others serve by themselves; what is missing lies within what was
// announced, is listed exactly once the site is back, and nothing else is wrong.
func TestASiteIsLost(t *testing.T) {
	w := world.Start(t, world.Options{Automatic: true, ReservedBlock: 2000, Control: hasty, MirrorApart: true, Isolated: "east", LeaderFirst: true})
	r := begin(t, w, lossRate, clients.Usual)
	inside := r.inside("east")

	r.chapter("the brokers of east die")
	r.lose(&loss{what: "only the brokers died", site: "east", bound: resumeAfterBrokers, act: func() { r.must(w.Kafka["east"].Kill()) }})
	r.must(w.Kafka["east"].Restart(t.Context()))
	r.home("east")

	r.chapter("everything of east dies, and the Consul leader with it")
	leader, err := w.Consul.Leader(t.Context())
	r.must(err)
	if leader != w.ConsulOf("east") {
		t.Logf("the Consul leader is %s, not the server of east: it has moved", leader.Name)
	}
	r.lose(&loss{what: "the whole site died", site: "east", ahead: 500, bound: resumeAfterSite, act: func() { w.LoseSite("east") }})
	r.runOn(3 * time.Second)
	w.ReturnSite("east")
	r.home("east")

	r.chapter("the network of east becomes a black hole")
	hole := &loss{what: "the site became a black hole", site: "east", ahead: 500, bound: resumeAfterHole, act: w.Cut}
	r.lose(hole)
	r.runOn(time.Until(hole.at.Add(resumeAfterHole)))
	w.Heal()
	hole.back = time.Now()
	r.home("east")

	report := r.finish(check.Expect{Home: "east"})
	r.judgeLosses(report)
	r.unanswered(inside, hole)
}

// With ack.sites 2 the same loses nothing, also when the site that the group has to
// go to is behind the third one, which is drained, and acknowledgements wait.
func TestASiteIsLostAfterTwoHadAcknowledged(t *testing.T) {
	w := world.Start(t, world.Options{Automatic: true, AckSites: 2, ReservedBlock: 2000, Control: hasty, MirrorApart: true, LeaderFirst: true})
	r := begin(t, w, lossRate, clients.Usual)
	l := &loss{what: "the whole site died, two had to acknowledge", site: "east", inFlight: 100, bound: resumeAfterSite, act: func() { w.LoseSite("east") },
		prepare: func() { // west falls behind north, which acknowledgements need now
			// Or the failover could go to north, which lacks less.
			_, err := w.Run(t.Context(), "east", "site", "drain", "north", "--why", "north is the site that is ahead")
			r.must(err)
			r.must(w.Mirror("west").Pause())
			r.runOn(2 * time.Second)
		}}
	r.lose(l)
	r.runOn(3 * time.Second)
	w.ReturnSite("east")
	r.home("east")
	report := r.finish(check.Expect{Home: "east"})
	r.judgeLosses(report)
	if n := report.Figures.LostAnnounced; n > 0 {
		t.Errorf("%d acknowledged records are missing", n)
	}
	r.fromSurvivor(l, "north")
	r.answersLost(l)
}

// Three releases of Kafka serve one group: planned moves through all of them,
// and the loss of the oldest.
func TestASiteIsLostAmongThreeVersions(t *testing.T) {
	w := world.Start(t, world.Options{
		Automatic: true, ReservedBlock: 2000, Control: hasty, MirrorApart: true, LeaderFirst: true,
		Versions: map[string]string{"east": "3.9.2", "west": "4.3.1", "north": "4.4.0"},
	})
	r := begin(t, w, lossRate, clients.Usual)
	for _, move := range [][2]string{{"east", "north"}, {"north", "west"}, {"west", "east"}} {
		r.switchover(move[0], move[1])
	}
	r.runOn(2 * time.Second) // the hold-down after a move
	r.lose(&loss{what: "the whole site of the oldest release died", site: "east", ahead: 500, bound: resumeAfterSite, act: func() { w.LoseSite("east") }})
	r.runOn(3 * time.Second)
	w.ReturnSite("east")
	r.home("east")
	r.judgeLosses(r.finish(check.Expect{Home: "east"}))
}

// inside starts a producer that lives at a site, and shares its network.
func (r *run) inside(site string) string {
	r.t.Helper()
	c, err := clients.Start(r.t.Context(), clients.Spec{
		Kind: "python", Name: "inside", Roles: []string{history.Producer}, Bootstrap: r.w.Bootstrap, Topics: orders.Topics,
		Partitions: int(r.w.Options.Partitions), Rate: 50, Dir: r.w.Dir(), Network: r.w.Network(site),
	})
	r.must(err)
	r.t.Cleanup(c.Kill)
	r.apart = append(r.apart, c)
	return "inside-" + history.Producer
}

// runOn lets all clients work: it is the length of the run, nothing is waited for.
func (r *run) runOn(d time.Duration) { time.Sleep(d) }

func (r *run) chapter(what string) {
	r.t.Logf("chapter: %s (histories in %s)", what, filepath.Base(r.w.Dir()))
}

func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) eventuallyHealthy() {
	r.t.Helper()
	r.w.Eventually(60*time.Second, "all sites follow", func() error { return r.w.Healthy(r.t.Context()) })
}
