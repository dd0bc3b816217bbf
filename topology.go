package spillway

import (
	"crypto/sha1"
	"slices"
	"strings"
	"time"
)

// Kinds of failover groups.
const (
	// Ordered groups have one active site per partition at a time; order,
	// idempotence and offsets hold across sites.
	Ordered = "ordered"
	// Unordered groups take a batch at any site: at least once, no order.
	Unordered = "unordered"
)

// HomeFirst is the balance of unordered groups that writes a batch where its client
// sent it as long as that site can take it. The others are the policies of package lb.
const HomeFirst = "home-first"

// Site is one Kafka cluster as the topology names it. Addresses and
// credentials are the business of package broker.
type Site struct {
	ID SiteID
	// MirrorPrincipal and GatewayPrincipal are the Kafka principals
	// ("User:name") under which mirror and gateway write at this site; empty
	// where the site has no authorizer. The resource fence denies writes to
	// the gateway's.
	MirrorPrincipal  string
	GatewayPrincipal string
	// Weight is the site's part of what is balanced by weight, against those of
	// others; 0 counts as 1.
	Weight int
}

// What becomes of producers when the other sites lack more than AckPolicy allows.
const (
	OnLagWarn     = "warn"     // nothing, but that people are told
	OnLagThrottle = "throttle" // they are answered late, so that they write less
	OnLagBlock    = "block"    // they are answered when the others are within the limits again
)

// From where consumers read that have said at which site they stand.
const (
	ReadsActive  = "active"  // the site that serves, as all others
	ReadsStandby = "standby" // their own site, as far as it has the records
)

// AckPolicy says how many sites must hold a record before its producer is
// answered.
type AckPolicy struct {
	Sites       int    // 1 or more
	OnShortfall string // "block" or "degrade"
	// ShortfallAfter is how long too few sites must have held records up until
	// that is done, and enough must have come back until it is undone.
	ShortfallAfter time.Duration
	// OnLag says what becomes of producers where Sites is 1 and the other sites lack more
	// of a partition than LagMax and LagRecordsMax allow: one of OnLagWarn, OnLagThrottle and OnLagBlock.
	OnLag         string
	LagMax        time.Duration // since the oldest record that they lack; 0: no limit
	LagRecordsMax int64         // 0: no limit
}

// AutomaticFailover bounds what may happen without a person.
type AutomaticFailover struct {
	Enabled        bool
	After          time.Duration // the site must have been found dead for so long
	LossRecordsMax int64         // more unreplicated records than this need a person
	PerHourMax     int
}

// FailoverGroup is a set of topics, consumer groups and transactional ids that
// move together.
type FailoverGroup struct {
	Name           string
	Kind           string   // Ordered or Unordered
	Topics         []string // exact names, or a prefix followed by "*"
	ConsumerGroups []string // exact names, or a prefix followed by "*"
	// TransactionalIDs are those of the producers whose transactions are within the group:
	// exact names, or a prefix followed by "*". Only Ordered groups with Ack.Sites 1 have any.
	TransactionalIDs []string
	// TransactionTimeoutMax bounds the timeout of their transactions; 0: the sites do. An
	// open one keeps what others write behind it from the other sites.
	TransactionTimeoutMax time.Duration
	Sites                 []SiteID // preferred first; the first is the initial home
	Ack                   AckPolicy
	OffsetBase            Offset // virtual minus local offset in epoch 1
	// FollowDeletions has topics deleted at standbys that are deleted at the active
	// site, where a mirror had created them.
	FollowDeletions bool
	ReservedBlock   int64 // how far the reserved end is raised ahead of use
	GroupDrain      time.Duration
	HoldMax         time.Duration
	Failover        AutomaticFailover
	Siblings        Siblings // of Unordered groups
	Reads           string   // ReadsActive, also where empty, or ReadsStandby
	// FreshnessMax is how old what a standby has may be for consumers to be sent there.
	FreshnessMax time.Duration
	// Adopting: clients of the group may still connect to the brokers of the site that serves
	// it, past the gateways. They would not come along if it moved.
	Adopting bool
	// DrillEvery is how often a drill of the group is to pass, which exists for drills
	// alone; 0: it is no such group.
	DrillEvery time.Duration
}

// ReadsAt tells whether consumers that stand at a site are to read there.
func (g FailoverGroup) ReadsAt(site SiteID) bool {
	return g.Reads == ReadsStandby && slices.Contains(g.Sites, site)
}

// Siblings are the failover groups that together are one unordered group, one for each
// site: what lives at one site has its own record, offsets, mirrors and moves.
//
// Each topic is shown as Partitions × len(Groups) partitions. Partition q belongs to
// group q ÷ Partitions; a batch for it may be written to any partition with the same
// q mod Partitions (R3).
type Siblings struct {
	Of         string   // name of the unordered group; "" where there are none
	Groups     []string // names of all, in order of their homes
	Index      int      // of the group among them
	Partitions int32    // of each topic that one of them has
	Balance    string   // HomeFirst or a policy of package lb
}

