package authorization

import (
	"maps"
	"slices"

	"spillway"
)

// Operation is what a client wants to do, in Kafka's words.
type Operation string

// Operations that are asked about, or imply one that is.
const (
	Read            Operation = "READ"
	Write           Operation = "WRITE"
	Delete          Operation = "DELETE"
	Alter           Operation = "ALTER"
	Create          Operation = "CREATE"
	Describe        Operation = "DESCRIBE"
	DescribeConfigs Operation = "DESCRIBE_CONFIGS"
	AlterConfigs    Operation = "ALTER_CONFIGS"
	IdempotentWrite Operation = "IDEMPOTENT_WRITE"
	ClusterAction   Operation = "CLUSTER_ACTION"

	anyOperation Operation = "ALL" // in an entry
)

// Kind of a resource, in Kafka's words.
type Kind string

// Kinds that are asked about.
const (
	Topic   Kind = spillway.ACLTopic
	Group   Kind = spillway.ACLGroup
	Cluster Kind = "CLUSTER"

	TransactionalID Kind = "TRANSACTIONAL_ID"
)

// ClusterName is the only resource of kind Cluster.
const ClusterName = "kafka-cluster"

const (
	wildcard  = "*"      // a name or a host: any
	everybody = "User:*" // in an entry
	allow     = "ALLOW"
)

// Client is who asks.
type Client struct {
	Principal string // User:name
	Host      string // of HostOf
}

// Policy is what is not in the lists.
type Policy struct {
	// SuperUsers are principals, to the letter (super.users).
	SuperUsers []string
	// AllowUnlisted lets everybody do everything with a resource that no entry is about
	// (allow.everyone.if.no.acl.found).
	AllowUnlisted bool
}

// Rules are the entries of one site, in the order in which one looks for them. They never
// change.
type Rules struct {
	superUsers    map[string]bool
	allowUnlisted bool
	unread        bool
	kinds         map[Kind]*patterns
	entries       int
}

// patterns are the entries about one kind of resource.
type patterns struct {
	literal     map[string]*pattern
	prefixed    map[string]*pattern
	lengths     []int // of the prefixes, each once, ascending
	byPrincipal map[string][]*spillway.ACL
}

// pattern has the entries about one name, or one prefix.
type pattern struct {
	byPrincipal map[string][]*spillway.ACL
}

// NewRules sorts a list.
func NewRules(p Policy, entries []spillway.ACL) *Rules {
	r := &Rules{superUsers: make(map[string]bool), allowUnlisted: p.AllowUnlisted, kinds: make(map[Kind]*patterns), entries: len(entries)}
	for _, name := range p.SuperUsers {
		r.superUsers[name] = true
	}
	for i := range entries {
		r.add(&entries[i])
	}
	for _, k := range r.kinds {
		lengths := make(map[int]bool)
		for prefix := range k.prefixed {
			lengths[len(prefix)] = true
		}
		k.lengths = slices.Sorted(maps.Keys(lengths))
	}
	return r
}

// unreadRules are those of a list that was never read.
func unreadRules(p Policy) *Rules {
	r := NewRules(p, nil)
	r.unread = true
	return r
}

func (r *Rules) add(e *spillway.ACL) {
	k := r.kinds[Kind(e.Resource)]
	if k == nil {
		k = &patterns{literal: make(map[string]*pattern), prefixed: make(map[string]*pattern), byPrincipal: make(map[string][]*spillway.ACL)}
		r.kinds[Kind(e.Resource)] = k
	}
	names := k.literal
	switch e.Pattern {
	case spillway.ACLLiteral:
	case spillway.ACLPrefixed:
		names = k.prefixed
	default: // brokers keep no others
		return
	}
	p := names[e.Name]
	if p == nil {
		p = &pattern{byPrincipal: make(map[string][]*spillway.ACL)}
		names[e.Name] = p
	}
	p.byPrincipal[e.Principal] = append(p.byPrincipal[e.Principal], e)
	k.byPrincipal[e.Principal] = append(k.byPrincipal[e.Principal], e)
}

// Len is how many entries there are.
func (r *Rules) Len() int { return r.entries }

