package configs

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"spillway"
	"spillway/lb"
)

func (c *checker) groups(cfg *Config, places []string) {
	if len(cfg.FailoverGroups) == 0 {
		c.at("failoverGroups", "is missing: topics that belong to no group are not served")
	}
	siteNames := places[:len(cfg.Sites)]
	var names []string
	owners := map[string]string{}
	for i, g := range cfg.FailoverGroups {
		key := fmt.Sprintf("failoverGroups[%d]", i)
		c.name(key+".name", g.Name)
		if slices.Contains(names, g.Name) {
			c.at(key+".name", "%q is named twice", g.Name)
		}
		names = append(names, g.Name)
		c.patterns(key+".topics", g.Topics, "t/", g.Name, owners)
		c.patterns(key+".consumerGroups", g.ConsumerGroups, "g/", g.Name, owners)
		c.patterns(key+".transactionalIds", g.TransactionalIDs, "x/", g.Name, owners)
		c.transactions(key, g)
		c.groupSites(key, g, siteNames)
		c.groupLimits(key, g, len(places))
		c.order(key, g)
		c.drill(key, g)
		c.adopting(key, g)
		c.reads(key, g)
	}
	c.siblingNames(cfg, names)
}

// transactions checks that a group which names transactional ids has one home, and that
// its acknowledgements wait for no mirror: mirrors carry what is committed, and before a
// transaction is committed all of it has to be acknowledged (C4).
func (c *checker) transactions(key string, g FailoverGroup) {
	if len(g.TransactionalIDs) == 0 {
		return
	}
	if g.TransactionTimeoutMax < transactionTimeoutLeast || g.TransactionTimeoutMax > transactionTimeoutMost {
		c.at(key+".transactionTimeoutMax", "%s: must be %s to %s", g.TransactionTimeoutMax, transactionTimeoutLeast, transactionTimeoutMost)
	}
	at := key + ".transactionalIds"
	switch {
	case g.Order == spillway.Unordered:
		c.at(at, "is for order ordered: a transaction has one home, and the partitions of an unordered group have one at each site")
	case g.Ack.Sites > 1:
		c.at(at, "needs ack.sites 1: with %d a record is acknowledged when another site has it, which gets it when its transaction is committed, which waits for the acknowledgement", g.Ack.Sites)
	case g.Ack.OnLag == spillway.OnLagBlock:
		c.at(at, "needs ack.onLag warn or throttle: block holds acknowledgements until another site has the records, which gets them when their transaction is committed, which waits for the acknowledgements")
	}
}

// drill checks that a group of drills has one topic, somewhere to go, and nothing of
// anybody else.
func (c *checker) drill(key string, g FailoverGroup) {
	at := key + ".drillEvery"
	switch {
	case g.DrillEvery == 0:
	case g.DrillEvery < drillEveryLeast:
		c.at(at, "%s: must be %s or more, or 0s for a group that has no drills", g.DrillEvery, drillEveryLeast)
	case g.Order == spillway.Unordered:
		c.at(at, "is for order ordered: nothing is promised of an unordered group that a drill could hold against it")
	case len(g.Topics) != 1 || strings.Contains(g.Topics[0], "*"):
		c.at(at, "needs topics to be one exact name, which a drill writes and nobody else")
	case len(g.ConsumerGroups)+len(g.TransactionalIDs) > 0:
		c.at(at, "is for a group without consumerGroups and transactionalIds: a drill fails the group over, and what others have in it with it")
	case len(g.Sites) < 2:
		c.at(at, "needs another site to fail over to")
	}
}

// directQuietLeast is the shortest pause after which a producer counts as gone.
const directQuietLeast = time.Second

// adopting checks that clients of brokers and of gateways see the same topics.
func (c *checker) adopting(key string, g FailoverGroup) {
	at := key + ".adopting"
	switch {
	case !g.Adopting:
	case g.Order == spillway.Unordered:
		c.at(at, "is for order ordered: clients of the brokers would see the partitions of one site alone")
	case g.DrillEvery > 0:
		c.at(at, "is for a group of applications: nobody but drills has to do with one that has drillEvery")
	}
}

// drillEveryLeast is more than a drill takes.
const drillEveryLeast = 5 * time.Minute

