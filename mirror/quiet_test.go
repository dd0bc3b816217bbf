package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/mirror/sitelog"
)

// lanesOf counts the lanes of a mirror's flow, and the partitions in quiet ones.
func lanesOf(t *testing.T, m *Mirror) (lanes int, quiet int64) {
	t.Helper()
	s, err := m.share(ordersShare)
	if err != nil {
		t.Fatal(err)
	}
	f := s.running()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.mu.running {
		quiet += l.quiet.count.Load()
	}
	return len(f.mu.running), quiet
}

// Partitions without news go to quiet lanes, and what comes then is carried all the same,
// more than once; a flow of few partitions has none.
func TestQuietLanes(t *testing.T) {
	t.Parallel()
	p := newPair(t, map[string]int32{"orders": 6})
	few := testMirrorWith(t, Config{Local: embeddedSite(t, "north", nil), quiet: quietLimits{from: 100, after: time.Millisecond, laneMax: 1}}, p.east)
	assign(t, few, ordersAssignment("east", 1))
	led, many := make(map[int32]int64), int64(0) // partitions of brokers that have as many as it takes
	for i := range int32(6) {
		node, err := p.east.Leader(testContext(t), spillway.TopicPartition{Topic: "orders", Partition: i})
		if err != nil {
			t.Fatal(err)
		}
		led[node]++
	}
	for _, n := range led {
		if n >= 2 {
			many += n
		}
	}
	l := newLoad(t, p.east.Addresses(), 1)
	for range 4 {
		if err := l.write(testContext(t), "orders", 6, 20); err != nil {
			t.Fatal(err)
		}
		p.wait(t)
		eventually(t, "all partitions are in quiet lanes", func() bool { _, quiet := lanesOf(t, p.westM); return quiet == many })
	}
	for i := range int32(6) {
		compareSites(t, p.east, p.west, p.eastM, p.westM, spillway.TopicPartition{Topic: "orders", Partition: i})
	}
	if lanes, quiet := lanesOf(t, few); lanes > 2 || quiet > 0 {
		t.Errorf("%d lanes for two brokers, %d partitions in quiet ones", lanes, quiet)
	}
}

// A lane whose quiet ones are empty lets the source wait as long as any other.
func TestAnEmptyQuietLaneCostsNothing(t *testing.T) {
	t.Parallel()
	l := &lane{m: &Mirror{config: Config{FetchWait: time.Second}}, quiet: quiet{lanes: []*lane{{}}}}
	if got := l.fetchWait(); got != time.Second {
		t.Errorf("beside an empty one it waits %s", got)
	}
	l.quiet.lanes[0].quiet.count.Store(1)
	if got := l.fetchWait(); got != busyWait {
		t.Errorf("beside one with a partition it waits %s", got)
	}
}

