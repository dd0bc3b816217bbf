package mirror

import (
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
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// ErrFenced means that the site has promised a higher epoch: an older flow may
// not run here any more.
var ErrFenced = errors.New("a higher epoch was promised at this site")

// ErrMapLost means that the site's map topic was deleted or emptied while the
// site served from it.
var ErrMapLost = errors.New("the offset map was lost")

// Assignment says what a site's mirror does for one share.
type Assignment struct {
	Share          spillway.ShareID
	Topics         []string // exact names, or a prefix followed by "*"
	ConsumerGroups []string // the same
	Epoch          spillway.Epoch
	Source         spillway.SiteID // "": this site serves
	OffsetBase     spillway.Offset // virtual minus local offset where a partition starts
	Mask           uint64          // of Epoch
	Terms          []Term          // of the share, oldest first; none without a control plane
	Start          Start           // of what was never mirrored; only without a control plane
	Delay          time.Duration   // how old a batch must be; only without a control plane
	// Until are the virtual offsets at which the flow ends; nil: it goes on. Only
	// without a control plane.
	Until map[spillway.TopicPartition]spillway.Offset

	// FollowDeletions has topics deleted here that are deleted at the source, if the
	// mirror created them.
	FollowDeletions bool

	// TopicPrefixes and GroupPrefixes are prefixes of which every name is meant;
	// only without a control plane, where patterns do not say so.
	TopicPrefixes, GroupPrefixes []string

	// Match, if set, must also accept a topic.
	Match func(topic string) bool
	// MatchGroup, if set, must also accept a consumer group.
	MatchGroup func(group string) bool
	// Owns, if set, must also accept a partition, where topics are divided between
	// shares. Each topic then has Total partitions; what belongs to whole topics is
	// carried by the share that has partition 0.
	Owns  func(spillway.TopicPartition) bool
	Total int32
}

// Mirror feeds one site. All methods may be called by any goroutine.
type Mirror struct {
	// Set once, read by anyone.
	config Config
	events *Events
	site   spillway.SiteID
	local  broker.Cluster
	reader *maptopic.Reader
	writer *maptopic.Writer
	marks  *marks
	budget *budget
	crew   *crew           // of a run; under a control plane each share has its own
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	began  time.Time

	goroutines sync.WaitGroup
	expiry     expiry
	ids        ids
	copying    copyTurns // by consumer group

	mu struct {
		sync.Mutex
		shares  map[spillway.ShareID]*share
		sources map[spillway.SiteID]*source
		pacers  map[paced]*pacer
		closed  bool
	}
}

// share is what the mirror does for one share.
type share struct {
	id spillway.ShareID
	// moving is held by whoever changes what runs; one at a time.
	moving sync.Mutex
	// crew is set once: who shares what flows in. Nil: nobody does.
	crew     *crew
	yielding atomic.Bool // it will be looked whether all is another worker's

	// Guarded by moving.
	assignment Assignment
	assigned   bool
	helped     bool           // assigned so by Join
	fence      spillway.Epoch // flows of older epochs may not run
	floorAt    int64          // where this mirror wrote that into the map
	flow       *flow          // nil while nothing flows in
	yielded    bool           // it was stopped since another worker has a higher rank
	side       *side          // what runs beside the flow

	mu struct {
		sync.Mutex
		flow       *flow // the same, for Flows
		assignment Assignment
		ends       map[spillway.TopicPartition]spillway.Offset
		hurry      chan struct{} // for the goroutine that carries groups; nil while there is none
	}
}

// side is a goroutine that belongs to an assignment.
type side struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// New starts a mirror of one site. It reads the site's map and waits for
// assignments. ctx ends it as Close does.
func New(ctx context.Context, config Config) (*Mirror, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	ctx, cancel := context.WithCancel(ctx)
	m := &Mirror{config: config, events: &config.Events, site: config.Local.Site(), local: config.Local, marks: newMarks(), budget: newBudget(config.MemoryBytes), ctx: ctx, cancel: cancel, began: config.Now()}
	m.mu.shares = make(map[spillway.ShareID]*share)
	m.mu.sources = make(map[spillway.SiteID]*source)
	m.mu.pacers = make(map[paced]*pacer)
	m.writer = maptopic.NewWriter(ctx, config.Local, config.Replication)
	m.reader = maptopic.Tail(ctx, config.Local, nil)
	return m, nil
}

// Close stops all flows in good order and waits for them.
func (m *Mirror) Close() {
	m.mu.Lock()
	m.mu.closed = true
	shares := slices.Collect(maps.Values(m.mu.shares))
	sources := slices.Collect(maps.Values(m.mu.sources))
	m.mu.Unlock()
	for _, s := range shares {
		s.moving.Lock()
		s.halt()
		s.moving.Unlock()
	}
	m.cancel()
	m.goroutines.Wait()
	for _, s := range sources {
		s.reader.Close()
	}
	m.reader.Close()
	m.writer.Close()
}

// Map returns the reader of the site's own map topic.
func (m *Mirror) Map() *maptopic.Reader { return m.reader }

// source returns another site and starts to follow its map.
func (m *Mirror) source(id spillway.SiteID) (*source, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.mu.sources[id]; ok {
		return s, nil
	}
	cluster, ok := m.config.Sources[id]
	if !ok {
		return nil, fmt.Errorf("site %s is no source of the mirror of site %s; known are %v", id, m.site, slices.Sorted(maps.Keys(m.config.Sources)))
	}
	if m.mu.closed {
		return nil, errors.New("the mirror was closed")
	}
	s := &source{site: id, cluster: cluster, reader: maptopic.Tail(m.ctx, cluster, nil)}
	m.mu.sources[id] = s
	return s, nil
}

func (m *Mirror) share(id spillway.ShareID) (*share, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return nil, errors.New("the mirror was closed")
	}
	s, ok := m.mu.shares[id]
	if !ok {
		s = &share{id: id}
		s.mu.ends = make(map[spillway.TopicPartition]spillway.Offset)
		m.shareOut(s)
		m.mu.shares[id] = s
	}
	return s, nil
}

