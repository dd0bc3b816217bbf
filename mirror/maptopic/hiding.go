package maptopic

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway"
	"spillway/mirror/offsetmap"
)

// hidingKinds are the gaps whose local offsets hold records with keys that no client is
// shown. Markers of transactions have no keys, and what brokers know as aborted no cleaner
// counts. What a transaction of others held (GapTransaction) is foreign besides.
var hidingKinds = []string{
	GapForeign, GapStaleWorker, GapUnreplicated, GapOverhang, GapSource, GapDivergence,
	GapExisting, GapDuplicate, GapAborted,
}

// hides tells whether the gap is a part of this site's log that clients are not shown.
func (g Gap) hides() bool {
	return slices.Contains(hidingKinds, g.Kind) && g.LocalFrom >= 0 && g.LocalFrom < g.LocalTo
}

// emptied tells that nothing of the log is left: all that was hidden there is gone, and
// what it took with it is mirrored again.
func (g Gap) emptied() bool { return g.Kind == GapTruncated && g.LocalFrom == 0 }

// harms tells whether a log cleaner that meets the hidden records may remove one that
// clients are to see: the newest record of a key stays, so only what lies below them is in
// danger. first is where what clients see begins.
func (g Gap) harms(view *offsetmap.View) bool {
	first, _ := view.ToLocal(0)
	return first < g.LocalFrom
}

// late tells that the log may show keys that are deleted.
func (g Gap) late() bool { return g.Kind == GapLate }

// note keeps which gaps hide a part of the log as it is. The caller holds mu.
func (r *Reader) note(g Gap) {
	tp := spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}
	switch {
	case g.emptied():
		delete(r.mu.hidden, tp)
		delete(r.mu.highest, tp)
		if r.mu.owed[tp] < g.To {
			r.mu.owed[tp] = g.To
		}
	case g.Kind == GapSource && g.From < r.mu.owed[tp]:
		if r.mu.owed[tp] = g.From; g.From <= 0 { // the source has no more
			delete(r.mu.owed, tp)
		} else if m := r.mu.maps[tp]; m != nil {
			r.settle(tp, m)
		}
		if g.hides() {
			r.noteHidden(tp, g)
		}
	case g.hides(), g.late():
		r.noteHidden(tp, g)
	}
}

// noteHidden keeps a gap that hides a part of the log. The caller holds mu.
func (r *Reader) noteHidden(tp spillway.TopicPartition, g Gap) {
	if r.mu.hidden[tp] == nil {
		r.mu.hidden[tp] = make(map[string]Gap)
	}
	r.mu.hidden[tp][g.ID] = g
	if r.mu.highest[tp] == nil {
		r.mu.highest[tp] = make(map[string]Gap)
	}
	if other, known := r.mu.highest[tp][g.Kind]; !known || other.LocalFrom < g.LocalFrom {
		r.mu.highest[tp][g.Kind] = g
	}
}

// settle forgets what a partition owes once it is there again. The gap that says so is
// written between the claim of an append session and its opening, so before that the view
// is still that of the log that is gone. The caller holds mu.
func (r *Reader) settle(tp spillway.TopicPartition, m *offsetmap.Map) {
	to, owes := r.mu.owed[tp]
	if !owes || !m.Session().Opened {
		return
	}
	if _, open := m.Open(); open { // it serves; where that is given up the view goes back
		return
	}
	if end, _ := m.View().End(); end >= to {
		delete(r.mu.owed, tp)
	}
}

// Owed are the partitions whose log here began anew and does not have yet all that it had
// before, with up to where. Until then the site is not one that has what was acknowledged
// because it was there, whatever its log ends at.
func (r *Reader) Owed() map[spillway.TopicPartition]spillway.Offset {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return maps.Clone(r.mu.owed)
}

// Holds tells whether the log still has what a gap says is hidden in it: it has not begun
// anew since.
func (r *Reader) Holds(g Gap) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, there := r.mu.hidden[spillway.TopicPartition{Topic: g.Topic, Partition: g.Partition}][g.ID]
	return there
}

// Hiding tells of each topic whose log here hides records behind some that clients see,
// what and where. If the topic is compacted, or will be, its cleaner takes a hidden record
// for the newest of its key and removes the one that clients see (C11). The entries are
// those of the gap log, which nothing takes out of the map topic, so this is known after
// any restart and of what was hidden long ago; it ends when the topic begins anew here.
func (r *Reader) Hiding() map[string]string {
	return r.say(func(g Gap, view *offsetmap.View) bool { return g.hides() && g.harms(view) })
}

// Unfit is Hiding, and tells besides which topics may show keys here that are deleted: the
// site was away for longer than the source keeps deletions (C15).
func (r *Reader) Unfit() map[string]string {
	return r.say(func(g Gap, view *offsetmap.View) bool { return g.late() || g.harms(view) })
}

// say tells of each topic which of its gaps count.
func (r *Reader) say(counts func(Gap, *offsetmap.View) bool) map[string]string {
	type of struct {
		kinds      map[string]bool
		partitions []int32
	}
	r.mu.RLock()
	hidden := make(map[spillway.TopicPartition][]Gap, len(r.mu.highest))
	for tp, gaps := range r.mu.highest {
		hidden[tp] = slices.Collect(maps.Values(gaps))
	}
	r.mu.RUnlock()
	found := make(map[string]of)
	for tp, gaps := range hidden {
		view := r.View(tp)
		gaps = slices.DeleteFunc(gaps, func(g Gap) bool { return !counts(g, view) })
		if len(gaps) == 0 {
			continue
		}
		topic, known := found[tp.Topic]
		if !known {
			topic.kinds = make(map[string]bool)
		}
		for _, g := range gaps {
			topic.kinds[g.Kind] = true
		}
		topic.partitions = append(topic.partitions, tp.Partition)
		found[tp.Topic] = topic
	}
	said := make(map[string]string, len(found))
	for name, topic := range found {
		where := fmt.Sprintf("partition %d", slices.Min(topic.partitions))
		if n := len(topic.partitions); n > 1 {
			where = fmt.Sprintf("%d partitions", n)
		}
		said[name] = fmt.Sprintf("%s in %s", strings.Join(slices.Sorted(maps.Keys(topic.kinds)), ", "), where)
	}
	return said
}
