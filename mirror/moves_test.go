package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// virtualEnds are the log ends of a site that serves, in virtual offsets: the
// cutover offsets of a switchover.
func virtualEnds(t *testing.T, c broker.Cluster, m *Mirror, a Assignment) map[spillway.TopicPartition]spillway.Offset {
	t.Helper()
	ctx := testContext(t)
	tps, err := a.partitionsAt(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := c.Admin().LogEnds(ctx, tps)
	if err != nil {
		t.Fatal(err)
	}
	virtual := make(map[spillway.TopicPartition]spillway.Offset)
	for _, tp := range tps {
		virtual[tp], _ = m.Map().View(tp).ToVirtual(ends[tp])
	}
	return virtual
}

func from(site spillway.SiteID, ends map[spillway.TopicPartition]spillway.Offset) map[spillway.TopicPartition]spillway.SiteID {
	sites := make(map[spillway.TopicPartition]spillway.SiteID)
	for tp := range ends {
		sites[tp] = site
	}
	return sites
}

// term cuts the epochs before it off at the given ends.
func term(epoch spillway.Epoch, site spillway.SiteID, ends map[spillway.TopicPartition]spillway.Offset) Term {
	return Term{Epoch: epoch, Site: site, Bound: func(tp spillway.TopicPartition) (spillway.Offset, bool) {
		end, ok := ends[tp]
		return end, ok
	}}
}

// A move may have to be tried again after its epoch was opened here, in some
// partitions or in all: something beside it failed, or the mirror died.
func TestCatchUpAfterTheEpochWasOpened(t *testing.T) {
	t.Parallel()
	b := newBounded(t, nil)
	cutover := b.write(t, 1)
	b.catchUp(t, cutover)
	again := func(m *Mirror, cutover map[spillway.TopicPartition]spillway.Offset) {
		t.Helper()
		ends, err := m.CatchUp(testContext(t), ordersShare, 2, from("east", cutover), cutover)
		if err != nil || !maps.Equal(ends, cutover) {
			t.Errorf("ends %v, cutover %v: %v", ends, cutover, err)
		}
	}
	again(b.westM, cutover)
	restarted := testMirrorWith(t, Config{Local: b.west}, b.east)
	if err := restarted.Know(ordersAssignment("east", 1)); err != nil {
		t.Fatal(err)
	}
	again(restarted, cutover)

	b = newBounded(t, nil)
	cutover = b.write(t, 2)
	first := maps.Clone(cutover)
	delete(first, spillway.TopicPartition{Topic: "orders", Partition: 1})
	if _, err := b.westM.CatchUp(testContext(t), ordersShare, 2, from("east", first), first); err != nil {
		t.Fatal(err)
	}
	if _, err := b.westM.OpenEpoch(testContext(t), ordersShare, 2, 5, first); err != nil {
		t.Fatal(err)
	}
	b.catchUp(t, cutover)
}

// TestSwitchoverAndBack moves a share to west and back to east, with a third
// site that follows whoever serves, and compares all sites after each move.
func TestSwitchoverAndBack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 2}
	east, west, north := embeddedSite(t, "east", topics), embeddedSite(t, "west", nil), embeddedSite(t, "north", nil)
	eastM, westM, northM := testMirror(t, east, west, north), testMirror(t, west, east, north), testMirror(t, north, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	assign(t, northM, ordersAssignment("east", 1))
	write := func(addresses []string, seed uint64) {
		t.Helper()
		if err := newLoad(t, addresses, seed).write(ctx, "orders", 2, 40); err != nil {
			t.Fatal(err)
		}
	}
	compareAll := func() {
		t.Helper()
		for i := range int32(2) {
			tp := spillway.TopicPartition{Topic: "orders", Partition: i}
			compareSites(t, east, west, eastM, westM, tp)
			compareSites(t, east, north, eastM, northM, tp)
		}
	}
	write(east.Addresses(), 1)

	// To west: the cutover is east's log end; both standbys are brought there.
	cutover := virtualEnds(t, east, eastM, ordersAssignment("", 1))
	for _, m := range []*Mirror{westM, northM} {
		ends, err := m.CatchUp(ctx, ordersShare, 2, from("east", cutover), cutover)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(ends, cutover) {
			t.Fatalf("ends %v, cutover %v", ends, cutover)
		}
	}
	if err := westM.Assign(ctx, ordersAssignment("east", 1)); !errors.Is(err, ErrFenced) {
		t.Errorf("a flow of epoch 1 may run again: %v", err)
	}
	position, err := westM.OpenEpoch(ctx, ordersShare, 2, 5, cutover)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := westM.OpenEpoch(ctx, ordersShare, 2, 5, cutover); err != nil || again < position {
		t.Errorf("opened again at %d, %v", again, err)
	}
	terms := []Term{{Epoch: 1, Site: "east"}, term(2, "west", cutover)}
	assign(t, westM, ordersAssignment("", 2))
	assign(t, eastM, ordersAssignment("west", 2, terms...))
	assign(t, northM, ordersAssignment("west", 2, terms...))
	write(west.Addresses(), 2)
	eventually(t, "east and north follow west", func() bool {
		return caughtUp(ctx, west, westM, eastM, ordersAssignment("", 2)) && caughtUp(ctx, west, westM, northM, ordersAssignment("", 2))
	})
	compareAll()
	if gaps := eastM.Map().Gaps(); len(gaps) != 0 {
		t.Errorf("a switchover left gaps: %v", gaps)
	}

	// Back to east, while north is brought there from west's other copy: any
	// site can feed any other (C13).
	cutover = virtualEnds(t, west, westM, ordersAssignment("", 2))
	if _, err := eastM.CatchUp(ctx, ordersShare, 3, from("west", cutover), cutover); err != nil {
		t.Fatal(err)
	}
	if ends, err := northM.CatchUp(ctx, ordersShare, 3, from("east", cutover), cutover); err != nil || !maps.Equal(ends, cutover) {
		t.Fatalf("north from east: %v, %v", ends, err)
	}
	if _, err := eastM.OpenEpoch(ctx, ordersShare, 3, 6, cutover); err != nil {
		t.Fatal(err)
	}
	terms = append(terms, term(3, "east", cutover))
	assign(t, eastM, ordersAssignment("", 3))
	assign(t, westM, ordersAssignment("east", 3, terms...))
	assign(t, northM, ordersAssignment("east", 3, terms...))
	write(east.Addresses(), 3)
	eventually(t, "west and north follow east", func() bool {
		return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 3)) && caughtUp(ctx, east, eastM, northM, ordersAssignment("", 3))
	})
	compareAll()
}

