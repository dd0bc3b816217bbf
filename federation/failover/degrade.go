package failover

import (
	"fmt"
	"strings"
	"time"

	"spillway"
)

// Degrade is the kind of a history record about a time in which producers were
// answered before as many sites held their records as the policy says.
const Degrade Kind = "degrade"

// ShortfallAfter is how long too few sites must have given durable marks before a
// share is degraded, and enough before it is restored, where the group does not say.
const ShortfallAfter = 10 * time.Second

// AckSites is how many sites must hold a record before its producer is answered.
func (s Share) AckSites(policy int) int {
	if s.Degraded && !s.Restoring {
		return min(1, policy)
	}
	return policy
}

// degraded begins a time of weaker acknowledgements. It is in the store before
// the first one, since gateways learn of it from there (C17).
func (s Share) degraded(view View, why string) Share {
	s.Degraded, s.Restoring, s.Restore = true, false, nil
	s.Degrades++
	s.DegradedEpoch = s.Epoch
	s.DegradedAt, s.DegradedWhy, s.DegradedEnd = view.Now, why, time.Time{}
	return s
}

// Shortfall counts the standbys that give durable marks, and have not lost what they gave
// marks for; short tells whether they
// are too few for the policy.
func Shortfall(share Share, view View, limits Limits) (missing []spillway.SiteID, short bool) {
	have := 0
	for _, s := range limits.Group.Sites {
		switch {
		case s == share.Active:
		case view.Sites[s].Marks && view.Sites[s].owed(share.State) == 0:
			have++
		default:
			missing = append(missing, s)
		}
	}
	return missing, have < limits.ackSites()-1
}

// acknowledging decides for how many sites the producers of a share wait that
// stands still. The way back has three steps, because each gateway learns of the
// record at another time: wait for all sites again (restoring); once every gateway
// must have read that, note where the log ends; and only when enough standbys have
// all below it, say that nothing acknowledged can be lost (C17).
func acknowledging(share Share, view View, limits Limits) (Share, []Action) {
	if limits.ackSites() == 1 {
		return share, nil
	}
	after := or(limits.Group.Ack.ShortfallAfter, ShortfallAfter)
	missing, short := Shortfall(share, view, limits)
	may, settled := limits.Group.Ack.OnShortfall == "degrade", view.MarksFor >= after
	next := share
	switch {
	case !share.Degraded && !short:
		return share, nil
	case !share.Degraded && !may:
		return wait(share, "producers wait: no durable marks from %s, ack.sites is %d", join(missing), limits.ackSites())
	case !share.Degraded && !settled:
		return wait(share, "producers wait: no durable marks from %s for %s, degraded after %s", join(missing), round(view.MarksFor), after)
	case !share.Degraded:
		next = share.degraded(view, fmt.Sprintf("no durable marks from %s for %s; producers are answered when 1 site has their records, not %d", join(missing), after, limits.ackSites()))
		return next, []Action{{Kind: Wait, Site: share.Active, Why: next.DegradedWhy}}
	case share.Restoring && short && may && settled:
		next.Restoring, next.Restore = false, nil
		return next, []Action{{Kind: Wait, Site: share.Active, Why: fmt.Sprintf("still degraded: no durable marks from %s again", join(missing))}}
	case !share.Restoring && may && (short || !settled):
		return wait(share, "degraded: no durable marks from %s", join(missing))
	case !share.Restoring:
		next.Restoring = true
		return next, []Action{{Kind: Wait, Site: share.Active, Why: fmt.Sprintf("producers wait for %d sites again; degraded until those have everything", limits.ackSites())}}
	case view.RestoringFor < limits.Lease:
		return wait(share, "degraded until every gateway waits for %d sites again", limits.ackSites())
	case share.Restore == nil && view.LogEnds == nil:
		return share, []Action{{Kind: ReadEnds, Site: share.Active, Why: "what was acknowledged by fewer sites lies below this end"}}
	case share.Restore == nil:
		next.Restore = view.LogEnds.Clone()
		return next, []Action{{Kind: Wait, Site: share.Active, Why: "degraded until the standbys have what was acknowledged meanwhile"}}
	}
	have, lack := 0, []spillway.SiteID{}
	for _, s := range limits.Group.Sites {
		if r := view.Sites[s].Report; s == share.Active {
			continue
		} else if r != nil && r.Restored == share.Degrades {
			have++
		} else {
			lack = append(lack, s)
		}
	}
	if have < limits.ackSites()-1 {
		return wait(share, "degraded until %s have what was acknowledged meanwhile", join(lack))
	}
	next.Degraded, next.Restoring, next.Restore, next.DegradedEnd = false, false, nil, view.Now
	return next, []Action{{Kind: Wait, Site: share.Active, Why: fmt.Sprintf("%d sites have everything that was acknowledged; degraded for %s", have+1, view.Now.Sub(share.DegradedAt).Round(time.Second))}}
}

// Acknowledgement says in words for whom producers wait; empty where that is what
// the policy says.
func (s Share) Acknowledgement(policy int) string {
	switch {
	case !s.Degraded || policy < 2:
		return ""
	case s.Restoring:
		return fmt.Sprintf("degraded since %s: producers wait for %d sites again, but not all that was acknowledged is there yet", s.DegradedAt.UTC().Format(time.RFC3339), policy)
	}
	return fmt.Sprintf("degraded since %s: producers are answered when 1 site has their records, not %d: %s", s.DegradedAt.UTC().Format(time.RFC3339), policy, strings.TrimSpace(s.DegradedWhy))
}
