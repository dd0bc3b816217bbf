package failover

import (
	"errors"
	"strings"
	"testing"
	"time"

	"spillway"
)

// What becomes of an adoption, row by row: what the configuration says, what the record says,
// and what a look has found.
func TestAdoptionBeginsAndEnds(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC)
	two := &DirectView{Clients: 2, What: "2 clients at east: a, b"}
	none := &DirectView{None: true, What: "no client was found at east past the gateways"}
	unread := &DirectView{Clients: 2, What: two.What, Unread: "producers could not be looked at: no rights"}
	never := &DirectView{Unread: unread.Unread}
	noted := func(d *DirectView) *Adoption {
		a := &Adoption{Since: began}
		if d != nil {
			a.Direct, a.Clients, a.None, a.Unread = d.String(), d.Clients, d.None, d.Unread != ""
		}
		return a
	}
	for name, c := range map[string]struct {
		wanted bool
		had    *Adoption
		found  *DirectView
		other  bool // another loop has the key
		want   *Adoption
		why    string // "": nothing is written
	}{
		"no adoption":                    {},
		"no adoption, whatever is found": {found: two},
		"it begins":                      {wanted: true, want: noted(nil), why: "is adopting: nothing moves"},
		"it begins again where it was found to be over": {wanted: true, found: none, want: noted(nil), why: "is adopting"},
		"nobody has looked":                             {wanted: true, had: noted(nil), want: noted(nil)},
		"who was found is noted":                        {wanted: true, had: noted(nil), found: two, want: noted(two), why: "a, b"},
		"the same number is the same news":              {wanted: true, had: noted(two), found: &DirectView{Clients: 2, What: "2 clients at east: c, d"}, want: noted(two)},
		"the key is there, so it goes on without any":   {wanted: true, had: noted(two), found: none, want: noted(none), why: "no client was found"},
		"the key is gone, but nobody has looked":        {had: noted(two), want: noted(two)},
		"the key is gone, but clients are left":         {had: noted(none), found: two, want: noted(two), why: "2 clients"},
		"the key is gone, and not all could be read":    {had: noted(two), found: unread, want: noted(unread), why: "no rights; before that: 2 clients"},
		"and it can again":                              {had: noted(unread), found: two, want: noted(two), why: "is adopting: 2 clients"},
		"nothing could ever be read":                    {had: noted(nil), found: never, want: noted(never), why: "is adopting: producers could not be looked at: no rights"},
		"the key is gone, and none is left":             {had: noted(two), found: none, why: "is adopted: no client was found"},
		"another loop has the key still":                {had: noted(none), found: none, other: true, want: noted(none)},
	} {
		v, l := healthy()
		v.Now, v.Direct, v.Adopting, l.Group.Adopting = began, c.found, c.other, c.wanted
		s := stable()
		s.Adoption = c.had
		next, actions := Step(s, v, l)
		if c.why == "" {
			if !next.Same(s) || len(actions) > 0 {
				t.Errorf("%s: %+v, %+v", name, next.Adoption, actions)
			}
			continue
		}
		want := s
		if want.Adoption = c.want; !next.Same(want) || len(actions) != 1 || !strings.Contains(actions[0].Why, c.why) {
			t.Errorf("%s: %+v, %+v", name, next.Adoption, actions)
		}
	}
}

// Nothing moves while clients may go past the gateways, whether the configuration says so or
// the record still does; but for a person who fails over from a site that is down.
func TestNothingMovesWhileAdopting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key, record, down bool
		kind              Kind
		refused           bool
	}{
		{false, false, false, Switchover, false},
		{true, false, false, Switchover, true},
		{false, true, false, Switchover, true},
		{true, true, false, Switchover, true},
		{false, false, false, Failover, false},
		{true, false, false, Failover, true},
		{false, true, false, Failover, true},
		{true, true, true, Failover, false},
	} {
		v, l := healthy()
		l.Group.Adopting = c.key
		s := stable()
		if c.record {
			s.Adoption = &Adoption{Direct: "1 client at east: member desk", Clients: 1}
		}
		if c.down {
			site := v.Sites["east"]
			site.Judgement = Judgement{Down: true, Why: "east is down"}
			v.Sites["east"] = site
		}
		_, err := Begin(s, Request{Kind: c.kind, Target: "west", Who: "ann", LossMax: -1}, v, l)
		if (err != nil) != c.refused || err != nil && !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v", c, err)
		}
		if c.refused && errors.Is(err, ErrBehind) {
			t.Errorf("%+v: a command would wait for the end of it", c)
		}
		if c.record && c.refused && !strings.Contains(err.Error(), "member desk") {
			t.Errorf("it does not say who: %v", err)
		}
	}
}

// Automation asks a person, with the reason, and fails over once the adoption has ended.
func TestAutomaticFailoverIsOffWhileAdopting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, record, moves bool }{{true, false, false}, {false, true, false}, {true, true, false}, {false, false, true}} {
		v, l := healthy()
		v.SinceMove = time.Hour
		l.Group.Failover = spillway.AutomaticFailover{Enabled: true, LossRecordsMax: 1000}
		l.Group.Adopting = c.key
		site := v.Sites["east"]
		site.Judgement = Judgement{Down: true, For: time.Hour, Why: "east is down"}
		v.Sites["east"] = site
		s := stable()
		if c.record || c.key { // the record follows the key
			s.Adoption = &Adoption{Direct: "1 client at east: member desk", Clients: 1}
		}
		if c.key && !c.record {
			s.Adoption = nil
			s, _ = Step(s, v, l)
		}
		next, actions := Step(s, v, l)
		if moved := next.State != Stable; moved != c.moves {
			t.Errorf("%+v: %+v %+v", c, next, actions)
		}
		if !c.moves && (len(actions) != 1 || actions[0].Kind != Ask || !strings.Contains(actions[0].Why, "automatic failover of orders is off, since failover group orders")) {
			t.Errorf("%+v: %+v", c, actions)
		}
	}
}

// A person may end it where nobody asks for it any more.
func TestAPersonEndsAnAdoption(t *testing.T) {
	t.Parallel()
	adopting := spillway.FailoverGroup{Name: "orders", Adopting: true}
	adopted := spillway.FailoverGroup{Name: "orders"}
	s := stable()
	if _, err := EndAdoption(s, adopted); !errors.Is(err, ErrRefused) {
		t.Errorf("there was none: %v", err)
	}
	s.Adoption = &Adoption{Clients: 3}
	if _, err := EndAdoption(s, adopting); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "take the key away") {
		t.Errorf("it would begin again: %v", err)
	}
	if next, err := EndAdoption(s, adopted); err != nil || next.Adoption != nil || s.Adoption == nil {
		t.Errorf("%+v, %v", next, err)
	}
	s.State = Fencing
	if _, err := EndAdoption(s, adopted); !errors.Is(err, ErrRefused) {
		t.Errorf("in a move: %v", err)
	}
}

// A sentence about many clients does not grow the record.
func TestWhatARecordSaysOfDirectClientsIsBounded(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s := stable()
	s.Adoption = &Adoption{}
	v.Direct = &DirectView{Clients: 1, What: strings.Repeat("é", directBytesMax)}
	next, _ := Step(s, v, l)
	if n := len(next.Adoption.Direct); n > directBytesMax+8 || n < directBytesMax/2 || !strings.HasSuffix(next.Adoption.Direct, " …") {
		t.Errorf("%d bytes", n)
	}
}