// Total is how many partitions each topic has; 0 where that is the topic's own affair.
func (s Siblings) Total() int32 { return s.Partitions * int32(len(s.Groups)) }

// Partition is the one of a group, by its index, that a batch for tp may be written to.
func (s Siblings) Partition(index int, tp TopicPartition) TopicPartition {
	tp.Partition = int32(index)*s.Partitions + tp.Partition%s.Partitions
	return tp
}

// Spread makes the failover groups that stand for an unordered one: one for each of
// its sites, NAME-SITE, which is its home. The first one has what cannot be divided:
// consumer groups, and what belongs to whole topics.
func (g FailoverGroup) Spread(partitions int32, balance string) []FailoverGroup {
	var names []string
	for _, site := range g.Sites {
		names = append(names, g.Name+"-"+string(site))
	}
	var all []FailoverGroup
	for i, name := range names {
		one := g
		one.Name, one.Kind = name, Unordered
		one.Sites = slices.Concat(g.Sites[i:], g.Sites[:i])
		one.Siblings = Siblings{Of: g.Name, Groups: names, Index: i, Partitions: partitions, Balance: balance}
		if i > 0 {
			one.ConsumerGroups = nil
		}
		all = append(all, one)
	}
	return all
}

// Topology is the immutable description of one virtual cluster: built once
// from the configuration, replaced whole, never edited.
type Topology struct {
	name      string
	clusterID string
	sites     []Site
	groups    []FailoverGroup
	// Where groups are among groups, by name and by what their patterns say: partitions of
	// thousands of topics are looked up again and again.
	byName                           map[string]int
	topics, consumers, transactional patterns
}

// NewTopology copies its arguments. Names must be unique and refer to each
// other; package configs checks that and reports the faults by key.
func NewTopology(name, clusterID string, sites []Site, groups []FailoverGroup) *Topology {
	t := &Topology{name: name, clusterID: clusterID, sites: slices.Clone(sites), groups: slices.Clone(groups), byName: map[string]int{}}
	for i, g := range t.groups {
		if _, twice := t.byName[g.Name]; !twice {
			t.byName[g.Name] = i
		}
		t.topics.add(g.Topics, i)
		t.consumers.add(g.ConsumerGroups, i)
		t.transactional.add(g.TransactionalIDs, i)
	}
	return t
}

// patterns finds the group of a name in as many steps as prefixes have lengths, however
// many groups there are.
type patterns struct {
	exact    map[string]int
	prefixes map[string]int
	lengths  []int // that prefixes have, longest first
}

// add notes what names belong to a group; what an earlier one has as well stays with that.
func (p *patterns) add(of []string, group int) {
	if p.exact == nil {
		p.exact, p.prefixes = map[string]int{}, map[string]int{}
	}
	for _, pattern := range of {
		to := p.exact
		prefix, ends := strings.CutSuffix(pattern, "*")
		if ends {
			to = p.prefixes
			if at, known := slices.BinarySearchFunc(p.lengths, len(prefix), func(have, n int) int { return n - have }); !known {
				p.lengths = slices.Insert(p.lengths, at, len(prefix))
			}
		}
		if _, taken := to[prefix]; !taken {
			to[prefix] = group
		}
	}
}

func (p *patterns) find(name string) (group int, ok bool) {
	if group, ok = p.exact[name]; ok {
		return group, true
	}
	for _, n := range p.lengths {
		if n > len(name) {
			continue
		}
		if group, ok = p.prefixes[name[:n]]; ok {
			return group, true
		}
	}
	return 0, false
}

// Name of the virtual cluster, the prefix of its keys in the coordinator store.
func (t *Topology) Name() string { return t.name }

// ClusterID is the Kafka cluster id that clients see.
func (t *Topology) ClusterID() string { return t.clusterID }

// Sites in configured order.
func (t *Topology) Sites() []Site { return slices.Clone(t.sites) }

// Groups in configured order.
func (t *Topology) Groups() []FailoverGroup { return slices.Clone(t.groups) }

// Site finds a site by its id.
func (t *Topology) Site(id SiteID) (Site, bool) {
	i := slices.IndexFunc(t.sites, func(s Site) bool { return s.ID == id })
	if i < 0 {
		return Site{}, false
	}
	return t.sites[i], true
}

// Group finds a failover group by its name.
func (t *Topology) Group(name string) (FailoverGroup, bool) {
	i, ok := t.byName[name]
	if !ok {
		return FailoverGroup{}, false
	}
	return t.groups[i], true
}

