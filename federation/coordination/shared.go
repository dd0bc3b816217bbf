package coordination

import (
	"context"
	"slices"
	"sync"
)

// ShareWatches returns s with one watch for all who watch the same prefix. Control
// loop, gateway and console of one process look at the same leases, and each
// renewal anywhere wakes every watch. Who joins a watch that others have hears
// first what they heard last; a watch is a hint in any case.
func ShareWatches(s Store) Store {
	return &sharing{Store: s, streams: map[string]*stream{}}
}

type sharing struct {
	Store

	mu      sync.Mutex
	streams map[string]*stream // by prefix
}

// stream is one watch of the store.
type stream struct {
	watchers int // guarded by sharing.mu
	stop     context.CancelFunc
	ended    chan struct{}

	mu      sync.Mutex
	turn    uint64 // rises with all that is told; 0: nothing yet
	entries []Entry
	err     error
	changed chan struct{} // closed at the next turn
}

// Watch is Store.Watch.
func (s *sharing) Watch(ctx context.Context, prefix string, fn func([]Entry, error)) error {
	st := s.join(prefix)
	defer s.leave(prefix, st)
	for seen := uint64(0); ; {
		turn, entries, changed, err := st.last()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if turn != seen {
			seen = turn
			fn(slices.Clone(entries), err)
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (s *sharing) join(prefix string) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.streams[prefix]
	if st == nil {
		ctx, stop := context.WithCancel(context.Background()) // ends when the last watcher leaves
		st = &stream{stop: stop, ended: make(chan struct{}), changed: make(chan struct{})}
		s.streams[prefix] = st
		go func() {
			defer close(st.ended)
			if err := s.Store.Watch(ctx, prefix, st.tell); ctx.Err() == nil {
				s.drop(prefix, st) // who comes now tries again
				st.tell(nil, err)
			}
		}()
	}
	st.watchers++
	return st
}

// leave ends the watch of the store with its last watcher.
func (s *sharing) leave(prefix string, st *stream) {
	s.mu.Lock()
	st.watchers--
	last := st.watchers == 0
	if last && s.streams[prefix] == st {
		delete(s.streams, prefix)
	}
	s.mu.Unlock()
	if last {
		st.stop()
		<-st.ended
	}
}

func (s *sharing) drop(prefix string, st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[prefix] == st {
		delete(s.streams, prefix)
	}
}

func (st *stream) tell(entries []Entry, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.turn++
	st.entries, st.err = entries, err
	close(st.changed)
	st.changed = make(chan struct{})
}

func (st *stream) last() (turn uint64, entries []Entry, changed <-chan struct{}, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.turn, st.entries, st.changed, st.err
}
