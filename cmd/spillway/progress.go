package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
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
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, last: time.Now(), seen: map[string]bool{}, said: map[string]bool{}}
}

func (p *progress) events() mirror.Events {
	return mirror.Events{BatchMirrored: p.mirrored, FlowState: p.flow, GapLogged: p.gap}
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
		p.say("%d records mirrored, %d offsets behind in %d partitions", p.records, i.LagRecords, i.Partitions)
	}
}
