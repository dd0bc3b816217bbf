//go:build e2e

package mirrors

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

const (
	// handledAtSource is how many records a group handles before its site is lost.
	handledAtSource = kafkaPartitions * kafkaTransactions * inTransaction / 2
	// carriedIn is for contenders to carry what was committed last.
	carriedIn = 20 * time.Second
)

// resumed is what a group meets at the target.
type resumed struct{ again, skipped int }

// TestFailover has a group handle half of what transactions have written, and commit; then
// its site is lost, and it goes on at the target with the offsets that contenders have
// carried there. All that was committed had been there for a while, so what is handled
// again, or never, is what translation makes of it.
func TestFailover(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 512}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 512})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	_, err := b.admin.CreateTopics(ctx, kafkaPartitions, 1, nil, "for-spillway", "east.for-mirrormaker")
	b.must(err)
	handled := make(map[string]map[string]bool)
	for _, topic := range []string{"for-spillway", "for-mirrormaker"} {
		b.transactions(ctx, topic)
		handled[topic] = b.handle(ctx, 0, topic, "group-"+topic, handledAtSource)
	}
	begun := []*process.Process{
		b.begin(ours, b.spillwaySpec("for-spillway", "--groups", "group-for-spillway")),
		b.begin(theirs, b.mirrorMakerSpec(ctx, "for-mirrormaker", kafkaPartitions, "none",
			"east.consumer.isolation.level = read_committed", "groups = group-for-mirrormaker", "sync.group.offsets.enabled = true",
			"sync.group.offsets.interval.seconds = 1", "emit.checkpoints.interval.seconds = 1", "refresh.groups.interval.seconds = 5")),
	}
	for _, topic := range []string{"for-spillway", "east.for-mirrormaker"} {
		for ctx.Err() == nil && b.end(ctx, topic) < 2*handledAtSource {
			time.Sleep(lookEvery)
		}
	}
	time.Sleep(carriedIn)
	for _, p := range begun {
		b.must(p.Kill())
	}
	b.must(sites[0].Kill())
	mine := b.resume(ctx, "for-spillway", "group-for-spillway", handled["for-spillway"])
	other := b.resume(ctx, "east.for-mirrormaker", "group-for-mirrormaker", handled["for-mirrormaker"])
	data := fmt.Sprintf("failover of a group, %d of %d records handled", handledAtSource, 2*handledAtSource)
	told.Tell(data, "records handled again", "", map[string]float64{ours: float64(mine.again), theirs: float64(other.again)}, none)
	told.Tell(data, "records skipped", "", map[string]float64{ours: float64(mine.skipped), theirs: float64(other.skipped)}, none)
	if mine != (resumed{}) {
		t.Errorf("of spillway's target %d records were handled again, and %d never", mine.again, mine.skipped)
	}
}

func (b *bench) begin(name string, spec process.Spec) *process.Process {
	b.t.Helper()
	spec.Name, spec.Log = name, filepath.Join(b.dir, name+" failover.log")
	p, err := process.Start(spec)
	b.must(err)
	b.t.Cleanup(func() { b.must(p.Kill()) })
	return p
}

// handle has a group read so many records of a site, or all that come within some seconds
// of each other, and commit exactly these. It returns their values.
func (b *bench) handle(ctx context.Context, site int, topic, group string, most int) map[string]bool {
	b.t.Helper()
	c := client(b.t, append(b.sites[site].Dial(), kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxPartitionBytes(4096))...)
	handled := make(map[string]bool)
	for quiet := 0; len(handled) < most && quiet < 10; {
		poll, done := context.WithTimeout(ctx, time.Second)
		fetches := c.PollRecords(poll, min(100, most-len(handled)))
		done()
		if err := fetches.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			b.t.Fatal(err)
		}
		quiet++
		if records := fetches.Records(); len(records) > 0 {
			for _, r := range records {
				handled[string(r.Value)] = true
			}
			b.must(c.CommitRecords(ctx, records...))
			quiet = 0
		}
	}
	c.CloseAllowingRebalance()
	return handled
}

// resume has the group go on at the target.
func (b *bench) resume(ctx context.Context, topic, group string, before map[string]bool) (r resumed) {
	b.t.Helper()
	all := 2 * handledAtSource
	after := b.handle(ctx, 1, topic, group, all)
	for value := range after {
		if before[value] {
			r.again++
		}
	}
	r.skipped = all - len(before) - (len(after) - r.again)
	return r
}
