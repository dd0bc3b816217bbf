package preflight

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"spillway"
	"spillway/federation/authorization"
)

// Rights are what a site says of who may do what.
type Rights struct {
	Read bool // false: nothing is known
	// None: the site has no authorizer.
	None    bool
	Entries []spillway.ACL
	// ConsumerGroups of the failover group that are there.
	ConsumerGroups []string
}

// Scope is what a failover group means, for entries of access control lists.
type Scope struct {
	Topic, ConsumerGroup, TransactionalID func(name string) bool
	// TransactionalIDs are patterns: whole names, or a prefix followed by "*".
	TransactionalIDs []string
	// Own are the principals of gateways, of mirrors and of others that are no clients, whose
	// entries are each site's own.
	Own []string
	// Gateways are the principals of gateways at each site, whom the resource fence is about.
	Gateways map[spillway.SiteID]string
}

// decisionsMax bounds how many rights of a kind are compared, at some microseconds each, so
// that of one there may be any number and the others are compared all the same.
const decisionsMax = 50_000

// ofKind is a kind of resource that entries are about.
type ofKind struct {
	kind       authorization.Kind
	word       string
	operations []authorization.Operation // that ALL stands for
	// mends says what brings a right to the target that is missing there.
	mends string
}

const carriedMends = "mirrors carry such entries with mirror.acls, else create them at %s"

var kinds = []ofKind{
	{authorization.Group, "consumer groups", []authorization.Operation{authorization.Delete, authorization.Describe, authorization.Read}, carriedMends},
	{authorization.TransactionalID, "transactional ids", []authorization.Operation{authorization.Describe, authorization.Write}, "mirrors carry no entries about them, so create them at %s"},
	{authorization.Cluster, "the cluster", []authorization.Operation{authorization.Alter, authorization.AlterConfigs, authorization.Create, authorization.Describe, authorization.DescribeConfigs, authorization.IdempotentWrite}, "mirrors carry no entries about it, so create them at %s"},
	{authorization.Topic, "topics", []authorization.Operation{authorization.Alter, authorization.AlterConfigs, authorization.Create, authorization.Delete, authorization.Describe, authorization.DescribeConfigs, authorization.Read, authorization.Write}, carriedMends},
}

// right is something that somebody may do at one site and not at the other.
type right struct {
	client authorization.Client
	op     authorization.Operation
	name   string
}

// rightsIn is a comparison of two lists.
type rightsIn struct {
	active, target *authorization.Rules
	byLists        bool
	left           int          // decisions that may still be made about a kind
	cut            bool         // there were more
	done           map[key]bool // those that were
	now, later     []right      // lost: of what there is, and of topics that may come
	gained         []right
}

type key struct {
	kind authorization.Kind
	right
}

// rights compares what clients may do. It asks for each entry of both sites what the two
// lists make of those whom it is about, so an entry that was narrowed, or is implied by
// another one, counts as what it does.
func rights(active, target Site, l Limits) []Finding {
	if found, over := authorizers(active, target, l); over {
		return found
	}
	policy := authorization.Policy{}
	if l.ByLists != nil {
		policy = *l.ByLists
	}
	have, want := ordered(target, l.Scope), ordered(active, l.Scope)
	if slices.Equal(have, want) {
		return nil
	}
	entries := slices.Concat(want, have)
	c := &rightsIn{active: authorization.NewRules(policy, want), target: authorization.NewRules(policy, have), byLists: l.ByLists != nil, done: map[key]bool{}}
	var found []Finding
	for _, k := range kinds {
		c.now, c.later, c.gained, c.left, c.cut = nil, nil, nil, decisionsMax, false
		there := names(k.kind, active, l.Scope)
		if policy.AllowUnlisted { // an entry of one site alone denies all whom it is not about
			for _, name := range there {
				c.ask(k, authorization.Client{Principal: "User:*", Host: "*"}, "ALL", name, &c.now)
			}
		}
		of := reaches(k.kind, entries, there, l.Scope)
		for _, e := range of {
			if c.cut {
				break
			}
			c.about(k, e.ACL, there, l.Scope)
		}
		c.denials(k, of, want, have)
		found = append(found, c.tell(k, active.ID, target.ID)...)
		if c.cut {
			found = append(found, Finding{About: AboutRights, What: fmt.Sprintf("of the rights of clients with %s at %s and %s %d were compared, and not the rest", k.word, active.ID, target.ID, decisionsMax)})
		}
	}
	return found
}

// reach is an entry with the names that it is about.
type reach struct {
	spillway.ACL
	names []string
}

// reaches are the entries about a kind, those last that are about most: what is about little
// is compared first.
func reaches(kind authorization.Kind, entries []spillway.ACL, there []string, s Scope) []reach {
	var of []reach
	for _, e := range entries {
		if authorization.Kind(e.Resource) == kind && !slices.Contains(s.Own, e.Principal) {
			of = append(of, reach{e, meant(e, there)})
		}
	}
	slices.SortStableFunc(of, func(a, b reach) int { return len(a.names) - len(b.names) })
	return of
}

