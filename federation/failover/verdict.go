package failover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
)

// Judgement is what the votes about one site add up to.
type Judgement struct {
	Down bool // a quorum of observers at other sites found it dead
	// Suspected: somebody found it dead, but that is not enough.
	Suspected bool
	// For is for how long the quorum has agreed that it is down; of one that is suspected
	// how long somebody has found it dead, of one that is up how long nobody has.
	For   time.Duration
	Fresh int // votes that count
	Why   string
	// Evidence is the part of Why that an observer may put differently at each probe.
	Evidence string
}

// up: somebody voted, and nobody against it.
func (j Judgement) up() bool { return j.Fresh > 0 && !j.Down && !j.Suspected }

// Judge counts the fresh votes about a site. A site is down when a majority of
// all observers, at two or more other sites, say so, and no observer at the site
// itself says otherwise: if the site's own observer reaches it, it is cut off and
// not dead, and its gateways may still serve (C44).
func Judge(votes []Vote, about spillway.SiteID, observers []spillway.SiteID) Judgement {
	quorum := max(2, len(observers)/2+1)
	var down []Vote
	var own *Vote
	fresh, up := 0, time.Duration(0) // up: how long all have found it so
	for _, v := range votes {
		if v.About != about || !slices.Contains(observers, v.Observer) {
			continue
		}
		if fresh++; fresh == 1 || v.For < up {
			up = v.For
		}
		if v.Observer == about {
			own = &v
			continue
		}
		if v.Verdict == Down {
			down = append(down, v)
		}
	}
	j := Judgement{Fresh: fresh}
	slices.SortFunc(down, func(a, b Vote) int { return cmp.Or(cmp.Compare(b.For, a.For), cmp.Compare(a.Observer, b.Observer)) })
	switch {
	case len(down) == 0 && own != nil && own.Verdict == Down:
		j.Why = fmt.Sprintf("%s is down to its own observer only", about)
	case len(down) == 0:
		j.Why = fmt.Sprintf("%s is up: %d votes, none against it", about, fresh)
	case len(observers) < 3:
		j.Why = fmt.Sprintf("%s is down to %s, but %d observers are no quorum: a witness at a third place is missing", about, names(down), len(observers))
	case len(down) < quorum:
		j.Why = fmt.Sprintf("%s is down to %s: %d of %d votes that are needed", about, names(down), len(down), quorum)
	case own != nil && own.Verdict != Down:
		j.Why = fmt.Sprintf("%s is down to %s, but its own observer reaches it: it is cut off, not dead", about, names(down))
	default:
		j.Down, j.For = true, down[quorum-1].For
		j.Evidence = down[0].Evidence
		j.Why = fmt.Sprintf("%s is down to %s: %s", about, names(down), j.Evidence)
	}
	j.Suspected = !j.Down && (len(down) > 0 || own != nil && own.Verdict == Down)
	switch {
	case j.Suspected && len(down) > 0:
		j.For = down[0].For
	case j.Suspected:
		j.For = own.For
	case !j.Down:
		j.For = up
	}
	return j
}

func names(votes []Vote) string {
	var who []string
	for _, v := range votes {
		who = append(who, string(v.Observer))
	}
	return strings.Join(who, ", ")
}
