package failover

import (
	"time"

	"spillway"
)

// Loss is what a failover may leave behind of one partition, as far as anybody can
// know before it. Offsets are virtual.
type Loss struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Site has the longest verified prefix among those that were read; empty: none of
	// them has any of it.
	Site spillway.SiteID `json:"site,omitempty"`
	From spillway.Offset `json:"from"` // below it nothing is lost
	// To is where the loss ends at most: nothing at or above it was acknowledged or
	// shown, nor is it in the log where that could be read.
	To spillway.Offset `json:"to"`
	// LogEnd is where the log of the old site ended when it was read; −1 if it was not.
	LogEnd spillway.Offset `json:"logEnd"`
	// Records is how many the old site had from From on when it was read; −1: not known.
	Records int64 `json:"records"`
	// First and Last are the times of those records; zero: not known.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Kept is the time of the last record that Site has: what was written after it may be
	// missing; zero: not known.
	Kept time.Time `json:"kept,omitzero"`
}

// Known is what was read before a failover that nobody has begun.
type Known struct {
	Order    []spillway.SiteID // survivors that were read, the target first
	Ends     map[spillway.SiteID]PartitionOffsets
	Reserved PartitionOffsets
	LogEnds  PartitionOffsets // of the old site; empty where it does not answer
}

// Losses lists the partitions of which something may be lost, and between how many
// and how many records in all, as Step will count them.
func (k Known) Losses(limits Limits) (losses []Loss, least, most int64) {
	prefix, at := longest(k.Order, k.Ends)
	all := above(above(prefix, k.Reserved), k.LogEnds)
	all.All(func(tp spillway.TopicPartition, to spillway.Offset) {
		l := Loss{Topic: tp.Topic, Partition: tp.Partition, From: max(prefix.Get(tp), limits.Group.OffsetBase), To: to, LogEnd: k.LogEnds.Get(tp), Records: -1}
		if sites := at[tp.Topic]; int(tp.Partition) < len(sites) {
			l.Site = sites[tp.Partition]
		}
		if l.To <= l.From {
			return
		}
		if l.LogEnd >= 0 && l.LogEnd <= l.From {
			l.Records = 0
		}
		losses = append(losses, l)
	})
	least, most = lossBetween(prefix, k.Reserved, limits.Group.OffsetBase, limits.Group.ReservedBlock)
	return losses, least, most
}
