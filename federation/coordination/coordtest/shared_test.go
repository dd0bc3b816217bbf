package coordtest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"spillway/federation/coordination"
)

func TestSharedWatchesKeepTheContract(t *testing.T) {
	Contract(t, func(*testing.T) (coordination.Store, string) { return coordination.ShareWatches(NewMemory()), "t/" })
}

// counted counts the watches of a store that are open, and can interrupt them.
type counted struct {
	coordination.Store
	mu    sync.Mutex
	open  map[string]int
	began map[string]int
	tell  map[string]func([]coordination.Entry, error)
}

func (c *counted) Watch(ctx context.Context, prefix string, fn func([]coordination.Entry, error)) error {
	c.mu.Lock()
	c.open[prefix]++
	c.began[prefix]++
	c.tell[prefix] = fn
	c.mu.Unlock()
	defer func() { c.mu.Lock(); c.open[prefix]--; c.mu.Unlock() }()
	return c.Store.Watch(ctx, prefix, fn)
}

// Watchers of one prefix are one watch of the store, which ends with the last of
// them; all hear of changes and interruptions, also who joins late.
func TestWatchersOfAPrefixShareOneWatch(t *testing.T) {
	under := &counted{Store: NewMemory(), open: map[string]int{}, began: map[string]int{}, tell: map[string]func([]coordination.Entry, error){}}
	s := coordination.ShareWatches(under)
	watch := func(prefix string) (told chan string, stop func()) {
		told = make(chan string, 100)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			err := s.Watch(ctx, prefix, func(entries []coordination.Entry, err error) {
				switch {
				case err != nil:
					told <- err.Error()
				case len(entries) == 0:
					told <- "nothing"
				default:
					told <- string(entries[0].Value)
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("the watch ended with %v", err)
			}
		}()
		return told, func() { cancel(); <-ended }
	}
	want := func(told chan string, want string) {
		t.Helper()
		for got := range told {
			if got == want { // several changes may come as one
				return
			}
		}
	}
	one, stopOne := watch("a/")
	want(one, "nothing")
	two, stopTwo := watch("a/")
	want(two, "nothing")
	other, stopOther := watch("b/")
	want(other, "nothing")
	put(t, s, "a/k", "1", 0)
	want(one, "1")
	want(two, "1")
	under.tell["a/"](nil, errors.New("interrupted"))
	want(one, "interrupted")
	want(two, "interrupted")
	late, stopLate := watch("a/")
	want(late, "interrupted")
	if len(other) > 0 {
		t.Errorf("who watches b/ was told %s", <-other)
	}
	stopOne()
	put(t, s, "a/l", "2", 0)
	want(two, "1")
	stopTwo()
	stopLate()
	if under.began["a/"] != 1 || under.open["a/"] != 0 || under.open["b/"] != 1 {
		t.Errorf("watches begun %v, open %v", under.began, under.open)
	}
	again, stopAgain := watch("a/")
	want(again, "1")
	if under.began["a/"] != 2 {
		t.Errorf("watches begun %v", under.began)
	}
	stopAgain()
	stopOther()
}
