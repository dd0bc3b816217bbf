//go:build e2e

// Package story tells the main story on real parts: Apache Kafka at three
// sites, Consul, one Spillway process per site, and unmodified clients of seven
// libraries at once, judged by a checker that trusts none of them.
package story

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/federation/failover"
	account "spillway/federation/history"
	"spillway/tests/clients"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
	"spillway/tests/world"
)

// run is a workload of all clients on a world.
type run struct {
	t    *testing.T
	w    *world.World
	told *os.File
	load *orders.Workload
	// finished is true when the workload has been asked to come to its end.
	finished bool
	rec      *history.Recorder
	other    []*clients.Client
	apart    []*clients.Client                  // producers that end before all others: they may have much to catch up with
	holds    []time.Duration                    // of the switchovers, from FENCING to OPEN
	steps    map[failover.State][]time.Duration // of the switchovers, until each state

	losses []*loss
	sites  []*check.Site // their logs, read by finish
}

// begin starts the order workload with half of the rate and, if there are others, the
// clients of other languages with the other half; it returns when every one of
// them has been served.
func begin(t *testing.T, w *world.World, rate float64, others []clients.Spec) *run {
	t.Helper()
	r := &run{t: t, w: w}
	var err error
	if r.told, err = os.Create(filepath.Join(w.Dir(), "orders.jsonl")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.told.Close() })
	r.rec = history.NewRecorder(r.told)
	own := rate
	if len(others) > 0 {
		own = rate / 2
		r.other = clients.ForTest(t, clients.Load{
			Clients: others, Bootstrap: w.Bootstrap, Topics: orders.Topics, Partitions: int(w.Options.Partitions), Rate: own / float64(len(others)),
			Dir: w.Dir(), Classic: !w.From("4.0"),
		})
	}
	producers, readers := orders.BothLibraries()
	r.load, err = orders.Start(context.Background(), orders.Config{
		Bootstrap: w.Bootstrap, Partitions: w.Options.Partitions, Seed: 1, RecordsPerSecond: own, InFlight: 128,
		Producers: producers, Readers: readers,
	}, r.rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.abandon)
	w.Eventually(90*time.Second, "the order workload is served", r.served)
	return r
}

// abandon ends the workload of a test that failed. Its clients would go on while the
// next test's world has their ports, and take the answers of an HTTP server for a
// broker's: sarama makes room for the 1.2 GB that "HTTP" means as a length.
func (r *run) abandon() {
	if r.finished {
		return
	}
	ended, end := context.WithCancel(context.Background())
	end()
	_, _ = r.load.Finish(ended) // the test has failed for a better reason
}

// served returns an error while the order workload has no first records.
func (r *run) served() error {
	if p := r.load.Progress(); p.Acked == 0 || p.Read == 0 {
		return fmt.Errorf("the order workload: %+v", p)
	}
	return nil
}

// switchover moves the group by the command line and marks it in the history.
func (r *run) switchover(from, to string) {
	r.t.Helper()
	r.must(r.move(from, to))
}

// move returns an error where the command says that the group was not moved.
func (r *run) move(from, to string) error {
	r.t.Helper()
	r.w.Eventually(30*time.Second, "all sites follow", func() error { return r.w.Healthy(r.t.Context()) })
	r.load.Mark(history.Event{Name: history.MoveStart, Move: history.Switchover, From: from, To: to})
	ctx, cancel := context.WithTimeout(r.t.Context(), 4*time.Minute)
	defer cancel()
	// Three sites and seven kinds of clients share two cores: mirrors fall behind, and
	// catch up while clients are held.
	out, err := r.w.Run(ctx, to, "switchover", world.Group, "--to", to, "--timeout", "2m", "--behind-max", "30s")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	var share failover.Share
	if err := r.w.Share(ctx, to, &share); err != nil {
		return err
	}
	at := make(map[failover.State]time.Time)
	if r.steps == nil {
		r.steps = make(map[failover.State][]time.Duration)
	}
	for i, p := range share.Passages {
		at[p.State] = p.At
		if i > 0 {
			r.steps[p.State] = append(r.steps[p.State], p.At.Sub(share.Passages[i-1].At))
		}
	}
	hold := at[failover.Open].Sub(at[failover.Fencing])
	r.holds = append(r.holds, hold)
	r.t.Logf("switchover from %s to %s: groups drained for %s, producers held for %s", from, to,
		at[failover.Fencing].Sub(at[failover.Draining]).Round(time.Millisecond), hold.Round(time.Millisecond))
	r.load.Mark(history.Event{Name: history.MoveEnd, Move: history.Switchover, From: from, To: to})
	return nil
}

// rest lets all clients work for n stretches without a move: how long producers wait
// there is what the machine and the clients have of the times at moves.
func (r *run) rest(home string, n int, each time.Duration) {
	for range n {
		r.load.Mark(history.Event{Name: history.MoveStart, Move: history.NoMove, From: home, To: home})
		r.runOn(each)
		r.load.Mark(history.Event{Name: history.MoveEnd, Move: history.NoMove, From: home, To: home})
	}
}