// transactionTimeoutLeast and transactionTimeoutMost bound what transactionTimeoutMax may
// be. Kafka's own limit is the latter, where nobody has set another.
const (
	transactionTimeoutLeast = time.Second
	transactionTimeoutMost  = 15 * time.Minute
)

// siblingNames are those of the failover groups that unordered ones stand for; names are
// those in the file.
func (c *checker) siblingNames(cfg *Config, names []string) {
	of := map[string]string{}
	for i, g := range cfg.FailoverGroups {
		if g.Order != spillway.Unordered {
			continue
		}
		for _, one := range g.nouns() {
			other, taken := of[one.Name]
			of[one.Name] = g.Name
			switch {
			case slices.Contains(names, one.Name):
				c.at(fmt.Sprintf("failoverGroups[%d].name", i), "%q is unordered, so there is a failover group %s for site %s, and another group has that name", g.Name, one.Name, one.Sites[0])
			case taken && other != g.Name: // else it is named twice
				c.at(fmt.Sprintf("failoverGroups[%d].name", i), "%q is unordered, so there is a failover group %s for site %s, and group %s has one of that name too", g.Name, one.Name, one.Sites[0], other)
			}
		}
	}
}

// order checks what groups with order unordered need, and what only they have.
func (c *checker) order(key string, g FailoverGroup) {
	if g.Order != spillway.Unordered {
		if g.Partitions > 0 {
			c.at(key+".partitions", "is for order unordered: an ordered group takes topics as they are")
		}
		if g.Balance != "" && g.Balance != spillway.HomeFirst {
			c.at(key+".balance", "%s is for order unordered: a partition of an ordered group is written at its active site only", g.Balance)
		}
		return
	}
	if g.Partitions < 1 || g.Partitions > partitionsLimit {
		c.at(key+".partitions", "must be 1 to %d with order unordered: how many partitions of each topic live at one site", partitionsLimit)
	}
	if len(g.Sites) < 2 {
		c.at(key+".order", "unordered needs another site that could take a batch")
	}
	if len(g.Sites) > lb.TargetsMax {
		c.at(key+".sites", "there are %d, and an unordered group has %d at most", len(g.Sites), lb.TargetsMax)
	}
	if g.Ack.Sites > 1 && g.Ack.Sites == len(g.Sites) && g.Ack.OnShortfall == onShortfallBlock {
		c.at(key+".ack.sites", "%d of %d sites with onShortfall block would refuse every batch while one of them is away, and each try of its client would leave another copy; ask for fewer sites, or set onShortfall: degrade", g.Ack.Sites, len(g.Sites))
	}
	if g.Ack.OnLag != spillway.OnLagWarn {
		c.at(key+".ack.onLag", "%s is for order ordered: only the gateway that leads a partition knows its lag, and others write to it too", g.Ack.OnLag)
	}
	if g.Ack.LagRecordsMax > 0 {
		c.at(key+".ack.lagRecordsMax", "is for order ordered, as onLag is")
	}
	if g.Ack.LagMax > 0 && g.Ack.LagMax != lagMaxDefault {
		c.at(key+".ack.lagMax", "is for order ordered, as onLag is")
	}
	if g.Deletes == "follow" {
		c.at(key+".deletes", "follow is for order ordered: each site has records of its own in every topic, so delete it at all of them")
	}
}

// partitionsLimit is a bound against slips; a site with so many is in trouble anyway.
const partitionsLimit = 10_000

// patterns must belong to one group each; the most specific one wins between
// different patterns, but equal ones would be a coin toss.
func (c *checker) patterns(key string, patterns []string, kind, group string, owners map[string]string) {
	for i, p := range patterns {
		at := fmt.Sprintf("%s[%d]", key, i)
		if star := strings.Index(p, "*"); star >= 0 && star != len(p)-1 {
			c.at(at, "%q: a * stands only at the end", p)
		}
		if strings.HasPrefix(p, "__") {
			c.at(at, "%q: topics and groups that begin with __ are internal", p)
		}
		if owner, taken := owners[kind+p]; taken {
			c.at(at, "%q is in group %s already", p, owner)
			continue
		}
		owners[kind+p] = group
	}
}

