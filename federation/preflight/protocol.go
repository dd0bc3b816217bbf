package preflight

import (
	"fmt"
	"maps"
	"slices"
)

// Protocol is what a site can do for clients, and what they ask of it.
type Protocol struct {
	// Features are those finalized, with their levels; nil: not known.
	Features map[string]int16
	// NextGroupsActive are consumer groups of the failover group that have members which
	// speak it.
	NextGroupsActive []string
}

// nextGroups is the feature of consumer groups of KIP-848.
const nextGroups = "group.version"

// notServed are features that nothing depends on which a gateway serves: one of the
// controllers among themselves, and groups that cannot move.
var notServed = []string{"kraft.version", "share.version", "streams.version"}

// protocols tells what clients use at the active site and would not find at the target.
// Versions of single requests are no matter of it: gateways offer what all sites do.
func protocols(active, target Site) []Finding {
	var found []Finding
	have, want := target.Protocol.Features, active.Protocol.Features
	if groups := active.Protocol.NextGroupsActive; len(groups) > 0 && have != nil && have[nextGroups] < 1 {
		found = append(found, Finding{About: AboutFeatures, Refuses: true, Lasting: true, What: fmt.Sprintf("%s does not offer the consumer protocol of KIP-848 (the feature %s), and members that speak it now would end: %s", target.ID, nextGroups, few(groups))})
	}
	if have == nil || want == nil {
		return found
	}
	var lower []string
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] < want[name] && !slices.Contains(notServed, name) {
			lower = append(lower, fmt.Sprintf("%s (%d, not %d)", name, have[name], want[name]))
		}
	}
	if len(lower) > 0 {
		found = append(found, Finding{About: AboutFeatures, What: fmt.Sprintf("features are finalized at lower levels at %s than at %s, so its brokers may refuse or do otherwise what they concern: %s", target.ID, active.ID, few(lower))})
	}
	return found
}
