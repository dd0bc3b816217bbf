package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
	"spillway/mirror/workers"
)

// leader says which of the mirrors of a site leads.
type leader struct{ is atomic.Int64 }

type leaderLease struct {
	of   *leader
	name int64
}

func (l leaderLease) Held(time.Time) bool { return l.of.is.Load() == l.name }

// as is Config.Lead of one of them.
func (l *leader) as(name int64) func() Lease {
	return func() Lease {
		if l.is.Load() != name {
			return nil
		}
		return leaderLease{l, name}
	}
}

// shared is a site that several mirrors feed, from one that serves.
type sharedSite struct {
	t          *testing.T
	east, west broker.Cluster
	eastM      *Mirror
	leader     leader
	mirrors    []*Mirror // the first one leads
	look       *onlooker
	tps        []spillway.TopicPartition
	load       *load
	config     Config // of the next mirror

	mu      sync.Mutex
	carried map[string]map[int64]int // times, by group and by the mirror that did it
}

const sharedPartitions = 12

func newSharedSite(t *testing.T, mirrors int) *sharedSite {
	t.Helper()
	server := embeddedSite(t, "east", map[string]int32{"orders": sharedPartitions})
	s := &sharedSite{t: t, east: server, west: embeddedSite(t, "west", nil), tps: partitionsOf("orders", sharedPartitions), load: newLoad(t, server.Addresses(), 191), carried: make(map[string]map[int64]int)}
	s.config.Local = s.west
	s.eastM = testMirror(t, s.east, s.west)
	assign(t, s.eastM, ordersAssignment("", 1))
	s.look = newOnlooker(t, s.west, "share/"+ordersShare.String(), s.tps)
	s.look.covers = newMeanings().ofShare
	for i := range mirrors {
		s.add(int64(i))
	}
	for i, m := range s.mirrors {
		if i == 0 {
			assign(t, m, ordersAssignment("east", 1))
			continue
		}
		s.joins(m, ordersAssignment("east", 1))
	}
	s.write()
	return s
}

func (s *sharedSite) add(name int64) *Mirror {
	s.t.Helper()
	events := Events{GroupCarried: func(g GroupInfo) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.carried[g.Group] == nil {
			s.carried[g.Group] = make(map[int64]int)
		}
		s.carried[g.Group][name]++
	}}
	c := s.config
	c.Worker = fmt.Sprintf("west-%d", name) // what belongs to whom follows from the names
	c.Lead, c.Events = s.leader.as(name), events
	m := testMirrorWith(s.t, c, s.east)
	s.mirrors = append(s.mirrors, m)
	return m
}

// joins has a mirror help as soon as it may.
func (s *sharedSite) joins(m *Mirror, a Assignment) {
	s.t.Helper()
	eventually(s.t, "a mirror may help", func() bool {
		err := m.Join(testContext(s.t), a)
		if err != nil && !errors.Is(err, ErrNoLead) {
			s.t.Fatal(err)
		}
		return err == nil
	})
}

func (s *sharedSite) write() {
	s.t.Helper()
	if err := s.load.write(testContext(s.t), "orders", sharedPartitions, 30); err != nil {
		s.t.Fatal(err)
	}
}

// carriers are the groups that each mirror has carried since the last call, sorted.
func (s *sharedSite) carriers() map[int64][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := make(map[int64][]string)
	for _, group := range slices.Sorted(maps.Keys(s.carried)) {
		for name := range s.carried[group] {
			by[name] = append(by[name], group)
		}
	}
	clear(s.carried)
	return by
}

func (s *sharedSite) cutover() map[spillway.TopicPartition]spillway.Offset {
	s.t.Helper()
	return virtualEnds(s.t, s.east, s.eastM, ordersAssignment("", 1))
}

