// Package preflight compares the sites of a failover group before it moves: whether the
// target can take what the active site has. It is pure: what the sites showed is passed
// in. It knows nothing of offsets, votes and leases, which package failover judges.
package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"spillway"
	"spillway/federation/authorization"
)

// Topic is what a site shows of one topic of the group.
type Topic struct {
	Partitions int
	Replicas   int     // of the partition that has the fewest
	Leaderless []int32 // partitions without a leader, ascending
	// InSync is how many replicas of each partition are in sync, by its number.
	InSync []int
	// Settings are those in force, inherited ones included; nil: they were not read.
	Settings map[string]string
}

// Site is what a site shows of the group.
type Site struct {
	ID       spillway.SiteID
	Topics   map[string]Topic
	Brokers  Brokers
	Disks    []Disk
	Arrivals Arrivals
	// Unsure are the partitions whose arrivals may be far fewer, or are no more than what
	// retention takes.
	Unsure   []spillway.TopicPartition
	Protocol Protocol
	Rights   Rights
	Quotas   Quotas
	// Unread are what could not be asked for, and why.
	Unread []Unread
}

// Unread is something that a site could not be asked for.
type Unread struct {
	About string
	Why   string
}

// What a finding is about.
const (
	AboutSites    = "sites"    // whether both were compared
	AboutTopics   = "topics"   // those of the group: partitions, leaders, replicas
	AboutSettings = "settings" // of topics
	AboutBrokers  = "brokers"
	AboutDisks    = "disks"
	AboutGroups   = "groups"   // of consumers
	AboutRights   = "rights"   // of clients
	AboutQuotas   = "quotas"   // of clients
	AboutFeatures = "features" // that the cluster has finalized
)

// Acceptable are what a person may say to go on with all the same: of the rest, producers
// would stand for sure.
var Acceptable = []string{AboutDisks, AboutFeatures, AboutRights}

// Finding is something about the target that a move would meet.
type Finding struct {
	About string `json:"about"`
	// Refuses: clients of the group would stand after the move. A switchover is
	// refused; a failover is a person's choice between two evils.
	Refuses bool `json:"refuses"`
	// Accepted: it would refuse, but a person has said to go on.
	Accepted bool `json:"accepted,omitempty"`
	// Lasting: no mirror and no broker that starts mends it, so nobody waits for its end.
	Lasting bool   `json:"lasting,omitempty"`
	What    string `json:"what"`
	// Names are all rights that What names some of, namesMost at most.
	Names []string `json:"names,omitempty"`
}

// Limits are what the configuration and a person have said.
type Limits struct {
	// ByLists is what gateways decide by beside the sites' access control lists; nil: they
	// do not ask for them.
	ByLists *authorization.Policy
	// Scope is needed where lists were read.
	Scope Scope
	// Room is for how long the target's disks have to take what the group writes.
	Room time.Duration
	// Accepted are things of Acceptable.
	Accepted []string
	// Failover: nothing refuses the move, so there is nothing to accept.
	Failover bool
}

// RoomDefault is Limits.Room where nobody says anything.
const RoomDefault = time.Hour

// namesMax is how many topics or partitions a finding names.
const namesMax = 5

// namesMost is how many a finding lists beside its sentence.
const namesMost = 10_000

// settings that change what clients may do or what is kept, with what it means.
var settings = []struct {
	name  string
	worse func(active, target string) bool
	means string
}{
	{"max.message.bytes", smaller, "larger batches will be refused"},
	{"retention.ms", shorter, "records are kept for a shorter time"},
	{"retention.bytes", shorter, "fewer bytes are kept"},
	{"cleanup.policy", differs, "other records are kept"},
	{"message.timestamp.type", differs, "records get another time"},
	{"min.insync.replicas", smaller, "records are acknowledged with fewer copies"},
	{"unclean.leader.election.enable", func(active, target string) bool { return active != "true" && target == "true" }, "a broker that lacks records may lead"},
}

func differs(active, target string) bool { return active != target }

// smaller compares numbers.
func smaller(active, target string) bool {
	a, errA := strconv.ParseInt(active, 10, 64)
	t, errT := strconv.ParseInt(target, 10, 64)
	return errA == nil && errT == nil && t < a
}

// shorter compares retentions, where −1 is for ever.
func shorter(active, target string) bool {
	if target == "-1" || active == target {
		return false
	}
	return active == "-1" || smaller(active, target)
}

