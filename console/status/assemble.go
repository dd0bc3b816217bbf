package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/federation/lag"
	"spillway/federation/layout"
)

// MoveSlow is how long a share may stand in one state of a move before that is
// bad news: longer than a hold, shorter than a person's patience.
const MoveSlow = 15 * time.Second

// Seen is a record that its owner rewrites, with the time since it was last
// seen to change. A lease is judged by that, never by a clock inside it.
type Seen[T any] struct {
	Value T
	Age   time.Duration
}

// Inputs are everything that was observed.
type Inputs struct {
	Now         time.Time
	Topology    *spillway.Topology
	Witnesses   []string
	Coordinator Coordinator
	LeaseTTL    time.Duration // older gateways, mirrors and votes are gone
	Automation  failover.Automation
	Drained     map[spillway.SiteID]failover.Drained
	Shares      []failover.Share
	Gateways    []Seen[layout.GatewayLease]
	Mirrors     []Seen[failover.MirrorLease]
	Votes       []Seen[failover.Vote]
	Drills      map[string][]history.Drill // by group, oldest first
	// Probes are what this process found itself; nil where it did not look.
	Probes map[spillway.SiteID]error
}

// Assemble makes the answer from what was observed.
func Assemble(in Inputs) Status {
	s := Status{
		VirtualCluster: in.Topology.Name(), ClusterID: in.Topology.ClusterID(), At: in.Now,
		Coordinator: in.Coordinator, Automation: Automation{Paused: in.Automation.Paused, Who: in.Automation.Who, Why: in.Automation.Why},
		News: []string{}, Sites: []Site{}, Groups: []Group{}, Flows: []Flow{},
	}
	for _, site := range in.Topology.Sites() {
		s.Sites = append(s.Sites, in.site(site))
	}
	for _, w := range in.Witnesses {
		s.Sites = append(s.Sites, Site{Name: w, Witness: true, State: "witness", Active: []string{}, Gateways: []string{}, Mirrors: []string{}})
	}
	for _, g := range in.Topology.Groups() {
		share, known := in.share(g.Name)
		s.Groups = append(s.Groups, in.group(g, share, known))
		if known {
			s.Flows = append(s.Flows, in.flows(g, share)...)
		}
	}
	s.sort()
	return s
}

func (in Inputs) share(group string) (failover.Share, bool) {
	i := slices.IndexFunc(in.Shares, func(s failover.Share) bool { return s.Group == group })
	if i < 0 {
		return failover.Share{}, false
	}
	return in.Shares[i], true
}

// verdict is what the fresh votes, or this process's own probe, say of a site.
func (in Inputs) verdict(site spillway.SiteID) (failover.Verdict, string) {
	if err, probed := in.Probes[site]; probed {
		if err != nil {
			return failover.Down, err.Error()
		}
		return failover.Up, ""
	}
	var down, voted int
	verdict, evidence := failover.Verdict("unknown"), "nobody has voted about it lately"
	for _, v := range in.Votes {
		if v.Value.About != site || v.Age > in.LeaseTTL {
			continue
		}
		voted++
		switch {
		case v.Value.Verdict == failover.Down:
			down++
			evidence = v.Value.Evidence
		case verdict != failover.Degraded:
			verdict = v.Value.Verdict
			if down == 0 {
				evidence = v.Value.Evidence
			}
		}
	}
	if down > 0 && 2*down >= voted {
		return failover.Down, evidence
	}
	return verdict, evidence
}

