//go:build e2e

package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
	moves "spillway/federation/history"
	"spillway/mirror"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
	"spillway/tests/world"
)

var (
	seed  = flag.Uint64("seed", 1, "of the order of the faults and of their moments")
	only  = flag.String("rows", ".", "names of the faults, a regular expression")
	count = flag.Int("faults", 0, "how many faults; 0: each row once")
	lasts = flag.Duration("for", 0, "begin no fault after so long, and take rows again until then")
)

// rate is the load, in records a second; the bounds are for a machine of two cores that
// may be busy with other things.
const (
	rate       = 200
	healWithin = 90 * time.Second
	silentMost = 45 * time.Second // without an acknowledgement
	judgeMost  = 4 * time.Minute  // what the end of a run takes
)

// answerMost is how long an answer may be on its way to a client that shares two cores
// with thirty processes: what it is told so long after a site's term is not held against
// the site.
const answerMost = 2 * time.Second

// arena is a virtual cluster under load.
type arena struct {
	t      *testing.T
	w      *world.World
	load   *orders.Workload
	random *rand.Rand
	ended  bool

	home, standby, other string // of the row at work
	moment               string // of its switchover in which something was broken; empty: it has none

	played int
	moves  map[spillway.Epoch]moves.Record
}

// TestFaults takes rows in a random order, and judges all of them together at the end:
// what one fault left behind, the next one meets.
func TestFaults(t *testing.T) {
	chosen := choose(t)
	a := &arena{t: t, random: rand.New(rand.NewPCG(*seed, 0)), moves: make(map[spillway.Epoch]moves.Record)}
	a.w = world.Start(t, world.Options{
		Automatic: true, AckSites: 2, ReservedBlock: 2000, MirrorApart: true, Isolated: "north", OwnDisks: true, OwnClocks: true,
		Properties: map[string]string{"producer.id.expiration.check.interval.ms": "1000"}, // 10 minutes, else

		Control: "probeInterval: 500ms, holdDown: 2s", // as in tests/story
	})
	told, err := os.Create(filepath.Join(a.w.Dir(), "orders.jsonl"))
	a.must(err)
	t.Cleanup(func() { _ = told.Close() })
	rec := history.NewRecorder(told)
	a.begin(rec)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again: go test -count=1 -tags e2e -v -timeout 60m -run TestFaults ./tests/faults -seed %d -rows '%s' -faults %d (seed and rows give the same order, sites and moments, not the same machine)", *seed, *only, a.played)
		}
	})
	a.playAll(chosen)
	a.judge(rec, told)
}

// playAll takes rows until there were as many, or for as long, as is wanted.
func (a *arena) playAll(chosen []row) {
	begun := time.Now()
	deadline, bounded := a.t.Deadline()
	want := *count
	if want == 0 && *lasts == 0 {
		want = len(chosen)
	}
	for ; want == 0 || a.played < want; a.played++ {
		switch {
		case *lasts > 0 && time.Since(begun) > *lasts:
			return
		case bounded && time.Until(deadline) < judgeMost:
			a.t.Errorf("after %d faults there is no time for another one: give -timeout more", a.played)
			return
		}
		n := a.played % len(chosen)
		if n == 0 {
			a.random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		}
		a.play(a.played+1, chosen[n])
	}
}

func choose(t *testing.T) []row {
	t.Helper()
	match, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	chosen := slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !match.MatchString(r.name) })
	if len(chosen) == 0 {
		t.Fatalf("no fault has a name that matches %q", *only)
	}
	return chosen
}

func (a *arena) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// pause lets the fault last: it is the length of the run, nothing is waited for.
func (a *arena) pause(d time.Duration) { time.Sleep(d) }

func (a *arena) begin(rec *history.Recorder) {
	var err error
	producers, readers := orders.BothLibraries()
	a.load, err = orders.Start(context.Background(), orders.Config{
		Bootstrap: a.w.Bootstrap, Partitions: a.w.Options.Partitions, Seed: *seed, RecordsPerSecond: rate, InFlight: 64,
		Producers: producers, Readers: readers,
	}, rec)
	a.must(err)
	a.t.Cleanup(func() {
		if !a.ended { // its clients would go on while the next test's world has their ports
			over, end := context.WithCancel(context.Background())
			end()
			_, _ = a.load.Finish(over)
		}
	})
	a.goesOn("the order workload is served")
}