// halt stops what runs for the share. The caller holds moving.
func (s *share) halt() {
	s.yielded = false
	if s.side != nil {
		s.side.cancel()
		<-s.side.done
		s.side = nil
		s.mu.Lock()
		s.mu.hurry = nil
		s.mu.Unlock()
	}
	if s.flow != nil {
		s.flow.stop()
		s.setFlow(nil)
	}
}

// running is the share's flow, nil while nothing flows in.
func (s *share) running() *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.flow
}

func (s *share) setFlow(f *flow) {
	s.flow = f
	s.mu.Lock()
	s.mu.flow, s.mu.assignment = f, s.assignment
	s.mu.Unlock()
}

// readMap reads the site's map up to now, and creates its topic where it is missing.
func (m *Mirror) readMap(ctx context.Context) error {
	err := m.reader.CaughtUp(ctx)
	if !errors.Is(err, broker.ErrUnknownTopic) {
		return err
	}
	if err := m.writer.EnsureTopic(ctx); err != nil {
		return err
	}
	return m.reader.CaughtUp(ctx)
}

// saveAndRead writes entries into the site's map and waits until they are read.
func (m *Mirror) saveAndRead(ctx context.Context, entries []maptopic.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	at, err := m.writer.Save(ctx, entries...)
	if err != nil {
		return err
	}
	return m.reader.WaitFor(ctx, at)
}

// raise refuses epochs below the site's floor and lifts the floor.
func (m *Mirror) raise(ctx context.Context, s *share, epoch spillway.Epoch) error {
	if err := m.readMap(ctx); err != nil {
		return err
	}
	floor := m.reader.Floor(s.id)
	s.fence = max(s.fence, floor)
	if epoch < s.fence {
		return fmt.Errorf("share %s, epoch %d at site %s: %w: %d", s.id, epoch, m.site, ErrFenced, s.fence)
	}
	if epoch == floor {
		return m.keepFloor(ctx, s.id)
	}
	at, err := m.writer.SaveWhile(ctx, m.notLeading, maptopic.FloorEntry(s.id, epoch))
	if err != nil {
		return err
	}
	s.fence, s.floorAt = epoch, at
	return nil
}

