package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
)

// Step decides what happens next to a share: the record to write (the same one
// if nothing changes) and what to do or wait for before asking again. It passes
// one state at a time; a loop asks again until nothing changes. The caller writes
// the record by compare-and-set against the version that it was given, and the
// CUTOVER of a failover together with a check of the reserved ends' version.
func Step(share Share, view View, limits Limits) (Share, []Action) {
	if share.Abort != "" && share.State != Stable && share.State != Open {
		return share.giveUp(view, limits)
	}
	if why := tooLong(share, view, limits); why != "" {
		return aborted(share, why)
	}
	if next, actions, stands := forsaken(share, view, limits); stands {
		return next, actions
	}
	switch share.State {
	case Stable:
		if active := view.Sites[share.Active].Judgement; len(share.Gone) > 0 && active.up() {
			share.Gone = nil
			return share, []Action{{Kind: Wait, Site: share.Active, Why: fmt.Sprintf("%s is up again, so nothing is begun anew", share.Active)}}
		}
		if !view.Allowed && !view.Sites[share.Active].Judgement.Down {
			return share, []Action{{Kind: Allow, Site: share.Active, Why: fmt.Sprintf("%s serves, so gateways may write there", share.Active)}}
		}
		if next, why := adoption(share, view, limits); why != "" {
			return next, []Action{{Kind: Wait, Site: share.Active, Why: why}}
		}
		next, actions := automatic(share, view, limits)
		if next.State != Stable || view.Sites[share.Active].Judgement.Down {
			return next, actions
		}
		acks, why := acknowledging(share, view, limits)
		if len(actions) > 0 && len(why) > 0 && why[0].Kind == Wait && acks.Degraded == share.Degraded && acks.Restoring == share.Restoring && len(acks.Restore) == len(share.Restore) {
			return next, actions // both wait, and a site that may be dead is the worse news
		}
		if len(why) > 0 {
			return acks, why
		}
		return next, actions
	case Draining:
		return draining(share, view, limits)
	case Fencing:
		return fencing(share, view)
	case Fenced:
		if share.Kind == Switchover {
			return fencedSwitchover(share, view)
		}
		next, actions := fencedFailover(share, view, limits)
		return doubted(share, next, actions, view, limits)
	case Cutover:
		next, actions := cutover(share, view, limits)
		return doubted(share, next, actions, view, limits)
	case CaughtUp:
		next, actions := caughtUp(share, view, limits)
		return doubted(share, next, actions, view, limits)
	case Open:
		return opened(share, view, limits)
	}
	return share, []Action{{Kind: Ask, Why: fmt.Sprintf("state %q of share %s is unknown to this version; upgrade it", share.State, share.ID())}}
}

// aborted writes first that the move is given up: the view at hand tells of the
// target whether writes are allowed, not of the site that goes on.
func aborted(share Share, why string) (Share, []Action) {
	next, err := Abort(share, "automation", why)
	if err != nil {
		return share, []Action{{Kind: Ask, Why: err.Error()}}
	}
	return next, []Action{{Kind: Wait, Why: "the move is given up: " + why}}
}

// tooLong tells why a switchover must be given up: clients cannot be held for
// ever, and nothing is lost by going back (C29).
func tooLong(share Share, view View, limits Limits) string {
	if share.Kind != Switchover {
		return ""
	}
	switch share.State {
	case Draining, Fencing, Fenced, Cutover, CaughtUp:
	default:
		return ""
	}
	if site := view.Sites[share.Target]; site.Judgement.Down {
		return fmt.Sprintf("target went away: %s", site.Judgement.Why)
	}
	if share.State != Draining && view.Held >= limits.HoldBudget() {
		return fmt.Sprintf("clients were held for %s in %s, at most %s", round(view.Held), share.State, limits.HoldBudget())
	}
	return ""
}

// Decide is Step for a loop that writes the record: states that need nothing to be
// done, nor anybody else to see them, are passed in one write, because clients are
// held meanwhile. Each is among the passages all the same. written: next may be
// stored; otherwise the loop goes on from it with the actions, and if it dies, from
// the record that is stored.
//
// FENCED of a switchover is such a state where nothing is denied at the old site:
// gateways and mirrors do in it what they do in FENCING, so it is written together with
// the cutover. Where writes may be denied the record says FENCED before they are, so that
// a record in FENCING proves that they are not. CAUGHT_UP is passed where
// the mirrors have done already what it asks of them.
func Decide(share Share, view View, limits Limits) (next Share, actions []Action, written bool) {
	next, actions = Step(share, view, limits)
	if next.Kind != Switchover || next.State == share.State {
		return next, actions, true
	}
	switch next.State {
	case Fenced:
		return next, actions, view.Fence == ""
	case CaughtUp:
		view.InState = 0
		if further, why := Step(next, view, limits); further.State == Open {
			return further, why, true
		}
	}
	return next, actions, true
}