func (in Inputs) site(site spillway.Site) Site {
	verdict, evidence := in.verdict(site.ID)
	s := Site{Name: string(site.ID), State: string(verdict), Active: []string{}, Gateways: []string{}, Mirrors: []string{}}
	if d, ok := in.Drained[site.ID]; ok {
		s.Drained = d.String()
	}
	for _, share := range in.Shares {
		if share.Active == site.ID {
			s.Active = append(s.Active, share.Group)
		}
	}
	for _, g := range in.Gateways {
		if g.Value.Site == site.ID && g.Age <= in.LeaseTTL && !g.Value.Leaving {
			s.Gateways = append(s.Gateways, string(g.Value.ID))
		}
	}
	for _, m := range in.Mirrors {
		if m.Value.Site == site.ID && in.alive(m) {
			s.Mirrors = append(s.Mirrors, m.Value.Worker)
		}
	}
	for _, v := range in.Votes {
		if v.Value.About == site.ID && v.Age <= in.LeaseTTL {
			s.Votes = append(s.Votes, Vote{
				Observer: string(v.Value.Observer), Verdict: string(v.Value.Verdict), Evidence: v.Value.Evidence, For: v.Value.For.Seconds(),
			})
		}
	}
	switch {
	case verdict == failover.Down:
		s.Level, s.Evidence, s.Why = Bad, evidence, "is down"+in.accusers(site.ID, verdict)+": "+brief(site.ID, evidence)
	case verdict == failover.Degraded:
		s.Level, s.Evidence, s.Why = Attention, evidence, "is degraded"+in.accusers(site.ID, verdict)+": "+brief(site.ID, evidence)
	case !in.Coordinator.Up:
		s.Level, s.Why = Attention, "as last seen, since the coordinator store cannot be read"
	case verdict != failover.Up:
		s.Level, s.Why = Attention, evidence
	case s.Drained != "":
		s.Level, s.Why = Attention, "is "+s.Drained
	case len(s.Gateways) == 0:
		s.Level, s.Why = Attention, "no gateway holds a lease here"
	case len(s.Mirrors) == 0:
		s.Level, s.Why = Attention, "no mirror holds a lease here"
	}
	return s
}

// accusers names the places that say so, unless this process looked itself.
func (in Inputs) accusers(site spillway.SiteID, verdict failover.Verdict) string {
	if _, probed := in.Probes[site]; probed {
		return ""
	}
	var names []string
	for _, v := range in.Votes {
		if v.Value.About == site && v.Value.Verdict == verdict && v.Age <= in.LeaseTTL {
			names = append(names, string(v.Value.Observer))
		}
	}
	slices.Sort(names)
	switch last := len(names) - 1; {
	case last < 0:
		return ""
	case last == 0:
		return ", says " + names[0]
	default:
		return ", say " + strings.Join(names[:last], ", ") + " and " + names[last]
	}
}

// brief is the first clause of an error about a site, without its name. What
// follows, also on lines of their own, tells of each broker, for who looks closer.
func brief(site spillway.SiteID, evidence string) string {
	line, _, _ := strings.Cut(evidence, "\n")
	first, _, _ := strings.Cut(line, "; ")
	return strings.TrimPrefix(first, string(site)+": ")
}

func (in Inputs) alive(m Seen[failover.MirrorLease]) bool {
	return m.Age <= in.LeaseTTL
}

// following is the word of a site's mirror about a share, with what others carry for it.
func (in Inputs) following(site spillway.SiteID, share spillway.ShareID) (f failover.Following, silent time.Duration, ok bool) {
	var leads failover.MirrorLease
	for _, m := range in.Mirrors {
		if m.Value.Site != site {
			continue
		}
		if word, has := m.Value.Following[share.String()]; has && (!ok || m.Age < silent) {
			f, silent, ok, leads = word, m.Age, true, m.Value
		}
	}
	var others []failover.MirrorLease
	for _, m := range in.Mirrors {
		if in.alive(m) {
			others = append(others, m.Value)
		}
	}
	if ok {
		f = leads.Beside(others...).Following[share.String()]
	}
	return f, silent, ok
}

// behind is how many offsets a site lacks, −1 if unknown. Sums over different
// numbers of partitions cannot be compared.
func (in Inputs) behind(site spillway.SiteID, share failover.Share) int64 {
	ahead, silent, ok := in.following(share.Active, share.ID())
	theirs, _, theyTell := in.following(site, share.ID())
	if !ok || !theyTell || ahead.Partitions != theirs.Partitions || silent > in.LeaseTTL {
		return -1
	}
	return max(0, ahead.EndSum-theirs.EndSum)
}

