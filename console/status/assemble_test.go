package status

import (
	"errors"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/federation/layout"
)

func healthy() Inputs {
	now := time.Unix(1000, 0)
	sites := []spillway.SiteID{"east", "west"}
	in := Inputs{
		Now:         now,
		Topology:    spillway.NewTopology("shop", "shop-1", []spillway.Site{{ID: "east"}, {ID: "west"}}, []spillway.FailoverGroup{{Name: "shop", Topics: []string{"orders"}, Sites: sites, Ack: spillway.AckPolicy{Sites: 1}, Failover: spillway.AutomaticFailover{LossRecordsMax: 100}}}),
		Witnesses:   []string{"north"},
		Coordinator: Coordinator{Kind: "embedded", Up: true},
		LeaseTTL:    4 * time.Second,
		Shares:      []failover.Share{{Group: "shop", State: failover.Stable, Epoch: 3, Active: "east", Since: now.Add(-time.Hour), Terms: []failover.Term{{Epoch: 3, Site: "east"}}}},
	}
	for i, site := range sites {
		in.Gateways = append(in.Gateways, Seen[layout.GatewayLease]{Value: layout.GatewayLease{ID: spillway.GatewayID(site + "-1"), Site: site}})
		in.Mirrors = append(in.Mirrors, Seen[failover.MirrorLease]{Value: failover.MirrorLease{Site: site, Worker: string(site) + "-1", Following: map[string]failover.Following{
			"shop/0": {Epoch: 3, Source: sites[0], EndSum: int64(1000 - 40*i), Partitions: 6},
		}}})
		in.Votes = append(in.Votes, Seen[failover.Vote]{Value: failover.Vote{About: site, Observer: "north", Verdict: failover.Up, Evidence: "answers"}})
	}
	return in
}

// drilled has the group exist for drills, one every two minutes, and these were held.
func (in *Inputs) drilled(drills ...history.Drill) {
	groups := in.Topology.Groups()
	groups[0].DrillEvery = 2 * time.Minute
	in.Topology = spillway.NewTopology("shop", "shop-1", in.Topology.Sites(), groups)
	in.Drills = map[string][]history.Drill{"shop": drills}
}

// What a client felt is that of the last drill that passed.
func TestHowDrillsGo(t *testing.T) {
	in := healthy()
	move := []history.DrillMove{{Kind: failover.Failover, To: "west", Epoch: 2, SilentMillis: 1500}}
	in.drilled(
		history.Drill{At: in.Now.Add(-3 * time.Minute), Outcome: history.DrillPassed, Moves: move, Lost: 7},
		history.Drill{At: in.Now.Add(-time.Minute), Outcome: history.DrillFailed, Problems: []string{"x"}},
	)
	d := Assemble(in).Groups[0].Drill
	if d == nil || d.Outcome != "failed" || d.Recovery != 1.5 || d.Lost != 7 || d.Overdue || !d.PassedAt.Equal(in.Now.Add(-3*time.Minute)) {
		t.Errorf("%+v", d)
	}
	in.drilled(history.Drill{At: in.Now.Add(-time.Minute), Outcome: history.DrillPassed})
	if s := Assemble(in); s.Level != Good || len(s.News) > 0 {
		t.Errorf("after one that passed: %s %q", s.Level, s.News)
	}
	if d := Assemble(healthy()).Groups[0].Drill; d != nil {
		t.Errorf("a group that is not for drills has %+v", d)
	}
}

// While clients may go past the gateways that is news, with who they are; and so it is after
// the key was taken away, until control loops have found none.
func TestAdoptionIsNews(t *testing.T) {
	for _, c := range []struct{ key, record bool }{{true, true}, {false, true}, {true, false}} {
		in := healthy()
		groups := in.Topology.Groups()
		groups[0].Adopting = c.key
		in.Topology = spillway.NewTopology("shop", "shop-1", in.Topology.Sites(), groups)
		if c.record {
			in.Shares[0].Adoption = &failover.Adoption{Direct: "1 client at east: producer 4711 of orders-1", Clients: 1}
		}
		s := Assemble(in)
		if s.Level != Attention || len(s.News) != 1 || !strings.HasPrefix(s.News[0], "group shop: nothing moves and automatic failover is off: failover group shop ") || s.Groups[0].Adopting == "" {
			t.Errorf("%+v: %s %q", c, s.Level, s.News)
		}
		if c.record && !strings.Contains(s.News[0], "producer 4711") {
			t.Errorf("%q", s.News)
		}
	}
}