// A mirror that had no lease for a while does not know that another one of its
// site stopped the epoch: its flow must not begin again where that one has ended
// it for good (C8).
func TestAFlowThatAnotherMirrorStoppedStaysStopped(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	lease := make(chan Lease)
	problem := make(chan string, 100)
	late := testMirrorWith(t, Config{Local: west, Events: Events{PartitionState: func(i PartitionInfo) {
		select {
		case problem <- i.Problem:
		default:
		}
	}}, Claim: func(ctx context.Context, _ spillway.TopicPartition) (Lease, error) {
		select {
		case l := <-lease:
			return l, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, late, ordersAssignment("east", 1))
	westM := testMirror(t, west, east)
	assign(t, westM, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 1).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west follows", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	ends, err := westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := newLoad(t, east.Addresses(), 2).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	go func() { lease <- alwaysHeld{} }()
	for {
		select {
		case why := <-problem:
			if !strings.Contains(why, ErrFenced.Error()) {
				continue
			}
		case <-ctx.Done():
			t.Fatal("nobody refused the flow of epoch 1")
		}
		break
	}
	if again, err := westM.Stop(ctx, ordersShare, 2); err != nil || !maps.Equal(ends, again) {
		t.Fatalf("stopped at %v, then at %v: %v", ends, again, err)
	}
}

// TestFailoverHidesAndListsTheRest loses east with records that west does not
// have, and lets it come back.
func TestFailoverHidesAndListsTheRest(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := newLoad(t, p.east.Addresses(), 4).write(ctx, "orders", 1, 30); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.westM.Stop(ctx, ordersShare, 2); err != nil || !maps.Equal(again, ends) {
		t.Errorf("stopped again: %v, %v", again, err)
	}
	late := newLoad(t, p.east.Addresses(), 5)
	if err := late.write(ctx, "orders", 1, 10); err != nil {
		t.Fatal(err)
	}
	// The new epoch starts at the reserved end: offsets are never used twice.
	start := map[spillway.TopicPartition]spillway.Offset{tp: ends[tp] + 5000}
	if _, err := p.westM.OpenEpoch(ctx, ordersShare, 2, 9, start); err != nil {
		t.Fatal(err)
	}
	assign(t, p.westM, ordersAssignment("", 2))
	if err := newLoad(t, p.west.Addresses(), 6).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	if local, at := p.westM.Map().View(tp).ToLocal(ends[tp] + 100); at != start[tp] {
		t.Errorf("a position in the burnt range goes on at %d/%d, not at %d", at, local, start[tp])
	}
	if from, to, ok := p.westM.Map().View(tp).Hole(ends[tp] + 1); !ok || to != start[tp] || from > ends[tp] {
		t.Errorf("the burnt range is the hole %d to %d, %v", from, to, ok)
	}

	// East comes back.
	assign(t, p.eastM, ordersAssignment("west", 2, Term{Epoch: 1, Site: "east"}, term(2, "west", ends)))
	eventually(t, "east follows west", func() bool { return caughtUp(ctx, p.west, p.westM, p.eastM, ordersAssignment("", 2)) })
	compareSites(t, p.west, p.east, p.westM, p.eastM, tp)
	gaps := p.eastM.Map().Gaps()
	closed := p.eastM.Map().View(tp).Ends()[0]
	if len(gaps) != 1 || gaps[0].Kind != maptopic.GapUnreplicated || gaps[0].LocalFrom != closed.Local || gaps[0].LocalTo != closed.LogEnd || gaps[0].From != ends[tp] {
		t.Errorf("gap log: %+v; epoch end %+v", gaps, closed)
	}
}

// TestFailoverIsGivenUpAfterItsTargetOpened gives a failover up when its target
// has written the epoch's start already: above the reserved end, as a lossy one
// does. East goes on, and all it has must come to west, also what lies between
// west's end and that start.
func TestFailoverIsGivenUpAfterItsTargetOpened(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	write := func(seed uint64) {
		t.Helper()
		if err := newLoad(t, p.east.Addresses(), seed).write(ctx, "orders", 1, 30); err != nil {
			t.Fatal(err)
		}
	}
	write(21)
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	write(22) // not replicated yet, and not lost
	if _, err := p.westM.OpenEpoch(ctx, ordersShare, 2, 9, map[spillway.TopicPartition]spillway.Offset{tp: ends[tp] + 5000}); err != nil {
		t.Fatal(err)
	}

	// Given up: east goes on in epoch 3.
	assign(t, p.eastM, ordersAssignment("", 3))
	assign(t, p.westM, ordersAssignment("east", 3, Term{Epoch: 1, Site: "east"}, Term{Epoch: 3, Site: "east"}))
	write(23)
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, p.east, p.eastM, p.westM, ordersAssignment("", 3)) })
	compareSites(t, p.east, p.west, p.eastM, p.westM, tp)
}