func draining(share Share, view View, limits Limits) (Share, []Action) {
	waiting, late, gone := []string{}, []spillway.GatewayID(nil), []string{}
	ending, unended := []string{}, []spillway.GatewayID(nil) // only transactions are open there
	for _, g := range view.Gateways {
		switch {
		case g.Leaving || g.Report != nil && g.Report.GroupsDrained:
		case !g.Over && g.Report != nil && g.Report.MembersWait:
			ending, unended = append(ending, string(g.ID)), append(unended, g.ID)
		case !g.Over:
			waiting, late = append(waiting, string(g.ID)), append(late, g.ID)
		case g.OverFor < view.InState: // it ended meanwhile, and is not waited for
			gone, late = append(gone, string(g.ID)), append(late, g.ID)
		}
	}
	why := "all members of the consumer groups wait"
	if len(gone) > 0 {
		why += fmt.Sprintf(" but those at %s, whose lease ran out, which may read records again", strings.Join(gone, ", "))
	}
	if len(waiting)+len(ending) == 0 && view.Unseen <= 0 {
		share.Undrained = late
		return move(share.fencing(view, why))
	}
	if view.InState >= limits.Group.GroupDrain {
		if len(waiting) > 0 {
			why = fmt.Sprintf("consumer groups drained for %s, members at %s did not come in time and may read records again", limits.Group.GroupDrain, strings.Join(append(waiting, gone...), ", "))
			if len(limits.Group.TransactionalIDs) > 0 {
				why += ", transactions that are open are aborted"
			}
		}
		if len(ending) > 0 {
			why += fmt.Sprintf("; transactions that are open through %s are aborted", strings.Join(ending, ", "))
		}
		share.Undrained, share.Unended = late, unended
		return move(share.fencing(view, why))
	}
	switch {
	case len(waiting) > 0:
		return wait(share, "consumer groups drain at %s", strings.Join(waiting, ", "))
	case len(ending) > 0:
		return wait(share, "transactions end that were begun through %s", strings.Join(ending, ", "))
	default: // FENCING would wait for it while clients are held
		return wait(share, "wait for any gateway whose lease was deleted before this loop began")
	}
}

// fencing waits until no gateway can serve the old epoch any more (F2).
func fencing(share Share, view View) (Share, []Action) {
	done, waiting := slices.Clone(share.WaitFor), []string{}
	known := func(id spillway.GatewayID, boot string) *WaitGateway {
		for i := range done {
			if done[i].ID == id && done[i].Boot == boot {
				return &done[i]
			}
		}
		done = append(done, WaitGateway{ID: id, Boot: boot})
		return &done[len(done)-1]
	}
	for _, g := range view.Gateways {
		if g.past() {
			// A start of long ago: named, it would make every end be read twice.
			done = slices.DeleteFunc(done, func(w WaitGateway) bool { return w.ID == g.ID && w.Boot == g.Boot })
			continue
		}
		w := known(g.ID, g.Boot)
		switch {
		case g.Report != nil && g.Report.Drained && g.Report.Boot == g.Boot:
			w.Done, w.LeftOut = true, ""
			if g.Report.Unsure {
				w.LeftOut = "a produce has no answer"
			}
		case g.Leaving:
			w.Done, w.LeftOut = true, "it had ended its work"
		case g.Over:
			w.Done, w.LeftOut = true, "its lease ran out"
		default:
			waiting = append(waiting, fmt.Sprintf("%s (lease ends in %s)", g.ID, round(g.Left)))
		}
	}
	for _, w := range done {
		if !w.Done && !slices.ContainsFunc(view.Gateways, func(g GatewayView) bool { return g.ID == w.ID && g.Boot == w.Boot }) {
			waiting = append(waiting, string(w.ID)+" (not seen)")
		}
	}
	if view.Unseen > 0 {
		waiting = append(waiting, fmt.Sprintf("any whose lease was deleted before this loop began (leases end in %s)", round(view.Unseen)))
	}
	if len(waiting) > 0 {
		return wait(share, "wait for gateways: %s", strings.Join(waiting, ", "))
	}
	next := share
	next.WaitFor = done
	out := 0
	for _, w := range done {
		if w.LeftOut != "" {
			out++
		}
	}
	why := fmt.Sprintf("all %d gateways hold", len(done))
	if out > 0 {
		why = fmt.Sprintf("%d of %d gateways hold cleanly, %s", len(done)-out, len(done), leftOut(done))
	}
	return move(next.enter(Fenced, view, why))
}

