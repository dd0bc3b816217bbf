package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// progressEvery is how often a long run says how far it is.
const progressEvery = 5 * time.Second

// progress says how far a run is, and at once what keeps it from going on.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	records int64
	last    time.Time
	seen    map[string]bool // problems of the last look
	said    map[string]bool
	failed  map[string]bool          // metadata
	pauses  map[string]time.Duration // that brokers asked for since the last line
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, last: time.Now(), seen: map[string]bool{}, said: map[string]bool{}, failed: map[string]bool{}, pauses: map[string]time.Duration{}}
}

func (p *progress) events() mirror.Events {
	return mirror.Events{BatchMirrored: p.mirrored, FlowState: p.flow, GapLogged: p.gap, Metadata: p.metadata, Workers: p.workers, Throttled: p.throttled}
}

func (p *progress) mirrored(i mirror.BatchInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records += int64(i.Records)
}

func (p *progress) gap(g maptopic.Gap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say("gap: %s %s-%d [%d,%d) %s", g.Kind, g.Topic, g.Partition, g.From, g.To, g.Detail)
}

// metadata says what was changed, and each problem once: it is tried again and again.
func (p *progress) metadata(i mirror.MetadataInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := strings.TrimSpace(fmt.Sprintf("%s %s: %s", i.Kind, i.Name, cmp.Or(i.Problem, i.What)))
	if i.Problem != "" && p.failed[line] {
		return
	}
	if i.Problem != "" {
		p.failed[line] = true
	}
	p.say("%s", line)
}

func (p *progress) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, format+"\n", args...) // nobody may be reading any more
}

// flow says what is a problem at two looks, a second apart: what begins has to wait
// for this and that.
func (p *progress) flow(i mirror.FlowInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := map[string]bool{}
	if i.Problem != "" {
		now[i.Problem] = true
	}
	for _, tp := range slices.SortedFunc(maps.Keys(i.Problems), spillway.TopicPartition.Compare) {
		now[tp.String()+": "+i.Problems[tp]] = true
	}
	for _, tp := range slices.SortedFunc(maps.Keys(i.Hanging), spillway.TopicPartition.Compare) {
		now[tp.String()+": "+i.Hanging[tp]] = true
	}
	for _, problem := range slices.Sorted(maps.Keys(now)) {
		if p.seen[problem] && !p.said[problem] {
			p.say("problem: %s", problem)
			p.said[problem] = true
		}
	}
	for _, problem := range slices.Sorted(maps.Keys(p.said)) {
		if !now[problem] {
			p.say("no more: %s", problem)
			delete(p.said, problem)
		}
	}
	p.seen = now
	if time.Since(p.last) >= progressEvery {
		p.last = time.Now()
		p.say("%d records mirrored, %d offsets behind in %d partitions%s%s", p.records, i.LagRecords, i.Partitions, others(i.Workers), p.throttling())
	}
}

func (p *progress) throttled(i mirror.ThrottleInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	side := "source"
	if i.Target {
		side = "target"
	}
	p.pauses[fmt.Sprintf("node %d of the %s", i.Node, side)] += i.Pause
}

// throttling says which brokers asked for pauses since the last time. The caller holds mu.
func (p *progress) throttling() string {
	var said []string
	for _, who := range slices.Sorted(maps.Keys(p.pauses)) {
		said = append(said, fmt.Sprintf("; %s throttles (a quota), pauses of %.1f s", who, p.pauses[who].Seconds()))
	}
	clear(p.pauses)
	return strings.Join(said, "")
}

// others are the workers beside this one, with what they have.
func others(workers []mirror.WorkerShare) string {
	var said []string
	for _, w := range workers {
		if !w.This {
			said = append(said, fmt.Sprintf("%s has %d", w.Worker, w.Partitions))
		}
	}
	if len(said) == 0 {
		return ""
	}
	return "; " + strings.Join(said, ", ")
}

// workers says who came and went, and what changes hands.
func (p *progress) workers(i mirror.WorkersInfo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var said []string
	if len(i.Came) > 0 {
		said = append(said, strings.Join(i.Came, ", ")+" came")
	}
	if len(i.Gone) > 0 {
		said = append(said, strings.Join(i.Gone, ", ")+" has gone")
	}
	own := 0
	for _, w := range i.Workers {
		if w.This {
			own = w.Partitions
		}
	}
	said = append(said, fmt.Sprintf("%d of %d partitions are here", own, i.Partitions))
	if len(i.Given) > 0 {
		said = append(said, fmt.Sprintf("%d are given away: %s", len(i.Given), few(i.Given)))
	}
	if len(i.Taken) > 0 {
		said = append(said, fmt.Sprintf("%d are taken over: %s", len(i.Taken), few(i.Taken)))
	}
	p.say("%s: %s", count(len(i.Workers), "worker"), strings.Join(said, "; "))
}

// fewMax is how many partitions a line names.
const fewMax = 10

func few(tps []spillway.TopicPartition) string {
	names := make([]string, 0, fewMax)
	for _, tp := range tps[:min(len(tps), fewMax)] {
		names = append(names, tp.String())
	}
	if more := len(tps) - fewMax; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names, ", "), more)
	}
	return strings.Join(names, ", ")
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