// GroupOfTopic finds the failover group that a topic belongs to: an exact name
// wins over a prefix, a longer prefix over a shorter one. Internal topics, those
// of Kafka and of Spillway, belong to their site and to no group, also where a
// pattern is "*".
func (t *Topology) GroupOfTopic(topic string) (FailoverGroup, bool) {
	if strings.HasPrefix(topic, internalPrefix) {
		return FailoverGroup{}, false
	}
	return t.find(&t.topics, topic)
}

// GroupOf finds the failover group that a partition belongs to. It is another one than
// that of the topic where that is one of Siblings.
func (t *Topology) GroupOf(tp TopicPartition) (FailoverGroup, bool) {
	g, ok := t.GroupOfTopic(tp.Topic)
	if !ok || g.Siblings.Partitions == 0 {
		return g, ok
	}
	if tp.Partition < 0 || tp.Partition >= g.Siblings.Total() {
		return FailoverGroup{}, false
	}
	return t.Group(g.Siblings.Groups[tp.Partition/g.Siblings.Partitions])
}

// HasDrills tells whether some group exists for drills.
func (t *Topology) HasDrills() bool {
	return slices.ContainsFunc(t.groups, func(g FailoverGroup) bool { return g.DrillEvery > 0 })
}

// HasTopic tells whether partitions of a topic belong to the failover group.
func (t *Topology) HasTopic(group FailoverGroup, topic string) bool {
	g, ok := t.GroupOfTopic(topic)
	return ok && (g.Name == group.Name || g.Siblings.Of != "" && g.Siblings.Of == group.Siblings.Of)
}

// Has tells whether a partition belongs to the failover group.
func (t *Topology) Has(group FailoverGroup, tp TopicPartition) bool {
	g, ok := t.GroupOf(tp)
	return ok && g.Name == group.Name
}

// GroupOfConsumerGroup finds the failover group that moves a consumer group.
func (t *Topology) GroupOfConsumerGroup(group string) (FailoverGroup, bool) {
	return t.find(&t.consumers, group)
}

// GroupOfTransactionalID finds the failover group within which a producer's transactions are.
func (t *Topology) GroupOfTransactionalID(id string) (FailoverGroup, bool) {
	return t.find(&t.transactional, id)
}

func (t *Topology) find(p *patterns, name string) (FailoverGroup, bool) {
	i, ok := p.find(name)
	if !ok {
		return FailoverGroup{}, false
	}
	return t.groups[i], true
}

// Named are those of the names in all that patterns name, sorted. Where a pattern is a name it
// looks at no other one.
func Named[T any](patterns []string, all map[string]T) []string {
	var names []string
	for _, pattern := range patterns {
		prefix, ends := strings.CutSuffix(pattern, "*")
		if !ends {
			if _, ok := all[pattern]; ok {
				names = append(names, pattern)
			}
			continue
		}
		for name := range all {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// internalPrefix starts the names of topics that a site keeps for itself.
const internalPrefix = "__"

// InternalTopicPrefix starts the names of Spillway's own topics. Clients of the
// virtual cluster never see them.
const InternalTopicPrefix = "__spillway_"

// MapTopic holds a site's offset map.
const MapTopic = InternalTopicPrefix + "map"

// gatewayClientID begins the client ids under which gateways speak to brokers. These show it
// of each member of a consumer group, so it tells who came by a gateway, also where all come
// from one address.
const gatewayClientID = "spillway-gateway-"

// GatewayClientID is the client id of a gateway at the brokers.
func GatewayClientID(id GatewayID) string { return gatewayClientID + string(id) }

// IsGatewayClientID tells whether a client id is that of a gateway.
func IsGatewayClientID(id string) bool { return strings.HasPrefix(id, gatewayClientID) }

// EpochMax is the last epoch of a share: behind it the leader epochs that clients
// see would turn negative.
const EpochMax Epoch = 1<<11 - 1

// VirtualLeaderEpoch is the leader epoch that clients see for a share in epoch
// e: rising with e, never the broker's own (C21), and positive up to EpochMax.
func VirtualLeaderEpoch(e Epoch) int32 { return int32(e)<<20 | 1 }

// EpochOfLeaderEpoch reads the epoch back.
func EpochOfLeaderEpoch(leaderEpoch int32) Epoch { return Epoch(leaderEpoch >> 20) }

// TopicID is the virtual topic id: UUID version 5 (RFC 9562) of the virtual
// cluster's id and the topic's name, so that all gateways agree without asking.
func (t *Topology) TopicID(topic string) [16]byte {
	h := sha1.New()
	h.Write([]byte("spillway/" + t.clusterID + "/" + topic))
	var id [16]byte
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}