func (in Inputs) group(g spillway.FailoverGroup, share failover.Share, known bool) Group {
	out := Group{
		Name: g.Name, State: "UNKNOWN", Topics: g.Topics, AckSites: g.Ack.Sites, LossMax: g.Failover.LossRecordsMax,
		Unreplicated: -1, Sites: []Standby{},
	}
	if !known {
		out.Level, out.Why = Bad, "has no record in the coordinator store; is a control loop running?"
		if !in.Coordinator.Up {
			out.Why = "unknown while the coordinator store cannot be read"
		}
		return out
	}
	out.Index, out.State, out.Epoch, out.Active = share.Index, string(share.State), share.Epoch, string(share.Active)
	out.Doing = doing(share)
	out.Target, out.Kind, out.Since = string(share.Target), string(share.Kind), share.Since
	out.Fence, out.Degraded, out.Last = share.Fence, share.Degraded, last(share)
	// Only a standby that could take over keeps a failover from losing records.
	// Where there is none, the last that is known of the others is shown.
	elsewhere := int64(-1)
	for _, site := range g.Sites {
		row := Standby{Site: string(site), Active: site == share.Active}
		if !row.Active {
			row.Behind = in.behind(site, share)
			if in.able(site, share) {
				out.Unreplicated = least(out.Unreplicated, row.Behind)
			} else {
				elsewhere = least(elsewhere, row.Behind)
			}
		}
		out.Sites = append(out.Sites, row)
	}
	standby := in.anyStandby(share, g.Sites)
	if !standby {
		out.Unreplicated = elsewhere
	}
	// Acknowledgements that wait for a second site lose nothing acknowledged.
	covered := g.Ack.Sites > 1 && !share.Degraded
	out.Safe = standby && out.Unreplicated >= 0 && (covered || out.Unreplicated <= out.LossMax)
	if limits, ok := lag.Of(g); ok {
		out.OnLag, out.LagMax, out.LagRecordsMax = limits.OnLag, limits.Age.Seconds(), limits.Records
		out.Lagging = in.lagging(share)
	}
	in.judge(&out, g, share)
	in.tellLagging(&out)
	in.tellAdoption(&out, g, share)
	in.tellDrill(&out, g)
	return out
}

// tellAdoption adds that clients may go past the gateways, and what comes of it.
func (in Inputs) tellAdoption(out *Group, g spillway.FailoverGroup, share failover.Share) {
	if out.Adopting = failover.Stranding(share, g); out.Adopting == "" {
		return
	}
	out.Level = max(out.Level, Attention)
	if text := "nothing moves and automatic failover is off: " + out.Adopting; out.Why == "" {
		out.Why = text
	} else if !strings.Contains(out.Why, out.Adopting) {
		out.Why += "; " + text
	}
}

// tellDrill adds how the drills of a group go that exists for them.
func (in Inputs) tellDrill(out *Group, g spillway.FailoverGroup) {
	if g.DrillEvery == 0 {
		return
	}
	drills := in.Drills[g.Name]
	d := &Drill{Every: g.DrillEvery.Seconds()}
	if n := len(drills); n > 0 {
		last := drills[n-1]
		d.At, d.Outcome = last.At, string(last.Outcome)
		if len(last.Problems) > 0 {
			d.Problem = last.Problems[0]
		}
	}
	if passed, ok := history.LastPassed(drills); ok {
		recovery, _ := passed.Recovery()
		d.PassedAt, d.Recovery, d.Lost = passed.At, recovery.Seconds(), passed.Lost
	}
	d.Overdue = in.Now.Sub(d.PassedAt) > 2*g.DrillEvery
	out.Drill = d
	if text := drillNews(*d); text != "" && in.Coordinator.Up {
		out.Level = max(out.Level, Attention)
		if out.Why != "" {
			text = out.Why + "; " + text
		}
		out.Why = text
	}
}

