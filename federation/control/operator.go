package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// Operator carries out what people ask for. It needs only the store, so a
// command line without access to the sites can use it; the loops do the rest.
type Operator struct {
	topology *spillway.Topology
	store    coordination.Store
	keys     failover.Keys
	limits   func(spillway.FailoverGroup) failover.Limits
	// look is the interval in which leases and votes are rewritten; what does not
	// move for three of them is taken as dead.
	look  time.Duration
	clock coordination.Clock
	ttl   time.Duration

	// Waiting, if not nil, is told again and again why a switchover cannot begin
	// yet, while its target is catching up; it ends the waiting by saying false.
	Waiting func(why error) bool
}

const lookDefault = coordination.LeaseEvery

// NewOperator prepares commands. observers are the places that vote; empty: the
// sites of the topology.
func NewOperator(topology *spillway.Topology, store coordination.Store, observers []spillway.SiteID) *Operator {
	cfg := Config{Topology: topology, Store: store, Observers: observers}.withDefaults()
	c := &Control{cfg: cfg}
	return &Operator{topology: topology, store: store, keys: failover.Keys(topology.Name()), limits: c.limits, look: lookDefault, clock: coordination.SystemClock{}, ttl: cfg.LeaseTTL}
}

// Plan says what a command would do, or has begun.
type Plan struct {
	Group  string          `json:"group"`
	Kind   failover.Kind   `json:"kind"`
	From   spillway.SiteID `json:"from"`
	To     spillway.SiteID `json:"to"`
	Epoch  spillway.Epoch  `json:"epoch"`
	DryRun bool            `json:"dryRun"`
	// Effects are sentences: what is lost or read again, how long clients wait.
	Effects []string `json:"effects"`
	// Behind is how many records the target lacks; −1: unknown.
	Behind int64 `json:"behind"`
	// LostMost bounds what a failover may lose; 0 for a switchover.
	LostMost int64 `json:"lostMost"`
	// OnlyAtTarget are topics that the target has and the active site has not.
	OnlyAtTarget []string `json:"onlyAtTarget,omitempty"`
	Gateways     []string `json:"gateways"`
	// Silent are sites and gateways that are not heard now.
	Silent []string `json:"silent"`
	// HeldMillis is how long clients were held by earlier moves of this kind, at the
	// median; −1: there were none.
	HeldMillis int64 `json:"heldMillis"`
	// Automation says what would happen without a person.
	Automation string `json:"automation"`
}

// Switchover begins a planned move, or with dryRun only says what it would do.
func (o *Operator) Switchover(ctx context.Context, group string, to spillway.SiteID, who, why string, dryRun bool) (Plan, error) {
	return o.begin(ctx, group, failover.Request{Kind: failover.Switchover, Target: to, Who: who, Why: why}, dryRun)
}

// Failover begins an unplanned move, which does not ask the old site. It loses
// acceptLoss records at most (−1: any). to is empty for the best survivor. While
// a failover waits for a person, it raises what that one accepts.
func (o *Operator) Failover(ctx context.Context, group string, to spillway.SiteID, acceptLoss int64, who, why string, dryRun bool) (Plan, error) {
	return o.begin(ctx, group, failover.Request{Kind: failover.Failover, Target: to, Who: who, Why: why, LossMax: acceptLoss}, dryRun)
}