// spread waits until so many mirrors carry the flow, and returns how many partitions each has.
func (s *sharedSite) spread(n int) map[string]int {
	s.t.Helper()
	eventually(s.t, "all of them are alike", func() bool { return len(s.look.table().Highest()) == n })
	count := make(map[string]int)
	for _, session := range s.look.settled(n) {
		count[session.Worker]++
	}
	return count
}

// same compares both sites.
func (s *sharedSite) same() {
	s.t.Helper()
	for _, tp := range s.tps {
		compareSites(s.t, s.east, s.west, s.eastM, s.mirrors[0], tp)
	}
	if gaps := s.look.reader.Gaps(); len(gaps) != 0 {
		s.t.Errorf("gaps: %+v", gaps)
	}
}

// Mirrors of one site share what flows in. The one that leads knows how far all of it is,
// brings all of it to the cutover when the share moves, and the others stop by themselves:
// nobody tells them but the map.
func TestMirrorsOfASiteShareWhatFlowsIn(t *testing.T) {
	t.Parallel()
	s := newSharedSite(t, 3)
	lead := s.mirrors[0]
	if count := s.spread(3); len(count) != 3 {
		t.Fatalf("the partitions are with %v", count)
	}
	s.write()
	cutover := s.cutover()
	eventually(t, "the one that leads knows that all is there", func() bool { return maps.Equal(lead.Ends(ordersShare), cutover) })
	if err := s.mirrors[1].Gather(ordersShare, 2); !errors.Is(err, ErrNotLeading) {
		t.Errorf("one that does not lead takes all: %v", err)
	}
	if _, err := s.mirrors[1].Stop(testContext(t), ordersShare, 2); !errors.Is(err, ErrNotLeading) {
		t.Errorf("one that does not lead stops the flow: %v", err)
	}
	if err := lead.readMap(testContext(t)); err != nil || lead.Map().Floor(ordersShare) != 1 {
		t.Errorf("one that does not lead promises epoch %d: %v", lead.Map().Floor(ordersShare), err)
	}

	if err := lead.Gather(ordersShare, 2); err != nil {
		t.Fatal(err)
	}
	s.write()
	cutover = s.cutover()
	ends, err := lead.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover)
	if err != nil || !maps.Equal(ends, cutover) {
		t.Fatalf("ends %v, cutover %v: %v", ends, cutover, err)
	}
	for _, tp := range s.tps {
		if worker := lead.Map().Map(tp).Session().Worker; worker != lead.config.Worker {
			t.Errorf("%s was brought to the cutover by %s", tp, worker)
		}
	}
	for _, m := range s.mirrors[1:] {
		eventually(t, "what others had has stopped", func() bool { return len(m.Flows()) == 0 })
		if err := m.Join(testContext(t), ordersAssignment("east", 1)); !errors.Is(err, ErrFenced) {
			t.Errorf("one that has not heard of the move goes on in the old epoch: %v", err)
		}
		if err := m.Join(testContext(t), ordersAssignment("east", 3)); !errors.Is(err, ErrNoLead) {
			t.Errorf("one goes ahead of the one that leads: %v", err)
		}
	}
	// The move is given up: east goes on in epoch 3.
	terms := []Term{{Epoch: 1, Site: "east"}, {Epoch: 3, Site: "east"}}
	assign(t, s.eastM, ordersAssignment("", 3, terms...))
	assign(t, lead, ordersAssignment("east", 3, terms...))
	for _, m := range s.mirrors[1:] {
		s.joins(m, ordersAssignment("east", 3, terms...))
	}
	if count := s.spread(3); len(count) != 3 {
		t.Errorf("after the move the partitions are with %v", count)
	}
	s.write()
	eventually(t, "all is there", func() bool { return maps.Equal(lead.Ends(ordersShare), s.cutover()) })
	s.same()
}

