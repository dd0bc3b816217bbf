//go:build e2e

package mirrors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/kafka"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
	"spillway/tests/bench/report"
	cluster "spillway/tests/cluster/kafka"
)

const (
	mapRecords    = 100_000_000
	inTransaction = 10 // then a marker, which the target does not have
	// mapFetched is how many transactions one fetch brings: 2 MiB of records of 100 bytes.
	mapFetched = 2_000
	translated = 200_000
)

// TestMap writes down, reads, and asks an offset map of a hundred million records in
// transactions of ten, by the functions by which mirrors and gateways do. Bytes are those
// of the batches that go into the map topic.
func TestMap(t *testing.T) {
	tp := spillway.TopicPartition{Topic: "orders", Partition: 3}
	before := heap()
	m, bytes, ranges, peak := writtenMap(t, tp)
	resident := heap() - before
	view := m.View()
	if last, _ := view.Last(); int64(last.LocalEnd()) != mapRecords-mapFetched*inTransaction {
		t.Fatalf("the map ends at %d", last.LocalEnd())
	}
	random := rand.New(rand.NewPCG(1, 2))
	took := make([]time.Duration, 0, 2*translated)
	for range translated {
		local := random.Int64N(int64(mapRecords - mapFetched*inTransaction))
		want := spillway.Offset(local/inTransaction*(inTransaction+1) + local%inTransaction)
		began := time.Now()
		virtual, _ := view.ToVirtual(spillway.LocalOffset(local))
		between := time.Now()
		back, _ := view.ToLocal(virtual)
		took = append(took, between.Sub(began), time.Since(between))
		if virtual != want || int64(back) != local {
			t.Fatalf("offset %d is %d, and that is %d", local, virtual, back)
		}
	}
	slices.Sort(took)
	const data = "100 M records in transactions of 10"
	told.Tell(data, "offset map in the topic", "bytes per range", map[string]float64{ours: float64(bytes) / float64(ranges)}, report.Below(3))
	told.Tell(data, "offset map in memory", "MB", map[string]float64{ours: float64(resident) / 1e6}, report.Below(64))
	told.Tell(data, "the same at most while it is read", "MB", map[string]float64{ours: float64(peak-before) / 1e6}, report.Below(64))
	told.Tell(data, "translation, median", "µs", map[string]float64{ours: took[len(took)/2].Seconds() * 1e6})
	told.Tell(data, "translation, p99", "µs", map[string]float64{ours: took[len(took)*99/100].Seconds() * 1e6}, report.Below(5))
	runtime.KeepAlive(m)
}

