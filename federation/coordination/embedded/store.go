// Package embedded is the coordinator store for one host: one process owns a
// durable file and serves other local processes over loopback or a unix socket.
// Every change is on disk before it is answered. It does not survive the loss of
// its disk, and while its process is away nothing changes; a restart on the same
// file goes on where it ended. It knows nothing of what the values mean.
package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"spillway/federation/coordination"
)

const lockWait = 2 * time.Second

var (
	bucketEntries = []byte("entries") // key → version (8 bytes) + value
	bucketMeta    = []byte("meta")
	keyRevision   = []byte("revision") // the highest version ever given
)

// Store is the process's own view of the file.
type Store struct {
	db      *bolt.DB
	writing sync.Mutex // so that changes are remembered in the order of their versions
	changes changes
}

// Open opens or creates the file and locks it. It fails after two seconds if
// another process has it.
func Open(path string) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, fmt.Errorf("open embedded store %s: another process has it open", path)
		}
		return nil, fmt.Errorf("open embedded store %s: %w", path, err)
	}
	s := &Store{db: db}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketEntries); err != nil {
			return err
		}
		_, err := tx.CreateBucketIfNotExists(bucketMeta)
		return err
	})
	if err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("prepare embedded store %s: %w", path, err)
	}
	if err := db.View(func(tx *bolt.Tx) error { s.changes.start(revision(tx)); return nil }); err != nil {
		_ = db.Close() // the first error is the one to tell
		return nil, fmt.Errorf("read embedded store %s: %w", path, err)
	}
	return s, nil
}

// Close ends all watches' waiting and releases the file.
func (s *Store) Close() error {
	s.changes.close()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close embedded store: %w", err)
	}
	return nil
}

// Get reads one key.
func (s *Store) Get(ctx context.Context, key string) (coordination.Entry, error) {
	var e coordination.Entry
	err := s.view(ctx, func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketEntries).Get([]byte(key))
		if v == nil {
			return fmt.Errorf("%s: %w", key, coordination.ErrNotFound)
		}
		e = entry(key, v)
		return nil
	})
	return e, err
}

// List reads all keys under a prefix.
func (s *Store) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	entries, _, err := s.list(ctx, prefix)
	return entries, err
}

func (s *Store) list(ctx context.Context, prefix string) (entries []coordination.Entry, at uint64, err error) {
	err = s.view(ctx, func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEntries).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && coordination.Under(string(k), prefix); k, v = c.Next() {
			entries = append(entries, entry(string(k), v))
		}
		at = revision(tx)
		return nil
	})
	return entries, at, err
}

// Put writes value if version is the current one.
func (s *Store) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	return s.apply(ctx, []coordination.Op{{Key: key, Value: value, Version: version}})
}

// Delete removes the key if version is the current one.
func (s *Store) Delete(ctx context.Context, key string, version uint64) error {
	_, err := s.apply(ctx, []coordination.Op{{Key: key, Version: version, Delete: true}})
	return err
}

// Txn applies all changes or none.
func (s *Store) Txn(ctx context.Context, ops []coordination.Op) error {
	_, err := s.apply(ctx, ops)
	return err
}

// apply returns the version of the last change.
func (s *Store) apply(ctx context.Context, ops []coordination.Op) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", coordination.ErrUnavailable, err)
	}
	if err := coordination.CheckOps(ops); err != nil {
		return 0, err
	}
	var last uint64
	var changed []string
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketEntries)
		last, changed = revision(tx), nil
		for _, op := range ops {
			if err := compare(b, op); err != nil {
				return err
			}
		}
		for _, op := range ops {
			if op.Check {
				continue
			}
			last++
			changed = append(changed, op.Key)
			if op.Delete {
				if err := b.Delete([]byte(op.Key)); err != nil {
					return err
				}
				continue
			}
			v := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(op.Value)), last)
			if err := b.Put([]byte(op.Key), append(v, op.Value...)); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyRevision, binary.BigEndian.AppendUint64(nil, last))
	})
	switch {
	case errors.Is(err, coordination.ErrConflict):
		return 0, err
	case err != nil:
		return 0, fmt.Errorf("write embedded store: %w: %w", coordination.ErrUnavailable, err)
	}
	s.changes.add(last, changed)
	return last, nil
}

func compare(b *bolt.Bucket, op coordination.Op) error {
	have := uint64(0)
	if v := b.Get([]byte(op.Key)); v != nil {
		have = entry(op.Key, v).Version
	}
	if have != op.Version {
		return fmt.Errorf("%s: version %d, not %d: %w", op.Key, have, op.Version, coordination.ErrConflict)
	}
	return nil
}

func (s *Store) view(ctx context.Context, fn func(*bolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", coordination.ErrUnavailable, err)
	}
	err := s.db.View(fn)
	if err != nil && !errors.Is(err, coordination.ErrNotFound) {
		return fmt.Errorf("read embedded store: %w: %w", coordination.ErrUnavailable, err)
	}
	return err
}

// Watch calls fn with the content under prefix now and after each change.
func (s *Store) Watch(ctx context.Context, prefix string, fn func([]coordination.Entry, error)) error {
	return coordination.WatchLoop(ctx, s.poll, prefix, fn)
}

// poll waits until something under prefix is newer than after, or wait is over.
func (s *Store) poll(ctx context.Context, prefix string, after uint64, wait time.Duration) ([]coordination.Entry, uint64, error) {
	if after > 0 {
		if err := s.changes.wait(ctx, prefix, after, wait); err != nil {
			return nil, 0, err
		}
	}
	return s.list(ctx, prefix)
}

func entry(key string, v []byte) coordination.Entry {
	return coordination.Entry{Key: key, Version: binary.BigEndian.Uint64(v), Value: bytes.Clone(v[8:])}
}

func revision(tx *bolt.Tx) uint64 {
	if v := tx.Bucket(bucketMeta).Get(keyRevision); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// changesMax is how many changes are remembered for watchers that poll again.
const changesMax = 4096

// changes remembers which keys changed lately, so that a watcher neither misses
// one between two polls nor wakes for every change elsewhere.
type changes struct {
	mu     sync.Mutex
	ring   []change // oldest first
	floor  uint64   // changes up to here are forgotten
	wake   chan struct{}
	closed bool
}

type change struct {
	revision uint64
	key      string
}

func (c *changes) start(revision uint64) { c.floor, c.wake = revision, make(chan struct{}) }

func (c *changes) add(revision uint64, keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for _, k := range keys {
		c.ring = append(c.ring, change{revision, k})
	}
	if n := len(c.ring) - changesMax; n > 0 {
		for _, dropped := range c.ring[:n] {
			c.floor = max(c.floor, dropped.revision)
		}
		c.ring = append([]change(nil), c.ring[n:]...)
	}
	close(c.wake)
	c.wake = make(chan struct{})
}

func (c *changes) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.wake)
	}
}

var errClosed = fmt.Errorf("embedded store is closed: %w", coordination.ErrUnavailable)

func (c *changes) wait(ctx context.Context, prefix string, after uint64, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.mu.Lock()
		changed, wake, closed := c.since(prefix, after), c.wake, c.closed
		c.mu.Unlock()
		if closed {
			return errClosed
		}
		if changed {
			return nil
		}
		select {
		case <-wake:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", coordination.ErrUnavailable, ctx.Err())
		}
	}
}

func (c *changes) since(prefix string, after uint64) bool {
	if after < c.floor {
		return true
	}
	for i := len(c.ring) - 1; i >= 0 && c.ring[i].revision > after; i-- {
		if coordination.Under(c.ring[i].key, prefix) {
			return true
		}
	}
	return false
}