// denials compares what an entry of one site takes from all who come from an address: those
// whom others name do not come up from there otherwise.
func (c *rightsIn) denials(k ofKind, of []reach, want, have []spillway.ACL) {
	for _, d := range of {
		if d.Permission != spillway.ACLDeny || d.Principal != "User:*" || d.Host == "*" {
			continue
		}
		_, before := slices.BinarySearchFunc(want, d.ACL, spillway.ACL.Compare)
		if _, after := slices.BinarySearchFunc(have, d.ACL, spillway.ACL.Compare); before == after {
			continue
		}
		for _, e := range of {
			if e.Permission == spillway.ACLDeny || e.Principal == d.Principal || e.Host != "*" && e.Host != d.Host {
				continue
			}
			if c.spent() { // looking costs, too
				return
			}
			for _, name := range d.names {
				if _, both := slices.BinarySearch(e.names, name); both {
					c.ask(k, authorization.Client{Principal: e.Principal, Host: d.Host}, authorization.Operation(d.Operation), name, &c.now)
				}
			}
		}
	}
}

// spent counts one more comparison, unless there were too many.
func (c *rightsIn) spent() bool {
	if c.left <= 0 {
		c.cut = true
		return true
	}
	c.left--
	return false
}

// authorizers tells whether there are lists to compare.
func authorizers(active, target Site, l Limits) (found []Finding, over bool) {
	a, t := active.Rights, target.Rights
	switch {
	case !a.Read || !t.Read || a.None && t.None: // what was not read is told elsewhere
		return nil, true
	case t.None && l.ByLists != nil:
		return []Finding{{About: AboutRights, Refuses: true, Lasting: true, What: fmt.Sprintf("%s has no authorizer and so no access control list, by which gateways decide: they would let nobody but super users do anything", target.ID)}}, true
	case t.None:
		return []Finding{{About: AboutRights, What: fmt.Sprintf("%s has no authorizer, as %s has: who reaches its brokers may do everything there", target.ID, active.ID)}}, true
	case a.None:
		return []Finding{{About: AboutRights, What: fmt.Sprintf("%s has an authorizer, and %s has none: the gateways' principal needs rights there", target.ID, active.ID)}}, true
	}
	return nil, false
}

// ordered is a site's list in order, as its gateways have it.
func ordered(site Site, s Scope) []spillway.ACL {
	rest := slices.Clone(authorization.WithoutFence(site.Rights.Entries, s.Gateways[site.ID]))
	slices.SortFunc(rest, spillway.ACL.Compare)
	return slices.Compact(rest)
}

// anyID stands for the ids of a group that has all of them.
const anyID = "any-transactional-id"

// names are those of a kind that clients use now, ascending.
func names(kind authorization.Kind, active Site, s Scope) []string {
	switch kind {
	case authorization.Topic:
		return slices.Sorted(maps.Keys(active.Topics))
	case authorization.Group:
		return slices.Sorted(slices.Values(active.Rights.ConsumerGroups))
	case authorization.TransactionalID: // nobody lists them all; one of each pattern stands for them
		var some []string
		for _, pattern := range s.TransactionalIDs {
			some = append(some, cmp.Or(strings.TrimSuffix(pattern, "*"), anyID))
		}
		slices.Sort(some)
		return some
	}
	return []string{authorization.ClusterName}
}

// about compares what an entry is about: all that is there, and its own name.
func (c *rightsIn) about(k ofKind, e spillway.ACL, there []string, s Scope) {
	client := authorization.Client{Principal: e.Principal, Host: e.Host}
	for _, name := range meant(e, there) {
		if c.cut {
			return
		}
		c.ask(k, client, authorization.Operation(e.Operation), name, &c.now)
	}
	_, known := slices.BinarySearch(there, e.Name)
	switch {
	case e.Name == "*" || e.Name == "":
	case k.kind == authorization.Topic && s.Topic(e.Name) && !known,
		// Mirrors carry it for the groups that there are, so there is nothing to wait for.
		k.kind == authorization.Group && e.Pattern == spillway.ACLPrefixed && s.ConsumerGroup(e.Name) && !known:
		c.ask(k, client, authorization.Operation(e.Operation), e.Name, &c.later)
	case k.kind == authorization.Group && s.ConsumerGroup(e.Name), k.kind == authorization.TransactionalID && s.TransactionalID(e.Name):
		c.ask(k, client, authorization.Operation(e.Operation), e.Name, &c.now)
	}
}

// meant are the names, of those that ascend, that an entry is about. There may be many of
// both.
func meant(e spillway.ACL, there []string) []string {
	from, found := slices.BinarySearch(there, e.Name)
	switch {
	case e.Pattern == spillway.ACLLiteral && e.Name == "*":
		return there
	case e.Pattern == spillway.ACLPrefixed:
		return there[from : from+sort.Search(len(there)-from, func(i int) bool { return !strings.HasPrefix(there[from+i], e.Name) })]
	case found:
		return there[from : from+1]
	}
	return nil
}

