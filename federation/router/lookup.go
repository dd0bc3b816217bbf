package router

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
)

// lookups ask sites anew where things are: who leads partitions, who coordinates groups.
// Requests do not wait for it: they try again in a moment, and a site that does not answer
// takes no time of theirs.
//
//	A  a site is asked one question at a time, whoever wants to know, and then not again for
//	   lookupPause: clients of a broker that dies all want to know at once
//	B  where it is known what moved, nothing else is forgotten, unless it is so much that
//	   most has moved
type lookups struct {
	router *Router

	mu struct {
		sync.Mutex
		bySite map[spillway.SiteID]*lookup
	}
}

// lookup is what is to be asked of one site.
type lookup struct {
	all    bool            // everything is to be forgotten; so where there are too many names
	topics map[string]bool // the leaders of their partitions
	// Who coordinates them.
	coordinated map[coordinated]bool
}

// coordinated is a group or a transactional id.
type coordinated struct {
	kind broker.CoordinatorKind
	key  string
}

func newLookup() *lookup {
	return &lookup{topics: make(map[string]bool), coordinated: make(map[coordinated]bool)}
}

func (l *lookup) empty() bool { return !l.all && len(l.topics) == 0 && len(l.coordinated) == 0 }

const (
	lookupPause    = 100 * time.Millisecond
	lookupNamesMax = 500 // in one question
)

// refresh has all that is known of a site's leaders and coordinators forgotten, soon.
func (r *Router) refresh(site spillway.SiteID) {
	r.lookups.want(site, func(l *lookup) { l.all = true })
}

// relearn has a site asked anew who leads the partitions of a topic.
func (r *Router) relearn(site spillway.SiteID, topic string) {
	r.lookups.want(site, func(l *lookup) { l.all = !noted(l.topics, topic) || l.all })
}

// relocate has a site asked anew who coordinates a group or transactional id.
func (r *Router) relocate(site spillway.SiteID, of coordinated) {
	r.lookups.want(site, func(l *lookup) { l.all = !noted(l.coordinated, of) || l.all })
}

// noted adds a name where there is room.
func noted[K comparable](names map[K]bool, name K) bool {
	if len(names) < lookupNamesMax {
		names[name] = true
	}
	return names[name]
}

// Relearn is for who asks the site aside from clients.
func (r *Router) Relearn(site spillway.SiteID, topic string) { r.relearn(site, topic) }

func (ls *lookups) want(site spillway.SiteID, note func(*lookup)) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.router.ctx.Err() != nil {
		return // nobody waits for it any more
	}
	l := ls.mu.bySite[site]
	if l == nil {
		l = newLookup()
		if ls.mu.bySite == nil {
			ls.mu.bySite = make(map[spillway.SiteID]*lookup)
		}
		ls.mu.bySite[site] = l
		ls.router.background.Go(func() { ls.run(site) })
	}
	note(l)
}

// run asks until nobody wants to know any more.
func (ls *lookups) run(site spillway.SiteID) {
	for {
		ls.mu.Lock()
		l := ls.mu.bySite[site]
		if l.empty() || ls.router.ctx.Err() != nil {
			delete(ls.mu.bySite, site)
			ls.mu.Unlock()
			return
		}
		ls.mu.bySite[site] = newLookup()
		ls.mu.Unlock()
		ls.ask(site, l)
		pause := time.NewTimer(lookupPause)
		select {
		case <-pause.C:
		case <-ls.router.ctx.Done():
		}
		pause.Stop()
	}
}

// ask drops the errors: who wanted to know looks again, and finds out.
func (ls *lookups) ask(site spillway.SiteID, l *lookup) {
	ctx, cancel := context.WithTimeout(ls.router.ctx, dialMax)
	defer cancel()
	if l.all {
		_ = ls.router.sites[site].Refresh(ctx)
	}
	if len(l.topics) > 0 {
		_, _ = ls.router.sites[site].Metadata(ctx, slices.Sorted(maps.Keys(l.topics))...)
	}
	for _, kind := range []broker.CoordinatorKind{broker.GroupCoordinator, broker.TransactionCoordinator} {
		var keys []string
		for of := range l.coordinated {
			if of.kind == kind {
				keys = append(keys, of.key)
			}
		}
		if len(keys) > 0 {
			slices.Sort(keys)
			_ = ls.router.sites[site].Relocate(ctx, kind, keys...)
		}
	}
}