// A partition that was not asked for, since it rested, may have been behind all the while.
func TestWhatWasNotAskedForMayBeBehind(t *testing.T) {
	t.Parallel()
	east, err := embedded.Start(embedded.Config{Site: "east", Topics: map[string]int32{"orders": 2}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { east.Close() })
	l, parts := laneOf(t, testMirror(t, embeddedSite(t, "west", nil), east), east, 0, 1)
	for range 2 {
		answered(t, l)
		parts[0].told, parts[1].told = false, false // so that there is an answer
	}
	had := parts[1].answered
	if had.IsZero() || !had.Equal(parts[0].answered) {
		t.Fatalf("at the last they had all at %s and %s", parts[0].answered, had)
	}
	l.resting[parts[1].TopicPartition] = time.Now().Add(time.Hour)
	answered(t, l)
	delete(l.resting, parts[1].TopicPartition)
	if got := answered(t, l); !slices.Contains(got, 1) || !parts[1].answered.Equal(had) {
		t.Errorf("answers about %v; it had all at %s, and was not asked for since %s", got, parts[1].answered, had)
	}
}

// How often is looked for topics, and which of them are compared, goes by how many there are.
func TestLooksGoByTheNumber(t *testing.T) {
	f := &flow{m: &Mirror{config: Config{TopicInterval: time.Second}}, parts: make(map[spillway.TopicPartition]*partition)}
	for n, want := range map[int][2]time.Duration{10: {0, 0}, 999: {time.Second, time.Second}, 10_000: {20 * time.Second, 5 * time.Second}} {
		clear(f.parts)
		for i := range n {
			f.parts[spillway.TopicPartition{Partition: int32(i)}] = nil
		}
		for i, problem := range []string{"", "no answer"} {
			f.mu.problem = problem
			if got := f.discoverEvery(); got != want[i] {
				t.Errorf("%d partitions are looked for every %s, problem %q", n, got, problem)
			}
		}
	}
	var all []string
	for i := range 450 {
		all = append(all, fmt.Sprintf("topic-%03d", i))
	}
	seen := make(map[string]int)
	for range 9 {
		some := f.nextTopics(all)
		if len(some) != topicsRound {
			t.Fatalf("%d topics at once", len(some))
		}
		for _, name := range some {
			seen[name]++
		}
	}
	for _, name := range all {
		if seen[name] != 4 {
			t.Errorf("%s was looked at %d times in 9 rounds", name, seen[name])
		}
	}
	f.ending.bound.Store(&bound{})
	if got := f.discoverEvery(); got != 0 {
		t.Errorf("what a move names is looked for every %s", got)
	}
	if some := f.nextTopics(all[:10]); !slices.Equal(some, all[:10]) {
		t.Errorf("of few topics: %v", some)
	}
}

// More partitions than one request names, with records in all of them at once.
func TestManyPartitions(t *testing.T) {
	t.Parallel()
	const partitions = 2*producedAtOnce + 1
	p := newPair(t, map[string]int32{"orders": partitions})
	l := newLoad(t, p.east.Addresses(), 1)
	var records []*kgo.Record
	for i := range int32(partitions) {
		records = append(records, &kgo.Record{Topic: "orders", Partition: i, Value: fmt.Append(nil, i)})
	}
	for range 2 {
		if err := l.plain.ProduceSync(testContext(t), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		p.wait(t)
	}
	for _, i := range []int32{0, producedAtOnce, partitions - 1} {
		compareSites(t, p.east, p.west, p.eastM, p.westM, spillway.TopicPartition{Topic: "orders", Partition: i})
	}
}

// Holes behind the last record are in the map alone: the log of a site that follows has
// nothing new, so its broker says nothing.
func TestHolesWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	north, east, west := embeddedSite(t, "north", map[string]int32{"orders": 1}), embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	northM, eastM, westM := testMirror(t, north, east), testMirror(t, east, north), testMirror(t, west, east)
	assign(t, northM, ordersAssignment("", 1))
	assign(t, eastM, ordersAssignment("north", 1))
	tp := spillway.TopicPartition{Topic: "orders"}
	l := newLoad(t, north.Addresses(), 1)
	ctx := testContext(t)
	end := func(m *Mirror) spillway.Offset {
		v, _ := m.Map().View(tp).End()
		return v
	}
	written := func() spillway.Offset {
		ends, err := north.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
		if err != nil {
			t.Fatal(err)
		}
		v, _ := northM.Map().View(tp).ToVirtual(ends[tp])
		return v
	}
	if err := l.plain.ProduceSync(ctx, l.records("orders", 1)...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "east has the records", func() bool { return end(eastM) == written() })
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has them", func() bool { return end(westM) == written() })
	for range 3 {
		if err := errors.Join(l.transactional.BeginTransaction(), l.transactional.ProduceSync(ctx, l.records("orders", 1)...).FirstErr(), l.transactional.EndTransaction(ctx, kgo.TryAbort)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "west knows that nothing comes", func() bool { return end(westM) == written() })
	}
}

// laneOf is a lane of a mirror that is not run, with partitions of orders that one broker
// leads.
func laneOf(t *testing.T, m *Mirror, east broker.Cluster, partitions ...int32) (*lane, []*partition) {
	t.Helper()
	src, err := m.source(east.Site())
	if err != nil {
		t.Fatal(err)
	}
	node, err := east.Leader(t.Context(), spillway.TopicPartition{Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLane(t.Context(), newFlow(m, ordersAssignment(east.Site(), 1), src, nil), node)
	var parts []*partition
	for _, i := range partitions {
		parts = append(parts, &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: i}, lease: alwaysHeld{},
			highWatermark: -1, sourceEpoch: -1, position: position{bound: noBound}})
	}
	l.give(parts...)
	<-l.wake
	l.takeIn()
	t.Cleanup(func() {
		l.hangUp()
		l.flow.goroutines.Wait()
	})
	return l, parts
}

// answered are the partitions of which the source says something now, in turn.
func answered(t *testing.T, l *lane) (parts []int32) {
	t.Helper()
	var chunk []sitelog.Fetched
	for l.ask(nil); l.asked != nil; {
		var err error
		if chunk, err = l.fetch(t.Context()); err != nil && !errors.Is(err, errWoken) {
			t.Fatal(err)
		}
	}
	l.answer.done()
	l.answer = nil
	for _, f := range chunk {
		parts = append(parts, f.Partition)
	}
	l.plan(t.Context(), chunk)
	slices.Sort(parts)
	return parts
}

// A broker that remembers a partition says nothing of it while nothing is new. One that
// comes back to its lane gets an answer all the same: how far the source is would never be
// known otherwise.
func TestAPartitionThatComesBackIsAnswered(t *testing.T) {
	t.Parallel()
	east, err := embedded.Start(embedded.Config{Site: "east", Topics: map[string]int32{"orders": 2}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { east.Close() })
	l, parts := laneOf(t, testMirror(t, embeddedSite(t, "west", nil), east), east, 0, 1)
	expect := func(what string, want ...int32) {
		t.Helper()
		if got := answered(t, l); !slices.Equal(got, want) {
			t.Errorf("%s: answers about %v, want %v", what, got, want)
		}
	}
	expect("first", 0, 1)
	expect("nothing is new")
	l.leave(parts[0])
	l.give(parts[0])
	l.takeIn()
	expect("one has come back", 0, 1)
	expect("nothing is new then")
	if parts[0].highWatermark != 0 || parts[1].highWatermark != 0 {
		t.Errorf("the source ends at %d and %d", parts[0].highWatermark, parts[1].highWatermark)
	}
}

// behind is a cluster whose in-sync replicas lack records.
type behind struct {
	broker.Cluster
	lack, asked *atomic.Int64
}

type behindAdmin struct {
	broker.Admin
	behind
}

func (b behind) Admin() broker.Admin { return behindAdmin{b.Cluster.Admin(), b} }

func (b behindAdmin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if tps[0].Topic != "orders" {
		return b.Admin.HighWatermarks(ctx, tps)
	}
	b.asked.Add(1)
	lack := b.lack.Load()
	if lack < 0 {
		return nil, errors.New("not now")
	}
	ends, err := b.Admin.HighWatermarks(ctx, tps)
	for tp := range ends {
		ends[tp] -= spillway.LocalOffset(lack)
	}
	return ends, err
}

// A mark tells of no more than all in-sync replicas have, and of all when they have it,
// without a new record (promise B).
func TestAMarkWaitsForTheReplicas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ lack, first int64 }{"they lack some": {3, 7}, "nobody says what they have": {-1, 0}} {
		t.Run(name, func(t *testing.T) {
			east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
			eastM, before := testMirror(t, east), testMirror(t, west, east)
			assign(t, eastM, ordersAssignment("", 1))
			assign(t, before, ordersAssignment("east", 1))
			small(t, east.Addresses(), 10)
			tp, base := spillway.TopicPartition{Topic: "orders"}, ordersAssignment("", 1).OffsetBase
			eventually(t, "west has all", func() bool { return before.Ends(ordersShare)[tp] == base+10 })
			before.Close()

			var lack, asked atomic.Int64
			lack.Store(c.lack)
			m := testMirrorWith(t, Config{Local: behind{west, &lack, &asked}}, east)
			assign(t, m, ordersAssignment("east", 1))
			eventually(t, "it has asked more than once", func() bool { return asked.Load() > 2 })
			want := base + spillway.Offset(c.first)
			if c.first == 0 {
				want = 0 // there is no mark
			}
			if end := m.Ends(ordersShare)[tp]; end != want {
				t.Errorf("the mark is at %d, want %d", end, want)
			}
			lack.Store(0)
			eventually(t, "the mark is whole", func() bool { return m.Ends(ordersShare)[tp] == base+10 })
			eventually(t, "it has caught up", func() bool { flows := m.Flows(); return !flows[0].CatchingUp && len(flows[0].Problems) == 0 })
		})
	}
}