// A mirror that comes to lead waits until the one that led has let the share go. What that
// one was about to do ends, and it has nothing to say any more.
func TestAMirrorThatLedWakesUp(t *testing.T) {
	t.Parallel()
	s := newSharedSite(t, 2)
	first, second := s.mirrors[0], s.mirrors[1]
	s.spread(2)
	cutover := s.cutover()
	w, err := first.exclusive(testContext(t), mustShare(t, first), 2)
	if err != nil {
		t.Fatal(err)
	}
	s.leader.is.Store(1)
	taken := make(chan error, 1)
	go func() {
		_, err := second.Stop(testContext(t), ordersShare, 2)
		taken <- err
	}()
	<-w.Done() // it was asked for
	if cause := context.Cause(w); !errors.Is(cause, ErrNotLeading) {
		t.Errorf("it ends because of %v", cause)
	}
	c := mustShare(t, second).crew
	eventually(t, "the second mirror knows that all belongs to it", func() bool { return slices.Equal(c.table().Highest(), []string{second.config.Worker}) })
	if _, ok := c.take(workers.Whole); ok || len(taken) > 0 {
		t.Error("two have the share for themselves")
	}
	w.end()
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	if w.held(nil, time.Now()) {
		t.Error("what was let go is held")
	}
	if _, err := first.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover); !errors.Is(err, ErrNotLeading) {
		t.Errorf("one that led goes on: %v", err)
	}
	ends, err := second.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover)
	if err != nil || !maps.Equal(ends, cutover) {
		t.Fatalf("ends %v, cutover %v: %v", ends, cutover, err)
	}
	if _, err := second.OpenEpoch(testContext(t), ordersShare, 2, 5, cutover); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old one carries nothing", func() bool { return len(first.Flows()) == 0 })
	s.same()
}

// silentCrew gives a mirror's share a worker that hears the others and says nothing. The
// test says what there is to be said.
func silentCrew(t *testing.T, m *Mirror) *share {
	t.Helper()
	s := mustShare(t, m)
	s.crew = newCrew(m, "share/"+s.id.String(), "", func(string, string) bool { return true })
	s.crew.ranked = func() { m.yield(s) }
	m.goroutines.Go(func() { s.crew.watch(m.ctx) })
	return s
}

