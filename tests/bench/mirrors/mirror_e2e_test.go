//go:build e2e

package mirrors

import (
	"context"
	"fmt"
	"os"
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
	// contenderMax is how long one of them may take.
	contenderMax = 4 * time.Minute
	lookEvery    = 50 * time.Millisecond
)

type bench struct {
	t       *testing.T
	sites   []*cluster.Cluster
	dir     string
	admin   *kadm.Client // of the target
	program string       // spillway, built
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
func (b *bench) measure(ctx context.Context, name, target string, records int64, spec process.Spec) result {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, contenderMax)
	defer cancel()
	spec.Name, spec.Log = name, filepath.Join(b.dir, name+" "+target+".log")
	p, err := process.Start(spec)
	b.must(err)
	defer func() { b.must(p.Kill()) }()
	var first int64
	var from process.Usage
	var began time.Time
	for {
		now := time.Now()
		n := b.end(ctx, target)
		used, lives := process.Use(p.Pid())
		switch {
		case n >= records && began.IsZero():
			b.t.Fatalf("%s was done before it was seen to begin", name)
		case n >= records:
			if !lives {
				b.t.Fatalf("%s ended too early to be measured", name)
			}
			return result{name: name, records: n - first, took: now.Sub(began), cpu: used.CPU - from.CPU, residentKiB: used.ResidentMostKiB}
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

// copySpec is the plain copier, which knows nothing of the topic at the target but its name.
func (b *bench) copySpec(s shape, target string, follows bool) process.Spec {
	task := []string{b.address(0), b.address(1), s.name, target, strconv.Itoa(s.partitions)}
	if follows {
		task = append(task, follow)
	}
	return process.Spec{Path: os.Args[0], Env: []string{copyTask + "=" + strings.Join(task, " ")}}
}

func (b *bench) spillwaySpec(name string, flags ...string) process.Spec {
	return process.Spec{Path: b.program, Args: append([]string{"mirror", "run", "--from", b.address(0), "--to", b.address(1), "--topics", name}, flags...)}
}

// mirrorMakerSpec runs MirrorMaker 2 as its own documentation starts it: dedicated,
// as many tasks as partitions, and producers that batch well and compress as the
// source does; more are further settings. The virtual machine has both compilers and its usual collector, other
// than the tests' brokers.
func (b *bench) mirrorMakerSpec(ctx context.Context, name string, partitions int, codec string, more ...string) process.Spec {
	b.t.Helper()
	java, err := cluster.Tools(ctx, "mirrormaker-4.3.1")
	b.must(err)
	java.Options = []string{"-Xms256m", "-Xmx1g", java.Options[len(java.Options)-1]}
	settings := filepath.Join(b.dir, "mm2-"+name+".properties")
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
west.producer.compression.type = %s
west.producer.batch.size = 131072
%s
`, b.address(0), b.address(1), name, partitions, codec, strings.Join(more, "\n")), 0o600))
	return java.Spec("mm2", "", "org.apache.kafka.connect.mirror.MirrorMaker", settings)
}

func (b *bench) address(site int) string { return strings.Join(b.sites[site].Bootstrap(), ",") }