type heldUntil struct{ end time.Time }

func (h heldUntil) Held(now time.Time) bool { return now.Before(h.end) }

// silentLane is a quiet lane whose source does not answer.
func silentLane(t *testing.T, c Config, partitions ...int32) (*lane, []*partition) {
	t.Helper()
	east := embeddedSite(t, "east", map[string]int32{"orders": 2})
	c.Local = embeddedSite(t, "west", nil)
	m := testMirrorWith(t, c, east)
	l, parts := laneOf(t, m, east, partitions...)
	l.quiet.busy = newLane(t.Context(), l.flow, l.node)
	l.asked = &asked{answer: make(chan fetchAnswer, 1)}
	l.asked.cancel = func() { l.asked.answer <- fetchAnswer{} }
	return l, parts
}

// A lease that is over is noticed though the source says nothing of the partition.
func TestALostLeaseWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l, parts := silentLane(t, Config{Now: func() time.Time { return now }}, 0, 1)
	parts[1].lease = heldUntil{now}
	if err := l.pump(t.Context()); err != nil {
		t.Fatal(err)
	}
	if back := l.flow.mu.back; len(back) != 1 || back[0].partition != parts[1] || !back[0].why.claim || len(l.parts) != 1 {
		t.Errorf("given back: %+v", back)
	}
}