// The start of an epoch reaches west's map when its move was given up long ago. What was
// mirrored since stays, and a partition of which nothing was is closed again.
func TestAStartThatComesLateTakesNothingBack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 2})
	tps := partitionsOf("orders", 2)
	l := newLoad(t, p.east.Addresses(), 41)
	write := func(topic string, partitions int32) {
		t.Helper()
		if err := l.write(ctx, topic, partitions, 40); err != nil {
			t.Fatal(err)
		}
	}
	write("orders", 2)
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	logEnds, err := p.west.Admin().LogEnds(ctx, tps)
	if err != nil {
		t.Fatal(err)
	}
	unopened := spillway.TopicPartition{Topic: "orders-new"}
	late := []maptopic.Entry{maptopic.StartEntry(unopened, offsetmap.EpochStart{Epoch: 2, Virtual: 1000, Mask: 9})}
	for _, tp := range tps {
		late = append(late, maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: 2, Virtual: ends[tp], Local: logEnds[tp], Mask: 9, Session: p.westM.Map().Map(tp).Session().Session, Had: ends[tp]}))
	}
	assign(t, p.eastM, ordersAssignment("", 3))
	assign(t, p.westM, ordersAssignment("east", 3, Term{Epoch: 1, Site: "east"}, Term{Epoch: 3, Site: "east"}))
	write("orders", 2)
	same := func() {
		t.Helper()
		eventually(t, "west has what east has", func() bool { return caughtUp(ctx, p.east, p.eastM, p.westM, ordersAssignment("", 3)) })
	}
	same()
	if err := p.westM.saveAndRead(ctx, late); err != nil {
		t.Fatal(err)
	}
	same() // nothing is taken back
	for _, tp := range tps {
		compareSites(t, p.east, p.west, p.eastM, p.westM, tp)
	}
	if err := p.east.Admin().CreateTopic(ctx, unopened.Topic, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	write(unopened.Topic, 1)
	write("orders", 2)
	same()
	for _, tp := range append(tps, unopened) {
		compareSites(t, p.east, p.west, p.eastM, p.westM, tp)
	}
	if gaps := p.westM.Map().Gaps(); len(gaps) > 0 {
		t.Errorf("gaps: %+v", gaps)
	}
	fresh := testMirror(t, p.west)
	if err := fresh.readMap(ctx); err != nil {
		t.Fatal(err)
	}
	for _, tp := range append(tps, unopened) {
		if was, is := p.westM.Map().View(tp).Ranges(), fresh.Map().View(tp).Ranges(); !slices.Equal(was, is) {
			t.Errorf("%s: %v, and read anew %v", tp, was, is)
		}
	}
}