func (o *Operator) begin(ctx context.Context, group string, r failover.Request, dryRun bool) (Plan, error) {
	g, ok := o.topology.Group(group)
	if !ok {
		return Plan{}, fmt.Errorf("there is no failover group %q; see spillway failover-group list", group)
	}
	for {
		share, version, err := o.share(ctx, group)
		if err != nil {
			return Plan{}, err
		}
		if share.State == failover.Fenced && share.Kind == failover.Failover && r.Kind == failover.Failover && (r.Target == "" || r.Target == share.Target) {
			return o.acceptMore(ctx, share, version, r, dryRun)
		}
		view, plan, err := o.survey(ctx, g, share)
		if err != nil {
			return Plan{}, err
		}
		if plan.HeldMillis, err = o.held(ctx, group, r.Kind); err != nil {
			return Plan{}, err
		}
		next, err := failover.Begin(share, r, view, o.limits(g))
		if errors.Is(err, failover.ErrBehind) && !dryRun && o.Waiting != nil && o.Waiting(err) {
			if pause(ctx, o.look/2); ctx.Err() == nil {
				continue
			}
		}
		if err != nil {
			return Plan{}, err
		}
		plan.explain(g, share, next, view)
		plan.DryRun = dryRun
		if dryRun {
			return plan, nil
		}
		err = o.write(ctx, next, version, fmt.Sprintf("%s of %s from %s to %s", r.Kind, group, plan.From, plan.To), r.Who, r.Why)
		if errors.Is(err, coordination.ErrConflict) {
			continue // the share changed meanwhile; look again
		}
		return plan, err
	}
}

func (o *Operator) acceptMore(ctx context.Context, share failover.Share, version uint64, r failover.Request, dryRun bool) (Plan, error) {
	plan := Plan{Group: share.Group, Kind: share.Kind, From: share.Active, To: share.Target, Epoch: share.Epoch, DryRun: dryRun, Behind: -1, LostMost: r.LossMax,
		Effects: []string{fmt.Sprintf("the failover that waits in epoch %d may lose %s", share.Epoch, loss(r.LossMax))}}
	if dryRun {
		return plan, nil
	}
	share.LossMax = r.LossMax
	return plan, o.write(ctx, share, version, fmt.Sprintf("failover of %s may lose %s", share.Group, loss(r.LossMax)), r.Who, r.Why)
}

func loss(n int64) string {
	if n < 0 {
		return "any number of records"
	}
	return fmt.Sprintf("%d records", n)
}

// Abort gives a move up; it is allowed until the new site serves.
func (o *Operator) Abort(ctx context.Context, group, who, why string) error {
	for {
		share, version, err := o.share(ctx, group)
		if err != nil {
			return err
		}
		next, err := failover.Abort(share, who, why)
		if err != nil {
			return err
		}
		if err = o.write(ctx, next, version, "abort of "+group, who, why); !errors.Is(err, coordination.ErrConflict) {
			return err
		}
	}
}

