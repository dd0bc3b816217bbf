//go:build e2e

package mirrors

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

const (
	partitions  = 4
	records     = 2_000_000
	recordBytes = 200
	topic       = "orders"
	// contenderMax is how long one of them may take.
	contenderMax = 4 * time.Minute
	lookEvery    = 50 * time.Millisecond
)

// TestMirrors copies the same topic from one real cluster to another three
// times, one after the other: by Spillway, by MirrorMaker 2, and by a loop that
// only fetches and produces. What counts is the time from the first record at
// the target to the last, and what the process used of the processor in it, so
// that nobody pays for starting a virtual machine.
func TestMirrors(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east", HeapMB: 512}, cluster.Config{Name: "west", FirstNode: 11, HeapMB: 512})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.fill(ctx)
	// All targets are there before: making topics is not what is measured.
	_, err := b.admin.CreateTopics(ctx, partitions, 1, nil, topic, "copied", "east."+topic)
	b.must(err)
	copier := b.copier(ctx)
	spillway := b.spillway(ctx)
	mirrorMaker := b.mirrorMaker(ctx)
	for _, r := range []result{copier, spillway, mirrorMaker} {
		fmt.Printf("measured: %-22s %7.0f records/s, %5.1f s of processor per million records, %4d MiB resident at most\n", r.name, r.rate(), r.cpuPerMillion(), r.residentKiB>>10)
	}
	fmt.Printf("measured: spillway against MirrorMaker 2: %.1f times the records a second, %.2f of the processor time, %.2f of the memory\n",
		spillway.rate()/mirrorMaker.rate(), spillway.cpuPerMillion()/mirrorMaker.cpuPerMillion(), float64(spillway.residentKiB)/float64(mirrorMaker.residentKiB))
	fmt.Printf("measured: spillway against a plain copy: %.2f of the records a second, %.2f times the processor time\n",
		spillway.rate()/copier.rate(), spillway.cpuPerMillion()/copier.cpuPerMillion())
}

type bench struct {
	t     *testing.T
	sites []*cluster.Cluster
	dir   string
	admin *kadm.Client // of the target
}

// result is what one contender did between its first record and its last.
type result struct {
	name        string
	records     int64
	took, cpu   time.Duration
	residentKiB int64
}

func (r result) rate() float64          { return float64(r.records) / r.took.Seconds() }
func (r result) cpuPerMillion() float64 { return r.cpu.Seconds() / float64(r.records) * 1e6 }

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// fill writes what is to be mirrored: keys that come back, values that compress
// to about a half, batches as a busy producer makes them.
func (b *bench) fill(ctx context.Context) {
	b.t.Helper()
	cl := client(b.t, append(b.sites[0].Dial(), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(5*time.Millisecond))...)
	_, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 1, nil, topic)
	b.must(err)
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(' ' + random.IntN(16))
	}
	failed := make(chan error, 1)
	for i := range records {
		at := random.IntN(len(noise) - recordBytes)
		r := &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "order-%d", i%5000), Value: noise[at : at+recordBytes]}
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	b.must(cl.Flush(ctx))
	select {
	case err := <-failed:
		b.t.Fatal(err)
	default:
	}
}

// end is how many records the topic has at the target.
func (b *bench) end(ctx context.Context, name string) int64 {
	b.t.Helper()
	ends, err := b.admin.ListEndOffsets(ctx, name)
	b.must(err)
	n := int64(0)
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			n += o.Offset
		}
	})
	return n
}

// measure runs a contender until the topic has all records, and ends it.
func (b *bench) measure(ctx context.Context, name, target string, spec process.Spec) result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, contenderMax)
	defer cancel()
	spec.Name, spec.Log = name, filepath.Join(b.dir, name+".log")
	p, err := process.Start(spec)
	b.must(err)
	defer func() { b.must(p.Kill()) }()
	var first int64
	var from usage
	var began time.Time
	for {
		now := time.Now()
		n := b.end(ctx, target)
		used, lives := use(p.Pid())
		switch {
		case n >= records && began.IsZero():
			b.t.Fatalf("%s was done before it was seen to begin", name)
		case n >= records:
			if !lives {
				b.t.Fatalf("%s ended too early to be measured", name)
			}
			return result{name: name, records: n - first, took: now.Sub(began), cpu: used.cpu - from.cpu, residentKiB: used.residentKiB}
		case !lives:
			b.t.Fatalf("%s ended with %d of %d records copied:\n%s", name, n, records, p.Tail(30))
		case n > 0 && began.IsZero():
			first, from, began = n, used, now
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("%s: %d of %d records copied after %s:\n%s", name, n, records, contenderMax, p.Tail(30))
		case <-time.After(lookEvery):
		}
	}
}

// usage is what the kernel counts of a process.
type usage struct {
	cpu         time.Duration
	residentKiB int64 // at most so far
}

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

func use(pid int) (u usage, lives bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, false
	}
	// The second field is the name in brackets; utime and stime are 14 and 15.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	for _, f := range fields[11:13] {
		n, _ := strconv.ParseInt(f, 10, 64)
		u.cpu += time.Duration(n) * time.Second / ticksPerSecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, false
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			u.residentKiB, _ = strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return u, u.residentKiB > 0 // a process that has ended has no memory
}

func (b *bench) copier(ctx context.Context) result {
	b.t.Helper()
	task := strings.Join([]string{b.address(0), b.address(1), topic, "copied"}, " ")
	return b.measure(ctx, "plain copy", "copied", process.Spec{Path: os.Args[0], Env: []string{copyTask + "=" + task}})
}

func (b *bench) spillway(ctx context.Context) result {
	b.t.Helper()
	return b.measure(ctx, "spillway", topic, b.spillwaySpec(ctx))
}

func (b *bench) spillwaySpec(ctx context.Context) process.Spec {
	b.t.Helper()
	program := filepath.Join(b.dir, "spillway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "spillway/cmd/spillway").CombinedOutput(); err != nil {
		b.t.Fatalf("build spillway: %v\n%s", err, out)
	}
	return process.Spec{Path: program, Args: []string{"mirror", "run", "--from", b.address(0), "--to", b.address(1), "--topics", topic}}
}

func (b *bench) mirrorMaker(ctx context.Context) result {
	b.t.Helper()
	return b.measure(ctx, "MirrorMaker 2", "east."+topic, b.mirrorMakerSpec(ctx))
}

// mirrorMakerSpec runs MirrorMaker 2 as its own documentation starts it: dedicated,
// with its defaults, as many tasks as partitions. The virtual machine has both
// compilers and its usual collector, other than the tests' brokers.
func (b *bench) mirrorMakerSpec(ctx context.Context) process.Spec {
	b.t.Helper()
	java, err := cluster.Tools(ctx, "mirrormaker-4.3.1")
	b.must(err)
	java.Options = []string{"-Xms256m", "-Xmx1g", java.Options[len(java.Options)-1]}
	settings := filepath.Join(b.dir, "mm2.properties")
	b.must(os.WriteFile(settings, fmt.Appendf(nil, `clusters = east, west
east.bootstrap.servers = %s
west.bootstrap.servers = %s
east->west.enabled = true
east->west.topics = %s
west->east.enabled = false
tasks.max = %d
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
config.storage.replication.factor = 1
dedicated.mode.enable.internal.rest = false
`, b.address(0), b.address(1), topic, partitions), 0o600))
	return java.Spec("mm2", "", "org.apache.kafka.connect.mirror.MirrorMaker", settings)
}

func (b *bench) address(site int) string { return strings.Join(b.sites[site].Bootstrap(), ",") }
