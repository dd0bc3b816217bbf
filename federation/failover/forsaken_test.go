package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
)

// failing is a failover of automation from east to west, in FENCED, of which west went
// away, with north as the site that is left.
func failing() (Share, View, Limits) {
	s := stable()
	s.State, s.Kind, s.Epoch, s.Target, s.Automatic, s.Who, s.Mask = Fenced, Failover, 5, "west", true, "automation", 77
	v, l := healthy()
	l.Group.Failover.Enabled, l.Group.Failover.After = true, 10*time.Second
	v.Reserved, v.InState = PartitionOffsets{}, time.Minute
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, Fresh: 3, For: time.Minute, Why: "east is down to west, north: no broker answers"}}
	v.Sites["west"] = SiteView{Judgement: Judgement{Down: true, Fresh: 2, For: 10 * time.Second, Why: "west is down to north, witness: no broker answers"}, Mirror: true}
	return s, v, l
}

// What becomes of a failover that needs a site which went away.
func TestAFailoverWhoseTargetWentAway(t *testing.T) {
	t.Parallel()
	const gone = "target west went away in FENCED: west is down to north, witness: no broker answers"
	for name, c := range map[string]struct {
		change func(*Share, *View, *Limits)
		kind   ActionKind
		gone   []spillway.SiteID // after it; nil: it is not given up
		want   string
	}{
		"it is begun anew": {func(*Share, *View, *Limits) {}, Wait, []spillway.SiteID{"west"}, gone + "; it is begun anew to north"},
		"a moment later":   {func(_ *Share, v *View, _ *Limits) { v.Sites["west"] = down("west", 4*time.Second) }, Wait, nil, "target west went away in FENCED: west is down for 4s; the failover is given up after 10s"},
		"the old site is up again": {func(_ *Share, v *View, _ *Limits) {
			v.Sites["east"] = SiteView{Judgement: Judgement{Fresh: 3}}
			v.Sites["north"] = down("north", time.Hour)
		}, Wait, []spillway.SiteID{"west"}, gone + "; east is up again"},
		"the old site may be up again": {func(_ *Share, v *View, _ *Limits) {
			v.Sites["east"] = SiteView{Judgement: Judgement{Fresh: 3, Suspected: true}}
		}, Wait, []spillway.SiteID{"west"}, gone + "; it is begun anew to north if east is down still"},
		"a person asked": {func(s *Share, _ *View, _ *Limits) { s.Automatic, s.Who = false, "ann" }, Ask, nil,
			gone + "; a person must decide: ann asked for this failover; wait for west, or spillway abort orders, then spillway failover orders --to north"},
		"automation is paused": {func(_ *Share, v *View, _ *Limits) {
			v.Automation = Automation{Paused: true, Who: "ann", Why: "upgrade"}
		}, Ask, nil,
			gone + "; a person must decide: automation is paused by ann: upgrade; wait for west, or spillway abort orders, then spillway failover orders --to north"},
		"automation is off": {func(_ *Share, _ *View, l *Limits) { l.Group.Failover.Enabled = false }, Ask, nil,
			gone + "; a person must decide: automatic failover of orders is off; wait for west, or spillway abort orders, then spillway failover orders --to north"},
		"nobody is left": {func(_ *Share, v *View, _ *Limits) { v.Sites["north"] = down("north", time.Hour) }, Ask, nil,
			gone + "; a person must decide: target north is down: north is down; wait for west, or spillway abort orders gives it back to east"},
		"the one that is left hides": {func(_ *Share, v *View, _ *Limits) {
			hides(*v, "north", map[string]string{"carts": "overhang in partition 0"}, "carts")
		}, Ask, nil,
			gone + "; a person must decide: site north hides records in its logs of compacted topics, so that a cleaner may have removed the visible ones of their keys, or has missed deletions (late): carts (overhang in partition 0); let these topics begin anew there: docs/operate/compacted.md; name it to fail over there all the same; wait for west, or spillway abort orders gives it back to east"},
		"the one that is left has not said whether it hides": {func(_ *Share, v *View, _ *Limits) { hides(*v, "north", nil, "carts") }, Ask, nil,
			gone + "; a person must decide: site north has not said yet whether its logs of the compacted topics hide records: carts; name it to fail over there all the same; wait for west, or spillway abort orders gives it back to east"},
		"too few are left for ack.sites": {func(_ *Share, _ *View, l *Limits) { l.Group.Ack.Sites = 2 }, Ask, nil,
			gone + "; a person must decide: only 1 of the 2 sites are up that must be heard for ack.sites 2; wait for west, or spillway abort orders, then spillway failover orders --to north"},
		"it went away before": {func(s *Share, _ *View, _ *Limits) { s.Gone = []spillway.SiteID{"west"} }, Ask, nil,
			gone + "; a person must decide: west went away a second time; wait for west, or spillway abort orders, then spillway failover orders --to north"},
		"the other one went away before": {func(s *Share, _ *View, _ *Limits) { s.Gone = []spillway.SiteID{"north"} }, Ask, nil,
			gone + "; a person must decide: site north went away when the share was about to fail over there; name it to fail over there all the same; wait for west, or spillway abort orders gives it back to east"},
		"its mirror ended": {func(_ *Share, v *View, _ *Limits) {
			v.Sites["west"] = SiteView{Judgement: Judgement{Fresh: 3}, Mute: 10 * time.Second}
		}, Ask, nil,
			"no mirror has been alive at target west in FENCED; a person must decide: nobody can bring it up to date; wait for west, or spillway abort orders, then spillway failover orders --to north"},
		"its mirror ended a moment ago": {func(_ *Share, v *View, _ *Limits) {
			v.Sites["west"], v.InState = SiteView{Judgement: Judgement{Fresh: 3}, Mute: time.Second}, time.Second
		}, Wait, nil, "wait for west to stop its flow and tell its ends"},
		"in FENCING it is not needed": {func(s *Share, v *View, _ *Limits) {
			s.State, v.Unseen = Fencing, time.Second
		}, Wait, nil, "wait for gateways: any whose lease was deleted before this loop began (leases end in 1s)"},
		"who has the longest went away": {func(s *Share, v *View, _ *Limits) {
			s.State, s.Target = Cutover, "north"
			s.Prefix, s.PrefixSite = PartitionOffsets{"t": {7, 9}}, map[string][]spillway.SiteID{"t": {"north", "west"}}
			v.Sites["north"] = reported(PartitionOffsets{"t": {7, 8}})
		}, Wait, []spillway.SiteID{"west"}, "west, of which target north lacks records, went away in CUTOVER: west is down to north, witness: no broker answers; it is begun anew to north"},
		"who had the longest is not needed any more": {func(s *Share, v *View, _ *Limits) {
			s.State, s.Target = Cutover, "north"
			s.Prefix, s.PrefixSite = PartitionOffsets{"t": {7, 9}}, map[string][]spillway.SiteID{"t": {"north", "west"}}
			v.Sites["north"] = reported(PartitionOffsets{"t": {7, 9}})
		}, Wait, nil, "north has everything below the cutover"},
	} {
		s, v, l := failing()
		c.change(&s, &v, &l)
		next, actions := Step(s, v, l)
		why := actions[0].Why
		if next.Abort != "" {
			why = strings.TrimPrefix(next.Abort, "automation: ")
		}
		if len(actions) != 1 || actions[0].Kind != c.kind || why != c.want {
			t.Errorf("%s:\n%s %q\nwant\n%s %q", name, actions[0].Kind, why, c.kind, c.want)
		}
		if given := next.Abort != ""; given != (c.gone != nil) || given && !slices.Equal(next.Gone, c.gone) || next.Epoch != s.Epoch {
			t.Errorf("%s: given up: %t, gone %v", name, given, next.Gone)
		}
	}
}

