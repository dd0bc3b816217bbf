package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/offsetmap"
)

// recommitInterval keeps carried offsets from expiring
// (offsets.retention.minutes counts from the last commit).
const recommitInterval = time.Hour

// groupMax bounds the time that a round of the background has for one group. A coordinator
// that hangs has many, and the others wait for their turn: once one has used up its time in
// a round, each that begins has groupSoon.
const (
	groupMax  = 10 * time.Second
	groupSoon = time.Second
)

// carryGroups copies group offsets again and again until ctx ends, and at once when
// it is told to hurry. What fails is met again by the next round; for how long it has
// failed the flow tells.
func (m *Mirror) carryGroups(ctx context.Context, f *flow, hurry <-chan struct{}) {
	carried := make(map[string]carriedGroup)
	var mu sync.Mutex
	tick := time.NewTicker(m.config.GroupInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-hurry:
		case <-ctx.Done():
			return
		}
		began := m.config.Now()
		groups, err := listGroups(ctx, f.source.cluster)
		if ctx.Err() != nil {
			return
		}
		if away(err) || len(groups) == 0 && err != nil && f.problem() != "" {
			f.groups.away(began)
			continue
		}
		f.groups.back(m.config.Now())
		groups = slices.DeleteFunc(groups, func(g broker.GroupListing) bool { return !f.share.coversGroup(g.ID) })
		f.groups.carry(ctx, m.config.Now, groups, f.share, func(ctx context.Context, group string) error {
			return m.copyAlone(ctx, f.share, f.source, group, f.share.Epoch, false, nil, func(_ context.Context, group string) carriedGroup {
				mu.Lock()
				defer mu.Unlock()
				return carried[group]
			}, func(group string, now carriedGroup) {
				mu.Lock()
				defer mu.Unlock()
				carried[group] = now
			})
		})
		if ctx.Err() != nil {
			return
		}
		f.groups.listed(m.config.Now(), groups, err)
		if err == nil {
			forgetGone(carried, groups)
		}
	}
}

// carry does one round: something about each group, those that fail last, and takes what
// becomes of it at once, as others may take long yet.
func (g *groupAges) carry(ctx context.Context, now func() time.Time, groups []broker.GroupListing, a Assignment, do func(ctx context.Context, group string) error) {
	g.failedLast(groups)
	var slow atomic.Int64
	eachGroup(groups, a, func(group broker.GroupListing) error {
		most := groupMax
		if slow.Load() > 0 {
			most = groupSoon
		}
		bounded, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		err := do(bounded, group.ID)
		if err != nil && bounded.Err() != nil {
			slow.Add(1)
		}
		if ctx.Err() == nil {
			g.took(now(), group.ID, err)
		}
		return err
	})
}

// forgetGone forgets groups that the source does not have any more: they come and go, and
// some have a new name each time.
func forgetGone[T any](known map[string]T, groups []broker.GroupListing) {
	there := make(map[string]bool, len(groups))
	for _, g := range groups {
		there[g.ID] = true
	}
	maps.DeleteFunc(known, func(group string, _ T) bool { return !there[group] })
}

// HurryGroups has the group offsets carried at once, so that little is left to copy
// when clients are held. It waits for nothing.
func (m *Mirror) HurryGroups(id spillway.ShareID) {
	s, err := m.share(id)
	if err != nil {
		return // the mirror was closed
	}
	s.mu.Lock()
	hurry := s.mu.hurry
	s.mu.Unlock()
	select {
	case hurry <- struct{}{}:
	default:
	}
}

// carriedGroup is what is committed here, so that only changes need be.
type carriedGroup struct {
	offsets map[spillway.TopicPartition]broker.GroupOffset
	at      time.Time
}

// has tells whether the offsets are committed, and were lately.
func (c carriedGroup) has(offsets map[spillway.TopicPartition]broker.GroupOffset) bool {
	for tp, o := range offsets {
		if there, ok := c.offsets[tp]; !ok || there != o {
			return false
		}
	}
	return time.Since(c.at) < recommitInterval
}

