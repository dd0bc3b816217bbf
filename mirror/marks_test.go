package mirror

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"spillway"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// The target loses what it had. What the mirror says first after that is how far
// it really is, in a new append session, so that nobody acknowledges by the mark
// of before.
func TestMarksFallWhenTheTargetLostRecords(t *testing.T) {
	t.Parallel()
	tp := spillway.TopicPartition{Topic: "orders"}
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	told := make(chan Mark, 1000)
	westM := testMirrorWith(t, Config{Local: west, Worker: "one", Events: Events{MarkPublished: func(m Mark) { told <- m }}}, east)
	assign(t, westM, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 1).write(testContext(t), "orders", 1, 40); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west has what east has", func() bool {
		return caughtUp(testContext(t), east, eastM, westM, ordersAssignment("", 1))
	})
	westM.Close()
	var before Mark
	for len(told) > 0 {
		before = <-told
	}
	if err := west.Admin().DeleteTopic(testContext(t), tp.Topic); err != nil {
		t.Fatal(err)
	}
	if !before.Compared {
		t.Errorf("it has all of east, and marks %+v", before)
	}
	again := testMirrorWith(t, Config{Local: west, Worker: "two", Events: Events{MarkPublished: func(m Mark) { told <- m }}}, east)
	assign(t, again, ordersAssignment("east", 1))
	first := <-told
	if first.Epoch != before.Epoch || first.Session <= before.Session || first.End >= before.End || first.Compared {
		t.Errorf("before %+v, first afterwards %+v", before, first)
	}
	for last := first; last.End < before.End; {
		next := <-told
		if next.Session < last.Session || next.Session == last.Session && next.End <= last.End && next.Compared == last.Compared || last.Compared && !next.Compared {
			t.Fatalf("%+v follows %+v", next, last)
		}
		last = next
	}
}

// A mark says of an append session whether the source has answered in it that it has what is
// here: not before that, also where the mark of the session before was as high, and soon after,
// though nothing is new there.
func TestMarksSayWhetherTheSourceWasAsked(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	told := make(chan Mark, 1000)
	worker := func(name string) *Mirror {
		m := testMirrorWith(t, Config{Local: west, Worker: name, Events: Events{MarkPublished: func(m Mark) { told <- m }}}, east)
		assign(t, m, ordersAssignment("east", 1))
		return m
	}
	one := worker("one")
	if err := newLoad(t, east.Addresses(), 1).write(testContext(t), "orders", 1, 40); err != nil {
		t.Fatal(err)
	}
	until := func(what string, enough func(Mark) bool) (m Mark) {
		t.Helper()
		for {
			select {
			case m = <-told:
			case <-testContext(t).Done():
				t.Fatalf("%s: it ends with %+v", what, m)
			}
			if enough(m) {
				return m
			}
		}
	}
	before := until("what is there is mirrored", func(m Mark) bool { return m.Compared && m.End >= 40 })
	one.Close()
	worker("two")
	first := until("the next session", func(m Mark) bool { return m.Session > before.Session })
	if first.Compared || first.End != before.End {
		t.Errorf("before %+v, first afterwards %+v", before, first)
	}
	until("it was compared", func(m Mark) bool { return m.Compared && m.End == before.End && m.Session > before.Session })
}

