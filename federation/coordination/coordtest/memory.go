package coordtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway/federation/coordination"
)

// Memory is a store for tests of what stands on a store: it passes the same
// contract, runs in a testing/synctest bubble, and can be made to fail.
type Memory struct {
	mu       sync.Mutex
	entries  map[string]coordination.Entry
	keys     []string // of entries, sorted
	revision uint64
	watched  map[string]uint64 // the revision of the last change under a prefix that somebody watches
	wake     chan struct{}
	fault    func(when Moment, ops []coordination.Op) error
}

// Moment says where in a call a fault strikes.
type Moment int

// Moments. A fault Before a write means that it was lost, After that its answer was.
const (
	BeforeRead Moment = iota
	BeforeWrite
	AfterWrite
)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{entries: map[string]coordination.Entry{}, watched: map[string]uint64{}, wake: make(chan struct{})}
}

// Fail sets what goes wrong: fn is asked at each moment, outside locks, and may
// block to delay a call. Nil: nothing goes wrong.
func (m *Memory) Fail(fn func(when Moment, ops []coordination.Op) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fn
}

func (m *Memory) strike(ctx context.Context, when Moment, ops []coordination.Op) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", coordination.ErrUnavailable, err)
	}
	m.mu.Lock()
	fn := m.fault
	m.mu.Unlock()
	if fn == nil {
		return nil
	}
	if err := fn(when, ops); err != nil {
		return fmt.Errorf("%w: %w", coordination.ErrUnavailable, err)
	}
	return nil
}

// Peek reads all keys under a prefix, whatever goes wrong for others.
func (m *Memory) Peek(prefix string) []coordination.Entry {
	entries, _ := m.list(prefix)
	return entries
}

// Restore puts all keys under a prefix back to what a backup has, versions
// included, as a restored store does.
func (m *Memory) Restore(prefix string, backup []coordination.Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.entries, func(key string, _ coordination.Entry) bool { return strings.HasPrefix(key, prefix) })
	for _, e := range backup {
		m.entries[e.Key] = copyOf(e)
	}
	m.keys = slices.Sorted(maps.Keys(m.entries))
	m.revision++ // so that watches look; the counter of a real store goes back
	for watched := range m.watched {
		m.watched[watched] = m.revision
	}
	close(m.wake)
	m.wake = make(chan struct{})
}

// Get reads one key.
func (m *Memory) Get(ctx context.Context, key string) (coordination.Entry, error) {
	if err := m.strike(ctx, BeforeRead, nil); err != nil {
		return coordination.Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return e, fmt.Errorf("%s: %w", key, coordination.ErrNotFound)
	}
	return copyOf(e), nil
}

// List reads all keys under a prefix.
func (m *Memory) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	if err := m.strike(ctx, BeforeRead, nil); err != nil {
		return nil, err
	}
	entries, _ := m.list(prefix)
	return entries, nil
}

func (m *Memory) list(prefix string) ([]coordination.Entry, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := []coordination.Entry{}
	at, _ := slices.BinarySearch(m.keys, prefix)
	for _, k := range m.keys[at:] {
		if !strings.HasPrefix(k, prefix) {
			break
		}
		if prefix == "" || coordination.Under(k, prefix) {
			entries = append(entries, copyOf(m.entries[k]))
		}
	}
	return entries, m.revision
}

func copyOf(e coordination.Entry) coordination.Entry {
	e.Value = slices.Clone(e.Value)
	return e
}

// Put writes value if version is the current one.
func (m *Memory) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	return m.apply(ctx, []coordination.Op{{Key: key, Value: value, Version: version}})
}

// Delete removes the key if version is the current one.
func (m *Memory) Delete(ctx context.Context, key string, version uint64) error {
	_, err := m.apply(ctx, []coordination.Op{{Key: key, Version: version, Delete: true}})
	return err
}

// Txn applies all changes or none.
func (m *Memory) Txn(ctx context.Context, ops []coordination.Op) error {
	_, err := m.apply(ctx, ops)
	return err
}

func (m *Memory) apply(ctx context.Context, ops []coordination.Op) (uint64, error) {
	if err := coordination.CheckOps(ops); err != nil {
		return 0, err
	}
	if err := m.strike(ctx, BeforeWrite, ops); err != nil {
		return 0, err
	}
	last, err := m.commit(ops)
	if err != nil {
		return 0, err
	}
	if err := m.strike(ctx, AfterWrite, ops); err != nil {
		return 0, err
	}
	return last, nil
}

func (m *Memory) commit(ops []coordination.Op) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, op := range ops {
		if have := m.entries[op.Key].Version; have != op.Version {
			return 0, fmt.Errorf("%s: version %d, not %d: %w", op.Key, have, op.Version, coordination.ErrConflict)
		}
	}
	for _, op := range ops {
		switch {
		case op.Check:
			continue
		case op.Delete:
			m.revision++
			delete(m.entries, op.Key)
			if at, ok := slices.BinarySearch(m.keys, op.Key); ok {
				m.keys = slices.Delete(m.keys, at, at+1)
			}
		default:
			m.revision++
			if at, ok := slices.BinarySearch(m.keys, op.Key); !ok {
				m.keys = slices.Insert(m.keys, at, op.Key)
			}
			m.entries[op.Key] = coordination.Entry{Key: op.Key, Value: slices.Clone(op.Value), Version: m.revision}
		}
		for watched := range m.watched {
			if strings.HasPrefix(op.Key, watched) {
				m.watched[watched] = m.revision
			}
		}
	}
	close(m.wake)
	m.wake = make(chan struct{})
	return m.revision, nil
}

// Watch calls fn with the content under prefix now and after each change.
func (m *Memory) Watch(ctx context.Context, prefix string, fn func([]coordination.Entry, error)) error {
	return coordination.WatchLoop(ctx, func(ctx context.Context, prefix string, after uint64, wait time.Duration) ([]coordination.Entry, uint64, error) {
		if err := m.strike(ctx, BeforeRead, nil); err != nil {
			return nil, 0, err
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		for over := false; after > 0 && !over; {
			m.mu.Lock()
			changed, known := m.watched[prefix]
			if !known {
				m.watched[prefix], changed = m.revision, m.revision
			}
			wake := m.wake
			m.mu.Unlock()
			if changed > after {
				break
			}
			select {
			case <-wake:
			case <-timer.C:
				over = true
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			}
		}
		entries, at := m.list(prefix)
		return entries, at, nil
	}, prefix, fn)
}

// Close does nothing.
func (m *Memory) Close() error { return nil }
