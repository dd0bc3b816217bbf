package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"spillway/broker"
)

// groupAges knows since when the groups of a flow that fail have not been carried. It is
// there for as long as the flow.
type groupAges struct {
	mu   sync.Mutex
	late map[string]lateGroup // by group; "": the source does not say which it has
	last map[string]time.Time // when each was carried last
	gone time.Time            // since when the source is away; zero: it is there
}

type lateGroup struct {
	since time.Time
	why   string
}

// away tells that no broker of the source answers. Nobody commits there, so what is carried
// grows no older; that the site is away is told elsewhere.
func away(err error) bool { return errors.Is(err, broker.ErrAllUnreachable) }

// away notes that the source is away.
func (g *groupAges) away(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone.IsZero() {
		g.gone = now
	}
}

// back notes that the source is there: the time for which it was not does not count.
func (g *groupAges) back(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone.IsZero() {
		return
	}
	missed := now.Sub(g.gone)
	for group, l := range g.late {
		l.since = l.since.Add(missed)
		g.late[group] = l
	}
	for group, at := range g.last {
		g.last[group] = at.Add(missed)
	}
	g.gone = time.Time{}
}

// carried are the groups that were, at some time, and are there as far as is known.
func (g *groupAges) carried() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	groups := make([]string, 0, len(g.last))
	for group := range g.last {
		if group != "" {
			groups = append(groups, group)
		}
	}
	return groups
}

// took takes what became of a group: it was carried, or why not.
func (g *groupAges) took(now time.Time, group string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.late == nil {
		g.late, g.last = make(map[string]lateGroup), make(map[string]time.Time)
	}
	if err == nil {
		g.last[group] = now
		delete(g.late, group)
		return
	}
	l := lateGroup{since: now, why: err.Error()}
	if was, ok := g.late[group]; ok {
		l.since = was.since
	} else if last, ok := g.last[group]; ok {
		l.since = last
	}
	g.late[group] = l
}

// listed takes which groups there are at the end of a round, and why not all were listed:
// those that are missing then are as they were.
func (g *groupAges) listed(now time.Time, groups []broker.GroupListing, unlisted error) {
	g.took(now, "", unlisted)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.last, "") // what could not be listed begins when it cannot
	if unlisted == nil {
		forgetGone(g.late, groups)
		forgetGone(g.last, groups)
	}
}

// failedLast puts the groups that fail behind the others, so that these are carried before
// time is spent on what hangs; and those in another order each time, as the first of them
// have more time.
func (g *groupAges) failedLast(groups []broker.GroupListing) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rand.Shuffle(len(groups), func(i, j int) { groups[i], groups[j] = groups[j], groups[i] })
	slices.SortStableFunc(groups, func(a, b broker.GroupListing) int {
		_, lateA := g.late[a.ID]
		_, lateB := g.late[b.ID]
		switch {
		case lateA == lateB:
			return 0
		case lateB:
			return -1
		}
		return 1
	})
}

// oldest says for how long the group that has failed the longest has, and what is wrong
// with it, and how many there are; zero if all are carried.
func (g *groupAges) oldest(now time.Time) (age time.Duration, what string, groups int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone.IsZero() {
		now = g.gone
	}
	for group, l := range g.late {
		name := "group " + group + ": "
		if group == "" {
			name = ""
		}
		since := max(now.Sub(l.since), 1) // it fails
		if text := name + l.why; what == "" || since > age || since == age && text < what {
			age, what = since, text
		}
	}
	if len(g.late) > 1 {
		what = fmt.Sprintf("%s (%d more fail)", what, len(g.late)-1)
	}
	return age, what, len(g.late)
}

// copyTurns lets one at a time do something about a name. It knows only names that somebody is
// about.
type copyTurns struct {
	mu    sync.Mutex
	queue map[string]*copyTurn
}

type copyTurn struct {
	busy chan struct{} // has an element while somebody has it
	by   int           // how many have it or wait
}

// enter waits for the turn; leave gives it back.
func (t *copyTurns) enter(ctx context.Context, name string) (leave func(), err error) {
	t.mu.Lock()
	if t.queue == nil {
		t.queue = make(map[string]*copyTurn)
	}
	q := t.queue[name]
	if q == nil {
		q = &copyTurn{busy: make(chan struct{}, 1)}
		t.queue[name] = q
	}
	q.by++
	t.mu.Unlock()
	gone := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if q.by--; q.by == 0 {
			delete(t.queue, name)
		}
	}
	select {
	case q.busy <- struct{}{}:
		return func() { <-q.busy; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
}
