package failover

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"spillway"
)

func vote(about, by string, v Verdict, held time.Duration) Vote {
	return Vote{About: spillway.SiteID(about), Observer: spillway.SiteID(by), Verdict: v, For: held, Evidence: "no broker answers"}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	three := []spillway.SiteID{"east", "west", "witness"}
	for _, c := range []struct {
		name      string
		votes     []Vote
		observers []spillway.SiteID
		down      bool
		why       string
	}{
		{"nobody voted", nil, three, false, "east is up: 0 votes, none against it"},
		{"one of three", []Vote{vote("east", "west", Down, time.Minute)}, three, false, "east is down to west: 1 of 2 votes that are needed"},
		{"two of three", []Vote{vote("east", "west", Down, time.Minute), vote("east", "witness", Down, 7*time.Second)}, three, true, "east is down to west, witness: no broker answers"},
		{"its own observer reaches it", []Vote{vote("east", "west", Down, time.Minute), vote("east", "witness", Down, time.Minute), vote("east", "east", Up, time.Minute)}, three, false, "east is down to west, witness, but its own observer reaches it: it is cut off, not dead"},
		{"its own observer agrees", []Vote{vote("east", "west", Down, time.Minute), vote("east", "witness", Down, time.Minute), vote("east", "east", Down, time.Minute)}, three, true, "east is down to west, witness: no broker answers"},
		{"only its own observer", []Vote{vote("east", "east", Down, time.Minute)}, three, false, "east is down to its own observer only"},
		{"two sites, no witness", []Vote{vote("east", "west", Down, time.Minute)}, three[:2], false, "east is down to west, but 2 observers are no quorum: a witness at a third place is missing"},
		{"a stranger votes", []Vote{vote("east", "mars", Down, time.Minute), vote("east", "west", Down, time.Minute)}, three, false, "east is down to west: 1 of 2 votes that are needed"},
		{"degraded is not down", []Vote{vote("east", "west", Degraded, time.Minute), vote("east", "witness", Degraded, time.Minute)}, three, false, "east is up: 2 votes, none against it"},
	} {
		j := Judge(c.votes, "east", c.observers)
		if j.Down != c.down || j.Why != c.why {
			t.Errorf("%s: %v, %q\nwant %v, %q", c.name, j.Down, j.Why, c.down, c.why)
		}
	}
	if j := Judge([]Vote{vote("east", "west", Down, time.Minute), vote("east", "witness", Down, 7*time.Second)}, "east", three); j.For != 7*time.Second {
		t.Errorf("the quorum agrees for %v, not as long as its quickest member", j.For)
	}
}

func stable() Share {
	return Share{Group: "orders", State: Stable, Epoch: 4, Active: "east", Terms: []Term{{Epoch: 4, Site: "east", Mask: 9}}}
}

func healthy() (View, Limits) {
	follows := func() SiteView { return SiteView{Mirror: true, Following: &Following{Epoch: 4}} }
	return View{Allowed: true, NewMask: 77, Sites: map[spillway.SiteID]SiteView{"east": follows(), "west": follows(), "north": follows()}},
		Limits{Group: spillway.FailoverGroup{Name: "orders", Sites: []spillway.SiteID{"east", "west", "north"}}}
}

// What a later epoch keeps of an older one decides whether its durable marks
// speak for batches of the older.
func TestKeeps(t *testing.T) {
	t.Parallel()
	tp := spillway.TopicPartition{Topic: "orders", Partition: 1}
	s := Share{Terms: []Term{
		{Epoch: 1},
		{Epoch: 3, Continues: true}, // given up: the site of 1 went on
		{Epoch: 4, Start: PartitionOffsets{"orders": {0, 100}}},
		{Epoch: 5, Start: PartitionOffsets{"orders": {0, 200}}, Lossy: true},
	}}
	for _, c := range []struct {
		older, later spillway.Epoch
		below        spillway.Offset
		want         bool
	}{
		{1, 1, 500, true},
		{1, 2, 1, false}, // it never opened
		{1, 3, 500, true},
		{1, 4, 100, true},
		{1, 4, 101, false},
		{3, 4, 100, true},
		{1, 5, 100, false}, // what it lost is not known
		{4, 5, 150, false},
		{5, 6, 1, false}, // not open yet
	} {
		if got := s.Keeps(c.older, c.later, tp, c.below); got != c.want {
			t.Errorf("epoch %d keeps what %d wrote below %d: %t", c.later, c.older, c.below, got)
		}
	}
	if s.Keeps(1, 4, spillway.TopicPartition{Topic: "orders", Partition: 7}, 1) {
		t.Error("a partition whose start is not known is kept")
	}
}

const hidingWant = "west hides records in its logs of compacted topics, so that a cleaner may have removed the visible ones of their keys, or has missed deletions (late): carts (unreplicated in partition 0); let these topics begin anew there: docs/operate/compacted.md"

// hides lets a site say what its logs hide, and compact topics.
func hides(v View, site spillway.SiteID, hiding map[string]string, compacted ...string) {
	v.Sites[site].Following.Hiding, v.Sites[site].Following.Compacted = hiding, compacted
}

