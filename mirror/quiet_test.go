package mirror

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
)

// lanesOf counts the lanes of a mirror's flow. Each broker of the source has one that is
// busy.
func lanesOf(t *testing.T, m *Mirror) int {
	t.Helper()
	s, err := m.share(ordersShare)
	if err != nil {
		t.Fatal(err)
	}
	f := s.running()
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.mu.wakes)
}

// Partitions without news go to quiet lanes, and what comes then is carried all the same,
// more than once; a flow of few partitions has none.
func TestQuietLanes(t *testing.T) {
	t.Parallel()
	p := newPair(t, map[string]int32{"orders": 6})
	few := testMirrorWith(t, Config{Local: embeddedSite(t, "north", nil), quiet: quietLimits{from: 100, after: time.Millisecond, laneMax: 1}}, p.east)
	assign(t, few, ordersAssignment("east", 1))
	l := newLoad(t, p.east.Addresses(), 1)
	for range 4 {
		if err := l.write(testContext(t), "orders", 6, 20); err != nil {
			t.Fatal(err)
		}
		p.wait(t)
		eventually(t, "there are quiet lanes", func() bool { return lanesOf(t, p.westM) >= 2+3 })
	}
	for i := range int32(6) {
		compareSites(t, p.east, p.west, p.eastM, p.westM, spillway.TopicPartition{Topic: "orders", Partition: i})
	}
	if n := lanesOf(t, few); n > 2 {
		t.Errorf("%d lanes for two brokers", n)
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

type heldUntil struct{ end time.Time }

func (h heldUntil) Held(now time.Time) bool { return now.Before(h.end) }

// A lease that is over is noticed though the source says nothing of the partition.
func TestALostLeaseWithoutAnAnswer(t *testing.T) {
	now := time.Now()
	f := &flow{m: &Mirror{config: Config{Now: func() time.Time { return now }}, budget: newBudget(MemoryBytesDefault)}, wake: make(chan struct{}, 1)}
	l := newLane(t.Context(), f, 1)
	for i, end := range []time.Time{now.Add(time.Hour), now.Add(time.Second / 2)} {
		p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: int32(i)}, lease: heldUntil{end}}
		l.parts[p.TopicPartition] = p
	}
	l.checkLeases(now)
	now = now.Add(time.Second)
	l.checkLeases(now)
	if len(f.mu.back) != 1 || f.mu.back[0].Partition != 1 || !f.mu.back[0].why.claim || len(l.parts) != 1 {
		t.Errorf("given back: %+v", f.mu.back)
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
