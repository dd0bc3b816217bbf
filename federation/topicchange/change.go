package topicchange

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"spillway"
)

// Kind of a change.
type Kind string

// Kinds of changes.
const (
	Create Kind = "create"
	Grow   Kind = "grow"
)

// Change is what was asked for and is not done everywhere yet: the record in the store.
type Change struct {
	Kind  Kind   `json:"kind"`
	Topic string `json:"topic"`
	// ID is random: it tells a change from a later one of the same topic.
	ID string `json:"id"`
	// Partitions is how many the topic shall have; −1: the default of the site that serves.
	Partitions  int32             `json:"partitions"`
	Replication int16             `json:"replication,omitempty"` // of Create; −1: the site's default
	Configs     map[string]string `json:"configs,omitempty"`     // of Create
	// Shown is how many partitions clients see until all sites have grown.
	Shown int32     `json:"shown,omitempty"`
	Who   string    `json:"who"`
	Since time.Time `json:"since"`
}

// Decode reads a record.
func Decode(value []byte) (Change, error) {
	var c Change
	if err := json.Unmarshal(value, &c); err != nil {
		return c, fmt.Errorf("record of a topic's change: %w", err)
	}
	return c, nil
}

// Encode writes a record.
func (c Change) Encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("record of a topic's change cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}

// String is the change in a sentence.
func (c Change) String() string {
	switch {
	case c.Kind == Grow:
		return fmt.Sprintf("topic %s grows from %d to %d partitions", c.Topic, c.Shown, c.Partitions)
	case c.Partitions < 0:
		return fmt.Sprintf("topic %s is created", c.Topic)
	}
	return fmt.Sprintf("topic %s is created with %d partitions", c.Topic, c.Partitions)
}

// SiteView is what a site says of the topic.
type SiteView struct {
	Silent     string // why it did not answer; empty: it did
	Partitions int32  // 0: it has no such topic
}

// View is what is known when a step is chosen.
type View struct {
	Serves spillway.SiteID // "": the share moves
	Sites  map[spillway.SiteID]SiteView
}

// Do is what a step does.
type Do string

// Steps.
const (
	Wait     Do = "wait"
	CreateAt Do = "create"
	GrowAt   Do = "grow"
	Done     Do = "done"
)

// Step is what is to be done next, and why.
type Step struct {
	Do   Do
	Site spillway.SiteID
	Why  string
}

// Next chooses the step. sites are those of the failover group, in its order.
func Next(c Change, v View, sites []spillway.SiteID) Step {
	if v.Serves == "" {
		return Step{Do: Wait, Why: "its failover group moves to another site"}
	}
	home := v.Sites[v.Serves]
	if home.Silent != "" {
		return Step{Do: Wait, Site: v.Serves, Why: fmt.Sprintf("site %s, which serves it, does not answer: %s", v.Serves, home.Silent)}
	}
	if c.Kind == Create {
		if home.Partitions > 0 {
			return Step{Do: Done, Why: fmt.Sprintf("site %s has it; its mirrors create it elsewhere", v.Serves)}
		}
		return Step{Do: CreateAt, Site: v.Serves, Why: "it serves the failover group"}
	}
	if home.Partitions == 0 {
		return Step{Do: Done, Why: fmt.Sprintf("site %s has no such topic any more", v.Serves)}
	}
	for _, site := range sites {
		if s := v.Sites[site]; s.Silent != "" {
			return Step{Do: Wait, Site: site, Why: fmt.Sprintf("site %s does not answer: %s", site, s.Silent)}
		}
	}
	// Those that follow first (E). One that does not have the topic at all gets it from
	// its mirror, as large as it is then.
	follow := slices.DeleteFunc(slices.Clone(sites), func(s spillway.SiteID) bool { return s == v.Serves })
	for _, site := range append(follow, v.Serves) {
		if n := v.Sites[site].Partitions; n > 0 && n < c.Partitions {
			return Step{Do: GrowAt, Site: site, Why: fmt.Sprintf("it has %d of %d partitions", n, c.Partitions)}
		}
	}
	return Step{Do: Done, Why: fmt.Sprintf("all sites have %d partitions", c.Partitions)}
}
