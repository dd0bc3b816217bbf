package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/federation/preflight"
)

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
	// LostMost bounds what a failover may lose; 0 for a switchover. LostLeast is what
	// it finds missing at least, which is what --accept-loss has to allow; −1: unknown.
	LostMost  int64 `json:"lostMost"`
	LostLeast int64 `json:"lostLeast"`
	// Losses says it by partition, where a dry run has read the sites; Unread are
	// those that it could not read.
	Losses []failover.Loss `json:"losses,omitempty"`
	Unread []string        `json:"unread,omitempty"`
	// OnlyAtTarget are topics that the target has and the active site has not.
	OnlyAtTarget []string `json:"onlyAtTarget,omitempty"`
	Gateways     []string `json:"gateways"`
	// Silent are sites and gateways that are not heard now.
	Silent []string `json:"silent"`
	// PauseMillis is for how long clients are expected to be held, and PauseWhy how
	// that is reckoned; −1: nothing is known to reckon with.
	PauseMillis int64  `json:"pauseMillis"`
	PauseWhy    string `json:"pauseWhy,omitempty"`
	// Reread says what consumers read again.
	Reread string `json:"reread"`
	// Automation says what would happen without a person.
	Automation string `json:"automation"`

	// Torn says whether transactions may be torn apart by the move.
	Torn string `json:"torn"`
	// Findings are what the target has otherwise than the active site, or lacks.
	Findings []preflight.Finding `json:"findings,omitempty"`
	// Adopting is why nothing moves as long as clients may go past the gateways; the rest of
	// the plan says what else is in the way.
	Adopting string `json:"adopting,omitempty"`
	// Refused is why the move would not be begun; only a dry run tells of it here.
	Refused []string `json:"refused,omitempty"`

	read     bool   // Losses, LostLeast and LostMost were read
	allRead  bool   // of all survivors that a failover might hear
	measured string // what consumers read again, where the sites' commits were read
	sites    []spillway.SiteID
	// strangers are the gateways that have never read what clients may do at a site.
	strangers map[spillway.SiteID][]string
	// leases is until those of gateways that are not heard are over, leasesMost where that
	// is not known.
	leases, leasesMost time.Duration
}

// newPlan begins a plan with who is heard and who is not.
func newPlan(g spillway.FailoverGroup, h *hub, view failover.View) Plan {
	p := Plan{Group: g.Name, Gateways: []string{}, Silent: []string{}, Automation: automationOf(g, h.automation()), sites: g.Sites, PauseMillis: -1, strangers: make(map[spillway.SiteID][]string)}
	for _, s := range g.Sites {
		if v := view.Sites[s]; v.Judgement.Down {
			p.Silent = append(p.Silent, fmt.Sprintf("site %s is down", s))
		} else if !v.Mirror {
			p.Silent = append(p.Silent, fmt.Sprintf("no mirror of site %s", s))
		}
	}
	for _, l := range decodeGateways(h.entries(h.keys.Gateways())) {
		switch {
		case l.Leaving:
		case h.alive(h.keys.Gateway(l.ID)):
			p.Gateways = append(p.Gateways, string(l.ID))
			for _, site := range l.RightsUnread {
				p.strangers[site] = append(p.strangers[site], string(l.ID))
			}
		default:
			p.Silent = append(p.Silent, fmt.Sprintf("gateway %s", l.ID))
			p.leases = max(p.leases, h.left(l.ID, l.Boot))
		}
	}
	return p
}

// expect reckons for how long clients will be held. answer is how long the store takes
// for one.
func (p *Plan) expect(earlier []history.Record, next failover.Share, view failover.View, answer time.Duration) {
	c := history.Conditions{Kind: next.Kind, Leases: p.leases, LeasesMost: p.leasesMost, Answer: answer}
	if f := view.Sites[next.Target].Following; f != nil {
		// What transactions hold back now is carried while clients are held.
		c.Behind = time.Duration(max(f.LagSeconds, f.HeldBackSeconds) * float64(time.Second))
	}
	pause, why, known := history.Expect(earlier, c)
	if p.PauseWhy = why; known {
		p.PauseMillis = pause.Milliseconds()
	}
}

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

