package mirror

import (
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// A topic that somebody deletes here begins anew: the mirror creates it as it is at the
// source, and copies all of it again (docs/operate/compacted.md). Partitions without news
// write nothing, so they would not meet it. The id of a topic tells: the map keeps with which
// one a partition was opened, so that a mirror that was away meanwhile finds it too.

// topicIDs are those of the topics of partitions, as this site's brokers tell them.
func (m *Mirror) topicIDs(ctx context.Context, parts []*partition) (map[string][16]byte, error) {
	names := make(map[string]bool)
	for _, p := range parts {
		names[p.Topic] = true
	}
	md, err := m.local.Metadata(ctx, slices.Sorted(maps.Keys(names))...)
	if err != nil {
		return nil, err
	}
	ids := make(map[string][16]byte, len(names))
	for name, t := range md.Topics {
		ids[name] = t.ID
	}
	return ids, nil
}

// logs tell in which log a partition was opened.
func (m *Mirror) logs(tp spillway.TopicPartition) offsetmap.Logs {
	if om := m.reader.Map(tp); om != nil {
		return om.Logs()
	}
	return offsetmap.Logs{}
}

// lookHere has the partitions opened anew whose logs here are not those any more in which
// they were opened, or are gone. A site that cannot be asked is met elsewhere. While a flow
// has a bound its logs are read back before anybody relies on them.
func (f *flow) lookHere(ctx context.Context) {
	if len(f.parts) == 0 || f.ending.bound.Load() != nil {
		return
	}
	f.readAgain()
	md, err := f.m.local.Metadata(ctx, f.topics()...)
	if err != nil {
		return
	}
	f.reopenLost(md, nil)
}

// lookBehind looks whether others have written to compacted logs into which the flow has
// written nothing since the last look: what they hide there decides where a failover goes,
// and the flow would find it only when it writes next.
func (f *flow) lookBehind(ctx context.Context, topics []string) error {
	var quiet []spillway.TopicPartition
	f.mu.Lock()
	for tp, s := range f.mu.state {
		if !s.running || s.waits || s.due > 0 || s.virtual < 0 || !slices.Contains(topics, tp.Topic) {
			continue
		}
		if before, known := f.idle[tp]; known && before == s.local {
			quiet = append(quiet, tp)
		}
		f.idle[tp] = s.local
	}
	f.mu.Unlock()
	if len(quiet) == 0 {
		return nil
	}
	ends, err := f.m.local.Admin().LogEnds(ctx, quiet)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tp := range quiet {
		if s := f.mu.state[tp]; s.local == f.idle[tp] && s.running && ends[tp] != s.local {
			f.mu.longer = append(f.mu.longer, tp)
		}
	}
	return nil
}

// readAgain has partitions opened anew in which others were found to have written.
func (f *flow) readAgain() {
	f.mu.Lock()
	longer := f.mu.longer
	f.mu.longer = nil
	f.mu.Unlock()
	for _, tp := range longer {
		if p := f.parts[tp]; p != nil {
			p.reopen.Store(true)
		}
	}
	if len(longer) > 0 {
		f.wakeLanes()
	}
}

// reopenLost withdraws the marks of partitions whose log is gone, and asks those that have
// them to give them back; but for those that are being opened.
func (f *flow) reopenLost(md broker.Metadata, opening []*partition) {
	found := false
	for tp, p := range f.parts {
		t, told := md.Topics[tp.Topic]
		if !told || f.retired[tp.Topic] {
			continue
		}
		gone := t.ErrorCode == kerr.UnknownTopicOrPartition.Code
		if !gone && (t.ErrorCode != 0 || !f.m.logs(tp).IsNew(t.ID)) {
			continue
		}
		f.withdraw(tp)
		if !slices.Contains(opening, p) && !p.reopen.Swap(true) {
			found = true
		}
	}
	if found {
		f.wakeLanes()
	}
}

// withdraw says that nothing of a partition is here, in place of what was said of it: as
// the mark of the append session that is to come, or gateways would go on to count the
// old one.
func (f *flow) withdraw(tp spillway.TopicPartition) {
	f.mu.Lock()
	s, known := f.mu.state[tp]
	f.mu.Unlock()
	om := f.m.reader.Map(tp)
	if !known || s.waits || om == nil || om.Session().Session == 0 {
		return // it is another worker's, or nothing was said of it
	}
	f.mu.Lock()
	s = f.mu.state[tp]
	s.whole = false // all of it has to come again
	f.mu.state[tp] = s
	f.mu.Unlock()
	f.m.publish(Mark{Site: f.m.site, Topic: tp.Topic, Partition: tp.Partition, Epoch: f.epoch, Session: om.Session().Session + 1})
}

// createAnew creates the topics of partitions that somebody has deleted here, with as many
// partitions as the source has, and has all of them opened anew: of those without news
// nobody else would notice. That their records are gone is found at the openings, and they
// are mirrored again.
func (f *flow) createAnew(ctx context.Context, parts []*partition) error {
	_ = f.m.local.Refresh(ctx) // met again below
	names := make(map[string]bool)
	for _, p := range parts {
		names[p.Topic] = true
	}
	topics := slices.Sorted(maps.Keys(names))
	here, err := f.m.local.Metadata(ctx, topics...)
	if err != nil {
		return err
	}
	f.reopenLost(here, parts)
	there, err := f.source.cluster.Metadata(ctx, topics...)
	if err != nil {
		return err
	}
	var tps []spillway.TopicPartition
	for tp := range f.parts {
		if names[tp.Topic] {
			tps = append(tps, tp)
		}
	}
	for _, name := range topics {
		if n := len(there.Topics[name].Partitions); n > 0 {
			tps = append(tps, spillway.TopicPartition{Topic: name, Partition: int32(n - 1)})
		}
	}
	_, err = f.m.ensureTopics(ctx, f.share, f.source, tps)
	return err
}

// settleOwed says of logs that began anew that the source has no more: it lost records too, or
// its topic was created anew. Two looks have to find all of the source here, and that it ends
// below what there was: a leader that has just been elected may tell for a moment less than
// it has.
func (f *flow) settleOwed(ctx context.Context) error {
	owed := f.m.reader.Owed()
	level := make(map[spillway.TopicPartition]spillway.Offset)
	var entries []maptopic.Entry
	f.mu.Lock()
	for tp, to := range owed {
		s, known := f.mu.state[tp]
		if !known || s.waits || !s.running || !s.whole || s.problem != "" || s.lag > 0 || s.undecided > 0 || s.virtual < 0 || s.virtual >= to {
			continue
		}
		if before, looked := f.settling[tp]; looked && before <= s.virtual {
			entries = append(entries, f.sourceHasNoMore(tp, s.virtual, to))
		}
		level[tp] = s.virtual
	}
	f.mu.Unlock()
	f.settling = level
	return f.m.saveAndRead(ctx, entries)
}

// sourceHasNoMore says of a partition that began anew here from where on nobody has what it had.
func (f *flow) sourceHasNoMore(tp spillway.TopicPartition, from, to spillway.Offset) maptopic.Entry {
	return f.m.gap(maptopic.Gap{Kind: maptopic.GapSource, Topic: tp.Topic, Partition: tp.Partition, Epoch: f.epoch, From: from, To: to, LocalFrom: -1, LocalTo: -1,
		Detail: "the log began anew here, and the source does not have it any more"})
}
