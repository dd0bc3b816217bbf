package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/federation/preflight"
)

const (
	// lookMax bounds a look at the sites before a switchover, and urgentMax before a failover
	// that a person asks for; a dry run has forecastMax.
	lookMax   = 2 * time.Second
	urgentMax = time.Second
	// againMax bounds the time between two looks while what they found is waited for: they
	// read whole lists.
	againMax = 10 * time.Second
	// settingsMax is of how many topics the settings are compared, and settingsAtOnce how
	// many are asked for at the same time.
	settingsMax    = 200
	settingsAtOnce = 8
)

// look reads the sites before a move, as far as a way to them is known: whether the target
// can take the group, and for a failover what would be lost.
func (p *Plan) look(ctx context.Context, o *Operator, g spillway.FailoverGroup, share, next failover.Share, view failover.View, dryRun bool) {
	if o.Sites == nil {
		return
	}
	limit := o.lookMax
	switch {
	case dryRun:
		limit = forecastMax
	case next.Kind == failover.Failover:
		limit = urgentMax
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if next.Kind == failover.Failover {
		p.foresee(ctx, o, g, share, next.Target, view, !dryRun)
	}
	var active, target preflight.Site
	var errActive, errTarget error
	var wg sync.WaitGroup
	both := next.Kind == failover.Switchover || dryRun && !view.Sites[share.Active].Judgement.Down
	if both {
		wg.Go(func() { active, errActive = o.inspect(ctx, share.Active, g, asServing) })
	} else {
		errActive = errNotAsked
	}
	as := asAlone
	if both {
		as = asStandby
	}
	wg.Go(func() { target, errTarget = o.inspect(ctx, next.Target, g, as) })
	wg.Wait()
	if errTarget != nil {
		p.unread(next.Target, errTarget)
	}
	if errActive != nil && !errors.Is(errActive, errNotAsked) {
		p.unread(share.Active, errActive)
	}
	limits := preflight.Limits{Room: o.Room, Accepted: o.Accept, ByLists: o.ByLists, Scope: scopeOf(o.topology, g, o.NotClients), Failover: next.Kind == failover.Failover}
	switch { // by what was seen, though it may not be all
	case target.Topics == nil:
		return
	case active.Topics == nil:
		p.Findings = preflight.Compare(nil, target, limits)
	default:
		p.Findings = preflight.Compare(&active, target, limits)
	}
	if more := len(target.Topics) - settingsMax; more > 0 {
		p.Findings = append(p.Findings, preflight.Finding{About: preflight.AboutSettings, What: fmt.Sprintf("the settings of %d topics were compared, not of %d more", settingsMax, more)})
	}
}

// errNotAsked: the site is taken as lost.
var errNotAsked = errors.New("not asked")

// unread notes once that a site could not be read.
func (p *Plan) unread(site spillway.SiteID, err error) {
	prefix := fmt.Sprintf("site %s: ", site)
	if !slices.ContainsFunc(p.Unread, func(u string) bool { return strings.HasPrefix(u, prefix) }) {
		p.Unread = append(p.Unread, prefix+err.Error())
	}
}

// part is a site's in the move.
type part int

const (
	asServing part = iota
	asStandby      // and is compared with the one that serves
	asAlone        // the one that serves is not asked
)

// inspect reads what a site shows of the topics of a group; Topics is nil if nothing could
// be read, and some have no settings if those could not be.
func (o *Operator) inspect(ctx context.Context, site spillway.SiteID, g spillway.FailoverGroup, as part) (preflight.Site, error) {
	seen := preflight.Site{ID: site}
	cluster := o.Sites[site]
	if cluster == nil {
		return seen, errors.New("no way to it is known")
	}
	md, err := cluster.Metadata(ctx)
	if err != nil {
		return seen, err
	}
	var names []string
	seen.Topics = map[string]preflight.Topic{}
	for name, t := range md.Topics {
		if o.topology.HasTopic(g, name) && !t.Internal && t.ErrorCode == 0 {
			seen.Topics[name] = shown(t)
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = names[:min(len(names), settingsMax)]
	partitions, more := partitionsOf(md, seen.Topics)
	var settings map[string]map[string]string
	var asked asking
	asked.Go(func() { settings, err = settingsOf(ctx, cluster.Admin(), names) })
	room := cmp.Or(o.Room, preflight.RoomDefault)
	if as == asAlone {
		room = 0 // nothing is refused by what the group writes, so nobody waits for it
	}
	asked.room(ctx, cluster.Admin(), &seen, partitions, room)
	if more > 0 {
		asked.failed(preflight.AboutDisks, fmt.Errorf("the sizes of the logs of %d partitions were read, not of %d more", sizesMax, more))
	}
	if as != asAlone {
		asked.features(ctx, cluster.Admin(), &seen)
		asked.rights(ctx, cluster.Admin(), &seen)
		asked.quotas(ctx, cluster.Admin(), &seen)
	}
	if as == asServing {
		asked.groups(ctx, cluster.Admin(), o.topology, g, &seen)
	}
	asked.Wait()
	for name, s := range settings {
		t := seen.Topics[name]
		t.Settings = s
		seen.Topics[name] = t
	}
	seen.Brokers = brokersOf(md, seen.Topics)
	seen.Unread = asked.told()
	return seen, err
}

// shown is what the metadata tell of a topic.
func shown(md broker.TopicMetadata) preflight.Topic {
	t := preflight.Topic{Partitions: len(md.Partitions), InSync: make([]int, len(md.Partitions))}
	for i, p := range md.Partitions {
		t.InSync[i] = len(p.ISR)
		if p.Leader < 0 {
			t.Leaderless = append(t.Leaderless, p.Partition)
		}
		if n := len(p.Replicas); i == 0 || n < t.Replicas {
			t.Replicas = n
		}
	}
	return t
}

// settingsOf reads the settings in force of some topics, a few at once.
func settingsOf(ctx context.Context, admin broker.Admin, names []string) (map[string]map[string]string, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	found, faults := map[string]map[string]string{}, []error{}
	next := make(chan string)
	for range settingsAtOnce {
		wg.Go(func() {
			for name := range next {
				configs, err := admin.TopicConfigs(ctx, name)
				values := make(map[string]string, len(configs))
				for key, v := range configs {
					values[key] = v.Value
				}
				mu.Lock()
				if err == nil {
					found[name] = values
				} else if !errors.Is(err, broker.ErrUnknownTopic) { // deleted meanwhile
					faults = append(faults, err)
				}
				mu.Unlock()
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	wg.Wait()
	if len(faults) > 0 {
		return found, faults[0] // one says it, there may be one for each topic
	}
	return found, nil
}

// refuse notes why the move would not be begun.
func (p *Plan) refuse(r failover.Request) {
	if r.Kind == failover.Switchover {
		p.Refused = append(p.Refused, preflight.Refusals(p.Findings)...)
		return
	}
	if p.read && p.allRead && r.LossMax >= 0 && p.LostLeast > r.LossMax {
		p.Refused = append(p.Refused, fmt.Sprintf("at least %d records are not replicated and would be lost, %d at most; go on with --accept-loss %d, or with as much as you accept (-1: any number)", p.LostLeast, p.LostMost, p.LostLeast))
	}
}

// accepted says what the audit log keeps of findings that a person has accepted.
func (p *Plan) accepted() string {
	var about []string
	for _, f := range p.Findings {
		if f.Accepted && !slices.Contains(about, f.About) {
			about = append(about, f.About)
		}
	}
	if len(about) == 0 {
		return ""
	}
	return ", accepted: " + strings.Join(about, ", ")
}

// Refusal is why the move would not be begun; nil: it would be. What refuses a switchover may
// end by itself, as mirrors create what is missing and brokers start: failover.ErrBehind.
func (p Plan) Refusal() error {
	kind := failover.ErrRefused
	if p.Kind == failover.Switchover && p.Adopting == "" && !slices.ContainsFunc(p.Findings, func(f preflight.Finding) bool { return f.Refuses && f.Lasting }) {
		kind = failover.ErrBehind
	}
	if len(p.Refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", kind, strings.Join(p.Refused, "; "))
}
