package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// groupFault is why one group was not carried.
type groupFault struct {
	group string
	err   error
}

func (f groupFault) Error() string { return f.err.Error() }
func (f groupFault) Unwrap() error { return f.err }

// groupOf is the group that an error is about; empty: none.
func groupOf(err error) string {
	var fault groupFault
	errors.As(err, &fault)
	return fault.group
}

// groupAges knows since when the groups of a flow that fail have not been carried. It is
// there for as long as the flow.
type groupAges struct {
	mu   sync.Mutex
	late map[string]lateGroup // by group; "": the source does not say which it has
}

type lateGroup struct {
	since time.Time
	why   string
}

// took takes the outcome of a round: the groups that were carried, or had been, the faults
// of others, and why some were not even listed.
func (g *groupAges) took(now time.Time, carried map[string]bool, faults []error, unlisted error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.late
	g.late = make(map[string]lateGroup)
	fails := func(group string, err error) {
		l := lateGroup{since: now, why: err.Error()}
		if was, ok := before[group]; ok {
			l.since = was.since
		}
		g.late[group] = l
	}
	if unlisted != nil {
		fails("", unlisted)
		for group, l := range before {
			if !carried[group] && group != "" {
				g.late[group] = l // it may be one of those
			}
		}
	}
	for _, fault := range faults {
		fails(groupOf(fault), fault)
	}
}

// oldest says for how long the group that has failed the longest has, and what is wrong
// with it, and how many there are; zero if all are carried.
func (g *groupAges) oldest(now time.Time) (age time.Duration, what string, groups int) {
	g.mu.Lock()
	defer g.mu.Unlock()
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
