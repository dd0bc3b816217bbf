// Package audit proves from outside that one site holds the same records as
// another (promise E). It reads both logs itself and does not believe the
// mirror: records are compared in their order, byte for byte. The offset maps
// serve only to leave out what is hidden from clients and to check that every
// record is found under the same virtual offset at both sites (promise D).
//
// Compacted topics are compared by key, as two cleaners never keep the same
// records.
package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/rewrite"
	"spillway/mirror/selection"
	"spillway/mirror/sitelog"
)

// DifferencesMax is how many differences of a partition are listed; all are counted.
const DifferencesMax = 100

// Kinds of differences.
const (
	Changed     = "changed" // another key, value, header or timestamp
	Missing     = "missing" // at the source only
	Extra       = "extra"   // at the target only
	Swapped     = "swapped" // with the record after it
	Translation = "translation"
	Provenance  = "provenance"  // the headers that say where the record comes from are missing, or not true
	KeyDiffers  = "key differs" // compacted: the key's last record is another, or only at one site
)

// Difference is one fault. Offsets are each site's own; −1 where there is no record.
type Difference struct {
	Kind   string               `json:"kind"`
	Source spillway.LocalOffset `json:"source"`
	Target spillway.LocalOffset `json:"target"`
	Detail string               `json:"detail,omitempty"`
}

// Partition is what was found in one partition.
type Partition struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Compacted   bool         `json:"compacted,omitempty"`
	Records     int64        `json:"records"` // compared; of a compacted topic, keys
	Hidden      int64        `json:"hidden"`  // at the target and hidden from clients
	LeftOut     int64        `json:"leftOut"` // at the source, and filters leave them out
	Faults      int64        `json:"faults"`
	Differences []Difference `json:"differences,omitempty"` // the first ones
	// NotCompared says what could not be compared and why.
	NotCompared string `json:"notCompared,omitempty"`
}

// Report is the outcome of an audit.
type Report struct {
	From       spillway.SiteID `json:"from"`
	To         spillway.SiteID `json:"to"`
	Partitions []Partition     `json:"partitions"`
	Records    int64           `json:"records"`
	Faults     int64           `json:"faults"`
	Equal      bool            `json:"equal"`
}

// Progress tells how far an audit is.
type Progress struct {
	Partitions int // compared
	Current    spillway.TopicPartition
	Records    int64 // compared
}

