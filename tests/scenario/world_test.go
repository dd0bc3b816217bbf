package scenario

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway"
	"spillway/federation/failover"
)

const (
	tick      = 100 * time.Millisecond
	leaseTTL  = 4 * time.Second
	margin    = time.Second
	deadAfter = 3 * time.Second // probes in a row until an observer says so
)

var partition = spillway.TopicPartition{Topic: "orders"}

// world is one failover group with one partition, and everything around it.
type world struct {
	now        time.Duration
	limits     failover.Limits
	share      failover.Share
	entered    time.Duration // when the state was
	held       time.Duration
	moved      time.Duration // when the last move ended
	failovers  []time.Duration
	sites      map[spillway.SiteID]*site
	gateways   []*gateway
	reserved   spillway.Offset
	automation failover.Automation
	logEnds    failover.PartitionOffsets
	told       failover.WaitInfoKey
	lines      []string
}

type site struct {
	brokers bool // they answer
	all     bool // the other processes live
	held    bool // its mirror is held back
	down    time.Duration
	records spillway.Offset // virtual end
	report  map[spillway.Epoch]*failover.SiteReport
}

type gateway struct {
	id     spillway.GatewayID
	site   spillway.SiteID
	paused bool
	beat   time.Duration
	report map[spillway.Epoch]*failover.GatewayReport
}

func newWorld() *world {
	return &world{sites: map[spillway.SiteID]*site{}, moved: -time.Hour}
}

func (w *world) take() []string {
	lines := w.lines
	w.lines = nil
	return lines
}

func (w *world) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) do(words []string) error {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	target := w.sites[spillway.SiteID(arg(len(words)-1))]
	switch command := words[0]; {
	case command == "group":
		return w.group(words[1:])
	case command == "witness":
		w.limits.Observers = append(w.limits.Observers, "witness")
	case command == "gateway":
		w.gateways = append(w.gateways, &gateway{id: spillway.GatewayID(arg(1)), site: spillway.SiteID(arg(2)), report: map[spillway.Epoch]*failover.GatewayReport{}})
	case command == "produce":
		n, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		s := w.sites[w.share.Active]
		s.records += spillway.Offset(n)
		for w.reserved < s.records {
			w.reserved = s.records + spillway.Offset(w.limits.Group.ReservedBlock)
		}
	case command == "hold" || command == "release":
		target.held = command == "hold"
	case command == "silence":
		target.brokers, target.all, target.down = false, false, w.now
	case command == "brokers":
		target.brokers, target.down = false, w.now
	case command == "return":
		target.brokers, target.all = true, true
	case arg(1) == "gateway":
		for _, g := range w.gateways {
			if string(g.id) == arg(2) {
				g.paused = command == "pause"
			}
		}
	case arg(1) == "automation":
		w.automation = failover.Automation{Paused: command == "pause", Who: "ann", Why: "maintenance"}
	case command == "switchover":
		w.begin(failover.Request{Kind: failover.Switchover, Target: spillway.SiteID(arg(1)), Who: "ann", Why: "maintenance"})
	case command == "failover":
		n, err := strconv.ParseInt(arg(2), 10, 64)
		if err != nil {
			return err
		}
		w.begin(failover.Request{Kind: failover.Failover, Target: spillway.SiteID(strings.TrimPrefix(arg(1), "-")), Who: "ann", Why: "east burns", LossMax: n})
	case command == "abort":
		next, err := failover.Abort(w.share, "ann", "wrong button")
		w.asked(next, err)
	case command == "advance":
		d, err := time.ParseDuration(arg(1))
		if err != nil {
			return err
		}
		for end := w.now + d; w.now < end; {
			w.now += tick
			w.pass()
		}
	default:
		return fmt.Errorf("unknown command %q", strings.Join(words, " "))
	}
	return nil
}

func (w *world) group(words []string) error {
	g := &w.limits.Group
	g.Name, g.ReservedBlock = "orders", 1000
	for _, word := range words {
		key, value, option := strings.Cut(word, "=")
		n, _ := strconv.Atoi(value) // durations are read below
		d, _ := time.ParseDuration(value)
		switch {
		case !option:
			id := spillway.SiteID(word)
			g.Sites = append(g.Sites, id)
			w.limits.Observers = append(w.limits.Observers, id)
			w.sites[id] = &site{brokers: true, all: true, report: map[spillway.Epoch]*failover.SiteReport{}}
		case key == "ack":
			g.Ack.Sites = n
		case key == "onshortfall":
			g.Ack.OnShortfall = value
		case key == "after":
			g.Failover.Enabled, g.Failover.After = true, d
		case key == "loss":
			g.Failover.LossRecordsMax = int64(n)
		case key == "block":
			g.ReservedBlock = int64(n)
		case key == "drain":
			g.GroupDrain = d
		case key == "hold":
			g.HoldMax = d
		default:
			return fmt.Errorf("unknown option %q", word)
		}
	}
	w.share = failover.Share{Group: "orders", State: failover.Stable, Epoch: 1, Active: g.Sites[0], Terms: []failover.Term{{Epoch: 1, Site: g.Sites[0], Mask: 1}}}
	return nil
}

func (w *world) begin(r failover.Request) {
	if w.share.State == failover.Fenced && r.Kind == failover.Failover {
		w.share.LossMax = r.LossMax
		return
	}
	next, err := failover.Begin(w.share, r, w.view(), w.limits)
	w.asked(next, err)
}

func (w *world) asked(next failover.Share, err error) {
	if err != nil {
		w.say("%v", err)
		return
	}
	w.write(next)
}