// keepFloor writes the floor once more where an older one came late: compaction leaves the
// last one.
func (m *Mirror) keepFloor(ctx context.Context, id spillway.ShareID) error {
	floor := m.reader.Floor(id)
	if m.reader.FloorKept(id) == floor {
		return nil
	}
	_, err := m.writer.SaveWhile(ctx, m.notLeading, maptopic.FloorEntry(id, floor))
	return err
}

// Assign says which site this one follows for a share, or that it serves. It
// may be repeated; a higher epoch replaces what ran before. Where the site
// serves and a partition has no map yet, its first epoch starts.
func (m *Mirror) Assign(ctx context.Context, a Assignment) error {
	s, err := m.share(a.Share)
	if err != nil {
		return err
	}
	s.crew.mean(a)
	s.moving.Lock()
	defer s.moving.Unlock()
	if err := m.idsApart(ctx); err != nil {
		return err
	}
	if s.sameAs(a) && (s.flow != nil || s.side != nil) {
		if s.helped { // who led has begun with it, and may not have come further
			if err := m.closeOver(ctx, a); err != nil {
				return err
			}
		}
		s.helped = false
		s.crew.join(a.Epoch)
		return nil
	}
	if err := m.mapIsThere(ctx, a); err != nil {
		return err
	}
	if err := m.raise(ctx, s, a.Epoch); err != nil {
		return err
	}
	s.halt()
	s.assignment, s.assigned, s.helped = a, true, false
	if a.Source == "" {
		s.setFlow(nil)
		s.start(m, func(ctx context.Context) { m.serve(ctx, a) })
		return m.startEpochs(ctx, a)
	}
	src, err := m.source(a.Source)
	if err != nil {
		return err
	}
	if err := m.closeOver(ctx, a); err != nil {
		return err
	}
	m.flowIn(s, a, src)
	return nil
}

// sameAs tells whether the share was assigned so before. The caller holds moving.
func (s *share) sameAs(a Assignment) bool {
	return s.assigned && s.assignment.Epoch == a.Epoch && s.assignment.Source == a.Source &&
		slices.Equal(s.assignment.Topics, a.Topics) && slices.Equal(s.assignment.ConsumerGroups, a.ConsumerGroups)
}

// flowIn lets a share flow in, which has been assigned. The caller holds moving.
func (m *Mirror) flowIn(s *share, a Assignment, src *source) {
	if m.crew == nil {
		s.crew.join(a.Epoch)
	}
	f := newFlow(m, a, src, a.Until)
	m.follow(s, f)
	if m.config.GroupInterval > 0 && len(a.ConsumerGroups) > 0 {
		hurry := make(chan struct{}, 1)
		s.mu.Lock()
		s.mu.hurry = hurry
		s.mu.Unlock()
		s.start(m, func(ctx context.Context) { m.carryGroups(ctx, f, hurry) })
	}
}

// mapIsThere refuses to serve in a later epoch without a map: the site was told
// that epoch by a floor in its map, so the map was lost since. To begin anew
// would give offsets that were given before to other records (C14, promise D).
func (m *Mirror) mapIsThere(ctx context.Context, a Assignment) error {
	if a.Source != "" || a.Epoch == 1 {
		return nil
	}
	if err := m.reader.CaughtUp(ctx); err != nil && !errors.Is(err, broker.ErrUnknownTopic) {
		return err
	}
	if m.reader.Floor(a.Share) == 0 {
		return fmt.Errorf("site %s serves share %s in epoch %d, and its %s knows nothing of it: %w; restore that topic, or fail over to another site", m.site, a.Share, a.Epoch, spillway.MapTopic, ErrMapLost)
	}
	return nil
}

