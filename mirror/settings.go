package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/mirror/maptopic"
	"spillway/mirror/metadata"
)

// Settings of topics are kept in step by who has the lease of the topic's first
// partition. What the mirror writes is in the map before it is written, so that
// it knows for ever what is its own (docs/decisions/0014).

// topicPlan is what to do about the settings of one topic here.
type topicPlan struct {
	name     string
	source   string // id of the source's cluster
	settings metadata.SettingsPlan
	borrows  []metadata.Change
	borrowed map[string]*string
	known    maptopic.Topic // as the map has it
}

// intent is what the map is told before the changes, and done after them.
func (p topicPlan) intent() maptopic.Topic {
	t := p.known
	t.Settings, t.Borrowed = p.settings.Intent, maps.Clone(p.borrowed)
	for key := range metadata.Stopped { // until it is given back
		if before, had := p.known.Borrowed[key]; had && t.Borrowed != nil {
			if _, has := t.Borrowed[key]; !has {
				t.Borrowed[key] = before
			}
		}
	}
	return t
}

func (p topicPlan) done() maptopic.Topic {
	t := p.known
	t.Settings, t.Borrowed = p.settings.Done, p.borrowed
	return t
}

func (p topicPlan) changes() []metadata.Change { return slices.Concat(p.settings.Changes, p.borrows) }

// settings are those of topics, by name.
type settings map[string]map[string]string

// planSettings compares topics with the source. Those that the source does not
// have are left out. Without a source there is only what the mirror needs itself.
//
// look tells how topics are here. It is asked after the source: who sets the same thing
// here and then there must not have the first overwritten by the second, and brokers
// know no condition for a change.
func (m *Mirror) planSettings(ctx context.Context, from *source, topics []string, look func() (settings, error)) ([]topicPlan, error) {
	cluster, theirs := "", make(settings)
	if from != nil {
		md, err := from.cluster.Metadata(ctx, topics...)
		if err != nil {
			return nil, fmt.Errorf("look for topics at site %s: %w", from.site, err)
		}
		cluster = md.ClusterID
		if theirs, err = from.cluster.Admin().TopicSettings(ctx, topics); err != nil {
			return nil, err
		}
	}
	here, err := look()
	if err != nil {
		return nil, err
	}
	if err := m.reader.Whole(ctx); err != nil {
		return nil, err
	}
	hiding := m.reader.Hiding()
	var plans []topicPlan
	for _, name := range topics {
		wanted, ok := theirs[name]
		mine, exists := here[name]
		if !ok && from != nil || !exists {
			continue
		}
		p := topicPlan{name: name, source: cluster, known: m.reader.Topic(name)}
		if c := p.known.Created; c != nil && from != nil && c.From != cluster {
			p.known.Created = &metadata.Created{From: cluster, Here: c.Here}
		}
		var agreed map[string]string
		lent := maps.Clone(wanted)
		if from == nil { // what is known of it, and for the cleaner what is set here
			lent = make(map[string]string)
			for key := range metadata.Stopped {
				if value, set := mine[key]; set {
					lent[key] = value
				}
			}
			for key, value := range p.known.Borrowed {
				delete(lent, key)
				if value != nil {
					lent[key] = *value
				}
			}
		}
		if from != nil && !m.config.IdentitySources {
			// It followed before it served, and what its mirror did is in its map.
			before := from.reader.Topic(name)
			agreed = make(map[string]string, len(before.Settings))
			for key, o := range before.Settings {
				if o.From != "" {
					agreed[key] = o.Value
				}
			}
			for key, value := range before.Borrowed { // not given back yet
				delete(lent, key)
				if value != nil {
					lent[key] = *value
				}
			}
		}
		// What the source's mirror has stopped there is not for this site.
		carried := metadata.Carried(cluster, lent, m.config.SettingsExcluded)
		for key := range metadata.Stopped {
			if _, is := carried[key]; !is && from != nil {
				delete(lent, key) // it stays the site's own: the default, once the topic has begun anew
			}
		}
		p.settings = metadata.PlanSettings(cluster, carried, mine, p.known.Settings, agreed)
		stopped := hiding[name] != "" && (metadata.Compacts(mine) || metadata.Compacts(lent))
		p.borrows, p.borrowed = metadata.PlanBorrowed(lent, mine, p.known.Borrowed, stopped)
		for key := range metadata.Stopped { // neither carried while they are borrowed, nor taken for somebody else's then
			if _, had := p.known.Borrowed[key]; stopped || had {
				p.settings.LeaveOut(key, carried, p.known.Settings)
			}
		}
		plans = append(plans, p)
	}
	return plans, nil
}

