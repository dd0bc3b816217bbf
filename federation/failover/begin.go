package failover

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"spillway"
)

// ErrRefused: the request cannot be granted now; the sentence says why.
var ErrRefused = errors.New("refused")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// ErrBehind is an ErrRefused that ends by itself: the target of a switchover is
// catching up, or waits for a transaction to end.
var ErrBehind = fmt.Errorf("%w for now", ErrRefused)

// BehindMax is how far, in time, the target of a switchover may be behind when
// the move begins, unless its request says otherwise: clients are held until it has
// everything.
const BehindMax = 2 * time.Second

// behind tells why clients would be held for long if the site became the target
// of a switchover, nil if they would not.
func behind(share Share, r Request, g spillway.FailoverGroup, f Following) error {
	target, most := r.Target, or(r.BehindMax, BehindMax)
	held := f.HeldBack(g, most)
	switch {
	case f.SourceProblem != "":
		return fmt.Errorf("%w: target %s gets nothing from %s for share %s: %s", ErrBehind, target, share.Active, share.ID(), f.SourceProblem)
	case f.CatchingUp:
		return fmt.Errorf("%w: target %s has not caught up with %s yet for share %s", ErrBehind, target, share.Active, share.ID())
	case f.LagSeconds > most.Seconds():
		return fmt.Errorf("%w: target %s is %.1f s behind %s for share %s, at most %s", ErrBehind, target, f.LagSeconds, share.Active, share.ID(), most)
	case f.GroupsLate() != "":
		return fmt.Errorf("%w: the move of share %s to %s would be given up with clients held, as all positions have to be there: %s", ErrBehind, share.ID(), target, f.GroupsLate())
	case held != "":
		return fmt.Errorf("%w: target %s would wait for share %s with clients held: %s", ErrBehind, target, share.ID(), held)
	}
	return nil
}

// Begin starts a move of a share that stands still.
func Begin(share Share, r Request, view View, limits Limits) (Share, error) {
	if share.State != Stable {
		return share, refuse("share %s is in %s (%s %s to %s): wait for it or abort it", share.ID(), share.State, share.Kind, share.Active, share.Target)
	}
	if share.Epoch+2 > spillway.EpochMax { // giving the move up takes another epoch
		return share, refuse("share %s is in epoch %d, and epochs end at %d, where the leader epochs that clients see would turn negative; carry its topics over to a failover group of a new name", share.ID(), share.Epoch, spillway.EpochMax)
	}
	r, err := Choose(share, r, view, limits)
	if err != nil {
		return share, err
	}
	if why := Stranded(share, r, view, limits); why != "" {
		return share, refuse("%s", why)
	}
	if err := checkTarget(share, r, view, limits); err != nil {
		return share, err
	}
	if heard, need := alive(share, view, limits), needHeard(limits); r.Kind == Failover && limits.ackSites() > 1 && heard < need && r.LossMax >= 0 {
		// It would stand in FENCED, and nobody would be served.
		return share, refuse("%d of the %d sites are up that must be heard so that nothing acknowledged is left behind (ack.sites %d; not heard: %s); bring one back, or accept any loss (-1)",
			heard, need, limits.ackSites(), join(unheard(share, view, limits)))
	}
	if err := room(share, r.Kind, r.Target, view, limits); err != nil {
		return share, err
	}
	next := share
	next.Failovers = append([]time.Time{}, share.failovers()...)
	next.Epoch = share.Epoch + 1
	next.Target, next.Kind, next.Who, next.Why = r.Target, r.Kind, r.Who, r.Why
	next.LossMax, next.Mask, next.Chosen = r.LossMax, view.NewMask, r.Unnamed
	next.Automatic, next.Gone = r.Automatic, nil
	for _, s := range share.Gone {
		if r.Automatic && !steady(view.Sites[s].Judgement, limits) {
			next.Gone = append(next.Gone, s)
		}
	}
	next.Restoring, next.Restore = false, nil // begun anew at the new site
	next.Started, next.Passages = view.Now, nil
	why := fmt.Sprintf("%s asked for a %s from %s to %s: %s", r.Who, r.Kind, share.Active, r.Target, cmp.Or(r.Why, "no reason given"))
	if r.Chosen != "" {
		why += fmt.Sprintf("; %s, since %s", r.Target, r.Chosen)
	}
	if partial := partial(share, r.Target, view); partial != "" && r.Kind == Failover {
		if r.Unnamed { // since the target was chosen
			return share, refuse("site %s; name it to fail over there all the same", partial)
		}
		why += "; " + partial
	}
	if unfit := Unfit(r.Target, view, limits.Group); unfit != "" && r.Unnamed { // since the target was chosen
		return share, refuse("site %s; name it to fail over there all the same", unfit)
	} else if unfit != "" { // a person has named it all the same
		why += "; keys may be missing: " + unfit
	}
	if r.Kind == Switchover && limits.Group.GroupDrain > 0 {
		return next.enter(Draining, view, why), nil
	}
	return next.fencing(view, why), nil
}