// A site dies that has compacted topics. Where keys may be missing no failover goes by
// itself while another site has them all, and a person is asked where none has (C11).
func TestAutomationPassesOverSitesThatHide(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{spillway.Ordered, spillway.Unordered} {
		s := stable()
		v, l := healthy()
		l.Group.Kind, l.Group.Failover.Enabled = kind, true
		v.SinceMove = time.Hour
		v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, For: time.Minute, Why: "east is down"}}
		hides(v, "west", map[string]string{"carts": "unreplicated in partition 0"}, "carts", "prices")
		hides(v, "north", map[string]string{}, "carts")
		if next, _ := Step(s, v, l); next.State != Fencing || next.Target != "north" {
			t.Fatalf("%s: %s to %s, and north hides nothing", kind, next.State, next.Target)
		}
		hides(v, "north", nil, "carts") // its mirror has just begun, or is of an older version
		next, actions := Step(s, v, l)
		if next.State != Stable || len(actions) != 1 || actions[0].Kind != Ask || actions[0].Why !=
			"east is down; a person must decide: refused: site north has not said yet whether its logs of the compacted topics hide records: carts, prices; name it to fail over there all the same" {
			t.Fatalf("%s: %s, %+v", kind, next.State, actions)
		}
		v.Sites["north"] = SiteView{}
		next, err := Begin(s, Request{Kind: Failover, Target: "west", Who: "ann"}, v, l)
		if why := next.Passages; err != nil || next.Target != "west" || !strings.HasSuffix(why[0].Why, "; keys may be missing: "+hidingWant) {
			t.Fatalf("%s: a person names west: %v, %+v", kind, err, why)
		}
		if _, err := Begin(s, Request{Kind: Failover, Who: "ann"}, v, l); !errors.Is(err, ErrRefused) {
			t.Fatalf("%s: a person names no site: %v", kind, err)
		}
		hides(v, "west", map[string]string{"orders": "foreign-write in 2 partitions"}, "carts", "prices")
		if next, _ := Step(s, v, l); next.State != Fencing || next.Target != "west" {
			t.Fatalf("%s: what a topic hides that nobody compacts keeps west in %s", kind, next.State)
		}
	}
}

// The target of a switchover is found to hide records when it catches up: others have
// written there since the move began. It is given up.
func TestATargetThatIsFoundToHide(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s := stable()
	s.State, s.Kind, s.Target, s.Cutover = Cutover, Switchover, "west", PartitionOffsets{"carts": {100}}
	site := v.Sites["west"]
	site.Report = &SiteReport{Site: "west", Stopped: true, Ends: PartitionOffsets{"carts": {100}}, GroupsCopied: true, Opened: true}
	v.Sites["west"] = site
	if next, _ := Step(s, v, l); next.Abort != "" {
		t.Fatalf("given up: %s", next.Abort)
	}
	site.Report.Hiding = map[string]string{"carts": "foreign-write in partition 0"}
	if next, _ := Step(s, v, l); next.Abort != "" {
		t.Fatalf("given up for a topic that nobody compacts: %s", next.Abort)
	}
	hides(v, "north", nil, "carts") // the target has not looked yet, or its policy is another
	want := "automation: west was found to hide records in its logs of compacted topics: carts (foreign-write in partition 0); keys would be missing there"
	for _, state := range []State{Cutover, CaughtUp} {
		s.State = state
		if next, _ := Step(s, v, l); next.Abort != want {
			t.Fatalf("%s, given up: %q", next.State, next.Abort)
		}
	}
}

// The log of the old site does not end at the cutover: what lies behind it would be
// unreplicated after a move that loses nothing. It is given up, however many
// acknowledgements a record needs.
func TestAnOldSiteThatEndsElsewhere(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s := stable()
	s.Kind, s.Target, s.Cutover = Switchover, "west", PartitionOffsets{"carts": {100}}
	site := v.Sites["west"]
	site.Report = &SiteReport{Site: "west", Stopped: true, Ends: PartitionOffsets{"carts": {100}}, GroupsCopied: true, Opened: true}
	v.Sites["west"] = site
	old := v.Sites["east"]
	old.Report = &SiteReport{Site: "east", Differs: "carts/0 at east ends at 101, the cutover is 100"}
	v.Sites["east"] = old
	v.InState = time.Minute
	for _, state := range []State{Cutover, CaughtUp} {
		s.State = state
		if next, _ := Step(s, v, l); !strings.HasPrefix(next.Abort, "automation: carts/0 at east ends at 101") && !strings.Contains(next.Abort, "took") {
			t.Errorf("%s: %s, given up: %q", state, next.State, next.Abort)
		}
	}
}

// Nobody knows where the log of the old site ends: with a compacted topic the switchover does
// not open, and is given up once clients have been held for long. Without it goes on.
func TestAnOldSiteThatDoesNotConfirm(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		compacted []string
		more      int
		report    *SiteReport
		held      time.Duration
		state     State
		abort     string
	}{
		"nothing is compacted":     {state: Open},
		"it has said nothing":      {compacted: []string{"carts"}, state: CaughtUp},
		"it meets an error":        {compacted: []string{"carts"}, report: &SiteReport{Problem: "no broker answers"}, state: CaughtUp},
		"topics are not named":     {more: 3, state: CaughtUp},
		"it has confirmed":         {compacted: []string{"carts"}, report: &SiteReport{Armed: true}, state: Open},
		"clients were held enough": {compacted: []string{"carts"}, held: time.Minute, state: CaughtUp, abort: "automation: clients were held for 1m0s in CAUGHT_UP, at most 7s"},
	} {
		v, l := healthy()
		s := stable()
		s.State, s.Kind, s.Target, s.Cutover = CaughtUp, Switchover, "west", PartitionOffsets{"carts": {100}}
		west, east := v.Sites["west"], v.Sites["east"]
		west.Report = &SiteReport{Site: "west", Stopped: true, Ends: PartitionOffsets{"carts": {100}}, GroupsCopied: true, Opened: true}
		west.Following = &Following{Epoch: 4, Compacted: c.compacted, CompactedMore: c.more, Hiding: map[string]string{}}
		east.Report = c.report
		v.Sites["west"], v.Sites["east"] = west, east
		v.InState, v.Held = time.Minute, c.held
		next, actions := Step(s, v, l)
		if next.State != c.state || next.Abort != c.abort {
			t.Errorf("%s: %s, given up: %q", name, next.State, next.Abort)
		}
		want := "east has not confirmed that its logs end at the cutover, as it has to with compacted topics"
		if c.report != nil && c.report.Problem != "" {
			want += " (no broker answers)"
		}
		if c.state == CaughtUp && c.abort == "" && actions[0].Why != want {
			t.Errorf("%s: %q", name, actions[0].Why)
		}
	}
}

