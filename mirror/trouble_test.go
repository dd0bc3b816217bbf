package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/mirror/maptopic"
)

// TestForeignWriterIsHiddenAndLogged lets a client write to the standby while
// the mirror does (C6, C14, C37).
func TestForeignWriterIsHiddenAndLogged(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 1}
	east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", topics)
	eastM := testMirror(t, east, west)
	var foreign atomic.Int64
	westM := testMirrorWith(t, Config{Local: west, Events: Events{ForeignWriter: func(i ForeignInfo) { foreign.Add(int64(i.To - i.From)) }}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	tp := spillway.TopicPartition{Topic: "orders"}
	intruder, err := kgo.NewClient(kgo.SeedBrokers(west.Addresses()...))
	if err != nil {
		t.Fatal(err)
	}
	defer intruder.Close()
	l := newLoad(t, east.Addresses(), 21)
	const intrusions = 30
	for i := range intrusions {
		if err := l.write(ctx, "orders", 1, 3); err != nil {
			t.Fatal(err)
		}
		if err := intruder.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "foreign %d", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.write(ctx, "orders", 1, 3); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	compareSites(t, east, west, eastM, westM, tp)
	hidden := int64(0)
	for _, g := range westM.Map().Gaps() {
		switch g.Kind {
		case maptopic.GapForeign, maptopic.GapExisting:
			hidden += int64(g.LocalTo - g.LocalFrom)
		default:
			t.Errorf("gap %+v", g)
		}
	}
	if hidden != intrusions {
		t.Errorf("the gap log has %d foreign records, written were %d", hidden, intrusions)
	}
}

// testLease is a lease that a test moves from one worker to the other.
type testLease struct {
	mu     sync.Mutex
	holder string
	term   int
}

func (l *testLease) set(worker string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holder, l.term = worker, l.term+1
}

func (l *testLease) held(worker string) (term int, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term, l.holder == worker
}

type workerLease struct {
	l      *testLease
	worker string
	term   int
	zombie bool // does not notice that it has lost the lease
}

func (w workerLease) Held(time.Time) bool {
	term, held := w.l.held(w.worker)
	return w.zombie || held && term == w.term
}

func (l *testLease) claim(worker string, zombie bool) func(context.Context, spillway.TopicPartition) (Lease, error) {
	return func(ctx context.Context, _ spillway.TopicPartition) (Lease, error) {
		for {
			if term, held := l.held(worker); held {
				return workerLease{l, worker, term, zombie}, nil
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

// idle tells whether a mirror waits for the lease of all its partitions.
func idle(m *Mirror) bool {
	for _, f := range m.Flows() {
		for _, problem := range f.Problems {
			if problem != waitsForLease {
				return false
			}
		}
		if f.Running > 0 || len(f.Problems) < f.Partitions {
			return false
		}
	}
	return true
}

// TestTwoMirrors runs two mirrors of one site. The lease goes back and forth
// under load; in the second run the first one never notices that it has lost
// it. One copy is visible, and with a lease that is obeyed there is only one.
func TestTwoMirrors(t *testing.T) {
	t.Parallel()
	for name, zombie := range map[string]bool{"lease obeyed": false, "zombie": true} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			topics := map[string]int32{"orders": 2}
			east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", nil)
			eastM := testMirror(t, east, west)
			assign(t, eastM, ordersAssignment("", 1))
			lease := &testLease{holder: "one"}
			one := testMirrorWith(t, Config{Local: west, Worker: "one", Claim: lease.claim("one", zombie)}, east)
			two := testMirrorWith(t, Config{Local: west, Worker: "two", Claim: lease.claim("two", false)}, east)
			assign(t, one, ordersAssignment("east", 1))
			assign(t, two, ordersAssignment("east", 1))
			l := newLoad(t, east.Addresses(), 31)
			for i := range 20 {
				if err := l.write(ctx, "orders", 2, 6); err != nil {
					t.Fatal(err)
				}
				// A lease that is obeyed is over for longer than a request
				// takes before somebody else gets it.
				lease.set("")
				holder := []*Mirror{one, two}[i%2]
				eventually(t, "the worker without the lease stops", func() bool { return zombie || idle(holder) })
				lease.set([]string{"two", "one"}[i%2])
			}
			lease.set("")
			eventually(t, "the worker without the lease stops", func() bool { return zombie || idle(one) })
			lease.set("two")
			eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, two, ordersAssignment("", 1)) })
			for i := range int32(2) {
				tp := spillway.TopicPartition{Topic: "orders", Partition: i}
				compareSites(t, east, west, eastM, two, tp)
				ours, err := read(ctx, west, tp)
				if err != nil {
					t.Fatal(err)
				}
				theirs, err := read(ctx, east, tp)
				if err != nil {
					t.Fatal(err)
				}
				if !zombie && len(ours) != len(theirs) {
					t.Errorf("%s: %d records at the target, %d at the source", tp, len(ours), len(theirs))
				}
				t.Logf("%s: %d records, %d written twice and hidden", tp, len(theirs), len(ours)-len(theirs))
			}
			for _, g := range two.Map().Gaps() {
				if !zombie || g.Kind != maptopic.GapStaleWorker {
					t.Errorf("gap %+v", g)
				}
			}
		})
	}
}

