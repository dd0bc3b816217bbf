package failover

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"spillway"
)

// MirrorLease is what a site's mirror worker writes about once a second under
// spillway/<vc>/mirrors/<site>/<worker>. Gateways find the mark stream here.
type MirrorLease struct {
	Site   spillway.SiteID `json:"site"`
	Worker string          `json:"worker"`
	Boot   string          `json:"boot"` // random per process start
	// Marks is the address of the mark stream: "http://host:port/marks".
	Marks     string               `json:"marks,omitempty"`
	Following map[string]Following `json:"following,omitempty"` // by share, "group/index"
	// Waits: another mirror process of the site has the writer lease, or may still
	// have it. This one does nothing of what moves ask, and says of shares only what it
	// carries for that one.
	Waits bool `json:"waits,omitempty"`
	// Carries is what a process that waits has of each share while it stands still:
	// Epoch, Source, Partitions, CatchingUp, LagSeconds and what tells of transactions count.
	Carries map[string]Following `json:"carries,omitempty"`
	Beat    uint64               `json:"beat"` // rises with every renewal
}

// Beside is what the process that leads a site says, with what others carry.
func (l MirrorLease) Beside(others ...MirrorLease) MirrorLease {
	said := maps.Clone(l.Following)
	for share := range said {
		said[share], _ = l.FollowingBeside(share, others...)
	}
	l.Following = said
	return l
}

// FollowingBeside is what the process that leads a site says of one share, with what others
// carry of it: the site is behind by what any of them is. It is catching up while nobody
// says of a partition that another process has that he carries it: how far that one is,
// is not known. It changes nothing of the leases.
func (l MirrorLease) FollowingBeside(share string, others ...MirrorLease) (Following, bool) {
	f, ok := l.Following[share]
	if !ok || l.Waits {
		return f, ok
	}
	carried := 0
	for _, other := range others {
		part, ok := other.Carries[share]
		if !ok || !other.Waits || other.Site != l.Site || part.Epoch != f.Epoch || part.Source != f.Source || part.Partitions == 0 {
			continue
		}
		carried += part.Partitions
		f.LagSeconds, f.CatchingUp = max(f.LagSeconds, part.LagSeconds), f.CatchingUp || part.CatchingUp
		if f.Hanging += part.Hanging; part.HeldBackSeconds > f.HeldBackSeconds {
			f.HeldBackSeconds, f.HeldBackBy = part.HeldBackSeconds, part.HeldBackBy
		}
		if part.GroupSeconds > f.GroupSeconds {
			f.GroupSeconds, f.GroupBehind = part.GroupSeconds, part.GroupBehind
		}
	}
	f.CatchingUp = f.CatchingUp || carried < f.Elsewhere
	return f, true
}

// Following tells how far a site is with one share. It is for people and for
// choosing a target; decisions about offsets read SiteReport.
type Following struct {
	Epoch  spillway.Epoch  `json:"epoch"`
	Source spillway.SiteID `json:"source,omitempty"` // empty: this site is active
	// EndSum adds up the verified virtual ends over Partitions, so that the
	// difference between two sites is the lag in offsets.
	EndSum     int64 `json:"endSum"`
	Partitions int   `json:"partitions"`
	// Elsewhere is how many of them other mirror processes of the site have.
	Elsewhere int `json:"elsewhere,omitempty"`
	// LagSeconds: since when the site may lack what the active one has and open
	// transactions do not hold back.
	LagSeconds float64 `json:"lagSeconds,omitempty"`
	// HeldBackSeconds is for how long transactions have held back the same records of a
	// partition, the longest, HeldBackBy which and whose, and Hanging of how many
	// partitions they have done so for longer than mirror.transactionWait.
	HeldBackSeconds float64 `json:"heldBackSeconds,omitempty"`
	HeldBackBy      string  `json:"heldBackBy,omitempty"`
	Hanging         int     `json:"hanging,omitempty"`
	// GroupSeconds is for how long a consumer group has not been carried, the longest, and
	// GroupBehind which one and why.
	GroupSeconds float64 `json:"groupSeconds,omitempty"`
	GroupBehind  string  `json:"groupBehind,omitempty"`
	// CatchingUp: since it began to follow Source, it never had everything.
	CatchingUp bool `json:"catchingUp,omitempty"`
	// Owed is how many partitions began anew at the site and do not have yet all that they
	// had before: it may lack what was acknowledged because it was there.
	Owed int `json:"owed,omitempty"`
	// OnlyHere are topics of the group that this site has and the active one has not;
	// some of them if there are many.
	OnlyHere []string `json:"onlyHere,omitempty"`
	Problem  string   `json:"problem,omitempty"` // why it does not follow
	// SourceProblem is why nothing can be had from Source: a switchover to this
	// site would hold clients until it is over; a failover does not need it.
	SourceProblem string `json:"sourceProblem,omitempty"`
	// Compacted are the share's topics whose records this site's log cleaner
	// removes.
	Compacted []string `json:"compacted,omitempty"`
	// CompactedMore is how many of them are not told.
	CompactedMore int `json:"compactedMore,omitempty"`
	// Hiding are those of its topics in whose log here records are hidden behind others
	// that clients see, and says of each what: a cleaner takes them for the newest of their
	// keys (C11). Those are among them of which deletions may have been missed (late, C15).
	// nil: it is not known, and not that there are none.
	Hiding map[string]string `json:"hiding,omitzero"`
	// HidingMore is how many of them are not told.
	HidingMore int `json:"hidingMore,omitempty"`
}