// saveTopics tells the map what is the mirror's own, where that is news.
func (m *Mirror) saveTopics(ctx context.Context, plans []topicPlan, say func(topicPlan) maptopic.Topic) error {
	var entries []maptopic.Entry
	for _, p := range plans {
		if now := say(p); !now.Equal(m.reader.Topic(p.name)) {
			entries = append(entries, maptopic.TopicEntry(p.name, now))
		}
	}
	return m.saveAndRead(ctx, entries)
}

// borrowSettings sees to what existing topics need before records are written.
func (m *Mirror) borrowSettings(ctx context.Context, from *source, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	plans, err := m.planSettings(ctx, from, topics, func() (settings, error) { return m.local.Admin().TopicSettings(ctx, topics) })
	if err != nil {
		return err
	}
	for i, p := range plans { // all else is for who has the lease
		plans[i].settings = metadata.SettingsPlan{Intent: p.known.Settings, Done: p.known.Settings}
	}
	m.changeSettings(ctx, from, plans)
	return nil
}

// changeSettings carries plans out. What is refused is told and stays to be done; so does,
// without a word, what ctx cuts short.
func (m *Mirror) changeSettings(ctx context.Context, from *source, plans []topicPlan) {
	problem := func(topic string, err error) {
		if ctx.Err() != nil {
			return
		}
		m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindSetting, Name: topic, Problem: err.Error()})
	}
	if err := m.saveTopics(ctx, plans, topicPlan.intent); err != nil {
		problem("", err)
		return
	}
	m.config.Crash("afterSettingsIntended")
	for i, p := range plans {
		changes := p.changes()
		refused := m.setTopic(ctx, p.name, changes)
		for _, c := range changes {
			if err := refused[c.Key]; err != nil {
				// It may have been done all the same.
				if o, ours := p.settings.Intent[c.Key]; ours {
					plans[i].settings.Done[c.Key] = o
				}
				if before, had := p.known.Borrowed[c.Key]; had {
					plans[i].borrowed[c.Key] = before
				}
				problem(p.name, err)
				continue
			}
			m.events.metadata(MetadataInfo{Source: from.id(), Target: m.site, Kind: KindSetting, Name: p.name, What: c.String()})
		}
	}
	m.config.Crash("afterSettingsChanged")
	if err := m.saveTopics(ctx, plans, topicPlan.done); err != nil {
		problem("", err)
	}
}

// setTopic makes changes, one by one where they are refused together, and returns
// what could not be done.
func (m *Mirror) setTopic(ctx context.Context, topic string, changes []metadata.Change) map[string]error {
	if len(changes) == 0 {
		return nil
	}
	set := func(changes ...metadata.Change) error {
		configs := make(map[string]*string, len(changes))
		for _, c := range changes {
			configs[c.Key] = c.New
		}
		return m.local.Admin().SetTopicConfigs(ctx, topic, configs)
	}
	err := set(changes...)
	if err == nil {
		return nil
	}
	refused := make(map[string]error)
	var answered *kerr.Error
	for _, c := range changes {
		one := err
		if len(changes) > 1 && errors.As(err, &answered) {
			one = set(c)
		}
		if one != nil {
			refused[c.Key] = fmt.Errorf("%s: %w", c, one)
		}
	}
	return refused
}

// returnSettings gives back what was borrowed of topics that this site serves and
// no other share of it follows. Where the log hides records the cleaner stays stopped, and
// is stopped where the topic was compacted since: look says that it is time to see that.
func (m *Mirror) returnSettings(ctx context.Context, a Assignment, look bool) error {
	if err := m.reader.Whole(ctx); err != nil {
		return err
	}
	hiding := m.reader.Hiding()
	due := make(map[string]bool)
	for _, name := range m.reader.Topics() {
		for key := range m.reader.Topic(name).Borrowed {
			if _, stops := metadata.Stopped[key]; !stops || hiding[name] == "" {
				due[name] = true
			}
		}
	}
	if look {
		for name := range hiding {
			due[name] = true
		}
	}
	maps.DeleteFunc(due, func(name string, _ bool) bool { return !a.covers(name) || m.follows(name) })
	if len(due) == 0 {
		return nil
	}
	topics := slices.Sorted(maps.Keys(due))
	here, err := m.local.Admin().TopicSettings(ctx, topics)
	if err != nil {
		return err
	}
	var faults []error
	var entries []maptopic.Entry
	for _, name := range topics {
		t := m.reader.Topic(name)
		changes, left := metadata.PlanReturned(here[name], t.Borrowed, hiding[name] != "" && metadata.Compacts(here[name]))
		if len(changes) == 0 && len(left) == len(t.Borrowed) {
			continue
		}
		if len(left) > 0 { // told before it is done
			borrowed := maps.Clone(t.Borrowed)
			if borrowed == nil {
				borrowed = make(map[string]*string, len(left))
			}
			maps.Copy(borrowed, left)
			told := t
			told.Borrowed = borrowed
			if err := m.saveAndRead(ctx, []maptopic.Entry{maptopic.TopicEntry(name, told)}); err != nil {
				return err
			}
		}
		if refused := m.setTopic(ctx, name, changes); len(refused) > 0 {
			for _, err := range refused {
				faults = append(faults, err)
			}
			continue
		}
		for _, c := range changes {
			m.events.metadata(MetadataInfo{Target: m.site, Kind: KindSetting, Name: name, What: c.String()})
		}
		t.Borrowed = left
		entries = append(entries, maptopic.TopicEntry(name, t))
	}
	return errors.Join(append(faults, m.saveAndRead(ctx, entries))...)
}

