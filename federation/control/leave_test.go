package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/federation/failover"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// stubborn is a site whose coordinator refuses the commits of one group.
type stubborn struct {
	broker.Cluster
	group  *string
	before *func(group string) // commits and deletions
}

type stubbornAdmin struct {
	broker.Admin
	of stubborn
}

func (c stubborn) Admin() broker.Admin { return stubbornAdmin{c.Cluster.Admin(), c} }

func (a stubbornAdmin) CommitGroupOffsets(ctx context.Context, group string, offsets map[spillway.TopicPartition]broker.GroupOffset) error {
	(*a.of.before)(group)
	if group == *a.of.group {
		return errors.New("the coordinator has gone")
	}
	return a.Admin.CommitGroupOffsets(ctx, group, offsets)
}

func (a stubbornAdmin) DeleteGroup(ctx context.Context, group string) error {
	(*a.of.before)(group)
	return a.Admin.DeleteGroup(ctx, group)
}

// valueAt reads the first record at or after a local offset, as a client of the brokers.
func (s *site) valueAt(t *testing.T, tp spillway.TopicPartition, local spillway.LocalOffset) string {
	t.Helper()
	ends, err := s.cluster.Admin().LogEnds(within(t), []spillway.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	value := ""
	if err := sitelog.Scan(within(t), s.cluster, tp, local, ends[tp], func(b sitelog.Batch) error {
		records, err := batch.Records(b.Bytes, 1<<20)
		for _, r := range records {
			if at := spillway.LocalOffset(b.Header.BaseOffset + int64(r.OffsetDelta)); at >= local && value == "" {
				value = string(r.Value)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return value
}

// After a move local and virtual offsets differ, and the local one beside a position that a
// mirror carried may be too small. What leaves is exact: whoever reads at the brokers goes on
// at the very record, and finds the metadata that the client wrote.
func TestGroupsThatLeaveGoOnAtTheNextRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) { g.ConsumerGroups = []string{"desk", "cash", "late"} }})
	w.settled(1)
	west, orders0, orders1 := w.sites["west"], spillway.TopicPartition{Topic: "orders", Partition: 0}, spillway.TopicPartition{Topic: "orders", Partition: 1}
	acked := func(tp spillway.TopicPartition) (offsets []spillway.Offset) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Sorted(maps.Keys(w.acked[tp]))
	}
	stop := w.load()
	w.eventually("some records are there", func() bool { return len(acked(orders0)) > 20 && len(acked(orders1)) > 20 })
	for range 3 { // of somebody who writes to a standby: hidden, and in the way of all offsets behind
		if _, err := produceTo(within(t), west.cluster, orders0, "foreign"); err != nil {
			t.Fatal(err)
		}
	}
	before := len(acked(orders0))
	w.eventually("more came behind it", func() bool { return len(acked(orders0)) > before+20 })
	w.switchover("west", "")
	w.settled(2)
	before = len(acked(orders0))
	w.eventually("west takes records", func() bool { return len(acked(orders0)) > before+20 })
	stop()

	failing, meanwhile := "", func(string) {}
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{"west": stubborn{west.cluster, &failing, &meanwhile}, "east": w.sites["east"].cluster}
	commit := func(group string, at map[spillway.TopicPartition]broker.GroupOffset) {
		t.Helper()
		if err := west.cluster.Admin().CommitGroupOffsets(within(t), group, at); err != nil {
			t.Fatal(err)
		}
	}
	has := func(group string) map[spillway.TopicPartition]broker.GroupOffset {
		t.Helper()
		at, err := west.cluster.Admin().FetchGroupOffsets(within(t), group)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	leave := func(r LeaveRequest) (Leaving, error) {
		t.Helper()
		if r.Site == "" {
			r.Site = "west"
		}
		r.Who, r.AcceptNotAdopting = "ann", true
		return w.operator.Leave(within(t), "orders", r)
	}
	all := acked(orders0)
	next := all[len(all)-10] // written at west, so at another local offset
	other := acked(orders1)[10]
	desk := map[spillway.TopicPartition]broker.GroupOffset{
		orders0: {Offset: 2, LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(next, 1, "mine")}, // C16
		orders1: {Offset: 7, LeaderEpoch: -1, Metadata: "its own"},
	}
	commit("desk", desk)
	commit("cash", map[spillway.TopicPartition]broker.GroupOffset{orders1: {Offset: 1, LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(other, 1, "")}})
	strange := map[spillway.TopicPartition]broker.GroupOffset{orders1: {Offset: 1, LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(other, 1, "")}}
	commit("strange", strange)

	if l, err := w.operator.Leave(within(t), "orders", LeaveRequest{Site: "west"}); err != nil || len(l.Refused) != 1 || !strings.Contains(l.Refused[0], "is not adopting") {
		t.Errorf("it may move: %+v, %v", l, err)
	}
	if l, err := leave(LeaveRequest{Site: "east"}); err != nil || len(l.Refused) != 1 || !strings.Contains(l.Refused[0], "west serves failover group orders, not east") {
		t.Errorf("at the standby: %+v, %v", l, err)
	}
	if l, err := leave(LeaveRequest{RemoveOthers: true}); err != nil || len(l.Refused) != 1 || !strings.Contains(l.Refused[0], "the mirror of east carries the positions") {
		t.Errorf("groups would come back: %+v, %v", l, err)
	}
	l, err := leave(LeaveRequest{DryRun: true})
	if err != nil || len(l.Refused) > 0 || len(l.Groups) != 2 || l.Groups[1].Group != "desk" || l.Groups[1].Own != 1 || len(l.Groups[1].Positions) != 1 || l.Groups[1].Left || !maps.Equal(has("desk"), desk) {
		t.Fatalf("dry run: %+v, %v", l, err)
	}
	failing = "desk"
	if _, err := leave(LeaveRequest{}); err == nil || !strings.Contains(err.Error(), "1 of 2 groups have left, give the command again") {
		t.Errorf("a coordinator that goes away in between: %v", err)
	}
	failing = ""
	earlier := maps.Clone(desk)
	earlier[orders0] = broker.GroupOffset{Offset: 2, LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(all[len(all)-15], 1, "mine")}
	commit("desk", earlier)
	meanwhile = func(group string) { // somebody of desk commits, once all was read
		if group == "cash" {
			commit("desk", desk)
		}
	}
	if l, err = leave(LeaveRequest{}); err != nil || !l.Groups[1].Left || l.Groups[0].Own != 1 || len(l.Groups[0].Positions) != 0 {
		t.Fatalf("again: %+v, %v", l, err)
	}
	meanwhile = func(string) {}
	w.mu.Lock()
	want, wantOther := w.acked[orders0][next], w.acked[orders1][other]
	w.mu.Unlock()
	left := has("desk")
	if got := west.valueAt(t, orders0, left[orders0].Offset); got != want || left[orders0].Metadata != "mine" || left[orders0].Offset == spillway.LocalOffset(next-1000) {
		t.Errorf("desk goes on at %+v, record %s, want %s", left[orders0], got, want)
	}
	if left[orders1] != desk[orders1] {
		t.Errorf("what was its own is %+v", left[orders1])
	}
	if got := west.valueAt(t, orders1, has("cash")[orders1].Offset); got != wantOther {
		t.Errorf("cash goes on at record %s, want %s", got, wantOther)
	}
	if !maps.Equal(has("strange"), strange) {
		t.Errorf("a group of nobody's has changed: %+v", has("strange"))
	}
	if l, err = leave(LeaveRequest{}); err != nil || len(l.Groups[0].Positions)+len(l.Groups[1].Positions) > 0 || !maps.Equal(has("desk"), left) {
		t.Errorf("once more: %+v, %v", l, err)
	}
	// By a gateway they go on at the same records, should they come back.
	if v, visible := west.maps.View(orders0).ToVirtual(left[orders0].Offset); v != next || !visible {
		t.Errorf("a gateway goes on at %d, want %d", v, next)
	}

	// One that is before what is hidden would read it.
	commit("late", map[spillway.TopicPartition]broker.GroupOffset{orders0: {LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(all[0], 1, "")}})
	if l, err := leave(LeaveRequest{}); err != nil || len(l.Refused) != 1 || !strings.Contains(l.Refused[0], "late in orders-0 (3 offsets)") {
		t.Errorf("records that are hidden follow: %+v, %v", l.Refused, err)
	}
	if l, err := leave(LeaveRequest{ConsumerGroups: []string{"desk"}}); err != nil || len(l.Refused) > 0 || len(l.Groups) != 1 {
		t.Errorf("another group alone: %+v, %v", l, err)
	}
	if _, err := leave(LeaveRequest{ConsumerGroups: []string{"strange"}}); err == nil {
		t.Error("a group of nobody's may leave")
	}
	if l, err := leave(LeaveRequest{AcceptHidden: true}); err != nil || !l.Groups[2].Left {
		t.Errorf("accepted: %+v, %v", l, err)
	}

	// At the other sites groups are removed by choice, where nobody carries them again.
	east := w.sites["east"].cluster.Admin()
	w.eventually("east has the groups", func() bool {
		at, err := east.FetchGroupOffsets(within(t), "cash")
		return err == nil && len(at) > 0
	})
	w.sites["east"].stop()
	if l, err := leave(LeaveRequest{ConsumerGroups: []string{"cash"}, RemoveOthers: true, DryRun: true}); err != nil || len(l.Refused) > 0 || len(l.Removed) != 1 {
		t.Errorf("dry run: %+v, %v", l, err)
	}
	if l, err := leave(LeaveRequest{ConsumerGroups: []string{"cash"}, RemoveOthers: true}); err != nil || !slices.Equal(l.Removed, []RemovedGroup{{"east", "cash"}}) {
		t.Errorf("%+v, %v", l, err)
	}
	for group, kept := range map[string]bool{"cash": false, "desk": true} {
		if at, err := east.FetchGroupOffsets(within(t), group); err != nil || (len(at) > 0) != kept {
			t.Errorf("east has %s: %+v, %v", group, at, err)
		}
	}
	if len(has("cash")) == 0 {
		t.Error("the group is gone at west")
	}

	reader(t, west, "desk-app")
	w.eventually("a group with members does not leave", func() bool {
		l, err := leave(LeaveRequest{})
		return err == nil && len(l.Refused) == 1 && strings.Contains(l.Refused[0], "consumer groups have members, which would commit virtual offsets again: desk (")
	})
	log, err := w.operator.Audit(within(t))
	if err != nil || !slices.ContainsFunc(log, func(a failover.AuditEntry) bool {
		return a.Who == "ann" && strings.Contains(a.What, "2 consumer groups of orders leave: their positions at west")
	}) {
		t.Errorf("%+v, %v", log, err)
	}
}

// A failover group that moves while others leave has another site that serves: what was read
// at the first one is not committed any more, and what the second one has is not removed.
func TestLeavingStopsWhereTheFailoverGroupMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) { g.ConsumerGroups = []string{"cash", "desk"} }})
	w.settled(1)
	for _, s := range w.sites {
		s.stop() // nobody acts on what is written here
	}
	never, meanwhile := "", func(string) {}
	w.operator.Sites = map[spillway.SiteID]broker.Cluster{}
	for id, s := range w.sites {
		w.operator.Sites[id] = stubborn{s.cluster, &never, &meanwhile}
	}
	w.operator.look = 10 * time.Millisecond
	before, _, err := w.operator.share(within(t), "orders")
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(change func(*failover.Share)) {
		t.Helper()
		share, version, err := w.operator.share(within(t), "orders")
		if err != nil {
			t.Fatal(err)
		}
		change(&share)
		if err := w.operator.write(within(t), share, version, "moved", "test", ""); err != nil {
			t.Fatal(err)
		}
	}
	// leave has the record change at one of the writes: of cash, of desk, and the removal of cash.
	leave := func(write int, change func(*failover.Share), others bool) (Leaving, error) {
		for _, s := range w.sites {
			for _, group := range []string{"cash", "desk"} {
				if err := s.cluster.Admin().CommitGroupOffsets(within(t), group, map[spillway.TopicPartition]broker.GroupOffset{{Topic: "orders"}: {LeaderEpoch: -1}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		meanwhile = func(string) {
			if write--; write == 0 {
				rewrite(change)
			}
		}
		defer rewrite(func(s *failover.Share) { *s = before })
		return w.operator.Leave(within(t), "orders", LeaveRequest{Site: "east", AcceptNotAdopting: true, RemoveOthers: others})
	}
	for name, move := range map[string]func(*failover.Share){
		"it begins to move":                func(s *failover.Share) { s.State = failover.Draining },
		"another site serves":              func(s *failover.Share) { s.Active = "west" },
		"it has moved away, and come back": func(s *failover.Share) { s.Epoch += 2 },
	} {
		l, err := leave(1, move, false)
		if !errors.Is(err, failover.ErrRefused) || !strings.Contains(err.Error(), "moves or has moved meanwhile: it was served by east in epoch 1") || !strings.Contains(err.Error(), "1 of 2 groups have left") || !l.Groups[0].Left || l.Groups[1].Left {
			t.Errorf("%s while groups leave: %+v, %v", name, l, err)
		}
		l, err = leave(3, move, true)
		if !errors.Is(err, failover.ErrRefused) || !strings.Contains(err.Error(), "remove group desk at west") || !slices.Equal(l.Removed, []RemovedGroup{{"west", "cash"}}) {
			t.Errorf("%s while groups are removed: %+v, %v", name, l, err)
		}
		if at, err := w.sites["west"].cluster.Admin().FetchGroupOffsets(within(t), "desk"); err != nil || len(at) == 0 {
			t.Errorf("%s: desk is gone at west: %v", name, err)
		}
	}
}

// Each row is a position and what becomes of it.
func TestWhatBecomesOfAPosition(t *testing.T) {
	t.Parallel()
	// [100, 200) is at local 10 to 110, and 10 offsets behind that are hidden; the rest follows from 120 to 150.
	m := offsetmap.New()
	if !m.Apply(&offsetmap.Chunk{Session: 1, Worker: "w", First: 10, Verified: true, Ranges: []offsetmap.Range{
		{Epoch: 1, Virtual: 100, Local: 10, Length: 100}, {Epoch: 1, Virtual: 200, Local: 120, Length: 30}}}) {
		t.Fatal("the map takes no chunk")
	}
	view := m.View()
	tp := spillway.TopicPartition{Topic: "orders"}
	for name, c := range map[string]struct {
		virtual    spillway.Offset
		start, end spillway.LocalOffset
		want       string
	}{
		"inside":                {150, 0, 150, "60 hidden 10"},
		"behind what is hidden": {200, 0, 150, "120 hidden 0"},
		"at its edge":           {199, 0, 150, "109 hidden 10"},
		"the end":               {230, 0, 150, "150 hidden 0"},
		"beyond the end":        {999, 0, 150, "150 hidden 0"},
		"it has expired":        {150, 80, 150, "60 hidden 10 expired"},
		"so has what is hidden": {150, 125, 150, "60 hidden 0 expired"},
		"before the first":      {0, 0, 150, "10 hidden 10"},
		"the log is shorter":    {225, 0, 140, "140 hidden 0"},
	} {
		p, changes := ownPosition(tp, broker.GroupOffset{Offset: 3, Metadata: offsetmap.EncodeCommit(c.virtual, 1, "m")}, view, c.start, c.end)
		got := fmt.Sprintf("%d hidden %d", p.Local, p.Hidden)
		if p.Expired {
			got += " expired"
		}
		if !changes || got != c.want || p.metadata != "m" || p.Virtual != c.virtual || p.Stored != 3 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if _, changes := ownPosition(tp, broker.GroupOffset{Offset: 3, Metadata: "m"}, view, 0, 150); changes {
		t.Error("what is the site's own is changed")
	}
}
