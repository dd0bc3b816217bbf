package control

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// Mirror is what a follower drives: *mirror.Mirror.
type Mirror interface {
	Know(mirror.Assignment) error
	Assign(context.Context, mirror.Assignment) error
	Join(context.Context, mirror.Assignment) error
	Gather(id spillway.ShareID, epoch spillway.Epoch) error
	Stop(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) (map[spillway.TopicPartition]spillway.Offset, error)
	CatchUp(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, from map[spillway.TopicPartition]spillway.SiteID, until map[spillway.TopicPartition]spillway.Offset) (map[spillway.TopicPartition]spillway.Offset, error)
	OpenEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (int64, error)
	OpenLossyEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (int64, error)
	Arm(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, next spillway.SiteID) error
	HurryGroups(spillway.ShareID)
	CopyGroups(ctx context.Context, id spillway.ShareID, from spillway.SiteID) error
	Begun(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) (bool, error)
	RemoveMembers(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) error
	LogGap(context.Context, maptopic.Gap) error
	Ends(id spillway.ShareID) map[spillway.TopicPartition]spillway.Offset
	DurableEnds(ctx context.Context, id spillway.ShareID) (map[spillway.TopicPartition]spillway.Offset, error)
	Flows() []mirror.FlowInfo
	Map() *maptopic.Reader
}

// FollowerConfig of the follower of one site.
type FollowerConfig struct {
	Topology *spillway.Topology
	Store    coordination.Store
	Cluster  broker.Cluster // of the site that the mirror feeds
	Mirror   Mirror
	Worker   string // unique among the site's mirror processes
	// Writer is the site's writer lease. Where several mirror processes run at a
	// site, only its holder does what the records ask and reports it: the others'
	// word that a flow has stopped would be worth nothing. They carry a part of what
	// flows while a share stands still, if the mirror shares it (mirror.Config.Lead).
	// Nil: this is the only one.
	Writer   *Writer
	Marks    string // address of the mark stream, for gateways
	LeaseTTL time.Duration
	Clock    coordination.Clock
	Events   Events
}

// Follower makes a site's mirror do what the share records ask of it, and tells
// what it did. Every step may be repeated: after a restart it begins with what
// the record says.
type Follower struct {
	cfg  FollowerConfig
	keys failover.Keys
	site spillway.SiteID
	boot string

	shares   map[string]*followed // by key; set before they run
	together together

	mu struct {
		sync.Mutex
		following map[string]failover.Following
		carries   map[string]failover.Following // while it does not lead
	}
	// compact are the shares of which some site compacts topics, as the leases said last; nil
	// until they were read.
	compact atomic.Pointer[map[string]bool]
	// hides is what the logs of the site hide, of all shares together, as it was asked last.
	hides struct {
		sync.Mutex
		all  map[string]string
		when time.Time
	}
}

// leads tells whether this process does what the records ask of the site.
func (f *Follower) leads() bool { return f.cfg.Writer == nil || f.cfg.Writer.lease.Valid() }

// NewFollower prepares a follower.
func NewFollower(cfg FollowerConfig) *Follower {
	if cfg.Clock == nil {
		cfg.Clock = coordination.SystemClock{}
	}
	f := &Follower{cfg: cfg, keys: failover.Keys(cfg.Topology.Name()), site: cfg.Cluster.Site(), boot: fmt.Sprintf("%016x", rand.Uint64())}
	f.mu.following, f.mu.carries = map[string]failover.Following{}, map[string]failover.Following{}
	return f
}

// Run follows until ctx ends, and ends after everything that it started.
func (f *Follower) Run(ctx context.Context) error {
	defer f.together.rounds.close()
	var wg sync.WaitGroup
	defer wg.Wait() // nobody asks any more then
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease := coordination.NewLease(coordination.LeaseConfig{
		Store: f.cfg.Store, Key: f.keys.Mirror(f.site, f.cfg.Worker), Self: f.boot, Owner: bootOf, Value: f.leaseValue,
		TTL: f.cfg.LeaseTTL, Every: f.cfg.LeaseTTL / 4, Clock: f.cfg.Clock, Changed: f.cfg.Events.leaseLost,
	})
	wg.Go(func() { lease.Run(ctx) })
	wg.Go(func() { f.readCompact(ctx) })
	f.shares = map[string]*followed{}
	for _, g := range f.cfg.Topology.Groups() {
		if !slices.Contains(g.Sites, f.site) {
			continue
		}
		id := spillway.ShareID{Group: g.Name}
		s := &followed{f: f, group: g, id: id, newest: make(chan coordination.Entry, 1), settled: make(chan failover.Share, 1)}
		f.shares[f.keys.Share(id)] = s
	}
	for _, s := range f.shares {
		wg.Go(func() { s.run(ctx) })
		wg.Go(func() { s.measure(ctx) })
		wg.Go(func() { s.policies(ctx) })
		wg.Go(func() { s.recount(ctx) })
	}
	offered := map[string]uint64{}
	return f.cfg.Store.Watch(ctx, f.keys.Shares(), func(entries []coordination.Entry, err error) {
		if err != nil {
			f.cfg.Events.storeLost(err)
			return
		}
		for _, e := range entries {
			if s := f.shares[e.Key]; s != nil && offered[e.Key] != e.Version { // each change of one brings all
				offered[e.Key] = e.Version
				s.offer(e)
			}
		}
	})
}

