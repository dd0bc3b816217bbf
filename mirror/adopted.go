package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"spillway"
	"spillway/mirror/adopt"
	"spillway/mirror/maptopic"
	"spillway/mirror/metadata"
	"spillway/mirror/offsetmap"
)

// Bounds of what a take-over writes at once.
const (
	adoptOffsets   = 1 << 20 // of the target, in one piece of the map
	adoptRangesMax = 1 << 12 // in one chunk
)

// write tells the map who feeds the topics, what was found, and which records are which.
func (a *adoption) write(ctx context.Context, tps []spillway.TopicPartition) error {
	if err := a.m.alone(ctx, a.share, leaseRenew); err != nil {
		return err
	}
	if err := a.m.readMap(ctx); err != nil {
		return err
	}
	claimed, err := a.m.claimTopics(ctx, a.src, tps)
	if err != nil {
		return err
	}
	ours := make(map[spillway.TopicPartition]bool, len(claimed))
	for _, tp := range claimed {
		ours[tp] = true
	}
	var due []spillway.TopicPartition
	for _, p := range a.matched {
		if ours[p.TopicPartition] && p.says() {
			due = append(due, p.TopicPartition)
		}
	}
	h, err := a.m.hold(ctx, a.share, due)
	if err != nil {
		return err
	}
	defer h.letGo()
	if err := a.takeSettings(ctx, slices.Sorted(maps.Keys(partitionCounts(claimed)))); err != nil {
		return err
	}
	for _, p := range a.matched {
		if h[p.TopicPartition] == nil {
			continue
		}
		if err := a.writePartition(ctx, h, p); err != nil {
			return fmt.Errorf("write the map of %s: %w", p.TopicPartition, err)
		}
	}
	return nil
}

// takeSettings has the settings that the other mirror kept as they are at the source
// count as this one's, so that they stay so.
func (a *adoption) takeSettings(ctx context.Context, topics []string) error {
	md, err1 := a.src.cluster.Metadata(ctx, topics...)
	theirs, err2 := a.src.cluster.Admin().TopicSettings(ctx, topics)
	here, err3 := a.To.Admin().TopicSettings(ctx, topics)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	var entries []maptopic.Entry
	for _, name := range topics {
		known := a.m.reader.Topic(name)
		owned := maps.Clone(known.Settings)
		for key, w := range metadata.Carried(md.ClusterID, theirs[name], a.m.config.SettingsExcluded) {
			if value, set := here[name][key]; set && value == w.Value {
				if owned == nil {
					owned = make(map[string]metadata.Owned)
				}
				owned[key] = metadata.Owned{Value: value, From: w.From}
			}
		}
		if !maps.Equal(owned, known.Settings) {
			known.Settings = owned
			entries = append(entries, maptopic.TopicEntry(name, known))
		}
	}
	return a.m.saveAndRead(ctx, entries)
}

// writePartition opens an append session in which nothing is appended. What it says is
// true at every step: where it is ended in between, the map holds a part, and the next
// take-over goes on there. Without pairs it says what the target's end is made of: a flow
// would take that for a foreign writer's.
func (a *adoption) writePartition(ctx context.Context, h held, p *matched) error {
	save := func(entries []maptopic.Entry) error {
		if err := h.still(p.TopicPartition, a.m.config.Now()); err != nil {
			return err
		}
		return a.m.saveAndRead(ctx, entries)
	}
	var previous offsetmap.Session
	if om := a.m.reader.Map(p.TopicPartition); om != nil {
		previous = om.Session()
	}
	if previous.Session != p.session {
		return errors.New("a mirror run has opened it since it was compared; take it over again")
	}
	session, err := a.m.nextSession(previous, false)
	if err != nil {
		return err
	}
	if err := save([]maptopic.Entry{maptopic.SessionEntry(p.TopicPartition, session)}); err != nil {
		return err
	}
	if held := a.m.reader.Map(p.TopicPartition).Session(); held.Session != session.Session || held.Worker != session.Worker {
		return fmt.Errorf("another mirror opened an append session at the same time; stop it first")
	}
	a.m.config.Crash("afterClaim")
	session.Opened, session.Local, session.Virtual = true, p.from.Local, p.from.Virtual
	entries := append(a.gaps(p), maptopic.SessionEntry(p.TopicPartition, session))
	for at := p.from.Local; at < p.TargetEnd; at += a.pieceOffsets {
		for _, c := range adoptedChunks(session, p.ranges.Segments(at, min(at+a.pieceOffsets, p.TargetEnd)-1)) {
			entries = append(entries, maptopic.ChunkEntry(p.TopicPartition, c))
		}
		if at+a.pieceOffsets < p.TargetEnd {
			if err := save(entries); err != nil {
				return err
			}
			a.m.config.Crash("afterSaveRanges")
			entries = nil
		}
	}
	verified := offsetmap.Verified{Session: session.Session, Local: p.TargetEnd, Virtual: p.verified.Virtual}
	if p.Records > 0 {
		verified.Virtual = p.Next
	}
	entries = append(entries, maptopic.VerifiedEntry(p.TopicPartition, verified))
	return save(entries)
}