// A site is found to hide records only when its logs are read back in a failover. Where
// nobody has named it another one is the target, and a person is asked where there is none.
func TestAFailoverThatFindsWhatItsTargetHides(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, Why: "east is down"}}
	v.Reserved = PartitionOffsets{"carts": {100}}
	v.InState = time.Minute
	for _, site := range []spillway.SiteID{"west", "north"} {
		hides(v, site, map[string]string{}, "carts")
		at := v.Sites[site]
		at.Report = &SiteReport{Site: site, Stopped: true, Ends: PartitionOffsets{"carts": {100}}}
		v.Sites[site] = at
	}
	begun, err := Begin(stable(), Request{Kind: Failover, Who: "ann", LossMax: -1}, v, l)
	if err != nil || begun.Target != "west" || !begun.Chosen {
		t.Fatalf("%v: to %s, chosen %t", err, begun.Target, begun.Chosen)
	}
	begun.State = Fenced
	if next, _ := Step(begun, v, l); next.State != Cutover || next.Target != "west" {
		t.Fatalf("%s to %s where nothing is hidden", next.State, next.Target)
	}
	v.Sites["west"].Report.Hiding = map[string]string{"carts": "foreign-write in partition 0"}
	next, _ := Step(begun, v, l)
	if next.State != Fenced || next.Target != "north" {
		t.Fatalf("%s to %s", next.State, next.Target)
	}
	if last := next.Passages[len(next.Passages)-1]; last.Why != "west was found to hide records in its logs of compacted topics: carts (foreign-write in partition 0); north is the target instead" {
		t.Fatalf("the history says %q", last.Why)
	}
	gone := begun
	gone.Gone = []spillway.SiteID{"north"}
	if next, actions := Step(gone, v, l); next.Target != "west" || len(actions) != 1 || actions[0].Kind != Ask {
		t.Fatalf("to %s, which went away before: %+v", next.Target, actions)
	}
	if next, _ = Step(next, v, l); next.State != Cutover || next.Target != "north" {
		t.Fatalf("%s to %s", next.State, next.Target)
	}
	named := begun
	named.Chosen = false
	if next, _ := Step(named, v, l); next.State != Cutover || next.Target != "west" || !strings.HasSuffix(next.Passages[len(next.Passages)-1].Why, "; keys may be missing at west: carts (foreign-write in partition 0)") {
		t.Fatalf("a person named west: %s to %s, %+v", next.State, next.Target, next.Passages)
	}
	v.Sites["north"].Report.Hiding = map[string]string{"carts": "overhang in partition 0"}
	next, actions := Step(begun, v, l)
	if want := "west was found to hide records in its logs of compacted topics: carts (foreign-write in partition 0); a person must decide: bring another site back, or abort, or spillway failover orders --to west to open there all the same"; next.State != Fenced || next.Target != "west" || len(actions) != 1 || actions[0].Kind != Ask || actions[0].Why != want {
		t.Fatalf("%s to %s, %+v", next.State, next.Target, actions)
	}
	// Since a site was chosen, it has said that it hides some.
	hides(v, "west", map[string]string{"carts": "late in partition 0"}, "carts")
	if _, err := Begin(stable(), Request{Kind: Failover, Who: "ann", Target: "west", Unnamed: true}, v, l); !errors.Is(err, ErrRefused) {
		t.Fatalf("a failover to a site that nobody named, and which hides some: %v", err)
	}
}

// A site has only a part of what it had, since its topics began anew. What it told that it had
// was acknowledged, so it is no target that nobody named, its marks do not count, and what it
// ends at does not say that nothing acknowledged is missing (promises B, D).
func TestAPartialCopyIsNoSurvivorThatHasAll(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Ack.Sites, l.Group.Failover.Enabled = 2, true
	v.SinceMove, v.InState = time.Hour, time.Minute
	following := func(site spillway.SiteID, owed int) {
		at := v.Sites[site]
		f := *at.Following
		f.Owed = owed
		at.Following, at.Marks = &f, true
		v.Sites[site] = at
	}
	following("west", 1)
	following("north", 1)
	if missing, short := Shortfall(stable(), v, l); !short || len(missing) != 2 {
		t.Fatalf("both are copies in part: %v are missing, short %t", missing, short)
	}
	following("north", 0)
	if missing, short := Shortfall(stable(), v, l); short || len(missing) != 1 {
		t.Fatalf("north has all: %v are missing, short %t", missing, short)
	}
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, For: time.Minute, Why: "east is down"}}
	if next, _ := Step(stable(), v, l); next.State != Fencing || next.Target != "north" {
		t.Fatalf("%s to %s, and north has all", next.State, next.Target)
	}
	following("north", 2)
	want := "north does not have yet what it had before topics began anew there (partitions: 2)"
	next, actions := Step(stable(), v, l)
	if next.State != Stable || len(actions) != 1 || actions[0].Kind != Ask || !strings.Contains(actions[0].Why, want) {
		t.Fatalf("%s, %+v", next.State, actions)
	}
	named, err := Begin(stable(), Request{Kind: Failover, Target: "north", Who: "ann", LossMax: -1}, v, l)
	if err != nil || !strings.HasSuffix(named.Passages[0].Why, "; "+want) {
		t.Fatalf("a person names north: %v, %+v", err, named.Passages)
	}

	// What was said in the last move is old, whichever way it went since.
	old := func(site spillway.SiteID, owed int) {
		at := v.Sites[site]
		at.Report = &SiteReport{Stopped: true, Owed: owed}
		v.Sites[site] = at
	}
	following("west", 0)
	following("north", 2)
	old("west", 3)
	old("north", 0)
	if missing, _ := Shortfall(stable(), v, l); len(missing) != 1 || missing[0] != "north" {
		t.Errorf("of old reports and what the sites say now: %v are missing, want north", missing)
	}
	if next, _ := Step(stable(), v, l); next.State != Fencing || next.Target != "west" {
		t.Errorf("%s to %q, and west has all by now", next.State, next.Target)
	}
	for _, site := range []spillway.SiteID{"west", "north"} {
		at := v.Sites[site]
		at.Report = nil
		v.Sites[site] = at
	}

	// Found when the logs are read back.
	following("west", 0)
	following("north", 0)
	v.Reserved = PartitionOffsets{"carts": {10_000}}
	for site, end := range map[spillway.SiteID]spillway.Offset{"west": 500, "north": 9_000} {
		at := v.Sites[site]
		at.Report = &SiteReport{Site: site, Stopped: true, Ends: PartitionOffsets{"carts": {end}}}
		v.Sites[site] = at
	}
	begun := stable()
	begun.State, begun.Kind, begun.Target, begun.LossMax, begun.Chosen = Fenced, Failover, "west", -1, true
	if next, _ := Step(begun, v, l); next.State != Cutover || next.Start.Get(spillway.TopicPartition{Topic: "carts"}) != 9_000 {
		t.Fatalf("both have all: %s, starts at %v", next.State, next.Start)
	}
	v.Sites["west"].Report.Owed = 1
	if next, _ := Step(begun, v, l); next.State != Fenced || next.Target != "north" {
		t.Fatalf("%s to %s", next.State, next.Target)
	}
	begun.Target, begun.Chosen = "west", false
	v.Sites["north"].Report.Owed = 1
	for range 2 { // needed are two of three that have all; one does not do, nor does none
		next, _ := Step(begun, v, l)
		why := next.Passages[len(next.Passages)-1].Why
		if start := next.Start.Get(spillway.TopicPartition{Topic: "carts"}); next.State != Cutover || start < 10_000 || strings.Contains(why, "nothing acknowledged is missing") || !strings.Contains(why, "west does not have yet what it had") {
			t.Fatalf("%s, starts at %d: %s", next.State, start, why)
		}
		v.Sites["north"].Report.Owed = 0
	}
}

