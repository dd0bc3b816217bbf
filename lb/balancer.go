package lb

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"
)

// Bounds of a configuration.
const (
	TargetsMax = 64   // of one balancer
	WeightMax  = 1000 // of one target
)

// Target is one of those that are picked.
type Target struct {
	Name   string // unique; with KeyAffinity it decides which keys are its own
	Weight int    // 1 to WeightMax
}

// Config is what a Balancer is built from.
type Config struct {
	Policy  Policy
	Targets []Target // 1 to TargetsMax
	// Rand gives the seed of what decides between equals, and with which turn a
	// balancer begins.
	Rand     rand.Source
	Outliers Outliers
	// SlowStart is how long a target that comes back gets less than its share; default
	// 10 s, negative: none.
	SlowStart time.Duration
	// Decay is how long a latency counts (LeastLatency): after it, 1/e of it is left;
	// default 10 s, as in Finagle.
	Decay time.Duration
}

// Balancer picks targets. Times are durations on any clock of the caller that does not
// go back. Its methods may be called at the same time.
type Balancer struct {
	// Set once, read by anyone.
	policy    Policy
	outliers  Outliers
	slowStart time.Duration
	decay     float64 // 1 / nanoseconds
	even      bool    // all have the same weight

	mu      sync.Mutex
	seed    uint64
	targets []target
	up      Set // by the verdict
	ejected Set
	warming Set // in slow start
	local   Set
}

// target is what is known of one.
type target struct {
	hash   uint64
	weight int64   // 1 for RoundRobin
	part   float64 // 1 / weight
	credit int64   // of its turns; the sum over all targets stays 0

	inFlight int64
	latency  float64       // nanoseconds, as of measured; 0: unknown
	measured time.Duration // when it was last noted
	fresh    time.Duration // until then next to nothing of it is forgotten

	warm time.Duration // when its slow start began
	health
}

// Pick is a choice.
type Pick struct {
	Target int    // index in Config.Targets
	Reason string // one of the reasons of this package
}

// New checks the configuration. All targets are up until a verdict says otherwise.
func New(c Config) (*Balancer, error) {
	switch {
	case !c.Policy.Valid():
		return nil, fmt.Errorf("balancer: %q is no policy; there are %v", c.Policy, Policies())
	case len(c.Targets) == 0 || len(c.Targets) > TargetsMax:
		return nil, fmt.Errorf("balancer: %d targets; there must be 1 to %d", len(c.Targets), TargetsMax)
	case c.Rand == nil:
		return nil, errors.New("balancer: a source of chance is required")
	}
	if c.SlowStart == 0 {
		c.SlowStart = 10 * time.Second
	}
	if c.Decay <= 0 {
		c.Decay = 10 * time.Second
	}
	c.Outliers.setDefaults()
	b := &Balancer{policy: c.Policy, outliers: c.Outliers, slowStart: c.SlowStart, decay: 1 / float64(c.Decay), even: true, seed: c.Rand.Uint64()}
	names := make(map[string]bool)
	for i, t := range c.Targets {
		switch {
		case names[t.Name]:
			return nil, fmt.Errorf("balancer: target %q is named twice", t.Name)
		case t.Weight < 1 || t.Weight > WeightMax:
			return nil, fmt.Errorf("balancer: target %q has weight %d; it must be 1 to %d", t.Name, t.Weight, WeightMax)
		}
		names[t.Name] = true
		b.targets = append(b.targets, target{hash: hashOf([]byte(t.Name)), weight: int64(t.Weight), part: 1 / float64(t.Weight)})
		b.even = b.even && t.Weight == c.Targets[0].Weight
		b.up |= Of(i)
	}
	if c.Policy == RoundRobin {
		for i := range b.targets {
			b.targets[i].weight = 1
		}
	}
	b.begin()
	return b, nil
}

// begin goes to some turn of the round: balancers that were started together must not
// all take the same target (E).
func (b *Balancer) begin() {
	total := int64(0)
	for i := range b.targets {
		total += b.targets[i].weight
	}
	for range b.draw(uint64(total)) {
		b.turn(b.up)
	}
}

// random is SplitMix64: a step and the finalizer.
func (b *Balancer) random() uint64 {
	b.seed += 0x9e3779b97f4a7c15
	return mix(b.seed)
}

// draw is a number below n by chance.
func (b *Balancer) draw(n uint64) uint64 {
	high, _ := bits.Mul64(b.random(), n)
	return high
}

// Pick picks one of the targets that the caller can use. It counts as in flight there
// until Done. False: none of them is up. key matters only to KeyAffinity.
func (b *Balancer) Pick(now time.Duration, key []byte, able Set) (Pick, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	able &= b.up
	if able == 0 {
		return Pick{Target: -1}, false
	}
	if b.ejected != 0 {
		b.readmit(now)
	}
	hash := uint64(0)
	if b.policy == KeyAffinity {
		hash = hashOf(key)
	}
	p := Pick{Reason: OnlyOne}
	free := able &^ b.ejected
	if free == 0 {
		free, p.Reason = able, AllEjected
	}
	if b.warming != 0 {
		free = b.admit(now, hash, free)
	}
	if free&(free-1) == 0 {
		p.Target = bits.TrailingZeros64(uint64(free))
	} else {
		target, reason := b.choose(now, hash, free)
		p.Target = target
		if p.Reason != AllEjected {
			p.Reason = reason
		}
	}
	b.targets[p.Target].inFlight++
	return p, true
}