// pass is one tick of everybody.
func (w *world) pass() {
	for _, g := range w.gateways {
		w.passGateway(g)
	}
	for _, id := range slices.Sorted(maps.Keys(w.sites)) {
		if s := w.sites[id]; s.all && s.brokers {
			w.passMirror(id, s)
		}
	}
	for range 10 {
		next, actions, _ := failover.Decide(w.share, w.view(), w.limits)
		if !bytes.Equal(next.Encode(), w.share.Encode()) {
			w.write(next)
			continue
		}
		again := false
		for _, a := range actions {
			if a.Kind == failover.ReadEnds && w.sites[a.Site].brokers {
				w.logEnds, again = failover.PartitionOffsets{"orders": {w.sites[a.Site].records}}, true
			}
			if key := failover.KeyOf(w.share, a); (a.Kind == failover.Wait || a.Kind == failover.Ask) && key != w.told {
				w.told = key
				w.say("%s %s", map[failover.ActionKind]string{failover.Wait: "  ..", failover.Ask: "ask:"}[a.Kind], a.Why)
			}
		}
		if !again {
			return
		}
	}
}

func (w *world) write(next failover.Share) {
	last := w.share
	w.share = next
	if next.State == last.State && next.Epoch == last.Epoch {
		return
	}
	w.entered, w.logEnds = w.now, nil
	if next.State == failover.Fencing {
		w.held = w.now
	}
	if next.State == failover.Stable {
		w.moved = w.now
		if last.State == failover.Open && last.Kind == failover.Failover {
			w.failovers = append(w.failovers, w.now)
		}
	}
	passed := next.Passages
	if next.Epoch == last.Epoch || next.State == failover.Stable {
		passed = passed[len(last.Passages):]
	}
	for _, p := range passed {
		w.say("epoch %d %s: %s", next.Epoch, p.State, p.Why)
	}
}

func (w *world) passGateway(g *gateway) {
	if g.paused || !w.sites[g.site].all {
		return
	}
	g.beat = w.now
	if w.share.State == failover.Stable {
		return
	}
	r := failover.GatewayReport{Gateway: g.id, Boot: "1", GroupsDrained: true}
	if site, serves := w.share.Serves(); !serves {
		r.Drained = true
		r.Unsure = w.share.Active != "" && !w.sites[w.share.Active].brokers
	} else if w.share.State == failover.Open && site == w.share.Active {
		r.Drained, r.Opened = true, true
	}
	g.report[w.share.Epoch] = &r
}

func (w *world) passMirror(id spillway.SiteID, s *site) {
	share, active := w.share, w.sites[w.share.Active]
	r := s.report[share.Epoch]
	if r == nil {
		r = &failover.SiteReport{Site: id}
		s.report[share.Epoch] = r
	}
	ends := func() failover.PartitionOffsets { return failover.PartitionOffsets{"orders": {s.records}} }
	switch share.State {
	case failover.Stable, failover.Open, failover.Draining, failover.Fencing:
		if id != share.Active && active.brokers && !s.held {
			s.records = active.records
		}
		r.Armed = share.State == failover.Open
	case failover.Fenced:
		if share.Kind == failover.Failover && id != share.Active {
			r.Stopped, r.Ends = true, ends()
		}
	case failover.Cutover:
		if id != share.Target {
			r.Armed = share.Kind == failover.Switchover && (id == share.Active || !s.held)
			return
		}
		if s.held {
			return
		}
		if share.Kind == failover.Failover {
			s.records = max(s.records, share.Prefix.Get(partition))
		} else if active.brokers {
			s.records = share.Cutover.Get(partition)
		}
		r.Stopped, r.Ends, r.GroupsCopied = true, ends(), true
		if share.Kind == failover.Switchover {
			r.Opened, r.MapPosition = true, 1
		}
	case failover.CaughtUp:
		if id == share.Target {
			s.records = share.Start.Get(partition)
			r.Opened, r.MapPosition = true, 1
		} else {
			r.Armed = true
		}
	}
}

func (w *world) view() failover.View {
	v := failover.View{
		Now: time.Time{}.Add(w.now), InState: w.now - w.entered, Held: w.now - w.held, Allowed: true, Fence: "lease-only", NewMask: uint64(w.share.Epoch) + 7,
		LogEnds: w.logEnds, Reserved: failover.PartitionOffsets{"orders": {w.reserved}}, Automation: w.automation, SinceMove: w.now - w.moved,
		Sites: map[spillway.SiteID]failover.SiteView{},
	}
	for _, at := range w.failovers {
		if w.now-at < time.Hour {
			v.FailoversLastHour++
		}
	}
	for id, s := range w.sites {
		sv := failover.SiteView{Judgement: failover.Judge(w.votes(id, s), id, w.limits.Observers), Mirror: s.all && s.brokers, Report: s.report[w.share.Epoch]}
		if sv.Mirror {
			sv.Following = &failover.Following{Epoch: w.share.Current().Epoch}
			sv.Marks = !s.held
		}
		v.Sites[id] = sv
	}
	for _, g := range w.gateways {
		left := leaseTTL + margin - (w.now - g.beat)
		v.Gateways = append(v.Gateways, failover.GatewayView{ID: g.id, Boot: "1", Over: left <= 0, Left: left, Report: g.report[w.share.Epoch]})
	}
	return v
}

func (w *world) votes(about spillway.SiteID, s *site) []failover.Vote {
	var votes []failover.Vote
	for _, o := range w.limits.Observers {
		if at, isSite := w.sites[o]; isSite && !at.all {
			continue // nobody votes from there
		}
		v := failover.Vote{About: about, Observer: o, Verdict: failover.Up}
		if !s.brokers && w.now-s.down >= deadAfter {
			v.Verdict, v.Evidence, v.For = failover.Down, "no broker answers", w.now-s.down-deadAfter
		}
		votes = append(votes, v)
	}
	return votes
}
