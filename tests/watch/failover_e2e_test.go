//go:build e2e

package watch

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/dashboards"
	"spillway/tests/orders"
	"spillway/tests/orders/history"
	"spillway/tests/world"
)

// watcher tells the story and keeps what Prometheus said.
type watcher struct {
	*world.World
	t     *testing.T
	begun time.Time
	seen  *prometheus
	scope dashboards.Scope
	pages []dashboards.Dashboard
	fired map[string]string // by alert: when and with which labels
}

// elsewhere are the alerts that this story cannot provoke, and where they are shown.
var elsewhere = map[string]string{
	// The mirror's principal may do everything here, and a broker that hangs is another story.
	"GroupPositionsOld": "dashboards/testdata/rules_test.yml fires it, mirror.TestAGroupThatIsNotCarriedIsTold and telemetry.TestTheAgeOfGroupsIsShown have its metric",
	// No group here exists for drills; cmd/spillway.TestRealDrills holds some.
	"DrillFailed":  "dashboards/testdata/rules_test.yml fires it, telemetry.TestDrillsAreShown has its metric",
	"DrillOverdue": "dashboards/testdata/rules_test.yml fires it, telemetry.TestDrillsAreShown has its metric",
	// The clients here do not log in, so gateways have no list of rights.
	"RightsOld": "dashboards/testdata/rules_test.yml fires it, telemetry.TestTheAgeOfRightsIsShown has its metric",
	// The topics of this story are not compacted, and it does not last for hours.
	"DeletionsMissedSoon": "dashboards/testdata/rules_test.yml fires it, telemetry.TestDeletionsBehindAreShown has its metric, mirror.TestJudgeLate what that is made of",
}

// One story provokes every alert but those and moves every panel: somebody leaves a
// transaction open, somebody writes past the mirror, the standby freezes, the coordinator store is lost, and then the
// active site; a person fails the group over, and the site returns.
func TestFailoverIsSeen(t *testing.T) {
	w := &watcher{t: t, begun: time.Now(), fired: map[string]string{}, scope: dashboards.Scope{Range: "5m", RateInterval: "5s"}}
	w.World = world.Start(t, world.Options{Sites: []string{"east", "west"}, Consuls: 1, Mirror: "transactionWait: 5s"})
	w.watch()
	w.load()

	w.await("inactive", w.allAlerts()...)
	w.look("before", func(e expected) string { return e.before })
	wrong := time.Now()

	w.chapter("a client leaves a transaction open at the active site")
	end := w.leaveOpen("east")
	w.await("firing", "TransactionHanging")
	end()
	w.await("inactive", "TransactionHanging")

	w.chapter("a client writes to the standby, and its brokers freeze")
	w.writePastMirror("west")
	w.await("firing", "ForeignWriter", "GapLogged")
	w.run("automation", "pause", "--why", "somebody writes past the mirror")
	w.must(w.Kafka["west"].Pause())
	w.await("firing", "SiteDown", "GroupNotSafeToFailOver", "FlowLagging", "LagBeyondLimit")
	w.must(w.Kafka["west"].Resume())
	w.await("inactive", "SiteDown", "GroupNotSafeToFailOver", "FlowLagging", "LagBeyondLimit", "ForeignWriter", "GapLogged")

	w.chapter("the coordinator store is lost, and comes back")
	w.must(w.Consul.Servers[0].Kill())
	w.await("firing", "CoordinatorUnavailable", "GatewayLeaseLost")
	w.must(w.Consul.Servers[0].Start(t.Context()))
	w.await("inactive", w.allAlerts()...)

	w.chapter("the active site is lost, a person fails over")
	w.Eventually(20*time.Second, "both mirrors say again how far they are", func() error {
		got, err := w.seen.instant(t.Context(), `count(spillway_flow_lag_records{source="east", target="west"})`, time.Now())
		if err != nil {
			return err
		}
		return holds(got, "=2", false)
	})
	w.KillSite("east")
	w.await("firing", "SiteDown", "GroupNotServed", "ProcessSilent", "FlowStopped")
	w.Eventually(20*time.Second, "nothing is acknowledged", func() error {
		got, err := w.seen.instant(t.Context(), "sum(rate(spillway_gateway_produced_records_total[5s]))", time.Now())
		if err != nil {
			return err
		}
		return holds(got, "=0", false)
	})
	w.run("failover", world.Group, "--to", "west", "--accept-loss", "-1")
	w.await("inactive", "GroupNotServed")
	w.await("firing", "GroupNotSafeToFailOver")

	w.chapter("the site returns")
	w.run("automation", "resume")
	w.RestartSite("east")
	w.await("inactive", w.allAlerts()...)
	w.look("after", func(e expected) string { return e.after })

	// That look made sure of some scrapes since the last alert ended; the one
	// that ended it may be too young to be seen by a range query.
	w.lookBack(wrong, time.Now())
	for _, name := range w.allAlerts() {
		if (w.fired[name] == "") != (elsewhere[name] != "") {
			t.Errorf("alert %s: fired %q, shown elsewhere %q", name, w.fired[name], elsewhere[name])
		}
		t.Logf("%-24s %s", name, w.fired[name])
	}
}

// watch starts Prometheus over both sites, with the hastened rules.
func (w *watcher) watch() {
	var targets []string
	for _, site := range w.Sites {
		targets = append(targets, w.MetricsAddress(site))
	}
	var err error
	if w.pages, err = dashboards.All(); err != nil {
		w.t.Fatal(err)
	}
	w.seen, err = startPrometheus(w.t.TempDir(), hasten(dashboards.Rules()), targets)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := w.seen.process.Kill(); err != nil {
			w.t.Error(err)
		}
	})
}

