package orders

import (
	"sync"

	"spillway/tests/orders/history"
)

// Join puts steps of one order back in turn, over topics: a step is handed on
// once all that it follows have been. This is what an application has to do,
// since Kafka keeps no order between topics. It is safe for concurrent use.
type Join struct {
	mu      sync.Mutex
	done    map[history.ID]bool
	waiting map[history.ID][]history.Payload // by a step that they wait for
	held    int64
	blocked map[history.ID]bool // steps that wait
}

// NewJoin returns an empty join.
func NewJoin() *Join {
	return &Join{done: map[history.ID]bool{}, waiting: map[history.ID][]history.Payload{}, blocked: map[history.ID]bool{}}
}

// Add takes a step as it was read and returns the steps that are in turn now:
// this one, and those that waited for it. A step that came already is ignored.
func (j *Join) Add(p history.Payload) []history.Payload {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.done[p.ID] || j.blocked[p.ID] {
		return nil
	}
	return j.add(p, nil)
}

func (j *Join) add(p history.Payload, out []history.Payload) []history.Payload {
	for _, cause := range p.After {
		if !j.done[cause] {
			if !j.blocked[p.ID] {
				j.blocked[p.ID] = true
				j.held++
			}
			j.waiting[cause] = append(j.waiting[cause], p)
			return out
		}
	}
	delete(j.blocked, p.ID)
	j.done[p.ID] = true
	out = append(out, p)
	released := j.waiting[p.ID]
	delete(j.waiting, p.ID)
	for _, next := range released {
		out = j.add(next, out)
	}
	return out
}

// Held is how many steps had to wait for one of another topic, and Waiting how
// many still do.
func (j *Join) Held() (held, waiting int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.held, int64(len(j.blocked))
}

// stock decides sales: in the order in which the steps are read, the first
// five orders get the thing.
type stock struct {
	mu       sync.Mutex
	left     map[string]int
	verdicts map[string]chan bool // by order; buffered, given once
	decided  map[string]bool
	lossy    chan struct{} // closed by the next failover
}

func newStock() *stock {
	return &stock{left: map[string]int{}, verdicts: map[string]chan bool{}, decided: map[string]bool{}, lossy: make(chan struct{})}
}

// untilLoss is closed by the next failover: what was acknowledged before it may be
// lost, so that no reader ever sees it.
func (s *stock) untilLoss() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lossy
}

func (s *stock) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.lossy)
	s.lossy = make(chan struct{})
}

// verdict returns where the decision about an order will appear.
func (s *stock) verdict(order string) chan bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.channel(order)
}

func (s *stock) channel(order string) chan bool {
	ch := s.verdicts[order]
	if ch == nil {
		ch = make(chan bool, 1)
		s.verdicts[order] = ch
	}
	return ch
}

// read is told of each placed order of a sale, in the order of its partition.
func (s *stock) read(sale, order string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.decided[order] {
		return
	}
	s.decided[order] = true
	left, ok := s.left[sale]
	if !ok {
		left = SaleStock
	}
	s.channel(order) <- left > 0
	s.left[sale] = max(0, left-1)
}