// What a mirror marked of a partition that another one has had since is not told to who
// asks anew: that one may have found less there, and said so before. Who has asked before
// gets it, and knows which is newer.
func TestMarksOfPartitionsThatAreOthersAreNotTold(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", map[string]int32{"orders": 1})
	m := testMirror(t, west, east)
	if err := m.readMap(testContext(t)); err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	claimed := func(session int64, worker string) {
		t.Helper()
		e := maptopic.SessionEntry(tp, offsetmap.Session{Session: session, Worker: worker, Epoch: 1, Opened: true})
		if err := m.saveAndRead(testContext(t), []maptopic.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Know(ordersAssignment("east", 1)); err != nil {
		t.Fatal(err)
	}
	durable := func(want map[spillway.TopicPartition]spillway.Offset) {
		t.Helper()
		if ends, err := m.DurableEnds(testContext(t), ordersShare); err != nil || !maps.Equal(ends, want) {
			t.Errorf("durable: %v, %v; want %v", ends, err, want)
		}
	}
	told := func() []Mark {
		s := m.marks.subscribe(m.stands)
		defer m.marks.unsubscribe(s)
		return m.marks.take(s)
	}
	mark := Mark{Site: "west", Topic: tp.Topic, Epoch: 1, Session: 5, End: 120}
	before := m.marks.subscribe(m.stands)
	claimed(5, m.config.Worker)
	m.publish(mark)
	if got := told(); !slices.Equal(got, []Mark{mark}) {
		t.Errorf("its own partition: %+v", got)
	}
	claimed(7, "other")
	if got := told(); len(got) != 0 {
		t.Errorf("another one's partition: %+v", got)
	}
	if got := m.marks.take(before); !slices.Equal(got, []Mark{mark}) {
		t.Errorf("to who has asked before: %+v", got)
	}
	p := &partition{TopicPartition: tp, cutVirtual: noBound}
	if opened, _, err := m.open(testContext(t), ordersShare, 1, []*partition{p}); err != nil || len(opened) != 1 {
		t.Fatalf("%d partitions were opened: %v", len(opened), err)
	}
	if got := told(); len(got) != 0 {
		t.Errorf("its own again, and not marked yet: %+v", got)
	}
	durable(nil)
	// By what was saved until then: who has read that knows what the mark speaks of.
	mark.Session, mark.End, mark.Map = p.session.Session, 100, m.reader.Position()
	m.publish(mark)
	if got := told(); !slices.Equal(got, []Mark{mark}) || mark.Map <= 0 {
		t.Errorf("its own again: %+v", got)
	}
	if same := mark; m.marks.publish(same) {
		t.Error("the same mark is news")
	} else if same.Map++; m.marks.publish(same) {
		t.Error("the same mark is news, since another partition has saved something")
	}
	durable(map[spillway.TopicPartition]spillway.Offset{tp: 100})
	reopened := func(session int64, end spillway.Offset) {
		t.Helper()
		e := offsetmap.Session{Session: session, Worker: m.config.Worker, Epoch: 1, Opened: true, Local: spillway.LocalOffset(end), Virtual: end}
		if err := m.saveAndRead(testContext(t), []maptopic.Entry{maptopic.SessionEntry(tp, e)}); err != nil {
			t.Fatal(err)
		}
	}
	reopened(mark.Session+1, 100)
	if got := told(); !slices.Equal(got, []Mark{mark}) {
		t.Errorf("opened anew, and all is there: %+v", got)
	}
	reopened(mark.Session+2, 60)
	if got := told(); len(got) != 0 {
		t.Errorf("opened anew, and less is there: %+v", got)
	}
	durable(nil)
}

// A share asks for the marks of its own topics, and its ends are those that a look at all
// marks of the site gives it.
func TestMarksOfTopics(t *testing.T) {
	t.Parallel()
	m := newMarks()
	partition := func(topic string, p int32) spillway.TopicPartition {
		return spillway.TopicPartition{Topic: topic, Partition: p}
	}
	topics := []string{"orders", "orders-old", "carts", "c", ""}
	for _, topic := range topics {
		for p := range int32(3) {
			m.publish(Mark{Topic: topic, Partition: p, Epoch: 1, Session: 1, End: spillway.Offset(p)})
			m.publish(Mark{Topic: topic, Partition: p, Epoch: 1, Session: 1, End: spillway.Offset(100 + p)})
		}
	}
	m.withdraw(partition("carts", 1))
	for _, patterns := range [][]string{nil, {"orders"}, {"orders*", "orders"}, {"c*", "nothing"}, {"*"}, {"or*", "ord*"}} {
		want := map[spillway.TopicPartition]spillway.Offset{}
		for tp, mark := range m.newest {
			if matches(patterns, tp.Topic) {
				want[tp] = mark.End
			}
		}
		got := map[spillway.TopicPartition]spillway.Offset{}
		all := m.of(patterns)
		for _, mark := range all {
			got[mark.partition()] = mark.End
		}
		if !maps.Equal(got, want) || len(all) != len(want) {
			t.Errorf("%q: %v, not %v", patterns, all, want)
		}
		delete(want, partition("carts", 1))
		delete(want, partition("carts", 2))
		standing := m.standing(patterns, func(mark Mark) bool { return mark.partition() != partition("carts", 2) })
		for _, mark := range standing {
			if _, ok := want[mark.partition()]; !ok {
				t.Errorf("%q: %v stands", patterns, mark)
			}
		}
		if len(standing) != len(want) {
			t.Errorf("%q: %v stand, not %v", patterns, standing, want)
		}
	}
}

// To ask for the ends of all shares of a site takes time in proportion to its partitions,
// whatever the number of shares (issue 6): with -bench, 1,000 shares of 100 partitions.
func BenchmarkMarksOfAllShares(b *testing.B) {
	const shares, partitions = 1000, 100
	m := newMarks()
	var groups []spillway.FailoverGroup
	for g := range shares {
		topic := fmt.Sprintf("topic-%04d", g)
		groups = append(groups, spillway.FailoverGroup{Name: topic, Topics: []string{topic}})
		for p := range int32(partitions) {
			m.publish(Mark{Topic: topic, Partition: p, Epoch: 1, Session: 1, End: 1})
		}
	}
	topology := spillway.NewTopology("shop", "shop-1", nil, groups)
	for b.Loop() {
		found := 0
		for _, g := range groups {
			a := Assignment{Topics: g.Topics, Match: func(topic string) bool { return topology.HasTopic(g, topic) }}
			for _, mark := range m.of(a.Topics) {
				if a.has(mark.partition()) {
					found++
				}
			}
		}
		if found != shares*partitions {
			b.Fatal(found)
		}
	}
}