// said writes what a worker says of itself, and waits until the crew has seen it.
func (c *crew) said(t *testing.T, r workers.Record) {
	t.Helper()
	before := c.lookedAt()
	if err := c.m.saveAndRead(testContext(t), []maptopic.Entry{maptopic.WorkerEntry(c.flow, r)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the worker has seen it", func() bool { return c.lookedAt() > before })
}

// acts has the worker of a silent crew come, and act for a time.
func (c *crew) acts(t *testing.T) {
	t.Helper()
	at := c.m.instant()
	r, _ := c.mu.worker.Next(at, c.table())
	c.said(t, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.worker.Heard(r, at, at, c.table()) {
		t.Fatal("the worker was heard, and does not act")
	}
}

// A worker that does not lead any more goes on with what flows while the table still has
// its word that it leads: nobody else has what it does.
func TestAWorkersOwnWordStopsNothing(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	m := testMirror(t, west, east)
	if err := m.readMap(testContext(t)); err != nil {
		t.Fatal(err)
	}
	s := silentCrew(t, m)
	s.crew.said(t, workers.Record{Worker: m.config.Worker, Term: 1, Beat: 1, Rank: rankOf(2) + 1})
	assign(t, m, ordersAssignment("east", 2))
	for i := range int64(3) { // what is seen was acted on when the next is
		s.crew.said(t, workers.Record{Worker: "other", Term: 1 + i, Beat: 1, Rank: rankOf(2)})
	}
	s.looked(t)
	if s.crew.outranked() || len(m.Flows()) != 1 {
		t.Errorf("it stopped what flows because of its own word; flows: %+v", m.Flows())
	}
	s.crew.said(t, workers.Record{Worker: "other", Term: 9, Beat: 1, Rank: rankOf(2) + 1})
	eventually(t, "what flows stops when another one leads", func() bool { return len(m.Flows()) == 0 })
}

// looked waits until the share has done what follows from the ranks that it has seen.
func (s *share) looked(t *testing.T) {
	t.Helper()
	eventually(t, "the share looks at the ranks", func() bool { return !s.yielding.Load() })
	s.moving.Lock() // it is held by who looks
	defer s.moving.Unlock()
}

// Another mirror said that it leads the move to the epoch in which this one lets the share
// flow by now, and is put out before it says anything else. What flows stops for its word
// and begins again without it: nobody assigns it once more. After a move to a later epoch it
// does not begin.
func TestWhatWasStoppedForAnothersWordBeginsAgain(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	m := testMirror(t, west, east)
	if err := m.readMap(testContext(t)); err != nil {
		t.Fatal(err)
	}
	s := silentCrew(t, m)
	says := func(term, rank int64) {
		t.Helper()
		s.crew.said(t, workers.Record{Worker: "other", Term: term, Beat: 1, Rank: rank})
		eventually(t, "what flows stops for its word", func() bool { return len(m.Flows()) == 0 })
	}
	putOut := func(term int64) {
		t.Helper()
		s.crew.said(t, workers.Record{Worker: "other", Term: term, Beat: 1, Evict: true})
	}
	assign(t, m, ordersAssignment("east", 2))
	says(1, rankOf(2)+1)
	putOut(1)
	eventually(t, "what flowed begins again", func() bool { return len(m.Flows()) == 1 })

	says(2, rankOf(3)+1)
	if err := m.saveAndRead(testContext(t), []maptopic.Entry{maptopic.FloorEntry(ordersShare, 3)}); err != nil {
		t.Fatal(err)
	}
	putOut(2)
	s.crew.said(t, workers.Record{Worker: "third", Term: 1, Beat: 1}) // what is seen was acted on when the next is
	s.looked(t)
	if flows := m.Flows(); len(flows) > 0 {
		t.Errorf("it flows in an epoch that is over: %+v", flows)
	}
	assign(t, m, ordersAssignment("east", 3))
	if flows := m.Flows(); len(flows) != 1 || flows[0].Epoch != 3 {
		t.Errorf("it was assigned anew: %+v", flows)
	}
}

// A partition of a share has one key, whatever the map says of a run that wrote its topic
// before: workers read that at different times.
func TestPartitionsOfAShareHaveOneKey(t *testing.T) {
	t.Parallel()
	m := testMirror(t, embeddedSite(t, "west", nil))
	if err := m.readMap(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c, tp := silentCrew(t, m).crew, spillway.TopicPartition{Topic: "east.orders"}
	before := c.key(tp)
	if err := m.saveAndRead(testContext(t), []maptopic.Entry{maptopic.OriginEntry(tp.Topic, maptopic.Origin{Site: "east", Topic: "orders"})}); err != nil {
		t.Fatal(err)
	}
	if after := c.key(tp); after != before {
		t.Errorf("the key was %s, and is %s", before, after)
	}
}

// A mirror that has helped knows what the share consists of in a later epoch, when it is
// to lead, but for what flows in still.
func TestAMirrorThatHelpedKnowsLaterAssignments(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	assign(t, testMirror(t, east, west), ordersAssignment("", 1))
	m := testMirror(t, west, east)
	s := silentCrew(t, m)
	if err := m.Join(testContext(t), ordersAssignment("", 1)); err != nil {
		t.Fatal(err)
	}
	knows := func(epoch spillway.Epoch, topics ...string) Assignment {
		t.Helper()
		a := ordersAssignment("east", epoch)
		a.Topics = topics
		if err := m.Know(a); err != nil {
			t.Fatal(err)
		}
		s.moving.Lock()
		defer s.moving.Unlock()
		return s.assignment
	}
	if a := knows(1, "orders", "carts"); a.Source != "" {
		t.Errorf("the same epoch: %+v", a)
	}
	if a := knows(2, "orders", "carts"); a.Epoch != 2 || len(a.Topics) != 2 {
		t.Errorf("a later epoch: %+v", a)
	}
	assign(t, m, ordersAssignment("east", 3))
	if a := knows(4, "orders", "carts"); a.Epoch != 3 || len(m.Flows()) != 1 {
		t.Errorf("while it flows: %+v", a)
	}
}

func mustShare(t *testing.T, m *Mirror) *share {
	t.Helper()
	s, err := m.share(ordersShare)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A mirror that is alone with its site waits for nobody: what a move asks for is its own
// already.
func TestAMirrorAloneHasTheWhole(t *testing.T) {
	t.Parallel()
	s := newSharedSite(t, 1)
	s.spread(1)
	m := s.mirrors[0]
	c := mustShare(t, m).crew
	if l, ok := c.take(workers.Whole); !ok {
		t.Error("it waits for somebody")
	} else {
		l.release()
	}
	cutover := s.cutover()
	sessions := make(map[spillway.TopicPartition]int64)
	for _, tp := range s.tps {
		sessions[tp] = m.Map().Map(tp).Session().Session
	}
	ends, err := m.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover)
	if err != nil || !maps.Equal(ends, cutover) {
		t.Fatalf("ends %v, cutover %v: %v", ends, cutover, err)
	}
	for _, tp := range s.tps {
		if now := m.Map().Map(tp).Session().Session; now != sessions[tp] {
			t.Errorf("%s was opened anew for the move", tp)
		}
	}
}

// Each group is carried by one of the mirrors, and at a move by the one that leads.
func TestMirrorsOfASiteShareGroups(t *testing.T) {
	t.Parallel()
	s := newSharedSite(t, 2)
	s.spread(2)
	ctx := testContext(t)
	groups := []string{"app-1", "app-2", "app-3", "app-4", "app-5", "app-6", "app-7", "app-8"}
	commit := func(at spillway.LocalOffset) {
		t.Helper()
		for _, g := range groups {
			if err := s.east.Admin().CommitGroupOffsets(ctx, g, map[spillway.TopicPartition]broker.GroupOffset{s.tps[0]: {Offset: at, LeaderEpoch: -1}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	stands := func(at spillway.LocalOffset) bool {
		want, _ := s.mirrors[0].Map().View(s.tps[0]).ToLocal(spillway.Offset(at) + 1000)
		return !slices.ContainsFunc(groups, func(g string) bool {
			got, err := s.west.Admin().FetchGroupOffsets(ctx, g)
			return err != nil || got[s.tps[0]].Offset != want
		})
	}
	commit(3)
	eventually(t, "all groups are carried", func() bool { return stands(3) })
	by := map[int64][]string{}
	eventually(t, "each group was said to be carried", func() bool { // right after it is
		for name, groups := range s.carriers() {
			by[name] = append(by[name], groups...)
		}
		return len(by[0])+len(by[1]) >= len(groups)
	})
	if all := slices.Sorted(slices.Values(slices.Concat(by[0], by[1]))); len(by[0]) == 0 || len(by[1]) == 0 || !slices.Equal(all, groups) {
		t.Errorf("groups by the mirror that carried them: %v", by)
	}
	cutover := s.cutover()
	if _, err := s.mirrors[0].CatchUp(ctx, ordersShare, 2, from("east", cutover), cutover); err != nil {
		t.Fatal(err)
	}
	commit(7)
	if err := s.mirrors[0].CopyGroups(ctx, ordersShare, "east"); err != nil {
		t.Fatal(err)
	}
	if by := s.carriers(); !stands(7) || !slices.Equal(by[0], groups) || len(by[1]) > 0 {
		t.Errorf("not all groups were copied by the one that leads: %v", by)
	}
}

// A mirror whose machine was suspended holds nothing when it wakes up, though Go's clock
// has not gone on.
func TestAMirrorThatWasSuspendedHoldsNothing(t *testing.T) {
	t.Parallel()
	var asleep atomic.Int64
	boot := func() time.Duration { return time.Hour + time.Duration(asleep.Load()) }
	m := testMirrorWith(t, Config{Local: embeddedSite(t, "west", nil), Boot: boot})
	if err := m.readMap(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c := silentCrew(t, m).crew
	c.acts(t)
	l, ok := c.take("key")
	if !ok || !l.Held(time.Now()) {
		t.Fatal("it does not hold what it took")
	}
	asleep.Store(int64(leaseTTL))
	if _, ok := c.take("another key"); ok || l.Held(time.Now()) {
		t.Error("it holds what others may have by now")
	}
}

// laggard is a site at which followers do not keep up with the leaders of partitions: the
// high watermarks stand still.
type laggard struct {
	broker.Cluster
	stand *standing
}

type standing struct {
	mu sync.Mutex
	at map[spillway.TopicPartition]spillway.LocalOffset
}

type laggardAdmin struct {
	broker.Admin
	stand *standing
}

func (l laggard) Admin() broker.Admin { return laggardAdmin{l.Cluster.Admin(), l.stand} }

func (l laggardAdmin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	ends, err := l.Admin.HighWatermarks(ctx, tps)
	l.stand.mu.Lock()
	defer l.stand.mu.Unlock()
	for tp := range ends {
		if at, stands := l.stand.at[tp]; stands {
			ends[tp] = at
		}
	}
	return ends, err
}

// What the map says of another mirror's partitions may be at their leaders alone: it counts
// as durable up to the high watermark. What another one has opened that is not there any
// more does not count.
func TestWhatOthersHaveIsDurableUpToTheHighWatermark(t *testing.T) {
	t.Parallel()
	s := newSharedSite(t, 1)
	lead, ctx := s.mirrors[0], testContext(t)
	slow := standing{at: make(map[spillway.TopicPartition]spillway.LocalOffset)}
	s.config.Local = laggard{s.west, &slow}
	second := s.add(1)
	s.joins(second, ordersAssignment("east", 1))
	s.spread(2)
	s.write()
	eventually(t, "all is there", func() bool {
		return maps.Equal(lead.Ends(ordersShare), s.cutover()) && maps.Equal(second.Ends(ordersShare), s.cutover())
	})
	is := func(what string, m *Mirror, want map[spillway.TopicPartition]spillway.Offset) {
		t.Helper()
		if ends, err := m.DurableEnds(ctx, ordersShare); err != nil || !maps.Equal(ends, want) {
			t.Errorf("%s: %v, %v; want %v", what, ends, err, want)
		}
	}
	want := s.cutover()
	is("all", lead, want)
	var own spillway.TopicPartition
	slow.mu.Lock()
	for _, tp := range s.tps {
		last, _ := second.Map().View(tp).Last()
		slow.at[tp] = last.LocalEnd() - 1
		if second.Map().Map(tp).Session().Worker == lead.config.Worker {
			want[tp] = last.VirtualEnd() - 1
		} else {
			own = tp
		}
	}
	slow.mu.Unlock()
	is("while followers are behind", second, want)
	if ends := second.Ends(ordersShare); !maps.Equal(ends, s.cutover()) {
		t.Errorf("verified: %v, want %v", ends, s.cutover())
	}
	session := second.Map().Map(own).Session()
	session.Session, session.Worker = session.Session+1, "gone"
	if err := second.saveAndRead(ctx, []maptopic.Entry{maptopic.SessionEntry(own, session)}); err != nil {
		t.Fatal(err)
	}
	delete(want, own)
	is("when another one had a partition since", second, want)
}

// What a move finds at its bound when it reads the log back is no mark while only the leader
// of the partition has it, and the partition has not arrived.
func TestWhatIsReadBackIsNoMarkYet(t *testing.T) {
	t.Parallel()
	slow := standing{at: make(map[spillway.TopicPartition]spillway.LocalOffset)}
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	m, ctx := testMirrorWith(t, Config{Local: laggard{west, &slow}}, east), testContext(t)
	assign(t, m, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 192).write(ctx, "orders", 2, 30); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west follows", func() bool { return caughtUp(ctx, east, eastM, m, ordersAssignment("", 1)) })
	ends, err := m.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	late := partitionsOf("orders", 1)[0]
	last, _ := m.Map().View(late).Last()
	follow := func(at spillway.LocalOffset) {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		slow.at[late] = at
	}
	follow(last.LocalEnd() - 1)
	type result struct {
		ends map[spillway.TopicPartition]spillway.Offset
		err  error
	}
	caughtUp := make(chan result, 1)
	go func() {
		back, err := m.CatchUp(ctx, ordersShare, 2, from("east", ends), ends)
		caughtUp <- result{back, err}
	}()
	marked := func() map[spillway.TopicPartition]spillway.Offset {
		marks := make(map[spillway.TopicPartition]spillway.Offset)
		for _, mark := range m.marks.of([]string{"*"}) {
			if mark.Epoch == 2 {
				marks[mark.partition()] = mark.End
			}
		}
		return marks
	}
	want := maps.Clone(ends)
	want[late] = last.VirtualEnd() - 1
	eventually(t, "what the replicas have is marked", func() bool { return maps.Equal(marked(), want) })
	if len(caughtUp) > 0 {
		t.Error("it has caught up before the replicas have")
	}
	follow(1 << 40)
	if got := <-caughtUp; got.err != nil || !maps.Equal(got.ends, ends) {
		t.Fatalf("ends %v, want %v: %v", got.ends, ends, got.err)
	}
	if got := marked(); !maps.Equal(got, ends) {
		t.Errorf("marked %v, want %v", got, ends)
	}
}

// endsAsked is a site whose machine is told when somebody asks where its logs end.
type endsAsked struct {
	broker.Cluster
	asked func()
}

type endsAskedAdmin struct {
	broker.Admin
	asked func()
}

func (e endsAsked) Admin() broker.Admin { return endsAskedAdmin{e.Cluster.Admin(), e.asked} }

func (e endsAskedAdmin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	defer e.asked()
	return e.Admin.LogEnds(ctx, tps)
}

// A mirror whose machine is suspended while it opens an epoch does not write that it began:
// another one may have led the move, or the next one, to its end.
func TestAMirrorThatWasSuspendedOpensNothing(t *testing.T) {
	t.Parallel()
	var asleep atomic.Int64
	var opens, sleeps atomic.Bool
	s := newSharedSite(t, 0)
	s.config = Config{
		Boot: func() time.Duration {
			if sleeps.Load() { // again before each look
				asleep.Add(int64(leaseTTL))
			}
			return time.Hour + time.Duration(asleep.Load())
		},
		Local: endsAsked{s.west, func() { sleeps.Store(opens.Load()) }},
	}
	m := s.add(0)
	assign(t, m, ordersAssignment("east", 1))
	s.spread(1)
	cutover := s.cutover()
	if _, err := m.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover); err != nil {
		t.Fatal(err)
	}
	opens.Store(true)
	if _, err := m.OpenEpoch(testContext(t), ordersShare, 2, 5, cutover); err == nil {
		t.Error("it opened the epoch")
	}
	opens.Store(false)
	sleeps.Store(false)
	if err := m.readMap(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, tp := range s.tps {
		if o, open := m.reader.View(tp).Open(); open {
			t.Errorf("%s: open %+v", tp, o)
		}
	}
	if _, err := m.OpenEpoch(testContext(t), ordersShare, 2, 5, cutover); err != nil {
		t.Errorf("when it is asked again: %v", err)
	}
}

// At a site that serves only the process that leads starts epochs: another one's word may
// be of an epoch that is over.
func TestOnlyTheMirrorThatLeadsStartsEpochs(t *testing.T) {
	t.Parallel()
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	var l leader
	m := testMirrorWith(t, Config{Local: east, Lead: l.as(0)})
	assign(t, m, ordersAssignment("", 1))
	if err := east.Admin().CreateTopic(testContext(t), "orders-new", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders-new"}
	eventually(t, "the first epoch of a new partition starts", func() bool { _, open := m.reader.View(tp).Open(); return open })
	l.is.Store(1)
	if err := east.Admin().CreateTopic(testContext(t), "orders-newer", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.startEpochs(testContext(t), ordersAssignment("", 1)); !errors.Is(err, ErrNotLeading) {
		t.Errorf("one that does not lead starts an epoch: %v", err)
	}
}

// A process that led while its site served, and leads no more, does not begin with what
// comes to be there: the share may have moved, and the one that leads mirrors it in.
func TestOnlyWhoLeadsBeginsWithTopics(t *testing.T) {
	t.Parallel()
	east := embeddedSite(t, "east", map[string]int32{"orders": 2})
	var leads leader
	var looked atomic.Int64
	m := testMirrorWith(t, Config{Local: east, Lead: func() Lease {
		looked.Add(1)
		return leads.as(0)()
	}}, embeddedSite(t, "west", nil))
	assign(t, m, ordersAssignment("", 1))
	leads.is.Store(1)
	if err := east.Admin().CreateTopic(testContext(t), "orders-new", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	before := looked.Load()
	eventually(t, "it looks again and again whether it leads", func() bool { return looked.Load() > before+3 })
	tp := spillway.TopicPartition{Topic: "orders-new"}
	if _, begun := m.Map().View(tp).Open(); begun {
		t.Error("one that does not lead begins with a topic")
	}
	leads.is.Store(0)
	eventually(t, "it leads again, and begins with the topic", func() bool {
		_, begun := m.Map().View(tp).Open()
		return begun
	})
}

// While a new configuration is rolled out, one of the mirrors knows of less topics and
// groups than the other one: that one carries what only it knows of.
func TestMirrorsOfASiteKnowOfDifferentTopics(t *testing.T) {
	t.Parallel()
	s := newSharedSite(t, 1)
	lead, ctx := s.mirrors[0], testContext(t)
	narrow := ordersAssignment("east", 1)
	narrow.Topics, narrow.ConsumerGroups = []string{"orders"}, nil
	second := s.add(1)
	s.joins(second, narrow)
	s.spread(2)
	if err := s.east.Admin().CreateTopic(ctx, "orders-new", 8, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.load.write(ctx, "orders-new", 8, 30); err != nil {
		t.Fatal(err)
	}
	s.write()
	for n := range 8 {
		if err := s.east.Admin().CommitGroupOffsets(ctx, fmt.Sprint("app-", n), map[spillway.TopicPartition]broker.GroupOffset{s.tps[0]: {Offset: 1, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
	}
	added := partitionsOf("orders-new", 8)
	eventually(t, "the new topic is begun", func() bool {
		return !slices.ContainsFunc(added, func(tp spillway.TopicPartition) bool { return s.eastM.Map().View(tp).Empty() })
	})
	eventually(t, "all is there", func() bool { return maps.Equal(lead.Ends(ordersShare), s.cutover()) })
	for n := range 8 {
		eventually(t, "all groups are there", func() bool {
			got, err := s.west.Admin().FetchGroupOffsets(ctx, fmt.Sprint("app-", n))
			return err == nil && len(got) == 1
		})
	}
	for _, f := range second.Flows() {
		if f.Elsewhere+f.Partitions != sharedPartitions || f.Partitions == 0 {
			t.Errorf("the other one has %+v", f)
		}
	}
	s.same()
}