// Decide tells whether a client may do something with one resource.
func (r *Rules) Decide(c Client, op Operation, kind Kind, name string) Decision {
	switch {
	case r.superUsers[c.Principal]: // invariant C
		return Decision{Verdict: Allowed, why: whySuperUser}
	case r.unread: // invariant D
		return Decision{Verdict: Unknown, why: whyUnread}
	}
	k := r.kinds[kind]
	if k == nil {
		return r.unlisted()
	}
	look := lookup{client: c, op: op}
	if look.at(k.literal[name]) || name != wildcard && look.at(k.literal[wildcard]) {
		return look.denied
	}
	for _, n := range k.lengths {
		if n > len(name) {
			break
		}
		if look.at(k.prefixed[name[:n]]) {
			return look.denied
		}
	}
	switch {
	case look.allowed.Entry != nil:
		return look.allowed
	case look.listed: // invariant B
		return Decision{Verdict: Denied, why: whyNothingAllows}
	}
	return r.unlisted()
}

func (r *Rules) unlisted() Decision {
	if r.allowUnlisted {
		return Decision{Verdict: Allowed, why: whyUnlisted}
	}
	return Decision{Verdict: Denied, why: whyNothingAllows}
}

// lookup collects what the entries about one resource say.
type lookup struct {
	client  Client
	op      Operation
	listed  bool // there is an entry about the resource, whoever it is for
	allowed Decision
	denied  Decision
}

// at looks at one pattern. True: an entry denies, and no other counts (invariant A).
func (l *lookup) at(p *pattern) bool {
	if p == nil {
		return false
	}
	l.listed = true
	if l.among(p.byPrincipal[l.client.Principal]) {
		return true
	}
	return l.client.Principal != everybody && l.among(p.byPrincipal[everybody])
}

func (l *lookup) among(entries []*spillway.ACL) bool {
	for _, e := range entries {
		if !fits(e, l.client.Host) {
			continue
		}
		switch {
		case e.Permission != allow:
			if denies(e, l.op) {
				l.denied = Decision{Verdict: Denied, Entry: e}
				return true
			}
		case l.allowed.Entry == nil && implies(Operation(e.Operation), l.op):
			l.allowed = Decision{Verdict: Allowed, Entry: e}
		}
	}
	return false
}

func fits(e *spillway.ACL, host string) bool { return e.Host == wildcard || e.Host == host }

// denies: denying to read does not deny to describe.
func denies(e *spillway.ACL, op Operation) bool {
	return Operation(e.Operation) == op || Operation(e.Operation) == anyOperation
}

// implies tells whether who may do one thing may do another.
func implies(given, op Operation) bool {
	switch {
	case given == op, given == anyOperation:
		return true
	case op == Describe:
		return given == Read || given == Write || given == Delete || given == Alter
	case op == DescribeConfigs:
		return given == AlterConfigs
	}
	return false
}

// anywhere is the name that Kafka asks about first where any resource will do.
const anywhere = "hardcode"

// DecideAny tells whether a client may do something with one resource of a kind at least,
// as Kafka's Authorizer.authorizeByResourceType does: what an operation implies does not
// count here.
func (r *Rules) DecideAny(c Client, op Operation, kind Kind) Decision {
	if d := r.Decide(c, op, kind, anywhere); d.Verdict != Denied {
		return d
	}
	k := r.kinds[kind]
	if k == nil {
		return r.unlisted()
	}
	given := [][]*spillway.ACL{k.byPrincipal[c.Principal], nil}
	if c.Principal != everybody {
		given[1] = k.byPrincipal[everybody]
	}
	var found *spillway.ACL
	for _, entries := range given {
		for _, e := range entries {
			everything := e.Pattern == spillway.ACLLiteral && e.Name == wildcard
			switch {
			case !fits(e, c.Host) || !denies(e, op):
			case e.Permission != allow:
				if everything {
					return Decision{Verdict: Denied, Entry: e}
				}
			case everything || found == nil && !k.dominated(c, op, e):
				found = e
			}
		}
	}
	if found == nil {
		return Decision{Verdict: Denied, why: whyNothingAllows}
	}
	return Decision{Verdict: Allowed, Entry: found}
}

// dominated tells whether all that an entry allows is denied by others.
func (k *patterns) dominated(c Client, op Operation, e *spillway.ACL) bool {
	look := lookup{client: c, op: op}
	if e.Pattern == spillway.ACLLiteral && look.at(k.literal[e.Name]) {
		return true
	}
	for _, n := range k.lengths {
		if n <= len(e.Name) && look.at(k.prefixed[e.Name[:n]]) {
			return true
		}
	}
	return false
}
