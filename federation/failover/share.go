// Package failover decides how a share moves between sites. It is pure: no
// clock, no network, no store. The loop in federation/control observes, asks
// Step, and acts; the share record changes only by compare-and-set.
//
// Invariants, cited by letter in code and tests:
//
//	F1  at most one site serves a share in an epoch, and epochs only rise
//	F2  an epoch opens at a new site only after every gateway of the old epoch
//	    confirmed that it holds, or its lease ran out
//	F3  the same share, view and limits give the same decision
//	F4  every decision carries the sentence that explains it
//	F5  an epoch starts above everything that was ever handed out before it
package failover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"spillway"
)

// State of a share. STABLE is the only state in which nothing moves.
type State string

// The states in the order in which a move passes them.
const (
	Stable   State = "STABLE"
	Draining State = "DRAINING" // consumer groups settle; switchovers only
	Fencing  State = "FENCING"  // gateways hold and let in-flight produces finish
	Fenced   State = "FENCED"   // every gateway confirmed or lost its lease
	Cutover  State = "CUTOVER"  // cutover offsets are recorded
	CaughtUp State = "CAUGHT_UP"
	Open     State = "OPEN" // the new site serves
)

// Kind of a move.
type Kind string

// Kinds of moves.
const (
	Switchover Kind = "switchover" // planned: loses, repeats, reorders nothing
	Failover   Kind = "failover"   // unplanned: the old site is not asked
)

// PartitionOffsets maps topic → partition index → virtual offset. −1 means
// unknown.
type PartitionOffsets map[string][]spillway.Offset

// Get returns the offset of tp, or −1.
func (p PartitionOffsets) Get(tp spillway.TopicPartition) spillway.Offset {
	if offs := p[tp.Topic]; int(tp.Partition) < len(offs) && tp.Partition >= 0 {
		return offs[tp.Partition]
	}
	return -1
}

// Set stores the offset of tp, filling gaps with −1.
func (p PartitionOffsets) Set(tp spillway.TopicPartition, o spillway.Offset) {
	offs := p[tp.Topic]
	for int(tp.Partition) >= len(offs) {
		offs = append(offs, -1)
	}
	offs[tp.Partition] = o
	p[tp.Topic] = offs
}

// Term is one epoch in which a site served the share. The list of terms is
// kept for as long as producers or consumers may refer to them.
type Term struct {
	Epoch spillway.Epoch  `json:"epoch"`
	Site  spillway.SiteID `json:"site"`
	Mask  uint64          `json:"mask,string"` // XORed over client producer ids
	// Start is the first virtual offset of the epoch per partition; empty for
	// epoch 1, which starts at the group's offset base.
	Start PartitionOffsets `json:"start,omitempty"`
	// Verified is where the replicated records of the terms before end. For
	// a switchover it equals Start; after a failover [Verified, Start) is burnt.
	Verified PartitionOffsets `json:"verified,omitempty"`
	// Trimmed: Start and Verified are not here any more, but in the history of the
	// move that opened the term (see trim).
	Trimmed bool `json:"trimmed,omitempty"`
	Lossy   bool `json:"lossy,omitempty"` // opened by a failover
	// Continues: an aborted move gave the share back to the site of the term
	// before. Mask and numbering go on; there is no Start, nothing is frozen, and
	// no first contact.
	Continues bool `json:"continues,omitempty"`
}

// Bound is where the records of older terms end in a partition: what a site holds
// of them from there on was given up. False where the term cut nothing off: the
// first one, one that continues, and for partitions that are newer.
func (t Term) Bound(tp spillway.TopicPartition) (spillway.Offset, bool) {
	if v := t.Verified.Get(tp); v >= 0 {
		return v, true
	}
	// Reserved, so somebody may have written to it, but nobody who was heard had it.
	return 0, t.Start.Get(tp) >= 0
}

