package offsetmap

import (
	"cmp"
	"math"
	"slices"
	"sync"

	"spillway"
)

// TrailEntry remembers one client batch that the mirror copied. Client ids are
// lost from mirrored batches, so it cannot be rebuilt later (idea 5).
type TrailEntry struct {
	ProducerID    int64          // as it stood in the log of the epoch, masked
	Epoch         spillway.Epoch // failover epoch in which the batch was written
	ProducerEpoch int16
	First, Last   int32           // sequence numbers
	Virtual       spillway.Offset // of the batch's first record
}

// End is the virtual offset after the batch. A batch counts as there only when
// all of it is: one that is split for its target may be cut off in the middle.
func (e TrailEntry) End() spillway.Offset {
	return e.Virtual + spillway.Offset((e.Last-e.First)&math.MaxInt32) + 1
}

// Bounds of the trail of one partition.
const (
	TrailBatchesMax        = 5 // per producer id and producer epoch, as many as a broker remembers
	TrailProducerEpochsMax = 3 // per producer id
	TrailProducersMax      = 100_000
)

// trail holds the newest batches by producer. It is shared by all views of a
// map, which hide what lies above their verified end.
type trail struct {
	mu        sync.RWMutex
	producers map[trailKey][]TrailEntry // ascending by virtual offset
}

type trailKey struct {
	id    int64
	epoch spillway.Epoch
}

func (t *trail) add(entries []TrailEntry) {
	if len(entries) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.producers == nil {
		t.producers = make(map[trailKey][]TrailEntry)
	}
	for _, e := range entries {
		k := trailKey{e.ProducerID, e.Epoch}
		t.producers[k] = trim(append(t.producers[k], e))
	}
	if len(t.producers) > TrailProducersMax {
		t.evict()
	}
}

// trim keeps the newest batches of the newest producer epochs. The slice is
// copied when something goes, so that a reader may keep what it was given.
func trim(es []TrailEntry) []TrailEntry {
	perEpoch := make(map[int16]int, TrailProducerEpochsMax+1)
	keep := len(es)
	drop := make([]bool, len(es))
	for i, e := range slices.Backward(es) {
		n, seen := perEpoch[e.ProducerEpoch]
		if n >= TrailBatchesMax || !seen && len(perEpoch) >= TrailProducerEpochsMax {
			drop[i] = true
			keep--
			continue
		}
		perEpoch[e.ProducerEpoch] = n + 1
	}
	if keep == len(es) {
		return es
	}
	kept := make([]TrailEntry, 0, keep+1)
	for i, e := range es {
		if !drop[i] {
			kept = append(kept, e)
		}
	}
	return kept
}

// evict drops the half of the producers that wrote longest ago: a client that
// silent has nothing in flight any more.
func (t *trail) evict() {
	newest := make([]spillway.Offset, 0, len(t.producers))
	for _, es := range t.producers {
		newest = append(newest, es[len(es)-1].Virtual)
	}
	slices.Sort(newest)
	limit := newest[len(newest)/2]
	for k, es := range t.producers {
		if es[len(es)-1].Virtual < limit {
			delete(t.producers, k)
		}
	}
}

// cut forgets batches that reach beyond v: they turned out not to be in the log
// as a whole.
func (t *trail) cut(v spillway.Offset) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, es := range t.producers {
		n := len(es)
		for n > 0 && es[n-1].End() > v {
			n--
		}
		switch n {
		case len(es):
		case 0:
			delete(t.producers, k)
		default:
			t.producers[k] = slices.Clip(es[:n])
		}
	}
}

func (t *trail) lastOf(id int64, epoch spillway.Epoch, below spillway.Offset) []TrailEntry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	es := t.producers[trailKey{id, epoch}]
	n := len(es)
	for n > 0 && es[n-1].End() > below {
		n--
	}
	return slices.Clone(es[:n])
}

func (t *trail) between(from, to spillway.Offset) []TrailEntry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found []TrailEntry
	for _, es := range t.producers {
		for _, e := range es {
			if e.End() > from && e.End() <= to {
				found = append(found, e)
			}
		}
	}
	slices.SortFunc(found, func(a, b TrailEntry) int { return cmp.Compare(a.Virtual, b.Virtual) })
	return found
}