// stopCleaners keeps cleaners from logs in which hidden records were found, before more is
// written behind them: they would remove what nobody has listed yet, and what clients see
// (C11). Where the source does not say how its topics are, this site's own settings do.
func (f *flow) stopCleaners(ctx context.Context, parts []*partition) {
	hiding := f.m.reader.Hiding()
	found := make(map[string]bool)
	for _, p := range parts {
		if _, stopped := f.m.reader.Topic(p.Topic).Borrowed["min.compaction.lag.ms"]; hiding[p.Topic] != "" && !stopped {
			found[p.Topic] = true
		}
	}
	topics := slices.Sorted(maps.Keys(found))
	if len(topics) == 0 || f.m.borrowSettings(ctx, f.source, topics) == nil {
		return
	}
	f.keep(ctx, KindSetting, func() error { return f.m.borrowSettings(ctx, nil, topics) })
}

// follows tells whether a flow of any share writes to the topic here.
func (m *Mirror) follows(topic string) bool {
	m.mu.Lock()
	shares := slices.Collect(maps.Values(m.mu.shares))
	m.mu.Unlock()
	return slices.ContainsFunc(shares, func(s *share) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.mu.flow != nil && s.mu.assignment.covers(topic)
	})
}

// keepMetadata keeps topics like those of the source until the flow ends: those
// whose lease has come at once, and all of them from time to time.
func (f *flow) keepMetadata(ctx context.Context) {
	if f.m.config.MetadataInterval < 0 {
		return
	}
	tick := time.NewTicker(f.m.config.MetadataInterval)
	defer tick.Stop()
	for {
		select {
		case <-f.metadataDue:
			f.mu.Lock()
			due := f.mu.due
			f.mu.due = nil
			f.mu.Unlock()
			f.metadataRound(ctx, due, false)
		case <-tick.C:
			f.metadataRound(ctx, nil, true)
		case <-ctx.Done():
			return
		}
	}
}

// keepMetadata looks at the topics of a share's flow once, if this mirror does so
// at all.
func (m *Mirror) keepMetadata(ctx context.Context, id spillway.ShareID) {
	s, err := m.share(id)
	if err != nil || m.config.MetadataInterval < 0 {
		return
	}
	if f := s.running(); f != nil {
		f.metadataRound(ctx, f.topics(), true)
	}
}

// hasFirst is called when the lease of a topic's first partition has come.
func (f *flow) hasFirst(topic string, lease Lease) {
	f.mu.Lock()
	f.mu.firsts[topic] = lease
	f.mu.Unlock()
	f.lookAt(topic)
}

// lookAt has the settings of a topic looked at before its turn.
func (f *flow) lookAt(topic string) {
	f.mu.Lock()
	if !slices.Contains(f.mu.due, topic) {
		f.mu.due = append(f.mu.due, topic)
	}
	f.mu.Unlock()
	select {
	case f.metadataDue <- struct{}{}:
	default:
	}
}

