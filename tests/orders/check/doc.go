// Package check judges an order workload: it joins what clients were told (a
// history) with what the sites' logs hold (read by package sitelog with a
// client of its own), and names every anomaly with its evidence. It is pure,
// imports neither mirror nor gateway, and knows nothing of how they work: all
// it relies on are the payloads' ids and counters.
//
// Terms. The home site is the one that serves at the end; its visible records
// (committed, not in a hidden range) are the truth that everything else is
// compared with. An index is a record's rank among them, so offsets that hold
// no record never matter. Offsets in a history are virtual, those in logs local.
//
// What is not an anomaly: a record whose outcome was unsure may be there or
// not; records sent again by a producer without idempotence may be there twice
// or out of turn (Kafka's own retry risk; counted in Figures, and an anomaly
// all the same where two sites disagree about it); records acknowledged at an
// offset within an announced loss may be gone; members of a consumer group may
// read again after a failover.
package check

import "fmt"

// Kind of an anomaly.
type Kind string

// The anomalies.
const (
	// Lost: acknowledged or handed out, and not in the log; not announced.
	Lost Kind = "lost"
	// Duplicated: one record at two places of one log.
	Duplicated Kind = "duplicated"
	// Reordered: a producer's counters fall within a partition, or a site has
	// two records the other way round than the home site, or a reader got them
	// the other way round.
	Reordered Kind = "reordered"
	// Phantom: in a log or handed out, though nobody sent it, or certainly
	// failed, or aborted, or belongs into another partition.
	Phantom Kind = "phantom"
	// Skipped: a reader went past a record that it never got.
	Skipped Kind = "skipped"
	// ReRead: a reader got a record again that it was done with.
	ReRead Kind = "re-read"
	// Torn: something that is one is there in part: bytes that do not match
	// their sum or the other site's, or an atomic transaction half visible.
	Torn Kind = "torn"
	// EffectBeforeCause: a step is there, and the step it follows is not, or
	// stands behind it in the same partition; or a record was read before it
	// was sent.
	EffectBeforeCause Kind = "effect-before-cause"
	// Misplaced: acknowledged at another offset than where readers saw it, or
	// two records at one offset, or virtual offsets in another order than the log.
	Misplaced Kind = "misplaced"
	// Split: acknowledged by a site while that site did not serve.
	Split Kind = "split"
)

// Kinds lists the anomalies in the order of reports.
var Kinds = []Kind{Lost, Duplicated, Reordered, Phantom, Skipped, ReRead, Torn, EffectBeforeCause, Misplaced, Split}

// Promise is the letter of the promise that the anomaly breaks.
func (k Kind) Promise() string {
	switch k {
	case Split:
		return "A"
	case Lost:
		return "B"
	case Duplicated, Reordered, EffectBeforeCause:
		return "C"
	case Skipped, ReRead, Misplaced:
		return "D"
	default:
		return "E"
	}
}

// Finding is one anomaly with its evidence.
type Finding struct {
	Kind    Kind   `json:"kind"`
	Promise string `json:"promise"`
	// Site is where the log shows it; empty if a client saw it.
	Site      string `json:"site,omitempty"`
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition"`
	// Virtual and Local are the record's offsets as far as known, else −1.
	Virtual int64  `json:"virtual"`
	Local   int64  `json:"local"`
	Payload string `json:"payload,omitempty"`
	Client  string `json:"client,omitempty"`
	// Records that this finding stands for, when neighbours share it.
	Records int64  `json:"records"`
	Detail  string `json:"detail"`
}

// String is one line for people.
func (f Finding) String() string {
	s := fmt.Sprintf("%s (promise %s): %s-%d", f.Kind, f.Promise, f.Topic, f.Partition)
	if f.Virtual >= 0 {
		s += fmt.Sprintf(" offset %d", f.Virtual)
	}
	if f.Site != "" {
		s += " at " + f.Site
	}
	if f.Local >= 0 {
		s += fmt.Sprintf(" (local %d)", f.Local)
	}
	if f.Payload != "" {
		s += " " + f.Payload
	}
	if f.Client != "" {
		s += ", seen by " + f.Client
	}
	if f.Records > 1 {
		s += fmt.Sprintf(", %d records", f.Records)
	}
	return s + ": " + f.Detail
}
