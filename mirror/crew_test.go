package mirror

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/selection"
	"spillway/mirror/workers"
)

// onlooker reads at the target who shares a flow, and who writes which partition.
type onlooker struct {
	t      *testing.T
	flow   string
	reader *maptopic.Reader
	tps    []spillway.TopicPartition
	covers workers.Means
	last   string // of settled, for people
}

func newOnlooker(t *testing.T, target broker.Cluster, flow string, tps []spillway.TopicPartition) *onlooker {
	t.Helper()
	w := &onlooker{t: t, flow: flow, reader: maptopic.Tail(t.Context(), target, nil), tps: tps, covers: newMeanings().covers}
	t.Cleanup(w.reader.Close)
	return w
}

func (w *onlooker) table() *workers.Table { return w.reader.Workers(w.flow) }

func (w *onlooker) owner(tp spillway.TopicPartition) string {
	o, claimed := w.reader.Origin(tp.Topic)
	if !claimed {
		o.Topic = tp.Topic // under a control plane
	}
	return w.table().Owner(partitionKey(o.Topic, tp), w.covers)
}

// settled waits until so many workers are there and each writes what is its own, and
// returns the append sessions.
func (w *onlooker) settled(n int) map[spillway.TopicPartition]offsetmap.Session {
	w.t.Helper()
	sessions := make(map[spillway.TopicPartition]offsetmap.Session)
	begin := time.Now()
	var here time.Duration
	waits := make(map[spillway.TopicPartition]bool)
	w.last = ""
	eventually(w.t, "each worker writes what is its own", func() bool {
		if len(w.table().Members()) != n {
			return false
		}
		if here == 0 {
			here = time.Since(begin)
		}
		for _, tp := range w.tps {
			om := w.reader.Map(tp)
			if om == nil || !om.Session().Opened || om.Session().Worker != w.owner(tp) {
				waits[tp] = true
			} else if waits[tp] {
				delete(waits, tp)
				w.last = fmt.Sprintf("%s was opened after %s", tp, time.Since(begin).Round(10*time.Millisecond))
			}
			if om != nil {
				sessions[tp] = om.Session()
			}
		}
		return len(waits) == 0
	})
	w.last = fmt.Sprintf("they knew each other after %s, %s", here.Round(10*time.Millisecond), w.last)
	return maps.Clone(sessions)
}

// moved checks that a session was opened only where a partition changed hands, and one
// for each time, and returns how many did.
func (w *onlooker) moved(what string, before, after map[spillway.TopicPartition]offsetmap.Session) (moved int) {
	w.t.Helper()
	for _, tp := range w.tps {
		b, a := before[tp], after[tp]
		switch {
		case a.Worker != b.Worker:
			moved++
			if a.Session != b.Session+1 {
				w.t.Errorf("%s: %s changed hands once, and has session %d after %d", what, tp, a.Session, b.Session)
			}
		case a.Session != b.Session:
			w.t.Errorf("%s: %s stayed with %s, which opened session %d after %d", what, tp, a.Worker, a.Session, b.Session)
		}
	}
	if moved == 0 {
		w.t.Errorf("%s: no partition changed hands", what)
	}
	w.t.Logf("%s: %d of %d partitions changed hands", what, moved, len(w.tps))
	return moved
}

// inProcess is a run in the process of the test.
type inProcess struct {
	stop func() RunReport
	mu   sync.Mutex
	told []WorkersInfo
	flow FlowInfo
}

func startRun(t *testing.T, c RunConfig) *inProcess {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &inProcess{}
	c.Events.Workers = func(i WorkersInfo) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told = append(r.told, i)
	}
	c.Events.FlowState = func(i FlowInfo) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.flow = i
	}
	done := make(chan RunReport, 1)
	go func() {
		report, err := Run(ctx, c)
		if err != nil {
			t.Error(err)
		}
		done <- report
	}()
	r.stop = sync.OnceValue(func() RunReport {
		cancel()
		return <-done
	})
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *inProcess) state() (FlowInfo, []WorkersInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flow, r.told
}

func partitionsOf(topic string, n int32) []spillway.TopicPartition {
	var tps []spillway.TopicPartition
	for i := range n {
		tps = append(tps, spillway.TopicPartition{Topic: topic, Partition: i})
	}
	return tps
}