func (c *checker) groupSites(key string, g FailoverGroup, sites []string) {
	if len(g.Topics) == 0 {
		c.at(key+".topics", "is empty: name topics, or a prefix followed by *")
	}
	if len(g.Sites) == 0 {
		c.at(key+".sites", "is empty: name the sites, preferred first")
	}
	for i, s := range g.Sites {
		at := fmt.Sprintf("%s.sites[%d]", key, i)
		switch {
		case slices.Contains(g.Sites[:i], s):
			c.at(at, "%q is named twice: a flow to itself", s)
		case !slices.Contains(sites, s):
			text := fmt.Sprintf("%q is not a site", s)
			if near := nearest(s, sites); near != "" {
				text += fmt.Sprintf("; did you mean %s?", near)
			}
			c.at(at, "%s", text)
		}
	}
}

func (c *checker) groupLimits(key string, g FailoverGroup, places int) {
	if g.Ack.Sites < 1 {
		c.at(key+".ack.sites", "must be 1 or more")
	}
	if g.Ack.Sites > len(g.Sites) {
		c.at(key+".ack.sites", "%d sites cannot hold the records of a group that has %d", g.Ack.Sites, len(g.Sites))
	}
	c.lag(key+".ack", g)
	if g.ReservedBlock < 1 {
		c.at(key+".reservedBlock", "must be 1 or more")
	}
	if g.HoldMax > HoldLimit || g.HoldMax <= 0 {
		c.at(key+".holdMax", "%s: must be between 0s and %s, since clients give up a request after 10s", g.HoldMax, HoldLimit)
	}
	if g.Failover.Automatic && places < 3 {
		c.at(key+".failover.automatic", "needs three places that vote, and there are %d: with two, nobody can tell a dead site from a cut line; add a witness, or fail over by hand", places)
	}
	if g.Failover.Automatic && g.Failover.PerHourMax < 1 {
		c.at(key+".failover.perHourMax", "must be 1 or more, or automatic false")
	}
}

// onShortfallBlock is the default of ack.onShortfall.
const onShortfallBlock = "block"

// lagMaxDefault is that of ack.lagMax: a group that is not said to have one has it.
const lagMaxDefault = 30 * time.Second

// lagMaxLeast is a few rounds between sites that are far from each other.
const lagMaxLeast = time.Second

func (c *checker) lag(key string, g FailoverGroup) {
	if g.Ack.LagRecordsMax < 0 {
		c.at(key+".lagRecordsMax", "%d is negative; 0 means no limit", g.Ack.LagRecordsMax)
	}
	if g.Ack.LagMax < 0 || g.Ack.LagMax > 0 && g.Ack.LagMax < lagMaxLeast {
		c.at(key+".lagMax", "%s: must be %s or more, or 0s for no limit", g.Ack.LagMax, lagMaxLeast)
	}
	if g.Ack.LagRecordsMax > 0 && g.Ack.Sites > 1 {
		c.at(key+".lagRecordsMax", "is for ack.sites 1: with %d every acknowledgement waits for another site", g.Ack.Sites)
	}
	if g.Ack.OnLag == spillway.OnLagWarn {
		return
	}
	switch {
	case g.Ack.Sites > 1:
		c.at(key+".onLag", "%s is for ack.sites 1: with %d every acknowledgement waits for another site", g.Ack.OnLag, g.Ack.Sites)
	case len(g.Sites) < 2:
		c.at(key+".onLag", "%s needs another site that could have the records", g.Ack.OnLag)
	case g.Ack.LagMax == 0 && g.Ack.LagRecordsMax == 0:
		c.at(key+".onLag", "%s needs a limit: lagMax, lagRecordsMax, or both", g.Ack.OnLag)
	}
}

// freshnessMaxDefault is that of freshnessMax, and freshnessMaxLeast a few of the questions
// by which gateways learn how far a standby is.
const (
	freshnessMaxDefault = 10 * time.Second
	freshnessMaxLeast   = 3 * time.Second
)

// reads checks what groups need whose standbys are read.
func (c *checker) reads(key string, g FailoverGroup) {
	if g.Reads != spillway.ReadsStandby {
		if g.FreshnessMax != freshnessMaxDefault {
			c.at(key+".freshnessMax", "is for reads standby: nobody reads at a standby of this group")
		}
		return
	}
	switch {
	case g.Order == spillway.Unordered:
		c.at(key+".reads", "standby is for order ordered: each site of an unordered group has partitions of its own")
	case len(g.Sites) < 2:
		c.at(key+".reads", "standby needs another site that could be read")
	}
	if g.FreshnessMax < freshnessMaxLeast {
		c.at(key+".freshnessMax", "%s: must be %s or more, since a site is asked once a second how far it is", g.FreshnessMax, freshnessMaxLeast)
	}
}