func down(site spillway.SiteID, since time.Duration) SiteView {
	return SiteView{Judgement: Judgement{Down: true, Fresh: 2, For: since, Why: string(site) + " is down"}, Mirror: true}
}

func reported(ends PartitionOffsets) SiteView {
	return SiteView{Judgement: Judgement{Fresh: 3}, Mirror: true, Following: &Following{Epoch: 4}, Report: &SiteReport{Stopped: true, Ends: ends}}
}

// The whole way: given up, back at the old site in an epoch above, begun anew at once
// though a move has just ended, and held down again once that is over.
func TestAFailoverIsBegunAnew(t *testing.T) {
	t.Parallel()
	s, v, l := failing()
	l.Group.Failover.PerHourMax = 1
	pass := func(want State, epoch spillway.Epoch) {
		t.Helper()
		if s, _ = Step(s, v, l); s.State != want || s.Epoch != epoch {
			t.Fatalf("%s in epoch %d, want %s in %d", s.State, s.Epoch, want, epoch)
		}
	}
	pass(Fenced, 5) // the record says first that it is given up
	pass(Stable, 6)
	if !s.Current().Continues || s.Active != "east" || s.Automatic {
		t.Fatalf("%+v", s)
	}
	v.SinceMove = 0
	held := s
	held.Gone = nil
	if same, actions := Step(held, v, l); same.State != Stable || !strings.Contains(actions[0].Why, "at least 30s between moves") {
		t.Fatalf("without that a move has been begun anew it is not held down: %+v", actions)
	}
	pass(Fencing, 7)
	if s.Target != "north" || !s.Automatic || !slices.Equal(s.Gone, []spillway.SiteID{"west"}) {
		t.Fatalf("%+v", s)
	}
	// A person who gives it up is not overtaken.
	given, err := Abort(s, "ann", "")
	if err != nil || given.Gone != nil {
		t.Fatalf("%v, %v", given.Gone, err)
	}
	if given, _ = Step(given, v, l); given.State != Stable || given.Gone != nil {
		t.Fatalf("%+v", given)
	}
	if same, _ := Step(given, v, l); same.State != Stable {
		t.Fatal("it is begun anew, though a person gave it up")
	}
	// Once it is open, nothing of it is left.
	open := s
	open.State, open.Active, open.Terms = Open, "north", append(slices.Clone(s.Terms), Term{Epoch: 7, Site: "north", Lossy: true})
	if open, _ = Step(open, v, l); open.State != Stable || open.Gone != nil || open.Automatic {
		t.Fatalf("%+v", open)
	}
}