// still forgets the positions that the source does not have any more: they may have been
// deleted here too, and come again.
func (c carriedGroup) still(theirs map[spillway.TopicPartition]broker.GroupOffset) carriedGroup {
	kept := make(map[spillway.TopicPartition]broker.GroupOffset, len(c.offsets))
	for tp, o := range c.offsets {
		if there, listed := theirs[tp]; listed && there.Offset >= 0 {
			kept[tp] = o
		}
	}
	return carriedGroup{kept, c.at}
}

// copyListMax bounds how long the groups of both sites are listed in a switchover: clients are
// held. A broker that hangs takes half of it.
const copyListMax = 4 * time.Second

// CopyGroups copies the committed offsets of the share's consumer groups from a
// site, exactly: the same virtual offsets, in this site's own numbers. Members
// that a group left behind here are removed. It may be repeated, and may run
// beside OpenEpoch. caughtUp returns once this site has what positions may lie behind; where
// it is given nobody commits at the source any more, and what it has is read meanwhile.
//
// Most offsets were carried before; those that this site has already are not
// committed again, for clients are held meanwhile. The site itself is asked what it
// has: another mirror of it may have carried others since.
func (m *Mirror) CopyGroups(ctx context.Context, id spillway.ShareID, from spillway.SiteID, caughtUp func(context.Context) error) error {
	a, err := m.assignment(id)
	if err != nil {
		return err
	}
	src, err := m.source(from)
	if err != nil {
		return err
	}
	var errSource, errTheirs error
	var here, theirs []broker.GroupListing
	var wg sync.WaitGroup
	var ahead groupsAhead
	if caughtUp != nil { // else groups may commit meanwhile, and who carries them read what is newer
		reading, stop := context.WithCancel(ctx)
		var end func()
		ahead, end = m.readAhead(reading, a, src)
		defer func() { stop(); end() }()
	}
	listing, cancel := context.WithTimeout(ctx, copyListMax)
	defer cancel()
	wg.Go(func() { theirs, errTheirs = listGroups(listing, src.cluster) }) // now: one that hangs costs time, here or there
	wg.Go(func() { errSource = src.ready(ctx, m.config.IdentitySources) })
	// A group that is not in the list, because its broker does not answer, is committed as if
	// it had members: that shows what is wrong with it.
	wg.Go(func() { here, _ = m.local.Admin().ListGroups(listing) })
	var errCaughtUp error
	if caughtUp != nil {
		errCaughtUp = caughtUp(ctx)
	}
	wg.Wait()
	if errCaughtUp != nil {
		return errCaughtUp
	}
	// What failed is asked again: the records may have been waited for.
	if caughtUp != nil && errTheirs != nil {
		wg.Go(func() { theirs, errTheirs = listGroups(listing, src.cluster) })
	}
	if caughtUp != nil && errSource != nil {
		wg.Go(func() { errSource = src.ready(ctx, m.config.IdentitySources) })
	}
	errMap := m.reader.CaughtUp(ctx)
	if wg.Wait(); errors.Join(errSource, errMap) != nil {
		return errors.Join(errSource, errMap)
	}
	theirs = ahead.add(theirs)
	idle := make(map[string]bool)
	for _, g := range here {
		idle[g.ID] = g.State == "Empty"
	}
	return m.copyGroups(ctx, a, src, theirs, errTheirs, m.reader.Floor(id), true, ahead, func(ctx context.Context, group string) carriedGroup {
		if !idle[group] || m.config.IdentitySources {
			return carriedGroup{} // it has members to be removed, or is not there; or nobody waits
		}
		offsets, err := m.local.Admin().FetchGroupOffsets(ctx, group)
		if err != nil {
			return carriedGroup{} // to commit shows what is wrong
		}
		return carriedGroup{offsets, time.Now()}
	}, func(string, carriedGroup) {})
}

