package coordination

import (
	"context"
	"sync"
	"time"
)

// standMax bounds the pause between two calls for an entry that does not change.
const standMax = 30 * time.Second

// CarryOn calls f for every entry under a prefix that has not changed for a while, again
// and again until ctx ends: whoever worked on it has died, or given up. One call at a time
// for a key, atOnce in all. What still stands after a call is left alone for longer each
// time, up to standMax. It returns after what it started.
func CarryOn(ctx context.Context, store Store, prefix string, after time.Duration, atOnce int, f func(context.Context, Entry)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type standing struct {
		entry Entry
		due   time.Time
		pause time.Duration // before due
		busy  bool
	}
	var mu sync.Mutex // guards all
	all := make(map[string]*standing)
	wg.Go(func() {
		_ = store.Watch(ctx, prefix, func(entries []Entry, err error) { // ends with ctx
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			there := make(map[string]bool, len(entries))
			for _, e := range entries {
				there[e.Key] = true
				s := all[e.Key]
				if s == nil {
					s = &standing{}
					all[e.Key] = s
				}
				if s.entry.Version != e.Version {
					s.entry, s.due, s.pause = e, time.Now().Add(after), 0
				}
			}
			for key := range all {
				if !there[key] {
					delete(all, key)
				}
			}
		})
	})
	slots := make(chan struct{}, atOnce)
	ticker := time.NewTicker(after / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		mu.Lock()
		for _, s := range all {
			if s.busy || time.Now().Before(s.due) {
				continue
			}
			s.busy = true
			e := s.entry
			wg.Go(func() {
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					s.busy = false
					if s.entry.Version == e.Version {
						s.pause = min(max(2*s.pause, after), max(standMax, after))
						s.due = time.Now().Add(s.pause)
					}
				}()
				select {
				case slots <- struct{}{}:
					defer func() { <-slots }()
					f(ctx, e)
				case <-ctx.Done():
				}
			})
		}
		mu.Unlock()
	}
}