func (f *Follower) leaseValue(beat uint64) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := failover.MirrorLease{Site: f.site, Worker: f.cfg.Worker, Boot: f.boot, Marks: f.cfg.Marks, Following: f.mu.following, Beat: beat}
	if !f.leads() {
		l.Waits, l.Following, l.Carries = true, nil, f.mu.carries
	}
	return encodeLease(l)
}

// leaseBytes is what a mirror lease may have: below what a store takes in one
// transaction, and much for what everybody reads about once a second.
const leaseBytes = 256 << 10

// leaseClip is how much of what is said of each share there is room for: bytes of a
// sentence, and topics of a kind that are named.
type leaseClip struct{ bytes, names int }

// leaseClips are tried one after the other, once everything is too much. A site that goes
// away is a problem of each share that came from it, and a lease that the store does not
// take runs out when the failover needs it. The last keeps that there is a problem.
var leaseClips = []leaseClip{{200, 10}, {60, 3}, {20, 1}, {1, 0}}

// encodeLease writes a lease with as much of its sentences as there is room for. That there
// is a problem is never left out: it decides.
func encodeLease(l failover.MirrorLease) (b []byte) {
	whole := l
	for clips := leaseClips; ; clips = clips[1:] {
		var err error
		if b, err = json.Marshal(l); err != nil {
			panic(fmt.Sprintf("mirror lease cannot be encoded: %v", err)) // plain data, cannot happen
		}
		if len(b) <= leaseBytes || len(clips) == 0 {
			return b
		}
		l.Following, l.Carries = clipped(whole.Following, clips[0]), clipped(whole.Carries, clips[0])
	}
}

// moreFail ends a sentence that says how many groups more fail than it names.
const moreFail = " more fail)"

func clipped(said map[string]failover.Following, most leaseClip) map[string]failover.Following {
	if said == nil {
		return nil
	}
	short := make(map[string]failover.Following, len(said))
	for share, f := range said {
		f.Problem, f.SourceProblem, f.HeldBackBy = most.sentence(f.Problem), most.sentence(f.SourceProblem), most.sentence(f.HeldBackBy)
		f.GroupBehind, f.OnlyHere = most.sentence(f.GroupBehind), most.topics(f.OnlyHere)
		most.compacted(&f)
		short[share] = f
	}
	return short
}

// sentence is what there is room for of a sentence. How many more groups fail stays.
func (most leaseClip) sentence(s string) string {
	if most.names == 0 {
		return strings.ToValidUTF8(s[:min(len(s), most.bytes)], "") + strings.Repeat("…", min(len(s), 1))
	}
	if at := strings.LastIndex(s, " ("); at >= 0 && strings.HasSuffix(s, moreFail) {
		return history.Clip(s[:at], most.bytes) + s[at:]
	}
	return history.Clip(s, most.bytes)
}

// compacted leaves out names of topics that are compacted, and of those that hide records. How
// many are left out is told, so that who decides takes each for the worse of what it may be.
// In the end it is not known any more whether anything hides records, which is as bad.
func (most leaseClip) compacted(f *failover.Following) {
	hiding := f.Hiding
	if most.names == 0 && len(hiding)+f.HidingMore > 0 {
		hiding, f.Hiding, f.HidingMore = nil, nil, 0
	}
	if hiding != nil {
		f.Hiding = map[string]string{}
	}
	for _, name := range slices.Concat(f.Compacted, slices.Sorted(maps.Keys(hiding))) {
		if what := hiding[name]; what != "" && len(f.Hiding) < most.names {
			f.Hiding[name] = most.sentence(what)
		}
	}
	f.HidingMore += len(hiding) - len(f.Hiding)
	named := f.Compacted[:min(len(f.Compacted), most.names)]
	f.Compacted, f.CompactedMore = named, f.CompactedMore+len(f.Compacted)-len(named)
}

// topics are the first of some topics, and how many more there are: that there are any
// decides, and people have to know how many.
func (most leaseClip) topics(names []string) []string {
	if len(names) <= most.names {
		return names
	}
	rest := fmt.Sprintf("and %d more", len(names)-most.names)
	if most.names == 0 {
		rest = fmt.Sprintf("%d topics", len(names))
	}
	return append(slices.Clone(names[:most.names]), rest)
}