// Compare lists what a move from one site to another would meet, what refuses it first.
// active is nil where that site could not be read: the target is looked at alone then.
func Compare(active *Site, target Site, l Limits) []Finding {
	found := topics(active, target)
	found = append(found, brokers(active, target)...)
	found = append(found, disks(active, target, l)...)
	if active != nil {
		found = append(found, differences(*active, target)...)
		found = append(found, protocols(*active, target)...)
		found = append(found, rights(*active, target, l)...)
		found = append(found, quotas(*active, target)...)
	}
	found = append(found, unread(active, target)...)
	for i := range found {
		if f := &found[i]; f.Refuses && slices.Contains(Acceptable, f.About) {
			if f.Accepted = slices.Contains(l.Accepted, f.About); f.Accepted {
				f.Refuses = false
				continue
			}
			if l.Failover {
				continue
			}
			f.What += fmt.Sprintf("; to go on all the same, give --accept %s", f.About)
		}
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return rank(a) - rank(b) })
	return found
}

func rank(f Finding) int {
	switch {
	case f.Refuses:
		return 0
	case f.Accepted:
		return 1
	}
	return 2
}

// topics lists those of the group that producers could not write to.
func topics(active *Site, target Site) []Finding {
	var found []Finding
	refuse := func(names []string, format string, args ...any) {
		if len(names) > 0 {
			found = append(found, Finding{About: AboutTopics, Refuses: true, What: fmt.Sprintf(format, args...) + ": " + few(names)})
		}
	}
	missing, short := []string{}, []string{}
	if active != nil {
		for _, name := range slices.Sorted(maps.Keys(active.Topics)) {
			has, there := target.Topics[name]
			switch want := active.Topics[name].Partitions; {
			case !there:
				missing = append(missing, name)
			case has.Partitions < want:
				short = append(short, fmt.Sprintf("%s (%d of %d)", name, has.Partitions, want))
			}
		}
	}
	refuse(missing, "%s lacks topics, which its mirror has to create first", target.ID)
	refuse(short, "%s lacks partitions of topics, which its mirror has to create first", target.ID)
	leaderless, under := []string{}, []string{}
	for _, name := range slices.Sorted(maps.Keys(target.Topics)) {
		t := target.Topics[name]
		for _, p := range t.Leaderless {
			leaderless = append(leaderless, fmt.Sprintf("%s-%d", name, p))
		}
		least, err := strconv.Atoi(t.Settings["min.insync.replicas"])
		for p, n := range t.InSync {
			if err == nil && n < least && !slices.Contains(t.Leaderless, int32(p)) {
				under = append(under, fmt.Sprintf("%s-%d (%d of %d)", name, p, n, least))
			}
		}
	}
	refuse(leaderless, "partitions have no leader at %s, start its brokers", target.ID)
	refuse(under, "fewer replicas are in sync at %s than min.insync.replicas asks for, so it refuses acks=all; start its brokers or wait until they have caught up", target.ID)
	return found
}

// unread says what was not looked at, so that nobody takes silence for a good sign.
func unread(active *Site, target Site) []Finding {
	var found []Finding
	sites := []Site{target}
	if active != nil {
		sites = append(sites, *active)
	} else {
		found = append(found, Finding{About: AboutSites, What: fmt.Sprintf("%s was looked at alone: what it has otherwise than the site that serves is not known", target.ID)})
	}
	for _, s := range sites {
		for _, u := range s.Unread {
			found = append(found, Finding{About: u.About, What: fmt.Sprintf("%s of %s could not be checked: %s", u.About, s.ID, u.Why)})
		}
	}
	return found
}

// differences are what clients will notice after the move, and what an operator may have
// meant otherwise.
func differences(active, target Site) []Finding {
	var found []Finding
	fewer := []string{}
	notes := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(active.Topics)) {
		a, t := active.Topics[name], target.Topics[name]
		if t.Replicas > 0 && t.Replicas < a.Replicas {
			fewer = append(fewer, fmt.Sprintf("%s (%d, not %d)", name, t.Replicas, a.Replicas))
		}
		if a.Settings == nil || t.Settings == nil {
			continue
		}
		for _, s := range settings {
			if s.worse(a.Settings[s.name], t.Settings[s.name]) {
				notes[s.name] = append(notes[s.name], fmt.Sprintf("%s (%s, not %s)", name, t.Settings[s.name], a.Settings[s.name]))
			}
		}
	}
	if len(fewer) > 0 {
		found = append(found, Finding{About: AboutTopics, What: fmt.Sprintf("topics have fewer replicas at %s than at %s: %s", target.ID, active.ID, few(fewer))})
	}
	for _, s := range settings {
		if names := notes[s.name]; len(names) > 0 {
			found = append(found, Finding{About: AboutSettings, What: fmt.Sprintf("%s differs at %s, %s: %s", s.name, target.ID, s.means, few(names))})
		}
	}
	return found
}

// Refusals are the sentences of the findings that refuse a switchover.
func Refusals(found []Finding) []string {
	var why []string
	for _, f := range found {
		if f.Refuses {
			why = append(why, f.What)
		}
	}
	return why
}

// number counts things.
func number(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func few(names []string) string {
	if more := len(names) - namesMax; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:namesMax], ", "), more)
	}
	return strings.Join(names, ", ")
}
