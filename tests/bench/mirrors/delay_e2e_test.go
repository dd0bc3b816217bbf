//go:build e2e

package mirrors

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

const (
	trickle     = 1000 // records a second, as they come: no batching
	trickled    = 4    // partitions
	recordBytes = 200
	settleFor   = 5 * time.Second
	measureFor  = 20 * time.Second
	firstRecord = time.Minute // for a contender to bring its first one
)

// delays is what a contender makes of a trickle.
type delays struct {
	name        string
	first       time.Duration // from the start of the process
	records     int
	missing     int
	repeated    int
	p50, p99    time.Duration // from produce to read at the target
	cores       float64       // of processor time while it was measured
	residentKiB int64
}

// TestDelays has the same contenders carry a thousand records a second, one after the
// other, and measures how long each record takes from the producer to a reader at the
// target, how long the first one takes from the start, and what that costs.
func TestDelays(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 512}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 512})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	// Each has a topic of its own: nobody carries first what was sent to another.
	topics := []string{"for-copy", "for-spillway", "for-mirrormaker"}
	_, err := kadm.NewClient(client(t, sites[0].Dial()...)).CreateTopics(ctx, trickled, 1, nil, topics...)
	b.must(err)
	_, err = b.admin.CreateTopics(ctx, trickled, 1, nil, "copied-for-copy", "for-spillway", "east.for-mirrormaker")
	b.must(err)
	copied := b.trickle(ctx, plainCopy, topics[0], "copied-for-copy", b.copySpec(shape{name: topics[0], partitions: trickled}, "copied-"+topics[0], true))
	mine := b.trickle(ctx, ours, topics[1], topics[1], b.spillwaySpec(topics[1]))
	other := b.trickle(ctx, theirs, topics[2], "east.for-mirrormaker", b.mirrorMakerSpec(ctx, topics[2], trickled, "lz4"))
	for _, d := range []delays{copied, mine, other} {
		fmt.Printf("measured: %-14s %d records, %d missing, %d repeated\n", d.name, d.records, d.missing, d.repeated)
	}
	all := func(of func(delays) float64) map[string]float64 {
		return map[string]float64{plainCopy: of(copied), ours: of(mine), theirs: of(other)}
	}
	const data = "1,000 records/s"
	told.Tell(data, "start to the first record", "s", all(func(d delays) float64 { return d.first.Seconds() }), report.Beside(theirs))
	told.Tell(data, "delay, median", "ms", all(func(d delays) float64 { return ms(d.p50) }), report.AtMost(1.5, plainCopy), report.Beside(theirs))
	told.Tell(data, "delay, p99", "ms", all(func(d delays) float64 { return ms(d.p99) }), report.AtMost(2, plainCopy), report.AtMost(0.25, theirs))
	told.Tell(data, "processor", "cores", all(func(d delays) float64 { return d.cores }), report.Beside(plainCopy), report.AtMost(0.1, theirs))
	told.Tell(data, "resident at most", "MiB", all(func(d delays) float64 { return float64(d.residentKiB) / 1024 }), report.Beside(plainCopy), report.Beside(theirs))
	if mine.missing+mine.repeated > 0 {
		t.Errorf("%d records are missing at the target and %d are there more than once", mine.missing, mine.repeated)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// trickle starts a contender while records come, and reads at the target what it
// brings.
func (b *bench) trickle(ctx context.Context, name, topic, target string, spec process.Spec) delays {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, contenderMax)
	defer cancel()
	produce, stop := context.WithCancel(ctx)
	defer stop()
	source := client(b.t, append(b.sites[0].Dial(), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.Lz4Compression()))...)
	sent := make(chan int, 1)
	began := time.Now()
	go func() { sent <- send(produce, source, topic, began) }()
	time.Sleep(time.Second) // it finds a log that grows, not an empty one

	reader := client(b.t, append(b.sites[1].Dial(), kgo.ConsumeTopics(target), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))...)
	spec.Name, spec.Log = name, filepath.Join(b.dir, name+".log")
	started := time.Now()
	p, err := process.Start(spec)
	b.must(err)
	defer func() { b.must(p.Kill()) }()
	d := delays{name: name}
	var took []time.Duration
	var from process.Usage
	seen := map[uint64]int{}
	measureFrom, last := time.Time{}, time.Time{}
	for last.IsZero() || time.Now().Before(last) {
		poll, done := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := reader.PollFetches(poll)
		done()
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			at, n := time.Unix(0, int64(binary.BigEndian.Uint64(r.Value))), binary.BigEndian.Uint64(r.Value[8:])
			if d.first == 0 {
				d.first = now.Sub(started)
				measureFrom = now.Add(settleFor)
			}
			seen[n]++
			if !measureFrom.IsZero() && at.After(measureFrom) && at.Before(measureFrom.Add(measureFor)) {
				took = append(took, now.Sub(at))
			}
		})
		switch {
		case d.first == 0 && now.Sub(started) > firstRecord:
			b.t.Fatalf("%s brought nothing within %s:\n%s", name, firstRecord, p.Tail(30))
		case !measureFrom.IsZero() && from == (process.Usage{}) && now.After(measureFrom):
			from, _ = process.Use(p.Pid())
		case last.IsZero() && !measureFrom.IsZero() && now.After(measureFrom.Add(measureFor)):
			used, lives := process.Use(p.Pid())
			if !lives {
				b.t.Fatalf("%s ended:\n%s", name, p.Tail(30))
			}
			d.cores, d.residentKiB = (used.CPU-from.CPU).Seconds()/measureFor.Seconds(), used.ResidentMostKiB
			stop()
			last = now.Add(3 * time.Second) // what is under way
		}
	}
	total := <-sent
	for n := range total {
		switch seen[uint64(n)] {
		case 0:
			d.missing++
		case 1:
		default:
			d.repeated++
		}
	}
	if len(took) == 0 {
		b.t.Fatalf("%s: nothing was measured", name)
	}
	slices.Sort(took)
	d.records, d.p50, d.p99 = len(took), took[len(took)/2], took[len(took)*99/100]
	return d
}

// send writes records at an even rate until ctx ends: their values are the time and
// their number, from 0. It returns how many were acknowledged, all below that number.
func send(ctx context.Context, c *kgo.Client, topic string, began time.Time) int {
	tick := time.NewTicker(time.Second / trickle)
	defer tick.Stop()
	n := 0
	for ctx.Err() == nil {
		<-tick.C
		for due := int(time.Since(began).Seconds() * trickle); n < due; n++ {
			value := make([]byte, recordBytes)
			binary.BigEndian.PutUint64(value, uint64(time.Now().UnixNano()))
			binary.BigEndian.PutUint64(value[8:], uint64(n))
			c.Produce(context.WithoutCancel(ctx), &kgo.Record{Topic: topic, Key: fmt.Append(nil, n%5000), Value: value}, nil)
		}
	}
	_ = c.Flush(context.WithoutCancel(ctx)) // what failed counts as missing
	return n
}