func TestAllIsWell(t *testing.T) {
	s := Assemble(healthy())
	if s.Level != Good || len(s.News) != 0 {
		t.Errorf("level %s, news %q", s.Level, s.News)
	}
	if g := s.Groups[0]; g.Unreplicated != 40 || g.Epoch != 3 || g.Active != "east" {
		t.Errorf("group %+v", g)
	}
	if f := s.Flows[0]; f.Name != "shop:east→west" || f.Behind != 40 || f.Partitions != 6 {
		t.Errorf("flow %+v", f)
	}
}

// Each case breaks one thing and names the first line of news.
func TestWorstNewsFirst(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Inputs)
		level Level
		first string
	}{
		{"active site down", func(in *Inputs) {
			in.Votes[0].Value.Verdict, in.Votes[0].Value.Evidence = failover.Down, "3 probes failed"
		}, Bad, "group shop: its active site east is down; site east is down, says north: 3 probes failed; flow"},
		{"evidence in brief", func(in *Inputs) {
			in.Votes[1].Value.Verdict, in.Votes[1].Value.Evidence = failover.Down, "west: no broker can be reached; node 1: connection refused"
			second := in.Votes[1]
			second.Value.Observer = "east"
			in.Votes = append(in.Votes, second)
		}, Bad, "group shop: no standby follows it: losing the active site would stop the group; site west is down, say east and north: no broker can be reached; flow"},
		{"evidence of several lines", func(in *Inputs) {
			in.Probes = map[spillway.SiteID]error{"west": errors.New("no broker can be reached\nwest at 127.0.0.1:1: connection refused")}
		}, Bad, "group shop: no standby follows it: losing the active site would stop the group; site west is down: no broker can be reached; flow"},
		{"a move", func(in *Inputs) {
			in.Shares[0].State, in.Shares[0].Kind, in.Shares[0].Target = failover.Draining, failover.Switchover, "west"
			in.Shares[0].Since = in.Now
		}, Attention, "group shop: switchover from east to west: consumer groups settle, producers go on"},
		{"standby down", func(in *Inputs) {
			in.Votes[1].Value.Verdict, in.Votes[1].Value.Evidence = failover.Down, "3 probes failed"
		}, Bad, "group shop: no standby follows it"},
		{"stale votes", func(in *Inputs) { in.Votes[1].Age = time.Minute }, Attention, "site west: nobody has voted about it lately"},
		{"a group for drills, and none was held", func(in *Inputs) { in.drilled() }, Attention, "group shop: no drill was held yet"},
		{"a drill that failed", func(in *Inputs) {
			in.drilled(history.Drill{At: in.Now.Add(-time.Hour), Outcome: history.DrillPassed}, history.Drill{At: in.Now.Add(-time.Minute), Outcome: history.DrillFailed, Problems: []string{"drill-0: record 3 is missing", "more"}})
		}, Attention, "group shop: the drill of 1970-01-01T00:15:40Z failed: drill-0: record 3 is missing"},
		{"a drill that was refused", func(in *Inputs) {
			in.drilled(history.Drill{At: in.Now.Add(-time.Minute), Outcome: history.DrillRefused, Problems: []string{"west is down"}})
		}, Attention, "group shop: the drill of 1970-01-01T00:15:40Z was refused: west is down"},
		{"a drill that is overdue", func(in *Inputs) {
			in.drilled(history.Drill{At: in.Now.Add(-5 * time.Minute), Outcome: history.DrillPassed})
		}, Attention, "group shop: no drill has passed since 1970-01-01T00:11:40Z, and one is expected every 2m0s"},
		{"a drained site", func(in *Inputs) {
			in.Drained = map[spillway.SiteID]failover.Drained{"west": {Who: "ann", Why: "new switch"}}
		}, Attention, "site west is drained by ann: new switch"},
		{"own probe wins", func(in *Inputs) { in.Votes[1].Age = time.Minute; in.Probes = map[spillway.SiteID]error{"west": nil} }, Good, ""},
		{"nothing comes from the source", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.SourceProblem = "read the map of site east: read up to 561"
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Bad, "flow shop:east→west: read the map of site east: read up to 561"},
		{"a flow that has just begun", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.CatchingUp = true
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "flow shop:east→west: it is catching up, "},
		{"a flow that is late", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.LagSeconds, f.EndSum = 3, 990
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "flow shop:east→west: it is 3.0 s and 10 records behind"},
		{"a consumer group that is not carried", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.GroupSeconds, f.GroupBehind = 3600, "group app: not authorized"
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "flow shop:east→west: positions of consumer groups have not been carried for 1h0m0s: group app: not authorized"},
		{"a consumer group that failed a moment ago", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.GroupSeconds, f.GroupBehind = 2, "group app: not authorized"
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Good, ""},
		{"a flow behind a transaction that hangs", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.HeldBackSeconds, f.HeldBackBy, f.Hanging = 61, "orders-0: a transaction of producer 7", 2
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "flow shop:east→west: open transactions hold records back in 2 partitions, for 61.0 s the longest: orders-0: a transaction of producer 7"},
		{"a flow behind a transaction that is long", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.HeldBackSeconds, f.HeldBackBy = 5.5, "orders-0: a transaction"
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "flow shop:east→west: an open transaction has held records back for 5.5 s, at most 2s: orders-0: a transaction"},
		{"a flow behind a transaction that is short", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.HeldBackSeconds, f.HeldBackBy = 1.9, "orders-0: a transaction"
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Good, ""},
		{"a compacted topic whose log hides records", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.Compacted, f.Hiding = []string{"carts"}, map[string]string{"carts": "unreplicated in partition 0"}
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "flow shop:east→west: no switchover goes there: west hides records in its logs of compacted topics"},
		{"a compacted topic whose log hides records where it is served", func(in *Inputs) {
			f := in.Mirrors[0].Value.Following["shop/0"]
			f.Compacted, f.Hiding = []string{"carts"}, map[string]string{"carts": "unreplicated in partition 0"}
			in.Mirrors[0].Value.Following["shop/0"] = f
			f = in.Mirrors[1].Value.Following["shop/0"]
			f.Hiding = map[string]string{}
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "group shop: clients may miss keys, and logs whose cleaner is stopped grow: east hides records in its logs of compacted topics"},
		{"silent mirror", func(in *Inputs) { in.Mirrors[1].Age = 9 * time.Second }, Bad, "group shop: no standby follows it"},
		{"silent gateway", func(in *Inputs) { in.Gateways[1].Age = 9 * time.Second }, Attention, "site west: no gateway holds a lease here"},
		{"too far behind", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.EndSum = 500
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "group shop: a failover now could lose 500 records, more than the limit of 100"},
		{"partitions differ", func(in *Inputs) {
			f := in.Mirrors[1].Value.Following["shop/0"]
			f.Partitions = 5
			in.Mirrors[1].Value.Following["shop/0"] = f
		}, Attention, "group shop: what the standbys hold is unknown"},
		{"stuck move", func(in *Inputs) {
			in.Shares[0].State, in.Shares[0].Kind, in.Shares[0].Target = failover.Fencing, failover.Switchover, "west"
		}, Bad, "group shop: switchover to west stands in FENCING for 1h0m0s; nobody is served"},
		{"degraded", func(in *Inputs) { in.Shares[0].Degraded = true }, Attention, "group shop: degraded"},
		{"store away", func(in *Inputs) {
			in.Coordinator.Up, in.Coordinator.Problem = false, "connection refused"
			in.Shares = nil
		}, Bad, "coordinator store: connection refused"},
		{"paused", func(in *Inputs) {
			in.Automation = failover.Automation{Paused: true, Who: "ada", Why: "roll"}
		}, Attention, "automatic failover is paused by ada: roll"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := healthy()
			c.spoil(&in)
			s := Assemble(in)
			first := strings.Join(s.News, "; ")
			if s.Level != c.level || !strings.HasPrefix(first, c.first) || (c.first == "" && first != "") {
				t.Errorf("level %s, news %q; want %s, %q", s.Level, s.News, c.level, c.first)
			}
		})
	}
}

