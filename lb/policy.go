package lb

import "slices"

// Policy is how a target is chosen among those that may be.
type Policy string

// Policies.
const (
	// RoundRobin takes the targets in turn, whatever their weights.
	RoundRobin Policy = "round-robin"
	// Weighted takes them in turn, each as often as its weight says, evenly spread.
	Weighted Policy = "weighted"
	// LeastInFlight takes the one with the fewest picks that are not done, by weight.
	LeastInFlight Policy = "least-in-flight"
	// LeastLatency looks at two at random, and takes the one where a pick is
	// expected to be done sooner: latency times picks in flight, by weight.
	LeastLatency Policy = "least-latency"
	// LocalFirst takes local ones by weight, and others only where no local one is left.
	LocalFirst Policy = "local-first"
	// KeyAffinity takes the same target for the same key, by weight over all keys.
	KeyAffinity Policy = "key-affinity"
)

// Policies lists all of them.
func Policies() []Policy {
	return []Policy{RoundRobin, Weighted, LeastInFlight, LeastLatency, LocalFirst, KeyAffinity}
}

// Valid tells whether p is a policy.
func (p Policy) Valid() bool { return slices.Contains(Policies(), p) }

// Reasons of a pick: a fixed set, so that they can be counted.
const (
	InTurn         = "in turn"
	ByWeight       = "by weight"
	FewestInFlight = "fewest in flight"
	LowestLatency  = "lowest latency"
	IsLocal        = "local"
	NoneLocal      = "no local one can take it"
	ByKey          = "by key"
	OnlyOne        = "the only one that can take it"
	AllEjected     = "all that could take it are ejected"
)

// Set is a set of targets: bit i stands for the i-th one of Config.Targets.
type Set uint64

// Of makes a set.
func Of(targets ...int) Set {
	var s Set
	for _, t := range targets {
		s |= 1 << t
	}
	return s
}

// All is every target.
const All = ^Set(0)

// Has tells whether a target is in the set.
func (s Set) Has(target int) bool { return s&(1<<target) != 0 }
