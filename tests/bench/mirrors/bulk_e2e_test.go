//go:build e2e

package mirrors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/kafka"
	"spillway/mirror/sitelog"
	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
)

// shape is a log that is to be mirrored.
type shape struct {
	name         string
	codec        batch.Codec
	batchRecords int
	partitions   int
	records      int  // before compaction
	compacted    bool // every third record of each batch is superseded, and cleaned away
}

// The first one is the one of which all is measured; about 33 KB a batch.
var shapes = []shape{
	{name: "lz4", codec: batch.LZ4, batchRecords: 100, partitions: 4, records: 2_000_000},
	{name: "none", codec: batch.None, batchRecords: 40, partitions: 4, records: 500_000},
	{name: "zstd", codec: batch.Zstd, batchRecords: 100, partitions: 4, records: 500_000},
	{name: "gzip", codec: batch.Gzip, batchRecords: 100, partitions: 4, records: 500_000},
	{name: "one-record-batches", codec: batch.None, batchRecords: 1, partitions: 4, records: 50_000},
	{name: "1MiB-batches", codec: batch.LZ4, batchRecords: 3000, partitions: 4, records: 1_000_000},
	{name: "1-partition", codec: batch.LZ4, batchRecords: 100, partitions: 1, records: 500_000},
	{name: "8-partitions", codec: batch.LZ4, batchRecords: 100, partitions: 8, records: 500_000},
	{name: "64-partitions", codec: batch.LZ4, batchRecords: 100, partitions: 64, records: 640_000},
	{name: "compacted", codec: batch.LZ4, batchRecords: 100, partitions: 4, records: 600_000, compacted: true},
}

// TestBulk lets the contenders copy logs of many shapes from one real cluster to
// another, one after the other. What counts is the time from the first record at the
// target to the last, and what the process used of the processor in it, so that nobody
// pays for starting a virtual machine. Each runs once for a shape, in this order. What
// Spillway wrote is compared with the source, what the others wrote is counted.
func TestBulk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 768}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 768})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	var whole result // a plain copy of the first shape, beside which a compacted one is held
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			b := *b
			b.t = t
			want := b.fill(ctx, s)
			_, err := b.admin.CreateTopics(ctx, int32(s.partitions), 1, nil, s.name, "copied-"+s.name, "east."+s.name)
			b.must(err)
			copied := whole
			if !s.compacted { // a broker refuses batches with holes
				copied = b.measure(ctx, plainCopy, "copied-"+s.name, want, b.copySpec(s, "copied-"+s.name, false))
			}
			if whole.name == "" {
				whole = copied
			}
			mine := b.measure(ctx, ours, s.name, want, b.spillwaySpec(s.name))
			b.audit(ctx, s.name)
			other := b.measure(ctx, theirs, "east."+s.name, want, b.mirrorMakerSpec(ctx, s.name, s.partitions, s.codec.String()))
			b.tell(s, copied, mine, other)
			if s.batchRecords == 1 {
				rename := []string{"--rename", "(.*)=repacked-$1"}
				_, err := b.admin.CreateTopics(ctx, int32(s.partitions), 1, nil, "repacked-"+s.name)
				b.must(err)
				mine = b.measure(ctx, ours+" repacking", "repacked-"+s.name, want, b.spillwaySpec(s.name, append(rename, "--repack")...))
				b.audit(ctx, s.name, rename...)
				s.name += ", --repack"
				b.tell(s, copied, mine, other)
			}
		})
	}
}