// One that leads closes what began late, and keeps the floor, also while it does not reach
// the source.
func TestWhatComesLateIsClosedWithoutTheSource(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", map[string]int32{"orders": 1})
	m := testMirror(t, west, east)
	if err := east.Close(); err != nil {
		t.Fatal(err)
	}
	assign(t, m, ordersAssignment("east", 3, Term{Epoch: 1, Site: "east"}, Term{Epoch: 3, Site: "east"}))
	tp := spillway.TopicPartition{Topic: "orders"}
	late := []maptopic.Entry{maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: 2, Virtual: 1000, Worker: "late"}), maptopic.FloorEntry(ordersShare, 2)}
	if err := m.saveAndRead(ctx, late); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the epoch is closed", func() bool { _, open := m.Map().View(tp).Open(); return !open })
	eventually(t, "compaction leaves the floor", func() bool { return m.Map().FloorKept(ordersShare) == 3 })
}

// Who helps opens a partition and mirrors into it while the one that leads is about to close
// what began late there: what was mirrored is nothing that was not replicated.
func TestWhatIsOpenedMeanwhileIsNotClosed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	west := embeddedSite(t, "west", map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	helper := testMirror(t, west)
	var opens atomic.Bool
	m := testMirrorWith(t, Config{Local: endsAsked{west, func() {
		if !opens.Swap(false) {
			return
		}
		opened := offsetmap.Session{Session: 1, Worker: "helper", Epoch: 3, Opened: true, Virtual: 1000}
		if _, err := helper.writer.Save(ctx, maptopic.SessionEntry(tp, opened)); err != nil {
			t.Error(err)
		}
	}}})
	if err := m.readMap(ctx); err != nil {
		t.Fatal(err)
	}
	late := maptopic.StartEntry(tp, offsetmap.EpochStart{Epoch: 2, Virtual: 5000, Worker: "late"})
	if err := m.saveAndRead(ctx, []maptopic.Entry{late}); err != nil {
		t.Fatal(err)
	}
	lateBatch(t, west, tp, batch.Header{ProducerID: spillway.MirrorProducerID(1)}, 3, 0)
	opens.Store(true)
	if err := m.closeOver(ctx, ordersAssignment("east", 3, Term{Epoch: 1, Site: "east"}, Term{Epoch: 3, Site: "east"})); err != nil {
		t.Fatal(err)
	}
	if err := m.readMap(ctx); err != nil {
		t.Fatal(err)
	}
	if gaps, ends := m.Map().Gaps(), m.Map().View(tp).Ends(); len(gaps) > 0 || len(ends) != 1 || ends[0].LogEnd != 0 {
		t.Errorf("gaps %+v, ends %+v", gaps, ends)
	}
}