// Know tells what a share consists of and which terms it had, without starting
// anything, so that moves can be carried on after a restart, or by a process that has
// helped in an older epoch.
func (m *Mirror) Know(a Assignment) error {
	s, err := m.share(a.Share)
	if err != nil {
		return err
	}
	s.crew.mean(a)
	s.moving.Lock()
	defer s.moving.Unlock()
	if !s.assigned || s.flow == nil && s.side == nil && s.assignment.Epoch < a.Epoch {
		s.assignment, s.yielded = a, false
		s.setFlow(nil)
	}
	s.assignment.Terms = a.Terms
	return nil
}

func (m *Mirror) follow(s *share, f *flow) {
	s.setFlow(f)
	m.goroutines.Go(func() { f.run(m.ctx) })
}

// start runs what belongs to the share's assignment until halt.
func (s *share) start(m *Mirror, run func(context.Context)) {
	ctx, cancel := context.WithCancel(m.ctx)
	s.side = &side{cancel: cancel, done: make(chan struct{})}
	done := s.side.done
	m.goroutines.Go(func() {
		defer close(done)
		defer cancel()
		run(ctx)
	})
}

// lookEvery is how often a site that serves looks whether topics are compacted whose logs
// hide records there.
const lookEvery = 10 * time.Second

// serve gives back what the mirror borrowed while it wrote here, looks for
// partitions that were created since, and starts their first epoch.
func (m *Mirror) serve(ctx context.Context, a Assignment) {
	var looked, levelled time.Time
	for first := true; first || sitelog.Pause(ctx, m.config.TopicInterval) == nil; first = false {
		if !m.leads() {
			continue // the share may have moved, and who leads mirrors into this site
		}
		look := time.Since(looked) >= lookEvery
		if look {
			looked = time.Now()
		}
		if err := m.returnSettings(ctx, a, look); err != nil && ctx.Err() == nil {
			m.events.metadata(MetadataInfo{Target: m.site, Kind: KindSetting, Problem: err.Error()})
		}
		if time.Since(levelled) >= levelsServed {
			levelled = time.Now() // also where it fails: it is asked of thousands of topics
			if err := m.keepServedLevels(ctx, a); err != nil && ctx.Err() == nil {
				m.events.metadata(MetadataInfo{Target: m.site, Kind: KindSetting, Problem: err.Error()})
			}
		}
		if first {
			continue // Assign does the rest, the first time
		}
		if err := m.startEpochs(ctx, a); err != nil && ctx.Err() == nil {
			m.events.flowState(FlowInfo{Share: a.Share, Target: m.site, Epoch: a.Epoch, Problem: err.Error()})
		}
	}
}

// startEpochs writes the start of the assigned epoch for every partition about
// which the map says nothing: virtual offsets are local ones plus the base. Of
// several processes only the one that leads may.
func (m *Mirror) startEpochs(ctx context.Context, a Assignment) error {
	tps, err := a.partitionsAt(ctx, m.local)
	if err != nil {
		return err
	}
	tps = slices.DeleteFunc(tps, func(tp spillway.TopicPartition) bool {
		om := m.reader.Map(tp)
		return om != nil && (!om.View().Empty() || om.Session().Session > 0)
	})
	if len(tps) == 0 {
		return nil
	}
	starts, err := m.local.Admin().LogStarts(ctx, tps)
	if err != nil {
		return err
	}
	entries := make([]maptopic.Entry, len(tps))
	for i, tp := range tps {
		l := starts[tp]
		entries[i] = maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: a.Epoch, Virtual: spillway.Offset(l) + a.OffsetBase, Local: l, Mask: a.Mask, Worker: m.config.Worker})
	}
	at, err := m.writer.SaveWhile(ctx, m.notLeading, entries...)
	if err != nil {
		return err
	}
	return m.reader.WaitFor(ctx, at)
}

func (m *Mirror) publish(mark Mark) {
	mark.Map = max(m.writer.Saved(), 0)
	if !m.marks.publish(mark) {
		return
	}
	m.events.markPublished(mark)
}