// drillNews is what a person should know of a group's drills; empty: they go well.
func drillNews(d Drill) string {
	switch {
	case d.At.IsZero():
		return "no drill was held yet"
	case d.Outcome != string(history.DrillPassed):
		return fmt.Sprintf("the drill of %s %s: %s", d.At.UTC().Format(time.RFC3339), drillEnded(d.Outcome), d.Problem)
	case d.Overdue:
		return fmt.Sprintf("no drill has passed since %s, and one is expected every %s", d.PassedAt.UTC().Format(time.RFC3339), time.Duration(d.Every*float64(time.Second)))
	}
	return ""
}

func drillEnded(outcome string) string {
	if outcome == string(history.DrillRefused) {
		return "was refused"
	}
	return outcome
}

// tellLagging adds what comes of a lag to what is said of a group.
func (in Inputs) tellLagging(out *Group) {
	text := behindLimit(*out)
	if text == "" || !in.Coordinator.Up {
		return
	}
	out.Level = max(out.Level, Attention)
	if out.OnLag == spillway.OnLagBlock {
		out.Level = Bad
	}
	if out.Why != "" {
		text = out.Why + "; " + text
	}
	out.Why = text
}

// lagging is what the gateways say that live.
func (in Inputs) lagging(share failover.Share) []Lagging {
	var out []Lagging
	for _, g := range in.Gateways {
		if l, ok := g.Value.Lagging[share.ID().String()]; ok && g.Age <= in.LeaseTTL && !g.Value.Leaving {
			out = append(out, Lagging{string(g.Value.ID), l.Partitions, l.Worst, l.Records, l.Seconds})
		}
	}
	slices.SortStableFunc(out, func(a, b Lagging) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(b.Records, a.Records))
	})
	return out
}

// behindLimit says what comes of a lag; empty if nothing does.
func behindLimit(g Group) string {
	if len(g.Lagging) == 0 {
		return ""
	}
	partitions := 0
	for _, l := range g.Lagging {
		partitions += l.Partitions
	}
	worst := g.Lagging[0]
	var limits []string
	if g.LagMax > 0 {
		limits = append(limits, fmt.Sprintf("%g s", g.LagMax))
	}
	if g.LagRecordsMax > 0 {
		limits = append(limits, fmt.Sprintf("%d records", g.LagRecordsMax))
	}
	text := "other sites lack more than allowed"
	switch g.OnLag {
	case spillway.OnLagThrottle:
		text = "producers are slowed down"
	case spillway.OnLagBlock:
		text = "other sites lack more than allowed, so acknowledgements wait,"
	}
	return fmt.Sprintf("%s in %d partitions: of %s they lack %d records, the oldest for %.1f s (limit %s)",
		text, partitions, worst.Worst, worst.Records, worst.Seconds, strings.Join(limits, ", "))
}

// last tells of the last move while a share stands still: who asked for it and why, and
// for how long clients were held or why it was given up.
func last(s failover.Share) string {
	if s.State != failover.Stable || len(s.Passages) == 0 {
		return ""
	}
	first, end := s.Passages[0], s.Passages[len(s.Passages)-1]
	became := end.Why
	var fencing time.Time
	for _, p := range s.Passages {
		switch p.State {
		case failover.Fencing:
			fencing = p.At
		case failover.Open:
			became = fmt.Sprintf("clients were held for %d ms", p.At.Sub(fencing).Milliseconds())
		}
	}
	return fmt.Sprintf("%s: %s; %s", first.At.UTC().Format("2006-01-02 15:04:05Z"), first.Why, became)
}

// doing says the state of a share in words, with what it means for clients.
func doing(s failover.Share) string {
	move := fmt.Sprintf("%s from %s to %s: ", s.Kind, s.Active, s.Target)
	switch s.State {
	case failover.Stable:
		return fmt.Sprintf("served by %s", s.Active)
	case failover.Draining:
		return move + "consumer groups settle, producers go on"
	case failover.Fencing:
		return move + "gateways hold requests until nothing is on its way to the old site"
	case failover.Fenced:
		return move + "requests are held while the end of the old site's logs is found"
	case failover.Cutover:
		return move + "requests are held while the new site takes over what is missing"
	case failover.CaughtUp:
		return move + "requests are held until the gateways serve the new site"
	case failover.Open:
		return fmt.Sprintf("served by %s; the other sites turn round to follow it", s.Active)
	}
	return string(s.State)
}

