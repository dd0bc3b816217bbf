package mirror

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"spillway"
	"spillway/mirror/maptopic"
	"spillway/mirror/metadata"
)

// A record without a value deletes its key, and the cleaner of a compacted topic removes that
// record too, delete.retention.ms after it has removed what was there before. A site that was
// without its source for longer meets a hole, and keeps the key for ever, in silence (C15).
// So the map says until when it was level.

// levelsPerRetention is how many times the map is told of a level while deletions are kept.
const levelsPerRetention = 24

// deleteRetentionDefault is Kafka's delete.retention.ms.
const deleteRetentionDefault = 24 * time.Hour

// deleteRetentionMost is as good as for ever.
const deleteRetentionMost = 100 * 365 * 24 * time.Hour

// looksToBeLate is how many looks at a topic lie at least in the time after which it is late.
const looksToBeLate = 3

// lateness is what is to be done about a partition that may miss deletions.
type lateness struct {
	level maptopic.Level // until when it was level
	save  bool           // tell the map
	// behind is for how long it has not been level, as a part of what deletions are kept.
	behind float64
	late   bool // some may be missed
}

// judgeLate compares how far a partition is with the level that is known of it: known, or the
// one in this flow. It misses nothing while nothing of its source is written into it, and
// what comes in the end of that time decides.
func judgeLate(level maptopic.Level, known bool, s partState, now time.Time, retention time.Duration) lateness {
	if !known { // the copy begins now
		return lateness{level: maptopic.Level{At: now, Virtual: s.virtual}, save: true}
	}
	since := level.At
	switch {
	case s.whole && s.problem == "" && s.due == 0 && s.virtual == level.Virtual:
		since = now // nothing has come since, so it was level all the time
	case s.whole:
		since = later(since, s.caughtUp)
	}
	l := lateness{level: level}
	missing := max(now.Sub(since), since.Sub(level.At))
	if !s.whole || s.due > 0 || s.problem != "" {
		l.behind = max(0, now.Sub(since).Seconds()) / retention.Seconds()
	}
	if s.virtual != level.Virtual && s.running && missing > retention {
		l.late, l.behind = true, 0
		since = now // said once
	}
	if since.Sub(level.At) >= retention/levelsPerRetention || l.late {
		l.level, l.save = maptopic.Level{At: since, Virtual: s.virtual}, true
	}
	return l
}

// keepLevels looks at partitions of compacted topics.
func (f *flow) keepLevels(ctx context.Context, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	retention, err := f.deleteRetention(ctx, topics)
	if err != nil {
		return err
	}
	now := time.Now()
	f.mu.Lock()
	for name, kept := range retention {
		f.mu.kept[name] = kept
	}
	states := make(map[spillway.TopicPartition]partState)
	for tp, s := range f.mu.state {
		if slices.Contains(topics, tp.Topic) && !s.waits && s.virtual >= 0 {
			states[tp] = s
		}
	}
	f.mu.Unlock()
	var entries []maptopic.Entry
	for tp, s := range states {
		level, known := f.m.reader.Level(tp)
		l := judgeLate(level, known, s, now, retention[tp.Topic])
		if l.late {
			entries = append(entries, f.m.gap(maptopic.Gap{Kind: maptopic.GapLate, Topic: tp.Topic, Partition: tp.Partition, Epoch: f.epoch, From: max(0, level.Virtual), To: s.virtual, LocalFrom: -1, LocalTo: -1,
				Detail: fmt.Sprintf("was level with its source at %s, and deletions are kept for %s: keys may be shown that are deleted", level.At.UTC().Format(time.RFC3339), retention[tp.Topic])}))
		}
		if l.save {
			entries = append(entries, maptopic.LevelEntry(tp, l.level))
		}
	}
	return f.m.saveAndRead(ctx, entries)
}

// deletionsBehind is for how long a partition has not been level, as a part of the time for
// which deletions of its topic are kept; 0 where it is not compacted. It is asked also while
// the source cannot be. The caller holds mu.
func (f *flow) deletionsBehind(tp spillway.TopicPartition, s partState, now time.Time) float64 {
	kept, compacted := f.mu.kept[tp.Topic]
	if !compacted {
		return 0
	}
	level, known := f.m.reader.Level(tp)
	if !known {
		return 0
	}
	return judgeLate(level, known, s, now, kept).behind
}

// deleteRetention is for how long the cleaners of both sites keep deletions, the shorter.
func (f *flow) deleteRetention(ctx context.Context, topics []string) (map[string]time.Duration, error) {
	shortest := make(map[string]time.Duration, len(topics))
	for _, at := range []valued{f.source.cluster.Admin(), f.m.local.Admin()} {
		values, err := at.TopicValues(ctx, topics, "delete.retention.ms")
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			ms, err := strconv.ParseInt(value, 10, 64)
			if err != nil || ms < 0 {
				continue
			}
			kept := time.Duration(min(ms, deleteRetentionMost.Milliseconds())) * time.Millisecond
			if other, known := shortest[name]; !known || kept < other {
				shortest[name] = kept
			}
		}
	}
	for _, name := range topics {
		if _, known := shortest[name]; !known {
			shortest[name] = deleteRetentionDefault
		}
		// A flow is looked at from time to time, and is not late for that.
		shortest[name] = max(shortest[name], looksToBeLate*max(f.m.config.MetadataInterval, time.Second))
	}
	return shortest, nil
}

type valued interface {
	TopicValues(ctx context.Context, topics []string, key string) (map[string]string, error)
}

// levelsServed is how often a site that serves says that it misses nothing.
const levelsServed = 5 * time.Minute

// keepServedLevels says of the compacted topics that this site serves that it misses nothing.
func (m *Mirror) keepServedLevels(ctx context.Context, a Assignment) error {
	open := make(map[string][]spillway.TopicPartition)
	for _, tp := range m.reader.Partitions() {
		if _, serves := m.reader.View(tp).Open(); serves && a.has(tp) {
			open[tp.Topic] = append(open[tp.Topic], tp)
		}
	}
	if len(open) == 0 {
		return nil
	}
	policies, err := m.local.Admin().TopicValues(ctx, slices.Sorted(maps.Keys(open)), "cleanup.policy")
	if err != nil {
		return err
	}
	now := time.Now()
	var entries []maptopic.Entry
	for name, tps := range open {
		if !metadata.Compacts(map[string]string{"cleanup.policy": policies[name]}) {
			continue
		}
		for _, tp := range tps {
			entries = append(entries, maptopic.LevelEntry(tp, maptopic.Level{At: now, Virtual: -1}))
		}
	}
	return m.saveAndRead(ctx, entries)
}
