package app

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/configs"
	"spillway/console/status"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/federation/layout"
)

// Observer follows the coordinator store and says how the virtual cluster is.
// It only reads. A lease is judged by when it was last seen to change.
type Observer struct {
	// Set once.
	cfg      *configs.Config
	topology *spillway.Topology
	store    coordination.Store
	keys     failover.Keys
	started  time.Time

	mu struct {
		sync.Mutex
		folders map[string]*folder
		probes  map[spillway.SiteID]error
	}
	changed chan struct{} // something was seen; holds at most one token
}

// folder is what is known of one prefix.
type folder struct {
	entries []coordination.Entry
	seen    map[string]sighting // by key
	read    bool
	problem error
}

type sighting struct {
	version uint64
	at      time.Time
	changed bool // since the first look
}

// NewObserver prepares an observer; Run makes it look.
func NewObserver(cfg *configs.Config, store coordination.Store) *Observer {
	o := &Observer{
		cfg: cfg, topology: cfg.Topology(), store: store, keys: failover.Keys(cfg.VirtualCluster.Name),
		started: time.Now(), changed: make(chan struct{}, 1),
	}
	o.mu.folders = map[string]*folder{}
	for _, prefix := range o.prefixes() {
		o.mu.folders[prefix] = &folder{seen: map[string]sighting{}}
	}
	return o
}

func (o *Observer) prefixes() []string {
	prefixes := []string{o.keys.Shares(), o.keys.Gateways(), o.keys.Mirrors(), o.keys.Ballots(), o.keys.Automation(), o.keys.DrainedAll()}
	if o.topology.HasDrills() { // else a token need not allow it
		prefixes = append(prefixes, o.keys.DrillsAll())
	}
	return prefixes
}

// Run watches until ctx ends.
func (o *Observer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, prefix := range o.prefixes() {
		wg.Go(func() {
			err := o.store.Watch(ctx, prefix, func(entries []coordination.Entry, err error) { o.take(prefix, entries, err) })
			if err != nil && ctx.Err() == nil {
				o.take(prefix, nil, err)
			}
		})
	}
	wg.Wait()
}

func (o *Observer) take(prefix string, entries []coordination.Entry, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.mu.folders[prefix]
	f.problem = err
	if err == nil {
		now := time.Now()
		next := make(map[string]sighting, len(entries))
		for _, e := range entries {
			old, known := f.seen[e.Key]
			if known && old.version == e.Version {
				next[e.Key] = old
			} else {
				next[e.Key] = sighting{version: e.Version, at: now, changed: known}
			}
		}
		f.entries, f.seen, f.read = entries, next, true
	}
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// Look observes for a command: until all leases were seen to change or can be
// called gone, and all sites without fresh votes were probed.
func (o *Observer) Look(ctx context.Context, probe func(context.Context, spillway.SiteID) error) status.Status {
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { o.Run(watching) })
	defer func() { stop(); wg.Wait() }()
	ttl := o.cfg.Gateway.Lease.TTL
	deadline := time.After(ttl + ttl/4)
waiting:
	for !o.settled() {
		select {
		case <-o.changed:
		case <-deadline:
			break waiting
		case <-ctx.Done():
			break waiting
		}
	}
	s := o.Status()
	for _, site := range s.Sites {
		if site.State == "unknown" {
			err := probe(ctx, spillway.SiteID(site.Name))
			o.mu.Lock()
			if o.mu.probes == nil {
				o.mu.probes = map[spillway.SiteID]error{}
			}
			o.mu.probes[spillway.SiteID(site.Name)] = err
			o.mu.Unlock()
		}
	}
	return o.Status()
}

// settled tells whether waiting longer would change the picture.
func (o *Observer) settled() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for prefix, f := range o.mu.folders {
		if !f.read {
			return false
		}
		if prefix == o.keys.Shares() || prefix == o.keys.Automation() || prefix == o.keys.DrainedAll() || prefix == o.keys.DrillsAll() {
			continue
		}
		for _, s := range f.seen {
			if !s.changed {
				return false
			}
		}
	}
	return true
}