// judge says how the group is. The first reason that holds is the worst.
func (in Inputs) judge(out *Group, g spillway.FailoverGroup, share failover.Share) {
	site, serves := share.Serves()
	verdict, _ := in.verdict(site)
	inState := in.Now.Sub(share.Since)
	switch {
	case !in.Coordinator.Up:
		out.Level, out.Why = Attention, "as last seen, since the coordinator store cannot be read"
	case share.Asking != "":
		out.Level, out.Why = Bad, share.Asking
		if !strings.Contains(out.Why, "a person must decide") {
			out.Why = "a person must decide: " + out.Why
		}
	case !serves && inState > MoveSlow:
		out.Level, out.Why = Bad, fmt.Sprintf("%s to %s stands in %s for %s; nobody is served", share.Kind, share.Target, share.State, inState.Round(time.Second))
	case serves && verdict == failover.Down:
		out.Level, out.Why = Bad, fmt.Sprintf("its active site %s is down", site)
	case len(g.Sites) > 1 && !in.anyStandby(share, g.Sites):
		out.Level, out.Why = Bad, "no standby follows it: losing the active site would stop the group"
	case share.State != failover.Stable:
		out.Level, out.Why = Attention, out.Doing
	case share.Degraded:
		out.Level, out.Why = Attention, cmp.Or(share.Acknowledgement(g.Ack.Sites), "degraded")
	case len(g.Sites) < 2:
		// One site is a choice, not news.
	case out.Unreplicated < 0:
		out.Level, out.Why = Attention, "what the standbys hold is unknown"
	case out.Unreplicated > out.LossMax && g.Ack.Sites < 2:
		out.Level, out.Why = Attention, fmt.Sprintf("a failover now could lose %d records, more than the limit of %d", out.Unreplicated, out.LossMax)
	case serves && in.servesUnfit(site, share, g) != "":
		out.Level, out.Why = Attention, "clients may miss keys, and logs whose cleaner is stopped grow: "+in.servesUnfit(site, share, g)
	}
}

// servesUnfit says why keys of compacted topics may be missing where a share is served, ""
// where none are, or that is not known yet.
func (in Inputs) servesUnfit(site spillway.SiteID, share failover.Share, g spillway.FailoverGroup) string {
	if f, _, heard := in.following(site, share.ID()); !heard || f.Hiding == nil {
		return ""
	}
	return in.unfit(site, share, g)
}

// anyStandby tells whether some standby could take over.
func (in Inputs) anyStandby(share failover.Share, sites []spillway.SiteID) bool {
	return slices.ContainsFunc(sites, func(site spillway.SiteID) bool { return site != share.Active && in.able(site, share) })
}

// able tells whether a standby could take over: it is not down, and its mirror
// follows without a problem.
func (in Inputs) able(site spillway.SiteID, share failover.Share) bool {
	verdict, _ := in.verdict(site)
	f, silent, ok := in.following(site, share.ID())
	return verdict != failover.Down && ok && silent <= in.LeaseTTL && f.Problem == ""
}

