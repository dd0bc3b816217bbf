// Package coordination is the store that all processes of a virtual cluster
// share: versioned values changed by compare-and-set, watched by prefix, and
// leases made of them. It knows neither Kafka nor what the values mean.
// Providers: consul (production) and embedded (one host); coordtest holds the
// contract that both pass. Consul's sessions and locks are not used (C30).
package coordination

import (
	"context"
	"errors"
	"strings"
)

// Errors that callers branch on.
var (
	// ErrConflict: the value changed since the version that was given.
	ErrConflict = errors.New("value was changed by somebody else")
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("no such key")
	// ErrUnavailable: the store cannot say. The outcome of a write that
	// returns it is unknown: read back before relying on either.
	ErrUnavailable = errors.New("coordinator store is unavailable")
)

// ErrTooLarge: no store takes a change of this size, now or later.
var ErrTooLarge = errors.New("it is too large for the coordinator store")

// ValueBytesMax is the largest value that a store takes (Consul's limit).
const ValueBytesMax = 512 << 10

// Entry is one key with its value. Version is 0 only for a key that does not
// exist; versions of one key rise with each change, also over deletion.
type Entry struct {
	Key     string
	Value   []byte
	Version uint64
}

// Op is one change in a transaction: put if the version is the current one (0:
// if the key does not exist); Delete removes; Check only compares.
type Op struct {
	Key     string
	Value   []byte
	Version uint64
	Delete  bool
	Check   bool
}

// Under tells whether a key is below a prefix, or is the one key that it means.
func Under(key, prefix string) bool {
	return key == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
}

// Store is the contract. All methods are safe for concurrent use, honour the
// context's deadline, and wrap ErrUnavailable when the store cannot be reached.
type Store interface {
	// Get reads one key, linearizably. ErrNotFound if it does not exist.
	Get(ctx context.Context, key string) (Entry, error)
	// List reads all keys under a prefix, linearizably, sorted by key. A prefix that does
	// not end with "/" is one key, here and in Watch: who may read that alone must not be
	// asked about others that begin like it.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Put writes value if version is the current one; 0 creates. It returns
	// the new version. ErrConflict if somebody was faster.
	Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error)
	// Delete removes the key if version is the current one.
	Delete(ctx context.Context, key string, version uint64) error
	// Txn applies all changes or none; at most 64. ErrConflict names a key.
	Txn(ctx context.Context, ops []Op) error
	// Watch calls fn with the whole content under prefix: once at the start,
	// then after changes (several changes may come as one call), until ctx
	// ends. It hides interruptions of the store and retries; fn(nil, err) is
	// called when an interruption begins. A watch is a hint, from its first call
	// on: decisions that must not be stale read again.
	Watch(ctx context.Context, prefix string, fn func(entries []Entry, err error)) error
	Close() error
}
