package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/authorization"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
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
	// lookMax bounds a look at the sites before a switchover.
	lookMax time.Duration

	// Waiting, if not nil, is told again and again why a switchover cannot begin
	// yet, while its target is catching up; it ends the waiting by saying false.
	Waiting func(why error) bool
	// BehindMax is how far the target of a switchover may be behind, since clients are
	// held until it has everything; 0: failover.BehindMax.
	BehindMax time.Duration
	// Room is for how long the disks of a target have to take what the group writes; 0:
	// preflight.RoomDefault. Accept are things of preflight.Acceptable that refuse no move.
	Room   time.Duration
	Accept []string
	// ByLists is what gateways decide by, beside the access control lists of the sites, where
	// clients' rights are in these; nil: clients may do everything.
	ByLists *authorization.Policy
	// NotClients are principals at the sites, beside those of gateways and mirrors, whose
	// rights no move depends on.
	NotClients []string
	// DirectQuiet is for how long a producer past the gateways must not have written to count
	// as gone; 0: DirectQuiet.
	DirectQuiet time.Duration
	// Sites, if not nil, are read before a move: whether the target can take the group,
	// and what exactly a failover would lose. A command without a way to a site goes
	// without.
	Sites map[spillway.SiteID]broker.Cluster
}

const lookDefault = coordination.LeaseEvery

// NewOperator prepares commands. observers are the places that vote; empty: the
// sites of the topology.
func NewOperator(topology *spillway.Topology, store coordination.Store, observers []spillway.SiteID) *Operator {
	cfg := Config{Topology: topology, Store: store, Observers: observers}.withDefaults()
	c := &Control{cfg: cfg}
	return &Operator{topology: topology, store: store, keys: failover.Keys(topology.Name()), limits: c.limits, look: lookDefault, lookMax: lookMax, clock: coordination.SystemClock{}, ttl: cfg.LeaseTTL}
}

// Switchover begins a planned move, or with dryRun only says what it would do.
func (o *Operator) Switchover(ctx context.Context, group string, to spillway.SiteID, who, why string, dryRun bool) (Plan, error) {
	return o.begin(ctx, group, failover.Request{Kind: failover.Switchover, Target: to, Who: who, Why: why, BehindMax: o.BehindMax}, dryRun, "")
}

// Failover begins an unplanned move, which does not ask the old site. It loses
// acceptLoss records at most (−1: any). to is empty for the best survivor. While
// a failover waits for a person, it raises what that one accepts.
func (o *Operator) Failover(ctx context.Context, group string, to spillway.SiteID, acceptLoss int64, who, why string, dryRun bool) (Plan, error) {
	return o.begin(ctx, group, failover.Request{Kind: failover.Failover, Target: to, Who: who, Why: why, LossMax: acceptLoss}, dryRun, "")
}

