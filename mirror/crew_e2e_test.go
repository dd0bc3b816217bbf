//go:build e2e

package mirror

import (
	"context"
	"fmt"
	"path/filepath"
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
	"spillway/mirror/offsetmap"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

// What TestWorkersOnKafka mirrors: fresh records with transactions between them, and
// records of last year, of which the source's cleaner has taken some out. The names of
// workers are others each time; with so many partitions each has some.
const (
	freshPartitions = 20
	agedPartitions  = 12
	agedHot         = 400  // keys that come back until the cleaner has run
	agedRecords     = 2000 // written to each partition before that
)

// TestWorkersOnKafka runs up to three workers under load. One is killed, one stands
// still until the others have its partitions and goes on then, and one comes. The target
// has what the source has, and only partitions that change hands get another append
// session.
func TestWorkersOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	sites, servers := kafkaSites(t, cluster.DefaultVersion, cluster.DefaultVersion)
	east, west := sites[0], sites[1]
	aged := &agedLoad{at: time.Now().Add(-390 * 24 * time.Hour)}
	aged.open(t, servers[0].Bootstrap())
	createTopic(t, east, "orders", freshPartitions, nil)
	aged.fill(t, ctx, east)
	loaded := beside(t, func() error { return aged.write(ctx, 4, "later") }, func(l *load) error { return l.write(ctx, "orders", freshPartitions, 2) }, servers[0].Bootstrap())

	md, err := east.Metadata(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tps := append(partitionsOf("orders", freshPartitions), partitionsOf("orders-aged", agedPartitions)...)
	w := newOnlooker(t, west, "run/"+md.ClusterID, tps)
	program := buildSpillway(t, ctx)
	worker := func(name string) *process.Process {
		p, err := process.Start(process.Spec{Name: name, Path: program, Log: filepath.Join(t.TempDir(), name+".log"), Args: []string{"mirror", "run",
			"--from", strings.Join(servers[0].Bootstrap(), ","), "--to", strings.Join(servers[1].Bootstrap(), ","), "--topics", "orders.*"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s:\n%s", name, p.Tail(30))
			}
		})
		return p
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var moves []string
	var before map[spillway.TopicPartition]offsetmap.Session
	step := func(what string, workers int) {
		t.Helper()
		after := w.settled(workers)
		if before != nil {
			moves = append(moves, fmt.Sprintf("%s: %d moved (%s)", what, w.moved(what, before, after), w.last))
		}
		before = after
		time.Sleep(2 * time.Second) // of load
	}
	worker("one")
	step("one", 1)
	two := worker("two")
	step("two came", 2)
	three := worker("three")
	step("three came", 3)
	must(two.Kill())
	step("two was killed", 2)
	must(three.Pause())
	step("three stands still", 1)
	must(three.Resume())
	step("three goes on", 2)
	worker("four")
	step("four came", 3)

	records := loaded()
	// What a stale worker wrote is there, and hidden: how many records the logs have does
	// not tell whether the last ones have come.
	var report audit.Report
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("audit: %+v, %v", report, err)
		}
	})
	eventually(t, "the target has what the source has", func() bool {
		report, err = audit.Audit(ctx, east, west, selected(t, "orders.*"), audit.Scope{}, nil)
		return err == nil && report.Equal
	})
	copies := 0
	for _, tp := range tps {
		theirs, err := read(ctx, east, tp)
		must(err)
		ours, err := read(ctx, west, tp)
		must(err)
		copies += len(ours) - len(theirs)
	}
	fmt.Printf("measured: %d records while %s; audit of %d records equal: %v; %d copies\n", records, strings.Join(moves, "; "), report.Records, report.Equal, copies)
	for _, g := range w.reader.Gaps() {
		if g.Kind != maptopic.GapStaleWorker {
			t.Errorf("gap %+v", g)
		}
		copies -= int(g.LocalTo - g.LocalFrom)
	}
	if copies != 0 {
		t.Errorf("%d copies are visible", copies)
	}
}

// agedLoad writes records of last year, a millisecond apart.
type agedLoad struct {
	client *kgo.Client
	at     time.Time
	n      int
}

func (l *agedLoad) open(t *testing.T, addresses []string) {
	t.Helper()
	var err error
	if l.client, err = kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.client.Close)
}

// write appends so many records to each partition; those of one name come back.
func (l *agedLoad) write(ctx context.Context, each int, name string) error {
	var records []*kgo.Record
	for range each {
		l.n++
		l.at = l.at.Add(time.Millisecond)
		for p := range int32(agedPartitions) {
			key := fmt.Sprintf("%s-%d", name, l.n)
			if name == "hot" {
				key = fmt.Sprintf("hot-%d", l.n%agedHot)
			}
			records = append(records, &kgo.Record{Topic: "orders-aged", Partition: p, Key: []byte(key), Value: fmt.Append(nil, l.n), Timestamp: l.at})
		}
	}
	return l.client.ProduceSync(ctx, records...).FirstErr()
}

// fill writes keys that come back until the cleaner has made holes, and has the topic
// kept as it is from then on.
func (l *agedLoad) fill(t *testing.T, ctx context.Context, east broker.Cluster) {
	t.Helper()
	createTopic(t, east, "orders-aged", agedPartitions, map[string]string{"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000"})
	if err := l.write(ctx, agedRecords, "hot"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cleaner has made holes in every partition", func() bool {
		time.Sleep(300 * time.Millisecond) // a scan reads the whole log
		l.at = l.at.Add(2 * time.Second)   // rolls the segments
		if err := l.write(ctx, 1, "cold"); err != nil {
			t.Fatal(err)
		}
		for _, tp := range partitionsOf("orders-aged", agedPartitions) {
			if part, err := remaining(ctx, east, tp); err != nil || part > 0.6 {
				return false
			}
		}
		return true
	})
	never, week := "-1", fmt.Sprint((7 * 24 * time.Hour).Milliseconds())
	remove := "delete"
	if err := east.Admin().SetTopicConfigs(ctx, "orders-aged", map[string]*string{"cleanup.policy": &remove, "retention.ms": &never, "segment.ms": &week}); err != nil {
		t.Fatal(err)
	}
}

// beside writes until it is told to end, which returns how many records came of it.
func beside(t *testing.T, aged func() error, fresh func(*load) error, addresses []string) (end func() int) {
	t.Helper()
	var stop atomic.Bool
	var writers sync.WaitGroup
	l := newLoad(t, addresses, 93)
	rounds := 0
	keep := func(write func() error, count bool) {
		writers.Go(func() {
			for !stop.Load() {
				if err := write(); err != nil {
					t.Error(err)
					return
				}
				if count {
					rounds++
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	keep(aged, true)
	keep(func() error { return fresh(l) }, false)
	return sync.OnceValue(func() int {
		stop.Store(true)
		writers.Wait()
		return l.written + rounds*4*agedPartitions
	})
}