// ask compares what both sites make of one right, and notes it where they differ.
func (c *rightsIn) ask(k ofKind, client authorization.Client, op authorization.Operation, name string, lost *[]right) {
	operations := []authorization.Operation{op}
	if op == "ALL" {
		operations = k.operations
	}
	for _, op := range operations {
		r := right{client, op, name}
		if c.done[key{k.kind, r}] {
			continue
		}
		if c.spent() {
			return
		}
		c.done[key{k.kind, r}] = true
		before, after := c.active.Decide(client, op, k.kind, name).Verdict, c.target.Decide(client, op, k.kind, name).Verdict
		switch {
		case before == authorization.Allowed && after != authorization.Allowed:
			*lost = append(*lost, r)
		case before != authorization.Allowed && after == authorization.Allowed:
			c.gained = append(c.gained, r)
		}
	}
}

// tell puts the differences of one kind into sentences.
func (c *rightsIn) tell(k ofKind, active, target spillway.SiteID) []Finding {
	var found []Finding
	notice := ""
	if !c.byLists {
		notice = "; by this configuration gateways do not ask for them (gateway.authorization.rules: none), so only who reaches brokers otherwise notices"
	}
	tell := func(f Finding, rights []right, format string, args ...any) {
		if len(rights) > 0 {
			f.About, f.Names = AboutRights, listed(k, rights)
			f.What = fmt.Sprintf(format, args...) + ": " + few(who(k, rights)) + notice
			found = append(found, f)
		}
	}
	refuses := c.byLists && k.kind != authorization.Cluster
	tell(Finding{Refuses: refuses, Lasting: refuses && k.mends != carriedMends}, c.now, "clients may not do with %s at %s what they may do at %s, %s (%s)", k.word, target, active, number(len(c.now), "right"), fmt.Sprintf(k.mends, target))
	tell(Finding{}, c.later, "clients may not do at %s what they may do at %s with %s that do not exist yet, %s", target, active, k.word, number(len(c.later), "right"))
	tell(Finding{}, c.gained, "clients may do with %s at %s what they may not do at %s, %s", k.word, target, active, number(len(c.gained), "right"))
	return found
}

// listed are all of the rights, each for itself.
func listed(k ofKind, rights []right) []string {
	var all []string
	for _, r := range rights[:min(len(rights), namesMost)] {
		all = append(all, fmt.Sprintf("%s from %s %s %s %s", r.client.Principal, r.client.Host, r.op, k.kind, r.name))
	}
	return all
}

// who says for each client what is meant, in few words and exactly.
func who(k ofKind, rights []right) []string {
	type subject struct {
		client authorization.Client
		name   string
	}
	operations := map[subject][]string{}
	for _, r := range rights {
		s := subject{r.client, r.name}
		operations[s] = append(operations[s], string(r.op))
	}
	type deed struct {
		client     authorization.Client
		operations string
	}
	of := map[deed][]string{}
	for s, ops := range operations {
		slices.Sort(ops)
		words := strings.Join(ops, "+")
		if len(k.operations) > 1 && len(ops) == len(k.operations) {
			words = "ALL"
		}
		d := deed{s.client, words}
		of[d] = append(of[d], s.name)
	}
	var sentences []string
	for d, names := range of {
		slices.Sort(names)
		from := ""
		if d.client.Host != "*" {
			from = " from " + d.client.Host
		}
		on := names[0]
		if more := len(names) - 1; more > 0 {
			on += fmt.Sprintf(" and %d more", more)
		}
		sentences = append(sentences, fmt.Sprintf("%s%s %s on %s", d.client.Principal, from, d.operations, on))
	}
	slices.Sort(sentences)
	return sentences
}

// Quotas are those of clients, by entity and key; nil: they were not read.
type Quotas map[string]map[string]float64

// quotas tells which differ.
func quotas(active, target Site) []Finding {
	if active.Quotas == nil || target.Quotas == nil {
		return nil
	}
	entities := maps.Clone(active.Quotas)
	maps.Copy(entities, target.Quotas)
	var other []string
	for _, entity := range slices.Sorted(maps.Keys(entities)) {
		have, want := target.Quotas[entity], active.Quotas[entity]
		all := maps.Clone(want)
		if all == nil {
			all = map[string]float64{}
		}
		maps.Copy(all, have)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if h, w := quota(have, name), quota(want, name); h != w {
				other = append(other, fmt.Sprintf("%s %s (%s, not %s)", entity, name, h, w))
			}
		}
	}
	if len(other) == 0 {
		return nil
	}
	return []Finding{{About: AboutQuotas, What: fmt.Sprintf("quotas of clients differ at %s from those at %s: %s", target.ID, active.ID, few(other))}}
}

func quota(of map[string]float64, name string) string {
	v, ok := of[name]
	if !ok {
		return "none"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
