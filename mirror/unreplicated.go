package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"spillway"
	"spillway/broker/batch"
	"spillway/mirror/maptopic"
	"spillway/mirror/sitelog"
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
	Mirrored  bool `json:"mirrored,omitempty"`
	Discarded bool `json:"discarded,omitempty"`
}

// UnreplicatedRecord is one line of an export. Key, value and header values are
// base64 in JSON; null stays null.
type UnreplicatedRecord struct {
	Topic         string               `json:"topic"`
	Partition     int32                `json:"partition"`
	Virtual       spillway.Offset      `json:"virtual"`
	Local         spillway.LocalOffset `json:"local"`
	Timestamp     int64                `json:"timestamp"` // milliseconds since 1970
	Key           []byte               `json:"key"`
	Value         []byte               `json:"value"`
	Headers       []UnreplicatedHeader `json:"headers,omitempty"`
	ProducerID    int64                `json:"producerID,string"` // as it stands in the log, masked
	ProducerEpoch int16                `json:"producerEpoch"`
	Sequence      int32                `json:"sequence"` // −1 without idempotence
}

// UnreplicatedHeader is one header of a record.
type UnreplicatedHeader struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Unreplicated lists what this site holds beyond the ends of the share's epochs,
// as the one that served them or as a standby that a failover did not hear;
// discarded ranges included.
func (m *Mirror) Unreplicated(ctx context.Context, id spillway.ShareID) ([]UnreplicatedRange, error) {
	s, err := m.share(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	a := s.mu.assignment
	s.mu.Unlock()
	if err := m.reader.CaughtUp(ctx); err != nil {
		return nil, err
	}
	var ranges []UnreplicatedRange
	overhangs := m.overhangs()
	for _, tp := range m.reader.Partitions() {
		if !a.has(tp) {
			continue
		}
		ranges = append(ranges, overhangs[tp]...)
		for _, e := range m.reader.View(tp).Ends() {
			if e.Local < e.LogEnd {
				ranges = append(ranges, UnreplicatedRange{Site: m.site, Topic: tp.Topic, Partition: tp.Partition, Epoch: e.Epoch,
					From: e.Virtual, To: e.Virtual + spillway.Offset(e.LogEnd-e.Local), LocalFrom: e.Local, LocalTo: e.LogEnd, Discarded: e.Discarded})
			}
		}
	}
	return ranges, nil
}

// overhangs are the ranges that failovers gave up without hearing this site, as
// the gap log has them.
func (m *Mirror) overhangs() map[spillway.TopicPartition][]UnreplicatedRange {
	type extent struct {
		tp       spillway.TopicPartition
		from, to spillway.LocalOffset
	}
	gaps := m.reader.Gaps()
	discarded := make(map[extent]bool)
	for _, g := range gaps {
		if g.Kind == maptopic.GapDiscarded {
			discarded[extent{spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}, g.LocalFrom, g.LocalTo}] = true
		}
	}
	found := make(map[spillway.TopicPartition][]UnreplicatedRange)
	for _, g := range gaps {
		if g.Kind == maptopic.GapOverhang {
			tp := spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}
			found[tp] = append(found[tp], UnreplicatedRange{Site: m.site, Topic: g.Topic, Partition: g.Partition, Epoch: g.Epoch,
				From: g.From, To: g.To, LocalFrom: g.LocalFrom, LocalTo: g.LocalTo, Mirrored: true, Discarded: discarded[extent{tp, g.LocalFrom, g.LocalTo}]})
		}
	}
	return found
}

// ExportUnreplicated writes the records of the share's unreplicated ranges, one
// JSON object a line, and returns how many. Records of aborted and undecided
// transactions are not records; they are left out.
func (m *Mirror) ExportUnreplicated(ctx context.Context, id spillway.ShareID, w io.Writer) (int64, error) {
	ranges, err := m.Unreplicated(ctx, id)
	if err != nil {
		return 0, err
	}
	n, lines := int64(0), json.NewEncoder(w)
	for _, r := range ranges {
		if r.Discarded {
			continue
		}
		records, err := m.committed(ctx, r)
		if err != nil {
			return n, err
		}
		for _, rec := range records {
			if err := lines.Encode(rec); err != nil {
				return n, fmt.Errorf("export unreplicated records of share %s: %w", id, err)
			}
			n++
		}
	}
	return n, nil
}

// committed reads the committed records of a range. What a transaction wrote is
// kept until its marker says what became of it.
func (m *Mirror) committed(ctx context.Context, r UnreplicatedRange) ([]UnreplicatedRecord, error) {
	tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
	var decided []UnreplicatedRecord
	open := make(map[int64][]UnreplicatedRecord)
	err := sitelog.Scan(ctx, m.local, tp, r.LocalFrom, r.LocalTo, func(b sitelog.Batch) error {
		records, err := batch.Records(b.Bytes, DecompressedBytesMax)
		if err != nil {
			return err
		}
		if b.Control() {
			if !aborts(records) {
				decided = append(decided, open[b.ProducerID]...)
			}
			delete(open, b.ProducerID)
			return nil
		}
		for i, rec := range records {
			local := spillway.LocalOffset(b.BaseOffset) + spillway.LocalOffset(rec.OffsetDelta)
			if local < r.LocalFrom || local >= r.LocalTo {
				continue
			}
			out := UnreplicatedRecord{
				Topic: r.Topic, Partition: r.Partition, Local: local, Virtual: r.From + spillway.Offset(local-r.LocalFrom),
				Timestamp: b.BaseTimestamp + rec.TimestampDelta, Key: rec.Key, Value: rec.Value,
				ProducerID: b.ProducerID, ProducerEpoch: b.ProducerEpoch, Sequence: -1,
			}
			if b.BaseSequence >= 0 {
				out.Sequence = batch.NextSequence(b.BaseSequence, int32(i))
			}
			for _, h := range rec.Headers {
				out.Headers = append(out.Headers, UnreplicatedHeader{h.Key, h.Value})
			}
			if b.Transactional() {
				open[b.ProducerID] = append(open[b.ProducerID], out)
			} else {
				decided = append(decided, out)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read unreplicated records: %w", err)
	}
	return decided, nil
}

// DiscardUnreplicated marks the share's unreplicated ranges as given up. Their
// records stay in the log, hidden, until its retention removes them. It returns
// what was discarded now; who and why go to the gap log.
func (m *Mirror) DiscardUnreplicated(ctx context.Context, id spillway.ShareID, who, why string) ([]UnreplicatedRange, error) {
	ranges, err := m.Unreplicated(ctx, id)
	if err != nil {
		return nil, err
	}
	var entries []maptopic.Entry
	var discarded []UnreplicatedRange
	for _, r := range ranges {
		if r.Discarded {
			continue
		}
		tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
		for _, e := range m.reader.View(tp).Ends() {
			if e.Epoch == r.Epoch && !r.Mirrored {
				e.Discarded = true
				entries = append(entries, maptopic.EndEntry(tp, e))
			}
		}
		entries = append(entries, m.gap(maptopic.Gap{Kind: maptopic.GapDiscarded, Topic: r.Topic, Partition: r.Partition, Epoch: r.Epoch,
			From: r.From, To: r.To, LocalFrom: r.LocalFrom, LocalTo: r.LocalTo, Detail: who + ": " + why}))
		r.Discarded = true
		discarded = append(discarded, r)
	}
	position, err := m.writer.Save(ctx, entries...)
	if err != nil {
		return nil, err
	}
	return discarded, m.reader.WaitFor(ctx, position)
}
