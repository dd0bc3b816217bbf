package failover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"spillway"
)

// Choose fills in the target of a failover that names none, and why it is not the one
// that is preferred.
func Choose(share Share, r Request, view View, limits Limits) (Request, error) {
	if r.Kind != Failover || r.Target != "" {
		return r, nil
	}
	target, why := bestSurvivor(share, view, limits)
	if target == "" {
		return r, refuse("%s", why)
	}
	r.Target, r.Chosen, r.Unnamed = target, why, true
	return r, nil
}

// bestSurvivor is, of the sites that are up, have a mirror, are not drained, and where no
// keys may be missing (docs/decisions/0038), the one that nobody finds dead, then the one that is furthest, and of those that are about as far the one that is preferred: what
// it lacks it would have to fetch while nobody is served. why tells what was against
// those that are preferred to it; or, if there is none, against the last one.
func bestSurvivor(share Share, view View, limits Limits) (target spillway.SiteID, why string) {
	var fit []spillway.SiteID
	why = fmt.Sprintf("failover group %s has no other site", share.Group)
	for _, site := range limits.Group.Sites {
		if site == share.Active {
			continue
		}
		if err := passedOver(share, site, view, limits); err != nil {
			why = strings.TrimPrefix(err.Error(), ErrRefused.Error()+": ")
			continue
		}
		fit = append(fit, site)
	}
	if len(fit) == 0 {
		return "", why
	}
	return furthest(share, fit, view)
}

// passedOver says why a failover that names no site does not go to one.
func passedOver(share Share, site spillway.SiteID, view View, limits Limits) error {
	if err := checkTarget(share, Request{Kind: Failover, Target: site}, view, limits); err != nil {
		return err
	}
	at := view.Sites[site]
	if slices.Contains(share.Gone, site) && !steady(at.Judgement, limits) {
		return refuse("site %s went away when the share was about to fail over there; name it to fail over there all the same", site)
	}
	if at.Drained != nil {
		return refuse("site %s is %s; name it to fail over there all the same", site, at.Drained)
	}
	if partial := partial(share, site, view); partial != "" {
		return refuse("site %s; name it to fail over there all the same", partial)
	}
	if unfit := Unfit(site, view, limits.Group); unfit != "" {
		return refuse("site %s; name it to fail over there all the same", unfit)
	}
	return nil
}

// furthest is the best of some sites, and says why it is not the first of them.
func furthest(share Share, fit []spillway.SiteID, view View) (target spillway.SiteID, why string) {
	far := standings(share, fit, view)
	doubtful := func(s standing) int { // it may be dead, and what it has with it
		if view.Sites[s.site].Judgement.Suspected {
			return 1
		}
		return 0
	}
	best := slices.MinFunc(far, func(a, b standing) int { // the first of equals
		return cmp.Or(cmp.Compare(doubtful(a), doubtful(b)), cmp.Compare(a.step, b.step))
	})
	var behind []string
	for _, s := range far {
		if s.site == best.site {
			break
		}
		why := s.why
		if doubtful(s) > doubtful(best) {
			why = "it may be dead: " + view.Sites[s.site].Judgement.Why
		}
		behind = append(behind, fmt.Sprintf("%s is preferred, but %s", s.site, why))
	}
	return best.site, strings.Join(behind, ", ")
}

// steady tells whether a site that went away is as good as any other again: it has been
// up for as long as a share must have stood still before it moves without a person.
func steady(j Judgement, limits Limits) bool {
	return j.up() && j.For >= or(limits.HoldDown, HoldDown)
}

// standing is how far a survivor is, in coarse steps: 0 is the best.
type standing struct {
	site spillway.SiteID
	step int64
	why  string
}

// aboutLevel is how much further back in time one survivor may be than another and count
// as about as far: so much is fetched in no time, and the lag of all of them grows
// since the active site died, in ticks that differ. From there on a step is ten times
// as long as the one before.
const aboutLevel = 10 // seconds

// Steps of sites of which is known that they lack much, or not known how much.
const (
	stepCatchingUp = 1 << 40
	stepUnknown    = 1 << 41
)

func standings(share Share, sites []spillway.SiteID, view View) []standing {
	if byEnd(share, sites, view) {
		return standingsByEnd(share, sites, view)
	}
	least := -1.0
	for _, s := range sites {
		if f := view.Sites[s].Following; follows(share, f) && (least < 0 || f.LagSeconds < least) {
			least = f.LagSeconds
		}
	}
	var all []standing
	for _, s := range sites {
		f, at := view.Sites[s].Following, standing{site: s}
		switch {
		case !follows(share, f):
			at = unknown(s, f)
		default:
			for more := f.LagSeconds - least; more > aboutLevel; more /= 10 {
				at.step++
			}
			at.why = fmt.Sprintf("it is %.1f s further behind", f.LagSeconds-least)
		}
		all = append(all, at)
	}
	return all
}

// byEnd tells whether the ends of the survivors' logs tell how far they are, and not their
// lag. Where a move was given up, flows have been stopped and none gets into the share's
// epoch while its site is dead: neither lag nor whether a site has caught up tells anything
// then. And one that has not caught up may lack a little or nearly all.
func byEnd(share Share, sites []spillway.SiteID, view View) bool {
	return len(share.Gone) > 0 || slices.ContainsFunc(sites, func(s spillway.SiteID) bool {
		f := view.Sites[s].Following
		return follows(share, f) && (f.CatchingUp || f.Epoch < share.Epoch)
	})
}

// aboutLevelRecords is how many records fewer a survivor may have and count as about as
// far: so many are fetched in no time.
const aboutLevelRecords = 10_000

func standingsByEnd(share Share, sites []spillway.SiteID, view View) []standing {
	tells := func(f *Following) bool { return f != nil && (len(share.Gone) > 0 || follows(share, f)) }
	partitions, most := 0, int64(0)
	for _, s := range sites {
		if f := view.Sites[s].Following; tells(f) {
			partitions, most = max(partitions, f.Partitions), max(most, f.EndSum)
		}
	}
	var all []standing
	for _, s := range sites {
		f, at := view.Sites[s].Following, standing{site: s}
		switch {
		case !tells(f):
			at = unknown(s, f)
		case f.CatchingUp && f.Partitions < max(partitions, 1):
			at.step, at.why = stepCatchingUp, "it has not caught up"
		case f.Partitions < partitions:
			at.step, at.why = stepUnknown, "it does not say of all partitions how far it is"
		default:
			for more := most - f.EndSum; more > aboutLevelRecords; more /= 10 {
				at.step++
			}
			at.why = fmt.Sprintf("it lacks %d records", most-f.EndSum)
		}
		all = append(all, at)
	}
	return all
}

// unknown is the standing of a site that does not follow the numbering in force.
func unknown(site spillway.SiteID, f *Following) standing {
	switch {
	case f == nil:
		return standing{site, stepUnknown, "it does not say how far it is"}
	case f.Problem != "":
		return standing{site, stepUnknown, "it does not follow: " + f.Problem}
	default:
		return standing{site, stepUnknown, fmt.Sprintf("it follows epoch %d", f.Epoch)}
	}
}

// follows tells whether what a site says is about the numbering in force: epochs in
// which a share was given back to its site go on with it, and a standby that cannot
// reach that site does not get into them.
func follows(share Share, f *Following) bool {
	if f == nil || f.Problem != "" {
		return false
	}
	since := share.Epoch
	for i := len(share.Terms) - 1; i > 0 && share.Terms[i].Continues; i-- {
		since = share.Terms[i-1].Epoch
	}
	return f.Epoch >= since
}