// tell prints what was measured of a shape, beside the goals.
func (b *bench) tell(s shape, copied, mine, other result) {
	all := func(of func(result) float64) map[string]float64 {
		return map[string]float64{plainCopy: of(copied), ours: of(mine), theirs: of(other)}
	}
	if s.compacted {
		told.Tell(s.name, "throughput", "records/s", all(result.rate), report.AtLeast(0.5, plainCopy), report.AtLeast(3, theirs))
		told.Tell(s.name, "processor", "s per million records", all(result.cpuPerMillion), report.Beside(plainCopy), report.Beside(theirs))
		return
	}
	told.Tell(s.name, "throughput", "records/s", all(result.rate), report.AtLeast(0.9, plainCopy), report.AtLeast(3, theirs))
	told.Tell(s.name, "processor", "s per million records", all(result.cpuPerMillion), report.AtMost(1.25, plainCopy), report.AtMost(1.0/15, theirs))
	told.Tell(s.name, "resident at most", "MiB", all(func(r result) float64 { return float64(r.residentKiB) / 1024 }), report.Beside(plainCopy), report.AtMost(1.0/8, theirs))
}

// audit compares the target with the source by the product's own proof, which reads
// both with its own reader. The mirror was killed a moment ago; another run reads back
// first what it had written, and must find nothing left to carry.
func (b *bench) audit(ctx context.Context, name string, flags ...string) {
	b.t.Helper()
	ends := append([]string{"--from", b.address(0), "--to", b.address(1), "--topics", name, "-o", "json"}, flags...)
	for _, command := range [][]string{{"mirror", "run", "--until-caught-up"}, {"audit"}} {
		cmd := exec.CommandContext(ctx, b.program, append(command, ends...)...)
		var diagnosis bytes.Buffer
		cmd.Stderr = &diagnosis
		text, err := cmd.Output()
		if err != nil {
			b.t.Fatalf("%s of %s: %v\n%s\n%s", command[0], name, err, text, diagnosis.String())
		}
		if command[0] == "audit" {
			continue
		}
		var again struct{ Records int64 }
		if err := json.Unmarshal(text, &again); err != nil || again.Records != 0 {
			b.t.Errorf("a second run of %s carried %d records: %v", name, again.Records, err)
		}
	}
}

// fill writes a log and returns how many records it has. Batches of a few hundred
// contents come again and again, so that the broker is all that limits it.
func (b *bench) fill(ctx context.Context, s shape) int64 {
	b.t.Helper()
	c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: b.sites[0].Bootstrap()})
	b.must(err)
	defer func() { b.must(c.Close()) }()
	configs := map[string]*string{}
	set := func(key, value string) { configs[key] = &value }
	set("max.message.bytes", "4194304")
	if s.compacted {
		set("cleanup.policy", "compact")
		set("min.cleanable.dirty.ratio", "0.0")
		set("segment.bytes", strconv.Itoa(8<<20))
	}
	_, err = kadm.NewClient(client(b.t, b.sites[0].Dial()...)).CreateTopic(ctx, int32(s.partitions), 1, configs, s.name)
	b.must(err)
	made := b.batches(s)
	faults := make(chan error, s.partitions)
	for p := range s.partitions {
		go func() { faults <- fillPartition(ctx, c, s, int32(p), made) }()
	}
	for range s.partitions {
		err = errors.Join(err, <-faults)
	}
	b.must(err)
	if s.compacted {
		return b.cleaned(ctx, c, s)
	}
	return int64(s.records / s.batchRecords / s.partitions * s.partitions * s.batchRecords)
}

// contents is how many different batches a log has.
const contents = 256

// batches builds the contents of a log: orders as JSON of about 855 bytes.
func (b *bench) batches(s shape) [][]byte {
	b.t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	made := make([][]byte, contents)
	for i := range made {
		records := make([]batch.Record, s.batchRecords)
		for j := range records {
			key := fmt.Appendf(nil, "order-%d-%d", i, j)
			if s.compacted && j%3 == 2 {
				key = fmt.Appendf(nil, "last-%d", j) // all batches have it; the newest one stays
			}
			records[j] = batch.Record{OffsetDelta: int32(j), Key: key, Value: order(random, i*s.batchRecords+j)}
		}
		built, err := batch.Rebuild(batch.Header{BaseTimestamp: time.Now().UnixMilli(), LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, records, s.codec)
		b.must(err)
		made[i] = built
	}
	return made
}

// order is a record's value, which compresses to about two fifths.
func order(random *rand.Rand, number int) []byte {
	type line struct {
		Article string `json:"article"`
		Text    string `json:"text"`
		Count   int    `json:"count"`
		Cents   int    `json:"cents"`
	}
	o := struct {
		Order    int    `json:"order"`
		Customer string `json:"customer"`
		Lines    []line `json:"lines"`
	}{Order: number, Customer: fmt.Sprintf("%016x", random.Uint64())}
	for range 8 {
		o.Lines = append(o.Lines, line{fmt.Sprintf("%010x", random.Uint64()>>24), fmt.Sprintf("%016x", random.Uint64()), random.IntN(9), random.IntN(99999)})
	}
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and numbers can be marshalled
	}
	return text
}