// Share is the record that decides, stored as JSON under
// spillway/<vc>/shares/<group>/<index>.
type Share struct {
	Group string `json:"group"`
	Index int    `json:"index"`
	State State  `json:"state"`
	// Epoch is the term in force while STABLE or OPEN, and the term being
	// opened in every other state.
	Epoch spillway.Epoch `json:"epoch"`
	// Active serves (STABLE, DRAINING, OPEN) or served last (all other states).
	Active spillway.SiteID `json:"active"`

	// Set while a move is under way. Kind, Who, Why, Started and Passages stay
	// until the next one begins and tell of the last.
	Target  spillway.SiteID `json:"target,omitempty"`
	Kind    Kind            `json:"kind,omitempty"`
	Who     string          `json:"who,omitempty"`
	Why     string          `json:"why,omitempty"`
	Started time.Time       `json:"started,omitzero"` // when the move was asked for
	Since   time.Time       `json:"since,omitzero"`   // when the state was entered
	WaitFor []WaitGateway   `json:"waitFor,omitempty"`
	// Undrained are gateways of which members of consumer groups did not pause in time.
	Undrained []spillway.GatewayID `json:"undrained,omitempty"`
	// Unended are those through which only transactions were open still.
	Unended []spillway.GatewayID `json:"unended,omitempty"`
	Cutover PartitionOffsets     `json:"cutover,omitempty"` // virtual log ends at the old site (switchover)
	// Prefix is the longest verified end at any survivor (failover), to which
	// the target is brought, and PrefixSite who has it, by partition.
	Prefix      PartitionOffsets             `json:"prefix,omitempty"`
	PrefixSite  map[string][]spillway.SiteID `json:"prefixSite,omitempty"`
	Start       PartitionOffsets             `json:"start,omitempty"`       // first virtual offset of the new epoch
	MapPosition map[spillway.SiteID]int64    `json:"mapPosition,omitempty"` // offset in the site's map topic that a gateway must have read
	Mask        uint64                       `json:"mask,string,omitempty"` // mask of the new term
	Fence       string                       `json:"fence,omitempty"`       // "acl" or "lease-only"
	Chosen      bool                         `json:"chosen,omitempty"`      // nobody named the target
	LossMax     int64                        `json:"lossMax,omitempty"`     // accepted by the person who asked, in records; −1: any
	Abort       string                       `json:"abort,omitempty"`       // who gives the move up, and why; the record stays until that is safe
	Automatic   bool                         `json:"automatic,omitempty"`   // nobody asked for this failover, so it may be given up and begun anew
	// Gone are the sites that went away while automation failed over, so that it gave
	// the failover up and begins anew: each once, unless it has been up for long since,
	// and then a person decides.
	Gone     []spillway.SiteID `json:"gone,omitempty"`
	Asking   string            `json:"asking,omitempty"`   // why a person must decide; empty if none must
	Passages []Passage         `json:"passages,omitempty"` // states that this move entered, oldest first

	// Terms, oldest first. The last one is in force, or was until the move.
	Terms []Term `json:"terms"`
	// Burnt is where what failovers gave up at the very beginning of a partition
	// ends: nothing lies below, so no map tells of it as of a hole.
	Burnt PartitionOffsets `json:"burnt,omitempty"`
	// Degraded is true while acknowledgements wait for fewer sites than the
	// policy says; written before the first weaker acknowledgement (C17).
	Degraded bool `json:"degraded,omitempty"`
	// Restoring: they wait for all again, but what was acknowledged before may not
	// be at the other sites yet, so the share is degraded still. Restore is where the
	// log ended once every gateway waited again; nil until then.
	Restoring bool             `json:"restoring,omitempty"`
	Restore   PartitionOffsets `json:"restore,omitempty"`
	// Degrades counts how often that began; the rest tells of the last time.
	Degrades    int       `json:"degrades,omitempty"`
	DegradedAt  time.Time `json:"degradedAt,omitzero"`
	DegradedEnd time.Time `json:"degradedEnd,omitzero"`
	DegradedWhy string    `json:"degradedWhy,omitempty"`
	// DegradedEpoch is the epoch in which it began.
	DegradedEpoch spillway.Epoch `json:"degradedEpoch,omitempty"`
	// Adoption: clients may go past the gateways, so nothing moves; nil: they do not.
	Adoption *Adoption `json:"adoption,omitempty"`
	// Failovers are when the last unplanned moves ended, oldest first (failoversKept), and
	// when automation gave one up. Nil:
	// a version wrote the record that did not keep them.
	Failovers []time.Time `json:"failovers,omitzero"`
}

// WaitGateway is one gateway that may still serve the old epoch, from the list
// of leases read after FENCING was written.
type WaitGateway struct {
	ID      spillway.GatewayID `json:"id"`
	Boot    string             `json:"boot"`           // random per process start
	Done    bool               `json:"done,omitempty"` // confirmed, or its lease ran out
	LeftOut string             `json:"leftOut,omitempty"`
}

// ID names the share.
func (s Share) ID() spillway.ShareID { return spillway.ShareID{Group: s.Group, Index: s.Index} }

// Term returns the term of an epoch.
func (s Share) Term(e spillway.Epoch) (Term, bool) {
	for _, t := range s.Terms {
		if t.Epoch == e {
			return t, true
		}
	}
	return Term{}, false
}

// Current returns the newest term that was opened.
func (s Share) Current() Term { return s.Terms[len(s.Terms)-1] }

// Serves tells whether clients of the share are served now, and where.
func (s Share) Serves() (spillway.SiteID, bool) {
	switch s.State {
	case Stable, Draining, Open:
		return s.Active, true
	default:
		return "", false
	}
}

// Next is the site that serves the share, or will once the move under way is over.
// An opening does not change it.
func (s Share) Next() spillway.SiteID {
	if _, serves := s.Serves(); serves || s.Target == "" || s.Abort != "" {
		return s.Active
	}
	return s.Target
}

