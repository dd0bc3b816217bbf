//go:build e2e

package mirrors

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

const (
	kills    = 3
	killedIn = 3 * time.Second // after all was there
	deadFor  = time.Second     // until it is started again
	levelMax = 2 * time.Minute // a contender that takes longer counts as taking that long
)

// killed is what came of a contender that was killed again and again.
type killed struct {
	name              string
	caughtUp          []time.Duration // from the start of a process until all was there that had been sent before
	missing, repeated int
}

// TestKills ends contenders with SIGKILL under a thousand records a second, starts them
// again, and measures how long it takes until they are level. Records that come twice
// are counted by a reader; what Spillway wrote is compared with the source, too.
func TestKills(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 512}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 512})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	topics := []string{"for-spillway", "for-mirrormaker"}
	_, err := kadm.NewClient(client(t, sites[0].Dial()...)).CreateTopics(ctx, trickled, 1, nil, topics...)
	b.must(err)
	_, err = b.admin.CreateTopics(ctx, trickled, 1, nil, topics[0], "east."+topics[1])
	b.must(err)
	mine := b.kill(ctx, ours, topics[0], topics[0], b.spillwaySpec(topics[0]))
	b.audit(ctx, topics[0])
	other := b.kill(ctx, theirs, topics[1], "east."+topics[1], b.mirrorMakerSpec(ctx, topics[1], trickled, "lz4"))
	both := func(of func(killed) float64) map[string]float64 {
		return map[string]float64{ours: of(mine), theirs: of(other)}
	}
	data := fmt.Sprintf("%d × kill -9, 1,000 records/s", kills)
	told.Tell(data, "start until level, median", "s", both(func(k killed) float64 { return k.caughtUp[kills/2].Seconds() }), report.Below(2), report.Beside(theirs))
	told.Tell(data, "start until level, longest", "s", both(func(k killed) float64 { return k.caughtUp[kills-1].Seconds() }), report.Below(2), report.Beside(theirs))
	told.Tell(data, "records there more than once", "", both(func(k killed) float64 { return float64(k.repeated) }), none)
	told.Tell(data, "records missing", "", both(func(k killed) float64 { return float64(k.missing) }), none)
	if mine.missing+mine.repeated > 0 {
		t.Errorf("%d records are missing at the target and %d are there more than once", mine.missing, mine.repeated)
	}
}

// kill kills a contender while records come.
func (b *bench) kill(ctx context.Context, name, topic, target string, spec process.Spec) killed {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 3*contenderMax)
	defer cancel()
	produce, stop := context.WithCancel(ctx)
	defer stop()
	source := client(b.t, append(b.sites[0].Dial(), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.Lz4Compression()))...)
	sent := make(chan int, 1)
	began := time.Now()
	go func() { sent <- send(produce, source, topic, began) }()
	reader := client(b.t, append(b.sites[1].Dial(), kgo.ConsumeTopics(target), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))...)

	seen, next := make(map[uint64]int), uint64(0) // all below next are there
	read := func() {
		poll, done := context.WithTimeout(ctx, 20*time.Millisecond)
		defer done()
		reader.PollFetches(poll).EachRecord(func(r *kgo.Record) { seen[binary.BigEndian.Uint64(r.Value[8:])]++ })
		for seen[next] > 0 {
			next++
		}
	}
	k := killed{name: name}
	spec.Name, spec.Log = name, filepath.Join(b.dir, strings.ReplaceAll(name, " ", "-")+".log")
	for round := range kills + 1 {
		started := time.Now()
		due := uint64(time.Since(began).Seconds() * trickle)
		p, err := process.Start(spec)
		b.must(err)
		for next < due && time.Since(started) < levelMax {
			read()
		}
		fmt.Printf("measured: %-14s has %d of %d records %.2f s after its start\n", name, next, due, time.Since(started).Seconds())
		if round > 0 {
			k.caughtUp = append(k.caughtUp, time.Since(started))
		}
		for until := time.Now().Add(killedIn); time.Now().Before(until); {
			read()
		}
		if round == kills {
			stop()
			total := <-sent
			for last := time.Now().Add(levelMax); int(next) < total && time.Now().Before(last); {
				read()
			}
			b.must(p.Kill())
			for n := range total {
				k.repeated += max(0, seen[uint64(n)]-1)
				if seen[uint64(n)] == 0 {
					k.missing++
				}
			}
			continue
		}
		b.must(p.Kill())
		time.Sleep(deadFor)
	}
	slices.Sort(k.caughtUp)
	return k
}
