package authorization

import (
	"slices"

	"spillway"
)

// WithoutFence leaves out the resource fence of a site, which denies writes to its gateways.
// It would make a topic one that an entry is about: where everybody may use those that none is
// about, a move that fences its old site would refuse the producers that are held for it.
func WithoutFence(entries []spillway.ACL, gateways string) []spillway.ACL {
	fence := func(e spillway.ACL) bool {
		return e.Principal == gateways && e.Permission == spillway.ACLDeny && e.Operation == string(Write) &&
			e.Resource == spillway.ACLTopic && e.Pattern == spillway.ACLLiteral
	}
	if !slices.ContainsFunc(entries, fence) {
		return entries
	}
	return slices.DeleteFunc(slices.Clone(entries), fence)
}