// Two workers, then three, of which one is killed and one ends: all partitions go on,
// nothing is there twice, and only what changes hands is stopped.
func TestWorkersShareTheirPartitions(t *testing.T) {
	t.Parallel()
	const partitions = 12
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": partitions}), embeddedSite(t, "west", nil)
	tps := partitionsOf("orders", partitions)
	w := newOnlooker(t, west, "run/east", tps)
	l := newLoad(t, east.Addresses(), 91)
	write := func() {
		t.Helper()
		if err := l.write(ctx, "orders", partitions, 30); err != nil {
			t.Fatal(err)
		}
	}
	config := func(name string) RunConfig {
		return RunConfig{From: east, To: west, Topics: selected(t, "orders"), Mirror: Config{Worker: name}}
	}
	write()
	one := startRun(t, config("one"))
	alone := w.settled(1)
	write()
	two := startRun(t, config("two"))
	pair := w.settled(2)
	w.moved("a second worker came", alone, pair)
	write()

	third := childRun(t, "three", east.Addresses(), west.Addresses())
	three := w.settled(3)
	w.moved("a third worker came", pair, three)
	write()
	flow, _ := one.state()
	eventually(t, "the first worker tells of three", func() bool { flow, _ = one.state(); return len(flow.Workers) == 3 })
	if sum := flow.Workers[0].Partitions + flow.Workers[1].Partitions + flow.Workers[2].Partitions; sum != partitions || flow.Partitions+flow.Elsewhere != partitions || flow.Elsewhere == 0 {
		t.Errorf("the first worker says %+v", flow)
	}
	if err := third.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	write()
	left := w.settled(2)
	w.moved("the third worker was killed", three, left)
	write()
	report := two.stop()
	last := w.settled(1)
	w.moved("the second worker ended", left, last)
	write()
	if report.Partitions == 0 || len(report.Workers) != 2 || report.Worker == "" {
		t.Errorf("the second worker reports %+v", report)
	}
	sameRecords(t, east, west, tps)
	told := one.allTold()
	if len(told) != 5 || len(told[0].Taken) != partitions || len(told[1].Given) == 0 || len(told[1].Came) != 1 || len(told[3].Gone) != 1 || len(told[3].Taken) == 0 || len(told[4].Taken) == 0 {
		t.Errorf("the first worker told %+v", told)
	}
	if gaps := w.reader.Gaps(); len(gaps) != 0 {
		t.Errorf("gaps: %+v", gaps)
	}
}

func (r *inProcess) allTold() []WorkersInfo {
	_, told := r.state()
	return told
}

// sameRecords waits until the target has what the source has, and each record once.
func sameRecords(t *testing.T, east, west broker.Cluster, tps []spillway.TopicPartition) {
	t.Helper()
	for _, tp := range tps {
		theirs, err := read(t.Context(), east, tp)
		if err != nil {
			t.Fatal(err)
		}
		var ours []logged
		eventually(t, tp.String()+" is there", func() bool {
			ours, err = read(t.Context(), west, tp)
			return err == nil && len(ours) >= len(theirs)
		})
		if len(ours) != len(theirs) {
			t.Fatalf("%s: %d records at the target, %d at the source", tp, len(ours), len(theirs))
		}
		for i := range ours {
			if !ours[i].equal(theirs[i]) {
				t.Fatalf("%s: record %d differs", tp, i)
			}
		}
	}
}

// childRun starts a run in a process of its own.
func childRun(t *testing.T, name string, east, west []string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEast+"="+strings.Join(east, ","), childWest+"="+strings.Join(west, ","), childTopics+"=orders", childName+"="+name)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed
	})
	return cmd
}

// Workers with other topics share what both mean, and each has the rest for itself.
func TestWorkersWithOtherTopics(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 4, "carts": 4, "stock": 4}
	east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", nil)
	var all []spillway.TopicPartition
	for topic, n := range topics {
		if err := newLoad(t, east.Addresses(), 92+uint64(len(topic))).write(ctx, topic, n, 20); err != nil {
			t.Fatal(err)
		}
		all = append(all, partitionsOf(topic, n)...)
	}
	w := newOnlooker(t, west, "run/east", all)
	one := startRun(t, RunConfig{From: east, To: west, Topics: selected(t, "orders|carts")})
	two := startRun(t, RunConfig{From: east, To: west, Topics: selected(t, "orders|stock")})
	sessions := w.settled(2)
	sameRecords(t, east, west, all)
	worker := one.stop().Worker
	for tp, s := range sessions {
		if tp.Topic == "carts" && s.Worker != worker || tp.Topic == "stock" && s.Worker == worker {
			t.Errorf("%s is with %s", tp, s.Worker)
		}
	}
	two.stop()
}

