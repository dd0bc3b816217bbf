//go:build e2e

package mirrors

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
)

var manyTopics = flag.Int("topics", 1000, "topics of TestMany, of ten partitions each")

const (
	manyPartitions = 10 // of a topic
	manyActive     = 100
	manyMax        = 20 * time.Minute // for all topics to be at the target
	restFor        = time.Minute
	restSettle     = 30 * time.Second // until what began is over
	activeSettle   = 20 * time.Second
	activeFor      = time.Minute
)

// TestMany has spillway follow a thousand topics of ten partitions, and measures how long
// it takes until all are there, what it costs while nobody writes, and how long records
// take while one partition in a hundred gets one a second.
func TestMany(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
	defer cancel()
	// An index of each partition is mapped in its full size.
	properties := map[string]string{"log.index.size.max.bytes": strconv.Itoa(64 << 10)}
	// The tests' collector stops a heap of this size for a second, and their compiler
	// makes slow code fast: brokers that live long have others.
	options := []string{"-XX:-UseSerialGC", "-XX:+UseG1GC", "-XX:TieredStopAtLevel=4"}
	sites := cluster.ForTest(t,
		cluster.Config{Name: "east", HeapMB: 1024, Properties: properties, Options: options},
		cluster.Config{Name: "west", FirstNode: 11, HeapMB: 1024, Properties: properties, Options: options})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	data := fmt.Sprintf("%d topics × %d partitions", *manyTopics, manyPartitions)
	m := &many{bench: b, log: filepath.Join(b.dir, "spillway.log")}
	m.create(ctx)

	p, took := m.start(ctx)
	told.Tell(data, "start to the last partition's first record; a plain client only creates the topics", "s", map[string]float64{plainCopy: m.created.Seconds(), ours: took.Seconds()}, report.Beside(plainCopy))
	time.Sleep(restSettle)
	rest := m.cost(p, restFor)
	told.Tell(data, "at rest, processor", "% of a core", map[string]float64{ours: rest.cores * 100}, report.Below(2))
	rest.tell(data + ", at rest")

	delays, first, cost := m.active(ctx, p)
	told.Tell(data, "first record after a rest, median", "ms", map[string]float64{ours: ms(first[len(first)/2])})
	told.Tell(data, "first record after a rest, p99", "ms", map[string]float64{ours: ms(first[len(first)*99/100])})
	told.Tell(data, "1 % active, delay, median", "ms", map[string]float64{ours: ms(delays[len(delays)/2])})
	told.Tell(data, "1 % active, delay, p99", "ms", map[string]float64{ours: ms(delays[len(delays)*99/100])}, report.Below(50))
	told.Tell(data, "1 % active, processor", "% of a core", map[string]float64{ours: cost.cores * 100})
	cost.tell(data + ", 1 % active")
	used, _ := process.Use(p.Pid())
	told.Tell(data, "resident at most", "MiB", map[string]float64{ours: float64(used.ResidentMostKiB) / 1024})

	m.must(p.Kill())
	_, took = m.start(ctx)
	told.Tell(data, "start after kill -9 to the last partition's next record", "s", map[string]float64{ours: took.Seconds()})
}

// many is a bench with many topics.
type many struct {
	*bench
	log    string
	source *kgo.Client
	names  []string
	// created is how long a plain client took to create all topics, until their leaders
	// had them.
	created time.Duration
}

func (m *many) create(ctx context.Context) {
	m.t.Helper()
	for i := range *manyTopics {
		m.names = append(m.names, fmt.Sprintf("many-%04d", i))
	}
	m.source = client(m.t, append(m.sites[0].Dial(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))...)
	admin := kadm.NewClient(m.source)
	began := time.Now()
	for some := range slices.Chunk(m.names, 50) {
		made, err := admin.CreateTopics(ctx, manyPartitions, 1, nil, some...)
		m.must(err)
		for _, topic := range made {
			m.must(topic.Err)
		}
	}
	for {
		ends, err := admin.ListEndOffsets(ctx, m.names...)
		m.must(err)
		if made := len(ends.Offsets()); made == len(m.names) && ends.Error() == nil {
			break
		}
		time.Sleep(time.Second)
	}
	m.created = time.Since(began)
}

// write puts one record into each of the partitions: its time.
func (m *many) write(ctx context.Context, tps []spillway.TopicPartition) {
	for _, tp := range tps {
		value := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
		m.source.Produce(ctx, &kgo.Record{Topic: tp.Topic, Partition: tp.Partition, Value: value}, func(r *kgo.Record, err error) {
			if err != nil && ctx.Err() == nil {
				m.t.Errorf("write to %s-%d: %v", r.Topic, r.Partition, err)
			}
		})
	}
}

// all are all partitions, or every so many-th.
func (m *many) all(every int) (tps []spillway.TopicPartition) {
	for i := 0; i < len(m.names)*manyPartitions; i += every {
		tps = append(tps, spillway.TopicPartition{Topic: m.names[i/manyPartitions], Partition: int32(i/every) % manyPartitions})
	}
	return tps
}