// begin does what both have in common. returned is a site that a dry run takes as not
// drained any more.
func (o *Operator) begin(ctx context.Context, group string, r failover.Request, dryRun bool, returned spillway.SiteID) (Plan, error) {
	g, ok := o.topology.Group(group)
	if !ok {
		return Plan{}, fmt.Errorf("there is no failover group %q; see spillway failover-group list", group)
	}
	var earlier []history.Record
	var last spillway.Epoch
	for rest := o.look / 2; ; {
		asked := o.clock.Now()
		share, version, err := o.share(ctx, group)
		if err != nil {
			return Plan{}, err
		}
		answer := asked.Shortest(o.clock.Now())
		if share.State == failover.Fenced && share.Kind == failover.Failover && r.Kind == failover.Failover && (r.Target == "" || r.Target == share.Target) {
			return o.acceptMore(ctx, share, version, r, dryRun)
		}
		h, view, plan, err := o.survey(ctx, g, share)
		if err != nil {
			return Plan{}, err
		}
		if last != share.Epoch {
			earlier, last = lastMoves(ctx, o.store, o.keys, share), share.Epoch
		}
		if site, ok := view.Sites[returned]; ok {
			site.Drained = nil
			view.Sites[returned] = site
		}
		limits, adopting := o.limits(g), ""
		if failover.Stranded(share, r, view, limits) != "" {
			share.Adoption = o.foundNow(ctx, g, share)
			adopting = failover.Stranded(share, r, view, limits)
			if !dryRun {
				return Plan{}, fmt.Errorf("%w: %s", failover.ErrRefused, adopting)
			}
			share.Adoption, limits.Group.Adopting = nil, false // what else is in the way
		}
		asks, err := failover.Choose(share, r, view, limits)
		next := share
		if err == nil {
			next, err = failover.Begin(share, asks, view, limits)
		}
		if !dryRun && o.waits(ctx, err, o.look/2) {
			continue
		}
		if err != nil {
			return Plan{}, err
		}
		plan.look(ctx, o, g, share, next, view, dryRun)
		plan.expect(earlier, next, view, answer)
		if asks.Chosen != "" {
			plan.Effects = append(plan.Effects, fmt.Sprintf("%s is taken, since %s", asks.Target, asks.Chosen))
		}
		plan.explain(g, share, next, view)
		plan.refuse(r)
		if plan.Adopting = adopting; adopting != "" {
			plan.Refused = append([]string{adopting}, plan.Refused...)
		}
		plan.DryRun = dryRun
		if dryRun {
			return plan, nil
		}
		again := o.look / 2
		if err = plan.Refusal(); err != nil {
			again = rest
			if o.Sites != nil { // what was asked of them is much, and changes slowly
				rest = min(2*rest, againMax)
			}
		} else if o.Sites != nil {
			next, err = o.beginNow(ctx, h, g, share, asks, &view)
		}
		if o.waits(ctx, err, again) {
			continue
		}
		if err != nil {
			return Plan{}, err
		}
		err = o.write(ctx, next, version, fmt.Sprintf("%s of %s from %s to %s%s", r.Kind, group, plan.From, plan.To, plan.accepted()), r.Who, r.Why, o.notDrained(r)...)
		if errors.Is(err, coordination.ErrConflict) {
			continue // the share changed meanwhile; look again
		}
		if err == nil {
			o.remember(ctx, &plan, view)
		}
		return plan, err
	}
}

// remember keeps what was known of a move that has begun, and says so if it cannot: the
// move goes on without it.
func (o *Operator) remember(ctx context.Context, plan *Plan, view failover.View) {
	ctx, cancel := context.WithTimeout(ctx, keepMax)
	defer cancel()
	key := o.keys.HistoryKnown(spillway.ShareID{Group: plan.Group}, plan.Epoch)
	if err := keep(ctx, o.store, key, plan.known(view)); err != nil {
		plan.Effects = append(plan.Effects, fmt.Sprintf("what was known now is not kept in the history: %v", err))
	}
}

// beginNow begins a move after the sites were looked at, which took a while: by what the
// mirrors and the observers say now, and at this time. Clients are held from here on.
func (o *Operator) beginNow(ctx context.Context, h *hub, g spillway.FailoverGroup, share failover.Share, r failover.Request, view *failover.View) (failover.Share, error) {
	for _, prefix := range []string{o.keys.Mirrors(), o.keys.Ballots()} {
		entries, err := o.store.List(ctx, prefix)
		if err != nil {
			return share, err
		}
		h.take(prefix, entries)
	}
	view.Sites = h.siteViews(g, share.ID(), h.judgements(g.Sites, o.limits(g).Observers), nil)
	view.Now = time.Now().UTC()
	return failover.Begin(share, r, *view, o.limits(g))
}

// waits tells whether to ask again after a rest, as what refuses a move ends by itself.
func (o *Operator) waits(ctx context.Context, why error, rest time.Duration) bool {
	if !errors.Is(why, failover.ErrBehind) || o.Waiting == nil || !o.Waiting(why) {
		return false
	}
	pause(ctx, rest)
	return ctx.Err() == nil
}

// acceptMore lets a failover that waits for a person go on. One who names the target of a
// failover for which nobody had is obeyed although keys may be missing there, and accepts no less for it.
func (o *Operator) acceptMore(ctx context.Context, share failover.Share, version uint64, r failover.Request, dryRun bool) (Plan, error) {
	named := share.Chosen && r.Target != ""
	if named && (share.LossMax < 0 || r.LossMax >= 0 && r.LossMax < share.LossMax) {
		r.LossMax = share.LossMax
	}
	plan := Plan{Group: share.Group, Kind: share.Kind, From: share.Active, To: share.Target, Epoch: share.Epoch, DryRun: dryRun, Behind: -1, LostMost: r.LossMax, LostLeast: -1,
		Effects: []string{fmt.Sprintf("the failover that waits in epoch %d may lose %s", share.Epoch, loss(r.LossMax))}}
	if dryRun {
		return plan, nil
	}
	share.LossMax = r.LossMax
	share.Chosen = share.Chosen && !named
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
		if f, ok := mirrors[site].following(share.ID()); ok {
			st.Sites[site] = f
		}
	}
	st.Gateways = decodeGateways(h.entries(o.keys.Gateways()))
	return st, nil
}