// TestReturningSiteIsComparedByContent lets the new site hold other records than
// the old one below the end that the failover named, and the same one at it (C27).
func TestReturningSiteIsComparedByContent(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	at := time.Now().Truncate(time.Millisecond)
	produce := func(addresses []string, values ...string) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(addresses...))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, v := range values {
			if err := c.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte(v), Timestamp: at}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce(p.east.Addresses(), "0", "1", "2", "3", "4")
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.westM.OpenEpoch(ctx, ordersShare, 2, 1, ends); err != nil {
		t.Fatal(err)
	}
	assign(t, p.westM, ordersAssignment("", 2))
	produce(p.west.Addresses(), "5 west", "6 the same", "7 west")
	produce(p.east.Addresses(), "5 east", "6 the same")
	// A wrong end: two records further than what is common.
	wrong := map[spillway.TopicPartition]spillway.Offset{tp: ends[tp] + 2}
	assign(t, p.eastM, ordersAssignment("west", 2, Term{Epoch: 1, Site: "east"}, term(2, "west", wrong)))
	eventually(t, "east follows west", func() bool { return caughtUp(ctx, p.west, p.westM, p.eastM, ordersAssignment("", 2)) })
	compareSites(t, p.west, p.east, p.westM, p.eastM, tp)
	gaps := p.eastM.Map().Gaps()
	if !slices.ContainsFunc(gaps, func(g maptopic.Gap) bool {
		return g.Kind == maptopic.GapDivergence && g.From == ends[tp] && g.To == ends[tp]+2 && g.LocalFrom == 5 && g.LocalTo == 7
	}) {
		t.Errorf("gaps: %+v", gaps)
	}
}

// TestSourceThatGrewAgainIsSeenAfterARestart takes the end of the source's log
// away while no mirror runs, and lets others write in its place, beyond where the
// mirror stood: by number nothing is missing (C27).
func TestSourceThatGrewAgainIsSeenAfterARestart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	at := time.Now().Truncate(time.Millisecond)
	produce := func(from, to int, who string) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := from; i < to; i++ {
			r := &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "%d %s", i, who), Timestamp: at.Add(time.Duration(i) * time.Second)}
			if err := c.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	follow := func() *Mirror {
		t.Helper()
		m := testMirror(t, west, east)
		assign(t, m, ordersAssignment("east", 1))
		eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, m, ordersAssignment("east", 1)) })
		return m
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	produce(0, 2000, "before")
	follow().Close()
	m := follow() // that nothing happened meanwhile is no gap
	if gaps := m.Map().Gaps(); len(gaps) != 0 {
		t.Fatalf("gaps before the loss: %+v", gaps)
	}
	m.Close()
	if err := east.Admin().DeleteTopic(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	if err := east.Admin().CreateTopic(ctx, "orders", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	produce(0, 700, "before")
	produce(700, 2500, "after")
	m = follow()
	compareSites(t, east, west, eastM, m, tp)
	gaps := m.Map().Gaps()
	if len(gaps) != 1 || gaps[0].Kind != maptopic.GapSource || gaps[0].From != 1700 || gaps[0].To != 3000 || gaps[0].LocalFrom != 700 || gaps[0].LocalTo != 2000 {
		t.Errorf("gaps: %+v", gaps)
	}
	if ends, err := west.Admin().LogEnds(ctx, []spillway.TopicPartition{tp}); err != nil || ends[tp] != 2000+1800 {
		t.Errorf("west's log ends at %d, %v; it keeps what east lost", ends[tp], err)
	}
}

// TestUnreplicatedRecords lists, exports and discards what only the lost site had.
func TestUnreplicatedRecords(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := newPair(t, map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := newLoad(t, p.east.Addresses(), 41).write(ctx, "orders", 1, 10); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	ends, err := p.westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	before, err := read(ctx, p.east, tp)
	if err != nil {
		t.Fatal(err)
	}
	if err := newLoad(t, p.east.Addresses(), 42).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	after, err := read(ctx, p.east, tp)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.eastM.Know(ordersAssignment("west", 2, Term{Epoch: 1, Site: "east"}, term(2, "west", ends))); err != nil {
		t.Fatal(err)
	}
	// A failover that begins before east follows must not count them either.
	if again, err := p.eastM.Stop(ctx, ordersShare, 3); err != nil || !maps.Equal(again, ends) {
		t.Fatalf("east says that it has %v, %v; the failover counted %v", again, err, ends)
	}
	ranges, err := p.eastM.Unreplicated(ctx, ordersShare)
	if err != nil || len(ranges) != 1 || ranges[0].From != ends[tp] {
		t.Fatalf("unreplicated: %+v, %v", ranges, err)
	}
	var out bytes.Buffer
	n, err := p.eastM.ExportUnreplicated(ctx, ordersShare, &out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	late := after[len(before):]
	if int(n) != len(late) || len(lines) != len(late) || n == 0 {
		t.Fatalf("%d records exported, %d were not replicated", n, len(late))
	}
	exported := make(map[int64]UnreplicatedRecord)
	for _, line := range lines {
		var r UnreplicatedRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		exported[int64(r.Local)] = r
	}
	for _, want := range late {
		r, ok := exported[want.offset]
		if !ok || !bytes.Equal(r.Key, want.key) || !bytes.Equal(r.Value, want.value) || r.Timestamp != want.timestamp || int64(r.Virtual) != want.offset+1000 {
			t.Fatalf("offset %d was exported as %+v", want.offset, r)
		}
	}
	if _, err := p.eastM.DiscardUnreplicated(ctx, ordersShare, "anna", "replayed by hand"); err != nil {
		t.Fatal(err)
	}
	if n, err := p.eastM.ExportUnreplicated(ctx, ordersShare, &out); n != 0 || err != nil {
		t.Errorf("exported after the discard: %d, %v", n, err)
	}
	if ranges, err := p.eastM.Unreplicated(ctx, ordersShare); err != nil || len(ranges) != 1 || !ranges[0].Discarded {
		t.Errorf("after the discard: %+v, %v", ranges, err)
	}
}