// The old site is up again when the failover has been given up: nothing moves, and the
// next one is held down as any other.
func TestNothingIsBegunAnewOfASiteThatIsBack(t *testing.T) {
	t.Parallel()
	s, v, l := failing()
	s.State, s.Target, s.Gone = Stable, "", []spillway.SiteID{"west"}
	for _, c := range []struct {
		name string
		j    Judgement
		left bool
	}{
		{"nobody has voted yet", Judgement{}, true},
		{"one place finds it dead", Judgement{Fresh: 3, Suspected: true}, true},
		{"it is up", Judgement{Fresh: 3}, false},
	} {
		v.Sites["east"] = SiteView{Judgement: c.j, Mirror: true, Following: &Following{Epoch: 5}}
		if next, _ := Step(s, v, l); next.State != Stable || len(next.Gone) > 0 != c.left {
			t.Errorf("%s: %s, gone %v", c.name, next.State, next.Gone)
		}
	}
}

// A site that went away is as good as any other once it has been up for long, and it may
// go away again.
func TestASiteThatWentAwayComesBack(t *testing.T) {
	t.Parallel()
	s, v, l := failing()
	s.State, s.Target, s.Gone = Stable, "", []spillway.SiteID{"west"}
	v.Sites["north"] = down("north", time.Hour)
	west := v.Sites["west"]
	west.Following = &Following{Epoch: 5}
	for name, c := range map[string]struct {
		j    Judgement
		back bool
	}{
		"up for long":       {Judgement{Fresh: 2, For: HoldDown}, true},
		"up for a moment":   {Judgement{Fresh: 2, For: HoldDown - 1}, false},
		"nobody votes":      {Judgement{For: time.Hour}, false},
		"found dead by one": {Judgement{Fresh: 2, Suspected: true, For: time.Hour}, false},
	} {
		west.Judgement = c.j
		v.Sites["west"] = west
		next, actions := Step(s, v, l)
		if back := next.State == Fencing && next.Target == "west" && next.Gone == nil; back != c.back || !c.back && actions[0].Kind != Ask {
			t.Errorf("%s: %s to %s, gone %v, %+v", name, next.State, next.Target, next.Gone, actions)
		}
	}
}

