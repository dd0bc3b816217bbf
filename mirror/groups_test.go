package mirror

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
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
	go func() { copied <- westM.CopyGroups(ctx, ordersShare, "east") }()
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
