//go:build e2e

package mirrors

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"spillway/broker/batch"
	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

// trips are how far away the other site is, there and back.
var trips = []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond, 80 * time.Millisecond}

// near is Spillway's own figure without a way, beside which the others are held.
const near = "0 ms"

// TestDistance has contenders who run at the target carry a log from a site that is far
// away, and one who runs at the source to a target that is.
func TestDistance(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 768}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 768})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	far := newLinks(t)
	d := distance{bench: b, far: far, east: far.to(t, b.address(0)), west: far.to(t, b.address(1))}
	t.Run("worker at the target", func(t *testing.T) { d.atTarget(ctx, t) })
	t.Run("worker at the source", func(t *testing.T) { d.atSource(ctx, t) })
}

type distance struct {
	*bench
	far        *links
	east, west *link
}

// away runs a contender behind the links.
func (d *distance) away(spec process.Spec) process.Spec {
	spec.Network = d.far.name
	return spec
}

func (d *distance) of(t *testing.T) *bench {
	b := *d.bench
	b.t = t
	return &b
}

// atTarget measures how fast a log comes over the link, how much passes over it, and how
// long a record takes that is on time.
func (d *distance) atTarget(ctx context.Context, t *testing.T) {
	b := d.of(t)
	s := shape{name: "far", codec: batch.LZ4, batchRecords: 100, partitions: 4, records: 1_000_000}
	want := b.fill(ctx, s)
	log := b.bytes(s)
	few := s // for who would take minutes
	few.name, few.records = "few", s.records/5
	wantFew, logFew := b.fill(ctx, few), b.bytes(few)
	nearby := map[string]float64{}
	for _, trip := range trips {
		d.east.trip.Store(int64(trip))
		data := fmt.Sprintf("source %d ms away", trip.Milliseconds())
		copied, mine := fmt.Sprintf("copied-far-%d", trip.Milliseconds()), fmt.Sprintf("far-%d", trip.Milliseconds())
		b.create(ctx, s.partitions, copied, mine)
		rates, bytes := map[string]float64{}, map[string]float64{}
		measure := func(name, target string, want, log int64, spec process.Spec) {
			before := d.east.fetched.Load()
			rates[name] = b.measure(ctx, name, target, want, d.away(spec)).rate()
			bytes[name] = float64(d.east.fetched.Load()-before) / float64(log)
		}
		measure(plainCopy, copied, want, log, b.copySpec(s, copied, false))
		measure(ours, mine, want, log, b.spillwaySpec(s.name, "--rename", "(.*)="+mine))
		if trip == 0 { // it did not bring 200,000 records in four minutes from 30 and from 80 ms away
			between := fmt.Sprintf("-%d-", trip.Milliseconds())
			b.create(ctx, few.partitions, "east"+between+few.name)
			measure(theirs, "east"+between+few.name, wantFew, logFew, b.mirrorMakerSpec(ctx, few.name, few.partitions, few.codec.String(), "replication.policy.separator = "+between))
		}
		if trip == 0 {
			nearby["rate"] = rates[ours]
		}
		rates[near] = nearby["rate"]
		told.Tell(data, "throughput", "records/s", rates, report.Beside(plainCopy), report.AtLeast(0.9, near), report.AtLeast(3, theirs))
		told.Tell(data, "bytes over the link by those of the log", "×", bytes, report.Below(1.05))
	}
	for _, trip := range trips {
		d.east.trip.Store(int64(trip))
		data := fmt.Sprintf("1,000 records/s, source %d ms away", trip.Milliseconds())
		copied, mine := fmt.Sprintf("trickle-copied-%d", trip.Milliseconds()), fmt.Sprintf("trickle-%d", trip.Milliseconds())
		_, err := kadm.NewClient(client(t, b.sites[0].Dial()...)).CreateTopics(ctx, trickled, 1, nil, copied, mine)
		b.must(err)
		b.create(ctx, trickled, copied, mine)
		other := b.trickle(ctx, plainCopy, copied, copied, d.away(b.copySpec(shape{name: copied, partitions: trickled}, copied, true)))
		own := b.trickle(ctx, ours, mine, mine, d.away(b.spillwaySpec(mine)))
		told.Tell(data, "delay, median", "ms", map[string]float64{plainCopy: ms(other.p50), ours: ms(own.p50)}, report.AtMost(1.5, plainCopy))
		told.Tell(data, "delay, p99", "ms", map[string]float64{plainCopy: ms(other.p99), ours: ms(own.p99)}, report.AtMost(2, plainCopy))
	}
	d.east.trip.Store(0)
}

// atSource measures one partition of small batches whose target is far away.
func (d *distance) atSource(ctx context.Context, t *testing.T) {
	b := d.of(t)
	s := shape{name: "small-batches", codec: batch.LZ4, batchRecords: 48, partitions: 1, records: 96_000} // 16 KB each
	want := b.fill(ctx, s)
	trip := trips[len(trips)-1]
	d.west.trip.Store(int64(trip))
	defer d.west.trip.Store(0)
	b.create(ctx, s.partitions, s.name, "repacked-"+s.name, "east."+s.name)
	data := fmt.Sprintf("one partition of batches of %d KiB, target %d ms away", b.bytes(s)/int64(s.records/s.batchRecords)>>10, trip.Milliseconds())
	plain := b.measure(ctx, ours, s.name, want, d.away(b.spillwaySpec(s.name)))
	repacked := b.measure(ctx, ours+" repacking", "repacked-"+s.name, want, d.away(b.spillwaySpec(s.name, "--rename", "(.*)=repacked-$1", "--repack")))
	other := b.measure(ctx, theirs, "east."+s.name, want, d.away(b.mirrorMakerSpec(ctx, s.name, s.partitions, s.codec.String())))
	told.Tell(data, "throughput", "records/s", map[string]float64{ours: plain.rate(), theirs: other.rate()}, report.Beside(theirs))
	told.Tell(data+", --repack", "throughput", "records/s", map[string]float64{ours: repacked.rate(), theirs: other.rate()}, report.Beside(theirs))
	b.audit(ctx, s.name, "--rename", "(.*)=repacked-$1")
}

// create makes topics at the target and waits for their leaders: a plain copy does not.
func (b *bench) create(ctx context.Context, partitions int, names ...string) {
	b.t.Helper()
	_, err := b.admin.CreateTopics(ctx, int32(partitions), 1, nil, names...)
	for b.must(err); ctx.Err() == nil; time.Sleep(lookEvery) {
		if ends, err := b.admin.ListEndOffsets(ctx, names...); err == nil && ends.Error() == nil {
			return
		}
	}
	b.must(ctx.Err())
}

// bytes is how large the log of a shape is.
func (b *bench) bytes(s shape) (n int64) {
	made := b.batches(s)
	for i := range s.records / s.batchRecords / s.partitions {
		n += int64(len(made[i%contents]))
	}
	return n * int64(s.partitions)
}