// Two sites that come and go: what automation began and gave up counts, the first time not
// until it is over, and in the end a person is asked. It does not help to be up for one look.
func TestSitesThatComeAndGoEndAtTheRateLimit(t *testing.T) {
	t.Parallel()
	for _, upBetween := range []bool{false, true} {
		s, v, l := failing()
		l.Group.Failover.PerHourMax = 2
		v.SinceMove = time.Hour
		began := 1
		for range 20 {
			v.Now = v.Now.Add(time.Minute)
			dead, alive := s.Target, spillway.SiteID("north")
			if dead == "north" {
				alive = "west"
			}
			v.Sites[dead] = down(dead, time.Minute)
			v.Sites[alive] = SiteView{Mirror: true, Judgement: Judgement{Fresh: 2, For: time.Hour}, Following: &Following{Epoch: 5}}
			s, _ = Step(s, v, l) // it is given up
			if s, _ = Step(s, v, l); s.State != Stable {
				t.Fatalf("%s", s.State)
			}
			if upBetween {
				east := v.Sites["east"]
				v.Sites["east"] = SiteView{Judgement: Judgement{Fresh: 3, For: time.Second}}
				if s, _ = Step(s, v, l); s.Gone != nil {
					t.Fatalf("%v", s.Gone)
				}
				v.Sites["east"] = east
			}
			v.FailoversLastHour = s.FailoversAfter(v.Now.Add(-time.Hour))
			next, actions := Step(s, v, l)
			if next.State != Fencing {
				if want := "a person must decide: 2 failovers in the last hour, limit 2"; !strings.HasSuffix(actions[0].Why, want) {
					t.Errorf("%q, want %q", actions[0].Why, want)
				}
				break
			}
			began++
			s = next
			s.State = Fenced
		}
		want := 3 // the first one, and two that it counts for
		if upBetween {
			want = 2
		}
		if began != want {
			t.Errorf("up in between: %t: %d failovers were begun, want %d", upBetween, began, want)
		}
	}
}

// A mirror that is started anew is no reason to ask, however old the state is; nor is any
// other doubt once the target has done what the state waits for.
func TestAMirrorThatIsStartedAnew(t *testing.T) {
	t.Parallel()
	catching := func(ends PartitionOffsets, mute time.Duration) SiteView {
		return SiteView{Judgement: Judgement{Fresh: 3}, Mute: mute, Report: &SiteReport{Stopped: true, Ends: ends, Opened: true}}
	}
	for name, c := range map[string]struct {
		in     State
		target SiteView
		want   ActionKind
		then   State
	}{
		"it lapsed a moment ago":     {Cutover, catching(PartitionOffsets{"t": {7}}, time.Second), Wait, Cutover},
		"it does not come back":      {Cutover, catching(PartitionOffsets{"t": {7}}, SettleMax), Ask, Cutover},
		"it had everything":          {Cutover, catching(PartitionOffsets{"t": {9}}, time.Hour), Wait, CaughtUp},
		"the epoch was opened":       {CaughtUp, catching(nil, time.Hour), Wait, Open},
		"the ends were told":         {Fenced, catching(nil, time.Hour), Wait, Cutover},
		"it is alive and fetches":    {Cutover, SiteView{Mirror: true, Report: &SiteReport{Stopped: true}}, Wait, Cutover},
		"alive, and tells nothing":   {Fenced, SiteView{Mirror: true}, Ask, Fenced},
		"alive, and does not open":   {CaughtUp, SiteView{Mirror: true, Report: &SiteReport{Stopped: true}}, Ask, CaughtUp},
		"alive, and does not report": {CaughtUp, SiteView{Mirror: true}, Ask, CaughtUp},
	} {
		s, v, l := failing()
		s.State, s.Prefix, s.PrefixSite, s.LossMax = c.in, PartitionOffsets{"t": {9}}, map[string][]spillway.SiteID{"t": {"north"}}, -1
		v.InState, v.Sites["west"] = time.Hour, c.target
		next, actions := Step(s, v, l)
		if next.State != c.then || len(actions) != 1 || actions[0].Kind != c.want || next.Abort != "" {
			t.Errorf("%s: %s, %+v", name, next.State, actions)
		}
	}
	// The target has told its ends, and the wait is for another site.
	s, v, l := failing()
	v.InState, v.Sites["west"] = time.Second, catching(nil, time.Hour)
	if _, actions := Step(s, v, l); actions[0].Kind != Wait || actions[0].Why != "wait for north to tell their ends" {
		t.Errorf("%+v", actions)
	}
}