// A lease tells of so many topics, and that there are more. What is not told counts as what
// it may be.
func TestUnfitWhereNotAllIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hiding                    map[string]string
		compacted                 []string
		compactedMore, hidingMore int
		want                      string
	}{
		"all is told":                    {map[string]string{"carts": "late in partition 0"}, []string{"prices"}, 0, 0, ""},
		"nothing is hidden":              {map[string]string{}, []string{"prices"}, 7, 0, ""},
		"another topic may be compacted": {map[string]string{"carts": "late in partition 0"}, []string{"prices"}, 7, 0, "carts (late in partition 0)"},
		"neither is named":               {map[string]string{}, nil, 7, 7, "7 topics hide some, and 7 are compacted, which are not named"},
		"nobody says, none is named":     {nil, nil, 7, 0, "west has not said yet whether its logs of the compacted topics hide records: 7 more"},
		"another topic may hide":         {map[string]string{"carts": "late in partition 0"}, []string{"prices"}, 0, 7, "prices (it may be one of 7 more that hide some)"},
	} {
		v, l := healthy()
		hides(v, "west", c.hiding)
		hides(v, "north", nil, c.compacted...)
		v.Sites["west"].Following.HidingMore, v.Sites["north"].Following.CompactedMore = c.hidingMore, c.compactedMore
		got := Unfit("west", v, l.Group)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestBeginRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Share, *View, *Request)
		want   string
	}{
		"moving":        {func(s *Share, _ *View, _ *Request) { s.State, s.Kind, s.Target = Cutover, Switchover, "north" }, "share orders/0 is in CUTOVER (switchover east to north): wait for it or abort it"},
		"there already": {func(_ *Share, _ *View, r *Request) { r.Target = "east" }, "east serves share orders/0 already"},
		"stranger":      {func(_ *Share, _ *View, r *Request) { r.Target = "mars" }, "mars is none of the sites of failover group orders: [east west north]"},
		"target down": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Judgement: Judgement{Down: true, Why: "no broker answers"}}
		}, "target west is down: no broker answers"},
		"no mirror":       {func(_ *Share, v *View, _ *Request) { v.Sites["west"] = SiteView{} }, "no mirror is alive at target west, nobody could bring it up to date"},
		"does not follow": {func(_ *Share, v *View, _ *Request) { v.Sites["west"] = SiteView{Mirror: true} }, "target west does not follow share orders/0 yet"},
		"follows with fault": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, Problem: "topic carts is missing"}}
		}, "target west does not follow share orders/0: topic carts is missing"},
		"hears nothing of the source": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, SourceProblem: "the map is read up to 561 of 690"}}
		}, " for now: target west gets nothing from east for share orders/0: the map is read up to 561 of 690"},
		"has just begun to follow": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, CatchingUp: true}}
		}, " for now: target west has not caught up with east yet for share orders/0"},
		"is far behind": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, LagSeconds: 12.34}}
		}, " for now: target west is 12.3 s behind east for share orders/0, at most 2s"},
		"is further behind than the request allows": {func(_ *Share, v *View, r *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, LagSeconds: 12.34}}
			r.BehindMax = 12 * time.Second
		}, " for now: target west is 12.3 s behind east for share orders/0, at most 12s"},
		"waits for a transaction for longer than groups drain": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, HeldBackSeconds: 5.1, HeldBackBy: "carts-1: a transaction of producer 7"}}
		}, " for now: target west would wait for share orders/0 with clients held: an open transaction has held records back for 5.1 s, at most 5s: carts-1: a transaction of producer 7"},
		"waits for a transaction that hangs": {func(_ *Share, v *View, r *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, HeldBackSeconds: 2, HeldBackBy: "carts-1: a transaction of producer 7", Hanging: 3}}
			r.BehindMax = time.Hour
		}, " for now: target west would wait for share orders/0 with clients held: open transactions hold records back in 3 partitions, for 2.0 s the longest: carts-1: a transaction of producer 7"},
		"does not carry a consumer group": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, GroupSeconds: 61, GroupBehind: "group app: not authorized"}}
		}, " for now: the move of share orders/0 to west would be given up with clients held, as all positions have to be there: positions of consumer groups have not been carried for 1m1s: group app: not authorized"},
		"follows another": {func(_ *Share, v *View, _ *Request) {
			v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 3}}
		}, "target west follows epoch 3 of share orders/0, not 4"},
		"source down": {func(_ *Share, v *View, _ *Request) {
			v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, Why: "silent"}}
		}, "east is down: silent; a switchover needs it, use failover"},
		"hides, and compacts": {func(_ *Share, v *View, _ *Request) {
			hides(*v, "west", map[string]string{"carts": "unreplicated in partition 0", "orders": "foreign-write in partition 1"}, "prices", "carts")
		}, "target " + hidingWant},
		"hides, and its source compacts": {func(_ *Share, v *View, _ *Request) {
			hides(*v, "east", map[string]string{}, "carts")
			hides(*v, "west", map[string]string{"carts": "unreplicated in partition 0"})
		}, "target " + hidingWant},
		"does not say whether it hides": {func(_ *Share, v *View, _ *Request) { hides(*v, "west", nil, "carts") }, " for now: target west has not said yet whether its logs of the compacted topics hide records: carts"},
		"compacts, and nobody could say where its logs end": {func(_ *Share, v *View, _ *Request) {
			hides(*v, "west", map[string]string{}, "carts")
			v.Sites["east"] = SiteView{}
		}, "no mirror is alive at east, which has to confirm where its logs of compacted topics end; start it"},
		"no kind": {func(_ *Share, _ *View, r *Request) { r.Kind = "jump" }, `"jump" is no kind of move`},
	} {
		s := stable()
		v, l := healthy()
		l.Group.GroupDrain = 3 * time.Second
		r := Request{Kind: Switchover, Target: "west", Who: "ann"}
		c.change(&s, &v, &r)
		_, err := Begin(s, r, v, l)
		if !errors.Is(err, ErrRefused) || strings.TrimPrefix(strings.TrimPrefix(err.Error(), "refused"), ": ") != c.want {
			t.Errorf("%s: %v\nwant %s", name, err, c.want)
		}
	}
}