// topics are those of the flow.
func (f *flow) topics() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := make(map[string]bool)
	for tp := range f.mu.state {
		names[tp.Topic] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// decidesOf are those of the topics about which this worker decides.
func (f *flow) decidesOf(topics []string) []string {
	now := f.m.config.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	var ours []string
	for _, name := range topics {
		if lease := f.mu.firsts[name]; lease != nil && lease.Held(now) && !askedBack(lease) {
			ours = append(ours, name)
		}
	}
	return ours
}

// metadataRound looks at topics once, or at the whole flow, of which it has the topics
// whose turn it is unless it is told others. A move is not disturbed.
func (f *flow) metadataRound(ctx context.Context, topics []string, whole bool) {
	f.metadata.Lock()
	defer f.metadata.Unlock()
	all, turn := f.topics(), f.turn
	if whole && topics == nil {
		topics = f.nextTopics(all)
	}
	if f.ending.bound.Load() != nil {
		return
	}
	f.keep(ctx, KindSetting, func() error {
		err := f.keepSettings(ctx, topics)
		var answered *kerr.Error // one topic that may not be read keeps no others from their turn
		if err != nil && !errors.As(err, &answered) {
			f.turn = turn // they are looked at again
		}
		return err
	})
	if whole {
		f.keep(ctx, KindTopic, func() error { return f.followDeletions(ctx) })
	}
	if len(all) == 0 || !whole && !slices.Contains(topics, all[0]) || len(f.decidesOf(all[:1])) == 0 {
		return // another worker's
	}
	if f.m.config.ACLs {
		f.keep(ctx, KindACL, func() error { return f.keepACLs(ctx) })
	}
	if f.m.config.Quotas {
		f.keep(ctx, KindQuota, func() error { return f.keepQuotas(ctx) })
	}
}

// topicsRound bounds the topics of one look at settings: brokers tell all forty of each.
const topicsRound = 200

// nextTopics are those whose turn it is.
func (f *flow) nextTopics(all []string) []string {
	if len(all) <= topicsRound {
		return all
	}
	from, _ := slices.BinarySearch(all, f.turn)
	some := slices.Clone(all[from:min(from+topicsRound, len(all))])
	if n := topicsRound - len(some); n > 0 {
		some = append(some, all[:n]...)
	}
	f.turn = some[len(some)-1] + "\x00" // the first one behind it
	return some
}

// keep tells what could not be done. It is tried again.
func (f *flow) keep(ctx context.Context, kind string, do func() error) {
	if err := do(); err != nil && ctx.Err() == nil {
		f.m.events.metadata(MetadataInfo{Source: f.source.site, Target: f.m.site, Kind: kind, Problem: err.Error()})
	}
}

func (f *flow) keepSettings(ctx context.Context, topics []string) error {
	var here settings
	look := func() (_ settings, err error) {
		here, err = f.m.local.Admin().TopicSettings(ctx, topics)
		return here, err
	}
	if ours := f.decidesOf(topics); len(ours) > 0 {
		plans, err := f.m.planSettings(ctx, f.source, ours, look)
		if err != nil {
			return err
		}
		f.late(plans)
		f.m.changeSettings(ctx, f.source, plans)
		for _, p := range plans {
			for _, k := range p.settings.Kept {
				f.tellOnce(KindSetting, p.name, k.String())
			}
			for _, c := range p.changes() {
				if c.New == nil {
					delete(here[p.name], c.Key)
				} else {
					here[p.name][c.Key] = *c.New
				}
			}
		}
	} else if _, err := look(); err != nil {
		return err
	}
	var compacted []string
	for _, name := range topics {
		if metadata.Compacts(here[name]) {
			compacted = append(compacted, name)
		}
	}
	return errors.Join(f.learnLimits(ctx, here), f.keepLevels(ctx, compacted), f.settleOwed(ctx), f.lookBehind(ctx, compacted))
}

// late leaves changes out that are not as old as the flow's delay: with a shorter
// retention, for one, a target that is behind on purpose would lose what it is for.
func (f *flow) late(plans []topicPlan) {
	if f.share.Delay == 0 {
		return
	}
	now := f.m.config.Now()
	for i, p := range plans {
		wanted, due := make(map[string]time.Time), []metadata.Change(nil)
		for _, c := range p.settings.Changes {
			since, seen := f.wanted[p.name][c.String()]
			if !seen {
				since = now
			}
			wanted[c.String()] = since
			if now.Sub(since) >= f.share.Delay {
				due = append(due, c)
			} else {
				plans[i].settings.Leave(c.Key, p.known.Settings)
			}
		}
		f.wanted[p.name], plans[i].settings.Changes = wanted, due
	}
}

// learnLimits tells partitions how large a batch their topic takes now.
func (f *flow) learnLimits(ctx context.Context, here map[string]map[string]string) error {
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(here)) {
		if seen, ok := f.limitSeen[name]; !ok || seen != here[name]["max.message.bytes"] {
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	now, err := f.m.batchBytesMax(ctx, changed)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, n := range now {
		f.limitSeen[name] = here[name]["max.message.bytes"]
		if limit := f.mu.limits[name]; limit != nil {
			limit.Store(int64(n))
		}
	}
	return nil
}