func fillPartition(ctx context.Context, c *kafka.Cluster, s shape, partition int32, made [][]byte) error {
	tp := spillway.TopicPartition{Topic: s.name, Partition: partition}
	leader, err := c.Leader(ctx, tp)
	if err != nil {
		return err
	}
	to, err := c.Dial(ctx, leader)
	if err != nil {
		return err
	}
	defer to.Close()
	for i := range s.records / s.batchRecords / s.partitions {
		b := made[i%contents]
		if s.compacted {
			b = renamed(b, i)
		}
		for {
			answers, err := sitelog.Produce(ctx, to, []sitelog.ProducePart{{TopicPartition: tp, Batch: b}}, 10*time.Second)
			if err == nil {
				err = answers[0].Err
			}
			if err == nil {
				break
			}
			// A topic that was created a moment ago has no leader yet.
			if i > 0 || !errors.Is(err, kerr.NotLeaderForPartition) || sitelog.Pause(ctx, 100*time.Millisecond) != nil {
				return fmt.Errorf("fill %s: %w", tp, err)
			}
		}
	}
	return nil
}

// renamed gives the records of a batch that shall stay keys of their own.
func renamed(b []byte, number int) []byte {
	h, _, err := batch.Parse(b)
	if err != nil {
		panic(err) // it was built a moment ago
	}
	records, err := batch.Records(b, 64<<20)
	if err != nil {
		panic(err)
	}
	for i := range records {
		if i%3 != 2 {
			records[i].Key = fmt.Appendf(nil, "order-%d-%d", number, i)
		}
	}
	built, err := batch.Rebuild(h, records, h.Codec())
	if err != nil {
		panic(err)
	}
	return built
}

// cleaned waits until the broker has taken every third record away, but for the end
// of the log, and returns how many are left.
func (b *bench) cleaned(ctx context.Context, c *kafka.Cluster, s shape) int64 {
	b.t.Helper()
	for {
		left, err := count(ctx, c, s)
		b.must(err)
		if left <= int64(s.records)*7/10 {
			time.Sleep(20 * time.Second) // a round that is under way; the cleaner looks each 15 s
			left, err = count(ctx, c, s)
			b.must(err)
			return left
		}
		if sitelog.Pause(ctx, time.Second) != nil {
			b.t.Fatalf("the broker has not cleaned the log: %d records are left", left)
		}
	}
}

func count(ctx context.Context, c *kafka.Cluster, s shape) (n int64, err error) {
	for p := range s.partitions {
		tps := []spillway.TopicPartition{{Topic: s.name, Partition: int32(p)}}
		ends, err := c.Admin().HighWatermarks(ctx, tps)
		if err != nil {
			return 0, err
		}
		err = sitelog.Scan(ctx, c, tps[0], 0, ends[tps[0]], func(b sitelog.Batch) error {
			n += int64(b.Count)
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

// builtProgram names a spillway that is measured instead of this tree's.
const builtProgram = "SPILLWAY_BENCH_PROGRAM"

func (b *bench) build(ctx context.Context) string {
	b.t.Helper()
	if built := os.Getenv(builtProgram); built != "" {
		return built
	}
	program := filepath.Join(b.dir, "spillway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "spillway/cmd/spillway").CombinedOutput(); err != nil {
		b.t.Fatalf("build spillway: %v\n%s", err, out)
	}
	return program
}
