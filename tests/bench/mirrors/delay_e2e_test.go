//go:build e2e

package mirrors

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

const (
	trickle     = 1000 // records a second, as they come: no batching
	settleFor   = 5 * time.Second
	measureFor  = 20 * time.Second
	firstRecord = time.Minute // for a contender to bring its first one
)

// delays is what a contender makes of a trickle.
type delays struct {
	Name        string        `json:"name"`
	First       time.Duration `json:"firstRecordNanos"` // from the start of the process
	Records     int           `json:"records"`
	Missing     int           `json:"missing"`
	Repeated    int           `json:"repeated"`
	P50         time.Duration `json:"p50Nanos"` // from produce to read at the target
	P99         time.Duration `json:"p99Nanos"`
	Cores       float64       `json:"cores"` // of processor time while it was measured
	ResidentKiB int64         `json:"residentKiB"`
}

// TestDelays has the same contenders carry a thousand records a second, one after the
// other, and measures how long each record takes from the producer to a reader at the
// target, how long the first one takes from the start, and what that costs.
func TestDelays(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 512}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 512})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	_, err := b.admin.CreateTopics(ctx, partitions, 1, nil, topic, "copied", "east."+topic)
	b.must(err)
	_, err = kadm.NewClient(client(t, sites[0].Dial()...)).CreateTopic(ctx, partitions, 1, nil, topic)
	b.must(err)
	task := strings.Join([]string{b.address(0), b.address(1), topic, "copied", follow}, " ")
	all := []delays{
		b.trickle(ctx, "plain copy", "copied", process.Spec{Path: os.Args[0], Env: []string{copyTask + "=" + task}}),
		b.trickle(ctx, "spillway", topic, b.spillwaySpec(ctx)),
		b.trickle(ctx, "MirrorMaker 2", "east."+topic, b.mirrorMakerSpec(ctx)),
	}
	for _, d := range all {
		fmt.Printf("measured: %-14s first record after %5.2f s, delay %6.2f ms median, %7.2f ms p99, %5.3f cores, %4d MiB resident; %d records, %d missing, %d repeated\n",
			d.Name, d.First.Seconds(), ms(d.P50), ms(d.P99), d.Cores, d.ResidentKiB>>10, d.Records, d.Missing, d.Repeated)
	}
	copied, ours, theirs := all[0], all[1], all[2]
	fmt.Printf("measured: spillway against a plain copy: median %.2f, p99 %.2f; against MirrorMaker 2: p99 %.2f, processor %.2f\n",
		ratio(ours.P50, copied.P50), ratio(ours.P99, copied.P99), ratio(ours.P99, theirs.P99), ours.Cores/theirs.Cores)
	if text, err := json.Marshal(all); err == nil {
		fmt.Printf("measured: %s\n", text)
	}
	if ours.Missing+ours.Repeated > 0 {
		t.Errorf("%d records are missing at the target and %d are there more than once", ours.Missing, ours.Repeated)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// trickle starts a contender while records come, and reads at the target what it
// brings.
func (b *bench) trickle(ctx context.Context, name, target string, spec process.Spec) delays {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, contenderMax)
	defer cancel()
	produce, stop := context.WithCancel(ctx)
	defer stop()
	source := client(b.t, append(b.sites[0].Dial(), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.Lz4Compression()))...)
	sent := make(chan int, 1)
	began := time.Now()
	go func() { sent <- send(produce, source, began) }()
	time.Sleep(time.Second) // it finds a log that grows, not an empty one

	reader := client(b.t, append(b.sites[1].Dial(), kgo.ConsumeTopics(target), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))...)
	spec.Name, spec.Log = name, filepath.Join(b.dir, name+".log")
	started := time.Now()
	p, err := process.Start(spec)
	b.must(err)
	defer func() { b.must(p.Kill()) }()
	d := delays{Name: name}
	var took []time.Duration
	var from usage
	seen := map[uint64]int{}
	measureFrom, last := time.Time{}, time.Time{}
	for last.IsZero() || time.Now().Before(last) {
		poll, done := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := reader.PollFetches(poll)
		done()
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			at, n := time.Unix(0, int64(binary.BigEndian.Uint64(r.Value))), binary.BigEndian.Uint64(r.Value[8:])
			if at.Before(began) {
				return // of the contender before
			}
			if d.First == 0 {
				d.First = now.Sub(started)
				measureFrom = now.Add(settleFor)
			}
			seen[n]++
			if !measureFrom.IsZero() && at.After(measureFrom) && at.Before(measureFrom.Add(measureFor)) {
				took = append(took, now.Sub(at))
			}
		})
		switch {
		case d.First == 0 && now.Sub(started) > firstRecord:
			b.t.Fatalf("%s brought nothing within %s:\n%s", name, firstRecord, p.Tail(30))
		case !measureFrom.IsZero() && from == (usage{}) && now.After(measureFrom):
			from, _ = use(p.Pid())
		case last.IsZero() && !measureFrom.IsZero() && now.After(measureFrom.Add(measureFor)):
			used, lives := use(p.Pid())
			if !lives {
				b.t.Fatalf("%s ended:\n%s", name, p.Tail(30))
			}
			d.Cores, d.ResidentKiB = (used.cpu-from.cpu).Seconds()/measureFor.Seconds(), used.residentKiB
			stop()
			last = now.Add(3 * time.Second) // what is under way
		}
	}
	total := <-sent
	for n := range total {
		switch seen[uint64(n)] {
		case 0:
			d.Missing++
		case 1:
		default:
			d.Repeated++
		}
	}
	if len(took) == 0 {
		b.t.Fatalf("%s: nothing was measured", name)
	}
	slices.Sort(took)
	d.Records, d.P50, d.P99 = len(took), took[len(took)/2], took[len(took)*99/100]
	return d
}

// send writes records at an even rate until ctx ends: their values are the time and
// their number, from 0. It returns how many were acknowledged, all below that number.
func send(ctx context.Context, c *kgo.Client, began time.Time) int {
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
