package quota

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// Kind of what is counted.
type Kind int

// Kinds. Each has a rate of its own.
const (
	Produce     Kind = iota // bytes of requests
	Fetch                   // bytes of answers
	Request                 // requests
	Connections             // connections that are opened
	kinds
)

// String is fit for a label.
func (k Kind) String() string { return [...]string{"produce", "fetch", "request", "connections"}[k] }

// Terms are what one holder may use.
type Terms struct {
	Rates   [kinds]int64 // a second; 0: no limit
	OpenMax int          // at once; 0: no limit
}

// Refusal is why a holder was not let in.
type Refusal int

// Refusals.
const (
	None    Refusal = iota
	TooMany         // OpenMax are open
	TooFast         // the rate of Connections is used up
)

// IdleMax bounds the holders that are remembered though nothing of them is open, so that
// one that owes cannot come anew.
const IdleMax = 10_000

// Ledger has an account for each holder. The zero Burst is BurstDefault.
type Ledger[K comparable] struct {
	// Set once, read by anyone.
	terms func(K) Terms
	burst time.Duration

	mu       sync.Mutex
	accounts map[K]*Account
	idle     list.List // of K, that which is idle for the longest first
}

// Account is one holder's. A nil one has no limits.
type Account struct {
	// Changed under the lock of the ledger.
	open  atomic.Int64
	place *list.Element // among those that are idle

	limited [kinds]bool // set once
	mu      sync.Mutex
	buckets [kinds]bucket
}

// NewLedger makes one. terms is asked when a holder comes.
func NewLedger[K comparable](terms func(K) Terms, burst time.Duration) *Ledger[K] {
	if burst <= 0 {
		burst = BurstDefault
	}
	return &Ledger[K]{terms: terms, burst: burst, accounts: make(map[K]*Account)}
}

// Enter counts a holder in; Leave must follow where it was not refused. A nil Ledger lets
// everybody in.
func (l *Ledger[K]) Enter(holder K, now time.Time) (*Account, Refusal) {
	if l == nil {
		return nil, None
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a, terms := l.accounts[holder], l.terms(holder)
	if a == nil {
		a = newAccount(terms, l.burst, now)
	}
	if terms.OpenMax > 0 && a.open.Load() >= int64(terms.OpenMax) {
		return nil, TooMany
	}
	if !a.take(Connections, now) {
		return nil, TooFast // an account that is new lets the first one in
	}
	if a.place != nil {
		l.idle.Remove(a.place)
		a.place = nil
	}
	l.accounts[holder] = a
	a.open.Add(1)
	return a, None
}

// Leave ends what Enter began.
func (l *Ledger[K]) Leave(holder K, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.accounts[holder]
	if a.open.Add(-1) > 0 {
		return
	}
	if a.full(now) { // a new one is the same
		delete(l.accounts, holder)
		return
	}
	a.place = l.idle.PushBack(holder)
	if l.idle.Len() > IdleMax {
		delete(l.accounts, l.idle.Remove(l.idle.Front()).(K))
	}
}

// Remembered is the number of accounts.
func (l *Ledger[K]) Remembered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accounts)
}

func newAccount(terms Terms, burst time.Duration, now time.Time) *Account {
	a := &Account{}
	for k, rate := range terms.Rates {
		if rate > 0 {
			a.limited[k], a.buckets[k] = true, newBucket(rate, burst, now)
		}
	}
	return a
}

// Charge takes what was used, and tells how long to pause for it.
func (a *Account) Charge(kind Kind, amount int64, now time.Time) time.Duration {
	if a == nil || !a.limited[kind] {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	b := &a.buckets[kind]
	b.charge(amount, now)
	return b.pause()
}

// Owes tells whether more was used than there was.
func (a *Account) Owes(kind Kind, now time.Time) bool { return a.Charge(kind, 0, now) > 0 }

// Open is how often the holder is in: those that ask are, so at least once.
func (a *Account) Open() int64 { return max(a.open.Load(), 1) }

// Burst is the most that may be used at once; 0: no limit.
func (a *Account) Burst(kind Kind) int64 {
	if a == nil || !a.limited[kind] {
		return 0
	}
	return int64(a.buckets[kind].burst) // set once
}

func (a *Account) take(kind Kind, now time.Time) bool {
	if !a.limited[kind] {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buckets[kind].take(now)
}

func (a *Account) full(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k := range a.buckets {
		if b := &a.buckets[k]; a.limited[k] {
			if b.fill(now); !b.full() {
				return false
			}
		}
	}
	return true
}