// What the gateways say of other sites that are behind is told with what comes of it, also
// where something worse is the reason.
func TestProducersThatAreHeldBack(t *testing.T) {
	for _, c := range []struct {
		onLag string
		spoil func(*Inputs)
		level Level
		want  string
	}{
		{spillway.OnLagWarn, nil, Attention, "group shop: other sites lack more than allowed in 4 partitions: of orders-3 they lack 700 records, the oldest for 12.3 s (limit 10 s, 500 records)"},
		{spillway.OnLagThrottle, nil, Attention, "group shop: producers are slowed down in 4 partitions: of orders-3"},
		{spillway.OnLagBlock, nil, Bad, "group shop: other sites lack more than allowed, so acknowledgements wait, in 4 partitions: of orders-3"},
		{spillway.OnLagBlock, func(in *Inputs) {
			in.Votes[1].Value.Verdict = failover.Down
		}, Bad, "group shop: no standby follows it: losing the active site would stop the group; other sites lack more than allowed, so acknowledgements wait, in 4 partitions"},
		{spillway.OnLagWarn, func(in *Inputs) { in.Gateways[0].Age, in.Gateways[1].Value.Leaving = time.Minute, true }, Attention, "site"},
	} {
		t.Run(c.onLag, func(t *testing.T) {
			in := healthy()
			g := in.Topology.Groups()[0]
			g.Ack = spillway.AckPolicy{Sites: 1, OnLag: c.onLag, LagMax: 10 * time.Second, LagRecordsMax: 500}
			in.Topology = spillway.NewTopology("shop", "shop-1", in.Topology.Sites(), []spillway.FailoverGroup{g})
			in.Gateways[0].Value.Lagging = map[string]layout.Lagging{"shop/0": {Partitions: 1, Worst: "orders-1", Records: 600, Seconds: 2}}
			in.Gateways[1].Value.Lagging = map[string]layout.Lagging{"shop/0": {Partitions: 3, Worst: "orders-3", Records: 700, Seconds: 12.3}}
			if c.spoil != nil {
				c.spoil(&in)
			}
			s := Assemble(in)
			if s.Level != c.level || !strings.HasPrefix(s.News[0], c.want) {
				t.Errorf("level %s, news %q", s.Level, s.News)
			}
		})
	}
}

