package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"spillway"
	"spillway/broker"
	"spillway/mirror/metadata"
)

// Preview is what a Run would change at its target beside records.
type Preview struct {
	Topics     []PreviewTopic    `json:"topics"`     // to be created
	Partitions []PreviewGrowth   `json:"partitions"` // to be added
	Settings   []PreviewSetting  `json:"settings"`   // to be changed
	Kept       []PreviewKept     `json:"kept"`       // differ, and stay
	Deletions  []PreviewDeletion `json:"deletions"`  // of topics that the source does not have any more
	Circular   []string          `json:"circular"`   // topics that are left out, since their records come from the target

	CreateACLs  []spillway.ACL   `json:"createACLs"`
	DeleteACLs  []spillway.ACL   `json:"deleteACLs"`
	RefusedACLs []spillway.ACL   `json:"refusedACLs"` // would stop the mirror itself
	Quotas      []PreviewSetting `json:"quotas"`      // to be changed, by entity in place of a topic

	MissingUsers []MissingUser `json:"missingUsers"` // have SCRAM credentials only at the source
	UsersUnknown string        `json:"usersUnknown,omitempty"`
}

// PreviewTopic is a topic that would be created.
type PreviewTopic struct {
	Topic      string            `json:"topic"`
	Partitions int               `json:"partitions"`
	Settings   map[string]string `json:"settings"`
}

// PreviewGrowth is a topic that would get more partitions.
type PreviewGrowth struct {
	Topic string `json:"topic"`
	From  int    `json:"from"`
	To    int    `json:"to"`
}

// PreviewSetting is a setting that would be changed.
type PreviewSetting struct {
	Topic string `json:"topic"`
	metadata.Change
}

// PreviewKept is a setting that would stay as somebody else set it.
type PreviewKept struct {
	Topic string `json:"topic"`
	metadata.Kept
}

// PreviewDeletion is a topic that would be deleted, or not, and why.
type PreviewDeletion struct {
	Topic   string `json:"topic"`
	Deleted bool   `json:"deleted"`
	Why     string `json:"why"`
}

// PreviewRun tells what Run would change at the target, and changes nothing.
func PreviewRun(ctx context.Context, c RunConfig) (Preview, error) {
	m, a, err := c.open(ctx)
	if err != nil {
		return Preview{}, err
	}
	defer m.Close()
	src, err := m.source(a.Source)
	if err != nil {
		return Preview{}, err
	}
	if err := m.reader.CaughtUp(ctx); err != nil && !errors.Is(err, broker.ErrUnknownTopic) {
		return Preview{}, err
	}
	if err := src.ready(ctx, true); err != nil {
		return Preview{}, err
	}
	v, err := m.preview(ctx, a, src)
	if err != nil {
		return v, err
	}
	if err := m.previewDeletions(ctx, a, src, &v); err != nil {
		return v, err
	}
	if err := m.previewRights(ctx, a, src, &v); err != nil {
		return v, err
	}
	v.MissingUsers, v.UsersUnknown = m.lookForUsers(ctx, a)
	return v, nil
}

func (m *Mirror) previewDeletions(ctx context.Context, a Assignment, src *source, v *Preview) error {
	gone, cluster, err := newFlow(m, a, src, nil).gone(ctx)
	if err != nil || len(gone) == 0 {
		return err
	}
	md, err := m.local.Metadata(ctx, gone...)
	if err != nil {
		return err
	}
	for _, name := range gone {
		if t := md.Topics[name]; exists(t) {
			deleted, why := m.deletion(a, name, cluster, t).Verdict()
			v.Deletions = append(v.Deletions, PreviewDeletion{name, deleted, why})
		}
	}
	return nil
}

func (m *Mirror) previewRights(ctx context.Context, a Assignment, src *source, v *Preview) error {
	if m.config.ACLs {
		p, refused, err := m.planACLs(ctx, a, src)
		if err != nil {
			return err
		}
		v.CreateACLs, v.DeleteACLs, v.RefusedACLs = p.Create, p.Delete, refused
	}
	if m.config.Quotas {
		plans, err := m.planQuotas(ctx, src)
		if err != nil {
			return err
		}
		for _, p := range plans {
			for _, c := range p.Changes {
				v.Quotas = append(v.Quotas, PreviewSetting{string(p.entity), c})
			}
			for _, k := range p.Kept {
				v.Kept = append(v.Kept, PreviewKept{string(p.entity), k})
			}
		}
	}
	return nil
}

func (m *Mirror) preview(ctx context.Context, a Assignment, src *source) (Preview, error) {
	var v Preview
	tps, err := a.partitionsAt(ctx, src.cluster)
	if err != nil {
		return v, err
	}
	if tps, v.Circular, err = m.allowed(src, tps); err != nil {
		return v, err
	}
	counts := partitionCounts(tps)
	names := slices.Sorted(maps.Keys(counts))
	if len(names) == 0 {
		return v, nil
	}
	md, err := m.local.Metadata(ctx, names...)
	if err != nil {
		return v, fmt.Errorf("list topics of site %s: %w", m.site, err)
	}
	here, err := m.local.Admin().TopicSettings(ctx, names)
	if err != nil {
		return v, err
	}
	for _, name := range names {
		if !exists(md.Topics[name]) {
			here[name] = map[string]string{}
		} else if have := len(md.Topics[name].Partitions); have < int(counts[name]) {
			v.Partitions = append(v.Partitions, PreviewGrowth{name, have, int(counts[name])})
		}
	}
	plans, err := m.planSettings(ctx, src, names, func() (settings, error) { return here, nil })
	if err != nil {
		return v, err
	}
	for _, p := range plans {
		if !exists(md.Topics[p.name]) {
			t := PreviewTopic{Topic: p.name, Partitions: int(counts[p.name]), Settings: make(map[string]string)}
			for _, c := range p.changes() {
				t.Settings[c.Key] = *c.New
			}
			v.Topics = append(v.Topics, t)
			continue
		}
		for _, c := range p.changes() {
			v.Settings = append(v.Settings, PreviewSetting{p.name, c})
		}
		for _, k := range p.settings.Kept {
			v.Kept = append(v.Kept, PreviewKept{p.name, k})
		}
	}
	return v, nil
}

// partitionCounts is how many partitions each topic needs.
func partitionCounts(tps []spillway.TopicPartition) map[string]int32 {
	counts := make(map[string]int32)
	for _, tp := range tps {
		counts[tp.Topic] = max(counts[tp.Topic], tp.Partition+1)
	}
	return counts
}

func exists(t broker.TopicMetadata) bool { return t.ErrorCode == 0 && len(t.Partitions) > 0 }
