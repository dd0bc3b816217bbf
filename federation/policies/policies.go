// Package policies says which keys of the coordinator store each role reads and writes.
// One table serves the policies of Consul (configs/consul), the check of a token when a
// process starts, and the test that runs every role with nothing more. Pure: it does not
// know what the values mean, nor how a store is asked.
package policies

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// Role is what somebody with a token does.
type Role string

// Roles of processes, as in the configuration, and of people.
const (
	Gateway  Role = "gateway"
	Mirror   Role = "mirror"
	Control  Role = "control"
	Console  Role = "console"  // status alone; also what a process with brokers alone needs
	Reader   Role = "reader"   // people and scripts: every command that changes nothing
	Operator Role = "operator" // people: moves, drains, automation
)

// Roles lists all of them.
func Roles() []Role { return []Role{Gateway, Mirror, Control, Console, Reader, Operator} }

// Holder is whose token it is. Reader and Operator need the virtual cluster only.
type Holder struct {
	VirtualCluster string
	Site           spillway.SiteID // or witness
	Process        string
	Drills         bool // some failover group exists for drills
}

// ForExample is whose policies are in configs/consul.
var ForExample = Holder{VirtualCluster: "shop", Site: "east", Process: "east-1", Drills: true}

func read(path, why string) coordination.Rule {
	return coordination.Rule{Path: path, Prefix: strings.HasSuffix(path, "/"), Why: why}
}

func write(path, why string) coordination.Rule {
	r := read(path, why)
	r.Write = true
	return r
}

// Of lists what a role needs, sorted by path. No path is in it twice, and none that lies
// below another one may less.
func Of(role Role, h Holder) []coordination.Rule {
	k := failover.Keys(h.VirtualCluster)
	// Every process and every person sees how the virtual cluster is.
	rules := []coordination.Rule{
		read(k.Identity(), "that it is this virtual cluster"),
		read(k.Shares(), "who serves what"),
		read(k.Gateways(), "which gateways live"),
		read(k.Mirrors(), "which mirrors live, and how far they are"),
		read(k.Ballots(), "what the observers say"),
		read(k.Automation(), "whether automation is paused"),
		read(k.DrainedAll(), "which sites are drained"),
	}
	if h.Drills {
		rules = append(rules, read(k.DrillsAll(), "how drills went"))
	}
	switch role {
	case Gateway:
		rules = append(rules,
			write(k.Gateway(spillway.GatewayID(h.Process)), "its own lease"),
			read(k.Layout(), "which gateway leads what"),
			write(k.ReservedAll(), "raise the reserved ends of what it serves"),
			write(k.Moves(), "confirm a move: held, drained, opened"),
			write(k.Offers(), "what it heard that a site offers"),
			write(k.Topics(), "topics that its clients create"),
			write(k.ClientAudits(), "what its clients changed"),
		)
	case Mirror:
		rules = append(rules,
			write(k.Mirror(h.Site, h.Process), "its own lease"),
			write(k.Writer(h.Site), "the lease of the worker that leads at its site"),
			write(k.Moves(), "what its site has done of a move"),
			read(k.HistoryAll(), "where earlier epochs began and ended"),
			write(k.BesideAll(), "what its site alone had, after a failover"),
		)
	case Control:
		rules = append(rules,
			write(k.Identity(), "say at the beginning which virtual cluster it is"),
			write(k.Shares(), "drive moves"),
			write(k.Moves(), "read reports, and take away those of moves that are long over"),
			write(k.ReservedAll(), "ask that none has risen; that a key is absent, Consul lets only those ask who may write it"),
			write(k.Layout(), "lay out who leads"),
			write(k.Ballot(h.Site), "its own votes"),
			write(k.HistoryAll(), "the record of each move"),
			write(k.BesideAll(), "what was known when a move began"),
			write(k.Topics(), "carry on what gateways began"),
			write(k.ClientAudits(), "take away what is old, and tell of topics that were not made"),
		)
	case Reader, Operator:
		rules = append(rules,
			read(k.Moves(), "dry runs: what is reported"),
			read(k.ReservedAll(), "dry runs: what a failover would burn"),
			read(k.HistoryAll(), "earlier moves"),
			read(k.BesideAll(), "what was known of them"),
		)
	}
	if role == Operator {
		rules = append(rules,
			write(k.Shares(), "begin and abort moves"),
			write(k.Automation(), "pause and resume"),
			write(k.DrainedAll(), "drain and return sites"),
			write(k.BesideAll(), "what was known when a move began"),
			write(k.ReplaysAll(), "claim a replay of unreplicated records: one of a group at a time"),
			write(k.Audits(), "who changed what, and why"),
		)
	}
	if role == Operator && h.Drills {
		rules = append(rules, write(k.DrillsAll(), "keep the account of a drill"))
	}
	return merged(rules)
}

// merged keeps of rules for one path the one that allows more.
func merged(rules []coordination.Rule) []coordination.Rule {
	slices.SortStableFunc(rules, func(a, b coordination.Rule) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return strings.Compare(strconv.FormatBool(b.Write), strconv.FormatBool(a.Write))
	})
	return slices.CompactFunc(rules, func(a, b coordination.Rule) bool { return a.Path == b.Path })
}

// Together is what a token needs that serves several roles of one process.
func Together(roles []Role, h Holder) []coordination.Rule {
	var all []coordination.Rule
	for _, r := range roles {
		all = append(all, Of(r, h)...)
	}
	return merged(all)
}

// Policy writes the rules of a role as Consul takes them.
func Policy(role Role, h Holder) string {
	var b strings.Builder
	whose := fmt.Sprintf("the virtual cluster %q", h.VirtualCluster)
	if role.OfProcess() {
		whose = fmt.Sprintf("process %q at %q of %s", h.Process, h.Site, whose)
	}
	fmt.Fprintf(&b, "# What the role %s needs in Consul: %s.\n# Printed by spillway config consul-policy %s.\n", role, whose, role)
	for _, r := range Of(role, h) {
		fmt.Fprintf(&b, "\n# %s\n%s\n", r.Why, Stanza(r))
	}
	return b.String()
}

// Stanza is one rule as Consul takes it.
func Stanza(r coordination.Rule) string {
	kind, access := "key", "read"
	if r.Prefix {
		kind = "key_prefix"
	}
	if r.Write {
		access = "write"
	}
	return fmt.Sprintf("%s %q { policy = %q }", kind, r.Path, access)
}

// OfProcess tells whether the rules name a process or its site.
func (r Role) OfProcess() bool { return r == Gateway || r == Mirror || r == Control }
