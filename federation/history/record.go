// Package history is the account of moves: what each one was told to do, what had
// been foretold of it, and what it did. It is pure: records come from the loops in
// federation/control and from the coordinator store, and nobody changes them.
package history

import (
	"time"

	"spillway"
	"spillway/federation/failover"
)

// Record is the immutable account of one move, stored under history/. What was known
// when the move began, and what was found of its loss afterwards, have keys of their own
// under beside/, each written once, where nothing that decides reads; who asks for the
// history gets them with it.
type Record struct {
	Group   string          `json:"group"`
	Index   int             `json:"index"`
	Epoch   spillway.Epoch  `json:"epoch"` // that the move was to open
	Kind    failover.Kind   `json:"kind"`
	From    spillway.SiteID `json:"from"`
	To      spillway.SiteID `json:"to"`
	Who     string          `json:"who"`
	Why     string          `json:"why,omitempty"`
	Aborted string          `json:"aborted,omitempty"` // who gave it up, and why
	Fence   string          `json:"fence,omitempty"`

	Started  time.Time          `json:"started"`
	Ended    time.Time          `json:"ended"`
	Passages []failover.Passage `json:"passages"`
	// Held is the time from FENCING to OPEN by the clock of the loops that wrote
	// them, in milliseconds; −1 if the move did not get there.
	HeldMillis int64 `json:"heldMillis"`

	Gateways []failover.WaitGateway `json:"gateways,omitempty"`
	// Undrained are gateways of which members of consumer groups did not come in time:
	// these may have read records again.
	Undrained []spillway.GatewayID `json:"undrained,omitempty"`
	// Unended are those through which only transactions were open still, which the move
	// aborted. Nobody reads again because of them.
	Unended []spillway.GatewayID `json:"unended,omitempty"`
	// Verified is where what was carried over ends, for a switchover the cutover, and
	// Start where the new epoch begins: what lies between is burnt and holds at most
	// LostMost records.
	Verified   failover.PartitionOffsets    `json:"verified,omitempty"`
	Start      failover.PartitionOffsets    `json:"start,omitempty"`
	PrefixSite map[string][]spillway.SiteID `json:"prefixSite,omitempty"`
	LostMost   int64                        `json:"lostMost"`
	// Chunks is how many keys hold a record that is too large for one, Parts the id under
	// which they lie (empty: a version before wrote them, directly below the record), and
	// Sum what they add up to, so that nobody takes those of two writers for one.
	Chunks int    `json:"chunks,omitempty"`
	Parts  string `json:"parts,omitempty"`
	Sum    string `json:"sum,omitempty"`
	// Unread is why the rest of the record could not be read; empty: it is all here.
	Unread string `json:"unread,omitempty"`

	// Known is nil for moves that an older version began.
	Known *Known `json:"known,omitempty"`
	// Found tells by site what it alone had, once it had come back and was read.
	Found []Found `json:"found,omitempty"`
}

// Known is what was known when a move began, written right after the record that begins it.
type Known struct {
	At       time.Time  `json:"at"`
	Evidence []Evidence `json:"evidence"` // the sites of the group, preferred first
	Forecast Forecast   `json:"forecast"`
}

// Evidence is the verdict about one site, in words.
type Evidence struct {
	Site spillway.SiteID `json:"site"`
	Down bool            `json:"down,omitempty"`
	Why  string          `json:"why"`
}

// Forecast is what a dry run would have said right before the move.
type Forecast struct {
	// PauseMillis is for how long clients were expected to be held, and PauseWhy how
	// that was reckoned; −1: nothing was known to reckon with.
	PauseMillis int64  `json:"pauseMillis"`
	PauseWhy    string `json:"pauseWhy,omitempty"`
	// LostLeast and LostMost bound the loss in records; −1: unknown.
	LostLeast int64 `json:"lostLeast"`
	LostMost  int64 `json:"lostMost"`
	// Losses says it by partition, the first LossesMax of them; LossesMore are left out.
	Losses     []failover.Loss `json:"losses,omitempty"`
	LossesMore int             `json:"lossesMore,omitempty"`
	Behind     int64           `json:"behind"` // records that the target lacked; −1: unknown
	Reread     string          `json:"reread,omitempty"`
	Silent     []string        `json:"silent,omitempty"` // sites and gateways that were not heard
}

// LossesMax is how many partitions a forecast in the history lists: it is kept in one
// value.
const LossesMax = 200

