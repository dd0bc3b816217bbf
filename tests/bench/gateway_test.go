package bench

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation/gatewaytest"
)

// What a batch of the benchmarks holds: ten records of an order system.
const recordsOfBatch = 10

var (
	oneBatch   = makeBatch(100)
	batchBytes = len(oneBatch)
)

func makeBatch(valueBytes int) []byte {
	h := batch.Header{Magic: 2, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: 1_700_000_000_000}
	var records []batch.Record
	for i := range int32(recordsOfBatch) {
		records = append(records, batch.Record{OffsetDelta: i, Value: bytes.Repeat([]byte{byte('a' + i)}, valueBytes)})
	}
	b, err := batch.Rebuild(h, records, batch.None)
	if err != nil {
		panic(err)
	}
	return b
}

// pipelined is how many requests a connection has in flight, as clients do.
const pipelined = 5

// way is one of two ways to the same broker.
type way struct {
	conn    *conn.Conn
	request func(n int) kmsg.Request

	took            time.Duration
	mallocs, memory uint64
}

// run sends n requests and waits for their answers.
func (w *way) run(b *testing.B, n int) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	var pending []*conn.Pending
	for i := range n {
		if len(pending) == pipelined {
			w.wait(b, pending[0])
			pending = slices.Delete(pending, 0, 1)
		}
		req := w.request(i)
		pending = append(pending, w.conn.Send(context.Background(), req.Key(), req.GetVersion(), true, req.AppendTo(nil)))
	}
	for _, p := range pending {
		w.wait(b, p)
	}
	w.took += time.Since(begin)
	runtime.ReadMemStats(&after)
	w.mallocs += after.Mallocs - before.Mallocs
	w.memory += after.TotalAlloc - before.TotalAlloc
}

func (w *way) wait(b *testing.B, p *conn.Pending) {
	body, err := p.Wait(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	if len(body) < 20 {
		b.Fatalf("an answer of %d bytes", len(body))
	}
}

// compare takes turns, so that whatever else the machine does meets both ways.
func compare(b *testing.B, direct, gateway *way) {
	const turns = 10
	for _, w := range []*way{direct, gateway} {
		w.run(b, 50) // dials, learns
		w.took, w.mallocs, w.memory = 0, 0, 0
	}
	b.ReportAllocs()
	b.ResetTimer()
	for turn := range turns {
		n := b.N*(turn+1)/turns - b.N*turn/turns
		direct.run(b, n)
		gateway.run(b, n)
	}
	b.StopTimer()
	per := func(v float64) float64 { return v / float64(b.N) }
	b.ReportMetric(per(float64(direct.took)), "direct-ns/op")
	b.ReportMetric(per(float64(gateway.took)), "gateway-ns/op")
	b.ReportMetric(float64(gateway.took)/float64(direct.took), "ratio")
	b.ReportMetric(per(float64(gateway.mallocs)-float64(direct.mallocs)), "added-allocs/op")
	b.ReportMetric(per(float64(gateway.memory)-float64(direct.memory)), "added-B/op")
}

func open(b *testing.B, address string) *conn.Conn {
	c, err := conn.Open(b.Context(), conn.Config{Address: address, Node: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

func world(b *testing.B, site gatewaytest.RealSite) *gatewaytest.World {
	return gatewaytest.Start(b, gatewaytest.Options{Topics: map[string]int32{topic: 1}, Real: map[spillway.SiteID]gatewaytest.RealSite{"east": site}})
}

func BenchmarkProduce(b *testing.B) {
	for _, size := range []int{100, 6 << 10} {
		b.Run(fmt.Sprintf("%dKiB", max(1, size*recordsOfBatch>>10)), func(b *testing.B) {
			site := nullSite(b, nil)
			w := world(b, site)
			records := makeBatch(size)
			request := func() func(int) kmsg.Request {
				sequence := int32(0)
				return func(int) kmsg.Request {
					set := bytes.Clone(records)
					batch.SetProducer(set, spillway.ClientProducerID(1), 0, sequence)
					sequence += recordsOfBatch
					req := kmsg.NewPtrProduceRequest()
					rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
					rt.Topic, rp.Records = topic, set
					rt.Partitions = []kmsg.ProduceRequestTopicPartition{rp}
					req.Version, req.Acks, req.TimeoutMillis, req.Topics = 9, -1, 30_000, []kmsg.ProduceRequestTopic{rt}
					return req
				}
			}
			compare(b, &way{conn: open(b, site.Config.Bootstrap[0]), request: request()}, &way{conn: open(b, w.Addrs[0]), request: request()})
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{16 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			site := nullSite(b, bytes.Repeat(oneBatch, max(1, size/batchBytes)))
			w := world(b, site)
			request := func(base int64) func(int) kmsg.Request {
				return func(n int) kmsg.Request {
					req := kmsg.NewPtrFetchRequest()
					rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
					rt.Topic, rp.FetchOffset, rp.PartitionMaxBytes = topic, base+int64(n)*recordsOfBatch, 8<<20
					rt.Partitions = []kmsg.FetchRequestTopicPartition{rp}
					req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, 500, 1, 8<<20, -1
					req.Topics = []kmsg.FetchRequestTopic{rt}
					return req
				}
			}
			compare(b, &way{conn: open(b, site.Config.Bootstrap[0]), request: request(0)}, &way{conn: open(b, w.Addrs[0]), request: request(gatewaytest.OffsetBase)})
		})
	}
}
