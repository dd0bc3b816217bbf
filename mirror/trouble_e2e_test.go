//go:build e2e

package mirror

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	cluster "spillway/tests/cluster/kafka"
)

// TestTargetBrokerDiesOnKafka kills the target's broker under load, with records of
// today and with records of last year, for which the broker remembers no
// producer (C3).
func TestTargetBrokerDiesOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	sites, servers := kafkaPair(t)
	east, west := sites[0], sites[1]
	year := fmt.Sprint(400 * 24 * time.Hour.Milliseconds() * 10)
	createTopic(t, east, "orders", 1, nil)
	createTopic(t, east, "orders-aged", 1, map[string]string{"retention.ms": year})
	var aged, resyncs atomic.Int64
	eastM := testMirror(t, east, west)
	westM := testMirrorWith(t, Config{Local: west, ProduceTimeout: 2 * time.Second, Events: Events{
		BatchMirrored: func(i BatchInfo) {
			if i.Aged {
				aged.Add(1)
			}
		},
		Resync: func(ResyncInfo) { resyncs.Add(1) },
	}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	old, err := kgo.NewClient(kgo.SeedBrokers(servers[0].Bootstrap()...))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	l := newLoad(t, servers[0].Bootstrap(), 71)
	lastYear := time.Now().Add(-390 * 24 * time.Hour)
	written := 0
	write := func(n int) {
		t.Helper()
		for range n {
			if err := l.write(ctx, "orders", 1, 1); err != nil {
				t.Fatal(err)
			}
			r := &kgo.Record{Topic: "orders-aged", Key: fmt.Append(nil, written), Value: make([]byte, 100), Timestamp: lastYear.Add(time.Duration(written) * time.Second)}
			if err := old.ProduceSync(ctx, r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			written++
		}
	}
	for range 4 {
		write(60)
		b := servers[1].Brokers[0]
		if err := b.Kill(); err != nil {
			t.Fatal(err)
		}
		write(30)
		if err := b.Start(ctx); err != nil {
			t.Fatal(err)
		}
		write(60)
	}
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	for _, topic := range []string{"orders", "orders-aged"} {
		tp := spillway.TopicPartition{Topic: topic}
		compareSites(t, east, west, eastM, westM, tp)
		ours, err := read(ctx, west, tp)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := read(ctx, east, tp)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d records at east, %d at west; %d batches aged, %d resyncs", topic, len(theirs), len(ours), aged.Load(), resyncs.Load())
		if len(ours) != len(theirs) {
			t.Errorf("%s: %d records at west, %d at east", topic, len(ours), len(theirs))
		}
	}
	if aged.Load() == 0 {
		t.Error("no batch was written in aged mode")
	}
}

// everybody is a lease that whoever asks has, until it is over: mirrors that
// know nothing of each other.
type everybody struct{ over atomic.Bool }

func (e *everybody) Held(time.Time) bool { return !e.over.Load() }

func (e *everybody) claim(ctx context.Context, _ spillway.TopicPartition) (Lease, error) {
	if e.over.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return e, nil
}

// workerMin is the part of the records that each of two mirrors has to write: else
// it was no struggle.
const workerMin = 0.2

// TestTwoMirrorsOnKafka runs two mirrors of one site on the same partitions. On
// fresh data neither knows of the other but by the map and the broker's
// refusals; on data of last year, for which the broker remembers no producer,
// the lease goes back and forth between them. All the time connections are cut
// between a batch and its answer; without the lease, requests are held up until
// the other mirror has written, too. The target's visible records are the
// source's. Where the lease is obeyed there are no others; without it some
// are written twice, which the second writer finds, hides and logs.
//
// Each append session has a producer epoch of its own, so a mirror that was
// overtaken is refused with INVALID_PRODUCER_EPOCH (47); OUT_OF_ORDER_SEQUENCE
// (45) is for writers that share one (tests/facts). Both mean: read back.
func TestTwoMirrorsOnKafka(t *testing.T) {
	sites, servers := kafkaSites(t, cluster.DefaultVersion, cluster.DefaultVersion)
	eastM := testMirror(t, sites[0], sites[1])
	for _, c := range []struct {
		name, topic string
		age         time.Duration
	}{
		{"fresh data without a lease", "orders-fresh", 0},
		{"aged data with the lease", "orders-aged", 390 * 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newRivals(t, sites[0], eastM, servers, c.topic)
			if c.age > 0 {
				m.tap.holdEvery = 0 // who holds the lease waits for no one
				m.load.at = time.Now().Add(-c.age)
				m.takeTurns(t)
			} else {
				m.compete(t)
			}
			m.judge(t, c.age > 0)
		})
	}
}

// rivals are two mirrors that feed the same topic of west from east.
type rivals struct {
	assignment Assignment
	east       broker.Cluster
	eastM      *Mirror
	tap        *tap
	load       *load
	servers    []*cluster.Cluster
	workers    [2]*Mirror
	west       [2]broker.Cluster

	mu      sync.Mutex
	resyncs map[string]int // by reason
}

const rivalPartitions = 2

func newRivals(t *testing.T, east broker.Cluster, eastM *Mirror, servers []*cluster.Cluster, topic string) *rivals {
	t.Helper()
	createTopic(t, east, topic, rivalPartitions, map[string]string{"retention.ms": "-1"})
	m := &rivals{eastM: eastM, east: east, servers: servers, tap: newTap(20, 25, topic), load: newLoad(t, servers[0].Bootstrap(), 81), resyncs: make(map[string]int)}
	m.assignment = m.of("east", topic)
	assign(t, eastM, m.of("", topic))
	return m
}

func (m *rivals) of(source spillway.SiteID, topic string) Assignment {
	a := ordersAssignment(source, 1)
	a.Share, a.Topics = spillway.ShareID{Group: topic}, []string{topic}
	return a
}

// start starts worker one or two with its claim of the lease.
func (m *rivals) start(t *testing.T, i int, claim func(context.Context, spillway.TopicPartition) (Lease, error)) {
	t.Helper()
	name := []string{"one", "two"}[i]
	m.west[i] = m.tap.site(t, "west", m.servers[1].Bootstrap(), name)
	m.workers[i] = testMirrorWith(t, Config{Local: m.west[i], Worker: m.assignment.Topics[0] + "-" + name, Claim: claim, Events: Events{Resync: func(r ResyncInfo) {
		m.mu.Lock()
		defer m.mu.Unlock()
		why, _, _ := strings.Cut(r.Why, ":")
		m.resyncs[why]++
	}}}, m.east)
	assign(t, m.workers[i], m.assignment)
}

func (m *rivals) write(t *testing.T, batches int) {
	t.Helper()
	if err := m.load.write(testContext(t), m.assignment.Topics[0], rivalPartitions, batches); err != nil {
		t.Fatal(err)
	}
}

// competeMin and competeMax are how often something is written while two mirrors
// compete. How they share it is chance: who loses a race for a session waits before it
// tries again.
const competeMin, competeMax = 400, 1600

// shared tells whether each has written its part of all that was sent by now, and some
// more: what is left is written by one alone.
func (m *rivals) shared() bool {
	one, two := m.tap.of("one").records, m.tap.of("two").records
	return float64(min(one, two)) > 1.1*workerMin*float64(m.load.written)
}

// compete lets both mirror at once.
func (m *rivals) compete(t *testing.T) {
	t.Helper()
	var one, two everybody
	m.start(t, 0, one.claim)
	m.start(t, 1, two.claim)
	for i := range competeMax {
		if m.write(t, 3); i >= competeMin && m.shared() {
			break
		}
	}
	one.over.Store(true)
	eventually(t, "the first worker ends", func() bool { return idle(m.workers[0]) })
	m.write(t, 3)
}

// takeTurns gives the lease to one and the other. A lease that is obeyed is over
// for longer than a request takes before somebody else gets it.
func (m *rivals) takeTurns(t *testing.T) {
	t.Helper()
	workers := []string{"one", "two"}
	lease := &testLease{holder: "one"}
	m.start(t, 0, lease.claim("one", false))
	m.start(t, 1, lease.claim("two", false))
	for i := range 13 {
		m.write(t, 60)
		lease.set("")
		eventually(t, "the worker without the lease stops", func() bool { return idle(m.workers[i%2]) })
		lease.set(workers[(i+1)%2])
	}
}

// judge compares the sites, and looks whether it was the struggle it is meant to be.
func (m *rivals) judge(t *testing.T, aged bool) {
	t.Helper()
	ctx := testContext(t)
	topic, west, westM := m.assignment.Topics[0], m.west[1], m.workers[1]
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, m.east, m.eastM, westM, m.assignment) })
	records, copies := 0, 0
	for i := range int32(rivalPartitions) {
		tp := spillway.TopicPartition{Topic: topic, Partition: i}
		compareSites(t, m.east, west, m.eastM, westM, tp)
		theirs, err := read(ctx, m.east, tp)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := read(ctx, west, tp)
		if err != nil {
			t.Fatal(err)
		}
		records += len(theirs)
		copies += len(ours) - len(theirs)
	}
	report, err := audit.Audit(ctx, m.east, west, selected(t, topic), audit.Scope{}, nil)
	if err != nil || !report.Equal || report.Records != int64(records) {
		t.Errorf("audit of %d records: %+v, %v", records, report, err)
	}
	one, two := m.tap.of("one"), m.tap.of("two")
	m.mu.Lock()
	defer m.mu.Unlock()
	resyncs := 0
	for _, n := range m.resyncs {
		resyncs += n
	}
	fmt.Printf("measured: %s: %d records, audit equal: %v, %d copies hidden; one wrote %d, two %d; answers cut off %d and %d, duplicate answers %d and %d, refused %v and %v; %d resyncs: %v\n",
		topic, records, report.Equal, copies, one.records, two.records, one.cut, two.cut, one.duplicates, two.duplicates, one.refused, two.refused, resyncs, m.resyncs)
	if least := min(one.records, two.records); float64(least) < workerMin*float64(records) {
		t.Errorf("one worker wrote only %d of %d records", least, records)
	}
	if one.cut == 0 || two.cut == 0 || resyncs == 0 {
		t.Error("the test met no trouble")
	}
	duplicates := one.duplicates + two.duplicates
	switch {
	case aged && (duplicates > 0 || copies > 0):
		t.Error("an old batch was sent again, though the broker may have forgotten its producer, or is there twice")
	case !aged && duplicates == 0:
		t.Error("the broker never had to say that a batch is already there")
	case !aged && len(one.refused)+len(two.refused) == 0:
		t.Error("the broker never refused the batch of a mirror that was overtaken")
	}
	for _, g := range westM.Map().Gaps() {
		if g.Topic == topic && (aged || g.Kind != maptopic.GapStaleWorker) {
			t.Errorf("gap %+v", g)
		}
	}
}
