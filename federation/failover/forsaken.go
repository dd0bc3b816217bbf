package failover

import (
	"fmt"
	"slices"

	"spillway"
)

// forsaken decides what becomes of a failover that cannot come to its end, because a
// site that it needs went away: nobody is served meanwhile (promise H).
//
// One that automation began is given up and begun anew with the other sites. That is
// an abort like any other, which is safe in every state before OPEN, and a failover
// like any other, in an epoch above both. It is done where there is another site to go
// to, or where the old one is up again; for each site that goes away once, until that has
// been up for long. It was held down when it began, and is not again; the first one that
// is given up does not count until it is over, all others count at once, so that sites
// which come and go do not take turns for ever. One that a person asked for is that
// person's, who is asked.
func forsaken(share Share, view View, limits Limits) (next Share, actions []Action, stands bool) {
	gone, why := missing(share, view, limits)
	if gone == "" {
		return share, nil, false
	}
	policy, judgement := limits.Group.Failover, view.Sites[gone].Judgement
	given, other, none := without(share, gone, view, limits)
	ask := func(format string, args ...any) (Share, []Action, bool) {
		return share, []Action{askAbout(share, gone, other, why, fmt.Sprintf(format, args...))}, true
	}
	back := view.Sites[share.Active].Judgement.up()
	heard, need := alive(share, view, limits), needHeard(limits)
	switch {
	case !share.Automatic:
		return ask("%s asked for this failover", share.Who)
	case !policy.Enabled:
		return ask("automatic failover of %s is off", share.Group)
	case view.Automation.Paused:
		return ask("automation is paused by %s: %s", view.Automation.Who, view.Automation.Why)
	case slices.Contains(share.Gone, gone):
		return ask("%s went away a second time", gone)
	case judgement.For < policy.After:
		next, actions = wait(share, "%s for %s; the failover is given up after %s", why, round(judgement.For), policy.After)
		return next, actions, true
	case !back && other == "":
		return ask("%s", none)
	case !back && limits.ackSites() > 1 && heard < need:
		return ask("only %d of the %d sites are up that must be heard for ack.sites %d", heard, need, limits.ackSites())
	}
	then := fmt.Sprintf("%s is up again", share.Active)
	if !back {
		then = "it is begun anew to " + string(other)
		if !view.Sites[share.Active].Judgement.Down {
			then += fmt.Sprintf(" if %s is down still", share.Active)
		}
	}
	next, actions = aborted(share, fmt.Sprintf("%s; %s", why, then))
	if next.Abort != "" {
		next.Gone = given.Gone
	}
	return next, actions, true
}

// without is what would be done if the failover were given up now for want of a site:
// the share as it would go on, and where to, or why to nobody.
func without(share Share, gone spillway.SiteID, view View, limits Limits) (given Share, other spillway.SiteID, none string) {
	given = share
	given.Gone = append(slices.Clone(share.Gone), gone)
	other, none = bestSurvivor(given, view, limits)
	return given, other, none
}

// askAbout asks a person what to do without a site, and says what can be done.
func askAbout(share Share, gone, other spillway.SiteID, why, reason string) Action {
	way := fmt.Sprintf("spillway abort %s, then spillway failover %s --to %s", share.Group, share.Group, other)
	if other == "" {
		way = fmt.Sprintf("spillway abort %s gives it back to %s", share.Group, share.Active)
	}
	return Action{Kind: Ask, Site: gone, Why: fmt.Sprintf("%s; a person must decide: %s; wait for %s, or %s", why, reason, gone, way)}
}

// doubted puts a question in the place of a wait for a site that may be unable to do what
// the failover waits for, though it is not known to be down. What it has done already
// counts all the same, and so does what it does yet.
func doubted(share, next Share, actions []Action, view View, limits Limits) (Share, []Action) {
	if next.State != share.State || next.Target != share.Target || len(actions) != 1 || actions[0].Kind != Wait {
		return next, actions
	}
	site, why, reason := doubt(share, view, limits)
	if site == "" {
		return next, actions
	}
	_, other, _ := without(share, site, view, limits)
	return share, []Action{askAbout(share, site, other, why, reason)}
}

// doubt is the site that a failover waits for and that may be unable to do it, if any: a
// mirror that lapses for a moment, or a vote against a site that is soon another one, is
// no reason to ask.
func doubt(share Share, view View, limits Limits) (site spillway.SiteID, why, reason string) {
	if share.Kind != Failover || share.State != Fenced && share.State != Cutover && share.State != CaughtUp {
		return "", "", ""
	}
	settle := or(limits.SettleMax, SettleMax)
	suspected := func(j Judgement) bool { return j.Suspected && j.For >= max(settle, limits.Group.Failover.After) }
	const few = "too few places say so to give the failover up without one"
	if target := view.Sites[share.Target]; !suffices(share, target.Report) {
		switch {
		case target.Mute >= settle: // whoever ended it may start it
			return share.Target, fmt.Sprintf("no mirror has been alive at target %s in %s", share.Target, share.State), "nobody can bring it up to date"
		case suspected(target.Judgement):
			return share.Target, fmt.Sprintf("target %s may have gone away in %s: %s", share.Target, share.State, target.Judgement.Why), few
		case share.State != Cutover && view.InState >= max(settle, limits.hear(view, []spillway.SiteID{share.Target})): // fetching may take long
			return share.Target, fmt.Sprintf("target %s has told nothing in %s%s", share.Target, share.State, problem(target.Report)), "its mirror is alive, but does not get on"
		}
	}
	for _, s := range limits.Group.Sites {
		if v := view.Sites[s]; s != share.Target && suspected(v.Judgement) && needs(share, view.Sites[share.Target].Report, s) {
			return s, fmt.Sprintf("%s, of which target %s lacks records, may have gone away in %s: %s", s, share.Target, share.State, v.Judgement.Why), few
		}
	}
	return "", "", ""
}

// suffices tells whether the target has done what the state waits for.
func suffices(share Share, r *SiteReport) bool {
	if r == nil {
		return false
	}
	switch share.State {
	case Fenced:
		return r.Stopped
	case Cutover:
		_, _, ok := r.Ends.reaches(share.Prefix)
		return r.Stopped && ok
	default:
		return r.Opened
	}
}

// missing is the site that is down and without which a failover stands where it is, if
// any. In FENCING it need not be there.
func missing(share Share, view View, limits Limits) (gone spillway.SiteID, why string) {
	if share.Kind != Failover || share.State != Fenced && share.State != Cutover && share.State != CaughtUp {
		return "", ""
	}
	target := view.Sites[share.Target]
	if target.Judgement.Down {
		return share.Target, fmt.Sprintf("target %s went away in %s: %s", share.Target, share.State, target.Judgement.Why)
	}
	for _, s := range limits.Group.Sites {
		if v := view.Sites[s]; v.Judgement.Down && s != share.Target && needs(share, target.Report, s) {
			return s, fmt.Sprintf("%s, of which target %s lacks records, went away in %s: %s", s, share.Target, share.State, v.Judgement.Why)
		}
	}
	return "", ""
}

// needs tells whether the target lacks records that the failover brings it from a site.
func needs(share Share, report *SiteReport, from spillway.SiteID) bool {
	if share.State != Cutover {
		return false
	}
	lacks := false
	share.Prefix.All(func(tp spillway.TopicPartition, end spillway.Offset) {
		sites := share.PrefixSite[tp.Topic]
		if int(tp.Partition) >= len(sites) || sites[tp.Partition] != from {
			return
		}
		lacks = lacks || report == nil || !report.Stopped || report.Ends.Get(tp) < end
	})
	return lacks
}
