package topicchange

import (
	"encoding/json"
	"fmt"
	"time"

	"spillway"
)

// Change is a topic that was asked for and is not everywhere yet: the record in the store.
type Change struct {
	Topic string `json:"topic"`
	// ID is random: it tells a creation from a later one of the same topic.
	ID string `json:"id"`
	// Partitions and Replication are −1 for the default of the site that serves.
	Partitions  int32             `json:"partitions"`
	Replication int16             `json:"replication"`
	Configs     map[string]string `json:"configs,omitempty"`
	// Made is the site that had it when it served; empty: none yet. The client may be told
	// while that site serves.
	Made   spillway.SiteID `json:"made,omitempty"`
	MadeAt time.Time       `json:"madeAt,omitzero"`
	Who    string          `json:"who"`
	Since  time.Time       `json:"since"`
}

// Decode reads a record.
func Decode(value []byte) (Change, error) {
	var c Change
	if err := json.Unmarshal(value, &c); err != nil {
		return c, fmt.Errorf("record of a topic's creation: %w", err)
	}
	return c, nil
}

// Encode writes a record.
func (c Change) Encode() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("record of a topic's creation cannot be encoded: %v", err)) // plain data, cannot happen
	}
	return b
}

// String is the change in a sentence.
func (c Change) String() string {
	if c.Partitions < 0 {
		return fmt.Sprintf("topic %s is created", c.Topic)
	}
	return fmt.Sprintf("topic %s is created with %d partitions", c.Topic, c.Partitions)
}

// SiteView is what a site says of the topic.
type SiteView struct {
	Silent     string // why it did not answer; empty: it did
	Partitions int32  // 0: it has no such topic
}

// Do is what a step does.
type Do string

// Steps.
const (
	Wait   Do = "wait"
	Create Do = "create"
	Tell   Do = "tell" // the record that the site has it
	Follow Do = "follow"
	Done   Do = "done"
)

// Next chooses the step, and says why. serves is the site that serves the group, empty
// while it moves, and home what it says.
func Next(c Change, serves spillway.SiteID, home SiteView) (Do, string) {
	switch {
	case serves == "":
		return Wait, "its failover group moves to another site"
	case home.Silent != "":
		return Wait, fmt.Sprintf("site %s, which serves it, does not answer: %s", serves, home.Silent)
	case home.Partitions == 0 && c.Made == serves:
		return Done, fmt.Sprintf("it was deleted at site %s since", serves)
	case home.Partitions == 0:
		return Create, fmt.Sprintf("site %s serves the failover group", serves)
	case c.Made != serves: // none has made it yet, or another one that served before
		return Tell, fmt.Sprintf("site %s has it", serves)
	}
	return Follow, fmt.Sprintf("site %s has it; its mirrors create it elsewhere", serves)
}
