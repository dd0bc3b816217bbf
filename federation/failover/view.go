package failover

import (
	"slices"
	"strings"
	"time"

	"spillway"
)

// View is what a loop knows when it asks Step: all of it read after the share
// record at hand was read, so nothing in it is older than the record.
type View struct {
	Now time.Time // wall clock, for the record only; nothing is decided by it
	// InState is how long this loop has seen the share in its present state, and
	// Held how long it has seen the gateways hold.
	InState, Held time.Duration
	// Gateways that may serve the share: those whose leases were read after the
	// record, and those that the record names.
	Gateways []GatewayView
	// Unseen is how long a gateway that this loop never saw may still serve: its
	// lease was deleted before this loop read the leases for the first time. 0 once
	// a full lease has passed since (C30).
	Unseen time.Duration
	Sites  map[spillway.SiteID]SiteView

	// MarksFor is how long enough standbys, or too few, have given durable marks.
	MarksFor time.Duration
	// RestoringFor is how long this loop has known that the share is restoring.
	RestoringFor time.Duration

	// LogEnds are the virtual log ends at the active site, read after every
	// gateway was done and after the fence (or, to end a degrade, after all wait
	// for enough sites again); nil until then.
	LogEnds PartitionOffsets
	// OnlyAtTarget is where the partitions begin that the target has and the active
	// site has not, read with the log ends.
	OnlyAtTarget PartitionOffsets
	// Fence says how writes to the active site are fenced: "acl", "lease-only", or
	// "" while that is not settled.
	Fence string
	// Allowed: the gateways may write at the target; when a move is given up, and
	// while the share stands still, at the active site. True where nothing is ever
	// denied.
	Allowed bool
	// Reserved are the reserved ends, read after every gateway was done; nil
	// until then. A share that was never produced to has an empty map.
	Reserved PartitionOffsets

	// Direct is what the last look for clients past the gateways has found, since the share
	// has stood still; nil: there was none yet.
	Direct *DirectView

	Automation Automation
	// SinceMove is the time since the last move ended, and FailoversLastHour how
	// many unplanned ones there were. ClockAhead is how far the record's time of that
	// end lies ahead of this loop's clock, where it has to go by it.
	SinceMove         time.Duration
	ClockAhead        time.Duration
	FailoversLastHour int
	Adopting          bool   // a live loop has a configuration that says so
	NewMask           uint64 // 61 random bits for a term that begins now
}

// GatewayView is one gateway process as the loop sees it.
type GatewayView struct {
	ID      spillway.GatewayID
	Boot    string
	Over    bool          // its lease is over: it serves nothing
	Leaving bool          // it said that it serves nothing any more
	Left    time.Duration // how long until Over may become true
	OverFor time.Duration // how long its lease has been over
	Report  *GatewayReport
}

// PastAfter is how long the lease of a gateway must have been over until nothing
// that it sent can be under way any more.
const PastAfter = 30 * time.Second

// past: it ended so long ago that it has no part in this move.
func (g GatewayView) past() bool { return g.Over && g.OverFor >= PastAfter }

// SiteView is one site as the loop sees it.
type SiteView struct {
	Judgement Judgement
	Mirror    bool          // a mirror worker's lease is alive
	Mute      time.Duration // for how long this loop has seen that none is; 0: one is
	Shared    bool          // several mirror processes were heard there lately
	Marks     bool          // it follows the active site and gives durable marks
	Drained   *Drained      // nil: it is not
	Following *Following
	Report    *SiteReport // for the epoch of the share record
}

// owed is how many partitions began anew at the site and do not have yet all that they had. In
// a move it has stopped following and read its logs back; what it said of that stays, and
// is old once the share is served again.
func (s SiteView) owed(state State) int {
	stopped := state == Fenced || state == Cutover || state == CaughtUp
	switch {
	case stopped && s.Report != nil && s.Report.Stopped:
		return s.Report.Owed
	case s.Following != nil:
		return s.Following.Owed
	}
	return 0
}