func leftOut(gateways []WaitGateway) string {
	var out []string
	for _, w := range gateways {
		if w.LeftOut != "" {
			out = append(out, fmt.Sprintf("%s: %s", w.ID, w.LeftOut))
		}
	}
	return strings.Join(out, ", ")
}

func fencedSwitchover(share Share, view View) (Share, []Action) {
	if view.Fence == "" {
		return share, []Action{{Kind: Fence, Site: share.Active, Why: "writes that bypass the gateways must not come after the cutover"}}
	}
	if view.LogEnds == nil {
		out := leftOut(share.WaitFor)
		why := "every gateway confirmed"
		if out != "" {
			why = "the end is read until it stays: " + out
		}
		return share, []Action{{Kind: ReadEnds, Site: share.Active, Twice: out != "", Why: why}}
	}
	next := share
	next.Fence = view.Fence
	// A topic that only the target has was never shown to clients: it begins with the
	// epoch, and what it holds stays hidden.
	next.Cutover, next.Start = view.LogEnds.Clone(), above(view.LogEnds, view.OnlyAtTarget)
	partitions := 0
	next.Cutover.All(func(spillway.TopicPartition, spillway.Offset) { partitions++ })
	return move(next.enter(Cutover, view, fmt.Sprintf("%s ends at the log ends of %d partitions, fence: %s", share.Active, partitions, view.Fence)))
}

// fencedFailover hears the survivors: their flows are stopped, so that nothing
// arrives behind what they report (C8), and what they report is all there is.
func fencedFailover(share Share, view View, limits Limits) (Share, []Action) {
	if view.Reserved == nil {
		return wait(share, "no gateway serves any more, so the reserved ends are final, and are read")
	}
	ends, order, silent := heard(share, view, limits)
	if ends[share.Target] == nil {
		return wait(share, "wait for %s to stop its flow and tell its ends", share.Target)
	}
	patience := limits.hear(view, silent)
	if need := needHeard(limits); limits.ackSites() > 1 && len(ends) < need {
		why := fmt.Sprintf("%d sites were heard, %d are needed so that nothing acknowledged is left behind (ack.sites %d)", len(ends), need, limits.ackSites())
		if share.LossMax >= 0 && view.InState >= patience {
			return share, []Action{{Kind: Ask, Site: share.Active, Why: why + "; bring a site back, abort, or accept any loss"}}
		}
		if share.LossMax >= 0 || view.InState < patience {
			return wait(share, "%s", why)
		}
	}
	if len(silent) > 0 && view.InState < patience {
		return wait(share, "wait for %s to tell their ends", join(silent))
	}
	against := ""
	if hides := found(share.Target, view, limits.Group); hides != "" && share.Chosen {
		return elsewhere(share, view, limits, ends, fmt.Sprintf("%s was found to hide records in its logs of compacted topics: %s", share.Target, hides))
	} else if hides != "" {
		against = fmt.Sprintf("; keys may be missing at %s: %s", share.Target, hides)
	}
	if partial := partial(share, share.Target, view); partial != "" && share.Chosen {
		return elsewhere(share, view, limits, ends, partial)
	}
	whole := 0 // of those that were heard
	for site := range ends {
		if partial := partial(share, site, view); partial == "" {
			whole++
		} else {
			against += "; " + partial
		}
	}
	prefix, prefixSite := longest(order, ends)
	complete := limits.ackSites() > 1 && !share.Degraded && whole >= needHeard(limits)
	next := share
	next.Fence, next.Prefix, next.PrefixSite = "lease-only", prefix, prefixSite
	if view.Fence != "" {
		next.Fence = view.Fence
	}
	if complete {
		// Nothing beyond the prefix was acknowledged or shown, so it is not burnt.
		next.Start = prefix.Clone()
		return move(next.enter(Cutover, view, fmt.Sprintf("%d sites heard, nothing acknowledged is missing", len(ends))+against))
	}
	next.Start = above(prefix, view.Reserved)
	least, most := lossBetween(prefix, view.Reserved, limits.Group.OffsetBase, limits.Group.ReservedBlock)
	if share.LossMax >= 0 && least > share.LossMax {
		return share, []Action{{Kind: Ask, Site: share.Active, Why: fmt.Sprintf("between %d and %d records are not replicated, limit %d; accept more with a new failover command, or abort", least, most, share.LossMax)}}
	}
	why := fmt.Sprintf("%d sites heard, between %d and %d records are missing", len(ends), least, most)
	if len(silent) > 0 {
		why += ", silent: " + join(silent)
	}
	return move(next.enter(Cutover, view, why+against))
}

