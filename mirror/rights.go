package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/metadata"
	"spillway/mirror/selection"
)

// Entries of access control lists and quotas of clients are carried where that is
// asked for, by who has the lease of the flow's first topic. What the mirror made
// is in the map before it is made (docs/decisions/0015).

// cover is whom the assignment means, for entries of access control lists.
func (m *Mirror) cover(ctx context.Context, a Assignment, src *source) (metadata.Cover, error) {
	selected := selection.TopicsOf(src.cluster)
	c := metadata.Cover{
		Topic: func(name string) string {
			at := selected.NameAt(name)
			if !a.covers(at) || m.config.IdentitySources && src.origin(at).From(m.site) {
				return ""
			}
			return at
		},
		Fed: func(name string) bool {
			if !a.covers(name) {
				return false
			}
			o, known := m.reader.Origin(name)
			return selected.NameAt(name) == name || known && o.Site == src.site && selected.NameAt(o.Topic) == name
		},
		Group:         a.coversGroup,
		TopicPrefixes: a.TopicPrefixes, GroupPrefixes: a.GroupPrefixes, Skip: m.config.PrincipalsExcluded,
	}
	md, err := src.cluster.Metadata(ctx)
	if err != nil {
		return c, fmt.Errorf("list topics of site %s: %w", src.site, err)
	}
	for name := range md.Topics {
		c.Topics = append(c.Topics, src.onWire(spillway.TopicPartition{Topic: name}).Topic)
	}
	groups, err := src.cluster.Admin().ListGroups(ctx)
	if err != nil {
		return c, fmt.Errorf("list groups of site %s: %w", src.site, err)
	}
	for _, g := range groups {
		c.Groups = append(c.Groups, g.ID)
	}
	if !m.config.IdentitySources {
		c.TopicPrefixes, c.GroupPrefixes = prefixesOf(a.Topics, a.covers), prefixesOf(a.ConsumerGroups, a.coversGroup)
	}
	return c, nil
}

// prefixesOf are those that patterns name.
func prefixesOf(patterns []string, covers func(string) bool) (prefixes []string) {
	for _, p := range patterns {
		if prefix, ok := strings.CutSuffix(p, "*"); ok && covers(prefix) {
			prefixes = append(prefixes, prefix)
		}
	}
	return prefixes
}

// coversGroup tells whether the assignment means the consumer group.
func (a Assignment) coversGroup(group string) bool {
	return matches(a.ConsumerGroups, group) && (a.MatchGroup == nil || a.MatchGroup(group))
}

// planACLs compares entries with the source.
func (m *Mirror) planACLs(ctx context.Context, a Assignment, src *source) (plan metadata.ACLPlan, refused []spillway.ACL, err error) {
	theirs, err := src.cluster.Admin().ACLs(ctx)
	if err != nil {
		return plan, nil, err
	}
	here, err := m.local.Admin().ACLs(ctx)
	if err != nil {
		return plan, nil, err
	}
	c, err := m.cover(ctx, a, src)
	if err != nil {
		return plan, nil, err
	}
	cluster, err := clusterID(ctx, src)
	if err != nil {
		return plan, nil, err
	}
	var agreed map[spillway.ACL]metadata.OwnedACL
	if !m.config.IdentitySources {
		agreed = src.reader.ACLs()
	}
	wanted, refused := metadata.WantedACLs(theirs, c)
	return metadata.PlanACLs(cluster, c, wanted, here, m.reader.ACLs(), agreed), refused, nil
}

func clusterID(ctx context.Context, src *source) (string, error) {
	md, err := src.cluster.Metadata(ctx, spillway.MapTopic) // of one topic, as the cluster may have many
	return md.ClusterID, err
}

