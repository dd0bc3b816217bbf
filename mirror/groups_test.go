package mirror

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/workers"
)

// lateCommits is a site that takes its time for the first commit, as one does whose
// coordinator is not there yet, and notes what is committed in which order.
type lateCommits struct {
	broker.Cluster
	begun, goOn chan struct{}

	mu     sync.Mutex
	order  []spillway.LocalOffset
	waited bool
}

type lateAdmin struct {
	broker.Admin
	site *lateCommits
}

func (s *lateCommits) Admin() broker.Admin { return lateAdmin{s.Cluster.Admin(), s} }

func (a lateAdmin) CommitGroupOffsets(ctx context.Context, group string, offsets map[spillway.TopicPartition]broker.GroupOffset) error {
	a.site.mu.Lock()
	first := !a.site.waited
	a.site.waited = true
	a.site.mu.Unlock()
	if first {
		close(a.site.begun)
		<-a.site.goOn
	}
	a.site.mu.Lock()
	defer a.site.mu.Unlock()
	for _, o := range offsets {
		a.site.order = append(a.site.order, o.Offset)
	}
	return a.Admin.CommitGroupOffsets(ctx, group, offsets)
}

// What a round of the background has read is not committed behind what a move, or the end
// of a run, has read since: the group would stand where it was before.
func TestAnOldPositionIsNotCommittedLast(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	west := &lateCommits{Cluster: embeddedSite(t, "west", nil), begun: make(chan struct{}), goOn: make(chan struct{})}
	tp := spillway.TopicPartition{Topic: "orders"}
	commit := func(o spillway.LocalOffset) {
		t.Helper()
		if err := east.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: o, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
	}
	small(t, east.Addresses(), 20)
	eastM, westM := testMirror(t, east), testMirror(t, west, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	commit(10)
	<-west.begun
	commit(15)
	copied := make(chan error, 1)
	go func() { copied <- westM.CopyGroups(ctx, ordersShare, "east", nil) }()
	select { // it waits for its turn: what it is not to do can only be waited for
	case err := <-copied:
		copied <- err
	case <-time.After(300 * time.Millisecond):
	}
	close(west.goOn)
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first commit is there", func() bool {
		west.mu.Lock()
		defer west.mu.Unlock()
		return slices.Contains(west.order, 10)
	})
	west.mu.Lock()
	defer west.mu.Unlock()
	if slices.Index(west.order, 15) < slices.Index(west.order, 10) {
		t.Errorf("committed in this order: %v", west.order)
	}
}

// lastReads tells each last read of a group's positions.
type lastReads struct {
	broker.Cluster
	told chan string
}

type lastReadsAdmin struct {
	broker.Admin
	site *lastReads
}

func (s *lastReads) Admin() broker.Admin { return lastReadsAdmin{s.Cluster.Admin(), s} }

func (a lastReadsAdmin) StableGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	a.site.told <- group
	return a.Admin.StableGroupOffsets(ctx, group)
}

