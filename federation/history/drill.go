package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/federation/failover"
)

// Outcome is how a drill ended.
type Outcome string

// Outcomes. A drill that is refused has moved nothing, or not all that it was to move.
const (
	DrillPassed  Outcome = "passed"
	DrillFailed  Outcome = "failed"
	DrillRefused Outcome = "refused"
)

// Drill is the account of one rehearsal of a failover, and of the way back, as a client
// of the virtual cluster saw them.
type Drill struct {
	At      time.Time `json:"at"` // when it began
	Who     string    `json:"who"`
	Why     string    `json:"why,omitempty"`
	Outcome Outcome   `json:"outcome"`
	// Problems are why it did not pass, the first of them.
	Problems []string    `json:"problems,omitempty"`
	Moves    []DrillMove `json:"moves"`

	Sent  int64 `json:"sent"`
	Acked int64 `json:"acked"`
	// Unanswered were sent and neither acknowledged nor found to be missing.
	Unanswered int64 `json:"unanswered,omitempty"`
	Read       int64 `json:"read"`
	// Lost were acknowledged, and lie within what the failover announced as its loss.
	Lost int64 `json:"lost"`
}

// DrillMove is one move of a drill.
type DrillMove struct {
	Kind  failover.Kind   `json:"kind"`
	From  spillway.SiteID `json:"from"`
	To    spillway.SiteID `json:"to"`
	Epoch spillway.Epoch  `json:"epoch,omitempty"` // 0: it did not begin
	// TookMillis is from the request until the other site served.
	TookMillis int64 `json:"tookMillis"`
	// SilentMillis is the longest time in which a producer was told nothing about a
	// partition: what a client feels of the move.
	SilentMillis int64 `json:"silentMillis"`
}

// Bounds of what is kept of a group's drills, so that all of it fits in one entry.
const (
	DrillsMax     = 100
	problemsMax   = 10
	problemLength = 300
)

// Tell adds a problem, as long as there is room.
func (d *Drill) Tell(problem string) {
	if len(d.Problems) < problemsMax {
		d.Problems = append(d.Problems, Clip(problem, problemLength))
	}
}

// Clip cuts what a text has beyond some bytes, with the rest of a character, and marks it by " …".
func Clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

// Recovery is how long clients waited in the failover of a drill; false: there was none.
func (d Drill) Recovery() (time.Duration, bool) {
	for _, m := range d.Moves {
		if m.Kind == failover.Failover && m.Epoch > 0 {
			return time.Duration(m.SilentMillis) * time.Millisecond, true
		}
	}
	return 0, false
}

// WithDrill adds the newest account to those of a group, oldest first, and forgets the
// oldest beyond DrillsMax.
func WithDrill(drills []Drill, d Drill) []Drill {
	all := append(slices.Clone(drills), d)
	return all[max(0, len(all)-DrillsMax):]
}

// EncodeDrills and DecodeDrills are what the coordinator store keeps of a group.
func EncodeDrills(drills []Drill) []byte {
	b, err := json.Marshal(drills)
	if err != nil {
		panic(fmt.Sprintf("drills cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}

// DecodeDrills reads what EncodeDrills wrote.
func DecodeDrills(value []byte) (drills []Drill, err error) {
	if err := json.Unmarshal(value, &drills); err != nil {
		return nil, fmt.Errorf("the accounts of drills: %w", err)
	}
	return drills, nil
}

// LastPassed is the newest drill that passed; false: none did.
func LastPassed(drills []Drill) (Drill, bool) {
	for _, d := range slices.Backward(drills) {
		if d.Outcome == DrillPassed {
			return d, true
		}
	}
	return Drill{}, false
}

// DrillTarget is the site that a drill fails over to: the one to which that was done
// longest ago, or never.
func DrillTarget(drills []Drill, sites []spillway.SiteID, home spillway.SiteID) (spillway.SiteID, bool) {
	last := map[spillway.SiteID]int{}
	for i, d := range drills {
		for _, m := range d.Moves {
			if m.Kind == failover.Failover && m.Epoch > 0 {
				last[m.To] = i + 1
			}
		}
	}
	var best spillway.SiteID
	for _, s := range sites {
		if s != home && (best == "" || last[s] < last[best]) {
			best = s
		}
	}
	return best, best != ""
}