// play breaks one thing and waits until all is well again.
func (a *arena) play(n int, r row) {
	a.t.Helper()
	a.w.Eventually(healWithin, "all is well before the fault", func() error { return a.w.Healthy(a.t.Context()) })
	before := a.share()
	a.home = string(before.Active)
	others := slices.DeleteFunc(slices.Clone(a.w.Sites), func(s string) bool { return s == a.home })
	a.random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	a.standby, a.other = others[0], others[1]
	a.moment = ""
	gap := a.watch()
	begun := time.Now()
	r.act(a)
	broken := time.Since(begun)
	a.w.Eventually(healWithin, fmt.Sprintf("fault %d, %s: all is well again", n, r.name), func() error { return a.w.Healthy(a.t.Context()) })
	a.goesOn(fmt.Sprintf("fault %d, %s: acknowledgements go on", n, r.name))
	healed, silent := time.Since(begun), gap()
	after := a.share()
	a.learnMoves()
	outcome := "stays at " + a.home
	if after.Active != before.Active {
		outcome = fmt.Sprintf("%s to %s", a.home, after.Active)
	}
	what := r.name
	if a.moment != "" {
		what += " in " + a.moment
	}
	fmt.Printf("measured: fault %2d: %-74s | %-14s | epoch %d to %d | broken %4.1f s, well after %5.1f s, longest without an acknowledgement %5.1f s\n",
		n, what, outcome, before.Epoch, after.Epoch, broken.Seconds(), healed.Seconds(), silent.Seconds())
	if silent > silentMost {
		a.t.Errorf("fault %d, %s: nothing was acknowledged for %s", n, r.name, silent)
	}
}

func (a *arena) share() (s failover.Share) {
	a.t.Helper()
	a.w.Eventually(healWithin, "the group is stable", func() error {
		if err := a.w.Share(a.t.Context(), a.w.Desk(), &s); err != nil {
			return err
		}
		if s.State != failover.Stable {
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	return s
}

// elsewhere waits until another site serves.
func (a *arena) elsewhere() {
	a.t.Helper()
	a.w.Eventually(healWithin, "another site serves", func() error {
		var s failover.Share
		if err := a.w.Share(a.t.Context(), a.other, &s); err != nil {
			return err
		}
		if _, serves := s.Serves(); !serves || string(s.Active) == a.home {
			return fmt.Errorf("%s in %s", s.Active, s.State)
		}
		return nil
	})
}

// goesOn waits until records are acknowledged and read.
func (a *arena) goesOn(what string) {
	a.t.Helper()
	from := a.load.Progress()
	a.w.Eventually(healWithin, what, func() error {
		if now := a.load.Progress(); now.Acked < from.Acked+rate/4 || now.Read < from.Read+rate/4 {
			return fmt.Errorf("%d acknowledged, %d read", now.Acked-from.Acked, now.Read-from.Read)
		}
		return nil
	})
}

// watch measures the longest time without an acknowledgement until the func that it
// returns is called.
func (a *arena) watch() (longest func() time.Duration) {
	stop, found := make(chan struct{}), make(chan time.Duration, 1)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		most, at, acked := time.Duration(0), time.Now(), a.load.Progress().Acked
		for {
			select {
			case <-stop:
				found <- most
				return
			case <-a.t.Context().Done():
				return
			case now := <-tick.C:
				if n := a.load.Progress().Acked; n > acked {
					most, at, acked = max(most, now.Sub(at)), now, n
				}
			}
		}
	}()
	return func() time.Duration { close(stop); return <-found }
}

// judge ends the workload and has the histories judged.
func (a *arena) judge(rec *history.Recorder, told *os.File) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 2*time.Minute)
	defer cancel()
	progress, err := a.load.Finish(ctx)
	a.ended = true
	if err != nil {
		a.t.Error(err)
	}
	a.must(rec.Flush())
	a.w.Eventually(healWithin, "all sites have caught up", func() error { return a.w.Healthy(a.t.Context()) })
	home := a.share()
	a.learnMoves()
	// With ack.sites 2 failovers burn nothing, so no loss is expected, whatever was announced.
	expect := check.Expect{Home: string(home.Active), GroupsRepeat: true, Hidden: a.hidden()}
	var sites []*check.Site
	for _, site := range a.w.Sites {
		s, err := sitelog.Read(a.t.Context(), a.w.SiteLog(site), orders.Topics...)
		a.must(err)
		sites = append(sites, s)
	}
	_, err = told.Seek(0, 0)
	a.must(err)
	report, err := check.Run(withMarks(history.Read(told), a.marks()), sites, expect)
	a.must(err)
	f := report.Figures
	fmt.Printf("measured: seed %d: %d sent, %d acknowledged, %d failed, %d read; %d moves; %d records of plain producers stand twice by their own retries, groups read %d again; anomalies %v\n",
		*seed, f.Sent, f.Acked, f.Failed, f.Read, len(a.moves), f.Resent, f.GroupRepeats, report.Counts)
	if !progress.Drained || f.Open > 0 {
		a.t.Errorf("readers came to the end: %t; %d records were neither acknowledged nor refused: %+v", progress.Drained, f.Open, progress)
	}
	for _, finding := range report.Findings[:min(len(report.Findings), 30)] {
		a.t.Error(finding)
	}
}