// While the last records of a switchover come, the positions at the old site are read already,
// of groups that were carried before, and once.
func TestPositionsAreReadWhileTheLastRecordsCome(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east := &lastReads{embeddedSite(t, "east", map[string]int32{"orders": 1}), make(chan string, 10)}
	west := embeddedSite(t, "west", nil)
	tp := spillway.TopicPartition{Topic: "orders"}
	commit := func(group string, o spillway.LocalOffset) {
		t.Helper()
		if err := east.Admin().CommitGroupOffsets(ctx, group, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: o, LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
	}
	small(t, east.Cluster.(*embedded.Cluster).Addresses(), 20)
	eastM, westM := testMirror(t, east), testMirrorWith(t, Config{Local: west, GroupInterval: time.Hour}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	virtual := func(group string) spillway.Offset {
		t.Helper()
		got, err := west.Admin().FetchGroupOffsets(ctx, group)
		if err != nil {
			t.Fatal(err)
		}
		if got[tp].Metadata == "" {
			return -1
		}
		v, _, _, _ := offsetmap.DecodeCommit(got[tp].Metadata)
		return v
	}
	at := func(o spillway.LocalOffset) spillway.Offset {
		v, _ := eastM.Map().View(tp).ToVirtual(o)
		return v
	}
	commit("app", 5)
	eventually(t, "its position is carried", func() bool {
		westM.HurryGroups(ordersShare)
		return virtual("app") == at(5)
	})
	commit("app", 11)
	commit("apples", 12) // which nobody has heard of, or has a moment ago
	early := errors.New("not yet")
	if err := westM.CopyGroups(ctx, ordersShare, "east", func(context.Context) error { return early }); !errors.Is(err, early) {
		t.Errorf("copied though the records are not here: %v", err)
	}
	for len(east.told) > 0 {
		<-east.told
	}
	read := make(map[string]int)
	err := westM.CopyGroups(ctx, ordersShare, "east", func(ctx context.Context) error {
		select {
		case group := <-east.told:
			read[group]++
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if one, other := virtual("app"), virtual("apples"); one != at(11) || other != at(12) {
		t.Errorf("the groups stand at %d and %d, want %d and %d", one, other, at(11), at(12))
	}
	for len(east.told) > 0 {
		read[<-east.told]++
	}
	if !maps.Equal(read, map[string]int{"app": 1, "apples": 1}) {
		t.Errorf("read: %v", read)
	}
}

// A coordinator hears of the end of a transaction behind everybody else. Positions that were
// committed in it are copied all the same, or the group would read again at the new site what
// it has handled.
func TestPositionsOfATransactionAreCopiedOnceItHasEnded(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	west := embeddedSite(t, "west", nil)
	tp := spillway.TopicPartition{Topic: "orders"}
	small(t, east.Addresses(), 20)
	eastM, westM := testMirror(t, east), testMirror(t, west, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	if err := east.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 10, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	end := positionInTransaction(t, east.Addresses(), "app", tp, 15)
	copied := make(chan error, 1)
	go func() { copied <- westM.CopyGroups(ctx, ordersShare, "east", nil) }()
	select { // that it waits can only be waited for
	case err := <-copied:
		t.Fatalf("copied before the transaction had ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	end()
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	want, _ := eastM.Map().View(tp).ToVirtual(15)
	got, err := west.Admin().FetchGroupOffsets(ctx, "app")
	if v, _, _, _ := offsetmap.DecodeCommit(got[tp].Metadata); err != nil || v != want {
		t.Errorf("%+v, %v; want %d", got, err, want)
	}
}

// positionInTransaction commits a position in a transaction, which end commits.
func positionInTransaction(t *testing.T, addresses []string, group string, tp spillway.TopicPartition, offset int64) (end func()) {
	t.Helper()
	ctx := testContext(t)
	c, err := kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.TransactionalID("app-1"), kgo.MaxVersions(kversion.V3_0_0()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	id, epoch, err := c.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = "app-1", id, epoch, group
	added, err := add.RequestWith(ctx, c)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group, commit.Generation = "app-1", id, epoch, group, -1
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch = tp.Partition, offset, -1
	commit.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: tp.Topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{p}}}
	committed, err := commit.RequestWith(ctx, c)
	if err == nil {
		err = kerr.ErrorForCode(committed.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = "app-1", id, epoch, true
		resp, err := req.RequestWith(ctx, c)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// watchedGroups is a site that tells what is asked of its groups before it does it.
type watchedGroups struct {
	broker.Cluster
	asked func(call string) error
}

type watchedAdmin struct {
	broker.Admin
	asked func(call string) error
}

func (w watchedGroups) Admin() broker.Admin { return watchedAdmin{w.Cluster.Admin(), w.asked} }

func (w watchedAdmin) FetchGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	if err := w.asked("fetch"); err != nil {
		return nil, err
	}
	return w.Admin.FetchGroupOffsets(ctx, group)
}

func (w watchedAdmin) StableGroupOffsets(ctx context.Context, group string) (map[spillway.TopicPartition]broker.GroupOffset, error) {
	if err := w.asked("fetch"); err != nil {
		return nil, err
	}
	return w.Admin.StableGroupOffsets(ctx, group)
}

func (w watchedAdmin) CommitGroupOffsets(ctx context.Context, group string, offsets map[spillway.TopicPartition]broker.GroupOffset) error {
	if err := w.asked("commit"); err != nil {
		return err
	}
	return w.Admin.CommitGroupOffsets(ctx, group, offsets)
}

func (w watchedAdmin) RemoveMembers(context.Context, string) error { return w.asked("remove") }

// groupWorker is a mirror that is to carry a group whose members are still at the site
// that it feeds. The test says what its worker says.
type groupWorker struct {
	m      *Mirror
	s      *share
	src    *source
	theirs []string // addresses of the source
	a      Assignment
	now    atomic.Int64            // later than it is
	calls  []string                // of which the next one may be the last
	at     func(call string) error // before each
}

const watchedGroup = "app"

func newGroupWorker(t *testing.T) *groupWorker {
	t.Helper()
	ctx := testContext(t)
	w := &groupWorker{a: ordersAssignment("east", 1), at: func(string) error { return nil }}
	asked := func(call string) error {
		w.calls = append(w.calls, call)
		return w.at(call)
	}
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := east.Admin().CommitGroupOffsets(ctx, watchedGroup, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 0, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	w.theirs = east.Addresses()
	assign(t, testMirror(t, east, west), ordersAssignment("", 1))
	w.m = testMirrorWith(t, Config{Local: watchedGroups{west, asked}, Now: func() time.Time { return time.Now().Add(time.Duration(w.now.Load())) }}, watchedGroups{east, asked})
	if err := w.m.readMap(ctx); err != nil {
		t.Fatal(err)
	}
	w.s = silentCrew(t, w.m)
	var err error
	if w.src, err = w.m.source("east"); err != nil {
		t.Fatal(err)
	}
	if err := w.src.ready(ctx, false); err != nil {
		t.Fatal(err)
	}
	w.s.crew.acts(t)
	return w
}

// copies copies groups as carryGroups does, or as a move asks for, and returns what it
// knows of the group.
func (w *groupWorker) copies(ctx context.Context, wait bool) (carried []carriedGroup, err error) {
	groups, unlisted := listGroups(ctx, w.src.cluster)
	err = w.m.copyGroups(ctx, w.a, w.src, groups, unlisted, w.a.Epoch, wait, nil, func(context.Context, string) carriedGroup { return carriedGroup{} },
		func(_ string, now carriedGroup) { carried = append(carried, now) })
	return carried, err
}

// A mirror that hung while it carried a group, at whatever step, leaves alone what another
// one may have carried since, or members that the site serves by now.
func TestAMirrorThatHungLeavesGroupsAlone(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(*testing.T, *groupWorker){
		"it was put out": func(_ *testing.T, w *groupWorker) { w.now.Store(int64(leaseTTL)) },
		"another epoch was promised": func(t *testing.T, w *groupWorker) {
			if err := w.m.saveAndRead(testContext(t), []maptopic.Entry{maptopic.FloorEntry(ordersShare, w.a.Epoch+1)}); err != nil {
				t.Error(err)
			}
		},
	} {
		for _, hangs := range [][]string{{"fetch"}, {"fetch", "commit"}, {"fetch", "commit", "remove"}} {
			t.Run(name+" at "+hangs[len(hangs)-1], func(t *testing.T) {
				t.Parallel()
				w := newGroupWorker(t)
				w.at = func(call string) error {
					if len(w.calls) == len(hangs) {
						happens(t, w)
					}
					if call == "commit" {
						return broker.ErrGroupActive
					}
					return nil
				}
				carried, err := w.copies(testContext(t), false)
				if !errors.Is(err, ErrGroupLost) || len(carried) > 0 || !slices.Equal(w.calls, hangs) {
					t.Errorf("it called %v, and has carried %v: %v", w.calls, carried, err)
				}
			})
		}
	}
}

// What a worker has carried counts for nothing once another one had the group.
func TestAGroupThatWasAnothersIsCarriedAnew(t *testing.T) {
	t.Parallel()
	w := newGroupWorker(t)
	if carried, err := w.copies(testContext(t), false); err != nil || len(carried) != 1 || len(carried[0].offsets) != 1 {
		t.Fatalf("it carried %v: %v", carried, err)
	}
	w.s.crew.said(t, workers.Record{Worker: "other", Term: 1, Beat: 1, Rank: 99})
	if carried, err := w.copies(testContext(t), false); err != nil || len(carried) != 1 || len(carried[0].offsets) != 0 {
		t.Errorf("it knows %v of what another one carries: %v", carried, err)
	}
}

// A move whose groups could not be had has not copied them. Until its worker has said that
// it leads it waits.
func TestAMoveWithoutItsGroupsFails(t *testing.T) {
	t.Parallel()
	w := newGroupWorker(t)
	var first leader
	w.m.config.Lead = first.as(0)
	w.s.crew.said(t, workers.Record{Worker: "other", Term: 1, Beat: 1, Rank: 99})
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := w.s.crew.takeGroup(ctx, watchedGroup, true); !errors.Is(err, context.Canceled) {
		t.Errorf("it has waited too long: %v", err)
	}
	first.is.Store(1)
	if _, err := w.copies(testContext(t), true); !errors.Is(err, ErrNotLeading) {
		t.Errorf("another one leads: %v", err)
	}
}

// forgets deletes what a group has committed of a partition at a site.
func forgets(t *testing.T, addresses []string, group string, tp spillway.TopicPartition) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addresses...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = group
	req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: tp.Topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: tp.Partition}}}}
	resp, err := req.RequestWith(testContext(t), client)
	if err != nil || resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
}

// A broker of the source does not say which groups it has: those of the others are carried,
// and a move does not take that for all.
func TestGroupsOfABrokerThatHangsStopNoOthers(t *testing.T) {
	t.Parallel()
	w := newGroupWorker(t)
	hangs := errors.New("broker 2 hangs")
	w.src.cluster = someGroups{w.src.cluster, hangs}
	for _, wait := range []bool{false, true} {
		w.calls = nil
		carried, err := w.copies(testContext(t), wait)
		if len(carried) != 1 || len(carried[0].offsets) == 0 || !slices.Contains(w.calls, "commit") {
			t.Errorf("carried %v by %v", carried, w.calls)
		}
		if !errors.Is(err, hangs) {
			t.Errorf("%v", err)
		}
	}
}

// someGroups is a site of which one broker does not list its groups.
type someGroups struct {
	broker.Cluster
	fault error
}

type someGroupsAdmin struct {
	broker.Admin
	fault error
}

func (s someGroups) Admin() broker.Admin { return someGroupsAdmin{s.Cluster.Admin(), s.fault} }

func (a someGroupsAdmin) ListGroups(ctx context.Context) ([]broker.GroupListing, error) {
	groups, err := a.Admin.ListGroups(ctx)
	return groups, errors.Join(err, a.fault)
}

// A position is deleted at the source, and the group commits the same again: it is carried
// again. The mirror must not believe that the site still has what it had carried.
func TestAPositionThatComesAgainIsCarriedAgain(t *testing.T) {
	t.Parallel()
	w := newGroupWorker(t)
	tp := spillway.TopicPartition{Topic: "orders"}
	carried := carriedGroup{}
	committed := func() bool {
		t.Helper()
		w.calls = nil
		groups, err := listGroups(testContext(t), w.src.cluster)
		err = w.m.copyGroups(testContext(t), w.a, w.src, groups, err, w.a.Epoch, false, nil, func(context.Context, string) carriedGroup { return carried },
			func(_ string, now carriedGroup) { carried = now })
		if err != nil {
			t.Fatal(err)
		}
		return slices.Contains(w.calls, "commit")
	}
	if !committed() || committed() {
		t.Fatalf("at first: %v, %v", w.calls, carried)
	}
	forgets(t, w.theirs, watchedGroup, tp)
	if committed() {
		t.Errorf("nothing is there: %v", w.calls)
	}
	if err := w.src.cluster.Admin().CommitGroupOffsets(testContext(t), watchedGroup, map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 0, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	if !committed() || committed() {
		t.Errorf("the group has committed again: %v, %v", w.calls, carried)
	}
}