// load lets two producers and a group of consumers work until the test's end.
func (w *watcher) load() {
	load, err := orders.Start(context.Background(), orders.Config{
		Bootstrap: w.Bootstrap, Partitions: w.Options.Partitions, Seed: 1, RecordsPerSecond: 200,
		Producers: []orders.Producer{{Name: "franz"}, {Name: "sarama", Library: orders.Sarama}},
		Readers:   []orders.Reader{{Name: "readers", Group: "readers", Members: 2}},
	}, history.NewRecorder(io.Discard))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		progress, _ := load.Finish(ctx) // it is cut off, which other tests judge
		w.t.Logf("load: %+v", progress)
	})
	w.Eventually(time.Minute, "records are acknowledged and read", func() error {
		if p := load.Progress(); p.Acked < 1000 || p.Read < 1000 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}

func (w *watcher) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *watcher) chapter(title string) {
	w.t.Logf("%5.1fs  %s", time.Since(w.begun).Seconds(), title)
}

// run runs a command with the configuration of west, which lives all the time.
func (w *watcher) run(args ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 90*time.Second)
	defer cancel()
	out, err := w.Run(ctx, "west", args...)
	if err != nil {
		w.t.Fatalf("spillway %s: %v", strings.Join(args, " "), err)
	}
	w.t.Logf("spillway %s\n%s", strings.Join(args, " "), out)
}

// writePastMirror is a program with credentials that it should not have.
func (w *watcher) writePastMirror(site string) {
	w.t.Helper()
	cl, err := kgo.NewClient(append(w.Kafka[site].Dial(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	w.must(err)
	defer cl.Close()
	for range 3 {
		w.must(cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: "orders", Partition: 0, Value: []byte("past the mirror")}).FirstErr())
	}
}

// leaveOpen is a program that goes round the gateways and hangs in a transaction until
// it is told to end.
func (w *watcher) leaveOpen(site string) (end func()) {
	w.t.Helper()
	cl, err := kgo.NewClient(append(w.Kafka[site].Dial(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("hangs"), kgo.TransactionTimeout(10*time.Minute))...)
	w.must(err)
	w.t.Cleanup(cl.Close)
	w.must(cl.BeginTransaction())
	w.must(cl.ProduceSync(w.t.Context(), &kgo.Record{Topic: "orders", Partition: 0, Value: []byte("open")}).FirstErr())
	return func() {
		w.t.Helper()
		w.must(cl.EndTransaction(w.t.Context(), kgo.TryAbort))
	}
}

func (w *watcher) allAlerts() []string {
	all, err := w.seen.alerts(w.t.Context())
	w.must(err)
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// await waits until all these alerts are in a state, and notes what fired.
func (w *watcher) await(state string, names ...string) {
	w.t.Helper()
	waiting := names
	w.Eventually(90*time.Second, fmt.Sprintf("alerts are %s: %s", state, strings.Join(names, ", ")), func() error {
		all, err := w.seen.alerts(w.t.Context())
		if err != nil {
			return err
		}
		waiting = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return all[name].State == state })
		for name, a := range all {
			w.note(name, a)
		}
		if len(waiting) > 0 {
			return fmt.Errorf("not yet: %s", strings.Join(waiting, ", "))
		}
		return nil
	})
	w.t.Logf("%5.1fs  %s: %s", time.Since(w.begun).Seconds(), state, strings.Join(names, ", "))
}

func (w *watcher) note(name string, a alert) {
	if a.State != "firing" || w.fired[name] != "" {
		return
	}
	for _, one := range a.Alerts {
		if one.State != "firing" {
			continue
		}
		if one.Labels["severity"] == "" || one.Annotations["runbook_url"] == "" || strings.Contains(one.Annotations["description"], "<no value>") {
			w.t.Errorf("alert %s: labels %v, annotations %v", name, one.Labels, one.Annotations)
		}
		w.fired[name] = fmt.Sprintf("fired at %5.1fs: %s", time.Since(w.begun).Seconds(), one.Annotations["description"])
		return
	}
}

// look asks all queries until each showed what it should.
func (w *watcher) look(when string, want func(expected) string) {
	w.t.Helper()
	count, deadline := 0, time.Now().Add(45*time.Second)
	for _, page := range w.pages {
		open := queries(page)
		count += len(open)
		for len(open) > 0 {
			wrong := map[string]error{}
			for name, q := range open {
				got, err := w.seen.instant(w.t.Context(), w.scope.Fill(q.Expr), time.Now())
				if err == nil {
					err = holds(got, want(expectations[page.UID][name]), false)
				}
				if err == nil {
					delete(open, name)
				} else {
					wrong[name] = fmt.Errorf("%w\n%s", err, q.Expr)
				}
			}
			if time.Now().After(deadline) {
				for name, err := range wrong {
					w.t.Errorf("%s, %s: %q: %v", page.UID, when, name, err)
				}
				break
			}
			time.Sleep(200 * time.Millisecond) // between two looks
		}
	}
	w.t.Logf("%5.1fs  %d queries were asked %s", time.Since(w.begun).Seconds(), count, when)
}

// lookBack asks all queries what they showed while things were wrong.
func (w *watcher) lookBack(from, to time.Time) {
	w.t.Helper()
	count := 0
	for _, page := range w.pages {
		for name, q := range queries(page) {
			count++
			got, err := w.seen.between(w.t.Context(), w.scope.Fill(q.Expr), from, to)
			if err == nil {
				err = holds(got, expectations[page.UID][name].during, true)
			}
			if err != nil {
				w.t.Errorf("%s, while things were wrong: %q: %v\n%s", page.UID, name, err, q.Expr)
			}
		}
	}
	w.t.Logf("%5.1fs  %d queries were asked about the %s in which things were wrong", time.Since(w.begun).Seconds(), count, to.Sub(from).Round(time.Second))
}
