package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// SiteChange says what the drain or the return of a site does, or did.
type SiteChange struct {
	Site    spillway.SiteID `json:"site"`
	Drained bool            `json:"drained"` // it is marked so afterwards
	// Mark tells who drained it, and why.
	Mark   *failover.Drained `json:"mark,omitempty"`
	DryRun bool              `json:"dryRun"`
	Groups []GroupMove       `json:"groups"` // that are concerned
}

// GroupMove is what becomes of one failover group.
type GroupMove struct {
	Group string          `json:"group"`
	From  spillway.SiteID `json:"from"`
	To    spillway.SiteID `json:"to,omitempty"`
	Epoch spillway.Epoch  `json:"epoch,omitempty"` // that the move opens
	Moved bool            `json:"moved"`
	Stays string          `json:"stays,omitempty"` // why it did not move, or would not now
	// PassedOver is why sites that the group would rather have do not take it.
	PassedOver string `json:"passedOver,omitempty"`
}

// Staying lists the groups that did not move, with the reasons.
func (c SiteChange) Staying() []string {
	var stay []string
	for _, g := range c.Groups {
		if g.Stays != "" {
			stay = append(stay, fmt.Sprintf("%s: %s", g.Group, g.Stays))
		}
	}
	return stay
}

// Progress is how a person is told of moves that are made one after the other.
type Progress struct {
	Wait   time.Duration // for the end of each
	Begun  func(Plan)
	Passed func(failover.Passage)
	Ended  func(GroupMove)
}

// Drain marks a site, so that nothing moves there, and moves every failover group
// that it serves to its next home, by switchovers, one after the other. A group that
// cannot be moved stays, and the others go on. It may be repeated: what has moved
// stays where it is.
func (o *Operator) Drain(ctx context.Context, site spillway.SiteID, who, why string, dryRun bool, p Progress) (SiteChange, error) {
	change := SiteChange{Site: site, Drained: true, DryRun: dryRun, Groups: []GroupMove{}}
	if err := o.knows(site); err != nil {
		return change, err
	}
	mark, err := o.mark(ctx, site, failover.Drained{Who: who, Why: why, At: time.Now().UTC()}, dryRun)
	if err != nil {
		return change, err
	}
	change.Mark = mark
	moves := siteMoves{o: o, change: &change, progress: p, who: who, why: cmp.Or(why, fmt.Sprintf("site %s is drained", site))}
	moves.wants = func(g spillway.FailoverGroup, share failover.Share) ([]spillway.SiteID, bool) {
		others := slices.DeleteFunc(slices.Clone(g.Sites), func(s spillway.SiteID) bool { return s == site })
		return others, share.Next() == site || share.Active == site
	}
	err = moves.all(ctx)
	return change, err
}

// Return takes the mark of a site away. With groups, those whose preferred site it
// is are moved there.
func (o *Operator) Return(ctx context.Context, site spillway.SiteID, who, why string, groups, dryRun bool, p Progress) (SiteChange, error) {
	change := SiteChange{Site: site, DryRun: dryRun, Groups: []GroupMove{}}
	if err := o.knows(site); err != nil {
		return change, err
	}
	if !dryRun {
		if err := o.unmark(ctx, site, who, why); err != nil {
			return change, err
		}
	}
	if !groups {
		return change, nil
	}
	moves := siteMoves{o: o, change: &change, progress: p, who: who, why: cmp.Or(why, fmt.Sprintf("site %s has returned", site))}
	moves.wants = func(g spillway.FailoverGroup, share failover.Share) ([]spillway.SiteID, bool) {
		return []spillway.SiteID{site}, g.Sites[0] == site && (share.Next() != site || share.Active != site)
	}
	err := moves.all(ctx)
	return change, err
}

func (o *Operator) knows(site spillway.SiteID) error {
	for _, s := range o.topology.Sites() {
		if s.ID == site {
			return nil
		}
	}
	return fmt.Errorf("there is no site %q in the configuration", site)
}

// mark notes that a site is drained. One that is keeps its mark.
func (o *Operator) mark(ctx context.Context, site spillway.SiteID, d failover.Drained, dryRun bool) (*failover.Drained, error) {
	key := o.keys.Drained(site)
	value, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	for {
		e, err := o.store.Get(ctx, key)
		switch {
		case err == nil:
			_ = json.Unmarshal(e.Value, &d) // unreadable: drained all the same
			return &d, nil
		case !errors.Is(err, coordination.ErrNotFound):
			return nil, err
		case dryRun:
			return &d, nil
		}
		err = o.store.Txn(ctx, []coordination.Op{{Key: key, Value: value}, o.audit(fmt.Sprintf("site %s drained", site), d.Who, d.Why)})
		if !errors.Is(err, coordination.ErrConflict) {
			return &d, err
		}
	}
}

