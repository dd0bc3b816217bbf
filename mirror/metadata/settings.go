package metadata

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Owned is a setting that the mirror wrote.
type Owned struct {
	Value string `json:"value"`
	// Before is what was there when the change to Value was on its way: the
	// setting is the mirror's with either value. nil: nothing was there, or the
	// change is done.
	Before *string `json:"before,omitempty"`
	// From is the id of the cluster that showed the setting last; empty for one
	// that no source asks for.
	From string `json:"from,omitempty"`
}

// wrote tells whether a value is the mirror's own.
func (o Owned) wrote(value string) bool {
	return value == o.Value || o.Before != nil && value == *o.Before
}

// Wanted is what a setting should be.
type Wanted struct {
	Value string
	From  string // id of the cluster that shows it; empty: the mirror itself wants it
}

// Change is one setting to be changed.
type Change struct {
	Key string  `json:"key"`
	Old *string `json:"old"` // null: not set
	New *string `json:"new"` // null: is removed
	Why string  `json:"why"`
}

// String is the change in a sentence.
func (c Change) String() string {
	switch {
	case c.New == nil:
		return fmt.Sprintf("%s is removed, was %s (%s)", c.Key, *c.Old, c.Why)
	case c.Old == nil:
		return fmt.Sprintf("%s is set to %s (%s)", c.Key, *c.New, c.Why)
	}
	return fmt.Sprintf("%s is set to %s, was %s (%s)", c.Key, *c.New, *c.Old, c.Why)
}

// Kept is a setting that differs from the source and stays as it is.
type Kept struct {
	Key    string `json:"key"`
	Here   string `json:"here"`
	Source string `json:"source"`
	Why    string `json:"why"`
}

// String is what differs, in a sentence.
func (k Kept) String() string {
	return fmt.Sprintf("%s stays %s, the source has %s (%s)", k.Key, k.Here, k.Source, k.Why)
}

// SettingsPlan is what to do about the settings of one thing.
type SettingsPlan struct {
	Changes []Change
	Kept    []Kept
	Intent  map[string]Owned // to be saved as the mirror's own before the changes
	Done    map[string]Owned // and after them
}

// PlanSettings compares the settings that are wanted with those that are set
// here. agreed, which may be nil, are settings that the source's own mirror wrote
// there while that site followed: who finds the same here finds what all sites
// had before the source was changed.
func PlanSettings(source string, wanted map[string]Wanted, here map[string]string, owned map[string]Owned, agreed map[string]string) SettingsPlan {
	p := SettingsPlan{Intent: make(map[string]Owned), Done: make(map[string]Owned)}
	for _, key := range keysOf(wanted, owned, agreed) {
		w, want := wanted[key]
		value, set := here[key]
		o, ours := owned[key]
		ours = ours && (!set || o.wrote(value))
		common, shared := agreed[key]
		shared = shared && set && value == common
		switch {
		case want && set && value == w.Value:
			if ours {
				p.own(key, Owned{Value: value, From: w.From}, Owned{Value: value, From: w.From})
			}
		case want && (!set || ours || shared):
			change := Change{Key: key, New: &w.Value, Why: "as at the source"}
			next := Owned{Value: w.Value, From: w.From}
			if set {
				change.Old, next.Before = &value, &value
			}
			if w.From == "" {
				change.Why = "needed by the mirror"
			}
			p.Changes = append(p.Changes, change)
			p.own(key, next, Owned{Value: w.Value, From: w.From})
		case want:
			p.Kept = append(p.Kept, Kept{Key: key, Here: value, Source: w.Value, Why: "set here by somebody else; to follow the source, remove it here"})
		case set && (ours && o.From == source || !ours && shared):
			p.Changes = append(p.Changes, Change{Key: key, Old: &value, Why: "removed at the source"})
			if ours {
				p.Intent[key] = o
			}
		case set && ours:
			p.own(key, o, o)
		}
	}
	return p
}

func (p *SettingsPlan) own(key string, intent, done Owned) { p.Intent[key], p.Done[key] = intent, done }

// Leave makes the plan say of a setting what was known before.
func (p *SettingsPlan) Leave(key string, owned map[string]Owned) {
	if o, ours := owned[key]; ours {
		p.own(key, o, o)
		return
	}
	delete(p.Intent, key)
	delete(p.Done, key)
}

// LeaveOut takes a setting that is borrowed out of the plan. What was the mirror's own of it
// stays so, with what it is to be once it is given back.
func (p *SettingsPlan) LeaveOut(key string, wanted map[string]Wanted, owned map[string]Owned) {
	p.Changes = slices.DeleteFunc(p.Changes, func(c Change) bool { return c.Key == key })
	p.Kept = slices.DeleteFunc(p.Kept, func(k Kept) bool { return k.Key == key })
	p.Leave(key, owned)
	if w, want := wanted[key]; want {
		p.own(key, Owned{Value: w.Value, From: w.From}, Owned{Value: w.Value, From: w.From})
	}
}