// elsewhere sends a failover for which nobody named a site to another one, since the target
// was found to hide records when its logs were read back, or to have a part of them; where there is none a person is
// asked. Nothing was done at the target yet, and all that were heard have stopped.
func elsewhere(share Share, view View, limits Limits, ends map[spillway.SiteID]PartitionOffsets, why string) (Share, []Action) {
	var fit []spillway.SiteID
	for _, site := range limits.Group.Sites {
		if site != share.Active && ends[site] != nil && found(site, view, limits.Group) == "" && passedOver(share, site, view, limits) == nil {
			fit = append(fit, site)
		}
	}
	if len(fit) == 0 {
		return share, []Action{{Kind: Ask, Site: share.Active, Why: fmt.Sprintf("%s; a person must decide: bring another site back, or abort, or spillway failover %s --to %s to open there all the same", why, share.Group, share.Target)}}
	}
	next := share
	next.Target, _ = furthest(share, fit, view)
	next.Passages = append(slices.Clone(share.Passages), Passage{State: Fenced, At: view.Now, Why: fmt.Sprintf("%s; %s is the target instead", why, next.Target)})
	return move(next)
}

// heard collects the survivors that stopped their flows; the target comes first.
func heard(share Share, view View, limits Limits) (ends map[spillway.SiteID]PartitionOffsets, order, silent []spillway.SiteID) {
	ends = map[spillway.SiteID]PartitionOffsets{}
	sites := append([]spillway.SiteID{share.Target}, limits.Group.Sites...)
	for i, s := range sites {
		if s == share.Active || slices.Contains(sites[:i], s) {
			continue
		}
		v := view.Sites[s]
		if v.Report != nil && v.Report.Stopped {
			ends[s] = v.Report.Ends
			if ends[s] == nil {
				ends[s] = PartitionOffsets{}
			}
			order = append(order, s)
		} else if (v.Mirror || v.Shared) && !v.Judgement.Down {
			silent = append(silent, s) // of several mirror processes one may be about to lead
		}
	}
	return ends, order, silent
}

// armEarly is how long a standby may take in CUTOVER to arm its flow from the new
// site. It takes that long if it is far behind; CAUGHT_UP tells it not to catch up.
const armEarly = 250 * time.Millisecond

// unarmed lists the sites that live and are not ready to follow the target yet.
func unarmed(share Share, view View, limits Limits) (late []spillway.SiteID) {
	for _, s := range limits.Group.Sites {
		if v := view.Sites[s]; s != share.Target && v.Mirror && !v.Judgement.Down && (v.Report == nil || !v.Report.Armed) {
			late = append(late, s)
		}
	}
	return late
}

func cutover(share Share, view View, limits Limits) (Share, []Action) {
	want := share.Cutover
	if share.Kind == Failover {
		want = share.Prefix
	}
	if !view.Allowed {
		// Nobody writes there before OPEN, and now it costs no time.
		return share, []Action{{Kind: Allow, Site: share.Target, Why: fmt.Sprintf("gateways are about to write at %s", share.Target)}}
	}
	r := view.Sites[share.Target].Report
	if r == nil || !r.Stopped {
		return wait(share, "%s catches up%s", share.Target, problem(r))
	}
	if tp, by, ok := r.Ends.reaches(want); !ok {
		return wait(share, "%s catches up: %s lacks %d%s", share.Target, tp, by, problem(r))
	}
	if share.Kind == Switchover {
		if tp, by, exceeded := want.Exceeded(r.Ends); exceeded {
			return aborted(share, fmt.Sprintf("%s got %d records of %s from beyond the cutover: somebody writes to %s past the gateways", share.Target, by, tp, share.Active))
		}
		if why := astray(share, view, limits); why != "" {
			return aborted(share, why)
		}
		if !r.GroupsCopied {
			return wait(share, "%s copies the last group commits%s", share.Target, problem(r))
		}
		if late := unarmed(share, view, limits); len(late) > 0 && view.InState < armEarly {
			return wait(share, "%s has everything, %s arm their flow from it", share.Target, join(late))
		}
	}
	return move(share.enter(CaughtUp, view, fmt.Sprintf("%s has everything below the cutover", share.Target)))
}

func problem(r *SiteReport) string {
	if r == nil || r.Problem == "" {
		return ""
	}
	return " (" + r.Problem + ")"
}

