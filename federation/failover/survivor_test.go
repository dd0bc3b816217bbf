package failover

import (
	"strings"
	"testing"
	"time"

	"spillway"
)

// A failover goes to the site that is furthest, and where several are about as far to
// the one that is preferred: what the target lacks it fetches while nobody is served.
func TestTheSurvivorThatIsFurthest(t *testing.T) {
	t.Parallel()
	at := func(lag float64) *Following {
		return &Following{Epoch: 4, LagSeconds: lag, Partitions: 3, EndSum: 1000}
	}
	ended := func(sum int64) *Following { return &Following{Epoch: 5, CatchingUp: true, Partitions: 3, EndSum: sum} }
	for name, c := range map[string]struct {
		west, north *Following
		gone        bool
		want        spillway.SiteID
		why         string
	}{
		"both are level":                     {at(30), at(30), false, "west", ""},
		"about level":                        {at(39), at(30), false, "west", ""},
		"far behind":                         {at(45), at(30), false, "north", "west is preferred, but it is 15.0 s further behind"},
		"the one that is preferred is ahead": {at(30), at(3000), false, "west", ""},
		"fifty seconds behind":               {at(700), at(650), false, "north", "west is preferred, but it is 50.0 s further behind"},
		"catching up":                        {&Following{Epoch: 4, CatchingUp: true}, at(900), false, "north", "west is preferred, but it has not caught up"},
		"both are catching up":               {&Following{Epoch: 4, CatchingUp: true}, &Following{Epoch: 4, CatchingUp: true}, false, "west", ""},
		"it follows an older epoch":          {&Following{Epoch: 2}, at(60), false, "north", "west is preferred, but it follows epoch 2"},
		"it does not follow":                 {&Following{Epoch: 4, Problem: "topic carts is missing"}, at(60), false, "north", "west is preferred, but it does not follow: topic carts is missing"},
		"it says nothing":                    {nil, at(60), false, "north", "west is preferred, but it does not say how far it is"},
		"nobody says anything":               {nil, nil, false, "west", ""},
		// Given up and begun anew: nothing can flow in the share's epoch.
		"begun anew, both are level": {ended(1000), ended(1000), true, "west", ""},
		"begun anew, one has more":   {ended(1000), ended(13_000), true, "north", "west is preferred, but it lacks 12000 records"},
		"begun anew, a few more":     {ended(1000), ended(11_000), true, "west", ""},
		"begun anew, one is mute":    {nil, ended(1012), true, "north", "west is preferred, but it does not say how far it is"},
		// Nobody knows by time how far one is that has not caught up.
		"catching up, and nearly there": {ended(1000), at(30), false, "west", ""},
		"both are, and one has more":    {ended(1000), ended(500_000), false, "north", "west is preferred, but it lacks 499000 records"},
		"the same, of too few":          {&Following{Epoch: 4, CatchingUp: true, Partitions: 2, EndSum: 9e9}, ended(500_000), false, "north", "west is preferred, but it has not caught up"},
		"the same, of an older epoch":   {&Following{Epoch: 2, CatchingUp: true, Partitions: 3, EndSum: 9e9}, ended(500_000), false, "north", "west is preferred, but it follows epoch 2"},
	} {
		s := stable()
		v, l := healthy()
		if c.gone {
			s.Epoch, s.Gone = 6, []spillway.SiteID{"south"}
			s.Terms = append(s.Terms, Term{Epoch: 6, Site: "east", Continues: true})
		}
		v.Sites["west"] = SiteView{Mirror: true, Following: c.west}
		v.Sites["north"] = SiteView{Mirror: true, Following: c.north}
		next, err := Begin(s, Request{Kind: Failover, Who: "ann", Automatic: c.gone}, v, l)
		if err != nil || next.Target != c.want {
			t.Errorf("%s: to %s, %v, want %s", name, next.Target, err, c.want)
			continue
		}
		_, why, _ := strings.Cut(next.Passages[0].Why, "; "+string(c.want)+", since ")
		if why != c.why {
			t.Errorf("%s: %q, want %q", name, next.Passages[0].Why, c.why)
		}
	}
	// A person gave a move up, or a switchover was when its source died: flows were stopped,
	// and nobody gets into the epoch that goes on.
	given := stable()
	given.Epoch = 6
	given.Terms = append(given.Terms, Term{Epoch: 6, Site: "east", Continues: true})
	w, limits := healthy()
	w.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, LagSeconds: 60, Partitions: 3, EndSum: 1000}}
	w.Sites["north"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, LagSeconds: 60, Partitions: 3, EndSum: 90_000}}
	if next, err := Begin(given, Request{Kind: Failover, Who: "ann"}, w, limits); err != nil || next.Target != "north" {
		t.Errorf("to %s, %v", next.Target, err)
	}
	// One that somebody finds dead comes last, however far it is.
	v, l := healthy()
	v.Sites["west"] = SiteView{Mirror: true, Judgement: Judgement{Fresh: 3, Suspected: true, Why: "west is down to north: 1 of 3 votes that are needed"}, Following: at(30)}
	v.Sites["north"] = SiteView{Mirror: true, Judgement: Judgement{Fresh: 3}, Following: &Following{Epoch: 4, CatchingUp: true}}
	if next, err := Begin(stable(), Request{Kind: Failover, Who: "ann"}, v, l); err != nil || next.Target != "north" || !strings.HasSuffix(next.Passages[0].Why, "; north, since west is preferred, but it may be dead: west is down to north: 1 of 3 votes that are needed") {
		t.Errorf("to %s, %v: %+v", next.Target, err, next.Passages)
	}
	// Who names a site gets it.
	v, l = healthy()
	v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, CatchingUp: true}}
	if next, err := Begin(stable(), Request{Kind: Failover, Target: "west", Who: "ann"}, v, l); err != nil || next.Target != "west" {
		t.Errorf("%s, %v", next.Target, err)
	}
}