// Status is the newest answer.
func (o *Observer) Status() status.Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	in := status.Inputs{
		Now: now, Topology: o.topology, LeaseTTL: o.cfg.Gateway.Lease.TTL, Probes: o.mu.probes,
		Coordinator: status.Coordinator{Kind: coordinatorKind(o.cfg), Up: true},
	}
	for _, w := range o.cfg.Witnesses {
		in.Witnesses = append(in.Witnesses, w.Name)
	}
	for _, prefix := range o.prefixes() {
		f := o.mu.folders[prefix]
		switch {
		case f.problem != nil:
			in.Coordinator.Up, in.Coordinator.Problem = false, f.problem.Error()
		case !f.read && in.Coordinator.Up:
			in.Coordinator.Up, in.Coordinator.Problem = false, "has not answered yet"
		}
	}
	for _, e := range o.mu.folders[o.keys.Shares()].entries {
		if share, err := failover.Decode(e.Value); err == nil {
			in.Shares = append(in.Shares, share)
		}
	}
	in.Gateways = fresh[layout.GatewayLease](now, o.mu.folders[o.keys.Gateways()])
	in.Mirrors = fresh[failover.MirrorLease](now, o.mu.folders[o.keys.Mirrors()])
	for _, b := range fresh[failover.Ballot](now, o.mu.folders[o.keys.Ballots()]) {
		for _, v := range b.Value.Votes {
			in.Votes = append(in.Votes, status.Seen[failover.Vote]{Value: v, Age: b.Age})
		}
	}
	for _, e := range o.mu.folders[o.keys.Automation()].entries {
		_ = json.Unmarshal(e.Value, &in.Automation) // unreadable counts as not paused here; the loop that acts reads it strictly
	}
	in.Drained = map[spillway.SiteID]failover.Drained{}
	for _, e := range o.mu.folders[o.keys.DrainedAll()].entries {
		var d failover.Drained
		_ = json.Unmarshal(e.Value, &d) // unreadable: drained all the same
		in.Drained[spillway.SiteID(strings.TrimPrefix(e.Key, o.keys.DrainedAll()))] = d
	}
	in.Drills = map[string][]history.Drill{}
	for _, e := range o.drills() {
		if drills, err := history.DecodeDrills(e.Value); err == nil { // unreadable: none passed
			in.Drills[strings.TrimPrefix(e.Key, o.keys.DrillsAll())] = drills
		}
	}
	return status.Assemble(in)
}

// drills are the entries of the accounts of drills; none where no group exists for drills.
func (o *Observer) drills() []coordination.Entry {
	if f := o.mu.folders[o.keys.DrillsAll()]; f != nil {
		return f.entries
	}
	return nil
}

// Latest is Status as the console and the metrics ask for it.
func (o *Observer) Latest() (status.Status, bool) {
	o.mu.Lock()
	known := slices.ContainsFunc(o.prefixes(), func(p string) bool { f := o.mu.folders[p]; return f.read || f.problem != nil })
	o.mu.Unlock()
	if !known {
		return status.Status{}, false
	}
	return o.Status(), true
}

// firstLook waits until the store was read once, or cannot be.
func (o *Observer) firstLook(ctx context.Context, patience time.Duration) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for o.looking() {
		select {
		case <-o.changed:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// looking tells whether some prefix was neither read nor refused yet.
func (o *Observer) looking() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.mu.folders {
		if !f.read && f.problem == nil {
			return true
		}
	}
	return false
}

// fresh decodes the entries of a folder with the time since each changed.
func fresh[T any](now time.Time, f *folder) []status.Seen[T] {
	var out []status.Seen[T]
	for _, e := range f.entries {
		var v T
		if err := json.Unmarshal(e.Value, &v); err != nil {
			continue // a newer release may write what this one cannot read
		}
		out = append(out, status.Seen[T]{Value: v, Age: now.Sub(f.seen[e.Key].at)})
	}
	return out
}

func coordinatorKind(cfg *configs.Config) string {
	if cfg.Coordinator.Consul != nil {
		return "consul"
	}
	return "embedded"
}

// Problem is why the store cannot be read, nil while it can.
func (o *Observer) Problem() error {
	s := o.Status()
	if s.Coordinator.Up {
		return nil
	}
	return errors.New(strings.TrimSpace(s.Coordinator.Problem))
}