// GroupLate is for how long a consumer group may fail to be carried until a switchover is
// refused and people are told: its last copy would fail too.
const GroupLate = 10 * time.Second

// GroupsLate says which consumer group is not carried, and since when; "" if all are.
func (f Following) GroupsLate() string {
	if f.GroupSeconds < GroupLate.Seconds() {
		return ""
	}
	return fmt.Sprintf("positions of consumer groups have not been carried for %s: %s", time.Duration(f.GroupSeconds*float64(time.Second)).Round(time.Second), f.GroupBehind)
}

// HeldBack says what open transactions hold back for longer than a switchover waits for
// them: while groups drain, and then no longer than for any lag; "" if nothing. Whose they
// are is not asked. Those of the group a switchover ends, but not those of others, nor
// those that no coordinator knows any more.
func (f Following) HeldBack(g spillway.FailoverGroup, behindMax time.Duration) string {
	switch most := g.GroupDrain + behindMax; {
	case f.Hanging > 0:
		return fmt.Sprintf("open transactions hold records back in %d partitions, for %.1f s the longest: %s", f.Hanging, f.HeldBackSeconds, f.HeldBackBy)
	case f.HeldBackSeconds > most.Seconds():
		return fmt.Sprintf("an open transaction has held records back for %.1f s, at most %s: %s", f.HeldBackSeconds, most, f.HeldBackBy)
	}
	return ""
}

// Verdict is what an observer says about a site.
type Verdict string

// Verdicts. A site is degraded while it answers but cannot take all writes.
const (
	Up       Verdict = "up"
	Degraded Verdict = "degraded"
	Down     Verdict = "down"
)

// Ballot is what one observer says about all sites, stored under
// spillway/<vc>/ballots/<observer site> and rewritten like a lease: one key for each
// observer, since each write of it wakes everybody who watches.
type Ballot struct {
	Votes []Vote `json:"votes"` // of sites that were probed lately
	Beat  uint64 `json:"beat"`  // rises with every write
	// Adopting are the failover groups that the observer's configuration says are adopting.
	Adopting []string `json:"adopting,omitempty"`
}

// Vote is one observer's verdict about one site.
type Vote struct {
	About    spillway.SiteID `json:"about"`
	Observer spillway.SiteID `json:"observer"` // the site at which the observer runs
	Verdict  Verdict         `json:"verdict"`
	Evidence string          `json:"evidence"` // one sentence
	// For is how long the verdict has been the same, by the observer's clock.
	For time.Duration `json:"for"`
}

// Automation tells whether failovers may happen without a person.
type Automation struct {
	Paused bool      `json:"paused"`
	Who    string    `json:"who,omitempty"`
	Why    string    `json:"why,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// Drained marks a site that a person takes out of service, stored under
// spillway/<vc>/drained/<site>. It goes on as a standby, but no share moves there
// unless a failover names it.
type Drained struct {
	Who string    `json:"who"`
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
}

// String says it as in "the site is …".
func (d Drained) String() string {
	return strings.TrimSuffix(fmt.Sprintf("drained by %s: %s", d.Who, d.Why), ": ")
}

// AuditEntry says who changed what, and why.
type AuditEntry struct {
	At   time.Time `json:"at"`
	Who  string    `json:"who"`
	What string    `json:"what"`
	Why  string    `json:"why,omitempty"`
	// Client: a client of a gateway did it. These are under Keys.ClientAudits, and the control
	// loops keep the newest (StaleClientAudits).
	Client bool `json:"client,omitempty"`
}

// Passage is one state that a move entered.
type Passage struct {
	State State     `json:"state"`
	At    time.Time `json:"at"` // by the clock of the loop that wrote it
	Why   string    `json:"why"`
}
