package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// Leaving says how consumer groups leave Spillway: what is committed at the site that serves
// them becomes the site's own, for clients of its brokers.
type Leaving struct {
	FailoverGroup string          `json:"failoverGroup"`
	Site          spillway.SiteID `json:"site"`
	DryRun        bool            `json:"dryRun"`
	Groups        []LeavingGroup  `json:"groups"`
	// Bootstrap is where their clients have to connect to.
	Bootstrap []string `json:"bootstrap,omitempty"`
	// Removed are groups that were removed at other sites, or would be.
	Removed []RemovedGroup `json:"removed,omitempty"`
	// Refused is why nothing is changed.
	Refused []string `json:"refused,omitempty"`
}

// LeavingGroup is one consumer group.
type LeavingGroup struct {
	Group string `json:"group"`
	State string `json:"state"`
	// Positions are those that are changed; the others, Own of them, are the site's own
	// already.
	Positions []LeavingPosition `json:"positions"`
	Own       int               `json:"own"`
	// Others are positions of topics of other failover groups, which stay as they are.
	Others int  `json:"others,omitempty"`
	Left   bool `json:"left"` // all that was to be changed was
}

// LeavingPosition is one committed position.
type LeavingPosition struct {
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Virtual   spillway.Offset `json:"virtual"`
	// Stored is the local offset that stood beside it, and Local that of the next record.
	Stored spillway.LocalOffset `json:"stored"`
	Local  spillway.LocalOffset `json:"local"`
	// Hidden offsets from there on gateways show to nobody, and brokers to everybody.
	Hidden int64 `json:"hidden,omitempty"`
	// Expired: the record is not there any more, so auto.offset.reset says where a client
	// goes on, as it would through a gateway.
	Expired bool `json:"expired,omitempty"`

	metadata string
}

// RemovedGroup is one that was removed at another site.
type RemovedGroup struct {
	Site  spillway.SiteID `json:"site"`
	Group string          `json:"group"`
}

// LeaveRequest is what a person asks for.
type LeaveRequest struct {
	Site spillway.SiteID
	// ConsumerGroups are those that leave; empty: all of the failover group.
	ConsumerGroups []string
	// RemoveOthers removes them at the other sites.
	RemoveOthers bool
	// AcceptHidden goes on where clients will meet records that gateways hide.
	AcceptHidden bool
	// AcceptNotAdopting goes on where the group may move, automatically too, while its clients
	// are at the brokers.
	AcceptNotAdopting bool
	Who, Why          string
	DryRun            bool
}

// leavingRules tell whether groups may leave: what refuses it, in sentences.
func leavingRules(share failover.Share, r LeaveRequest, groups []LeavingGroup) (refused []string) {
	switch {
	case share.State != failover.Stable:
		return []string{fmt.Sprintf("share %s is in %s: wait for the move, or abort it", share.ID(), share.State)}
	case share.Active != r.Site:
		return []string{fmt.Sprintf("%s serves failover group %s, not %s: positions at a standby may be behind; name that site, or move the group first (spillway switchover %s --to %s)", share.Active, share.Group, r.Site, share.Group, r.Site)}
	}
	if share.Adoption == nil && !r.AcceptNotAdopting {
		return []string{fmt.Sprintf("failover group %s is not adopting, so that it may move and leave those behind who have gone to the brokers: set adopting in the configuration of all processes and start them anew, or give --accept not-adopting", share.Group)}
	}
	var active []string
	for _, g := range groups {
		if g.State != "Empty" && g.State != "Dead" {
			active = append(active, fmt.Sprintf("%s (%s)", g.Group, g.State))
		}
	}
	if len(active) > 0 {
		refused = append(refused, fmt.Sprintf("consumer groups have members, which would commit virtual offsets again: %s; stop them", some(active)))
	}
	var hidden []string
	for _, g := range groups {
		for _, p := range g.Positions {
			if p.Hidden > 0 {
				hidden = append(hidden, fmt.Sprintf("%s in %s-%d (%d offsets)", g.Group, p.Topic, p.Partition, p.Hidden))
			}
		}
	}
	if len(hidden) > 0 && !r.AcceptHidden {
		refused = append(refused, fmt.Sprintf("clients of the brokers will read records that gateways hide: %s; let the groups read beyond them first, or give --accept hidden-records", some(hidden)))
	}
	return refused
}