// RemoveMembers removes the members that the share's consumer groups have here, before a
// failover opens the epoch: they are of a time when this site served. New members would
// wait until the sessions of those have timed out, which takes 45 s by default. In a
// switchover CopyGroups does so. It may run beside OpenEpoch, but not longer than that, and
// not again once the epoch has begun here: then clients may have joined.
//
// A group counts if it has a position in a topic of the share: those of the site itself,
// such as the workers of a Connect cluster, are left alone, whatever they are called.
func (m *Mirror) RemoveMembers(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) error {
	a, err := m.assignment(id)
	if err != nil {
		return err
	}
	if len(a.ConsumerGroups) == 0 {
		return nil
	}
	groups, err := listGroups(ctx, m.local)
	faults := eachGroup(groups, a, func(g broker.GroupListing) error {
		if g.State == "Empty" || g.State == "Dead" {
			return nil
		}
		if err := m.removeMembers(ctx, a, groupRight{m: m, share: id, group: g.ID, floor: epoch}); err != nil {
			return fmt.Errorf("group %s: %w", g.ID, err)
		}
		return nil
	})
	return cmp.Or(err, some(faults))
}

func (m *Mirror) removeMembers(ctx context.Context, a Assignment, right groupRight) error {
	positions, err := m.local.Admin().FetchGroupOffsets(ctx, right.group)
	if err != nil {
		return err
	}
	for tp := range positions {
		if a.has(tp) {
			return right.removeMembers(ctx)
		}
	}
	return nil
}

// Begun tells whether an epoch of a share, or a later one, has begun at this site.
func (m *Mirror) Begun(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch) (bool, error) {
	a, err := m.assignment(id)
	if err != nil {
		return false, err
	}
	if err := m.readMap(ctx); err != nil {
		return false, err
	}
	for tp := range m.reader.Open() {
		if a.has(tp) && m.hasBegun(tp, epoch) {
			return true, nil
		}
	}
	return false, nil
}

// copyGroups copies, of the groups that the source has, what differs from what is there, and says what is there then: nothing
// is known of what another worker has. Of several workers each has its own groups. The
// last copy may wait: for groups that are becoming its own, and for the source's coordinator
// to hear of the end of transactions. It commits nothing once the site has promised a higher
// epoch than the floor.
func (m *Mirror) copyGroups(ctx context.Context, a Assignment, src *source, groups []broker.GroupListing, unlisted error, floor spillway.Epoch, wait bool, ahead groupsAhead, there func(context.Context, string) carriedGroup, keep func(string, carriedGroup)) error {
	faults := eachGroup(groups, a, func(g broker.GroupListing) error {
		return m.copyAlone(ctx, a, src, g.ID, floor, wait, ahead, there, keep)
	})
	return errors.Join(append(faults, unlisted)...)
}

// listGroups lists the groups of a site. Brokers that do not say which they have keep nobody
// from those of the others: what they have is in the error.
func listGroups(ctx context.Context, at broker.Cluster) ([]broker.GroupListing, error) {
	groups, err := at.Admin().ListGroups(ctx)
	if err != nil {
		err = fmt.Errorf("list groups of site %s: %w", at.Site(), err)
	}
	return groups, err
}

// eachGroup does something about each group that belongs to the share, in their order and
// groupsAtOnce at a time: they are independent, and a move holds producers until it is
// done with all. A fault of one keeps nobody from the others.
func eachGroup(groups []broker.GroupListing, a Assignment, do func(broker.GroupListing) error) (faults []error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, groupsAtOnce)
	for _, g := range groups {
		if !a.coversGroup(g.ID) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(g); err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults = append(faults, err)
			}
		})
	}
	wg.Wait()
	return faults
}