// Audit compares all partitions of the topics that are meant. It looks
// at the logs as they end when it starts: audit a flow at rest, or what is under
// way counts as missing. The error says that it could not be done; differences
// are in the report. said, if not nil, hears of each record that was compared.
func Audit(ctx context.Context, from, to broker.Cluster, topics selection.Topics, scope Scope, said func(Progress)) (Report, error) {
	if err := scope.Validate(); err != nil {
		return Report{}, err
	}
	report := Report{From: from.Site(), To: to.Site(), Equal: true}
	from = selection.Of(from, topics)
	theirs, err := openMap(ctx, from)
	if err != nil {
		return report, err
	}
	defer theirs.Close()
	ours, err := openMap(ctx, to)
	if err != nil {
		return report, err
	}
	defer ours.Close()
	sourceTopics, err := from.Metadata(ctx)
	if err != nil {
		return report, fmt.Errorf("audit: %w", err)
	}
	targetTopics, err := to.Metadata(ctx)
	if err != nil {
		return report, fmt.Errorf("audit: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(sourceTopics.Topics)) {
		t := sourceTopics.Topics[name]
		if t.Internal {
			continue
		}
		compacted, err := isCompacted(ctx, from, name)
		if err != nil {
			return report, err
		}
		nameThere := name
		if onWire := selection.OnWire(from); onWire != nil {
			nameThere, _ = onWire(name)
		}
		if err := ours.carried(name, len(targetTopics.Topics[name].Partitions), scope.Rewrite.Of(nameThere)); err != nil {
			return report, err
		}
		for _, p := range t.Partitions {
			if !scope.has(p.Partition) {
				continue
			}
			tp := spillway.TopicPartition{Topic: name, Partition: p.Partition}
			found := Partition{Topic: name, Partition: p.Partition, Compacted: compacted}
			if int(p.Partition) >= len(targetTopics.Topics[name].Partitions) {
				found.fault(Difference{Kind: Missing, Source: -1, Target: -1, Detail: "the target does not have the partition"})
			} else {
				rules := rulesFor(scope.Rewrite, sourceTopics.ClusterID, spillway.TopicPartition{Topic: nameThere, Partition: p.Partition})
				a := &auditor{
					found: &found, began: ours.began(tp), rules: &rules,
					progress: func(records int64) {
						if said != nil {
							said(Progress{Partitions: len(report.Partitions), Current: tp, Records: report.Records + records})
						}
					},
					source: &reader{log: sitelog.PartitionReader{Cluster: from, Of: tp}, view: theirs.view(tp), leaves: &rules},
					target: &reader{log: sitelog.PartitionReader{Cluster: to, Of: tp}, view: ours.view(tp), marked: rules.provenance},
				}
				if err := a.run(ctx, scope); err != nil {
					return report, fmt.Errorf("audit %s: %w", tp, err)
				}
			}
			report.Partitions = append(report.Partitions, found)
			report.Records += found.Records
			report.Faults += found.Faults
		}
	}
	if len(report.Partitions) == 0 {
		return report, fmt.Errorf("audit: no topic of site %s is meant", from.Site())
	}
	report.Equal = report.Faults == 0
	return report, nil
}

func (p *Partition) fault(d Difference) {
	p.Faults++
	if len(p.Differences) < DifferencesMax {
		p.Differences = append(p.Differences, d)
	}
}

func isCompacted(ctx context.Context, c broker.Cluster, topic string) (bool, error) {
	configs, err := c.Admin().TopicConfigs(ctx, topic)
	if err != nil {
		return false, fmt.Errorf("audit: read the settings of %s/%s: %w", c.Site(), topic, err)
	}
	return strings.Contains(configs["cleanup.policy"].Value, "compact"), nil
}

// siteMap is a site's map, or nothing where the site has none.
type siteMap struct {
	reader *maptopic.Reader
	onWire func(topic string) (string, bool) // how the site calls a topic; nil: as it is
}

func openMap(ctx context.Context, c broker.Cluster) (siteMap, error) {
	r := maptopic.Tail(ctx, c, nil)
	err := r.CaughtUp(ctx)
	if err == nil {
		return siteMap{r, selection.OnWire(c)}, nil
	}
	r.Close()
	if errors.Is(err, broker.ErrUnknownTopic) {
		return siteMap{}, nil
	}
	return siteMap{}, err
}

func (m siteMap) Close() {
	if m.reader != nil {
		m.reader.Close()
	}
}

// began is the virtual offset at which the flow into the site was told to start, 0
// where it was not.
func (m siteMap) began(tp spillway.TopicPartition) spillway.Offset {
	if m.reader == nil {
		return 0
	}
	return m.reader.Began(tp)
}

// carried refuses to compare with other rules than those by which the map says that a
// topic was carried, as a run does: all that they do differently would count as faults of
// the mirror.
func (m siteMap) carried(topic string, partitions int, asked rewrite.Text) error {
	if m.reader == nil {
		return nil
	}
	if there, holds := m.reader.Rewrite(topic, int32(partitions)); holds && !there.Equal(asked) {
		return fmt.Errorf("audit: topic %s was carried with %s, and this audit has %s; give it the same", topic, there, asked)
	}
	return nil
}

// view is nil where nothing is known about the partition: then all is visible.
func (m siteMap) view(tp spillway.TopicPartition) *offsetmap.View {
	if m.reader == nil {
		return nil
	}
	if m.onWire != nil {
		tp.Topic, _ = m.onWire(tp.Topic) // "": nothing is known of such a topic
	}
	if v := m.reader.View(tp); !v.Empty() {
		return v
	}
	return nil
}

// Translated is one offset at two sites.
type Translated struct {
	From    spillway.SiteID      `json:"from"`
	Offset  spillway.LocalOffset `json:"offset"`
	Virtual spillway.Offset      `json:"virtual"`
	To      spillway.SiteID      `json:"to"`
	// Translated is where a consumer goes on at the target: the first record
	// there at or after Virtual.
	Translated spillway.LocalOffset `json:"translated"`
	// Exact is false where Offset is no record that both sites have: it is a
	// hole, hidden, or not mirrored yet.
	Exact bool `json:"exact"`
}

// Translator turns offsets of one site into the other's, by the maps as they
// were when it was opened.
type Translator struct {
	from, to     broker.Cluster
	theirs, ours siteMap
}

// OpenTranslator reads the maps of both sites. from may be a selection, which shows
// topics under the names that they have at to.
func OpenTranslator(ctx context.Context, from, to broker.Cluster) (*Translator, error) {
	if _, err := from.Metadata(ctx); err != nil { // a selection learns the names from it
		return nil, err
	}
	theirs, err := openMap(ctx, from)
	if err != nil {
		return nil, err
	}
	ours, err := openMap(ctx, to)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	return &Translator{from: from, to: to, theirs: theirs, ours: ours}, nil
}

// Close stops following the maps.
func (t *Translator) Close() {
	t.theirs.Close()
	t.ours.Close()
}

// Translate turns one offset of the source. reverse: the offset is the target's.
func (t *Translator) Translate(tp spillway.TopicPartition, offset spillway.LocalOffset, reverse bool) (Translated, error) {
	from, to, source, target := t.from, t.to, t.theirs.view(tp), t.ours.view(tp)
	if reverse {
		from, to, source, target = to, from, target, source
	}
	got := Translated{From: from.Site(), To: to.Site(), Offset: offset}
	if source == nil && target == nil {
		return got, fmt.Errorf("translate offset %d of %s: neither %s nor %s has an offset map of it; is it mirrored?", offset, tp, from.Site(), to.Site())
	}
	exact := true
	got.Virtual = spillway.Offset(offset)
	if source != nil {
		got.Virtual, exact = source.ToVirtual(offset)
	}
	got.Translated = spillway.LocalOffset(got.Virtual)
	at := got.Virtual
	if target != nil {
		got.Translated, at = target.ToLocal(got.Virtual)
		_, visible := target.ToVirtual(got.Translated)
		exact = exact && visible
	}
	got.Exact = exact && at == got.Virtual
	return got, nil
}

// Translate turns one offset of one site into the other's. reverse: the offset
// is the target's.
func Translate(ctx context.Context, from, to broker.Cluster, tp spillway.TopicPartition, offset spillway.LocalOffset, reverse bool) (Translated, error) {
	t, err := OpenTranslator(ctx, from, to)
	if err != nil {
		return Translated{}, err
	}
	defer t.Close()
	return t.Translate(tp, offset, reverse)
}
