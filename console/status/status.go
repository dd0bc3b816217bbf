// Package status says how a virtual cluster is: sites, failover groups and
// replication flows, worst news first, each with the sentence that explains it.
// It is pure: what was observed is passed in. The command line, the status page
// and the metrics all show this one answer.
package status

import (
	"time"

	"spillway"
)

// Level orders news. The worst level of its parts is that of the whole.
type Level int

// Levels, the best first.
const (
	Good Level = iota
	Attention
	Bad
)

// String names a level as the page and the command line show it.
func (l Level) String() string {
	return [...]string{"good", "attention", "bad"}[min(max(l, Good), Bad)]
}

// MarshalText makes a level readable in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *Level) UnmarshalText(text []byte) error {
	*l = Bad
	for _, known := range []Level{Good, Attention} {
		if known.String() == string(text) {
			*l = known
		}
	}
	return nil
}

// Status is the whole answer. Its JSON is the API of the console and of
// spillway status -o json; fields are only added.
type Status struct {
	VirtualCluster string      `json:"virtualCluster"`
	ClusterID      string      `json:"clusterID"`
	At             time.Time   `json:"at"`
	Level          Level       `json:"level"`
	News           []string    `json:"news"` // worst first; empty if all is well
	Coordinator    Coordinator `json:"coordinator"`
	Automation     Automation  `json:"automation"`
	Sites          []Site      `json:"sites"`  // worst first
	Groups         []Group     `json:"groups"` // worst first
	Flows          []Flow      `json:"flows"`  // worst first
}

// Coordinator is the shared store.
type Coordinator struct {
	Kind    string `json:"kind"` // consul or embedded
	Up      bool   `json:"up"`
	Problem string `json:"problem,omitempty"`
}

// Automation tells whether a failover may happen without a person.
type Automation struct {
	Paused bool   `json:"paused"`
	Who    string `json:"who,omitempty"`
	Why    string `json:"why,omitempty"`
}

// Site is one place.
type Site struct {
	Name     string   `json:"name"`
	Level    Level    `json:"level"`
	Why      string   `json:"why,omitempty"`
	Evidence string   `json:"evidence,omitempty"` // what was found where the site is not up, in full
	Witness  bool     `json:"witness,omitempty"`
	State    string   `json:"state"`             // up, degraded, down or unknown
	Drained  string   `json:"drained,omitempty"` // by whom and why; nothing moves there
	Active   []string `json:"active"`            // groups that it serves
	Gateways []string `json:"gateways"`          // that hold a lease
	Mirrors  []string `json:"mirrors"`           // that hold a lease
	Votes    []Vote   `json:"votes,omitempty"`
}

// Vote is what one place says about a site.
type Vote struct {
	Observer string  `json:"observer"`
	Verdict  string  `json:"verdict"`
	Evidence string  `json:"evidence,omitempty"`
	For      float64 `json:"forSeconds"` // how long it has been the same
}

// Group is one share of a failover group.
type Group struct {
	Name   string         `json:"name"`
	Index  int            `json:"index"`
	Level  Level          `json:"level"`
	Why    string         `json:"why,omitempty"`
	State  string         `json:"state"`
	Doing  string         `json:"doing"` // the state in words: who serves, or what clients wait for
	Epoch  spillway.Epoch `json:"epoch"`
	Active string         `json:"active"`
	Target string         `json:"target,omitempty"`
	Kind   string         `json:"kind,omitempty"`  // of the move under way
	Since  time.Time      `json:"since,omitzero"`  // when the state was entered
	Last   string         `json:"last,omitempty"`  // the last move in words, while none is under way
	Topics []string       `json:"topics"`          // patterns
	Fence  string         `json:"fence,omitempty"` // acl or lease-only
	// AckSites must hold a record before its producer is answered.
	AckSites int  `json:"ackSites"`
	Degraded bool `json:"degraded,omitempty"`
	// OnLag says what becomes of producers beyond LagMax and LagRecordsMax (0: no
	// limit): warn, throttle or block; empty where AckSites is above 1.
	OnLag         string    `json:"onLag,omitempty"`
	LagMax        float64   `json:"lagMaxSeconds,omitempty"`
	LagRecordsMax int64     `json:"lagRecordsMax,omitempty"`
	Lagging       []Lagging `json:"lagging,omitempty"` // the worst first; empty while nothing comes of it
	// Unreplicated records are held by the active site and at most partly by
	// any one standby; −1: unknown.
	Unreplicated int64 `json:"unreplicated"`
	LossMax      int64 `json:"lossMax"` // a failover that would lose more needs a person
	// Safe: losing the active site now would keep the group within LossMax.
	Safe  bool      `json:"safe"`
	Sites []Standby `json:"sites"` // preferred first
	// Adopting is why nothing moves and automatic failover is off while clients may go past
	// the gateways; empty: none are expected.
	Adopting string `json:"adopting,omitempty"`
	// Drill is how drills of the group go; nil: it is not there for drills.
	Drill *Drill `json:"drill,omitempty"`
}

// Drill is how the last drills of a group went.
type Drill struct {
	Every   float64   `json:"everySeconds"` // one that passes is expected so often
	At      time.Time `json:"at,omitzero"`  // of the last one
	Outcome string    `json:"outcome,omitempty"`
	Problem string    `json:"problem,omitempty"` // the first of it, if it did not pass
	// PassedAt is when the last one that passed began, Recovery for how long clients
	// waited in its failover, and Lost what they were told and is missing.
	PassedAt time.Time `json:"passedAt,omitzero"`
	Recovery float64   `json:"recoverySeconds"`
	Lost     int64     `json:"lost"`
	Overdue  bool      `json:"overdue"` // none has passed for twice as long as Every
}

// Lagging is what one gateway says about partitions of which the other sites lack more
// than the group allows, or nearly so many that producers are slowed down.
type Lagging struct {
	Gateway    string  `json:"gateway"`
	Partitions int     `json:"partitions"`
	Worst      string  `json:"worst"`
	Records    int64   `json:"records"` // of it that no other site has
	Seconds    float64 `json:"seconds"` // since the oldest of them was written
}

// Standby is what one site holds of a group.
type Standby struct {
	Site   string `json:"site"`
	Active bool   `json:"active"`
	Behind int64  `json:"behind"` // offsets that the active site has and this one lacks; −1: unknown
}

// Flow is the mirroring of a group from one site to another.
type Flow struct {
	Name       string  `json:"name"` // group:source→target
	Group      string  `json:"group"`
	Source     string  `json:"source"`
	Target     string  `json:"target"`
	Level      Level   `json:"level"`
	Why        string  `json:"why,omitempty"`
	Behind     int64   `json:"behind"`        // offsets; −1: unknown
	Lag        float64 `json:"lagSeconds"`    // since the target had everything, 0 while it has; −1: unknown
	Silent     float64 `json:"silentSeconds"` // since the mirror's last word; −1: it was never heard
	Partitions int     `json:"partitions"`
}