// Pause stops or allows failovers without a person, for all groups.
func (o *Operator) Pause(ctx context.Context, paused bool, who, why string) error {
	key := o.keys.Automation()
	value, err := json.Marshal(failover.Automation{Paused: paused, Who: who, Why: why, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	what := "automation resumed"
	if paused {
		what = "automation paused"
	}
	for {
		e, err := o.store.Get(ctx, key)
		if err != nil && !errors.Is(err, coordination.ErrNotFound) {
			return err
		}
		op := coordination.Op{Key: key, Value: value, Version: e.Version}
		if err = o.store.Txn(ctx, []coordination.Op{op, o.audit(what, who, why)}); !errors.Is(err, coordination.ErrConflict) {
			return err
		}
	}
}

// GroupStatus is how one failover group stands.
type GroupStatus struct {
	Share      failover.Share                         `json:"share"`
	Sites      map[spillway.SiteID]failover.Following `json:"sites"`
	Verdicts   map[spillway.SiteID]string             `json:"verdicts"`
	Down       []spillway.SiteID                      `json:"down,omitempty"`
	Gateways   []layout.GatewayLease                  `json:"gateways"`
	Automation failover.Automation                    `json:"automation"`
}

// Status looks at a group for a moment, to see which processes are alive.
func (o *Operator) Status(ctx context.Context, group string) (GroupStatus, error) {
	g, ok := o.topology.Group(group)
	if !ok {
		return GroupStatus{}, fmt.Errorf("there is no failover group %q", group)
	}
	share, _, err := o.share(ctx, group)
	if err != nil {
		return GroupStatus{}, err
	}
	h, err := o.watch(ctx)
	if err != nil {
		return GroupStatus{}, err
	}
	st := GroupStatus{Share: share, Sites: map[spillway.SiteID]failover.Following{}, Verdicts: map[spillway.SiteID]string{}, Automation: h.automation()}
	mirrors := h.mirrors()
	for site, j := range h.judgements(g.Sites, o.limits(g).Observers) {
		st.Verdicts[site] = j.Why
		if j.Down {
			st.Down = append(st.Down, site)
		}
		if f, ok := mirrors[site].Following[share.ID().String()]; ok {
			st.Sites[site] = f
		}
	}
	st.Gateways = decodeGateways(h.entries(o.keys.Gateways()))
	return st, nil
}

// History lists a group's moves, oldest first.
func (o *Operator) History(ctx context.Context, group string) ([]Record, error) {
	return readHistory(ctx, o.store, o.keys, spillway.ShareID{Group: group})
}

// Await waits until the share stands still in an epoch at or above the given one,
// and hands over each passage on the way.
func (o *Operator) Await(ctx context.Context, group string, epoch spillway.Epoch, passed func(failover.Passage)) (failover.Share, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var last failover.Share
	told, asked := 0, ""
	key := o.keys.Share(spillway.ShareID{Group: group})
	err := o.store.Watch(ctx, key, func(entries []coordination.Entry, err error) {
		if err != nil || ctx.Err() != nil {
			return
		}
		for _, e := range entries {
			s, err := failover.Decode(e.Value)
			if err != nil || e.Key != key {
				continue
			}
			last = s
			if s.Asking != "" && s.Asking != asked && passed != nil {
				passed(failover.Passage{State: s.State, At: time.Now(), Why: "A PERSON MUST DECIDE: " + s.Asking})
			}
			asked = s.Asking
			for ; told < len(s.Passages); told++ {
				if passed != nil {
					passed(s.Passages[told])
				}
			}
			if s.State == failover.Stable && s.Epoch >= epoch {
				cancel()
			}
		}
	})
	if last.State == failover.Stable && last.Epoch >= epoch {
		return last, nil
	}
	if last.Asking != "" {
		return last, fmt.Errorf("share %s/0 stands in %s: %s", group, last.State, last.Asking)
	}
	return last, fmt.Errorf("wait for share %s/0: it is in %s: %w", group, last.State, err)
}

func (o *Operator) share(ctx context.Context, group string) (failover.Share, uint64, error) {
	e, err := o.store.Get(ctx, o.keys.Share(spillway.ShareID{Group: group}))
	if errors.Is(err, coordination.ErrNotFound) {
		return failover.Share{}, 0, fmt.Errorf("failover group %s has no share record yet: is a control loop running?", group)
	}
	if err != nil {
		return failover.Share{}, 0, err
	}
	s, err := failover.Decode(e.Value)
	return s, e.Version, err
}

// watch looks at the store until everything has moved that may, or for the time
// in which it must have: only what moves is alive.
func (o *Operator) watch(ctx context.Context) (*hub, error) {
	h := newHub(o.store, o.keys, o.clock, o.ttl, coordination.LeaseMargin)
	prefixes := []string{h.keys.Moves(), h.keys.Mirrors(), h.keys.Votes(), h.keys.Gateways(), h.keys.Automation()}
	for began := o.clock.Now(); ; {
		for _, p := range prefixes {
			entries, err := o.store.List(ctx, p)
			if err != nil {
				return nil, err
			}
			h.take(p, entries)
		}
		if h.allMoved() || began.Longest(o.clock.Now()) > 3*o.look {
			return h, nil
		}
		if pause(ctx, o.look/5); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// survey collects what Begin needs to know.
func (o *Operator) survey(ctx context.Context, g spillway.FailoverGroup, share failover.Share) (failover.View, Plan, error) {
	h, err := o.watch(ctx)
	if err != nil {
		return failover.View{}, Plan{}, err
	}
	judged := h.judgements(g.Sites, o.limits(g).Observers)
	view := failover.View{Now: time.Now().UTC(), NewMask: newMask(), Sites: siteViews(g, share.ID(), judged, h.mirrors(), nil)}
	plan := Plan{Group: g.Name, Gateways: []string{}, Silent: []string{}, Automation: automationOf(g, h.automation())}
	for _, s := range g.Sites {
		if v := view.Sites[s]; v.Judgement.Down {
			plan.Silent = append(plan.Silent, fmt.Sprintf("site %s is down", s))
		} else if !v.Mirror {
			plan.Silent = append(plan.Silent, fmt.Sprintf("no mirror of site %s", s))
		}
	}
	for _, l := range decodeGateways(h.entries(o.keys.Gateways())) {
		view.Gateways = append(view.Gateways, failover.GatewayView{ID: l.ID, Boot: l.Boot, Leaving: l.Leaving})
		switch {
		case l.Leaving:
		case h.alive(o.keys.Gateway(l.ID)):
			plan.Gateways = append(plan.Gateways, string(l.ID))
		default:
			plan.Silent = append(plan.Silent, fmt.Sprintf("gateway %s", l.ID))
		}
	}
	e, err := o.store.Get(ctx, o.keys.Reserved(share.ID()))
	if err != nil && !errors.Is(err, coordination.ErrNotFound) {
		return view, plan, err
	}
	var r failover.Reserved
	if e.Version > 0 && json.Unmarshal(e.Value, &r) == nil {
		view.Reserved = r.Ends
	}
	return view, plan, nil
}

// held is the median time for which earlier moves of a kind held clients.
func (o *Operator) held(ctx context.Context, group string, kind failover.Kind) (int64, error) {
	records, err := o.History(ctx, group)
	if err != nil {
		return -1, err
	}
	var held []int64
	for _, r := range records {
		if r.Kind == kind && r.HeldMillis >= 0 {
			held = append(held, r.HeldMillis)
		}
	}
	if len(held) == 0 {
		return -1, nil
	}
	held = held[max(0, len(held)-heldOf):]
	slices.Sort(held)
	return held[len(held)/2], nil
}

// heldOf is how many of the latest moves count.
const heldOf = 9

// automationOf says whether a failover may happen without a person.
func automationOf(g spillway.FailoverGroup, a failover.Automation) string {
	switch {
	case !g.Failover.Enabled:
		return "off for this group: a person decides about a failover"
	case a.Paused:
		return strings.TrimSuffix(fmt.Sprintf("paused by %s: %s", a.Who, a.Why), ": ")
	}
	return fmt.Sprintf("on: fails over when a quorum has found the active site dead for %s and at most %d records would be lost", g.Failover.After, g.Failover.LossRecordsMax)
}

// pauses says for how long clients are held.
func (p Plan) pauses(g spillway.FailoverGroup) string {
	if p.HeldMillis < 0 {
		return fmt.Sprintf("produce requests are held until then, %s at most, or the move is given up by itself", holdMax(g))
	}
	return fmt.Sprintf("produce requests are held until then: %d ms at the median of earlier switchovers, %s at most, or the move is given up by itself", p.HeldMillis, holdMax(g))
}

// explain fills in what the move would mean.
func (p *Plan) explain(g spillway.FailoverGroup, share, next failover.Share, view failover.View) {
	p.Kind, p.From, p.To, p.Epoch, p.Behind = next.Kind, share.Active, next.Target, next.Epoch, -1
	source, target := view.Sites[share.Active].Following, view.Sites[next.Target].Following
	if source != nil && target != nil && source.Partitions == target.Partitions && source.Partitions > 0 {
		p.Behind = max(0, source.EndSum-target.EndSum)
	}
	if target != nil && len(target.OnlyHere) > 0 {
		p.OnlyAtTarget = target.OnlyHere
		p.Effects = append(p.Effects, fmt.Sprintf("only %s has the topics %s: they begin empty in epoch %d, and what %s holds of them stays hidden; delete them there, or create them at %s, if that is not meant",
			next.Target, strings.Join(target.OnlyHere, ", "), next.Epoch, next.Target, share.Active))
	}
	behind := "an unknown number of records"
	if p.Behind >= 0 {
		behind = fmt.Sprintf("%d records", p.Behind)
	}
	if next.Kind == failover.Switchover {
		p.Effects = append(p.Effects,
			fmt.Sprintf("nothing is lost, repeated or reordered; %s lacks %s now and is brought to the cutover first", next.Target, behind),
			p.pauses(g))
		if g.GroupDrain > 0 {
			p.Effects = append(p.Effects, fmt.Sprintf("consumer groups pause for up to %s before that and read nothing again", g.GroupDrain))
		} else {
			p.Effects = append(p.Effects, "consumer groups are not drained: each reads up to one commit interval again")
		}
		return
	}
	var reserved int64
	view.Reserved.All(func(_ spillway.TopicPartition, o spillway.Offset) { reserved += int64(max(0, o)) })
	if target != nil {
		p.LostMost = max(0, reserved-target.EndSum)
	} else {
		p.LostMost = reserved
	}
	if g.Ack.Sites > 1 && !share.Degraded {
		p.LostMost = 0
		p.Effects = append(p.Effects, fmt.Sprintf("nothing acknowledged is lost (ack.sites %d), if %d sites are heard", g.Ack.Sites, len(g.Sites)-g.Ack.Sites+1))
	} else {
		p.Effects = append(p.Effects, fmt.Sprintf("%s is not asked: up to %d records that were acknowledged there may be missing (%s lacked %s)", share.Active, p.LostMost, next.Target, behind))
	}
	p.Effects = append(p.Effects,
		"consumer groups read up to one commit interval again",
		fmt.Sprintf("nobody is served until %d gateways have confirmed and the leases of all others are over, which takes up to %s", len(p.Gateways), coordination.LeaseTTL+coordination.LeaseMargin),
		fmt.Sprintf("what is missing is listed by spillway failover-group history %s when it is over, and record by record by spillway unreplicated list once %s is back", p.Group, share.Active))
}

func holdMax(g spillway.FailoverGroup) time.Duration {
	if g.HoldMax > 0 {
		return g.HoldMax
	}
	return failover.HoldMax
}

// write stores a record together with the entry of the audit log.
func (o *Operator) write(ctx context.Context, next failover.Share, version uint64, what, who, why string) error {
	return o.store.Txn(ctx, []coordination.Op{{Key: o.keys.Share(next.ID()), Value: next.Encode(), Version: version}, o.audit(what, who, why)})
}

func (o *Operator) audit(what, who, why string) coordination.Op {
	now := time.Now().UTC()
	value, err := json.Marshal(failover.AuditEntry{At: now, Who: who, What: what, Why: why})
	if err != nil {
		panic(fmt.Sprintf("audit entry cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return coordination.Op{Key: o.keys.Audit(now, fmt.Sprintf("%08x", rand.Uint32())), Value: value}
}

// Audit lists who changed what, oldest first.
func (o *Operator) Audit(ctx context.Context) ([]failover.AuditEntry, error) {
	entries, err := o.store.List(ctx, o.keys.Audits())
	if err != nil {
		return nil, err
	}
	var log []failover.AuditEntry
	for _, e := range entries {
		var a failover.AuditEntry
		if err := json.Unmarshal(e.Value, &a); err != nil {
			return nil, fmt.Errorf("audit entry %s: %w", e.Key, err)
		}
		log = append(log, a)
	}
	return log, nil
}
