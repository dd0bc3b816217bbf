package metadata

import (
	"maps"
	"slices"
	"strings"

	"spillway"
)

// OwnedACL is what the mirror knows of an entry that it created.
type OwnedACL struct {
	From string `json:"from"` // id of the cluster that showed it last
	// Made says that it was there; before, it may never have been created.
	Made bool `json:"made,omitempty"`
}

// Cover says whom a flow means. Names are the source's.
type Cover struct {
	Topic func(name string) string // its name at the target, empty if it is not meant
	Group func(name string) bool
	// Fed tells whether a topic of the target gets its records from this flow.
	Fed func(name string) bool
	// Topics and Groups are those that exist.
	Topics, Groups []string
	// TopicPrefixes and GroupPrefixes are prefixes of which every name is meant,
	// under the same name at the target.
	TopicPrefixes, GroupPrefixes []string
	// Skip are principals of Spillway itself, which are each site's own: the
	// resource fence is a denial to one of them.
	Skip []string
}

// WantedACLs are the entries that the target should have. An entry for a prefix,
// or for all names, that reaches beyond what is meant is carried as one for each
// name that is. refused are entries that would stop the mirror itself.
func WantedACLs(source []spillway.ACL, c Cover) (wanted, refused []spillway.ACL) {
	for _, e := range source {
		if slices.Contains(c.Skip, e.Principal) {
			continue
		}
		entries := c.entries(e)
		if len(entries) > 0 && stops(e) {
			refused = append(refused, e)
			continue
		}
		wanted = append(wanted, entries...)
	}
	slices.SortFunc(wanted, spillway.ACL.Compare)
	slices.SortFunc(refused, spillway.ACL.Compare)
	return slices.Compact(wanted), slices.Compact(refused)
}

// stops tells whether an entry denies everybody to write, the mirror included.
func stops(e spillway.ACL) bool {
	return e.Permission == spillway.ACLDeny && e.Resource == spillway.ACLTopic && e.Principal == "User:*" &&
		slices.Contains([]string{"WRITE", "DESCRIBE", "ALL"}, e.Operation)
}

func (c Cover) entries(e spillway.ACL) []spillway.ACL {
	names, prefixes, at := c.Topics, c.TopicPrefixes, c.Topic
	if e.Resource == spillway.ACLGroup {
		names, prefixes, at = c.Groups, c.GroupPrefixes, func(name string) string {
			if c.Group(name) {
				return name
			}
			return ""
		}
	}
	var prefix string
	switch {
	case e.Pattern == spillway.ACLPrefixed:
		prefix = e.Name
	case e.Name != "*":
		name := at(e.Name)
		if name == "" {
			return nil
		}
		e.Name = name
		return []spillway.ACL{e}
	}
	if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(prefix, p) }) {
		return []spillway.ACL{e}
	}
	var each []spillway.ACL
	for _, name := range names {
		if there := at(name); there != "" && strings.HasPrefix(name, prefix) {
			one := e
			one.Pattern, one.Name = spillway.ACLLiteral, there
			each = append(each, one)
		}
	}
	return each
}

// scope tells whether an entry of the target is this flow's business: others may
// carry from the same cluster.
func (c Cover) scope(e spillway.ACL) bool {
	prefixes, means := c.TopicPrefixes, c.Fed
	if e.Resource == spillway.ACLGroup {
		prefixes, means = c.GroupPrefixes, c.Group
	}
	switch {
	case slices.Contains(c.Skip, e.Principal):
		return false
	case e.Pattern == spillway.ACLPrefixed:
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Name, p) })
	case e.Name == "*":
		return slices.Contains(prefixes, "")
	}
	return means(e.Name)
}

// ACLPlan is what to do about entries.
type ACLPlan struct {
	Create, Delete []spillway.ACL
	Intent         map[spillway.ACL]OwnedACL // to be saved as the mirror's own before
	Done           map[spillway.ACL]OwnedACL // and after that
}

// PlanACLs compares what is wanted with what is here. Entries of others stay, also
// where the source has them not. agreed are those that the source's own mirror
// made there while that site followed.
func PlanACLs(source string, c Cover, wanted, here []spillway.ACL, owned, agreed map[spillway.ACL]OwnedACL) ACLPlan {
	p := ACLPlan{Intent: make(map[spillway.ACL]OwnedACL), Done: make(map[spillway.ACL]OwnedACL)}
	want, have := setOf(wanted), setOf(here)
	for _, e := range slices.SortedFunc(maps.Keys(want), spillway.ACL.Compare) {
		o, ours := owned[e]
		switch {
		case !have[e]:
			p.Create = append(p.Create, e)
			p.Intent[e], p.Done[e] = OwnedACL{From: source, Made: ours && o.Made}, OwnedACL{From: source, Made: true}
		case ours:
			p.Intent[e], p.Done[e] = OwnedACL{From: source, Made: true}, OwnedACL{From: source, Made: true}
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(have), spillway.ACL.Compare) {
		o, ours := owned[e]
		switch {
		case want[e]:
		case ours && o.From == source && c.scope(e):
			p.Delete = append(p.Delete, e)
			p.Intent[e] = o
		case ours:
			p.Intent[e], p.Done[e] = o, o
		case agreed[e].Made && c.scope(e):
			p.Delete = append(p.Delete, e)
		}
	}
	return p
}

func setOf(entries []spillway.ACL) map[spillway.ACL]bool {
	set := make(map[spillway.ACL]bool, len(entries))
	for _, e := range entries {
		set[e] = true
	}
	return set
}