// Limits bound what Step may decide. Durations of 0 mean the default.
type Limits struct {
	Group     spillway.FailoverGroup
	Observers []spillway.SiteID // sites that vote, a witness included
	HoldDown  time.Duration     // after a move: no unplanned one for so long
	HearSites time.Duration     // how long a failover waits for survivors beside the target
	// HearShared is the same for those where several mirror processes are: one that hangs
	// has to be put out before the site can tell its ends.
	HearShared time.Duration
	ArmWait    time.Duration // how long OPEN waits for the flows from the new site
	SettleMax  time.Duration // how long OPEN waits before it becomes STABLE
	Lease      time.Duration // after it every gateway that serves has read the records again
}

// Defaults of Limits and of the policies of a group.
const (
	HoldDown  = 30 * time.Second
	HearSites = 2 * time.Second
	// A mirror process that hangs is put out after 5 s, and the writer lease of one that
	// leads is over then; the ends have to be read back after that.
	HearShared = 8 * time.Second
	ArmWait    = time.Second
	SettleMax  = 10 * time.Second
	HoldMax    = 8 * time.Second
)

func or(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}

// HoldBudget is when a switchover gives up: early enough that held requests
// still go on in order at the old site (C29).
func (l Limits) HoldBudget() time.Duration {
	hold := or(l.Group.HoldMax, HoldMax)
	return hold - min(hold/4, time.Second)
}

// hear is how long a failover waits for silent survivors: what a site has and did not
// tell is lost, though it lives (promise B).
func (l Limits) hear(view View, silent []spillway.SiteID) time.Duration {
	for _, s := range silent {
		if view.Sites[s].Shared {
			return max(or(l.HearSites, HearSites), or(l.HearShared, HearShared))
		}
	}
	return or(l.HearSites, HearSites)
}

// ackSites is how many sites must hold a record before it is acknowledged.
func (l Limits) ackSites() int { return max(1, l.Group.Ack.Sites) }

// ActionKind says what a loop shall do. Each may be done twice.
type ActionKind string

// Kinds of actions.
const (
	Wait     ActionKind = "wait"      // nothing but looking again
	Fence    ActionKind = "fence"     // deny the gateways to write at Site, and probe it
	Allow    ActionKind = "allow"     // let the gateways write at Site
	ReadEnds ActionKind = "read-ends" // read the log ends at Site; Twice: apart, until they stay
	Ask      ActionKind = "ask"       // a person must decide
)

// Action is one thing to do, and the sentence that says why (F4).
type Action struct {
	Kind  ActionKind
	Site  spillway.SiteID
	Twice bool
	Why   string
}

// Request is what a person, or the loop itself, asks for.
type Request struct {
	Kind    Kind
	Target  spillway.SiteID // empty for a failover: the best survivor
	Who     string
	Why     string
	LossMax int64 // accepted, in records; −1: any
	// BehindMax is how far the target of a switchover may be behind; 0: BehindMax.
	BehindMax time.Duration
	// Chosen is why Target was taken and not the site that is preferred, if nobody named it.
	Chosen string
	// Unnamed: nobody named Target, so another site may take its place (elsewhere).
	Unnamed bool
	// Automatic: nobody asks, the loop does.
	Automatic bool
}

// WaitInfoKey tells reasons apart without their numbers, so that a loop says
// once what it waits for.
type WaitInfoKey struct {
	State State
	Epoch spillway.Epoch
	Kind  ActionKind
	Site  spillway.SiteID
	Text  string
}

// KeyOf makes the key of an action's reason.
func KeyOf(s Share, a Action) WaitInfoKey {
	words := strings.FieldsFunc(a.Why, func(r rune) bool { return r == ' ' || r == '(' || r == ')' })
	words = slices.DeleteFunc(words, func(w string) bool { return strings.ContainsAny(w, "0123456789") })
	return WaitInfoKey{State: s.State, Epoch: s.Epoch, Kind: a.Kind, Site: a.Site, Text: strings.Join(words, " ")}
}