// copyAlone copies a group while nobody else of this mirror does: else what one read
// before could be committed behind what another read since.
func (m *Mirror) copyAlone(ctx context.Context, a Assignment, src *source, group string, floor spillway.Epoch, wait bool, ahead groupsAhead, there func(context.Context, string) carriedGroup, keep func(string, carriedGroup)) error {
	leave, err := m.copying.enter(ctx, group)
	if err != nil {
		return fmt.Errorf("copy group %s: %w", group, err)
	}
	defer leave()
	may := groupRight{m: m, share: a.Share, group: group, floor: floor}
	if crew := m.crewOf(a.Share); crew != nil {
		lease, err := crew.takeGroup(ctx, group, wait)
		if err != nil {
			err = fmt.Errorf("copy group %s to site %s: %w", group, m.site, err)
		}
		if lease == nil {
			keep(group, carriedGroup{})
			return err
		}
		defer lease.release()
		may.lease = lease
	}
	read := m.positionsAt(src, wait)
	if r, ok := ahead[group]; ok {
		read = r.or(read)
	}
	now, err := m.copyGroup(ctx, a, src, group, may, there, read)
	if err != nil {
		return err
	}
	keep(group, now)
	return nil
}

// groupsAtOnce bounds the groups that are copied at the same time.
const groupsAtOnce = 16

// ErrGroupLost means that another process may carry the group by now, or that the site may
// serve it.
var ErrGroupLost = errors.New("another mirror process may carry the group by now, or the site serves it")

// groupRight is the right to change what is committed of a group. It is asked for directly
// before each change: whatever was waited for may have taken long, and a group that has
// members at a site that serves is theirs.
type groupRight struct {
	m     *Mirror
	share spillway.ShareID
	group string
	floor spillway.Epoch // above it another epoch was promised
	lease Lease          // nil: this process is the only one
}

func (r groupRight) lost() error {
	if r.lease != nil && !r.lease.Held(r.m.config.Now()) || r.m.reader.Floor(r.share) > r.floor {
		return ErrGroupLost
	}
	return nil
}

func (r groupRight) commit(ctx context.Context, offsets map[spillway.TopicPartition]broker.GroupOffset) error {
	if err := r.lost(); err != nil {
		return err
	}
	return r.m.local.Admin().CommitGroupOffsets(ctx, r.group, offsets)
}

func (r groupRight) removeMembers(ctx context.Context) error {
	if err := r.lost(); err != nil {
		return err
	}
	return r.m.local.Admin().RemoveMembers(ctx, r.group)
}

// groupReader reads the committed positions of a group.
type groupReader func(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error)

// positionsAt reads them at a source, the last time once all transactions have ended there.
func (m *Mirror) positionsAt(src *source, last bool) groupReader {
	if last && !m.config.IdentitySources { // there they may overlap for as long as the source is used
		return src.cluster.Admin().StableGroupOffsets
	}
	return src.cluster.Admin().FetchGroupOffsets
}

// aheadMax ends a read that is ahead before it takes positions as they were before transactions
// that have not ended: those are waited for once all else is there.
const aheadMax = broker.UndecidedMax * 9 / 10

// groupsAhead are groups whose positions are being read already.
type groupsAhead map[string]*groupAhead

type groupAhead struct {
	done      chan struct{}
	positions map[spillway.TopicPartition]broker.GroupOffset
	err       error
}