// astray says why a switchover is not to open: somebody has written past the gateways. ""
// if nobody has.
func astray(share Share, view View, limits Limits) string {
	if hides := found(share.Target, view, limits.Group); hides != "" {
		return fmt.Sprintf("%s was found to hide records in its logs of compacted topics: %s; keys would be missing there", share.Target, hides)
	}
	if r := view.Sites[share.Active].Report; r != nil && r.Differs != "" {
		return r.Differs
	}
	return ""
}

func caughtUp(share Share, view View, limits Limits) (Share, []Action) {
	if share.Kind == Switchover {
		if why := astray(share, view, limits); why != "" {
			return aborted(share, why)
		}
	}
	if !view.Allowed {
		return share, []Action{{Kind: Allow, Site: share.Target, Why: fmt.Sprintf("gateways are about to write at %s", share.Target)}}
	}
	r := view.Sites[share.Target].Report
	if r == nil || !r.Opened {
		return wait(share, "%s writes the start of epoch %d into its map%s", share.Target, share.Epoch, problem(r))
	}
	armed, unarmed := 0, unarmed(share, view, limits)
	for _, s := range limits.Group.Sites {
		if r := view.Sites[s].Report; s != share.Target && r != nil && r.Armed {
			armed++
		}
	}
	// A failover with too few survivors opens degraded; a switchover never does (C31).
	degraded := ""
	if short := armed < limits.ackSites()-1; short || len(unarmed) > 0 {
		late := view.InState >= or(limits.ArmWait, ArmWait)
		switch {
		case !late:
			return wait(share, "%s arm their flow from %s", join(unarmed), share.Target)
		case short && share.Kind == Switchover:
			return wait(share, "%d sites follow %s, ack.sites %d needs %d", armed, share.Target, limits.ackSites(), limits.ackSites()-1)
		case short && limits.Group.Ack.OnShortfall == "degrade":
			degraded = fmt.Sprintf("%d sites follow %s, ack.sites is %d", armed, share.Target, limits.ackSites())
		}
	}
	if why := unconfirmed(share, view, limits.Group); why != "" {
		return wait(share, "%s", why)
	}
	next := share
	if degraded != "" && !share.Degraded {
		next = share.degraded(view, degraded)
	}
	next.Active = share.Target
	next.MapPosition = map[spillway.SiteID]int64{share.Target: r.MapPosition}
	verified := share.Cutover
	if share.Kind == Failover {
		verified = share.Prefix
	}
	next.Terms = append(slices.Clone(share.Terms), Term{
		Epoch: share.Epoch, Site: share.Target, Mask: share.Mask,
		Start: share.Start.Clone(), Verified: verified.Clone(), Lossy: share.Kind == Failover,
	})
	next = next.trim(limits.Group.OffsetBase)
	why := fmt.Sprintf("%s serves in epoch %d", share.Target, share.Epoch)
	if len(unarmed) > 0 {
		why += fmt.Sprintf(", %s follow later", join(unarmed))
	}
	if next.Degraded && !share.Degraded {
		why += ", degraded: " + degraded
	}
	return move(next.enter(Open, view, why))
}

func opened(share Share, view View, limits Limits) (Share, []Action) {
	var waiting []string
	for _, g := range view.Gateways {
		if !g.Over && !g.Leaving && (g.Report == nil || !g.Report.Opened) {
			waiting = append(waiting, string(g.ID))
		}
	}
	for _, s := range limits.Group.Sites {
		if v := view.Sites[s]; s != share.Active && v.Mirror && !v.Judgement.Down && (v.Report == nil || !v.Report.Armed) {
			waiting = append(waiting, "mirror of "+string(s))
		}
	}
	why := fmt.Sprintf("%s serves, all gateways and mirrors follow", share.Active)
	if len(waiting) > 0 {
		if view.InState < or(limits.SettleMax, SettleMax) {
			return wait(share, "wait for %s", strings.Join(waiting, ", "))
		}
		why = fmt.Sprintf("%s serves; not heard in %s: %s", share.Active, or(limits.SettleMax, SettleMax), strings.Join(waiting, ", "))
	}
	return move(share.enter(Stable, view, why).settled().counted(limits))
}

func move(next Share) (Share, []Action) {
	return next, []Action{{Kind: Wait, Site: next.Target, Why: next.Passages[len(next.Passages)-1].Why}}
}

func wait(share Share, format string, args ...any) (Share, []Action) {
	return share, []Action{{Kind: Wait, Why: fmt.Sprintf(format, args...)}}
}

func join(sites []spillway.SiteID) string {
	var s []string
	for _, id := range sites {
		s = append(s, string(id))
	}
	return strings.Join(s, ", ")
}