// While clients are held by a move, no lane connects anew or waits for an answer, and a
// partition goes on where it is.
func TestAMoveDoesNotDisturbAQuietLane(t *testing.T) {
	t.Parallel()
	l, parts := silentLane(t, Config{}, 0)
	l.m.config.FetchWait = time.Hour
	news := &planned{partition: parts[0], data: true}
	if !l.goesBack(news) {
		t.Error("without a move a partition with records goes back")
	}
	before := l.asked
	l.flow.ending.bound.Store(&bound{epoch: 2, ends: map[spillway.TopicPartition]spillway.Offset{parts[0].TopicPartition: 5}})
	l.applyBound()
	if err := l.pump(t.Context()); err != nil { // at once
		t.Fatal(err)
	}
	if l.asked != before || l.goesBack(news) || parts[0].bound != 5 {
		t.Errorf("asked anew: %t, goes back: %t, bound %d", l.asked != before, l.goesBack(news), parts[0].bound)
	}
}

// A connection that ends takes no session with it.
func TestASessionOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	l, _ := silentLane(t, Config{}, 0)
	l.asked = nil
	session := l.session
	if got := answered(t, l); !slices.Equal(got, []int32{0}) {
		t.Errorf("answers about %v", got)
	}
	l.hangUp()
	if got := answered(t, l); !slices.Equal(got, []int32{0}) || l.session != session {
		t.Errorf("answers about %v", got)
	}
}

// While nothing is said of a partition it has all, so its lag counts from the last answer.
func TestLagCountsFromTheLastAnswer(t *testing.T) {
	f := newFlow(&Mirror{events: &Events{}}, ordersAssignment("east", 1), &source{site: "east"}, nil)
	p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}, highWatermark: 7, position: position{source: 7}}
	f.setState(p, true, "")
	answered := time.Now().Add(time.Hour)
	p.answered, p.highWatermark = answered, 9
	for range 2 {
		f.setState(p, true, "")
		if got := f.mu.state[p.TopicPartition].caughtUp; !got.Equal(answered) {
			t.Errorf("behind since %s, and the last answer was at %s", got, answered)
		}
		p.answered = answered.Add(time.Minute) // what was said then was that it is behind
	}
}
