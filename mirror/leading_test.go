package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
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
}

const sharedPartitions = 12

func newSharedSite(t *testing.T, mirrors int) *sharedSite {
	t.Helper()
	server := embeddedSite(t, "east", map[string]int32{"orders": sharedPartitions})
	s := &sharedSite{t: t, east: server, west: embeddedSite(t, "west", nil), tps: partitionsOf("orders", sharedPartitions), load: newLoad(t, server.Addresses(), 191)}
	s.eastM = testMirror(t, s.east, s.west)
	assign(t, s.eastM, ordersAssignment("", 1))
	s.look = newOnlooker(t, s.west, "share/"+ordersShare.String(), s.tps)
	s.look.covers = newMeanings().ofShare
	for i := range mirrors {
		s.add(int64(i))
	}
	assign(t, s.mirrors[0], ordersAssignment("east", 1))
	for _, m := range s.mirrors[1:] {
		s.joins(m, ordersAssignment("east", 1))
	}
	s.write()
	return s
}

func (s *sharedSite) add(name int64) *Mirror {
	s.t.Helper()
	m := testMirrorWith(s.t, Config{Local: s.west, Lead: s.leader.as(name)}, s.east)
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

// A mirror that hangs is put out before another one begins with what it had; one that
// leads, hangs, and wakes up when another one has led a move to its end has nothing to
// say, and what it was about to do ends.
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
	select {
	case err := <-taken:
		t.Errorf("two have the share for themselves: %v", err)
	default:
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
	cutover := s.cutover()
	if _, err := s.mirrors[0].CatchUp(ctx, ordersShare, 2, from("east", cutover), cutover); err != nil {
		t.Fatal(err)
	}
	commit(7)
	if err := s.mirrors[0].CopyGroups(ctx, ordersShare, "east"); err != nil {
		t.Fatal(err)
	}
	if !stands(7) {
		t.Error("not all groups were copied by the one that leads")
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
