package mirror

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/metadata"
	"spillway/mirror/selection"
)

// A topic that the source does not have any more is let go: its partitions are no
// problem of the flow. Whether it is deleted here too is for the assignment to say.

// gone are topics of this flow that the source says it does not have, with what it
// answers for each: to be left out of a list may only mean that the mirror may not
// see the topic.
func (f *flow) gone(ctx context.Context) (gone []string, cluster string, err error) {
	md, err := f.source.cluster.Metadata(ctx)
	if err != nil {
		return nil, "", err
	}
	named := make(map[string]string) // by the name at the source
	for _, name := range f.followed() {
		if _, listed := md.Topics[name]; listed {
			delete(f.absent, name)
		} else if there := f.m.fedBy(f.source, name); there != "" {
			named[there] = name
		}
	}
	if len(named) == 0 {
		return nil, md.ClusterID, nil
	}
	asked, err := selection.Whole(f.source.cluster).Metadata(ctx, slices.Sorted(maps.Keys(named))...)
	if err != nil {
		return nil, "", err
	}
	var faults []error
	for _, there := range slices.Sorted(maps.Keys(named)) {
		t, answered := asked.Topics[there]
		switch {
		case answered && t.ErrorCode == kerr.UnknownTopicOrPartition.Code:
			gone = append(gone, named[there])
		case answered && t.ErrorCode == kerr.TopicAuthorizationFailed.Code:
			faults = append(faults, fmt.Errorf("topic %s of site %s cannot be seen any more: %w", there, f.source.site, broker.ErrNotAuthorized))
		}
	}
	return gone, asked.ClusterID, errors.Join(faults...)
}

// followed are the topics of the flow, and those that earlier ones wrote.
func (f *flow) followed() []string {
	names := f.topics()
	for _, name := range f.m.reader.Topics() {
		if !f.m.reader.Topic(name).Equal(maptopic.Topic{}) && f.share.covers(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// followDeletions lets topics go that the source does not have any more, and
// deletes here those of which that is asked.
func (f *flow) followDeletions(ctx context.Context) error {
	gone, cluster, err := f.gone(ctx)
	now := f.m.config.Now()
	var due []string
	for _, name := range gone {
		since, seen := f.absent[name]
		if !seen {
			f.absent[name] = now
		} else if now.Sub(since) >= max(f.m.config.DeletedAfter, f.share.Delay) {
			due = append(due, name)
		}
	}
	if len(due) == 0 {
		return err
	}
	f.mu.Lock()
	f.mu.retired = append(f.mu.retired, due...)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
	var nowhere []maptopic.Entry // what began anew here is not to be had any more
	for tp, to := range f.m.reader.Owed() {
		if slices.Contains(due, tp.Topic) {
			nowhere = append(nowhere, f.sourceHasNoMore(tp, 0, to))
		}
	}
	if fault := f.m.saveAndRead(ctx, nowhere); fault != nil {
		return errors.Join(err, fault)
	}
	md, fault := f.m.local.Metadata(ctx, due...)
	if fault != nil {
		return errors.Join(err, fault)
	}
	faults := []error{err}
	for _, name := range due {
		if t := md.Topics[name]; exists(t) {
			faults = append(faults, f.deleteOrKeep(ctx, name, cluster, t))
		}
	}
	return errors.Join(faults...)
}

func (m *Mirror) deletion(a Assignment, name, cluster string, here broker.TopicMetadata) metadata.Deletion {
	return metadata.Deletion{Follow: a.FollowDeletions, Created: m.reader.Topic(name).Created, Source: cluster, Here: hex.EncodeToString(here.ID[:])}
}

func (f *flow) deleteOrKeep(ctx context.Context, name, cluster string, here broker.TopicMetadata) error {
	m := f.m
	deleted, why := m.deletion(f.share, name, cluster, here).Verdict()
	if !deleted {
		f.tellOnce(KindTopic, name, "is deleted at the source, and kept here: "+why)
		return nil
	}
	if !f.decides(name) {
		return nil
	}
	if err := m.local.Admin().DeleteTopic(ctx, name); err != nil && !errors.Is(err, broker.ErrUnknownTopic) {
		return err
	}
	m.events.metadata(MetadataInfo{Source: f.source.site, Target: m.site, Kind: KindTopic, Name: name, What: "is deleted, " + why})
	return m.saveAndRead(ctx, []maptopic.Entry{maptopic.TopicEntry(name, maptopic.Topic{})})
}

// decides tells whether this worker may delete a topic: it has the lease of the first
// partition, or no flow has partitions of it any more.
func (f *flow) decides(topic string) bool {
	f.mu.Lock()
	lease, known := f.mu.firsts[topic]
	f.mu.Unlock()
	if known {
		return lease.Held(f.m.config.Now()) && !askedBack(lease)
	}
	return !slices.Contains(f.topics(), topic) && !f.crew.elsewhere(spillway.TopicPartition{Topic: topic})
}

// letGo forgets the partitions of topics that the source does not have any more,
// when they are not with a lane, which hands them back.
func (f *flow) letGo() {
	f.mu.Lock()
	retired := f.mu.retired
	f.mu.retired = nil
	f.mu.Unlock()
	for _, name := range retired {
		f.retired[name] = true
	}
	if len(f.retired) == 0 {
		return
	}
	keep := func(parts []*partition) []*partition {
		return slices.DeleteFunc(parts, func(p *partition) bool {
			if f.retired[p.Topic] {
				f.forget(p)
				return true
			}
			return false
		})
	}
	f.later, f.toOpen, f.toRoute = keep(f.later), keep(f.toOpen), keep(f.toRoute)
}

func (f *flow) forget(p *partition) {
	letGo(p.lease)
	delete(f.parts, p.TopicPartition)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mu.state, p.TopicPartition)
	f.mu.listed++
	if p.Partition == 0 {
		delete(f.mu.firsts, p.Topic)
	}
}

// found takes back that topics were let go.
func (f *flow) found(tps []spillway.TopicPartition) {
	for _, tp := range tps {
		delete(f.retired, tp.Topic)
	}
}

// createdHere saves which topics the mirror has created.
func (m *Mirror) createdHere(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	md, err := m.local.Metadata(ctx, names...)
	if err != nil {
		return err
	}
	var entries []maptopic.Entry
	for _, name := range names {
		t := m.reader.Topic(name)
		if id := md.Topics[name].ID; t.Created != nil && id != [16]byte{} {
			t.Created = &metadata.Created{From: t.Created.From, Here: hex.EncodeToString(id[:])}
			entries = append(entries, maptopic.TopicEntry(name, t))
		}
	}
	return m.saveAndRead(ctx, entries)
}
