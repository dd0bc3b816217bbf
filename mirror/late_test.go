package mirror

import (
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/mirror/maptopic"
)

func TestJudgeLate(t *testing.T) {
	t.Parallel()
	const retention = 24 * time.Hour
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, c := range map[string]struct {
		level  maptopic.Level // its time is zero: not known
		state  partState
		at     time.Time // of the level that is saved; zero: none
		behind float64
		late   bool
	}{
		"a copy begins":         {maptopic.Level{}, partState{virtual: 7, running: true}, now, 0, false},
		"level, and goes on":    {maptopic.Level{At: ago(2 * time.Hour), Virtual: 7}, partState{virtual: 9, running: true, whole: true, caughtUp: ago(time.Second)}, ago(time.Second), 0, false},
		"level, and just saved": {maptopic.Level{At: ago(time.Minute), Virtual: 7}, partState{virtual: 9, running: true, whole: true, caughtUp: ago(time.Second)}, time.Time{}, 0, false},
		"quiet for days":        {maptopic.Level{At: ago(90 * time.Hour), Virtual: 7}, partState{virtual: 7, running: true, whole: true, caughtUp: ago(time.Second)}, now, 0, false},
		"away for days, has just begun again, and has got nothing yet": {maptopic.Level{At: ago(36 * time.Hour), Virtual: 7}, partState{virtual: 7, running: true, caughtUp: now}, time.Time{}, 1.5, false},
		"away for days, and gets records again":                        {maptopic.Level{At: ago(36 * time.Hour), Virtual: 7}, partState{virtual: 8, due: 5, running: true, caughtUp: now}, now, 0, true},
		"away for days, and had all before anybody looked":             {maptopic.Level{At: ago(36 * time.Hour), Virtual: 7}, partState{virtual: 13, running: true, whole: true, caughtUp: ago(time.Second)}, ago(time.Second), 0, true},
		"served before, and away for days":                             {maptopic.Level{At: ago(36 * time.Hour), Virtual: -1}, partState{virtual: 13, running: true, whole: true, caughtUp: ago(time.Second)}, ago(time.Second), 0, true},
		"away for hours, and had all before anybody looked":            {maptopic.Level{At: ago(20 * time.Hour), Virtual: 7}, partState{virtual: 13, running: true, whole: true, caughtUp: ago(time.Second)}, ago(time.Second), 0, false},
		"falls behind":                 {maptopic.Level{At: ago(13 * time.Hour), Virtual: 7}, partState{virtual: 9, due: 50, running: true, whole: true, caughtUp: ago(12 * time.Hour)}, ago(12 * time.Hour), 0.5, false},
		"fell behind for days":         {maptopic.Level{At: ago(30 * time.Hour), Virtual: 7}, partState{virtual: 9, due: 50, running: true, whole: true, caughtUp: ago(25 * time.Hour)}, now, 0, true},
		"its source cannot be reached": {maptopic.Level{At: ago(18 * time.Hour), Virtual: 7}, partState{virtual: 7, whole: true, problem: "no broker", caughtUp: ago(18 * time.Hour)}, time.Time{}, 0.75, false},
	} {
		got := judgeLate(c.level, !c.level.At.IsZero(), c.state, now, retention)
		at := c.at
		if c.late {
			at = now // said once
		}
		if got.late != c.late || got.behind < c.behind-0.001 || got.behind > c.behind+0.001 || got.save == at.IsZero() || got.save && !got.level.At.Equal(at) || got.save && got.level.Virtual != c.state.virtual {
			t.Errorf("%s: %+v, want late %t, behind %g, saved of %s", name, got, c.late, c.behind, at)
		}
	}
}

// A site is without its source for longer than deletions are kept, and gets records of one
// topic then: it is told of in the gap log, once, and known after a restart. Of a topic
// without news nothing was missed. When the topic begins anew all is well again (C15).
func TestASiteThatMissesDeletions(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	for _, topic := range []string{"orders", "carts"} {
		if err := east.Admin().CreateTopic(testContext(t), topic, 1, 1, map[string]string{"cleanup.policy": "compact", "delete.retention.ms": "100"}); err != nil {
			t.Fatal(err)
		}
	}
	eastM := testMirror(t, east, west)
	a := ordersAssignment("", 1)
	a.Topics = []string{"orders", "carts"}
	assign(t, eastM, a)
	network := &dark{tries: make(chan struct{}, 1)}
	far, err := kafka.New(kafka.Config{Site: "east", Bootstrap: east.Addresses(), Dial: network.dial, Capabilities: embedded.Capabilities(true)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	start := func() *Mirror {
		m := testMirrorWith(t, Config{Local: west, MetadataInterval: 100 * time.Millisecond}, far)
		b := a
		b.Source = "east"
		assign(t, m, b)
		return m
	}
	write := func(seed uint64, topic string) {
		if err := newLoad(t, east.Addresses(), seed).write(testContext(t), topic, 1, 5); err != nil {
			t.Fatal(err)
		}
	}
	m := start()
	write(1, "orders")
	write(2, "carts")
	level := func() bool { return caughtUp(testContext(t), east, eastM, m, a) }
	eventually(t, "west has what east has", level)
	carts, orders := spillway.TopicPartition{Topic: "carts"}, spillway.TopicPartition{Topic: "orders"}
	eventually(t, "the map says that west is level", func() bool {
		for _, tp := range []spillway.TopicPartition{carts, orders} {
			end, _ := m.Map().View(tp).End()
			if l, known := m.Map().Level(tp); !known || l.Virtual != end {
				return false
			}
		}
		return true
	})
	behind := func() float64 { // of what may pass
		flows := m.Flows()
		if len(flows) != 1 {
			return -1
		}
		return flows[0].DeletionsBehind
	}
	eventually(t, "nothing is missing", func() bool { return behind() == 0 })
	network.fall()
	eventually(t, "half of the time is over", func() bool { return behind() > 0.5 })
	m.Close()
	network.rise()
	time.Sleep(4 * time.Second) // three looks, a second each at least
	write(3, "orders")
	m = start()
	late := func() (gaps []maptopic.Gap) {
		return slices.DeleteFunc(m.Map().Gaps(), func(g maptopic.Gap) bool { return g.Kind != maptopic.GapLate })
	}
	eventually(t, "it is said that deletions may be missing", func() bool { return len(late()) > 0 })
	eventually(t, "west has what east has", level)
	time.Sleep(500 * time.Millisecond) // some more looks
	if gaps := late(); len(gaps) != 1 || gaps[0].Topic != "orders" || gaps[0].To <= gaps[0].From || !strings.Contains(gaps[0].Detail, "deletions are kept for 3s") {
		t.Errorf("%+v", gaps)
	}
	unfit := func() string { return m.Map().Unfit()["orders"] }
	m.Close()
	m = start()
	eventually(t, "it is known after a restart", func() bool { return unfit() == "late in partition 0" })
	if hiding := m.Map().Hiding(); len(hiding) > 0 {
		t.Errorf("a cleaner would be stopped: %v", hiding)
	}
	if err := west.Admin().DeleteTopic(testContext(t), "orders"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic has begun anew", func() bool { return unfit() == "" })
	eventually(t, "west has what east has", level)
	m.Close()
}
