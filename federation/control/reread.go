package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"spillway"
	"spillway/mirror/offsetmap"
)

// positions are where consumer groups stand, by group and partition, as virtual offsets.
type positions map[string]map[spillway.TopicPartition]spillway.Offset

// groupsMax is of how many consumer groups the positions are read.
const groupsMax = 200

// measureReread says what consumers would read again after a failover, by the commits
// that the sites have; empty if they could not be read.
func (o *Operator) measureReread(ctx context.Context, g spillway.FailoverGroup, active, target *glance) string {
	here, all, err := o.positionsAt(ctx, g, active)
	if err != nil {
		return ""
	}
	there, _, err := o.positionsAt(ctx, g, target)
	if err != nil {
		return ""
	}
	text := reread(here, there, target.cluster.Site(), target.ends)
	if !all {
		text += fmt.Sprintf("; of the first %d groups", groupsMax)
	}
	return text
}

// positionsAt reads where the consumer groups of a failover group stand at a site; all is
// false if there are too many.
func (o *Operator) positionsAt(ctx context.Context, g spillway.FailoverGroup, at *glance) (found positions, all bool, err error) {
	groups, err := at.cluster.Admin().ListGroups(ctx)
	if err != nil {
		return nil, false, err
	}
	found = positions{}
	var names []string
	for _, group := range groups {
		if of, ok := o.topology.GroupOfConsumerGroup(group.ID); ok && of.Name == g.Name {
			names = append(names, group.ID)
		}
	}
	slices.Sort(names)
	for _, name := range names[:min(len(names), groupsMax)] {
		offsets, err := at.cluster.Admin().FetchGroupOffsets(ctx, name)
		if err != nil {
			return nil, false, err
		}
		found[name] = map[spillway.TopicPartition]spillway.Offset{}
		for tp, offset := range offsets {
			view := at.views[tp]
			if view == nil {
				continue // of another failover group, or not mirrored yet
			}
			position, _, _, exact := offsetmap.DecodeCommit(offset.Metadata)
			if !exact {
				position, _ = view.ToVirtual(offset.Offset)
			}
			found[name][tp] = position
		}
	}
	return found, len(names) <= groupsMax, nil
}

// reread says what consumers read again at a site that knows other positions than the one
// that serves. ends is what the site has: nobody reads again what is lost.
func reread(here, there positions, site spillway.SiteID, ends map[spillway.TopicPartition]spillway.Offset) string {
	records, groups := int64(0), 0
	var lost []string
	for _, group := range slices.Sorted(maps.Keys(here)) {
		behind, without := int64(0), 0
		for tp, position := range here[group] {
			known, ok := there[group][tp]
			if !ok {
				without++
				continue
			}
			behind += int64(max(0, min(position, ends[tp])-known))
		}
		if without > 0 {
			lost = append(lost, fmt.Sprintf("%s (%d of %d partitions)", group, without, len(here[group])))
		}
		if behind > 0 {
			groups++
		}
		records += behind
	}
	text := "what each consumer has read since its last commit"
	if records > 0 {
		text = fmt.Sprintf("at least %d records in %d groups, whose last commits %s does not have yet, and %s", records, groups, site, text)
	}
	if len(lost) > 0 {
		more := ""
		if n := len(lost) - fewGroups; n > 0 {
			lost, more = lost[:fewGroups], fmt.Sprintf(" and %d more", n)
		}
		text += fmt.Sprintf("; %s knows no position of %s%s, which begin there where auto.offset.reset says", site, strings.Join(lost, ", "), more)
	}
	return text
}

// fewGroups is how many consumer groups a sentence names.
const fewGroups = 5