// some names a few of many.
func some(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// ownPosition is what becomes of a committed position; false: it is the site's own already.
// The virtual offset before the metadata is exact, while the local one beside it may be that
// of the end of a log that lacked the record when a mirror carried the position (C16).
func ownPosition(tp spillway.TopicPartition, o broker.GroupOffset, view *offsetmap.View, start, end spillway.LocalOffset) (LeavingPosition, bool) {
	virtual, _, metadata, exact := offsetmap.DecodeCommit(o.Metadata)
	if !exact {
		return LeavingPosition{}, false
	}
	p := LeavingPosition{Topic: tp.Topic, Partition: tp.Partition, Virtual: virtual, Stored: o.Offset, metadata: metadata}
	p.Local, _ = view.ToLocal(virtual)
	p.Local = min(p.Local, end) // else brokers would say that it is out of range
	p.Expired = p.Local < start
	if from := max(p.Local, start); from < end {
		p.Hidden = int64(end - from)
		for _, r := range view.Segments(from, end-1) {
			p.Hidden -= r.Length
		}
	}
	return p, true
}

// Leave gives consumer groups of a failover group the offsets of the site that serves them:
// whoever reads there from the brokers goes on at the next record, and finds nothing of
// Spillway in what is committed. It may be repeated: what has left stays as it is.
func (o *Operator) Leave(ctx context.Context, group string, r LeaveRequest) (Leaving, error) {
	l := Leaving{FailoverGroup: group, Site: r.Site, DryRun: r.DryRun, Groups: []LeavingGroup{}}
	g, ok := o.topology.Group(group)
	if !ok {
		return l, fmt.Errorf("there is no failover group %q; see spillway failover-group list", group)
	}
	if !slices.Contains(g.Sites, r.Site) {
		return l, fmt.Errorf("%s is none of the sites of failover group %s: %v", r.Site, group, g.Sites)
	}
	cluster := o.Sites[r.Site]
	if cluster == nil {
		return l, fmt.Errorf("leave %s at %s: no way to the site is known", group, r.Site)
	}
	share, _, err := o.share(ctx, group)
	if err != nil {
		return l, err
	}
	if l.Refused = leavingRules(share, r, nil); len(l.Refused) > 0 {
		return l, nil
	}
	names, err := o.consumerGroups(ctx, cluster, g, r)
	if err != nil {
		return l, err
	}
	reader := maptopic.Tail(ctx, cluster, nil)
	defer reader.Close()
	if err := reader.CaughtUp(ctx); err != nil {
		return l, fmt.Errorf("leave %s: read the map of site %s: %w", group, r.Site, err)
	}
	for _, name := range names {
		one, err := o.leavingGroup(ctx, cluster, g, name, reader)
		if err != nil {
			return l, err
		}
		l.Groups = append(l.Groups, one)
	}
	l.Refused = leavingRules(share, r, l.Groups)
	if r.RemoveOthers {
		why, err := o.carried(ctx, g, share)
		if err != nil {
			return l, err
		}
		l.Refused = append(l.Refused, why...)
	}
	if len(l.Refused) > 0 {
		return l, nil
	}
	if !r.DryRun {
		if err := o.Note(ctx, fmt.Sprintf("%d consumer groups of %s leave: their positions at %s become the site's own", len(l.Groups), group, r.Site), r.Who, r.Why); err != nil {
			return l, err
		}
	}
	for i := range l.Groups {
		if r.DryRun {
			break
		}
		// What was read before may be old: somebody may have joined, committed and gone.
		one, err := o.leavingGroup(ctx, cluster, g, l.Groups[i].Group, reader)
		if err == nil {
			share, err = o.stays(ctx, share)
		}
		if err == nil {
			if refused := leavingRules(share, r, []LeavingGroup{one}); len(refused) > 0 {
				err = fmt.Errorf("%w: %s", failover.ErrRefused, strings.Join(refused, "; "))
			}
		}
		if err == nil {
			l.Groups[i] = one
			err = l.Groups[i].commit(ctx, cluster)
		}
		if err != nil {
			return l, fmt.Errorf("leave %s: %w; %d of %d groups have left, give the command again for the rest", group, err, i, len(l.Groups))
		}
	}
	if r.RemoveOthers {
		err = o.removeOthers(ctx, g, share, &l)
	}
	return l, err
}

// stays reads the record of a share again, and tells whether it still is what it was: at
// another site, or in another epoch, what was read for it before says nothing any more.
func (o *Operator) stays(ctx context.Context, was failover.Share) (failover.Share, error) {
	now, _, err := o.share(ctx, was.Group)
	if err != nil {
		return was, fmt.Errorf("see whether failover group %s has moved: %w", was.Group, err)
	}
	if now.State != failover.Stable || now.Active != was.Active || now.Epoch != was.Epoch {
		return was, fmt.Errorf("%w: failover group %s moves or has moved meanwhile: it was served by %s in epoch %d, and now is in %s of epoch %d, with %s active; wait until it stands still, and see with --dry-run what is left to do",
			failover.ErrRefused, was.Group, was.Active, was.Epoch, now.State, now.Epoch, now.Active)
	}
	return now, nil
}

// consumerGroups are those that are to leave.
func (o *Operator) consumerGroups(ctx context.Context, cluster broker.Cluster, g spillway.FailoverGroup, r LeaveRequest) (names []string, err error) {
	listed, err := cluster.Admin().ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range listed {
		if rankOf(o.topology, g, one.ID) == 0 && (len(r.ConsumerGroups) == 0 || slices.Contains(r.ConsumerGroups, one.ID)) {
			names = append(names, one.ID)
		}
	}
	for _, name := range r.ConsumerGroups {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("site %s has no consumer group %q of failover group %s", r.Site, name, g.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (o *Operator) leavingGroup(ctx context.Context, cluster broker.Cluster, g spillway.FailoverGroup, name string, reader *maptopic.Reader) (LeavingGroup, error) {
	one := LeavingGroup{Group: name, Positions: []LeavingPosition{}}
	d, err := cluster.Admin().DescribeGroup(ctx, name)
	if err != nil {
		return one, err
	}
	one.State = d.State
	committed, err := cluster.Admin().StableGroupOffsets(ctx, name)
	if err != nil {
		return one, fmt.Errorf("what group %s has committed at %s: %w", name, cluster.Site(), err)
	}
	var tps []spillway.TopicPartition
	for tp := range committed {
		if o.topology.Has(g, tp) {
			tps = append(tps, tp)
		} else {
			one.Others++
		}
	}
	slices.SortFunc(tps, spillway.TopicPartition.Compare)
	starts, err := cluster.Admin().LogStarts(ctx, tps)
	if err != nil {
		return one, err
	}
	ends, err := cluster.Admin().LogEnds(ctx, tps)
	if err != nil {
		return one, err
	}
	for _, tp := range tps {
		view := reader.View(tp)
		p, changes := ownPosition(tp, committed[tp], view, starts[tp], ends[tp])
		switch {
		case !changes:
			one.Own++
		case view.Empty():
			return one, fmt.Errorf("group %s has committed offset %d of %s, of which the map of site %s says nothing: is a mirror running there?", name, p.Virtual, tp, cluster.Site())
		default:
			one.Positions = append(one.Positions, p)
		}
	}
	return one, nil
}

// commit writes the positions of a group as the site's own. The coordinator refuses it if the
// group has got members.
func (g *LeavingGroup) commit(ctx context.Context, cluster broker.Cluster) error {
	own := map[spillway.TopicPartition]broker.GroupOffset{}
	for _, p := range g.Positions {
		own[spillway.TopicPartition{Topic: p.Topic, Partition: p.Partition}] = broker.GroupOffset{Offset: p.Local, LeaderEpoch: -1, Metadata: p.metadata}
	}
	if err := cluster.Admin().CommitGroupOffsets(ctx, g.Group, own); err != nil {
		return fmt.Errorf("commit the positions of group %s at %s: %w", g.Group, cluster.Site(), err)
	}
	g.Left = true
	return nil
}

// carried says why groups cannot be removed at other sites: a mirror that follows there
// carries their positions again.
func (o *Operator) carried(ctx context.Context, g spillway.FailoverGroup, share failover.Share) (refused []string, err error) {
	h, err := o.watch(ctx)
	if err != nil {
		return nil, err
	}
	for site, m := range h.mirrors() {
		if _, follows := m.following(share.ID()); follows && site != share.Active && slices.Contains(g.Sites, site) {
			refused = append(refused, fmt.Sprintf("the mirror of %s carries the positions of %s and would bring them back: stop it, or take the failover group out of its configuration, before groups are removed there", site, g.Name))
		}
	}
	slices.Sort(refused)
	return refused, nil
}

// removeOthers removes the groups at the other sites. One that has members, or positions of
// other failover groups, stays. Where the failover group moves, one of the others begins to
// serve, and nothing more is removed.
func (o *Operator) removeOthers(ctx context.Context, g spillway.FailoverGroup, share failover.Share, l *Leaving) error {
	for _, site := range g.Sites {
		if site == l.Site {
			continue
		}
		cluster := o.Sites[site]
		if cluster == nil {
			return fmt.Errorf("remove groups at %s: no way to the site is known", site)
		}
		for _, one := range l.Groups {
			committed, err := cluster.Admin().FetchGroupOffsets(ctx, one.Group)
			if err != nil {
				return err
			}
			foreign := false
			for tp := range committed {
				foreign = foreign || !o.topology.Has(g, tp)
			}
			if len(committed) == 0 || foreign {
				continue
			}
			if !l.DryRun {
				if _, err := o.stays(ctx, share); err != nil {
					return fmt.Errorf("remove group %s at %s: %w; %d groups were removed", one.Group, site, err, len(l.Removed))
				}
				err = cluster.Admin().DeleteGroup(ctx, one.Group)
			}
			switch {
			case errors.Is(err, broker.ErrGroupActive), errors.Is(err, broker.ErrUnknownGroup):
				continue
			case err != nil:
				return fmt.Errorf("remove group %s at %s: %w", one.Group, site, err)
			}
			l.Removed = append(l.Removed, RemovedGroup{site, one.Group})
		}
	}
	return nil
}