// learnMoves reads the history of the group.
func (a *arena) learnMoves() {
	a.t.Helper()
	var records []moves.Record
	a.w.Eventually(healWithin, "the history is told", func() error {
		out, err := a.w.Run(a.t.Context(), a.w.Desk(), "failover-group", "history", world.Group, "-o", "json")
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), &records)
	})
	for _, m := range records {
		a.moves[m.Epoch] = m
		m.Start.All(func(tp spillway.TopicPartition, start spillway.Offset) {
			if verified := m.Verified.Get(tp); verified >= 0 && verified < start {
				a.t.Errorf("epoch %d burnt the offsets of %s from %d to %d, though two sites had what was acknowledged", m.Epoch, tp, verified, start)
			}
		})
	}
}

// marks tell the checker when each site served, by the records of the moves: a site may
// acknowledge from when a move to it holds clients until the one away from it has opened
// another site.
func (a *arena) marks() (all []history.Event) {
	for _, m := range a.moves {
		start, end := m.Started, time.Time{}
		for _, p := range m.Passages {
			switch p.State {
			case failover.Fencing:
				start = p.At
			case failover.Open:
				end = p.At.Add(answerMost)
			}
		}
		if end.IsZero() {
			continue // it was given up
		}
		kind := history.Switchover
		if m.Kind == failover.Failover {
			kind = history.Failover
		}
		mark := history.Event{Kind: history.Mark, Name: history.MoveStart, Move: kind, From: string(m.From), To: string(m.To), Time: start.UnixNano()}
		all = append(all, mark)
		mark.Name, mark.Time = history.MoveEnd, end.UnixNano()
		all = append(all, mark)
	}
	slices.SortFunc(all, func(x, y history.Event) int { return cmp.Compare(x.Time, y.Time) })
	return all
}

// withMarks puts marks where they belong in a history.
func withMarks(events iter.Seq2[history.Event, error], marks []history.Event) iter.Seq2[history.Event, error] {
	return func(yield func(history.Event, error) bool) {
		rest := marks
		for e, err := range events {
			for err == nil && len(rest) > 0 && rest[0].Time <= e.Time {
				if !yield(rest[0], nil) {
					return
				}
				rest = rest[1:]
			}
			if !yield(e, err) {
				return
			}
		}
		for _, m := range rest {
			if !yield(m, nil) {
				return
			}
		}
	}
}

// hidden are the records that sites list as unreplicated: nobody acknowledged them.
func (a *arena) hidden() map[string][]check.Range {
	a.t.Helper()
	all := make(map[string][]check.Range)
	for _, site := range a.w.Sites {
		out, err := a.w.Run(a.t.Context(), a.w.Desk(), "unreplicated", "list", world.Group, "--site", site, "-o", "json")
		a.must(err)
		var ranges []mirror.UnreplicatedRange
		a.must(json.Unmarshal([]byte(strings.TrimSpace(out)), &ranges))
		for _, u := range ranges {
			all[site] = append(all[site], check.Range{Topic: u.Topic, Partition: u.Partition, From: int64(u.LocalFrom), To: int64(u.LocalTo)})
		}
	}
	return all
}