// Transactions that end while groups drain, and what a request allows beyond that, keep no
// switchover from beginning.
func TestBeginWaitsForNoShortTransaction(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.GroupDrain = 3 * time.Second
	for seconds, behindMax := range map[float64]time.Duration{4.9: 0, 12: 10 * time.Second} {
		v.Sites["west"] = SiteView{Mirror: true, Following: &Following{Epoch: 4, HeldBackSeconds: seconds}}
		if s, err := Begin(stable(), Request{Kind: Switchover, Target: "west", Who: "ann", BehindMax: behindMax}, v, l); err != nil || s.State != Draining {
			t.Errorf("held back for %g s: %s, %v", seconds, s.State, err)
		}
	}
}

// The leader epochs that clients see are made of the share's epoch: behind the last
// one they would be negative, and clients would take every move for an old one. A
// move that begins can also be given up.
func TestEpochsEndWhereLeaderEpochsWouldTurnNegative(t *testing.T) {
	t.Parallel()
	if spillway.VirtualLeaderEpoch(spillway.EpochMax) <= 0 || spillway.VirtualLeaderEpoch(spillway.EpochMax+1) > 0 {
		t.Fatal("EpochMax is not the last one")
	}
	v, l := healthy()
	at := func(e spillway.Epoch) (Share, error) {
		s := stable()
		s.Epoch, s.Terms[0].Epoch = e, e
		for _, site := range v.Sites {
			site.Following.Epoch = e
		}
		return Begin(s, Request{Kind: Switchover, Target: "west", Who: "ann"}, v, l)
	}
	s, err := at(spillway.EpochMax - 2)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = Abort(s, "ann", ""); err != nil {
		t.Fatal(err)
	}
	if s, _ = Step(s, v, l); s.State != Stable || s.Epoch != spillway.EpochMax {
		t.Errorf("given up in epoch %d: %s", s.Epoch, s.State)
	}
	if _, err := at(spillway.EpochMax - 1); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "share orders/0 is in epoch 2046, and epochs end at 2047") {
		t.Errorf("%v", err)
	}
}

// A failover that could not go on, because too few sites are heard, is refused: it
// would stand in FENCED, and nobody would be served. Who accepts any loss may.
func TestFailoverThatCouldNotGoOnIsRefused(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Ack.Sites = 2
	v.Sites["east"], v.Sites["north"] = SiteView{}, SiteView{}
	r := Request{Kind: Failover, Target: "west", Who: "ann", LossMax: 500}
	want := "refused: 1 of the 2 sites are up that must be heard so that nothing acknowledged is left behind (ack.sites 2; not heard: north); bring one back, or accept any loss (-1)"
	if _, err := Begin(stable(), r, v, l); !errors.Is(err, ErrRefused) || err.Error() != want {
		t.Fatalf("%v", err)
	}
	r.LossMax = -1
	if next, err := Begin(stable(), r, v, l); err != nil || next.State != Fencing {
		t.Fatalf("%s, %v", next.State, err)
	}
}

func TestAbortRaisesTheEpochAndKeepsTheMask(t *testing.T) {
	t.Parallel()
	s := stable()
	v, l := healthy()
	moving, err := Begin(s, Request{Kind: Switchover, Target: "west", Who: "ann"}, v, l)
	if err != nil || moving.State != Fencing || moving.Epoch != 5 || moving.Mask != 77 {
		t.Fatalf("%+v, %v", moving, err)
	}
	given, err := Abort(moving, "bob", "wrong site")
	if err != nil {
		t.Fatal(err)
	}
	back, _ := Step(given, v, l)
	want := Term{Epoch: 6, Site: "east", Mask: 9, Continues: true}
	if back.State != Stable || back.Epoch != 6 || back.Active != "east" || !reflect.DeepEqual(back.Current(), want) || back.Target != "" || back.Abort != "" {
		t.Fatalf("%+v", back)
	}
	if _, err := Abort(back, "bob", ""); !errors.Is(err, ErrRefused) {
		t.Fatalf("aborted twice: %v", err)
	}
	if len(s.Terms) != 1 || len(moving.Terms) != 1 {
		t.Fatal("Step changed the record that it was given")
	}
}

