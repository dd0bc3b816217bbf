package history

import (
	"fmt"
	"slices"
	"time"

	"spillway/federation/failover"
)

// Conditions decide for how long a move that begins now will hold clients.
type Conditions struct {
	Kind failover.Kind
	// Behind is how far the target of a switchover is behind, in time. What it lacks is
	// carried while consumer groups drain, and the rest while clients are held.
	Behind time.Duration
	// Leases is how long the last lease of a gateway that is not heard may still be in
	// force; 0: all are heard.
	Leases time.Duration
	// LeasesMost is the same where nobody has watched for long enough to know: a gateway
	// that is not heard may have died a moment ago, or last month.
	LeasesMost time.Duration
	// Answer is how long the coordinator store takes for one answer; 0: not measured.
	Answer time.Duration
}

const (
	// EarlierMax is how many of the latest moves of a kind count.
	EarlierMax = 9
	// answersHeld is how many answers of the store a move waits for one after the other
	// while clients are held: writes of states, confirmations and reads of both.
	answersHeld = 12
)

// Expect says for how long clients will be held, by what earlier moves of the group
// took, and if there were none, by how fast the store answers. known is false where
// neither is known.
func Expect(earlier []Record, c Conditions) (pause time.Duration, why string, known bool) {
	if c.Kind == failover.Switchover {
		pause, why, known = reckon(earlier, c, failover.Fencing, failover.Switchover)
		drain, _ := median(earlier, failover.Draining, failover.Fencing, failover.Switchover)
		if left := c.Behind - drain; known && left > 0 {
			pause += left
			why += fmt.Sprintf(", and %s for what the target lacks", left.Round(time.Millisecond))
			if drain > 0 {
				why += " when groups have drained"
			}
		}
		return pause, why, known
	}
	if c.Leases > 0 {
		// The gateways that are not heard are waited for, and what comes then is the
		// same for every move.
		pause, why, known = reckon(earlier, c, failover.Fenced, failover.Failover, failover.Switchover)
		return pause + c.Leases, why + fmt.Sprintf(", after %s for the leases of gateways that are not heard", c.Leases.Round(time.Millisecond)), known
	}
	if c.LeasesMost > 0 {
		pause, why, known = reckon(earlier, c, failover.Fenced, failover.Failover, failover.Switchover)
		return pause, why + fmt.Sprintf(", and before it up to %s for the leases of gateways that are not heard", c.LeasesMost.Round(time.Millisecond)), known
	}
	return reckon(earlier, c, failover.Fencing, failover.Failover, failover.Switchover)
}

// reckon is the median time from a state to OPEN of the latest moves of the first of
// the kinds of which there were some.
func reckon(earlier []Record, c Conditions, from failover.State, kinds ...failover.Kind) (time.Duration, string, bool) {
	for _, kind := range kinds {
		counted := earlier
		if from == failover.Fencing && c.Kind == failover.Failover {
			// Where a lease was waited for, the time until FENCED tells of that one.
			counted = slices.DeleteFunc(slices.Clone(earlier), Record.waitedForLeases)
		}
		took, n := median(counted, from, failover.Open, kind)
		if n == 0 {
			continue
		}
		moves := fmt.Sprintf("the median of the last %d %ss", n, kind)
		if n == 1 {
			moves = fmt.Sprintf("as the last %s", kind)
		}
		return took, moves, true
	}
	if c.Answer > 0 {
		return answersHeld * c.Answer, fmt.Sprintf("no earlier move was measured, so reckoned from %d answers of the coordinator store, %s each", answersHeld, c.Answer.Round(10*time.Microsecond)), true
	}
	return 0, "no earlier move was measured", false
}

// median is the middle of the times from a state to another one of the latest moves of a
// kind, and of how many of them that is.
func median(earlier []Record, from, to failover.State, kind failover.Kind) (middle time.Duration, n int) {
	var took []time.Duration
	for _, r := range earlier {
		if t, ok := r.between(from, to); ok && r.Kind == kind {
			took = append(took, t)
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	took = took[max(0, len(took)-EarlierMax):]
	slices.Sort(took)
	return took[len(took)/2], len(took)
}

// waitedForLeases tells whether a gateway was left out since its lease ran out.
func (r Record) waitedForLeases() bool {
	return slices.ContainsFunc(r.Gateways, func(g failover.WaitGateway) bool { return g.LeftOut != "" })
}