// A site that has begun to follow in a later epoch than the one that is opened does not say
// that it has opened it.
func TestAnEpochThatIsOverIsNotOpened(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	virtual, local := p.westM.Map().View(tp).End()
	later := offsetmap.Session{Session: p.westM.Map().Map(tp).Session().Session + 1, Worker: "later", Opened: true, Epoch: 3, Local: local, Virtual: virtual}
	if err := p.westM.saveAndRead(ctx, []maptopic.Entry{maptopic.SessionEntry(tp, later)}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.westM.OpenEpoch(ctx, ordersShare, 2, 9, ends); !errors.Is(err, ErrFenced) {
		t.Errorf("it says that the epoch is open: %v", err)
	}
}

// TestStandbyThatWasNotHeardIsCutBack fails over from east to west without
// asking north, which has more than west. What north has beyond does not count:
// it is hidden there and listed, and north gets what west writes at the same
// virtual offsets, or at those that it would otherwise think to have.
func TestStandbyThatWasNotHeardIsCutBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		burnt spillway.Offset
		heard bool // in a second failover, before north follows west
	}{
		"above the reserved end":             {burnt: 5000},
		"nothing burnt":                      {},
		"nothing burnt, and a next failover": {heard: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			tp := spillway.TopicPartition{Topic: "orders"}
			east, west, north := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil), embeddedSite(t, "north", nil)
			eastM, westM, northM := testMirror(t, east, west, north), testMirror(t, west, east, north), testMirror(t, north, east, west)
			assign(t, eastM, ordersAssignment("", 1))
			assign(t, westM, ordersAssignment("east", 1))
			assign(t, northM, ordersAssignment("east", 1))
			write := func(addresses []string, seed uint64) {
				t.Helper()
				if err := newLoad(t, addresses, seed).write(ctx, "orders", 1, 30); err != nil {
					t.Fatal(err)
				}
			}
			write(east.Addresses(), 31)
			eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
			ends, err := westM.Stop(ctx, ordersShare, 2)
			if err != nil {
				t.Fatal(err)
			}
			write(east.Addresses(), 32)
			eventually(t, "north has what east has", func() bool { return caughtUp(ctx, east, eastM, northM, ordersAssignment("", 1)) })
			ahead, err := read(ctx, north, tp)
			if err != nil {
				t.Fatal(err)
			}
			before := northM.Map().View(tp)
			beyond := make(map[spillway.Offset]logged)
			for _, r := range ahead {
				if v, visible := before.ToVirtual(spillway.LocalOffset(r.offset)); visible && v >= ends[tp] {
					beyond[v] = r
				}
			}
			if len(beyond) < 100 {
				t.Fatalf("north has %d records beyond what west had", len(beyond))
			}
			if _, err := westM.OpenEpoch(ctx, ordersShare, 2, 9, map[spillway.TopicPartition]spillway.Offset{tp: ends[tp] + c.burnt}); err != nil {
				t.Fatal(err)
			}
			assign(t, westM, ordersAssignment("", 2))
			write(west.Addresses(), 33)
			following := ordersAssignment("west", 2, Term{Epoch: 1, Site: "east"}, term(2, "west", ends))
			if c.heard {
				if err := northM.Know(following); err != nil {
					t.Fatal(err)
				}
				if got, err := northM.Stop(ctx, ordersShare, 3); err != nil || !maps.Equal(got, ends) {
					t.Fatalf("north says that it has %v, %v; %v counts", got, err, ends)
				}
				following.Epoch = 3
			}
			assign(t, northM, following)
			eventually(t, "north follows west", func() bool { return caughtUp(ctx, west, westM, northM, ordersAssignment("", 2)) })
			compareSites(t, west, north, westM, northM, tp)

			var out bytes.Buffer
			if _, err := northM.ExportUnreplicated(ctx, ordersShare, &out); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				var r UnreplicatedRecord
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatal(err)
				}
				if want, ok := beyond[r.Virtual]; !ok || !bytes.Equal(want.key, r.Key) || !bytes.Equal(want.value, r.Value) {
					t.Fatalf("%+v was exported; north had %+v, %v", r, want, ok)
				}
				delete(beyond, r.Virtual)
			}
			if len(beyond) > 0 {
				t.Errorf("%d hidden records are not listed", len(beyond))
			}

			// Once is enough: what north got from west since counts.
			gaps := len(northM.Map().Gaps())
			ends, err = northM.Stop(ctx, ordersShare, 4)
			if err != nil {
				t.Fatal(err)
			}
			if end := virtualEnds(t, west, westM, ordersAssignment("", 2)); !maps.Equal(ends, end) || len(northM.Map().Gaps()) != gaps {
				t.Errorf("north says that it has %v of %v, gap log %+v", ends, end, northM.Map().Gaps())
			}
			if _, err := northM.DiscardUnreplicated(ctx, ordersShare, "anna", "east has them too"); err != nil {
				t.Fatal(err)
			}
			if n, err := northM.ExportUnreplicated(ctx, ordersShare, &out); n != 0 || err != nil {
				t.Errorf("exported after the discard: %d, %v", n, err)
			}
		})
	}
}