// Keeps tells whether a later epoch has all that the term of an older one wrote
// below a virtual offset of tp, at the same offsets: no term between lost
// anything, and each that starts anew starts there or above.
func (s Share) Keeps(older, later spillway.Epoch, tp spillway.TopicPartition, below spillway.Offset) bool {
	known := older == later
	for _, t := range s.Terms {
		if t.Epoch <= older || t.Epoch > later {
			continue
		}
		known = known || t.Epoch == later
		if t.Lossy || !t.Continues && t.Start.Get(tp) < below {
			return false
		}
	}
	return known
}

// Loses tells whether something of the term may have been lost since, or is
// about to be: a failover away from it was begun.
func (s Share) Loses(term spillway.Epoch) bool {
	for _, t := range s.Terms {
		if t.Epoch > term && t.Lossy {
			return true
		}
	}
	_, served := s.Serves()
	return !served && s.Kind == Failover
}

// Decode reads a share record and refuses one that breaks its own rules.
func Decode(value []byte) (Share, error) {
	var s Share
	var err error
	if bytes.HasPrefix(value, []byte(packedMark)) {
		s, err = unpack(value)
	} else {
		err = json.Unmarshal(value, &s)
	}
	if err != nil {
		return Share{}, fmt.Errorf("share record: %w", err)
	}
	if len(s.Terms) == 0 || s.Epoch < 1 || s.Active == "" || s.Group == "" {
		return Share{}, fmt.Errorf("share record of %q: no terms, epoch or active site", s.Group)
	}
	for i := 1; i < len(s.Terms); i++ {
		if s.Terms[i].Epoch <= s.Terms[i-1].Epoch {
			return Share{}, fmt.Errorf("share record of %q: terms do not rise at epoch %d", s.Group, s.Terms[i].Epoch)
		}
	}
	return s, nil
}

// Encode writes a share record that is put alone, packed if it would be too large.
func (s Share) Encode() []byte { return s.within(putBytesMax) }

// EncodeBeside writes a share record that goes through a transaction with what is written
// beside it, packed if it would be too large.
func (s Share) EncodeBeside() []byte { return s.within(RecordBytesMax) }

func (s Share) within(most int) []byte {
	b := s.plain()
	if len(b) > most {
		if packed := s.pack(); packed != nil {
			return packed
		}
	}
	return b
}

// Same tells whether two records say the same. It costs less than to pack them.
func (s Share) Same(other Share) bool { return bytes.Equal(s.plain(), other.plain()) }

func (s Share) plain() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("share record of %q cannot be encoded: %v", s.Group, err)) // plain data, cannot happen
	}
	return b
}

// GatewayReport is a gateway's confirmation for one epoch of one share, stored
// under moves/<group>/<index>/<epoch>/gateway/<id>. It is rewritten as the
// gateway gets further.
type GatewayReport struct {
	Gateway spillway.GatewayID `json:"gateway"`
	Boot    string             `json:"boot"`
	// Drained: produces of the older epoch are answered or their connection is
	// dead, and nothing more is sent until the next epoch opens.
	Drained bool `json:"drained"`
	// Unsure: some produce had no answer when its connection died, so the log
	// end must be read twice, apart.
	Unsure bool `json:"unsure,omitempty"`
	// GroupsDrained: all members known to this gateway wait in JoinGroup, or commit in
	// transactions and were told, and no transaction that was begun through it is open.
	GroupsDrained bool `json:"groupsDrained,omitempty"`
	// MembersWait: the former, though not the latter.
	MembersWait bool `json:"membersWait,omitempty"`
	Opened      bool `json:"opened,omitempty"` // serves the new epoch
}

// SiteReport is what a site's mirror says about one epoch of one share, stored
// under moves/<group>/<index>/<epoch>/site/<site>.
type SiteReport struct {
	Site spillway.SiteID `json:"site"`
	// Stopped: the flow into this site is fenced; Ends are final until OPEN.
	Stopped bool `json:"stopped"`
	// Ends are the verified virtual ends at this site.
	Ends PartitionOffsets `json:"ends,omitempty"`
	// Opened: the epoch start is in this site's map at MapPosition (target only).
	Opened      bool  `json:"opened,omitempty"`
	MapPosition int64 `json:"mapPosition,omitempty"`
	// GroupsCopied: the last group commits are at this site (target only).
	GroupsCopied bool `json:"groupsCopied,omitempty"`
	Armed        bool `json:"armed,omitempty"` // ready to follow the new site
	// Hiding is that of Following as the site knew it once its logs were read back: the
	// target of a switchover does not open where it hides records of a compacted topic, nor
	// one of a failover that nobody named (C11).
	Hiding map[string]string `json:"hiding,omitempty"`
	// HidingMore is how many topics more hide some.
	HidingMore int `json:"hidingMore,omitempty"`
	// Owed is that of Following once the flow was stopped.
	Owed int `json:"owed,omitempty"`
	// Differs says that the log of the old site does not end at the cutover.
	Differs string `json:"differs,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Restored is the number of the degrade of which this site has everything.
	Restored int `json:"restored,omitempty"`
}