// History lists a group's moves, oldest first.
func (o *Operator) History(ctx context.Context, group string) ([]history.Record, error) {
	id := spillway.ShareID{Group: group}
	records, err := readHistory(ctx, o.store, o.keys, id)
	if err != nil {
		return nil, err
	}
	return records, readBeside(ctx, o.store, o.keys, id, records)
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
	prefixes := []string{h.keys.Moves(), h.keys.Mirrors(), h.keys.Ballots(), h.keys.Gateways(), h.keys.Automation(), h.keys.DrainedAll()}
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
func (o *Operator) survey(ctx context.Context, g spillway.FailoverGroup, share failover.Share) (*hub, failover.View, Plan, error) {
	h, err := o.watch(ctx)
	if err != nil {
		return nil, failover.View{}, Plan{}, err
	}
	judged := h.judgements(g.Sites, o.limits(g).Observers)
	view := failover.View{Now: time.Now().UTC(), NewMask: newMask(), Sites: h.siteViews(g, share.ID(), judged, nil)}
	plan := newPlan(g, h, view)
	plan.leasesMost, plan.leases = plan.leases, 0 // a command has not watched them run out
	for _, l := range decodeGateways(h.entries(o.keys.Gateways())) {
		view.Gateways = append(view.Gateways, failover.GatewayView{ID: l.ID, Boot: l.Boot, Leaving: l.Leaving})
	}
	if view.Reserved, _, err = readReserved(ctx, o.store, o.keys.Reserved(share.ID())); err != nil {
		return h, view, plan, fmt.Errorf("what a move of %s may lose: %w", share.ID(), err)
	}
	if why := failover.Stranding(share, g); why != "" {
		plan.Automation = "off, since " + why
	}
	return h, view, plan, nil
}

// write stores a record together with the entry of the audit log, if what is checked
// beside it holds.
func (o *Operator) write(ctx context.Context, next failover.Share, version uint64, what, who, why string, checks ...coordination.Op) error {
	record := coordination.Op{Key: o.keys.Share(next.ID()), Value: next.EncodeBeside(), Version: version}
	return o.store.Txn(ctx, append([]coordination.Op{record, o.audit(what, who, why)}, checks...))
}

func (o *Operator) audit(what, who, why string) coordination.Op {
	now := time.Now().UTC()
	value, err := json.Marshal(failover.AuditEntry{At: now, Who: who, What: what, Why: why})
	if err != nil {
		panic(fmt.Sprintf("audit entry cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return coordination.Op{Key: o.keys.Audit(now, fmt.Sprintf("%08x", rand.Uint32())), Value: value}
}

// Audit lists who changed what, people and clients of gateways, oldest first.
func (o *Operator) Audit(ctx context.Context) ([]failover.AuditEntry, error) {
	var log []failover.AuditEntry
	for _, prefix := range []string{o.keys.Audits(), o.keys.ClientAudits()} {
		entries, err := o.store.List(ctx, prefix)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			var a failover.AuditEntry
			if err := json.Unmarshal(e.Value, &a); err != nil {
				return nil, fmt.Errorf("audit entry %s: %w", e.Key, err)
			}
			log = append(log, a)
		}
	}
	slices.SortStableFunc(log, func(a, b failover.AuditEntry) int { return a.At.Compare(b.At) })
	return log, nil
}

// Note writes an entry of the audit log about what a command does beside the store.
func (o *Operator) Note(ctx context.Context, what, who, why string) error {
	if err := o.store.Txn(ctx, []coordination.Op{o.audit(what, who, why)}); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// Share is the record of a group, as it is now.
func (o *Operator) Share(ctx context.Context, group string) (failover.Share, error) {
	share, _, err := o.share(ctx, group)
	return share, err
}

// Gateways are those that say they serve, dead ones included until their leases are
// taken away.
func (o *Operator) Gateways(ctx context.Context) ([]layout.GatewayLease, error) {
	entries, err := o.store.List(ctx, o.keys.Gateways())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(decodeGateways(entries), func(l layout.GatewayLease) bool { return l.Leaving }), nil
}
