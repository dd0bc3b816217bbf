package mirror

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"spillway"
)

// Mark says that everything below the virtual offset End, holes included, is
// acknowledged by all in-sync replicas at the site. A line of the mark stream
// without a topic is a heartbeat.
//
// A mark replaces one of an older append session even if its end is lower: the
// source or the target has lost records since, and what was marked is not there
// any more.
type Mark struct {
	Site      spillway.SiteID `json:"site"`
	Topic     string          `json:"topic,omitempty"`
	Partition int32           `json:"partition"`
	Epoch     spillway.Epoch  `json:"epoch"`
	Session   int64           `json:"session"` // append session of the partition; only rises
	End       spillway.Offset `json:"end"`
	// Compared: in this append session the source has said that it has under the same numbers
	// what is here. Until then it may have lost it.
	Compared bool `json:"compared,omitempty"`
	// Map is a position in the site's map topic: who has read the record there knows all
	// that the map says of what lies below End. 0: it is not told.
	Map int64 `json:"map,omitempty"`
}

func (m Mark) partition() spillway.TopicPartition {
	return spillway.TopicPartition{Topic: m.Topic, Partition: m.Partition}
}

// heartbeatInterval is how often a mark stream says that it lives.
const heartbeatInterval = time.Second

// marks holds the newest mark of each partition and wakes its subscribers. A
// slow subscriber gets fewer, newer marks, never a queue (promise G).
type marks struct {
	mu          sync.Mutex
	newest      map[spillway.TopicPartition]Mark
	byTopic     map[string][]spillway.TopicPartition // the keys of newest
	withdrawn   map[spillway.TopicPartition]bool     // since newest was published
	subscribers map[*subscriber]struct{}
}

type subscriber struct {
	wake  chan struct{}
	dirty map[spillway.TopicPartition]struct{} // guarded by marks.mu
}

func newMarks() *marks {
	return &marks{newest: make(map[spillway.TopicPartition]Mark), byTopic: make(map[string][]spillway.TopicPartition), withdrawn: make(map[spillway.TopicPartition]bool), subscribers: make(map[*subscriber]struct{})}
}

// publish tells whether the mark is news.
func (m *marks) publish(mark Mark) bool {
	tp := mark.partition()
	m.mu.Lock()
	defer m.mu.Unlock()
	last, known := m.newest[tp]
	if same := mark; last.Map > 0 {
		if same.Map = last.Map; last == same {
			return false // what other partitions have saved since is no news
		}
	} else if last == mark {
		return false
	}
	if !known {
		m.byTopic[tp.Topic] = append(m.byTopic[tp.Topic], tp)
	}
	delete(m.withdrawn, tp)
	m.newest[tp] = mark
	for s := range m.subscribers {
		s.dirty[tp] = struct{}{}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// withdraw keeps a mark from those that subscribe from now on, until there is a newer one.
func (m *marks) withdraw(tp spillway.TopicPartition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.withdrawn[tp] = true
}

// subscribe begins with the marks that stand. Who has subscribed before knows from the
// order of the append sessions what does not.
func (m *marks) subscribe(stands func(Mark) bool) *subscriber {
	s := &subscriber{wake: make(chan struct{}, 1), dirty: make(map[spillway.TopicPartition]struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subscribers[s] = struct{}{}
	for tp := range m.those(stands) {
		s.dirty[tp] = struct{}{}
	}
	return s
}

// standing are the marks of some topics, as of returns them, without those that have been
// withdrawn or do not stand any more: what counts for who keeps none of before.
func (m *marks) standing(topics []string, stands func(Mark) bool) []Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(m.named(topics), func(mark Mark) bool { return m.withdrawn[mark.partition()] || !stands(mark) })
}

// those are all marks that a new subscriber begins with, for who holds mu: the same choice as
// standing makes, of all topics.
func (m *marks) those(stands func(Mark) bool) map[spillway.TopicPartition]Mark {
	those := make(map[spillway.TopicPartition]Mark, len(m.newest))
	for tp, mark := range m.newest {
		if !m.withdrawn[tp] && stands(mark) {
			those[tp] = mark
		}
	}
	return those
}

// stands tells whether nobody has found less in the partition since the mark was published,
// or may have, as far as the map is read: another worker has written it, or this one has
// read its end back.
func (m *Mirror) stands(mark Mark) bool {
	om := m.reader.Map(mark.partition())
	if om == nil {
		return true
	}
	held := om.Session()
	switch {
	case held.Session <= mark.Session:
		return true
	case held.Worker != m.config.Worker:
		return false
	case !held.Opened: // it has not looked yet
		return true
	}
	end, _ := om.View().End()
	return end >= mark.End
}

func (m *marks) unsubscribe(s *subscriber) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.subscribers, s)
}

// take returns what changed since the last call.
func (m *marks) take(s *subscriber) []Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := make([]Mark, 0, len(s.dirty))
	for tp := range s.dirty {
		changed = append(changed, m.newest[tp])
	}
	clear(s.dirty)
	return changed
}

// of are the marks of topics that patterns name. A site has those of all its shares, and each
// share asks about once a second.
func (m *marks) of(topics []string) []Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.named(topics)
}

// named is of for who holds mu.
func (m *marks) named(topics []string) (all []Mark) {
	for _, topic := range spillway.Named(topics, m.byTopic) {
		for _, tp := range m.byTopic[topic] {
			all = append(all, m.newest[tp])
		}
	}
	return all
}

// ServeHTTP is the mark stream: one JSON object per line, first all marks, then
// what changes, and a heartbeat each second.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	s := m.marks.subscribe(m.stands)
	defer m.marks.unsubscribe(s)
	beat := time.NewTicker(heartbeatInterval)
	defer beat.Stop()
	lines := json.NewEncoder(w)
	for {
		for _, mark := range m.marks.take(s) {
			if lines.Encode(mark) != nil {
				return // the subscriber is gone
			}
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-s.wake:
		case <-beat.C:
			if lines.Encode(Mark{Site: m.site}) != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-m.ctx.Done():
			return
		}
	}
}