// or waits for the read, and reads again where it failed.
func (r *groupAhead) or(read groupReader) groupReader {
	return func(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
		select {
		case <-r.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if r.err != nil {
			return read(ctx, group)
		}
		return r.positions, nil
	}
}

// add completes the list of a site's groups by those that are being read: one whose coordinator
// moves is in the list of none.
func (ahead groupsAhead) add(groups []broker.GroupListing) []broker.GroupListing {
	listed := make(map[string]bool, len(groups))
	for _, g := range groups {
		listed[g.ID] = true
	}
	for group := range ahead {
		if !listed[group] {
			groups = append(groups, broker.GroupListing{ID: group})
		}
	}
	return groups
}

// readAhead begins to read, for the last time, what those groups have at a source that were
// carried from there before: nobody waits for the list of all. end waits for all reads, which
// end with ctx.
func (m *Mirror) readAhead(ctx context.Context, a Assignment, src *source) (ahead groupsAhead, end func()) {
	ahead = make(groupsAhead)
	s, err := m.share(a.Share)
	if err != nil {
		return nil, func() {} // the mirror was closed
	}
	s.mu.Lock()
	f := s.mu.flow
	s.mu.Unlock()
	if f == nil || f.source != src {
		return nil, func() {}
	}
	var groups []broker.GroupListing
	for _, group := range f.groups.carried() {
		if a.coversGroup(group) {
			ahead[group] = &groupAhead{done: make(chan struct{})}
			groups = append(groups, broker.GroupListing{ID: group})
		}
	}
	read := m.positionsAt(src, true)
	var all sync.WaitGroup
	all.Go(func() {
		eachGroup(groups, a, func(g broker.GroupListing) error {
			r := ahead[g.ID]
			defer close(r.done)
			ctx, cancel := context.WithTimeout(ctx, aheadMax)
			defer cancel()
			r.positions, r.err = read(ctx, g.ID)
			return nil
		})
	})
	return ahead, all.Wait
}

// copyGroup returns what is carried of the group now.
func (m *Mirror) copyGroup(ctx context.Context, a Assignment, src *source, group string, may groupRight, there func(context.Context, string) carriedGroup, read groupReader) (carriedGroup, error) {
	var before carriedGroup
	var wg sync.WaitGroup
	wg.Go(func() { before = there(ctx, group) })
	theirs, err := read(ctx, group)
	wg.Wait()
	if err != nil {
		return before, fmt.Errorf("copy group %s from site %s: %w", group, src.site, err)
	}
	before = before.still(theirs)
	ours := make(map[spillway.TopicPartition]broker.GroupOffset, len(theirs))
	for tp, o := range theirs {
		if o.Offset < 0 || !a.covers(tp.Topic) || m.fedBy(src, tp.Topic) == "" {
			continue
		}
		if translated, ok := m.translate(a, src, tp, o); ok {
			ours[tp] = translated
		}
	}
	if len(ours) == 0 || before.has(ours) {
		return before, nil
	}
	err = may.commit(ctx, ours)
	switch {
	case errors.Is(err, broker.ErrGroupActive) && m.config.IdentitySources:
		return before, nil // without a control plane its members are the target's own, and know better
	case errors.Is(err, broker.ErrGroupActive):
		// They were members when this site served, and have gone with the share
		// without leaving. Until their sessions time out they would keep the
		// offsets from being carried, and new members from joining after the
		// next move.
		if err := may.removeMembers(ctx); err != nil {
			return before, fmt.Errorf("remove the members that group %s left behind at site %s: %w", group, m.site, err)
		}
		if err := may.commit(ctx, ours); err != nil {
			return before, fmt.Errorf("copy group %s to site %s: %w", group, m.site, err)
		}
	case err != nil:
		return before, fmt.Errorf("copy group %s to site %s: %w", group, m.site, err)
	}
	m.events.groupCarried(GroupInfo{a.Share, group, len(ours)})
	return carriedGroup{ours, time.Now()}, nil
}

// translate turns a committed offset of the source into one of this site. The
// exact virtual offset goes into the metadata: where the record is not here
// yet, the local number points at the end and says too little (C16). It never
// lies behind a record that the group has not read.
func (m *Mirror) translate(a Assignment, src *source, tp spillway.TopicPartition, o broker.GroupOffset) (broker.GroupOffset, bool) {
	theirs, ours := src.view(tp), m.reader.View(tp)
	virtual, epoch, metadata, exact := offsetmap.DecodeCommit(o.Metadata)
	if m.config.IdentitySources && src.reader.View(src.onWire(tp)).Empty() {
		metadata, exact = o.Metadata, false // no gateway stands there, so this is a client's own
	}
	if !exact || epoch > a.Epoch {
		if theirs.Empty() {
			return broker.GroupOffset{}, false
		}
		virtual, _ = theirs.ToVirtual(o.Offset)
		epoch = a.Epoch
	}
	local, _ := ours.ToLocal(virtual)
	if m.config.IdentitySources {
		// Nor does one here, which would take the prefix away again.
		return broker.GroupOffset{Offset: local, LeaderEpoch: -1, Metadata: metadata}, true
	}
	return broker.GroupOffset{Offset: local, LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(virtual, epoch, metadata)}, true
}