// finish ends all clients in order and judges what they were told.
func (r *run) finish(expect check.Expect) *check.Report {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	if err := clients.Stop(r.apart, 2*time.Minute); err != nil {
		r.t.Error(err)
	}
	others := make(chan error, 1)
	go func() { others <- clients.Stop(r.other, 2*time.Minute) }()
	r.finished = true
	progress, err := r.load.Finish(ctx)
	if err != nil {
		r.t.Error(err)
	}
	if err := <-others; err != nil {
		r.t.Error(err)
	}
	r.t.Logf("the order workload: %+v", progress)
	if err := r.rec.Flush(); err != nil {
		r.t.Fatal(err)
	}
	if len(expect.Behind) == 0 {
		r.w.Eventually(time.Minute, "all sites have caught up", func() error { return r.w.Healthy(r.t.Context()) })
	}
	expect = r.expected(expect)
	for _, site := range r.w.Sites {
		s, err := sitelog.Read(r.t.Context(), r.w.SiteLog(site), orders.Topics...)
		if err != nil {
			r.t.Fatal(err)
		}
		r.sites = append(r.sites, s)
	}
	var report *check.Report
	r.replay(func(events iter.Seq2[history.Event, error]) {
		if report, err = check.Run(events, r.sites, expect); err != nil {
			r.t.Fatal(err)
		}
	})
	r.tell(report)
	return report
}

// replay gives what all clients were told, in the order of time.
func (r *run) replay(to func(iter.Seq2[history.Event, error])) {
	r.t.Helper()
	if _, err := r.told.Seek(0, 0); err != nil {
		r.t.Fatal(err)
	}
	events, done, err := clients.Histories(slices.Concat(r.other, r.apart), history.Read(r.told))
	if err != nil {
		r.t.Fatal(err)
	}
	defer done()
	to(events)
}

// tell prints the figures that the closing note of a run quotes.
func (r *run) tell(report *check.Report) {
	var longest []string
	for producer, gap := range report.Figures.AckGapMax {
		if tells(producer) {
			longest = append(longest, fmt.Sprintf("%s %s", producer, gap.Round(time.Millisecond)))
		}
	}
	slices.Sort(longest)
	r.t.Logf("longest time without an acknowledgement in the whole run: %s", strings.Join(longest, ", "))
	if len(r.holds) > 0 {
		r.tellMoves(report.Figures.MoveGaps)
		r.tellForecasts()
	}
	r.t.Logf("counts: %v", report.Counts)
	f := report.Figures
	r.t.Logf("sent %d, acknowledged %d, failed %d, read %d; announced loss %d of %d offsets; resent by plain producers %d",
		f.Sent, f.Acked, f.Failed, f.Read, f.LostAnnounced, f.AnnouncedSize, f.Resent)
	if !report.OK {
		for _, finding := range report.Findings[:min(len(report.Findings), 30)] {
			r.t.Log(finding)
		}
		r.t.Error("the checker found anomalies")
	}
}

// tells is false for kcat: it does not say when a record is there, so its gaps
// say nothing.
func tells(producer string) bool { return !strings.HasPrefix(producer, "kcat") }

// tellMoves prints how long producers waited at the switchovers: as the share's
// record says, step by step, and as they were told.
func (r *run) tellMoves(gaps []check.MoveGap) {
	line := func(what string, d []time.Duration) {
		if len(d) == 0 {
			return
		}
		slices.Sort(d)
		fmt.Printf("measured: %-40s median %5d ms, maximum %5d ms, all %d\n", what, d[len(d)/2].Milliseconds(), d[len(d)-1].Milliseconds(), milliseconds(d))
	}
	for _, s := range []failover.State{failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open} {
		line("until "+string(s), r.steps[s])
	}
	line("held, from FENCING to OPEN", r.holds)
	var longest, resting []time.Duration
	by := make(map[string][]time.Duration)
	for _, m := range gaps {
		most := time.Duration(0)
		for producer, d := range m.Producers {
			if tells(producer) {
				most = max(most, d)
				if m.Kind != history.NoMove {
					by[producer] = append(by[producer], d)
				}
			}
		}
		if m.Kind == history.NoMove {
			resting = append(resting, most)
		} else {
			longest = append(longest, most)
		}
	}
	line("without an acknowledgement, any producer", longest)
	line("the same while nothing moves", resting)
	for _, producer := range slices.Sorted(maps.Keys(by)) {
		line("without an acknowledgement, "+producer, by[producer])
	}
}

// tellForecasts prints how long plans said that producers would be held, beside what
// happened: how often that was within a factor of two.
func (r *run) tellForecasts() {
	r.t.Helper()
	out, err := r.w.Run(r.t.Context(), r.w.Desk(), "failover-group", "history", world.Group, "-o", "json")
	r.must(err)
	var moves []account.Record
	r.must(json.Unmarshal([]byte(out), &moves))
	var ratios []float64
	within := 0
	for _, m := range moves {
		if m.Kind != failover.Switchover || m.HeldMillis <= 0 || m.Known == nil || m.Known.Forecast.PauseMillis <= 0 {
			continue
		}
		ratio := float64(m.Known.Forecast.PauseMillis) / float64(m.HeldMillis)
		if ratios = append(ratios, ratio); ratio >= 0.5 && ratio <= 2 {
			within++
		}
	}
	if slices.Sort(ratios); len(ratios) > 0 {
		fmt.Printf("measured: hold foretold by hold: median %.2f, from %.2f to %.2f; within a factor of two: %d of %d\n",
			ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1], within, len(ratios))
	}
}

func milliseconds(all []time.Duration) (ms []int64) {
	for _, d := range all {
		ms = append(ms, d.Milliseconds())
	}
	return ms
}