// Near says which targets are near the caller (LocalFirst); at first none is.
func (b *Balancer) Near(targets Set) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.local = targets
}

// Healthy are the targets that are up and not ejected.
func (b *Balancer) Healthy(now time.Duration) Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readmit(now)
	return b.up &^ b.ejected
}

// choose asks the policy; free has two targets or more.
func (b *Balancer) choose(now time.Duration, hash uint64, free Set) (int, string) {
	switch b.policy {
	case LeastInFlight:
		return b.fewest(free), FewestInFlight
	case LeastLatency:
		return b.soonest(now, free), LowestLatency
	case KeyAffinity:
		return b.ofKey(hash, free), ByKey
	case LocalFirst:
		if near := free & b.local; near != 0 {
			return b.turn(near), IsLocal
		}
		return b.turn(free), NoneLocal
	case Weighted:
		return b.turn(free), ByWeight
	default:
		return b.turn(free), InTurn
	}
}

// turn is smooth weighted round-robin: everyone gains its weight, who has most is
// picked and pays for all. Credits of targets that are left out stay as they are.
func (b *Balancer) turn(free Set) int {
	best, total := -1, int64(0)
	for s := uint64(free); s != 0; s &= s - 1 {
		i := bits.TrailingZeros64(s)
		t := &b.targets[i]
		t.credit += t.weight
		total += t.weight
		if best < 0 || t.credit > b.targets[best].credit {
			best = i
		}
	}
	b.targets[best].credit -= total
	return best
}

// fewest begins to look anywhere, so that equals are taken by chance (E).
func (b *Balancer) fewest(free Set) int {
	best := -1
	n := len(b.targets)
	at := int(b.draw(uint64(n)))
	for range n {
		if free.Has(at) {
			t := &b.targets[at]
			if best < 0 || (t.inFlight+1)*b.targets[best].weight < (b.targets[best].inFlight+1)*t.weight {
				best = at
			}
		}
		if at++; at == n {
			at = 0
		}
	}
	return best
}

// soonest compares two at random: the best of all would be every balancer's (E).
func (b *Balancer) soonest(now time.Duration, free Set) int {
	n := uint64(bits.OnesCount64(uint64(free)))
	r := b.random()
	first := (r & (1<<32 - 1)) * n >> 32
	second := (r >> 32) * (n - 1) >> 32
	if second >= first {
		second++
	}
	x, y := member(free, first), member(free, second)
	if b.cost(now, y) < b.cost(now, x) {
		return y
	}
	return x
}

// member is the n-th target of a set, from 0 on.
func member(s Set, n uint64) int {
	for ; n > 0; n-- {
		s &= s - 1
	}
	return bits.TrailingZeros64(uint64(s))
}

// unmeasured is the latency that a target is expected to have which has picks in flight
// and has answered none: others are better while nobody knows.
const unmeasured = float64(time.Second)

// freshPart of a mean life makes no difference.
const freshPart = 1.0 / 64

func (b *Balancer) cost(now time.Duration, i int) float64 {
	t := &b.targets[i]
	expected := t.latency
	switch {
	case t.latency > 0 && now > t.fresh: // it may be better by now, so it is tried again
		expected *= left(float64(now-t.measured) * b.decay)
	case t.latency == 0 && t.inFlight > 0:
		expected = unmeasured
	}
	return expected * float64(t.inFlight+1) * t.part
}

// ofKey is weighted rendezvous hashing: of exponential variables with the weights as
// rates, the smallest is a target's with a probability of its share of all weights.
// Where the weights are equal, the order of the hashes is the same.
func (b *Balancer) ofKey(hash uint64, free Set) int {
	best := -1
	if b.even {
		most := uint64(0)
		for s := uint64(free); s != 0; s &= s - 1 {
			i := bits.TrailingZeros64(s)
			if h := mix(hash ^ b.targets[i].hash); best < 0 || h > most {
				best, most = i, h
			}
		}
		return best
	}
	least := math.MaxFloat64
	for s := uint64(free); s != 0; s &= s - 1 {
		i := bits.TrailingZeros64(s)
		t := &b.targets[i]
		u := unit(mix(hash ^ t.hash))
		if float64((1-u)*t.part) >= least { // −ln(u) is more than 1 − u
			continue
		}
		if n := float64(-logarithm(u) * t.part); n < least {
			best, least = i, n
		}
	}
	return best
}

// note is Peak EWMA: what is slower than expected counts at once.
func (b *Balancer) note(now time.Duration, t *target, took time.Duration) {
	rtt := max(float64(took), 1)
	if t.latency > 0 && rtt < t.latency {
		old := left(float64(max(now-t.measured, 0)) * b.decay)
		rtt = t.latency*old + rtt*(1-old)
	}
	t.latency, t.measured, t.fresh = rtt, now, now+time.Duration(freshPart/b.decay)
}