// Topology is the immutable description that all parts share.
func (cfg *Config) Topology() *spillway.Topology {
	sites := make([]spillway.Site, len(cfg.Sites))
	for i, s := range cfg.Sites {
		sites[i] = spillway.Site{ID: spillway.SiteID(s.Name), MirrorPrincipal: s.MirrorPrincipal, GatewayPrincipal: s.GatewayPrincipal, Weight: s.Weight}
	}
	var groups []spillway.FailoverGroup
	for _, g := range cfg.FailoverGroups {
		groups = append(groups, g.nouns()...)
	}
	return spillway.NewTopology(cfg.VirtualCluster.Name, cfg.VirtualCluster.ClusterID, sites, groups)
}

// nouns are the failover groups that an entry stands for: one, or one for each site.
func (g FailoverGroup) nouns() []spillway.FailoverGroup {
	if g.Order == spillway.Unordered {
		return g.noun().Spread(int32(g.Partitions), g.Balance)
	}
	return []spillway.FailoverGroup{g.noun()}
}

func (g FailoverGroup) noun() spillway.FailoverGroup {
	sites := make([]spillway.SiteID, len(g.Sites))
	for i, s := range g.Sites {
		sites[i] = spillway.SiteID(s)
	}
	return spillway.FailoverGroup{
		Name:                  g.Name,
		Kind:                  spillway.Ordered,
		Topics:                g.Topics,
		ConsumerGroups:        g.ConsumerGroups,
		TransactionalIDs:      g.TransactionalIDs,
		TransactionTimeoutMax: g.TransactionTimeoutMax,
		Sites:                 sites,
		Ack: spillway.AckPolicy{Sites: g.Ack.Sites, OnShortfall: g.Ack.OnShortfall, ShortfallAfter: g.Ack.ShortfallAfter,
			OnLag: g.Ack.OnLag, LagMax: g.Ack.LagMax, LagRecordsMax: g.Ack.LagRecordsMax},
		OffsetBase:      spillway.Offset(g.OffsetBase),
		FollowDeletions: g.Deletes == "follow",
		ReservedBlock:   g.ReservedBlock,
		GroupDrain:      g.GroupDrain,
		HoldMax:         g.HoldMax,
		Failover: spillway.AutomaticFailover{
			Enabled: g.Failover.Automatic, After: g.Failover.After,
			LossRecordsMax: g.Failover.LossRecordsMax, PerHourMax: g.Failover.PerHourMax,
		},
		Adopting:     g.Adopting,
		DrillEvery:   g.DrillEvery,
		Reads:        g.Reads,
		FreshnessMax: g.FreshnessMax,
	}
}

// Site finds a site by name.
func (cfg *Config) Site(name string) (Site, bool) {
	i := slices.IndexFunc(cfg.Sites, func(s Site) bool { return s.Name == name })
	if i < 0 {
		return Site{}, false
	}
	return cfg.Sites[i], true
}

// Roles are the roles of this process, without those that a witness cannot
// have. ReadyToServe must have said yes.
func (cfg *Config) Roles() []string {
	_, kafka := cfg.Site(cfg.Process.Site)
	return slices.DeleteFunc(slices.Clone(cfg.Process.Roles), func(r string) bool {
		return !kafka && (r == RoleGateway || r == RoleMirror || r == RoleBroker)
	})
}

// HasRole tells whether this process has a role.
func (cfg *Config) HasRole(role string) bool { return slices.Contains(cfg.Roles(), role) }

// ReadyToServe says what a serving process needs beyond what a command needs.
func (cfg *Config) ReadyToServe(file string) error {
	var fs Faults
	if cfg.Process.ID == "" {
		fs = append(fs, Fault{File: file, Key: "process.id", Text: fmt.Sprintf("is missing: serve needs a name for this process, in the file or as %s", EnvName("process.id"))})
	}
	if cfg.Process.Site == "" {
		fs = append(fs, Fault{File: file, Key: "process.site", Text: fmt.Sprintf("is missing: serve needs to know where this process stands, in the file or as %s", EnvName("process.site"))})
	}
	if len(fs) > 0 {
		return fs
	}
	return nil
}