// TestGroupOffsetsMoveExactly carries a group and copies it again at a move.
func TestGroupOffsetsMoveExactly(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := newLoad(t, p.east.Addresses(), 7).write(ctx, "orders", 1, 30); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	commit := func(o broker.GroupOffset) {
		t.Helper()
		if err := p.east.Admin().CommitGroupOffsets(ctx, "app-1", map[spillway.TopicPartition]broker.GroupOffset{tp: o}); err != nil {
			t.Fatal(err)
		}
	}
	committed := func() (spillway.Offset, spillway.LocalOffset, string) {
		os, err := p.west.Admin().FetchGroupOffsets(ctx, "app-1")
		if err != nil {
			t.Fatal(err)
		}
		v, _, metadata, ok := offsetmap.DecodeCommit(os[tp].Metadata)
		if !ok {
			return -1, -1, ""
		}
		return v, os[tp].Offset, metadata
	}
	for _, local := range []spillway.LocalOffset{50, 51, 52, 20} { // also backwards
		commit(broker.GroupOffset{Offset: local, LeaderEpoch: -1, Metadata: "mine"})
		want, _ := p.eastM.Map().View(tp).ToVirtual(local)
		eventually(t, "the commit is carried", func() bool {
			v, l, metadata := committed()
			at, _ := p.westM.Map().View(tp).ToLocal(want)
			return v == want && l == at && metadata == "mine"
		})
	}
	// What the gateway wrote wins over the number.
	commit(broker.GroupOffset{Offset: 20, LeaderEpoch: -1, Metadata: offsetmap.EncodeCommit(1033, 1, "x")})
	if err := p.westM.CopyGroups(ctx, ordersShare, "east", nil); err != nil {
		t.Fatal(err)
	}
	if v, _, metadata := committed(); v != 1033 || metadata != "x" {
		t.Errorf("virtual offset %d, metadata %q", v, metadata)
	}
	// Members that stayed behind when the share moved away keep nothing from
	// being carried: they leave.
	member, err := kgo.NewClient(kgo.SeedBrokers(p.west.Addresses()...), kgo.ConsumerGroup("app-1"), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.InstanceID("stays"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the member has joined", func() bool {
		member.PollRecords(ctx, 1)
		d, err := p.west.Admin().DescribeGroup(ctx, "app-1")
		return err == nil && len(d.Members) == 1
	})
	member.Close() // a static member does not leave
	if d, err := p.west.Admin().DescribeGroup(ctx, "app-1"); err != nil || len(d.Members) != 1 {
		t.Fatalf("the member left by itself: %+v, %v", d, err)
	}
	commit(broker.GroupOffset{Offset: 40, LeaderEpoch: -1})
	if err := p.westM.CopyGroups(ctx, ordersShare, "east", nil); err != nil {
		t.Fatal(err)
	}
	want, _ := p.eastM.Map().View(tp).ToVirtual(40)
	if v, _, _ := committed(); v != want {
		t.Errorf("carried offset %d, want %d", v, want)
	}
}

// Before a failover opens an epoch, members go that have stayed from when the site served.
// Those of groups that are the site's own stay, and all do once another epoch was promised.
func TestMembersAreRemovedBeforeAFailoverOpens(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := newLoad(t, p.east.Addresses(), 7).write(ctx, "orders", 1, 30); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	if err := p.west.Admin().CommitGroupOffsets(ctx, "app-1", map[spillway.TopicPartition]broker.GroupOffset{tp: {LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	members := func(group string) int {
		d, err := p.west.Admin().DescribeGroup(ctx, group)
		if err != nil {
			t.Error(err)
		}
		return len(d.Members)
	}
	stays := func(group string) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(p.west.Addresses()...), kgo.ConsumerGroup(group), kgo.ConsumeTopics("orders"), kgo.DisableAutoCommit(), kgo.InstanceID("stays"))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the member has joined", func() bool {
			c.PollRecords(ctx, 1)
			return members(group) == 1
		})
		c.Close() // a static member does not leave
	}
	stays("app-1")
	stays("app-2") // which has no position
	remove := func(epoch spillway.Epoch, app1 int) {
		t.Helper()
		err := p.westM.RemoveMembers(ctx, ordersShare, epoch)
		if errors.Is(err, ErrGroupLost) != (app1 > 0) || members("app-1") != app1 || members("app-2") != 1 {
			t.Errorf("%d and %d members: %v", members("app-1"), members("app-2"), err)
		}
	}
	remove(2, 0)
	begun := func(epoch spillway.Epoch, want bool) {
		t.Helper()
		if got, err := p.westM.Begun(ctx, ordersShare, epoch); got != want || err != nil {
			t.Errorf("epoch %d has begun: %v, %v", epoch, got, err)
		}
	}
	begun(2, false)
	if _, err := p.westM.OpenEpoch(ctx, ordersShare, 2, 1, map[spillway.TopicPartition]spillway.Offset{tp: 10_000}); err != nil {
		t.Fatal(err)
	}
	begun(2, true)
	begun(3, false)
	stays("app-1")
	if err := p.westM.saveAndRead(ctx, []maptopic.Entry{maptopic.FloorEntry(ordersShare, 3)}); err != nil {
		t.Fatal(err)
	}
	remove(2, 1)
}

