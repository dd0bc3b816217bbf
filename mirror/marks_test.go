package mirror

import (
	"testing"

	"spillway"
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
	again := testMirrorWith(t, Config{Local: west, Worker: "two", Events: Events{MarkPublished: func(m Mark) { told <- m }}}, east)
	assign(t, again, ordersAssignment("east", 1))
	first := <-told
	if first.Epoch != before.Epoch || first.Session <= before.Session || first.End >= before.End {
		t.Errorf("before %+v, first afterwards %+v", before, first)
	}
	for last := first; last.End < before.End; {
		next := <-told
		if next.Session < last.Session || next.Session == last.Session && next.End <= last.End {
			t.Fatalf("%+v follows %+v", next, last)
		}
		last = next
	}
}