// adoptedChunks are ranges in chunks without local gaps.
func adoptedChunks(session offsetmap.Session, ranges []offsetmap.Range) (chunks []*offsetmap.Chunk) {
	var last *offsetmap.Chunk
	for _, r := range ranges {
		if last == nil || len(last.Ranges) == adoptRangesMax || last.Ranges[len(last.Ranges)-1].LocalEnd() != r.Local {
			last = &offsetmap.Chunk{Session: session.Session, Worker: session.Worker, First: r.Local, Sequence: offsetmap.NoSequence, Verified: true}
			chunks = append(chunks, last)
		}
		last.Ranges = append(last.Ranges, r)
	}
	return chunks
}

// gaps are what the gap log has to say of what was found.
func (a *adoption) gaps(p *matched) (entries []maptopic.Entry) {
	for _, f := range p.Findings {
		g := maptopic.Gap{Topic: p.Topic, Partition: p.Partition, Epoch: a.share.Epoch, From: -1, To: -1, LocalFrom: spillway.LocalOffset(f.From), LocalTo: spillway.LocalOffset(f.To)}
		if f.Kind.AtSource() {
			g.From, g.To = spillway.Offset(f.From), spillway.Offset(f.To)
			g.LocalFrom, _ = p.ranges.ToLocal(g.From)
			g.LocalTo = g.LocalFrom
		}
		switch f.Kind {
		case adopt.Duplicate:
			g.Kind, g.Detail = maptopic.GapDuplicate, "copied again by the mirror that was before"
		case adopt.Aborted:
			g.Kind, g.Detail = maptopic.GapAborted, "of aborted transactions, copied by the mirror that was before"
		case adopt.Older:
			g.Kind, g.Detail = maptopic.GapExisting, "the source has deleted what was there"
		case adopt.Superseded:
			g.Kind, g.Detail = maptopic.GapExisting, "not at the source, which may have compacted it away"
		case adopt.Unknown:
			g.Kind, g.Detail = maptopic.GapExisting, "not the source's: somebody else wrote it"
		case adopt.Missing:
			g.Kind, g.Detail = maptopic.GapMissing, "the mirror that was before has left it out"
		case adopt.Before:
			continue // all of them are one gap
		}
		if !f.Whole() {
			g.Detail = fmt.Sprintf("%d records in between, %s", f.Records, g.Detail)
		}
		entries = append(entries, a.m.gap(g))
	}
	if n := p.Counts[adopt.Before]; n > 0 {
		entries = append(entries, a.m.gap(maptopic.Gap{Kind: maptopic.GapStart, Topic: p.Topic, Partition: p.Partition, Epoch: a.share.Epoch, To: p.First,
			LocalFrom: p.from.Local, LocalTo: p.from.Local, Detail: fmt.Sprintf("the target had nothing older when it was taken over; the source has %d records there", n)}))
	}
	return entries
}
