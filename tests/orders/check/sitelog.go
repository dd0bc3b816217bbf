package check

import (
	"fmt"

	"spillway/tests/orders/history"
)

// Partition names one partition.
type Partition struct {
	Topic string
	Index int32
}

// String returns "topic-partition".
func (p Partition) String() string { return fmt.Sprintf("%s-%d", p.Topic, p.Index) }

// State of a record in a log.
type State uint8

// States of a record.
const (
	Visible   State = iota
	InAborted       // its transaction was aborted
	InOpen          // its transaction has no marker yet
)

// Record is one record of a site's log.
type Record struct {
	Offset int64 // local
	ID     history.ID
	Order  string
	Step   string
	After  []history.ID
	Key    uint64 // hash of the key
	Digest uint64 // hash of key, value, headers and timestamp
	State  State
	// ProducerID is what the batch header says; −1 for plain producers.
	ProducerID int64
	// Damage says what is wrong with the record's own bytes.
	Damage string
}

// Log is what one site holds of one partition: all data records, ascending.
type Log struct {
	Start, End int64 // local; End is the offset that the next record will get
	Records    []Record
}

// Site is what one site holds of the topics of the workload.
type Site struct {
	Name string
	Logs map[Partition]*Log
}

// Range is a range of offsets of one partition, [From, To).
type Range struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
}

func (r Range) has(p Partition, offset int64) bool {
	return r.Topic == p.Topic && r.Partition == p.Index && r.From <= offset && offset < r.To
}

// Expect is what the checker must be told beside history and logs.
type Expect struct {
	// Home is the site that serves at the end.
	Home string `json:"home"`
	// Behind names sites whose logs may lack records (down, or still catching
	// up). What they do hold is judged.
	Behind []string `json:"behind,omitempty"`
	// Losses are the ranges of virtual offsets that failovers announced.
	Losses []Range `json:"losses,omitempty"`
	// Hidden are, by site, the ranges of local offsets that the site shows to
	// nobody: unreplicated records beyond a cutover, foreign data.
	Hidden map[string][]Range `json:"hidden,omitempty"`
	// Compacted topics may lack records. Where another site has such a record
	// under the same key, a later one of that key must be there.
	Compacted []string `json:"compacted,omitempty"`
	// GroupsRepeat allows members of consumer groups to read again, at a
	// rebalance, what lies above their last acknowledged commit. Without it
	// only failovers allow that.
	GroupsRepeat bool `json:"groupsRepeat,omitempty"`
	// ClockSlackNanos is how far the clocks of clients may disagree.
	ClockSlackNanos int64 `json:"clockSlackNanos,omitempty"`
	// Rules judge what the application made of the records.
	Rules []Rule `json:"-"`
}

func (e *Expect) announced(p Partition, virtual int64) bool {
	for _, r := range e.Losses {
		if r.has(p, virtual) {
			return true
		}
	}
	return false
}

func (e *Expect) hidden(site string, p Partition, local int64) bool {
	for _, r := range e.Hidden[site] {
		if r.has(p, local) {
			return true
		}
	}
	return false
}