// The lag in time is the mirror's word, and grows while it is silent.
func TestLagInTime(t *testing.T) {
	in := healthy()
	say := func(seconds float64, end int64, silent time.Duration) float64 {
		f := in.Mirrors[1].Value.Following["shop/0"]
		f.LagSeconds, f.EndSum = seconds, end
		in.Mirrors[1].Value.Following["shop/0"], in.Mirrors[1].Age = f, silent
		return Assemble(in).Flows[0].Lag
	}
	for _, c := range []struct {
		said   float64
		end    int64
		silent time.Duration
		want   float64
	}{{0, 1000, 0, 0}, {2.5, 900, time.Second, 2.5}, {2.5, 900, 10 * time.Second, 12.5}, {2.5, 1000, 0, 0}} {
		if got := say(c.said, c.end, c.silent); got != c.want {
			t.Errorf("said %g s at %d, silent for %s: %g s, want %g", c.said, c.end, c.silent, got, c.want)
		}
	}
	in.Mirrors = in.Mirrors[:1]
	if f := Assemble(in).Flows[0]; f.Lag != -1 || f.Silent != -1 {
		t.Errorf("without a word of the mirror: lag %g, silent for %g", f.Lag, f.Silent)
	}
}

// Every state has words of its own.
func TestStatesInWords(t *testing.T) {
	seen := map[string]bool{}
	for _, state := range []failover.State{failover.Stable, failover.Draining, failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open} {
		words := doing(failover.Share{State: state, Kind: failover.Switchover, Active: "east", Target: "west"})
		if seen[words] || strings.Contains(words, string(state)) {
			t.Errorf("%s is said as %q", state, words)
		}
		seen[words] = true
	}
}

// A site that is down cannot take over, however much it had.
func TestOnlyAStandbyThatLivesMakesSafe(t *testing.T) {
	in := healthy()
	sites := []spillway.SiteID{"east", "west", "north"}
	in.Witnesses = nil
	in.Topology = spillway.NewTopology("shop", "shop-1", []spillway.Site{{ID: "east"}, {ID: "west"}, {ID: "north"}},
		[]spillway.FailoverGroup{{Name: "shop", Sites: sites, Ack: spillway.AckPolicy{Sites: 1}, Failover: spillway.AutomaticFailover{LossRecordsMax: 100}}})
	in.Mirrors = append(in.Mirrors, Seen[failover.MirrorLease]{Value: failover.MirrorLease{Site: "north", Worker: "north-1", Following: map[string]failover.Following{
		"shop/0": {Epoch: 3, Source: "east", EndSum: 500, Partitions: 6},
	}}})
	if g := Assemble(in).Groups[0]; g.Unreplicated != 40 || !g.Safe {
		t.Errorf("all live: %d unreplicated, safe %v", g.Unreplicated, g.Safe)
	}
	in.Votes[1].Value.Verdict = failover.Down // west, which has nearly everything
	if g := Assemble(in).Groups[0]; g.Unreplicated != 500 || g.Safe {
		t.Errorf("west is down: %d unreplicated, safe %v; north lacks 500", g.Unreplicated, g.Safe)
	}
	in.Mirrors[2].Age = time.Minute
	if g := Assemble(in).Groups[0]; g.Unreplicated != 40 || g.Safe {
		t.Errorf("nobody could take over: %d unreplicated, safe %v", g.Unreplicated, g.Safe)
	}
}
