package mirror

import (
	"fmt"
	"sync"
	"time"

	"spillway"
	"spillway/mirror/sitelog"
)

// Cap bounds how fast records are fetched from other sites, in bytes as they travel:
// compressed, batch by batch. A move is not bounded by it, since clients are held.
type Cap struct {
	Source         spillway.SiteID // "": each source has it for itself
	Topics         []string        // exact names, or a prefix followed by "*"; none: all
	BytesPerSecond int64
}

// fits tells whether the cap bounds a topic of a source.
func (c Cap) fits(source spillway.SiteID, topic string) bool {
	return (c.Source == "" || c.Source == source) && (len(c.Topics) == 0 || matches(c.Topics, topic))
}

// validate names what is wrong; key is where the cap stands.
func (c Cap) validate(key string) error {
	if c.BytesPerSecond <= 0 {
		return fmt.Errorf("%s: %d bytes a second: nothing would ever be carried", key, c.BytesPerSecond)
	}
	return nil
}

// pacer keeps one cap for one source: what was fetched has to be paid for, in time,
// before more is asked for. All partitions under the cap wait for the same moment and
// are then asked for together, each for the same number of bytes, so they share it
// fairly.
type pacer struct {
	cap Cap

	mu    sync.Mutex
	free  time.Time // everything is paid for then
	flows map[*flow]cappedPart
	gone  float64 // part of the cap that other workers have
}

// rate is how many bytes a second this worker may fetch. The caller holds mu.
func (p *pacer) rate() float64 { return float64(p.cap.BytesPerSecond) * (1 - p.gone) }

// pay counts bytes that have arrived.
func (p *pacer) pay(bytes int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(bytes) / p.rate() * float64(time.Second)))
}

// next is when more may be asked for.
func (p *pacer) next() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.free
}

// paceRound is how much of a cap one fetch may take, so that it is kept over short
// times as well.
const paceRound = 250 * time.Millisecond

// perPartition is what one of so many partitions may bring in one answer.
func (p *pacer) perPartition(partitions int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(partitionBytesMin, int(p.rate()*paceRound.Seconds())/max(partitions, 1))
}

// pacers are the caps of a source that bound a topic.
func (m *Mirror) pacers(source spillway.SiteID, topic string) []*pacer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*pacer
	for i, c := range m.config.Caps {
		if !c.fits(source, topic) {
			continue
		}
		key := paced{source, i}
		if m.mu.pacers[key] == nil {
			m.mu.pacers[key] = &pacer{cap: c}
		}
		found = append(found, m.mu.pacers[key])
	}
	return found
}

// paced is a cap, by its place, at a source.
type paced struct {
	source spillway.SiteID
	cap    int
}

// pay counts what has arrived under the caps that it comes under.
func (l *lane) pay(chunk []sitelog.Fetched, now time.Time) {
	for _, f := range chunk {
		if p := l.parts[f.TopicPartition]; p != nil {
			for _, pacer := range p.pacers {
				pacer.pay(len(f.Records), now)
			}
		}
	}
}

// paced is how many bytes of a partition may be asked for now; 0: none before next.
func (l *lane) paced(p *partition, share int, under map[*pacer]int, now time.Time) (bytes int, next time.Time) {
	if p.bound != noBound {
		return share, now
	}
	for _, pacer := range p.pacers {
		if at := pacer.next(); now.Before(at) {
			return 0, at
		}
		share = min(share, pacer.perPartition(under[pacer]))
	}
	return share, now
}

// underCaps counts the partitions of the lane under each cap.
func (l *lane) underCaps() map[*pacer]int {
	under := make(map[*pacer]int)
	for _, p := range l.parts {
		for _, pacer := range p.pacers {
			under[pacer]++
		}
	}
	return under
}

// cappedPart is how many partitions of a flow are under a cap, and how many of them are
// this worker's.
type cappedPart struct{ own, all int }

// shareCaps gives this worker the part of each cap that its partitions are of those
// under the cap: all workers together keep it.
func (f *flow) shareCaps() {
	if len(f.m.config.Caps) == 0 {
		return
	}
	parts := make(map[*pacer]cappedPart)
	for tp, p := range f.parts {
		for _, pacer := range p.pacers {
			part := parts[pacer]
			part.all++
			if !f.crew.elsewhere(tp) {
				part.own++
			}
			parts[pacer] = part
		}
	}
	for pacer, part := range parts {
		pacer.share(f, part)
	}
}

// leaveCaps ends what the flow has of caps.
func (f *flow) leaveCaps() {
	for _, p := range f.parts {
		for _, pacer := range p.pacers {
			pacer.share(f, cappedPart{})
		}
	}
}

// share notes what a flow has under the cap; nothing: it has ended.
func (p *pacer) share(f *flow, part cappedPart) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows == nil {
		p.flows = make(map[*flow]cappedPart)
	}
	if p.flows[f] = part; part.all == 0 {
		delete(p.flows, f)
	}
	var sum cappedPart
	for _, of := range p.flows {
		sum.own += of.own
		sum.all += of.all
	}
	p.gone = 0
	if sum.all > 0 {
		p.gone = 1 - float64(max(sum.own, 1))/float64(sum.all)
	}
}