// pauses says for how long clients are held by a switchover.
func (p Plan) pauses(g spillway.FailoverGroup) string {
	expected := "how long is not known, since " + p.PauseWhy
	if p.PauseMillis >= 0 {
		expected = fmt.Sprintf("about %d ms (%s)", p.PauseMillis, p.PauseWhy)
	}
	return fmt.Sprintf("produce requests are held until then: %s, %s at most, or the move is given up by itself", expected, holdMax(g))
}

// heldBackTold is how long a transaction must have held records back to be in a plan.
const heldBackTold = time.Second

// explain fills in what the move would mean.
func (p *Plan) explain(g spillway.FailoverGroup, share, next failover.Share, view failover.View) {
	p.Kind, p.From, p.To, p.Epoch, p.Behind = next.Kind, share.Active, next.Target, next.Epoch, -1
	p.Torn = tornBy(next.Kind, g, share.Active, next.Target)
	source, target := view.Sites[share.Active].Following, view.Sites[next.Target].Following
	if source != nil && target != nil && source.Partitions == target.Partitions && source.Partitions > 0 {
		p.Behind = max(0, source.EndSum-target.EndSum)
	}
	if target != nil && len(target.OnlyHere) > 0 {
		p.OnlyAtTarget = target.OnlyHere
		p.Effects = append(p.Effects, fmt.Sprintf("only %s has the topics %s: they begin empty in epoch %d, and what %s holds of them stays hidden; delete them there, or create them at %s, if that is not meant",
			next.Target, strings.Join(target.OnlyHere, ", "), next.Epoch, next.Target, share.Active))
	}
	if unfit := failover.Unfit(next.Target, view, g); unfit != "" {
		p.Effects = append(p.Effects, fmt.Sprintf("keys of compacted topics may be missing at %s, and nothing lists which: %s", next.Target, unfit))
	}
	if who := p.strangers[next.Target]; len(who) > 0 {
		p.Effects = append(p.Effects, fmt.Sprintf("gateways have never read the access control list of %s, and tell clients of what is served there to come again: %s; see their log and the rights of their principal there", next.Target, strings.Join(who, ", ")))
	}
	behind := "an unknown number of records"
	if p.Behind >= 0 {
		behind = fmt.Sprintf("%d records", p.Behind)
	}
	if next.Kind == failover.Switchover {
		p.Effects = append(p.Effects,
			fmt.Sprintf("nothing is lost, repeated or reordered; %s lacks %s now and is brought to the cutover first", next.Target, behind),
			p.pauses(g))
		if target != nil && target.HeldBackSeconds >= heldBackTold.Seconds() {
			p.Effects = append(p.Effects, fmt.Sprintf("%s lacks what an open transaction has held back for %.1f s, and clients are held until it has that too: %s", next.Target, target.HeldBackSeconds, target.HeldBackBy))
		}
		p.Reread = "nothing"
		if g.GroupDrain > 0 {
			p.Effects = append(p.Effects, fmt.Sprintf("consumer groups pause for up to %s before that and read nothing again", g.GroupDrain))
		} else {
			p.Reread = "up to one commit interval of each consumer group"
			p.Effects = append(p.Effects, "consumer groups are not drained: each reads up to one commit interval again")
		}
		return
	}
	if g.Ack.Sites > 1 && !share.Degraded {
		p.LostMost, p.LostLeast, p.Losses = 0, 0, nil
		p.Effects = append(p.Effects, fmt.Sprintf("nothing acknowledged is lost (ack.sites %d), if %d sites are heard", g.Ack.Sites, len(g.Sites)-g.Ack.Sites+1))
	} else {
		p.lost(share, next, view, behind)
	}
	p.Reread = cmp.Or(p.measured, "up to one commit interval of each consumer group")
	if target != nil && target.GroupsLate() != "" {
		p.Reread += "; more of those that are not carried"
		p.Findings = append(p.Findings, preflight.Finding{About: preflight.AboutGroups, What: fmt.Sprintf("%s at %s; they read again from there, or begin as auto.offset.reset says where their position has expired", target.GroupsLate(), next.Target)})
	}
	wait := fmt.Sprintf("up to %s", coordination.LeaseTTL+coordination.LeaseMargin)
	if p.PauseMillis >= 0 {
		wait = fmt.Sprintf("about %d ms (%s)", p.PauseMillis, p.PauseWhy)
	}
	p.Effects = append(p.Effects,
		"consumer groups read again: "+p.Reread,
		fmt.Sprintf("nobody is served until %d gateways have confirmed and the leases of all others are over: %s", len(p.Gateways), wait),
		fmt.Sprintf("what is missing is listed by spillway failover-group history %s when it is over, and record by record by spillway unreplicated list once %s is back", p.Group, share.Active))
}

// foresee reads the sites for what may be lost.
func (p *Plan) foresee(ctx context.Context, o *Operator, g spillway.FailoverGroup, share failover.Share, target spillway.SiteID, view failover.View, urgent bool) {
	known, looked, unread := o.forecast(ctx, g, share, target, view, urgent)
	p.Unread = unread
	p.foreseen(known, share.Active, view, o.limits(g))
	old := looked[share.Active]
	if old != nil {
		old.count(ctx, p.Losses)
	}
	if urgent {
		return
	}
	for site, l := range looked {
		if site != share.Active {
			l.keptUntil(ctx, site, p.Losses)
		}
	}
	if there := looked[target]; old != nil && there != nil {
		p.measured = o.measureReread(ctx, g, old, there)
	}
}

// foreseen takes the loss from what was read. A survivor that is not known to be down may
// yet tell of more when the failover hears it: then the least is not known.
func (p *Plan) foreseen(known failover.Known, active spillway.SiteID, view failover.View, limits failover.Limits) {
	if len(known.Order) == 0 {
		return // nothing is known of any survivor: all would look lost
	}
	p.Losses, p.LostLeast, p.LostMost = known.Losses(limits)
	p.read = true
	p.allRead = !slices.ContainsFunc(limits.Group.Sites, func(s spillway.SiteID) bool {
		return s != active && !view.Sites[s].Judgement.Down && known.Ends[s] == nil
	})
	if !p.allRead {
		p.LostLeast = -1
	}
}

// lost says what a failover may lose: partition by partition where that was read,
// else by the sums that the leases tell, which know nothing of single partitions.
func (p *Plan) lost(share, next failover.Share, view failover.View, behind string) {
	if p.read {
		p.Effects = append(p.Effects, fmt.Sprintf("%s is not asked: of the records that were acknowledged there, up to %d in %d partitions may be missing (%s lacked %s)", share.Active, p.LostMost, len(p.Losses), next.Target, behind))
		if p.LostLeast > 0 {
			p.Effects = append(p.Effects, fmt.Sprintf("at least %d of them are missing, which --accept-loss has to allow", p.LostLeast))
		}
		return
	}
	p.LostLeast = -1
	var reserved int64
	view.Reserved.All(func(_ spillway.TopicPartition, o spillway.Offset) { reserved += int64(max(0, o)) })
	p.LostMost = reserved
	if target := view.Sites[next.Target].Following; target != nil {
		p.LostMost = max(0, reserved-target.EndSum)
	}
	p.Effects = append(p.Effects, fmt.Sprintf("%s is not asked: up to %d records that were acknowledged there may be missing (%s lacked %s)", share.Active, p.LostMost, next.Target, behind))
}

func holdMax(g spillway.FailoverGroup) time.Duration {
	if g.HoldMax > 0 {
		return g.HoldMax
	}
	return failover.HoldMax
}