// A worker that ends says good-bye, but not with something on its way: then the others
// wait until its time has run out.
func TestAWorkerSaysGoodBye(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	west := embeddedSite(t, "west", nil)
	r := maptopic.Tail(t.Context(), west, nil)
	defer r.Close()
	for name, holds := range map[string]bool{"holds nothing": false, "holds a partition": true} {
		m := testMirror(t, west)
		if err := m.readMap(ctx); err != nil {
			t.Fatal(err)
		}
		c := newCrew(m, "run/"+name, meaningOf(selection.Topics{}, nil), newMeanings().covers)
		c.begin()
		lease, err := c.claim(ctx, spillway.TopicPartition{Topic: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		if !lease.Held(time.Now()) {
			t.Errorf("%s: a lease that was claimed is not held", name)
		}
		if !holds {
			letGo(lease)
			if lease.Held(time.Now()) {
				t.Errorf("%s: a lease that was let go is held", name)
			}
		}
		m.Close()
		if err := r.CaughtUp(ctx); err != nil {
			t.Fatal(err)
		}
		if left := r.Workers("run/" + name).Members(); (len(left) > 0) != holds {
			t.Errorf("%s: %v are there when it has ended", name, left)
		}
	}
}

// Each consumer group is carried by one worker, and by another one when that ends.
func TestWorkersShareConsumerGroups(t *testing.T) {
	t.Parallel()
	const groups = 12
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 4}), embeddedSite(t, "west", nil)
	tps := partitionsOf("orders", 4)
	if err := newLoad(t, east.Addresses(), 95).write(ctx, "orders", 4, 40); err != nil {
		t.Fatal(err)
	}
	commit := func(at spillway.LocalOffset) {
		t.Helper()
		for g := range groups {
			if err := east.Admin().CommitGroupOffsets(ctx, fmt.Sprintf("app-%d", g), map[spillway.TopicPartition]broker.GroupOffset{tps[0]: {Offset: at, LeaderEpoch: -1}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var mu sync.Mutex
	carried := [2]map[string]bool{{}, {}}
	var runs [2]*inProcess
	for i := range runs {
		runs[i] = startRun(t, RunConfig{From: east, To: west, Topics: selected(t, "orders"), Groups: regexp.MustCompile("app-.*"), Mirror: Config{Worker: []string{"one", "two"}[i], GroupInterval: 50 * time.Millisecond},
			Events: Events{GroupCarried: func(g GroupInfo) {
				mu.Lock()
				defer mu.Unlock()
				carried[i][g.Group] = true
			}}})
	}
	w := newOnlooker(t, west, "run/east", tps)
	w.settled(2)
	stands := func(at spillway.LocalOffset) {
		t.Helper()
		eventually(t, "all groups stand where they stand at the source", func() bool {
			want, _ := w.reader.View(tps[0]).ToLocal(spillway.Offset(at))
			for g := range groups {
				got, err := west.Admin().FetchGroupOffsets(ctx, fmt.Sprintf("app-%d", g))
				if err != nil || got[tps[0]].Offset != want {
					return false
				}
			}
			return true
		})
	}
	sameRecords(t, east, west, tps)
	commit(5)
	stands(5)
	eventually(t, "each group was said to be carried", func() bool { // right after it is
		mu.Lock()
		defer mu.Unlock()
		return len(carried[0])+len(carried[1]) >= groups
	})
	mu.Lock()
	for g := range carried[0] {
		if carried[1][g] {
			t.Errorf("both carried %s", g)
		}
	}
	if len(carried[0]) == 0 || len(carried[1]) == 0 || len(carried[0])+len(carried[1]) != groups {
		t.Errorf("carried: %d and %d groups", len(carried[0]), len(carried[1]))
	}
	mu.Unlock()
	runs[0].stop()
	commit(9)
	stands(9)
}

// All workers together keep a cap: each has the part of it that its partitions are.
func TestWorkersShareACap(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 8}), embeddedSite(t, "west", nil)
	config := func(name string) RunConfig {
		return RunConfig{From: east, To: west, Topics: selected(t, "orders"), Mirror: Config{Worker: name, Caps: []Cap{{BytesPerSecond: 8 << 20}}}}
	}
	m, a, err := config("one").open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	m.crew.begin()
	assign(t, m, a)
	w := newOnlooker(t, west, "run/east", partitionsOf("orders", 8))
	w.settled(1)
	startRun(t, config("two"))
	sessions := w.settled(2)
	own := 0
	for _, s := range sessions {
		if s.Worker == m.config.Worker {
			own++
		}
	}
	pacer := m.pacers("east", "orders")[0]
	eventually(t, "the first worker has its part of the cap", func() bool {
		pacer.mu.Lock()
		defer pacer.mu.Unlock()
		return math.Abs(pacer.rate()-float64(own<<20)) < 1
	})
}

// Workers that end at a time end when all partitions are there, also those of the others.
func TestWorkersEndTogether(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 6}), embeddedSite(t, "west", nil)
	tps := partitionsOf("orders", 6)
	l := newLoad(t, east.Addresses(), 96)
	at := time.Now().Add(-10 * time.Hour).Truncate(time.Second)
	write := func() {
		t.Helper()
		for range 40 { // no transactions: their markers are of now
			var some []*kgo.Record
			for _, tp := range tps {
				at = at.Add(time.Second)
				some = append(some, &kgo.Record{Topic: tp.Topic, Partition: tp.Partition, Value: []byte(at.String()), Timestamp: at})
			}
			if err := l.plain.ProduceSync(ctx, some...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	until := at
	write()
	var runs sync.WaitGroup
	var taken [2]atomic.Int64
	for i := range taken {
		runs.Go(func() {
			if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: selected(t, "orders"), Until: until, Mirror: Config{Worker: []string{"one", "two"}[i]},
				Events: Events{BatchMirrored: func(b BatchInfo) { taken[i].Add(int64(b.Records)) }}}); err != nil {
				t.Error(err)
			}
		})
	}
	runs.Wait()
	for _, tp := range tps {
		ours, err := read(ctx, west, tp)
		if err != nil || len(ours) != 40 {
			t.Errorf("%s: %d records at the target, 40 at the source until then; %v", tp, len(ours), err)
		}
	}
	t.Logf("the workers carried %d and %d records", taken[0].Load(), taken[1].Load())
}

// Workers that end when the target has caught up end when it has, with all partitions and
// groups.
func TestWorkersCatchUpTogether(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 6}), embeddedSite(t, "west", nil)
	tps := partitionsOf("orders", 6)
	if err := newLoad(t, east.Addresses(), 97).write(ctx, "orders", 6, 60); err != nil {
		t.Fatal(err)
	}
	offsets := make(map[spillway.TopicPartition]broker.GroupOffset)
	for _, tp := range tps {
		offsets[tp] = broker.GroupOffset{Offset: 3, LeaderEpoch: -1}
	}
	if err := east.Admin().CommitGroupOffsets(ctx, "app", offsets); err != nil {
		t.Fatal(err)
	}
	stays := startRun(t, RunConfig{From: east, To: west, Topics: selected(t, "orders"), Mirror: Config{Worker: "one"}})
	w := newOnlooker(t, west, "run/east", tps)
	w.settled(1)
	report, err := Run(ctx, RunConfig{From: east, To: west, Topics: selected(t, "orders"), Groups: regexp.MustCompile("app"), UntilCaughtUp: true, Mirror: Config{Worker: "two"}})
	if err != nil {
		t.Fatal(err)
	}
	if report.Partitions == 0 || report.Partitions == 6 || report.Groups != 1 {
		t.Errorf("the worker that ends reports %+v", report)
	}
	sameRecords(t, east, west, tps)
	got, err := west.Admin().FetchGroupOffsets(ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	for _, tp := range tps {
		if want, _ := w.reader.View(tp).ToLocal(3); got[tp].Offset != want {
			t.Errorf("%s: the group stands at %d, offset 3 is %d here", tp, got[tp].Offset, want)
		}
	}
	stays.stop()
}