// heap is what is in use, garbage left out.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// writtenMap saves what each fetch brings and reads it again.
func writtenMap(t *testing.T, tp spillway.TopicPartition) (m *offsetmap.Map, bytes, ranges, peak int64) {
	t.Helper()
	m = offsetmap.New()
	session := offsetmap.Session{Session: 1, Worker: "worker-4711-ABCDEF", ProducerID: spillway.MirrorProducerID(1), Opened: true}
	m.Apply(session)
	c := &offsetmap.Chunk{Session: 1, Worker: session.Worker}
	for from := int64(0); from < mapRecords; from += mapFetched * inTransaction {
		c.First, c.Sequence, c.Ranges = spillway.LocalOffset(from), int32(from%(1<<31)), c.Ranges[:0]
		for i := range int64(mapFetched) {
			local := from + i*inTransaction
			c.Ranges = append(c.Ranges, offsetmap.Range{Epoch: 1, Virtual: spillway.Offset(local / inTransaction * (inTransaction + 1)), Local: spillway.LocalOffset(local), Length: inTransaction})
		}
		e := maptopic.ChunkEntry(tp, c)
		bytes += int64(len(stored(t, e)))
		ranges += mapFetched
		read, err := offsetmap.DecodeChunk(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(read)
		if from/(mapFetched*inTransaction)%500 == 0 {
			peak = max(peak, heap())
		}
	}
	return m, bytes, ranges, peak
}

// stored is an entry as it lies in the topic.
func stored(t *testing.T, e maptopic.Entry) []byte {
	t.Helper()
	h := batch.Header{BaseTimestamp: time.Now().UnixMilli(), LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	b, err := batch.Rebuild(h, []batch.Record{{Key: []byte(e.Key), Value: e.Value}}, batch.None)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	kafkaPartitions   = 4
	kafkaTransactions = 400 // of each partition
)

// TestMapOnKafka has spillway carry transactions between real clusters, and compares what
// lies in the map topic with what TestMap counts.
func TestMapOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	sites := cluster.ForTest(t, cluster.Config{Name: "east"}, cluster.Config{Name: "west", FirstNode: 11})
	b := &bench{t: t, sites: sites, dir: t.TempDir(), admin: kadm.NewClient(client(t, sites[1].Dial()...))}
	b.program = b.build(ctx)
	b.transactions(ctx, "orders")
	out, err := exec.CommandContext(ctx, b.program, "mirror", "run", "--from", b.address(0), "--to", b.address(1), "--topics", "orders", "--until-caught-up").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	west, err := kafka.New(kafka.Config{Site: "west", Bootstrap: sites[1].Bootstrap()})
	b.must(err)
	defer func() { b.must(west.Close()) }()
	topic := spillway.TopicPartition{Topic: spillway.MapTopic}
	ends, err := west.Admin().HighWatermarks(ctx, []spillway.TopicPartition{topic})
	b.must(err)
	whole, chunks, counted, ranges := int64(0), int64(0), int64(0), int64(0)
	b.must(sitelog.Scan(ctx, west, topic, 0, ends[topic], func(lies sitelog.Batch) error {
		whole += int64(len(lies.Bytes))
		records, err := batch.Records(lies.Bytes, 64<<20)
		if err != nil {
			return err
		}
		for _, r := range records {
			if !strings.HasPrefix(string(r.Key), "r/orders/") {
				continue
			}
			c, err := offsetmap.DecodeChunk(r.Value)
			if err != nil {
				return err
			}
			entry := maptopic.ChunkEntry(spillway.TopicPartition{Topic: "orders"}, c)
			if string(entry.Value) != string(r.Value) {
				t.Errorf("a chunk of %d ranges is %d bytes there, and %d here", len(c.Ranges), len(r.Value), len(entry.Value))
			}
			ranges += int64(len(c.Ranges))
			chunks += int64(len(r.Key) + len(r.Value))
			counted += int64(len(entry.Key) + len(entry.Value))
		}
		return nil
	}))
	if want := int64(kafkaPartitions * kafkaTransactions); ranges < want*9/10 {
		t.Errorf("the map has %d ranges of %d transactions", ranges, want)
	}
	dirs, err := b.admin.DescribeAllLogDirs(ctx, nil)
	b.must(err)
	disk := int64(0)
	dirs.Each(func(dir kadm.DescribedLogDir) {
		dir.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == spillway.MapTopic {
				disk += p.Size
			}
		})
	})
	data := fmt.Sprintf("%d records in transactions of 10, on Kafka", kafkaPartitions*kafkaTransactions*inTransaction)
	told.Tell(data, "chunks, as they lie there", "bytes per range", map[string]float64{ours: float64(chunks) / float64(ranges)})
	told.Tell(data, "chunks, as they are counted", "bytes per range", map[string]float64{ours: float64(counted) / float64(ranges)})
	told.Tell(data, "map topic in all, by its batches", "KiB", map[string]float64{ours: float64(whole) / 1024})
	told.Tell(data, "map topic in all, on disk", "KiB", map[string]float64{ours: float64(disk) / 1024})
	if whole != disk || chunks != counted {
		t.Errorf("what lies there is not what is counted")
	}
}

// transactions writes them to a new topic of the source, one behind the other in each
// partition. Each record has another value.
func (b *bench) transactions(ctx context.Context, topic string) {
	b.t.Helper()
	_, err := kadm.NewClient(client(b.t, b.sites[0].Dial()...)).CreateTopic(ctx, kafkaPartitions, 1, nil, topic)
	b.must(err)
	faults := make(chan error, kafkaPartitions)
	for p := range int32(kafkaPartitions) {
		c := client(b.t, append(b.sites[0].Dial(), kgo.TransactionalID(fmt.Sprint(topic, "-", p)), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))...)
		go func() {
			for n := range kafkaTransactions {
				err := c.BeginTransaction()
				for i := 0; i < inTransaction && err == nil; i++ {
					c.Produce(ctx, &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d-%d-%d", p, n, i)}, nil)
				}
				if err == nil {
					err = errors.Join(c.Flush(ctx), c.EndTransaction(ctx, kgo.TryCommit))
				}
				if err != nil {
					faults <- err
					return
				}
			}
			faults <- nil
		}()
	}
	for range kafkaPartitions {
		b.must(<-faults)
	}
}
