package coordination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrOther: the store says that what is under a name is something else than the caller takes
// it for.
var ErrOther = errors.New("the coordinator store knows it as another one")

// Identified is a store that answers nothing before it has said that a value is the one that is
// expected: what the processes that share it have to agree on before anything else. Where
// there is no such value yet, it is written by those who may create it, and others go on.
func Identified(s Store, key string, value []byte, create bool) *IdentifiedStore {
	return &IdentifiedStore{Store: s, key: key, value: value, create: create}
}

// IdentifiedStore is what Identified makes.
type IdentifiedStore struct {
	Store
	key    string
	value  []byte
	create bool

	mu    sync.Mutex
	known bool
}

// Check returns nil, an error of the store, or one that is ErrOther.
func (s *IdentifiedStore) Check(ctx context.Context) error {
	s.mu.Lock()
	known := s.known
	s.mu.Unlock()
	if known {
		return nil
	}
	entry, err := s.Store.Get(ctx, s.key)
	if errors.Is(err, ErrNotFound) {
		if !s.create {
			return nil
		}
		if _, err = s.Store.Put(ctx, s.key, s.value, 0); err == nil {
			entry.Value = s.value
		} else if errors.Is(err, ErrConflict) {
			entry, err = s.Store.Get(ctx, s.key)
		}
	}
	if err != nil {
		return err
	}
	if !bytes.Equal(entry.Value, s.value) {
		return fmt.Errorf("%w: %s is %s, and here it is %s", ErrOther, s.key, entry.Value, s.value)
	}
	s.mu.Lock()
	s.known = true
	s.mu.Unlock()
	return nil
}

// Get implements Store.
func (s *IdentifiedStore) Get(ctx context.Context, key string) (Entry, error) {
	if err := s.Check(ctx); err != nil {
		return Entry{}, err
	}
	return s.Store.Get(ctx, key)
}

// List implements Store.
func (s *IdentifiedStore) List(ctx context.Context, prefix string) ([]Entry, error) {
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix)
}

// Put implements Store.
func (s *IdentifiedStore) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	if err := s.Check(ctx); err != nil {
		return 0, err
	}
	return s.Store.Put(ctx, key, value, version)
}

// Delete implements Store.
func (s *IdentifiedStore) Delete(ctx context.Context, key string, version uint64) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	return s.Store.Delete(ctx, key, version)
}

// Txn implements Store.
func (s *IdentifiedStore) Txn(ctx context.Context, ops []Op) error {
	if err := s.Check(ctx); err != nil {
		return err
	}
	return s.Store.Txn(ctx, ops)
}

// Watch implements Store.
func (s *IdentifiedStore) Watch(ctx context.Context, prefix string, fn func([]Entry, error)) error {
	told := false
	for retry := retryMin; ; retry = min(2*retry, retryMax) {
		err := s.Check(ctx)
		if err == nil {
			return s.Store.Watch(ctx, prefix, fn)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !told {
			fn(nil, err)
		}
		told = true
		if sleep(ctx, retry) != nil {
			return ctx.Err()
		}
	}
}