// Once the old site is wholly gone, its observer votes no more, and the target is judged
// by those that are left. Where they are too few, a person is asked.
func TestTooFewObserversAreLeftToBeginAnew(t *testing.T) {
	t.Parallel()
	vote := func(about spillway.SiteID, verdict Verdict, lasts time.Duration, from ...spillway.SiteID) (votes []Vote) {
		for _, o := range from {
			votes = append(votes, Vote{About: about, Observer: o, Verdict: verdict, Evidence: "no broker answers", For: lasts})
		}
		return votes
	}
	const few = "; a person must decide: too few places say so to give the failover up without one; wait for west, or spillway abort orders, then spillway failover orders --to north"
	for name, c := range map[string]struct {
		observers []spillway.SiteID
		against   []Vote
		kind      ActionKind
		given     bool
		want      string
	}{
		"three": {[]spillway.SiteID{"east", "west", "north"}, vote("west", Down, time.Minute, "west", "north"), Ask, false,
			"target west may have gone away in FENCED: west is down to north: 1 of 2 votes that are needed" + few},
		"three, a moment later": {[]spillway.SiteID{"east", "west", "north"}, vote("west", Down, 9*time.Second, "west", "north"), Wait, false,
			"wait for west to stop its flow and tell its ends"},
		"four": {[]spillway.SiteID{"east", "west", "north", "witness"}, vote("west", Down, time.Minute, "west", "north", "witness"), Ask, false,
			"target west may have gone away in FENCED: west is down to north, witness: 2 of 3 votes that are needed" + few},
		"its own alone": {[]spillway.SiteID{"east", "west", "north", "witness"}, vote("west", Down, time.Minute, "west"), Ask, false,
			"target west may have gone away in FENCED: west is down to its own observer only" + few},
		"five": {[]spillway.SiteID{"east", "west", "north", "south", "witness"}, vote("west", Down, time.Minute, "west", "north", "south", "witness"), Wait, true, ""},
	} {
		s, v, l := failing()
		v.InState = 9 * time.Second
		v.Sites["west"] = SiteView{Mirror: true, Judgement: Judge(c.against, "west", c.observers)} // its Spillway lives, its brokers do not
		next, actions := Step(s, v, l)
		if given := next.Abort != ""; given != c.given || len(actions) != 1 || actions[0].Kind != c.kind || !given && actions[0].Why != c.want {
			t.Errorf("%s: given up: %t, %+v", name, given, actions)
		}
	}
	// The same for who has what the target lacks.
	s, v, l := failing()
	s.State, s.Target, s.Prefix, s.PrefixSite = Cutover, "north", PartitionOffsets{"t": {9}}, map[string][]spillway.SiteID{"t": {"west"}}
	v.Sites["north"] = reported(PartitionOffsets{"t": {8}})
	v.Sites["west"] = SiteView{Mirror: true, Judgement: Judge(vote("west", Down, time.Minute, "north"), "west", []spillway.SiteID{"east", "west", "north"})}
	if _, actions := Step(s, v, l); actions[0].Kind != Ask || !strings.HasPrefix(actions[0].Why, "west, of which target north lacks records, may have gone away in CUTOVER: ") {
		t.Errorf("%+v", actions)
	}
}

// How long a judgement has been as it is.
func TestAJudgementTellsForHowLong(t *testing.T) {
	t.Parallel()
	three := []spillway.SiteID{"east", "west", "north"}
	for name, c := range map[string]struct {
		votes []Vote
		want  time.Duration
	}{
		"up":        {[]Vote{{About: "west", Observer: "east", Verdict: Up, For: 40}, {About: "west", Observer: "north", Verdict: Degraded, For: 30}}, 30},
		"suspected": {[]Vote{{About: "west", Observer: "east", Verdict: Up, For: 10}, {About: "west", Observer: "north", Verdict: Down, For: 30}}, 30},
		"own only":  {[]Vote{{About: "west", Observer: "east", Verdict: Up, For: 10}, {About: "west", Observer: "west", Verdict: Down, For: 30}}, 30},
		"down":      {[]Vote{{About: "west", Observer: "east", Verdict: Down, For: 20}, {About: "west", Observer: "north", Verdict: Down, For: 30}}, 20},
		"no votes":  {nil, 0},
	} {
		if j := Judge(c.votes, "west", three); j.For != c.want {
			t.Errorf("%s: %d, want %d", name, j.For, c.want)
		}
	}
}