// least of two counts of which −1 is unknown.
func least(a, b int64) int64 {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

func (in Inputs) flows(g spillway.FailoverGroup, share failover.Share) []Flow {
	var out []Flow
	for _, site := range g.Sites {
		if site == share.Active {
			continue
		}
		word, silent, heard := in.following(site, share.ID())
		f := Flow{
			Name:  fmt.Sprintf("%s:%s→%s", g.Name, share.Active, site),
			Group: g.Name, Source: string(share.Active), Target: string(site),
			Behind: in.behind(site, share), Lag: -1, Partitions: word.Partitions, Silent: silent.Seconds(),
		}
		if !heard {
			f.Silent = -1
		}
		if heard && f.Behind >= 0 {
			f.Lag = lacking(word.LagSeconds, silent, f.Behind, in.LeaseTTL)
		}
		source, _ := in.verdict(share.Active)
		target, _ := in.verdict(site)
		switch {
		case !in.Coordinator.Up:
			f.Level, f.Why = Attention, "as last seen, since the coordinator store cannot be read"
		case source == failover.Down:
			f.Level, f.Why = Bad, fmt.Sprintf("its source %s is down", f.Source)
		case target == failover.Down:
			f.Level, f.Why = Bad, fmt.Sprintf("its target %s is down", f.Target)
		case !heard:
			f.Level, f.Why = Bad, fmt.Sprintf("no mirror at %s follows the group", f.Target)
		case silent > in.LeaseTTL:
			f.Level, f.Why = Bad, fmt.Sprintf("the mirror at %s is silent for %s", f.Target, silent.Round(time.Second))
		case word.Problem != "":
			f.Level, f.Why = Bad, word.Problem
		case word.SourceProblem != "":
			f.Level, f.Why = Bad, word.SourceProblem
		case f.Behind < 0:
			f.Level, f.Why = Attention, "how far it is behind is unknown"
		case word.CatchingUp:
			f.Level, f.Why = Attention, fmt.Sprintf("it is catching up, %d records are missing", f.Behind)
		case word.GroupsLate() != "":
			f.Level, f.Why = Attention, word.GroupsLate()
		case word.HeldBack(g, failover.BehindMax) != "":
			f.Level, f.Why = Attention, word.HeldBack(g, failover.BehindMax)
		case f.Lag > failover.BehindMax.Seconds():
			f.Level, f.Why = Attention, fmt.Sprintf("it is %.1f s and %d records behind", f.Lag, f.Behind)
		case in.unfit(site, share, g) != "":
			f.Level, f.Why = Attention, "no switchover goes there: "+in.unfit(site, share, g)
		}
		out = append(out, f)
	}
	return out
}

// unfit says why keys of compacted topics may be missing at a site, "" where none are.
func (in Inputs) unfit(site spillway.SiteID, share failover.Share, g spillway.FailoverGroup) string {
	view := failover.View{Sites: map[spillway.SiteID]failover.SiteView{}}
	for _, s := range g.Sites {
		if f, _, ok := in.following(s, share.ID()); ok {
			view.Sites[s] = failover.SiteView{Following: &f}
		}
	}
	return failover.Unfit(site, view, g)
}

// lacking is for how long a target has lacked something: what its mirror said, and
// longer if it has said nothing since.
func lacking(said float64, silent time.Duration, behind int64, leaseTTL time.Duration) float64 {
	switch {
	case behind == 0:
		return 0
	case silent > leaseTTL:
		return said + silent.Seconds()
	}
	return said
}

// sort puts the worst first and writes the news.
func (s *Status) sort() {
	slices.SortStableFunc(s.Sites, func(a, b Site) int { return cmp.Compare(b.Level, a.Level) })
	slices.SortStableFunc(s.Groups, func(a, b Group) int { return cmp.Compare(b.Level, a.Level) })
	slices.SortStableFunc(s.Flows, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), cmp.Compare(b.Behind, a.Behind))
	})
	type item struct {
		level Level
		text  string
	}
	var items []item
	if !s.Coordinator.Up {
		items = append(items, item{Bad, "coordinator store: " + s.Coordinator.Problem})
	}
	for _, g := range s.Groups {
		items = append(items, item{g.Level, fmt.Sprintf("group %s: %s", g.Name, g.Why)})
	}
	for _, site := range s.Sites {
		colon := ":"
		if strings.HasPrefix(site.Why, "is ") {
			colon = ""
		}
		items = append(items, item{site.Level, fmt.Sprintf("site %s%s %s", site.Name, colon, site.Why)})
	}
	for _, f := range s.Flows {
		items = append(items, item{f.Level, fmt.Sprintf("flow %s: %s", f.Name, f.Why)})
	}
	if s.Automation.Paused {
		items = append(items, item{Attention, strings.TrimSuffix(fmt.Sprintf("automatic failover is paused by %s: %s", s.Automation.Who, s.Automation.Why), ": ")})
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(b.level, a.level) })
	for _, i := range items {
		if i.level > Good {
			s.News = append(s.News, i.text)
		}
		s.Level = max(s.Level, i.level)
	}
}