// Writes are denied in FENCED before the record can say so, and FENCED itself need not
// be in it (Decide): a switchover that is
// given up there, or later, by a person or by itself, ends only when the old site
// takes writes again. What the view says before the record names the abort is about
// the target.
func TestGivingUpAllowsWritesAgain(t *testing.T) {
	t.Parallel()
	for _, state := range []State{Draining, Fencing, Fenced, Cutover, CaughtUp} {
		for _, who := range []string{"bob", "automation"} {
			v, l := healthy()
			s := stable()
			s.State, s.Epoch, s.Kind, s.Target, s.Mask = state, 5, Switchover, "west", 77
			var err error
			if who == "bob" {
				s, err = Abort(s, who, "wrong site")
			} else {
				v.Held = time.Minute
				if state == Draining { // where nobody is held
					v.Sites["west"] = SiteView{Judgement: Judgement{Down: true}}
				}
				s, _ = Step(s, v, l)
			}
			if err != nil || s.State != state || !strings.HasPrefix(s.Abort, who) {
				t.Fatalf("%s in %s: %+v, %v", who, state, s, err)
			}
			v.Allowed = false
			same, actions := Step(s, v, l)
			if state == Draining || state == Fencing {
				// Nothing was denied, so a broker that hangs must not be waited for.
				if same.State != Stable || same.Active != "east" || same.Epoch != 6 {
					t.Errorf("%s in %s: waits, though nothing was denied: %+v", who, state, actions)
				}
				continue
			}
			if same.State != state || len(actions) != 1 || actions[0].Kind != Allow || actions[0].Site != "east" {
				t.Errorf("%s in %s: went to %s before writes were allowed again: %+v", who, state, same.State, actions)
			}
			// Nobody can allow anything at a site that is down, and the share must not
			// stay in between for that: only then can it fail over.
			down := v
			down.Sites = map[spillway.SiteID]SiteView{"east": {Judgement: Judgement{Down: true}}, "west": v.Sites["west"]}
			if back, _ := Step(s, down, l); back.State != Stable {
				t.Errorf("%s in %s: east is down, but the share stays in %s", who, state, back.State)
			}
			v.Allowed = true
			if back, _ := Step(s, v, l); back.State != Stable || back.Active != "east" || back.Epoch != 6 {
				t.Errorf("%s in %s: %+v", who, state, back)
			}
		}
	}
}

// A denial that reached the brokers behind the end of its move is lifted while the
// share stands still.
func TestASiteThatServesIsAllowedToBeWritten(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	v.Allowed = false
	same, actions := Step(stable(), v, l)
	if same.State != Stable || len(actions) != 1 || actions[0].Kind != Allow || actions[0].Site != "east" {
		t.Fatalf("%+v, %+v", same, actions)
	}
}

func TestSwitchoverGivesUpInTime(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.HoldMax = 4 * time.Second
	moving, err := Begin(stable(), Request{Kind: Switchover, Target: "west", Who: "ann"}, v, l)
	if err != nil {
		t.Fatal(err)
	}
	v.Gateways = []GatewayView{{ID: "g1", Boot: "1", Left: 2 * time.Second}}
	v.Held = 2900 * time.Millisecond
	if next, _ := Step(moving, v, l); next.State != Fencing {
		t.Fatalf("gave up after %v", v.Held)
	}
	v.Held = 3 * time.Second
	next, _ := Step(moving, v, l)
	next, _ = Step(next, v, l)
	if last := next.Passages[len(next.Passages)-1]; next.State != Stable || last.Why != "given up in FENCING: automation: clients were held for 3s in FENCING, at most 3s; east goes on in epoch 6" {
		t.Fatalf("%s: %q", next.State, last.Why)
	}
}

// A survivor that lives and does not tell its ends is waited for: as long as it takes to
// put a mirror process out, where there are several.
func TestAFailoverHearsSurvivors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mirror, shared bool
		in             time.Duration
		want           State
	}{
		{false, false, time.Millisecond, Cutover},
		{true, false, 1900 * time.Millisecond, Fenced},
		{true, false, 2 * time.Second, Cutover},
		{true, true, 2 * time.Second, Fenced},
		{true, true, 7900 * time.Millisecond, Fenced},
		{true, true, 8 * time.Second, Cutover},
		{false, true, 7900 * time.Millisecond, Fenced}, // none of several is alive just now
		{false, true, 8 * time.Second, Cutover},
	} {
		v, l := healthy()
		s := stable()
		s.State, s.Epoch, s.Kind, s.Target, s.LossMax = Fenced, 5, Failover, "west", -1
		v.InState, v.Fence, v.Reserved = c.in, "lease-only", PartitionOffsets{"orders": {2000}}
		west, north := v.Sites["west"], v.Sites["north"]
		west.Report = &SiteReport{Stopped: true, Ends: PartitionOffsets{"orders": {1500}}}
		north.Mirror, north.Shared = c.mirror, c.shared
		v.Sites["west"], v.Sites["north"] = west, north
		next, actions := Step(s, v, l)
		if next.State != c.want {
			t.Errorf("%+v: in %s, %+v", c, next.State, actions)
		}
		north.Report = &SiteReport{Stopped: true, Ends: PartitionOffsets{"orders": {1900}}}
		v.Sites["north"] = north
		if next, _ := Step(s, v, l); next.State != Cutover || next.Prefix.Get(spillway.TopicPartition{Topic: "orders"}) != 1900 {
			t.Errorf("north told its ends: %+v", next)
		}
	}
}

// A process start that ended long ago has no part in a move: named, it would make
// each later move read the ends twice, with clients held.
func TestGatewaysOfLongAgoAreNotNamed(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s := stable()
	s.State, s.Kind, s.Target, s.Epoch = Fencing, Switchover, "west", 5
	s.WaitFor = []WaitGateway{{ID: "g1", Boot: "1"}, {ID: "g1", Boot: "2"}}
	twice := func(over time.Duration) bool {
		t.Helper()
		v.Gateways = []GatewayView{
			{ID: "g1", Boot: "2", Report: &GatewayReport{Gateway: "g1", Boot: "2", Drained: true}},
			{ID: "g1", Boot: "1", Over: true, OverFor: over},
		}
		next, _ := Step(s, v, l)
		if next.State != Fenced {
			t.Fatalf("%s", next.State)
		}
		fenced := v
		fenced.Fence = "lease-only"
		_, actions := Step(next, fenced, l)
		if actions[0].Kind != ReadEnds {
			t.Fatalf("%+v", actions)
		}
		return actions[0].Twice
	}
	if !twice(PastAfter - time.Second) {
		t.Error("what a gateway sent that ended a moment ago may still arrive, but the ends are read once")
	}
	if twice(PastAfter) {
		t.Error("the ends are read twice for a gateway that ended long ago")
	}
}