// fencing names the gateways that may still serve the old epoch.
func (s Share) fencing(view View, why string) Share {
	s.WaitFor = nil
	for _, g := range view.Gateways {
		if !g.Over && !g.Leaving {
			s.WaitFor = append(s.WaitFor, WaitGateway{ID: g.ID, Boot: g.Boot})
		}
	}
	slices.SortFunc(s.WaitFor, func(a, b WaitGateway) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Boot, b.Boot))
	})
	return s.enter(Fencing, view, why)
}

// enter returns a copy in another state; the copy shares nothing that is changed.
func (s Share) enter(state State, view View, why string) Share {
	s.State, s.Since, s.Asking = state, view.Now, ""
	s.Passages = append(slices.Clone(s.Passages), Passage{State: state, At: view.Now, Why: why})
	return s
}

func checkTarget(share Share, r Request, view View, limits Limits) error {
	site := view.Sites[r.Target]
	switch {
	case r.Kind != Switchover && r.Kind != Failover:
		return refuse("%q is no kind of move", r.Kind)
	case r.Target == share.Active:
		return refuse("%s serves share %s already", r.Target, share.ID())
	case !slices.Contains(limits.Group.Sites, r.Target):
		return refuse("%s is none of the sites of failover group %s: %v", r.Target, share.Group, limits.Group.Sites)
	case r.Kind == Switchover && site.Drained != nil:
		return refuse("target %s is %s; spillway site return %s ends that", r.Target, site.Drained, r.Target)
	case site.Judgement.Down:
		return refuse("target %s is down: %s", r.Target, site.Judgement.Why)
	case !site.Mirror:
		return refuse("no mirror is alive at target %s, nobody could bring it up to date", r.Target)
	case r.Kind == Switchover && view.Sites[share.Active].Judgement.Down:
		return refuse("%s is down: %s; a switchover needs it, use failover", share.Active, view.Sites[share.Active].Judgement.Why)
	case r.Kind == Switchover && site.Following == nil:
		return refuse("target %s does not follow share %s yet", r.Target, share.ID())
	case r.Kind == Switchover && site.Following.Problem != "":
		return refuse("target %s does not follow share %s: %s", r.Target, share.ID(), site.Following.Problem)
	case r.Kind == Switchover && site.Following.Epoch != share.Epoch:
		return refuse("target %s follows epoch %d of share %s, not %d", r.Target, site.Following.Epoch, share.ID(), share.Epoch)
	}
	if why := Unfit(r.Target, view, limits.Group); why != "" && r.Kind == Switchover {
		if site.Following.Hiding == nil {
			return fmt.Errorf("%w: target %s", ErrBehind, why)
		}
		return refuse("target %s", why)
	}
	if topics, more := compacted(view, limits.Group); r.Kind == Switchover && len(topics)+more > 0 && !view.Sites[share.Active].Mirror {
		return refuse("no mirror is alive at %s, which has to confirm where its logs of compacted topics end; start it", share.Active)
	}
	if r.Kind == Switchover {
		return behind(share, r, limits.Group, *site.Following)
	}
	return nil
}

// Abort gives a move up: the share goes back to its old site in an epoch above
// both (C30), because somebody may have acted on the one that was to open. It is
// allowed until OPEN. The record stays where it is until writes are allowed again.
func Abort(share Share, who, why string) (Share, error) {
	switch share.State {
	case Stable:
		return share, refuse("nothing to abort: share %s stands still at %s", share.ID(), share.Active)
	case Open:
		return share, refuse("share %s is already open at %s; move it back with a switchover", share.ID(), share.Active)
	}
	if share.Abort == "" {
		share.Abort = fmt.Sprintf("%s: %s", who, cmp.Or(why, "no reason given"))
	}
	share.Gone = nil // who gives it up has not asked for another one
	return share, nil
}

// giveUp ends a move whose record says that it is given up: what view.Allowed tells
// is then about the site that goes on. Mask and numbering go on: to retries in
// flight the site must look as before. Writes may have been denied there from FENCED on
// (Decide). A site that is down is not waited for: its own loop allows them when it is back.
func (s Share) giveUp(view View, limits Limits) (Share, []Action) {
	denied := s.Kind == Switchover && s.State != Draining && s.State != Fencing
	if denied && !view.Allowed && !view.Sites[s.Active].Judgement.Down {
		return s, []Action{{Kind: Allow, Site: s.Active, Why: fmt.Sprintf("the move is given up, %s serves again", s.Active)}}
	}
	why := fmt.Sprintf("given up in %s: %s; %s goes on in epoch %d", s.State, s.Abort, s.Active, s.Epoch+1)
	next := s.enter(Stable, view, why)
	next.Epoch++
	next.Terms = append(slices.Clone(s.Terms), Term{Epoch: next.Epoch, Site: s.Active, Mask: s.Current().Mask, Continues: true})
	if s.Kind == Failover && s.Automatic && len(s.Gone) > 0 { // by automation, not by a person
		next = next.withFailover(limits)
	}
	next = next.settled()
	next.Gone = s.Gone
	return next, []Action{{Kind: Wait, Why: why}}
}

