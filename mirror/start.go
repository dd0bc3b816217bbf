package mirror

import (
	"context"
	"fmt"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
)

// Start is where a flow begins in partitions of which it has nothing yet. The zero
// value is the first record that the source has.
type Start struct {
	Latest bool      // behind what is decided: open transactions are carried whole
	At     time.Time // the first record of that time or later; behind all if there is none
}

// ParseStart reads earliest, latest, or a time as RFC 3339 writes it.
func ParseStart(s string) (Start, error) {
	switch s {
	case "", "earliest":
		return Start{}, nil
	case "latest":
		return Start{Latest: true}, nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return Start{}, fmt.Errorf("start %q: want earliest, latest, or a time like 2026-11-01T08:00:00Z", s)
	}
	return Start{At: at}, nil
}

func (s Start) String() string {
	switch {
	case s.Latest:
		return "latest"
	case !s.At.IsZero():
		return s.At.Format(time.RFC3339)
	}
	return "earliest"
}

// offsets are where the partitions begin, nil for the start of their logs.
func (s Start) offsets(ctx context.Context, c broker.Cluster, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if s == (Start{}) || len(tps) == 0 {
		return nil, nil
	}
	if s.Latest {
		return c.Admin().StableEnds(ctx, tps)
	}
	return firstFrom(ctx, c, tps, s.At.UnixMilli())
}

// firstFrom are the offsets of the first records of a time, in milliseconds since
// 1970, or later; where there is none, or it is not decided, the last stable ones.
func firstFrom(ctx context.Context, c broker.Cluster, tps []spillway.TopicPartition, milliseconds int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	offsets, err := c.Admin().StableEnds(ctx, tps) // first: what comes in between is behind them
	if err != nil {
		return nil, err
	}
	found, err := c.Admin().OffsetsForTime(ctx, tps, milliseconds)
	if err != nil {
		return nil, err
	}
	for tp, o := range found {
		if o >= 0 {
			offsets[tp] = min(offsets[tp], o)
		}
	}
	return offsets, nil
}

// begin moves fresh partitions to where the flow shall begin in them, and has the map
// and the gap log say so before anything is carried: after a restart the same holds,
// though nothing may have been written meanwhile.
func (f *flow) begin(ctx context.Context, fresh []*partition) error {
	tps := make([]spillway.TopicPartition, len(fresh))
	for i, p := range fresh {
		tps[i] = p.TopicPartition
	}
	starts, err := f.share.Start.offsets(ctx, f.source.cluster, tps)
	if err != nil || len(starts) == 0 {
		return err
	}
	var entries []maptopic.Entry
	for _, p := range fresh {
		if at, ok := starts[p.TopicPartition]; ok && at > p.source {
			from := p.virtual
			p.virtual, _ = f.source.view(p.TopicPartition).ToVirtual(at)
			p.source = at
			entries = append(entries, f.m.gap(maptopic.Gap{Kind: maptopic.GapStart, Topic: p.Topic, Partition: p.Partition, Epoch: f.epoch,
				From: from, To: p.virtual, LocalFrom: p.local, LocalTo: p.local, Detail: fmt.Sprintf("the flow was told to start at %s", f.share.Start)}))
		}
		entries = append(entries, p.verifiedEntries(f.source.site)...)
	}
	return f.m.saveAndRead(ctx, entries)
}

// startVoid takes back where a flow began: the source has other records by now, and all
// of them are younger than that.
func (m *Mirror) startVoid(p *partition, epoch spillway.Epoch) maptopic.Entry {
	return m.gap(maptopic.Gap{Kind: maptopic.GapStart, Topic: p.Topic, Partition: p.Partition, Epoch: epoch, LocalFrom: p.local, LocalTo: p.local,
		Detail: "nothing is left out any more: the source has other records than when the flow began"})
}
