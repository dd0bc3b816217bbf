package failover

import (
	"testing"

	"spillway"
)

// Where a share is served next is known from the beginning of a move, and neither its
// opening nor the end of its giving up changes it.
func TestNext(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state                 State
		active, target, abort string
		want                  spillway.SiteID
	}{
		{Stable, "east", "", "", "east"},
		{Draining, "east", "west", "", "east"},
		{Fencing, "east", "west", "", "west"},
		{Fenced, "east", "west", "", "west"},
		{Cutover, "east", "west", "", "west"},
		{CaughtUp, "east", "west", "", "west"},
		{Open, "west", "west", "", "west"},
		{Stable, "west", "", "", "west"},
		{Fencing, "east", "west", "ann: no", "east"},
		{CaughtUp, "east", "west", "ann: no", "east"},
	} {
		s := Share{State: c.state, Active: spillway.SiteID(c.active), Target: spillway.SiteID(c.target), Abort: c.abort}
		if got := s.Next(); got != c.want {
			t.Errorf("%s, active %s, target %q, abort %q: next is %s, want %s", c.state, c.active, c.target, c.abort, got, c.want)
		}
	}
}