// A move was given up while its source was dead: what standbys say of the epoch before is
// about the same numbering.
func TestWhatFollowsAnEpochThatContinues(t *testing.T) {
	t.Parallel()
	s := stable()
	s.Epoch = 8
	s.Terms = append(s.Terms, Term{Epoch: 6, Site: "east", Continues: true}, Term{Epoch: 8, Site: "east", Continues: true})
	for epoch, want := range map[spillway.Epoch]bool{3: false, 4: true, 6: true, 8: true} {
		if got := follows(s, &Following{Epoch: epoch}); got != want {
			t.Errorf("epoch %d: %t", epoch, got)
		}
	}
}

// A move is held down by a time that another machine wrote: if that lies ahead, whose
// clock is wrong is not known, but that one is has to be said.
func TestAHoldDownTellsOfClocks(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Failover.Enabled = true
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, For: time.Minute, Why: "east is down"}}
	v.SinceMove, v.ClockAhead = 3*time.Second, time.Hour
	_, actions := Step(stable(), v, l)
	if want := "hold east: the last move ended 3s ago, at least 30s between moves; that move ended 1h0m0s from now by the clock of who wrote so, and counts from where this loop saw it: set the clocks of control loops and commands right"; actions[0].Why != want {
		t.Errorf("%q\nwant %q", actions[0].Why, want)
	}
	v.SinceMove = 31 * time.Second
	if next, _ := Step(stable(), v, l); next.State != Fencing {
		t.Errorf("it is held down by a clock that is ahead: %s", next.State)
	}
}

// Without a person it is the same.
func TestAutomationTakesTheSurvivorThatIsFurthest(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Failover.Enabled = true
	v.SinceMove = time.Hour
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, For: time.Minute, Why: "east is down"}}
	v.Sites["west"].Following.CatchingUp = true
	next, actions := Step(stable(), v, l)
	if want := "automation asked for a failover from east to north: east is down; north, since west is preferred, but it has not caught up"; next.Target != "north" || actions[0].Why != want {
		t.Errorf("to %s: %q\nwant %q", next.Target, actions[0].Why, want)
	}
}
