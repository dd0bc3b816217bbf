package mirror

import (
	"context"
	"errors"

	"spillway"
	"spillway/mirror/maptopic"
)

// UnreplicatedRange are offsets of this site that no other site got before the
// epoch was closed. Not every offset holds a record: markers and aborted
// records count too.
type UnreplicatedRange struct {
	Site      spillway.SiteID      `json:"site"`
	Topic     string               `json:"topic"`
	Partition int32                `json:"partition"`
	Epoch     spillway.Epoch       `json:"epoch"` // in which they were written
	From      spillway.Offset      `json:"from"`  // virtual
	To        spillway.Offset      `json:"to"`    // virtual, after the last
	LocalFrom spillway.LocalOffset `json:"localFrom"`
	LocalTo   spillway.LocalOffset `json:"localTo"`
	// Mirrored: this site did not serve the epoch, it had got the records from
	// the one that did. That one lists the same virtual offsets once it is back.
	Mirrored bool `json:"mirrored,omitempty"`
	// What a person decided: they were given up, or written again where the share
	// was served. Neither: the range is open.
	Discarded bool `json:"discarded,omitempty"`
	Replayed  bool `json:"replayed,omitempty"`
}

// Open tells whether nobody has decided yet what becomes of the range.
func (r UnreplicatedRange) Open() bool { return !r.Discarded && !r.Replayed }

// Outcome in a word.
func (r UnreplicatedRange) Outcome() string {
	switch {
	case r.Replayed:
		return "replayed"
	case r.Discarded:
		return "discarded"
	default:
		return "open"
	}
}

// Unreplicated lists what this site holds beyond the ends of the share's epochs,
// as the one that served them or as a standby that a failover did not hear;
// ranges that are not open any more included.
func (m *Mirror) Unreplicated(ctx context.Context, id spillway.ShareID) ([]UnreplicatedRange, error) {
	a, err := m.assignment(id)
	if err != nil {
		return nil, err
	}
	if err := m.reader.CaughtUp(ctx); err != nil {
		return nil, err
	}
	var ranges []UnreplicatedRange
	overhangs := m.overhangs()
	for _, tp := range m.reader.Partitions() {
		if a.has(tp) {
			ranges = append(append(ranges, overhangs[tp]...), m.ownBeyond(tp)...)
		}
	}
	return ranges, nil
}

// ownBeyond are the ranges of epochs that this site served.
func (m *Mirror) ownBeyond(tp spillway.TopicPartition) (ranges []UnreplicatedRange) {
	for _, e := range m.reader.View(tp).Ends() {
		if e.Local < e.LogEnd {
			ranges = append(ranges, UnreplicatedRange{Site: m.site, Topic: tp.Topic, Partition: tp.Partition, Epoch: e.Epoch,
				From: e.Virtual, To: e.Virtual + spillway.Offset(e.LogEnd-e.Local), LocalFrom: e.Local, LocalTo: e.LogEnd, Discarded: e.Discarded, Replayed: e.Replayed})
		}
	}
	return ranges
}

// overhangs are the ranges that failovers gave up without hearing this site, as
// the gap log has them.
func (m *Mirror) overhangs() map[spillway.TopicPartition][]UnreplicatedRange {
	type extent struct {
		tp       spillway.TopicPartition
		from, to spillway.LocalOffset
	}
	gaps := m.reader.Gaps()
	decided := make(map[extent]string)
	for _, g := range gaps {
		if g.Kind == maptopic.GapDiscarded || g.Kind == maptopic.GapReplayed {
			decided[extent{spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}, g.LocalFrom, g.LocalTo}] = g.Kind
		}
	}
	found := make(map[spillway.TopicPartition][]UnreplicatedRange)
	for _, g := range gaps {
		if g.Kind == maptopic.GapOverhang && m.reader.Holds(g) {
			tp := spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}
			kind := decided[extent{tp, g.LocalFrom, g.LocalTo}]
			found[tp] = append(found[tp], UnreplicatedRange{Site: m.site, Topic: g.Topic, Partition: g.Partition, Epoch: g.Epoch,
				From: g.From, To: g.To, LocalFrom: g.LocalFrom, LocalTo: g.LocalTo, Mirrored: true,
				Discarded: kind == maptopic.GapDiscarded, Replayed: kind == maptopic.GapReplayed})
		}
	}
	return found
}

// DiscardUnreplicated marks the share's unreplicated ranges as given up. Their
// records stay in the log, hidden, until its retention removes them. It returns
// what was discarded now; who and why go to the gap log.
func (m *Mirror) DiscardUnreplicated(ctx context.Context, id spillway.ShareID, who, why string) ([]UnreplicatedRange, error) {
	ranges, err := m.Unreplicated(ctx, id)
	if err != nil {
		return nil, err
	}
	var discarded []UnreplicatedRange
	for _, r := range ranges {
		if r.Open() {
			r.Discarded = true
			discarded = append(discarded, r)
		}
	}
	return discarded, m.decided(ctx, discarded, maptopic.GapDiscarded, who+": "+why)
}

// ErrDiscarded: a person gave the range up meanwhile.
var ErrDiscarded = errors.New("the range was discarded")

// ReplayedUnreplicated marks a range as written again where the share was served, or
// found there; detail goes to the gap log. ErrDiscarded: it was given up, and stays so.
func (m *Mirror) ReplayedUnreplicated(ctx context.Context, r UnreplicatedRange, detail string) error {
	if err := m.reader.CaughtUp(ctx); err != nil {
		return err
	}
	tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
	for _, now := range append(m.overhangs()[tp], m.ownBeyond(tp)...) {
		if now.Discarded && now.Mirrored == r.Mirrored && now.Epoch == r.Epoch && now.LocalFrom == r.LocalFrom && now.LocalTo == r.LocalTo {
			return ErrDiscarded
		}
	}
	r.Replayed = true
	return m.decided(ctx, []UnreplicatedRange{r}, maptopic.GapReplayed, detail)
}

// decided writes down what became of ranges: beside the ends of their epochs, where
// this site served them, and into the gap log.
func (m *Mirror) decided(ctx context.Context, ranges []UnreplicatedRange, kind, detail string) error {
	var entries []maptopic.Entry
	for _, r := range ranges {
		tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
		for _, e := range m.reader.View(tp).Ends() {
			if e.Epoch == r.Epoch && !r.Mirrored {
				e.Discarded, e.Replayed = r.Discarded, r.Replayed
				entries = append(entries, maptopic.EndEntry(tp, e))
			}
		}
		entries = append(entries, m.gap(maptopic.Gap{Kind: kind, Topic: r.Topic, Partition: r.Partition, Epoch: r.Epoch,
			From: r.From, To: r.To, LocalFrom: r.LocalFrom, LocalTo: r.LocalTo, Detail: detail}))
	}
	position, err := m.writer.Save(ctx, entries...)
	if err != nil {
		return err
	}
	return m.reader.WaitFor(ctx, position)
}