// saveACLs makes the map say which entries are the mirror's.
func (m *Mirror) saveACLs(ctx context.Context, now map[spillway.ACL]metadata.OwnedACL) error {
	var entries []maptopic.Entry
	known := m.reader.ACLs()
	for _, e := range slices.SortedFunc(maps.Keys(now), spillway.ACL.Compare) {
		if was, ok := known[e]; !ok || was != now[e] {
			entries = append(entries, maptopic.ACLEntry(e, now[e]))
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(known), spillway.ACL.Compare) {
		if _, ok := now[e]; !ok {
			entries = append(entries, maptopic.NoACLEntry(e))
		}
	}
	return m.saveAndRead(ctx, entries)
}

// keepACLs carries entries over.
func (f *flow) keepACLs(ctx context.Context) error {
	m := f.m
	p, refused, err := m.planACLs(ctx, f.share, f.source)
	if err != nil {
		return err
	}
	for _, e := range refused {
		f.tellOnce(KindACL, e.Name, e.String()+" is not carried: it would stop the mirror itself")
	}
	if err := m.saveACLs(ctx, p.Intent); err != nil {
		return err
	}
	tell := func(entries []spillway.ACL, done string) {
		for _, e := range entries {
			m.events.metadata(MetadataInfo{Source: f.source.site, Target: m.site, Kind: KindACL, Name: e.Name, What: e.String() + done})
		}
	}
	// Should one of these fail, the intent stays and is met again.
	if len(p.Create) > 0 {
		if err := m.local.Admin().CreateACLs(ctx, p.Create); err != nil {
			return err
		}
		tell(p.Create, " is created (as at the source)")
	}
	if len(p.Delete) > 0 {
		if err := m.local.Admin().DeleteACLs(ctx, p.Delete); err != nil {
			return err
		}
		tell(p.Delete, " is deleted (removed at the source)")
	}
	return m.saveACLs(ctx, p.Done)
}

// quotaPlan is what to do about one entity.
type quotaPlan struct {
	entity broker.QuotaEntity
	metadata.SettingsPlan
}

// planQuotas compares the quotas of clients with the source's.
func (m *Mirror) planQuotas(ctx context.Context, src *source) ([]quotaPlan, error) {
	theirs, err := src.cluster.Admin().Quotas(ctx)
	if err != nil {
		return nil, err
	}
	here, err := m.local.Admin().Quotas(ctx)
	if err != nil {
		return nil, err
	}
	cluster, err := clusterID(ctx, src)
	if err != nil {
		return nil, err
	}
	owned := m.reader.Quotas()
	entities := make(map[broker.QuotaEntity]bool)
	for e := range theirs {
		entities[e] = true
	}
	for e := range owned {
		entities[broker.QuotaEntity(e)] = true
	}
	var plans []quotaPlan
	for _, e := range slices.Sorted(maps.Keys(entities)) {
		wanted := make(map[string]metadata.Wanted)
		for key, value := range theirs[e] {
			wanted[key] = metadata.Wanted{Value: quotaValue(value), From: cluster}
		}
		set := make(map[string]string)
		for key, value := range here[e] {
			set[key] = quotaValue(value)
		}
		plans = append(plans, quotaPlan{e, metadata.PlanSettings(cluster, wanted, set, owned[string(e)], nil)})
	}
	return plans, nil
}

func quotaValue(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func (m *Mirror) saveQuotas(ctx context.Context, plans []quotaPlan, say func(quotaPlan) map[string]metadata.Owned) error {
	var entries []maptopic.Entry
	known := m.reader.Quotas()
	for _, p := range plans {
		was := maptopic.Topic{Settings: known[string(p.entity)]}
		if now := say(p); !was.Equal(maptopic.Topic{Settings: now}) {
			entries = append(entries, maptopic.QuotaEntry(string(p.entity), now))
		}
	}
	return m.saveAndRead(ctx, entries)
}

// keepQuotas carries quotas over.
func (f *flow) keepQuotas(ctx context.Context) error {
	m := f.m
	plans, err := m.planQuotas(ctx, f.source)
	if err != nil {
		return err
	}
	if err := m.saveQuotas(ctx, plans, func(p quotaPlan) map[string]metadata.Owned { return p.Intent }); err != nil {
		return err
	}
	var faults []error
	for i, p := range plans {
		for _, k := range p.Kept {
			f.tellOnce(KindQuota, string(p.entity), k.String())
		}
		if len(p.Changes) == 0 {
			continue
		}
		if err := m.setQuota(ctx, p); err != nil {
			plans[i].Done = p.Intent
			faults = append(faults, err)
			continue
		}
		for _, c := range p.Changes {
			m.events.metadata(MetadataInfo{Source: f.source.site, Target: m.site, Kind: KindQuota, Name: string(p.entity), What: c.String()})
		}
	}
	faults = append(faults, m.saveQuotas(ctx, plans, func(p quotaPlan) map[string]metadata.Owned { return p.Done }))
	return errors.Join(faults...)
}

func (m *Mirror) setQuota(ctx context.Context, p quotaPlan) error {
	values := make(map[string]*float64, len(p.Changes))
	for _, c := range p.Changes {
		values[c.Key] = nil
		if c.New != nil {
			v, err := strconv.ParseFloat(*c.New, 64)
			if err != nil {
				return fmt.Errorf("quota of %s: %w", p.entity, err)
			}
			values[c.Key] = &v
		}
	}
	return m.local.Admin().SetQuota(ctx, p.entity, values)
}

// MissingUser has SCRAM credentials at the source that the target lacks. They cannot
// be read, so nobody but a person can bring them there.
type MissingUser struct {
	User       string   `json:"user"`
	Mechanisms []string `json:"mechanisms"` // that are missing
}

// missingUsers lists them.
func (m *Mirror) missingUsers(ctx context.Context, src *source) ([]MissingUser, error) {
	theirs, err := src.cluster.Admin().ScramUsers(ctx)
	if err != nil {
		return nil, err
	}
	here, err := m.local.Admin().ScramUsers(ctx)
	if err != nil {
		return nil, err
	}
	missing := []MissingUser{}
	for _, user := range slices.Sorted(maps.Keys(theirs)) {
		lacking := slices.DeleteFunc(theirs[user], func(mechanism string) bool { return slices.Contains(here[user], mechanism) })
		if len(lacking) > 0 {
			missing = append(missing, MissingUser{user, lacking})
		}
	}
	return missing, nil
}

// tellOnce says what differs and stays so.
func (f *flow) tellOnce(kind, name, what string) {
	id := kind + "/" + name + "/" + what
	if f.told[id] {
		return
	}
	f.told[id] = true
	f.m.events.metadata(MetadataInfo{Source: f.source.site, Target: f.m.site, Kind: kind, Name: name, What: what, Kept: true})
}