func keysOf(wanted map[string]Wanted, owned map[string]Owned, agreed map[string]string) []string {
	all := make(map[string]bool)
	for key := range wanted {
		all[key] = true
	}
	for key := range owned {
		all[key] = true
	}
	for key := range agreed {
		all[key] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// Needs are what a topic needs while a mirror writes to it, so that its records
// can be equal to their source (C36): no recompression, the producer's times, and
// any time allowed. They are borrowed, whatever is set there, and given back when
// the site serves.
var Needs = map[string]string{
	"compression.type":                "producer",
	"message.timestamp.type":          "CreateTime",
	"message.timestamp.before.max.ms": strconv.FormatInt(math.MaxInt64, 10),
	"message.timestamp.after.max.ms":  strconv.FormatInt(math.MaxInt64, 10),
}

// Stopped are what keeps the log cleaner from a topic whose log at this site hides records
// (C11). They are borrowed like Needs, also while the site serves, until nothing is hidden
// any more: a log that is never cleaned is read all the same, and what a cleaner removed is
// gone. A lag at most that is shorter than the one at least would be refused by brokers,
// and obeyed by those that do not look.
var Stopped = map[string]string{
	"min.compaction.lag.ms": strconv.FormatInt(math.MaxInt64, 10),
	"max.compaction.lag.ms": strconv.FormatInt(math.MaxInt64, 10),
}

// Compacts tells whether a log cleaner works at a topic with the settings.
func Compacts(settings map[string]string) bool {
	return strings.Contains(settings["cleanup.policy"], "compact")
}

// needs are what is borrowed of a topic into which the mirror writes.
func needs(stopped bool) map[string]string {
	if !stopped {
		return Needs
	}
	all := maps.Clone(Needs)
	maps.Copy(all, Stopped)
	return all
}

// Defaults are set on topics where nobody set anything else: a log that loses its
// end contradicts the map (C14).
var Defaults = map[string]string{"unclean.leader.election.enable": "false"}

// Excluded are the settings that are each site's own, exact names or a prefix
// followed by "*": about its replicas, its tiered storage, movements of its
// partitions, and what newer clusters do not know any more.
var Excluded = []string{
	"min.insync.replicas", "unclean.leader.election.enable",
	"leader.replication.throttled.replicas", "follower.replication.throttled.replicas",
	"remote.*", "local.retention.*",
	"message.format.version", "message.downconversion.enable", "message.timestamp.difference.max.ms",
}

// Carried are the settings of a topic at the source that its mirrors should have,
// without those that excluded names beside Excluded.
func Carried(source string, settings map[string]string, excluded []string) map[string]Wanted {
	wanted := make(map[string]Wanted, len(settings)+len(Defaults))
	for key, value := range Defaults {
		wanted[key] = Wanted{Value: value}
	}
	for key, value := range settings {
		if _, need := Needs[key]; !need && !named(Excluded, key) && !named(excluded, key) {
			wanted[key] = Wanted{Value: value, From: source}
		}
	}
	return wanted
}

func named(patterns []string, key string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, ok := strings.CutSuffix(p, "*")
		return p == key || ok && strings.HasPrefix(key, prefix)
	})
}

// PlanBorrowed makes the settings of a topic what Needs says, and Stopped if its cleaner
// is to be. theirs is what the source has in their place, which the site will have when it
// serves, and has again when the cleaner may go on. The result is saved before the changes
// are made.
func PlanBorrowed(theirs, here map[string]string, borrowed map[string]*string, stopped bool) (changes []Change, now map[string]*string) {
	now = make(map[string]*string)
	wanted := needs(stopped)
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		need, why := wanted[key], "needed while the mirror writes here"
		if _, is := Stopped[key]; is {
			why = stoppedWhy
		}
		value, set := here[key]
		_, had := borrowed[key]
		if set && value == need && !had {
			continue // somebody else set it so
		}
		if their, ok := theirs[key]; ok {
			now[key] = &their
		} else {
			now[key] = nil
		}
		if set && value == need {
			continue
		}
		change := Change{Key: key, New: &need, Why: why}
		if set {
			change.Old = &value
		}
		changes = append(changes, change)
	}
	if !stopped {
		changes = append(changes, planReleased(theirs, here, borrowed)...)
	}
	return changes, now
}

const (
	stoppedWhy  = "the log hides records, and its cleaner would remove what clients see"
	releasedWhy = "the log hides no records any more"
)

// planReleased lets the cleaner of a topic go on as at the source.
func planReleased(theirs, here map[string]string, borrowed map[string]*string) (changes []Change) {
	for _, key := range slices.Sorted(maps.Keys(Stopped)) {
		_, had := borrowed[key]
		value, set := here[key]
		if !had || !set || value != Stopped[key] {
			continue
		}
		change := Change{Key: key, Old: &value, Why: releasedWhy}
		if their, ok := theirs[key]; ok {
			if their == value {
				continue
			}
			change.New = &their
		}
		changes = append(changes, change)
	}
	return changes
}

// PlanReturned gives back what was borrowed, unless somebody changed it since, and keeps
// the cleaner of a topic stopped, or stops it, while it has to be. What is borrowed
// afterwards is saved before the changes are made, and left is what of it is so for good.
func PlanReturned(here map[string]string, borrowed map[string]*string, stopped bool) (changes []Change, left map[string]*string) {
	for _, key := range slices.Sorted(maps.Keys(borrowed)) {
		need, known := Needs[key]
		why := "the site serves the topic"
		if stop, is := Stopped[key]; is {
			if stopped {
				continue
			}
			need, known, why = stop, true, releasedWhy
		}
		value, set := here[key]
		theirs := borrowed[key]
		if !known || !set || value != need || theirs != nil && *theirs == need {
			continue
		}
		changes = append(changes, Change{Key: key, Old: &value, New: theirs, Why: why})
	}
	if !stopped {
		return changes, nil
	}
	left = make(map[string]*string)
	for _, key := range slices.Sorted(maps.Keys(Stopped)) {
		need := Stopped[key]
		value, set := here[key]
		before, had := borrowed[key]
		if had {
			left[key] = before
		}
		if set && value == need {
			continue
		}
		change := Change{Key: key, New: &need, Why: stoppedWhy}
		if set {
			change.Old = &value
		}
		left[key] = change.Old
		changes = append(changes, change)
	}
	return changes, left
}