// start writes into each partition, starts spillway, and waits until all is there.
func (m *many) start(ctx context.Context) (*process.Process, time.Duration) {
	m.t.Helper()
	var tps []spillway.TopicPartition
	for _, name := range m.names {
		for p := range int32(manyPartitions) {
			tps = append(tps, spillway.TopicPartition{Topic: name, Partition: p})
		}
	}
	m.write(ctx, tps)
	m.must(m.source.Flush(ctx))
	ends, err := kadm.NewClient(m.source).ListEndOffsets(ctx, m.names...)
	m.must(err)
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })

	spec := m.spillwaySpec("many-.*")
	spec.Name, spec.Log = ours, m.log
	began := time.Now()
	p, err := process.Start(spec)
	m.must(err)
	m.t.Cleanup(func() { m.must(p.Kill()) })
	for time.Since(began) < manyMax {
		time.Sleep(500 * time.Millisecond)
		ends, err := m.admin.ListEndOffsets(ctx, m.names...)
		m.must(err)
		n := int64(0)
		ends.Each(func(o kadm.ListedOffset) {
			if o.Err == nil {
				n += o.Offset
			}
		})
		if n >= want {
			return p, time.Since(began)
		}
		if _, lives := process.Use(p.Pid()); !lives {
			break
		}
	}
	m.t.Fatalf("not all partitions are at the target after %s:\n%s", time.Since(began), p.Tail(30))
	return nil, 0
}

// costs of a time, by second.
type costs struct {
	cores         float64
	brokers       [2]float64 // cores of source and target
	calls         float64    // of write: requests, and what wakes the process
	read, written float64    // bytes
}

func (c costs) tell(data string) {
	told.Tell(data, "processor of the source", "% of a core", map[string]float64{ours: c.brokers[0] * 100})
	told.Tell(data, "processor of the target", "% of a core", map[string]float64{ours: c.brokers[1] * 100})
	told.Tell(data, "writes", "1/s", map[string]float64{ours: c.calls})
	told.Tell(data, "bytes read", "KiB/s", map[string]float64{ours: c.read / 1024})
	told.Tell(data, "bytes written", "KiB/s", map[string]float64{ours: c.written / 1024})
}

// cost looks at the process and both brokers for a time.
func (m *many) cost(p *process.Process, d time.Duration) costs {
	m.t.Helper()
	pids := []int{p.Pid(), m.sites[0].Brokers[0].Pid(), m.sites[1].Brokers[0].Pid()}
	var before, after [3]process.Usage
	began, io := time.Now(), traffic(p.Pid())
	for i, pid := range pids {
		before[i], _ = process.Use(pid)
	}
	time.Sleep(d)
	took := time.Since(began).Seconds()
	for i, pid := range pids {
		after[i], _ = process.Use(pid)
	}
	now := traffic(p.Pid())
	cores := func(i int) float64 { return (after[i].CPU - before[i].CPU).Seconds() / took }
	by := func(what string) float64 { return float64(now[what]-io[what]) / took }
	return costs{cores: cores(0), brokers: [2]float64{cores(1), cores(2)}, calls: by("syscw"), read: by("rchar"), written: by("wchar")}
}

// traffic is what the kernel counts of reads and writes of a process, sockets included.
func traffic(pid int) map[string]int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)) // none: all is 0
	counts := make(map[string]int64)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			counts[name], _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return counts
}

// active writes one record a second into one partition in a hundred, evenly over the
// second, and reads them at the target.
func (m *many) active(ctx context.Context, p *process.Process) (delays, first []time.Duration, cost costs) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tps := m.all(manyActive)
	from := make(map[string]map[int32]kgo.Offset)
	for _, tp := range tps {
		if from[tp.Topic] == nil {
			from[tp.Topic] = make(map[int32]kgo.Offset)
		}
		from[tp.Topic][tp.Partition] = kgo.NewOffset().AtEnd()
	}
	reader := client(m.t, append(m.sites[1].Dial(), kgo.ConsumePartitions(from), kgo.FetchMaxWait(100*time.Millisecond))...)
	for range 5 { // until it asks for all of them
		poll, done := context.WithTimeout(ctx, time.Second)
		reader.PollFetches(poll)
		done()
	}
	began := time.Now()
	go m.trickle(ctx, tps, began)
	costed := make(chan costs, 1)
	time.AfterFunc(activeSettle, func() { costed <- m.cost(p, activeFor) })
	seen := make(map[spillway.TopicPartition]bool)
	for time.Since(began) < activeSettle+activeFor {
		poll, done := context.WithTimeout(ctx, 100*time.Millisecond)
		fetches := reader.PollFetches(poll)
		done()
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			at := time.Unix(0, int64(binary.BigEndian.Uint64(r.Value)))
			tp := spillway.TopicPartition{Topic: r.Topic, Partition: r.Partition}
			switch {
			case !seen[tp]:
				seen[tp] = true
				first = append(first, now.Sub(at))
			case at.Sub(began) > activeSettle:
				delays = append(delays, now.Sub(at))
			}
		})
	}
	cost = <-costed
	if len(seen) < len(tps) || len(delays) == 0 {
		m.t.Fatalf("records of %d of %d partitions came, %d while it was measured:\n%s", len(seen), len(tps), len(delays), p.Tail(30))
	}
	slices.Sort(delays)
	slices.Sort(first)
	return delays, first, cost
}

func (m *many) trickle(ctx context.Context, tps []spillway.TopicPartition, began time.Time) {
	pause := time.Second / time.Duration(len(tps))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for due := int(time.Since(began) / pause); n < due; n++ {
			m.write(context.WithoutCancel(ctx), tps[n%len(tps):][:1])
		}
	}
}