// Found is what a site that was given up alone had: the exact loss.
type Found struct {
	Site spillway.SiteID `json:"site"`
	At   time.Time       `json:"at"` // when it was read
	// Records is how many there are as an export lists them, of all partitions; −1:
	// they could not be counted.
	Records int64 `json:"records"`
	// First and Last are the times of those records; zero: there are none, or they are
	// not known.
	First  time.Time `json:"first,omitzero"`
	Last   time.Time `json:"last,omitzero"`
	Ranges []Range   `json:"ranges,omitempty"` // the first RangesMax
	More   int       `json:"more,omitempty"`   // ranges that are left out
}

// RangesMax is how many ranges are kept of what was found; spillway unreplicated list
// has them all.
const RangesMax = 1000

// Range is a range of virtual offsets of one partition.
type Range struct {
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	From      spillway.Offset `json:"from"`
	To        spillway.Offset `json:"to"`
	Records   int64           `json:"records"` // −1: not counted
}

// Of tells of a move from the last record before it ended and the one that ends it.
// base is where the offsets of the group begin: no survivor may have known of a
// partition that was new.
func Of(last, next failover.Share, base spillway.Offset) Record {
	r := Record{
		Group: last.Group, Index: last.Index, Epoch: last.Epoch, Kind: last.Kind, To: last.Target, Who: last.Who, Why: last.Why,
		Fence: last.Fence, Started: last.Started, Ended: next.Since, Passages: next.Passages, HeldMillis: -1, Undrained: last.Undrained, Unended: last.Unended,
		Gateways: last.WaitFor, Start: last.Start, PrefixSite: last.PrefixSite, Verified: last.Cutover, From: last.Active,
	}
	if last.Kind == failover.Failover {
		r.Verified = last.Prefix
	}
	if last.State == failover.Open {
		if n := len(last.Terms); n > 1 {
			r.From = last.Terms[n-2].Site
		}
		if last.Kind == failover.Failover {
			r.Start.All(func(tp spillway.TopicPartition, o spillway.Offset) {
				r.LostMost += int64(max(0, o-max(r.Verified.Get(tp), base)))
			})
		}
	} else {
		r.Aborted = last.Abort
		if r.Aborted == "" && len(next.Passages) > 0 {
			r.Aborted = next.Passages[len(next.Passages)-1].Why
		}
	}
	if took, ok := r.between(failover.Fencing, failover.Open); ok {
		r.HeldMillis = took.Milliseconds()
	}
	return r
}

// between is the time from entering one state to entering another.
func (r Record) between(from, to failover.State) (time.Duration, bool) {
	var began, ended time.Time
	for _, p := range r.Passages {
		switch p.State {
		case from:
			began = p.At
		case to:
			ended = p.At
		}
	}
	return ended.Sub(began), !began.IsZero() && !ended.IsZero()
}

// Step is one state that a move was in.
type Step struct {
	State failover.State
	At    time.Time
	Took  time.Duration
	Why   string // it was entered
}

// Steps are the states that the move passed, oldest first, with the time it stayed in
// each. The last one is the state that ended it, in which it stays.
func (r Record) Steps() []Step {
	var steps []Step
	for i, p := range r.Passages {
		s := Step{State: p.State, At: p.At, Why: p.Why}
		if i+1 < len(r.Passages) {
			s.Took = r.Passages[i+1].At.Sub(p.At)
		}
		steps = append(steps, s)
	}
	return steps
}

// held is for how long clients were held, up to where the new site served or the move was
// given up; false if they were not held.
func (r Record) held() (time.Duration, bool) {
	if took, ok := r.between(failover.Fencing, failover.Open); ok {
		return took, true
	}
	return r.between(failover.Fencing, failover.Stable)
}

// Reread says what consumers have read again, as far as a record can tell: nobody counts it.
func (r Record) Reread() string {
	_, drained := r.between(failover.Draining, failover.Fencing)
	switch {
	case r.Kind == failover.Degrade || r.Aborted != "" && r.HeldMillis < 0 && !drained:
		return "nothing"
	case len(r.Undrained) > 0:
		return "members at " + names(r.Undrained) + " did not pause in time: up to one commit interval of each"
	case drained || r.Aborted != "":
		return "nothing"
	}
	return "not measured; at most one commit interval of each consumer group whose position the target had"
}

func names(ids []spillway.GatewayID) string {
	text := ""
	for i, id := range ids {
		if i > 0 {
			text += ", "
		}
		text += string(id)
	}
	return text
}
