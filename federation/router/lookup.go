package router

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"spillway"
)

// lookups ask sites anew where things are: who leads partitions, who coordinates groups.
// Requests do not wait for it: they try again in a moment, and a site that does not answer
// takes no time of theirs.
//
//	A  a site is asked one question at a time, whoever wants to know, and then not again for
//	   lookupPause: clients of a broker that dies all want to know at once
//	B  where it is known what moved, nothing else is forgotten
type lookups struct {
	router *Router

	mu struct {
		sync.Mutex
		bySite map[spillway.SiteID]*lookup
	}
}

// lookup is what is to be asked of one site.
type lookup struct {
	all    bool            // everything is to be forgotten
	topics map[string]bool // the leaders of their partitions
}

const (
	lookupPause     = 100 * time.Millisecond
	lookupTopicsMax = 500 // in one question; what is beyond is wanted again
)

// refresh has all that is known of a site's leaders and coordinators forgotten, soon.
func (r *Router) refresh(site spillway.SiteID) {
	r.lookups.want(site, func(l *lookup) { l.all = true })
}

// relearn has a site asked anew who leads the partitions of a topic.
func (r *Router) relearn(site spillway.SiteID, topic string) {
	r.lookups.want(site, func(l *lookup) {
		if len(l.topics) < lookupTopicsMax {
			l.topics[topic] = true
		}
	})
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
		l = &lookup{topics: make(map[string]bool)}
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
		if !l.all && len(l.topics) == 0 || ls.router.ctx.Err() != nil {
			delete(ls.mu.bySite, site)
			ls.mu.Unlock()
			return
		}
		ls.mu.bySite[site] = &lookup{topics: make(map[string]bool)}
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
}
