package authorization

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
)

// Bounds of one list.
const (
	// EntriesMax is far above what brokers are run with.
	EntriesMax = 100_000
	// BytesMax is of the words of the entries; sorted they take some times as much.
	BytesMax = 32 << 20
)

// restFactor is how much longer than it took to read a list nothing is read: a long one is
// work for broker and gateway.
const restFactor = 10

// A list that was never read is asked for every eagerEvery in the first FirstMax: a gateway
// waits for it (Wait), and clients for the gateway.
const (
	eagerEvery = 100 * time.Millisecond
	FirstMax   = 2 * time.Second
)

// Config is what a Keeper is built from.
type Config struct {
	Policy
	Sites []spillway.SiteID
	// Read gives all entries that a site has, sorted.
	Read func(context.Context, spillway.SiteID) ([]spillway.ACL, error)

	Every       time.Duration // a list that is there is read; default 5 s
	EveryUnread time.Duration // one that never was is; default 1 s
	ReadMax     time.Duration // for one answer; default 10 s
	FirstMax    time.Duration // a gateway that starts waits for its first lists; default 2 s

	// Looked: a list was read, or why not; nothing is known of the sites that are
	// unread. Changed: what it says is new. A nil func is skipped.
	Looked  func(site spillway.SiteID, err error, unread []spillway.SiteID)
	Changed func(site spillway.SiteID, entries int)
	// Aged tells after each look how old a site's list is: since it was asked for the one in
	// force, or where none was ever read since it was first asked.
	Aged func(site spillway.SiteID, age time.Duration)
}

// Keeper has the rules of each site, a few seconds old at most while the site answers.
type Keeper struct {
	config Config
	lists  map[spillway.SiteID]*list // never changes
	none   *Rules                    // of a site that nobody knows
}

type list struct {
	rules atomic.Pointer[Rules]
	read  chan struct{} // closed when it was read first

	// Owned by who reads it.
	entries []spillway.ACL
	asOf    time.Time // when the site was asked for it
}

// NewKeeper reads nothing yet. Run does.
func NewKeeper(c Config) *Keeper {
	for d, to := range map[*time.Duration]time.Duration{&c.Every: 5 * time.Second, &c.EveryUnread: time.Second, &c.ReadMax: 10 * time.Second, &c.FirstMax: FirstMax} {
		if *d <= 0 {
			*d = to
		}
	}
	k := &Keeper{config: c, lists: make(map[spillway.SiteID]*list), none: unreadRules(c.Policy)}
	for _, site := range c.Sites {
		l := &list{read: make(chan struct{})}
		l.rules.Store(k.none)
		k.lists[site] = l
	}
	return k
}

// Of are the rules of a site. They allow nothing until its list was read.
func (k *Keeper) Of(site spillway.SiteID) *Rules {
	if l := k.lists[site]; l != nil {
		return l.rules.Load()
	}
	return k.none
}

// Unread are the sites whose lists were never read.
func (k *Keeper) Unread() (sites []spillway.SiteID) {
	for site, l := range k.lists {
		if l.rules.Load().unread {
			sites = append(sites, site)
		}
	}
	slices.Sort(sites)
	return sites
}

// Wait returns when the lists of these sites were read, or ctx ends, and tells whose were not.
// Run has to run.
func (k *Keeper) Wait(ctx context.Context, sites []spillway.SiteID) (unread []spillway.SiteID) {
	for _, site := range sites {
		l := k.lists[site]
		if l == nil {
			continue
		}
		select {
		case <-l.read:
		case <-ctx.Done():
			if l.rules.Load().unread {
				unread = append(unread, site)
			}
		}
	}
	slices.Sort(unread)
	return unread
}

// Run reads until ctx ends. It may be called once.
func (k *Keeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for site, l := range k.lists {
		wg.Go(func() { k.follow(ctx, site, l) })
	}
	wg.Wait()
}

func (k *Keeper) follow(ctx context.Context, site spillway.SiteID, l *list) {
	l.asOf = time.Now()
	for eager, failed := l.asOf.Add(k.config.FirstMax), false; ; {
		began := time.Now()
		err := k.look(ctx, site, l)
		if err == nil {
			l.asOf = began
		}
		if ctx.Err() != nil {
			return
		}
		if again := failed && err != nil && began.Before(eager); !again && k.config.Looked != nil {
			k.config.Looked(site, err, k.Unread())
		}
		failed = err != nil
		if k.config.Aged != nil {
			k.config.Aged(site, time.Since(l.asOf))
		}
		every := k.config.Every
		if l.rules.Load().unread {
			every = k.config.EveryUnread
			if time.Now().Before(eager) {
				every = min(every, eagerEvery)
			}
		}
		if err == nil {
			every = max(every, restFactor*time.Since(began))
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
	}
}

// look reads a list and puts it in force. What cannot be used changes nothing (invariant D).
func (k *Keeper) look(ctx context.Context, site spillway.SiteID, l *list) error {
	ctx, cancel := context.WithTimeout(ctx, k.config.ReadMax)
	defer cancel()
	entries, err := k.config.Read(ctx, site)
	if err == nil {
		err = bounded(entries)
	}
	if err != nil {
		return fmt.Errorf("access control list of site %s: %w", site, err)
	}
	unread := l.rules.Load().unread
	if !unread && slices.Equal(entries, l.entries) {
		return nil
	}
	l.entries = entries
	l.rules.Store(NewRules(k.config.Policy, entries))
	if unread {
		close(l.read)
	}
	if k.config.Changed != nil {
		k.config.Changed(site, len(entries))
	}
	return nil
}

// ErrTooMany tells of a list that is not used, since it is too long.
var ErrTooMany = errors.New("the list is too long")

func bounded(entries []spillway.ACL) error {
	if len(entries) > EntriesMax {
		return fmt.Errorf("%w: %d entries, and %d are the most; allow by prefix what is allowed one by one", ErrTooMany, len(entries), EntriesMax)
	}
	n := 0
	for _, e := range entries {
		n += len(e.Resource) + len(e.Pattern) + len(e.Name) + len(e.Principal) + len(e.Host) + len(e.Operation) + len(e.Permission)
	}
	if n > BytesMax {
		return fmt.Errorf("%w: %d bytes, and %d are the most", ErrTooMany, n, BytesMax)
	}
	return nil
}