// Clients are held while groups are copied at a move. What was carried before is not
// committed again; what another mirror of the site has committed since is.
func TestOnlyChangedGroupsAreCopied(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 1}
	east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", topics)
	eastM := testMirror(t, east, west)
	committed := make(chan string, 100)
	config := Config{Local: west, Worker: "west-1", Events: Events{GroupCarried: func(i GroupInfo) { committed <- i.Group }},
		Sources: map[spillway.SiteID]broker.Cluster{"east": east}, FetchWait: 50 * time.Millisecond, TopicInterval: 100 * time.Millisecond, GroupInterval: time.Hour}
	westM, err := New(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(westM.Close)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 8).write(ctx, "orders", 1, 30); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west follows", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	at := func(local spillway.LocalOffset) map[spillway.TopicPartition]broker.GroupOffset {
		return map[spillway.TopicPartition]broker.GroupOffset{{Topic: "orders"}: {Offset: local, LeaderEpoch: -1}}
	}
	commit := func(site broker.Cluster, group string, local spillway.LocalOffset) {
		t.Helper()
		if err := site.Admin().CommitGroupOffsets(ctx, group, at(local)); err != nil {
			t.Fatal(err)
		}
	}
	commit(east, "app-1", 10)
	commit(east, "app-2", 20)
	// Told to hurry, it does not wait for its time.
	westM.HurryGroups(ordersShare)
	for range 2 {
		select {
		case <-committed:
		case <-ctx.Done():
			t.Fatal("the groups were not carried")
		}
	}
	copied := func(want ...string) {
		t.Helper()
		if err := westM.CopyGroups(ctx, ordersShare, "east", nil); err != nil {
			t.Fatal(err)
		}
		var got []string
		for len(committed) > 0 {
			got = append(got, <-committed)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("committed %v, want %v", got, want)
		}
	}
	copied()
	commit(east, "app-2", 25)
	copied("app-2")
	commit(west, "app-1", 3) // by another mirror, or by hand
	copied("app-1")
	copied()
}