// Ends returns how far this site is with a share: its durable marks, and of partitions
// that other processes have what the map says. That is verified, late by as much as they
// save it, and may not be at all in-sync replicas yet: DurableEnds asks them.
func (m *Mirror) Ends(id spillway.ShareID) map[spillway.TopicPartition]spillway.Offset {
	ends := make(map[spillway.TopicPartition]spillway.Offset)
	s, a := m.assigned(id)
	if s == nil {
		return ends
	}
	for _, mark := range m.marks.of(a.Topics) {
		if tp := mark.partition(); a.has(tp) {
			ends[tp] = mark.End
		}
	}
	for tp, view := range m.elsewhere(s, a) {
		ends[tp], _ = view.End()
	}
	return ends
}

// DurableEnds returns the virtual offsets below which everything of a share, holes
// included, is acknowledged by all in-sync replicas at this site, whichever of its
// processes wrote it. Partitions of which that is not known just now are left out.
func (m *Mirror) DurableEnds(ctx context.Context, id spillway.ShareID) (map[spillway.TopicPartition]spillway.Offset, error) {
	ends := make(map[spillway.TopicPartition]spillway.Offset)
	s, a := m.assigned(id)
	if s == nil {
		return ends, nil
	}
	for _, mark := range m.marks.standing(a.Topics, m.stands) {
		if tp := mark.partition(); a.has(tp) {
			ends[tp] = mark.End
		}
	}
	views := m.elsewhere(s, a)
	if len(views) == 0 {
		return ends, nil
	}
	// Asked after the maps were read, or it would be of another log.
	acknowledged, err := m.local.Admin().HighWatermarks(ctx, slices.Collect(maps.Keys(views)))
	if err != nil {
		return nil, fmt.Errorf("read what in-sync replicas of site %s have of share %s: %w", m.site, id, err)
	}
	for tp, view := range views {
		end, local := view.End()
		if at := acknowledged[tp]; at < local {
			first, _ := view.ToVirtual(at)
			end = min(end, first)
		}
		ends[tp] = end
	}
	return ends, nil
}

// assigned is a share with its assignment, nil if nothing is known of it.
func (m *Mirror) assigned(id spillway.ShareID) (*share, Assignment) {
	m.mu.Lock()
	s := m.mu.shares[id]
	m.mu.Unlock()
	if s == nil {
		return nil, Assignment{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.mu.assignment
}

// assignment is that of a share, an empty one if nothing is known of it; an error once the
// mirror was closed.
func (m *Mirror) assignment(id spillway.ShareID) (Assignment, error) {
	if _, err := m.share(id); err != nil {
		return Assignment{}, err
	}
	_, a := m.assigned(id)
	return a, nil
}

// elsewhere are the maps of the partitions that other workers have opened since this one
// did, and that are still there.
func (m *Mirror) elsewhere(s *share, a Assignment) map[spillway.TopicPartition]*offsetmap.View {
	views := make(map[spillway.TopicPartition]*offsetmap.View)
	if s.crew == nil {
		return views
	}
	there := s.crew.table()
	for _, tp := range m.reader.PartitionsOf(a.Topics) {
		if !a.has(tp) {
			continue
		}
		om := m.reader.Map(tp)
		held := om.Session()
		if _, lives := there.Member(held.Worker); !lives || !held.Opened || held.Worker == m.config.Worker {
			continue
		}
		view := om.View()
		if end, _ := view.End(); end >= 0 {
			views[tp] = view
		}
	}
	return views
}

// Flows tells how all flows are.
func (m *Mirror) Flows() []FlowInfo {
	m.mu.Lock()
	shares := slices.Collect(maps.Values(m.mu.shares))
	m.mu.Unlock()
	var infos []FlowInfo
	for _, s := range shares {
		if f := s.running(); f != nil {
			infos = append(infos, f.info(time.Now()))
		}
	}
	slices.SortFunc(infos, func(a, b FlowInfo) int {
		return slices.Compare([]byte(a.Share.String()), []byte(b.Share.String()))
	})
	return infos
}
