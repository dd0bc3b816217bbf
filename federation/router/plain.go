package router

import (
	"slices"
	"sync"
	"time"

	"spillway"
)

// plain knows to which partitions of shares that are adopting this gateway has lately sent
// batches without a producer id: they look the same to brokers whoever wrote them, so whether
// a log that grew by such was written past the gateways is seen by who has not written.
type plain struct {
	mu sync.Mutex
	at map[spillway.TopicPartition]time.Time
}

// plainMax bounds the partitions that are remembered, and told. Those beyond look as if they
// were written to past the gateways.
const plainMax = 1000

func newPlain() *plain { return &plain{at: make(map[spillway.TopicPartition]time.Time)} }

// sends notes a batch before it is on its way.
func (l *plain) sends(p *part) {
	if !p.share.adopting.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.at[p.tp]; !known && len(l.at) >= plainMax {
		for tp, at := range l.at {
			if time.Since(at) > throughFor {
				delete(l.at, tp)
			}
		}
		if len(l.at) >= plainMax {
			return
		}
	}
	l.at[p.tp] = time.Now()
}

// PlainPartitions are, by share that is adopting, the partitions to which this gateway has lately
// sent batches without a producer id, in order.
func (r *Router) PlainPartitions() map[*Share][]spillway.TopicPartition {
	l, tps := r.plain, make(map[*Share][]spillway.TopicPartition)
	l.mu.Lock()
	defer l.mu.Unlock()
	for tp, at := range l.at {
		if time.Since(at) > throughFor {
			continue
		}
		if s, ok := r.ShareOf(tp); ok && s.Adopting() {
			tps[s] = append(tps[s], tp)
		}
	}
	for _, of := range tps {
		slices.SortFunc(of, spillway.TopicPartition.Compare)
	}
	return tps
}