// A loop that has just begun does not know whose lease was deleted before (C30).
func TestANewLoopWaitsForGatewaysThatItNeverSaw(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.GroupDrain = 3 * time.Second
	s := stable()
	s.State, s.Kind, s.Target, s.Epoch = Draining, Switchover, "west", 5
	v.Unseen = 4 * time.Second
	same, actions := Step(s, v, l)
	if same.State != Draining || actions[0].Why != "wait for any gateway whose lease was deleted before this loop began" {
		t.Fatalf("%s, %+v", same.State, actions) // clients are not held yet, so here is the time for it
	}
	v.InState, v.Unseen = 3*time.Second, time.Second
	next, _ := Step(s, v, l)
	if next.State != Fencing {
		t.Fatalf("%s", next.State)
	}
	if same, actions := Step(next, v, l); same.State != Fencing || actions[0].Why != "wait for gateways: any whose lease was deleted before this loop began (leases end in 1s)" {
		t.Fatalf("%s, %+v", same.State, actions)
	}
	v.Unseen = 0
	if next, _ := Step(next, v, l); next.State != Fenced {
		t.Fatalf("%s", next.State)
	}
}

func TestBypassedFenceGivesUp(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s := stable()
	s.State, s.Kind, s.Target, s.Epoch = Cutover, Switchover, "west", 5
	s.Cutover = PartitionOffsets{"t": {10, 20}}
	v.Sites["west"] = SiteView{Mirror: true, Report: &SiteReport{Stopped: true, GroupsCopied: true, Ends: PartitionOffsets{"t": {10, 23}}}}
	next, _ := Step(s, v, l)
	next, _ = Step(next, v, l)
	if last := next.Passages[len(next.Passages)-1]; next.State != Stable || !strings.Contains(last.Why, "west got 3 records of t-1 from beyond the cutover: somebody writes to east past the gateways") {
		t.Fatalf("%s %q", next.State, last.Why)
	}
}

func TestFailoverStartsAboveReservedEnds(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.ReservedBlock = 100
	s := stable()
	s.State, s.Kind, s.Target, s.Epoch, s.LossMax = Fenced, Failover, "west", 5, 500
	reports := func(west, north []spillway.Offset) {
		for site, offs := range map[spillway.SiteID][]spillway.Offset{"west": west, "north": north} {
			v.Sites[site] = SiteView{Mirror: true, Report: &SiteReport{Stopped: true, Ends: PartitionOffsets{"t": offs}}}
		}
	}
	reports([]spillway.Offset{900, 50}, []spillway.Offset{880, 70})
	if same, actions := Step(s, v, l); same.State != Fenced || actions[0].Kind != Wait {
		t.Fatalf("went on without the reserved ends: %+v", actions)
	}
	v.Reserved = PartitionOffsets{"t": {1000, 60}, "u": {40}}
	next, _ := Step(s, v, l)
	if next.State != Cutover || !reflect.DeepEqual(next.Prefix, PartitionOffsets{"t": {900, 70}}) || !reflect.DeepEqual(next.Start, PartitionOffsets{"t": {1000, 70}, "u": {40}}) {
		t.Fatalf("%s, prefix %v, start %v", next.State, next.Prefix, next.Start)
	}
	if got := next.PrefixSite["t"]; !reflect.DeepEqual(got, []spillway.SiteID{"west", "north"}) {
		t.Fatalf("longest at %v", got)
	}
	if why := next.Passages[0].Why; why != "2 sites heard, between 0 and 140 records are missing" {
		t.Errorf("%q", why)
	}
	v.Reserved = PartitionOffsets{"t": {2000, 60}}
	same, actions := Step(s, v, l)
	if same.State != Fenced || actions[0].Kind != Ask || actions[0].Why != "between 1000 and 1100 records are not replicated, limit 500; accept more with a new failover command, or abort" {
		t.Errorf("%s, %+v", same.State, actions)
	}
	s.LossMax = -1
	if next, _ := Step(s, v, l); next.State != Cutover {
		t.Errorf("any loss was accepted, but %s", next.State)
	}
}

// With ack.sites 2 of 3 a failover must hear both survivors: each record that was
// acknowledged is at one of them, nobody knows at which (C17).
func TestFailoverHearsEnoughSites(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	l.Group.Ack = spillway.AckPolicy{Sites: 2}
	s := stable()
	s.State, s.Kind, s.Target, s.Epoch, s.LossMax = Fenced, Failover, "west", 5, 0
	v.Reserved = PartitionOffsets{"t": {1000}}
	v.Sites["west"] = SiteView{Mirror: true, Report: &SiteReport{Stopped: true, Ends: PartitionOffsets{"t": {90}}}}
	v.Sites["north"] = SiteView{Judgement: Judgement{Down: true}}
	v.InState = time.Hour
	same, actions := Step(s, v, l)
	if same.State != Fenced || actions[0].Kind != Ask || !strings.HasPrefix(actions[0].Why, "1 sites were heard, 2 are needed so that nothing acknowledged is left behind (ack.sites 2)") {
		t.Fatalf("%s, %+v", same.State, actions)
	}
	v.Sites["north"] = SiteView{Mirror: true, Report: &SiteReport{Stopped: true, Ends: PartitionOffsets{"t": {100}}}}
	next, _ := Step(s, v, l)
	if next.State != Cutover || next.Start.Get(tp0) != 100 || next.PrefixSite["t"][0] != "north" {
		t.Fatalf("%s, start %v from %v", next.State, next.Start, next.PrefixSite)
	}
	s.Degraded = true // acknowledged by fewer sites: the reserved end counts again
	s.LossMax = 5000
	if next, _ := Step(s, v, l); next.Start.Get(tp0) != 1000 {
		t.Fatalf("degraded, but the epoch starts at %v", next.Start)
	}
}