func (o *Operator) unmark(ctx context.Context, site spillway.SiteID, who, why string) error {
	key := o.keys.Drained(site)
	for {
		e, err := o.store.Get(ctx, key)
		switch {
		case errors.Is(err, coordination.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		err = o.store.Txn(ctx, []coordination.Op{{Key: key, Version: e.Version, Delete: true}, o.audit(fmt.Sprintf("site %s returned", site), who, why)})
		if !errors.Is(err, coordination.ErrConflict) {
			return err
		}
	}
}

// notDrained has a switchover begin only while its target bears no mark: the one who
// drains it must find the share, or the share must find the mark.
func (o *Operator) notDrained(r failover.Request) []coordination.Op {
	if r.Kind != failover.Switchover {
		return nil
	}
	return []coordination.Op{{Key: o.keys.Drained(r.Target), Check: true}}
}

// siteMoves are the moves that the drain or the return of a site makes.
type siteMoves struct {
	o        *Operator
	change   *SiteChange
	progress Progress
	who, why string
	// wants says whether a group has to move, and where it may, the preferred site first.
	wants func(spillway.FailoverGroup, failover.Share) (targets []spillway.SiteID, concerned bool)
}

// all moves the groups that have to, one after the other.
func (m siteMoves) all(ctx context.Context) error {
	for _, g := range m.o.topology.Groups() {
		share, _, err := m.o.share(ctx, g.Name)
		if err == nil {
			if _, concerned := m.wants(g, share); !concerned {
				continue
			}
		}
		move := GroupMove{Group: g.Name, From: share.Active}
		if err == nil {
			err = m.one(ctx, g, share, &move)
		}
		if err != nil {
			move.Stays = reason(err)
		}
		m.change.Groups = append(m.change.Groups, move)
		if m.progress.Ended != nil {
			m.progress.Ended(move)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// one moves one group. A move that is under way is waited for.
func (m siteMoves) one(ctx context.Context, g spillway.FailoverGroup, share failover.Share, move *GroupMove) (err error) {
	if share.State != failover.Stable {
		if m.change.DryRun {
			return fmt.Errorf("a %s from %s to %s is under way", share.Kind, share.Active, share.Target)
		}
		if share, err = m.await(ctx, g, share.Epoch); err != nil {
			return err
		}
		move.From = share.Active
	}
	targets, concerned := m.wants(g, share)
	switch {
	case !concerned: // the move that was under way did it
		move.To, move.Epoch, move.Moved = share.Active, share.Epoch, true
		return nil
	case len(targets) == 0:
		return fmt.Errorf("failover group %s has no other site", g.Name)
	}
	plan, over, err := m.first(ctx, g, targets)
	move.PassedOver = strings.Join(over, "; ")
	move.To, move.Epoch = plan.To, plan.Epoch
	if err != nil || m.change.DryRun {
		return err
	}
	if plan, err = m.begin(ctx, g, plan.To, false); err != nil {
		return err
	}
	move.Epoch = plan.Epoch
	if m.progress.Begun != nil {
		m.progress.Begun(plan)
	}
	if share, err = m.await(ctx, g, plan.Epoch); err != nil {
		return fmt.Errorf("%w; the move goes on without this command", err)
	}
	if move.Moved = share.Active == plan.To; !move.Moved {
		return fmt.Errorf("the move to %s was given up: %s", plan.To, share.Passages[len(share.Passages)-1].Why)
	}
	return nil
}

func (m siteMoves) await(ctx context.Context, g spillway.FailoverGroup, epoch spillway.Epoch) (failover.Share, error) {
	ctx, cancel := context.WithTimeout(ctx, m.progress.Wait)
	defer cancel()
	return m.o.Await(ctx, g.Name, epoch, m.progress.Passed)
}

func (m siteMoves) begin(ctx context.Context, g spillway.FailoverGroup, to spillway.SiteID, dryRun bool) (Plan, error) {
	returned := spillway.SiteID("")
	if !m.change.Drained {
		returned = m.change.Site
	}
	return m.o.begin(ctx, g.Name, failover.Request{Kind: failover.Switchover, Target: to, Who: m.who, Why: m.why}, dryRun, returned)
}

// first finds the first target that would take the group now, or else the first that
// would once it has caught up; and why those before it would not.
func (m siteMoves) first(ctx context.Context, g spillway.FailoverGroup, targets []spillway.SiteID) (plan Plan, over []string, err error) {
	if len(targets) == 1 && !m.change.DryRun {
		return Plan{To: targets[0]}, nil, nil // it will be refused where it has to be
	}
	var later spillway.SiteID
	var refused []string
	for _, to := range targets {
		plan, err := m.begin(ctx, g, to, true)
		if err == nil {
			err = plan.Refusal()
		}
		if err == nil {
			return plan, refused, nil
		}
		if !errors.Is(err, failover.ErrRefused) {
			return Plan{}, nil, err
		}
		if errors.Is(err, failover.ErrBehind) && later == "" {
			later, over = to, slices.Clone(refused)
		}
		refused = append(refused, reason(err))
	}
	if later != "" && !m.change.DryRun {
		return Plan{To: later}, over, nil
	}
	return Plan{To: later}, nil, errors.New(strings.Join(refused, "; "))
}

// reason is why something was refused, without saying that it was.
func reason(err error) string {
	return strings.TrimPrefix(strings.TrimPrefix(err.Error(), failover.ErrBehind.Error()+": "), failover.ErrRefused.Error()+": ")
}