// A site that serves shows that it can follow another one: its map takes a write
// and the other map is read. Nothing of what it serves ends by that.
func TestArmWritesTheMapAndReadsTheOther(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM, westM := testMirror(t, east, west), testMirror(t, west, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	if err := eastM.Arm(ctx, ordersShare, 2, "west"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the floor is in the map", func() bool { return eastM.Map().Floor(ordersShare) == 2 })
	if _, open := eastM.Map().View(spillway.TopicPartition{Topic: "orders"}).Open(); !open {
		t.Error("the epoch that east serves was closed")
	}
	if err := eastM.Arm(ctx, ordersShare, 2, "mars"); err == nil || !strings.Contains(err.Error(), "site mars is no source") {
		t.Errorf("%v", err)
	}
	if err := west.Close(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := eastM.Arm(short, ordersShare, 2, "west"); err == nil || !strings.Contains(err.Error(), "read the map of site west") {
		t.Errorf("west is away: %v", err)
	}
}

// Somebody writes between the reading back of a log and the start of its epoch. That is
// hidden behind what clients see, and the gap log says so before the epoch starts.
func TestWhatComesBeforeAnEpochStartsIsLogged(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	virtual, local := p.westM.Map().View(tp).End()
	lateBatch(t, p.west, tp, batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, 3, local)
	if _, err := p.westM.OpenEpoch(ctx, ordersShare, 2, 9, ends); err != nil {
		t.Fatal(err)
	}
	if o, open := p.westM.Map().View(tp).Open(); !open || o.Virtual != virtual || o.Local != local+3 {
		t.Errorf("open %t: %+v; the log ended at %d, virtual %d", open, o, local, virtual)
	}
	gaps := slices.DeleteFunc(p.westM.Map().Gaps(), func(g maptopic.Gap) bool { return g.Kind != maptopic.GapForeign })
	if len(gaps) != 1 || gaps[0].LocalFrom != local || gaps[0].LocalTo != local+3 {
		t.Errorf("%+v", gaps)
	}
}

// Somebody writes to the target without a pause. A switchover is given up for it; a failover
// is not, for nobody else serves (promise H), and the gap log tells what was hidden.
func TestAFailoverOpensWhereOthersGoOnToWrite(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	tp := spillway.TopicPartition{Topic: "orders"}
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	var writes atomic.Bool
	asked := endsAsked{west, func() {
		if ends, err := west.Admin().LogEnds(ctx, []spillway.TopicPartition{tp}); writes.Load() && err == nil {
			lateBatch(t, west, tp, batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, 1, ends[tp])
		}
	}}
	eastM, westM := testMirror(t, east, west), testMirrorWith(t, Config{Local: asked}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 5).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	ends, err := westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	_, level := westM.Map().View(tp).End()
	writes.Store(true)
	asked.asked()
	if _, err := westM.OpenEpoch(ctx, ordersShare, 2, 9, ends); err == nil || !strings.Contains(err.Error(), "others go on to write to orders-0") {
		t.Errorf("a switchover: %v", err)
	}
	_, err = westM.OpenLossyEpoch(ctx, ordersShare, 2, 9, ends)
	if writes.Store(false); err != nil {
		t.Fatalf("a failover: %v", err)
	}
	o, open := westM.Map().View(tp).Open()
	if !open || o.Virtual != ends[tp] || o.Local <= level+knownTries {
		t.Errorf("open %t: %+v; the log ended at %d, virtual %d", open, o, level, ends[tp])
	}
	told := level
	gaps := slices.DeleteFunc(westM.Map().Gaps(), func(g maptopic.Gap) bool { return g.Kind != maptopic.GapForeign })
	slices.SortFunc(gaps, func(a, b maptopic.Gap) int { return int(a.LocalFrom - b.LocalFrom) })
	for _, g := range gaps {
		if g.LocalFrom != told {
			t.Errorf("the gap log says nothing of offsets from %d to %d", told, g.LocalFrom)
		}
		told = g.LocalTo
	}
	if told != o.Local {
		t.Errorf("the gap log tells of offsets up to %d, the epoch starts at %d", told, o.Local)
	}
	if hiding := westM.Map().Hiding()["orders"]; hiding != "foreign-write in partition 0" {
		t.Errorf("hides %q", hiding)
	}
}

// The target of a switchover loses records behind its last report. The epoch would start
// at the cutover, and what is missing would be a hole there. It does not start, however often
// that is tried, and the move is given up.
func TestASwitchoverDoesNotOpenOverALogCutShort(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBounded(t, nil)
	cutover := b.write(t, 1)
	if ends, err := b.westM.CatchUp(ctx, ordersShare, 2, from("east", cutover), cutover); err != nil || !maps.Equal(ends, cutover) {
		t.Fatalf("ends %v, cutover %v: %v", ends, cutover, err)
	}
	if err := b.west.Admin().DeleteTopic(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := b.westM.OpenEpoch(ctx, ordersShare, 2, 5, cutover); err == nil || !strings.Contains(err.Error(), "it was cut short, or the topic deleted") {
			t.Fatalf("it opened: %v", err)
		}
	}
	for tp := range cutover {
		if o, open := b.westM.Map().View(tp).Open(); open {
			t.Errorf("%s: open %+v", tp, o)
		}
	}
}

// A mirror may die between two requests to the map. What keeps a hidden part of the log from
// being looked for again comes behind the entry that tells of it.
func TestGapsAreWrittenBeforeWhatHidesThem(t *testing.T) {
	t.Parallel()
	m := testMirror(t, embeddedSite(t, "west", nil))
	p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}, cutVirtual: noBound, session: offsetmap.Session{Session: 1, Worker: "w", ProducerID: 7}}
	om := offsetmap.New()
	om.Apply(offsetmap.Session{Session: 1, Worker: "w", ProducerID: 7, Opened: true, Local: 0, Virtual: 1000})
	entries, err := m.agree(om.View(), 1, p, offsetmap.Session{Session: 1, ProducerID: 7}, nil, 0, 3, func(_ spillway.LocalOffset, see func(batch.Header)) error {
		see(batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, LastOffsetDelta: 2})
		return nil
	})
	if err != nil || len(entries) < 2 {
		t.Fatalf("%d entries: %v", len(entries), err)
	}
	if !bytes.HasPrefix(entries[0].Value, []byte("{")) || !strings.Contains(string(entries[0].Value), maptopic.GapForeign) {
		t.Errorf("first comes %s: %s", entries[0].Key, entries[0].Value)
	}
}

// A mirror may die between any two entries of an epoch's end. Who goes on looks only for
// epochs that have not ended, so what lies behind the end is told first.
func TestWhatLiesBehindAnEndIsToldFirst(t *testing.T) {
	t.Parallel()
	m := testMirror(t, embeddedSite(t, "east", nil))
	tp := spillway.TopicPartition{Topic: "orders"}
	start := offsetmap.EpochStart{Epoch: 3, Virtual: 5000, Local: 40}
	for logEnd, want := range map[spillway.LocalOffset][]string{45: {"c/"}, 50: {"c/"}, 53: {"g/", "c/"}} {
		var got []string
		for _, e := range m.endEntries(tp, start, 5010, logEnd) {
			got = append(got, e.Key[:2])
		}
		if !slices.Equal(got, want) {
			t.Errorf("log end %d: %q", logEnd, got)
		}
	}
}