// settled clears what belongs to a move only. Passages stay until the next move
// begins, so that the loop that writes the history finds them.
func (s Share) settled() Share {
	s.Target, s.Abort, s.WaitFor, s.Cutover, s.Prefix, s.PrefixSite, s.Start = "", "", nil, nil, nil, nil, nil
	s.Mask, s.LossMax, s.Chosen, s.Fence, s.Undrained, s.Unended, s.Automatic, s.Gone = 0, 0, false, "", nil, nil, false, nil
	return s
}

// automatic decides whether a share that stands still moves without a person.
func automatic(share Share, view View, limits Limits) (Share, []Action) {
	policy, site := limits.Group.Failover, view.Sites[share.Active]
	if site.Judgement.Suspected {
		return share, []Action{{Kind: Wait, Site: share.Active, Why: site.Judgement.Why}}
	}
	if !site.Judgement.Down {
		return share, nil
	}
	failovers := view.FailoversLastHour
	if len(share.Gone) > 0 { // of the one that was given up a moment ago this is a part
		failovers = max(0, failovers-1)
	}
	hold := func(format string, args ...any) (Share, []Action) {
		return share, []Action{{Kind: Wait, Site: share.Active, Why: fmt.Sprintf("hold %s: ", share.Active) + fmt.Sprintf(format, args...)}}
	}
	ask := func(format string, args ...any) (Share, []Action) {
		return share, []Action{{Kind: Ask, Site: share.Active, Why: fmt.Sprintf("%s; a person must decide: ", site.Judgement.Why) + fmt.Sprintf(format, args...)}}
	}
	switch {
	case Stranding(share, limits.Group) != "":
		return ask("automatic failover of %s is off, since %s", share.Group, Stranding(share, limits.Group))
	case !policy.Enabled:
		return ask("automatic failover of %s is off", share.Group)
	case view.Automation.Paused:
		return ask("automation is paused by %s: %s", view.Automation.Who, view.Automation.Why)
	case site.Judgement.For < policy.After:
		return hold("down for %s, automatic after %s", round(site.Judgement.For), policy.After)
	case len(share.Gone) == 0 && view.SinceMove < or(limits.HoldDown, HoldDown): // what is begun anew was held down when it began
		clocks := ""
		if view.ClockAhead > 0 {
			clocks = fmt.Sprintf("; that move ended %s from now by the clock of who wrote so, and counts from where this loop saw it: set the clocks of control loops and commands right", round(view.ClockAhead))
		}
		return hold("the last move ended %s ago, at least %s between moves%s", round(view.SinceMove), or(limits.HoldDown, HoldDown), clocks)
	case policy.PerHourMax > 0 && failovers >= min(policy.PerHourMax, failoversMost):
		return ask("%d failovers in the last hour, limit %d", failovers, policy.PerHourMax)
	}
	if heard, need := alive(share, view, limits), needHeard(limits); limits.ackSites() > 1 && heard < need {
		return ask("only %d of the %d sites are up that must be heard for ack.sites %d", heard, need, limits.ackSites())
	}
	next, err := Begin(share, Request{Kind: Failover, Who: "automation", Why: site.Judgement.Why, LossMax: policy.LossRecordsMax, Automatic: true}, view, limits)
	if err != nil {
		return ask("%v", err)
	}
	return next, []Action{{Kind: Wait, Site: next.Target, Why: next.Passages[len(next.Passages)-1].Why}}
}

// alive counts the sites with copies, the active one aside, that are not down.
func alive(share Share, view View, limits Limits) int {
	n := 0
	for _, s := range limits.Group.Sites {
		if v := view.Sites[s]; s != share.Active && v.Mirror && !v.Judgement.Down {
			n++
		}
	}
	return n
}

// unheard lists those that alive does not count.
func unheard(share Share, view View, limits Limits) (sites []spillway.SiteID) {
	for _, s := range limits.Group.Sites {
		if v := view.Sites[s]; s != share.Active && (!v.Mirror || v.Judgement.Down) {
			sites = append(sites, s)
		}
	}
	return sites
}

// needHeard is how many of the S sites with copies a failover must hear so that
// one of them has every record that was acknowledged by k sites: S − k + 1 (C17).
func needHeard(limits Limits) int { return len(limits.Group.Sites) - limits.ackSites() + 1 }

func round(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }
