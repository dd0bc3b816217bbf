package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
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
	// HeldMillis is how long clients were held by earlier moves of this kind, at the
	// median; −1: there were none.
	HeldMillis int64 `json:"heldMillis"`
	// Automation says what would happen without a person.
	Automation string `json:"automation"`

	foreseen bool // Losses, LostLeast and LostMost were read
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
	if g.Ack.Sites > 1 && !share.Degraded {
		p.LostMost, p.LostLeast, p.Losses = 0, 0, nil
		p.Effects = append(p.Effects, fmt.Sprintf("nothing acknowledged is lost (ack.sites %d), if %d sites are heard", g.Ack.Sites, len(g.Sites)-g.Ack.Sites+1))
	} else {
		p.lost(share, next, view, behind)
	}
	p.Effects = append(p.Effects,
		"consumer groups read up to one commit interval again",
		fmt.Sprintf("nobody is served until %d gateways have confirmed and the leases of all others are over, which takes up to %s", len(p.Gateways), coordination.LeaseTTL+coordination.LeaseMargin),
		fmt.Sprintf("what is missing is listed by spillway failover-group history %s when it is over, and record by record by spillway unreplicated list once %s is back", p.Group, share.Active))
}

// foresee reads the sites for what may be lost.
func (p *Plan) foresee(ctx context.Context, o *Operator, g spillway.FailoverGroup, share failover.Share, target spillway.SiteID, view failover.View) {
	known, old, unread := o.forecast(ctx, g, share, target, view)
	p.Unread = unread
	if len(known.Order) == 0 {
		return // nothing is known of any survivor: all would look lost
	}
	p.Losses, p.LostLeast, p.LostMost = known.Losses(o.limits(g))
	p.foreseen = true
	if old != nil {
		old.count(ctx, p.Losses)
	}
}

// lost says what a failover may lose: partition by partition where that was read,
// else by the sums that the leases tell, which know nothing of single partitions.
func (p *Plan) lost(share, next failover.Share, view failover.View, behind string) {
	if p.foreseen {
		p.Effects = append(p.Effects, fmt.Sprintf("%s is not asked: of the records that were acknowledged there, up to %d in %d partitions may be missing (%s lacked %s)", share.Active, p.LostMost, len(p.Losses), next.Target, behind))
		if p.LostLeast > 0 {
			p.Effects = append(p.Effects, fmt.Sprintf("at least %d of them are missing, so it waits for a person unless --accept-loss is as much", p.LostLeast))
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
