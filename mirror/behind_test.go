package mirror

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
)

// A flow that has just begun says that it is catching up until it has had
// everything once: before that, a switchover to its site would hold clients for
// as long as the copying takes, and its lag in time began only now.
func TestAFlowThatBeganIsCatchingUp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 2}
	east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", topics)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	l := newLoad(t, east.Addresses(), 5)
	for range 30 {
		if err := l.write(ctx, "orders", 2, 3); err != nil {
			t.Fatal(err)
		}
	}
	m := testMirrorWith(t, Config{Local: west}, east)
	f := newFlow(m, ordersAssignment("east", 1), &source{site: "east"}, nil)
	if !f.info(m.config.Now()).CatchingUp {
		t.Error("a flow that has not looked for its partitions says that it has everything")
	}
	p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}, highWatermark: -1}
	f.mu.found = true
	f.setState(p, true, "")
	if !f.info(m.config.Now()).CatchingUp {
		t.Error("a partition of which nothing was fetched yet counts as whole")
	}
	p.highWatermark, p.source = 30, 12
	f.setState(p, true, "")
	if !f.info(m.config.Now()).CatchingUp {
		t.Error("a partition with 18 records to come counts as whole")
	}
	p.source = 30
	f.setState(p, true, "")
	p.highWatermark = 31
	f.setState(p, true, "")
	if f.info(m.config.Now()).CatchingUp {
		t.Error("a partition that was whole once counts as catching up")
	}
	assign(t, m, ordersAssignment("east", 1))
	eventually(t, "the flow has caught up", func() bool {
		flows := m.Flows()
		return len(flows) == 1 && flows[0].Partitions == 2 && !flows[0].CatchingUp
	})
}

// Where transactions of several producers overlap, the last stable offset never reaches
// the high watermark. A flow that has all up to there is whole and not behind: else no
// switchover could ever begin.
func TestOverlappingTransactionsAreNoLag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &Mirror{site: "west", config: Config{Now: time.Now}, budget: newBudget(1)}
		f := newFlow(m, ordersAssignment("east", 1), &source{site: "east"}, nil)
		f.mu.found = true
		p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}, highWatermark: -1, lastStable: -1}
		look := func(source, lastStable, highWatermark spillway.LocalOffset) FlowInfo {
			time.Sleep(10 * time.Second)
			p.heard(lastStable, highWatermark, time.Now())
			p.source, p.heardAt = source, time.Now()
			f.setState(p, true, "")
			return f.info(time.Now())
		}
		for end := spillway.LocalOffset(10); end < 100; end += 10 {
			info := look(end, end, end+7)
			if info.CatchingUp || info.LagTime > 0 || info.LagRecords != 7 || info.UndecidedRecords != 7 {
				t.Fatalf("all is there up to the last stable offset: %+v", info)
			}
			if info.HeldBack > 0 {
				t.Fatalf("each of them ends, and records are held back for %s", info.HeldBack)
			}
		}
		if info := look(90, 90, 130); info.HeldBack != 10*time.Second || !strings.HasPrefix(info.HeldBackBy, "orders-0: a transaction is open at site east since offset 90 ") || info.LagTime > 0 {
			t.Errorf("one does not end: %+v", info)
		}
		look(100, 110, 117)
		if info := look(100, 110, 117); info.LagTime < 10*time.Second || info.LagRecords != 17 {
			t.Errorf("ten decided records are not there: %+v", info)
		}
	})
}

// A mirror that is slow has, after each answer of the source, all that it knows of.
// It lags since that answer came, not since the target has what was in it.
func TestTheLagIsSinceTheSourceAnswered(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 1}
	east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", topics)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	l := newLoad(t, east.Addresses(), 5)
	write := func() {
		t.Helper()
		if err := l.write(ctx, "orders", 1, 3); err != nil {
			t.Fatal(err)
		}
	}
	var slow atomic.Bool
	entered, leave := make(chan time.Time), make(chan struct{})
	m := testMirrorWith(t, Config{Local: west, Crash: func(point string) {
		if point == "afterProduceAcked" && slow.Load() {
			select {
			case entered <- time.Now():
			case <-t.Context().Done(): // the test has failed
			}
			select {
			case <-leave:
			case <-t.Context().Done():
			}
		}
	}}, east)
	assign(t, m, ordersAssignment("east", 1))
	write()
	eventually(t, "the flow has caught up", func() bool { f := m.Flows(); return len(f) == 1 && f[0].Partitions == 1 && !f[0].CatchingUp })
	slow.Store(true)
	write()
	first := <-entered // its answer is in work, and the next one is asked for
	eventually(t, "the lag grows", func() bool { return m.Flows()[0].LagTime > 300*time.Millisecond })
	write()
	leave <- struct{}{}
	second := <-entered
	if lag, least := m.Flows()[0].LagTime, second.Sub(first); lag < least {
		t.Errorf("the flow lags by %s, and what the target has was the source's answer of %s ago", lag, least)
	}
	slow.Store(false)
	leave <- struct{}{}
	eventually(t, "the flow has everything", func() bool { return m.Flows()[0].LagTime == 0 })
}