func TestAutomaticFailoverHasLimits(t *testing.T) {
	t.Parallel()
	dead := Judgement{Down: true, For: 10 * time.Second, Why: "east is down to west, north: silence"}
	for name, c := range map[string]struct {
		change func(*View, *Limits)
		kind   ActionKind
		want   string
	}{
		"off":          {func(_ *View, l *Limits) { l.Group.Failover.Enabled = false }, Ask, "a person must decide: automatic failover of orders is off"},
		"paused":       {func(v *View, _ *Limits) { v.Automation = Automation{Paused: true, Who: "ann", Why: "upgrade"} }, Ask, "a person must decide: automation is paused by ann: upgrade"},
		"too early":    {func(_ *View, l *Limits) { l.Group.Failover.After = time.Minute }, Wait, "hold east: down for 10s, automatic after 1m0s"},
		"hold-down":    {func(v *View, _ *Limits) { v.SinceMove = 5 * time.Second }, Wait, "hold east: the last move ended 5s ago, at least 30s between moves"},
		"rate":         {func(v *View, _ *Limits) { v.FailoversLastHour = 2 }, Ask, "a person must decide: 2 failovers in the last hour, limit 2"},
		"no target":    {func(v *View, _ *Limits) { v.Sites["west"], v.Sites["north"] = SiteView{}, SiteView{} }, Ask, "a person must decide: refused: no mirror is alive at target north"},
		"too few left": {func(v *View, l *Limits) { l.Group.Ack.Sites = 2; v.Sites["north"] = SiteView{} }, Ask, "a person must decide: only 1 of the 2 sites are up that must be heard for ack.sites 2"},
	} {
		v, l := healthy()
		v.Sites["east"] = SiteView{Judgement: dead}
		v.SinceMove = time.Hour
		l.Group.Failover = spillway.AutomaticFailover{Enabled: true, After: 5 * time.Second, LossRecordsMax: 10, PerHourMax: 2}
		if next, _ := Step(stable(), v, l); next.State != Fencing || next.Target != "west" || next.Kind != Failover || next.LossMax != 10 {
			t.Fatalf("%s: without the change: %+v", name, next)
		}
		c.change(&v, &l)
		next, actions := Step(stable(), v, l)
		if next.State != Stable || len(actions) != 1 || actions[0].Kind != c.kind || !strings.Contains(actions[0].Why, c.want) {
			t.Errorf("%s: %s, %+v\nwant %s", name, next.State, actions, c.want)
		}
	}
}

// Nothing moves to a drained site, but for a failover that names it.
func TestDrainedSitesAreNoTargets(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	drain := func(site spillway.SiteID) {
		s := v.Sites[site]
		s.Drained = &Drained{Who: "ann", Why: "new switch"}
		v.Sites[site] = s
	}
	drain("west")
	if _, err := Begin(stable(), Request{Kind: Switchover, Target: "west"}, v, l); err == nil || err.Error() != "refused: target west is drained by ann: new switch; spillway site return west ends that" {
		t.Errorf("switchover: %v", err)
	}
	if next, err := Begin(stable(), Request{Kind: Failover, Target: "west"}, v, l); err != nil || next.Target != "west" {
		t.Errorf("a failover that names it: %+v, %v", next, err)
	}
	v.Sites["east"] = SiteView{Judgement: Judgement{Down: true, For: time.Minute, Why: "east is down to west, north"}}
	v.SinceMove = time.Hour
	l.Group.Failover = spillway.AutomaticFailover{Enabled: true}
	if next, _ := Step(stable(), v, l); next.State != Fencing || next.Target != "north" {
		t.Errorf("automatic failover: %s to %s", next.State, next.Target)
	}
	drain("north")
	want := "east is down to west, north; a person must decide: refused: site north is drained by ann: new switch; name it to fail over there all the same"
	if next, actions := Step(stable(), v, l); next.State != Stable || len(actions) != 1 || actions[0].Kind != Ask || actions[0].Why != want {
		t.Errorf("none is left: %s, %+v", next.State, actions)
	}
}

func TestOpenWaitsForTheFlowsBack(t *testing.T) {
	t.Parallel()
	v, l := healthy()
	s := stable()
	s.State, s.Kind, s.Target, s.Epoch, s.Mask = CaughtUp, Switchover, "west", 5, 77
	s.Cutover, s.Start = PartitionOffsets{"t": {10}}, PartitionOffsets{"t": {10}}
	v.Sites["west"] = SiteView{Mirror: true, Report: &SiteReport{Stopped: true, Opened: true, MapPosition: 42}}
	if same, actions := Step(s, v, l); same.State != CaughtUp || actions[0].Why != "east, north arm their flow from west" {
		t.Fatalf("%s, %+v", same.State, actions)
	}
	for _, site := range []spillway.SiteID{"east", "north"} {
		v.Sites[site] = SiteView{Mirror: true, Report: &SiteReport{Armed: true}}
	}
	next, _ := Step(s, v, l)
	if next.State != Open || next.Active != "west" || next.MapPosition["west"] != 42 || next.Current().Mask != 77 || next.Current().Lossy {
		t.Fatalf("%+v", next)
	}
	// One standby is gone: one site goes on alone only where that is allowed.
	v.Sites["east"], v.Sites["north"], v.InState = SiteView{}, SiteView{}, time.Minute
	if next, _ := Step(s, v, l); next.State != Open {
		t.Errorf("ack.sites 1: %s", next.State)
	}
	l.Group.Ack = spillway.AckPolicy{Sites: 2, OnShortfall: "degrade"}
	if same, _ := Step(s, v, l); same.State != CaughtUp {
		t.Errorf("a switchover opened with too few sites for ack.sites 2: %s", same.State)
	}
	s.Kind = Failover
	if next, _ := Step(s, v, l); next.State != Open || !next.Degraded {
		t.Errorf("%s, degraded %v", next.State, next.Degraded)
	}
	l.Group.Ack.OnShortfall = "block"
	if next, _ := Step(s, v, l); next.State != Open || next.Degraded {
		t.Errorf("%s, degraded %v", next.State, next.Degraded)
	}
}