// A worker that cannot reach the source any more leaves its partitions to the one that
// can, and gets them back when it can again. Alone it stays.
func TestAWorkerWithoutTheSourceStepsBack(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	server, west := embeddedSite(t, "east", map[string]int32{"orders": 6}), embeddedSite(t, "west", nil)
	network := &dark{tries: make(chan struct{}, 1)}
	east, err := kafka.New(kafka.Config{Site: "east", Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(false), Dial: network.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { east.Close() })
	tps := partitionsOf("orders", 6)
	l := newLoad(t, server.Addresses(), 98)
	if err := l.write(ctx, "orders", 6, 30); err != nil {
		t.Fatal(err)
	}
	m, a, err := RunConfig{From: east, To: west, Topics: selected(t, "orders"), Mirror: Config{Worker: "one"}}.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	m.crew.sourceLook, m.crew.sourcePatience = 20*time.Millisecond, 3*time.Second
	m.crew.begin()
	assign(t, m, a)
	w := newOnlooker(t, west, "run/east", tps)
	w.settled(1)
	other := startRun(t, RunConfig{From: server, To: west, Topics: selected(t, "orders"), Mirror: Config{Worker: "two"}})
	before := w.settled(2)
	network.fall()
	if err := l.write(ctx, "orders", 6, 30); err != nil {
		t.Fatal(err)
	}
	alone := w.settled(1)
	w.moved("the first worker lost the source", before, alone)
	sameRecords(t, server, west, tps)
	network.rise()
	again := w.settled(2)
	w.moved("the first worker has the source again", alone, again)
	other.stop()
	w.settled(1)
	if m.crew.stepBack(true) {
		t.Error("the last worker steps back")
	}
}
