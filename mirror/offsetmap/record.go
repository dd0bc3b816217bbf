package offsetmap

import "spillway"

// Range says that the Length records from Local on are, in this order, the
// records with the virtual offsets from Virtual on, written in Epoch.
type Range struct {
	Epoch   spillway.Epoch
	Virtual spillway.Offset
	Local   spillway.LocalOffset
	// Length in offsets; OpenEnd while the site itself gives offsets.
	Length int64
}

// OpenEnd is the Length of the range of the epoch that the site serves.
const OpenEnd = -1

// VirtualEnd is the virtual offset after the range. An open range has none.
func (r Range) VirtualEnd() spillway.Offset { return r.Virtual + spillway.Offset(r.Length) }

// LocalEnd is the local offset after the range. An open range has none.
func (r Range) LocalEnd() spillway.LocalOffset { return r.Local + spillway.LocalOffset(r.Length) }

// Record is what a map topic holds about one partition: *Chunk, Session,
// Verified, EpochStart or EpochEnd.
type Record interface{ record() }

// Chunk describes records that the mirror is about to write, in one piece, at
// First. It is saved before they are written. Saving a chunk also says that all
// that the same session saved before, up to the chunk's start, was verified.
type Chunk struct {
	Session  int64
	Worker   string
	First    spillway.LocalOffset
	Sequence int32 // of the record at First within the session; NoSequence in a chunk that a verification wrote
	Verified bool  // the records were read back before the chunk was saved
	Ranges   []Range
	Trail    []TrailEntry
	// Foretold of the records, the last ones, were not fetched yet when the chunk was
	// saved: they come if there is no hole before them.
	Foretold int64
}

// NoSequence marks a chunk that describes records of an older session.
const NoSequence = -1

// Count is the number of records that the chunk describes.
func (c *Chunk) Count() int64 {
	n := int64(0)
	for _, r := range c.Ranges {
		n += r.Length
	}
	return n
}

// Session claims the next append session of a partition, and, once Opened,
// says how far the log agreed with the map: everything from Local on that was
// saved before is void.
type Session struct {
	Session       int64  `json:"session"`
	Worker        string `json:"worker"`
	ProducerID    int64  `json:"producerID,string"`
	ProducerEpoch int16  `json:"producerEpoch"`
	Opened        bool   `json:"opened,omitempty"`
	// Epoch is the failover epoch that the log was compared with when a session
	// was opened last: what epochs up to it gave up is hidden.
	Epoch   spillway.Epoch       `json:"epoch,omitempty"`
	Local   spillway.LocalOffset `json:"local"`   // verified end in the site's numbers
	Virtual spillway.Offset      `json:"virtual"` // verified end in virtual offsets, holes included; −1 where nothing is known
	// Logs tell which log was opened.
	Logs Logs `json:"logs,omitzero"`
}

// Same tells whether both are of one worker's claim.
func (s Session) Same(o Session) bool { return s.Session == o.Session && s.Worker == o.Worker }

// Verified says that the log agrees with the map up to Local, and that all of
// the source up to Virtual is there, holes included.
type Verified struct {
	Session int64
	Local   spillway.LocalOffset
	Virtual spillway.Offset
	Source  SourcePosition // that Virtual stands for; its Site is empty where it is not known
}

// SourcePosition is where the mirror goes on reading: with the leader epoch of
// the batch before it, the source can tell later that it is another one now
// (C27).
type SourcePosition struct {
	Site        spillway.SiteID
	Next        spillway.LocalOffset
	LeaderEpoch int32
}

// EpochStart says that the site itself gives the offsets from Local on, as
// virtual offsets from Virtual on, until the EpochEnd.
type EpochStart struct {
	Epoch   spillway.Epoch       `json:"epoch"`
	Virtual spillway.Offset      `json:"virtual"`
	Local   spillway.LocalOffset `json:"local"`
	Mask    uint64               `json:"mask,string"` // XORed over client producer ids in this epoch
	Session int64                `json:"session"`     // chunks of this and older append sessions are void from here on
	// Had is the verified end when the epoch started. A fresh reader cannot always
	// tell: compaction takes what was verified before if something void was written
	// under the same key since.
	Had spillway.Offset `json:"had,omitempty"`
	// Worker wrote it. Another one may do so once more for the same epoch.
	Worker string `json:"worker,omitempty"`
}

// EpochEnd closes the range of an EpochStart. What lies behind it at the site
// is unreplicated and hidden.
type EpochEnd struct {
	Epoch   spillway.Epoch       `json:"epoch"`
	Virtual spillway.Offset      `json:"virtual"`
	Local   spillway.LocalOffset `json:"local"`
	// LogEnd is the site's log end when the epoch was closed: [Local, LogEnd)
	// are the unreplicated records.
	LogEnd    spillway.LocalOffset `json:"logEnd"`
	Discarded bool                 `json:"discarded,omitempty"` // a person gave the unreplicated records up
	Replayed  bool                 `json:"replayed,omitempty"`  // they were written again where the share was served
}

func (*Chunk) record()     {}
func (Session) record()    {}
func (Verified) record()   {}
func (EpochStart) record() {}
func (EpochEnd) record()   {}
