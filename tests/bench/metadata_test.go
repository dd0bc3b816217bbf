package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/conn"
	"spillway/federation/gatewaytest"
)

// A cluster of 100,000 partitions, and 1,000 clients that come at once.
const (
	manyTopics        = 1000
	partitionsOfTopic = 100
	manyClients       = 1000
	topicsOfClient    = 3
)

// BenchmarkMetadata has clients connect all at once and ask, each for its own topics, as
// applications do, and then some of them for all topics at once, as tools do. Gateway, site
// and clients are one process here, so the times are those of all three.
func BenchmarkMetadata(b *testing.B) {
	topics := make(map[string]int32, manyTopics)
	for i := range manyTopics {
		topics[fmt.Sprintf("topic-%04d", i)] = partitionsOfTopic
	}
	w := gatewaytest.Start(b, gatewaytest.Options{Topics: topics})
	ask := func(names ...string) *kmsg.MetadataRequest {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 12
		for _, name := range names {
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = &name
			req.Topics = append(req.Topics, t)
		}
		return req
	}
	storm(b, w.Addrs[0], 1, manyTopics*partitionsOfTopic, func(int) *kmsg.MetadataRequest { return ask() }) // learns all
	b.Run("own", func(b *testing.B) {
		for b.Loop() {
			storm(b, w.Addrs[0], manyClients, topicsOfClient*partitionsOfTopic, func(client int) *kmsg.MetadataRequest {
				var names []string
				for i := range topicsOfClient {
					names = append(names, fmt.Sprintf("topic-%04d", (client*topicsOfClient+i)%manyTopics))
				}
				return ask(names...)
			})
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			storm(b, w.Addrs[0], 20, manyTopics*partitionsOfTopic, func(int) *kmsg.MetadataRequest { return ask() })
		}
	})
}

// storm connects clients at once, each of which asks once, and reports how long they waited
// for their answers, with connection and without, and the memory that was in use.
func storm(b *testing.B, address string, clients, partitions int, request func(client int) *kmsg.MetadataRequest) {
	b.Helper()
	whole, answer := make([]time.Duration, clients), make([]time.Duration, clients)
	before := processorTime(b)
	heap := make(chan uint64)
	stop := make(chan struct{})
	go func() { heap <- highest(stop) }()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			begun := time.Now()
			c, err := conn.Open(b.Context(), conn.Config{Address: address, Node: -1, HandshakeTimeout: time.Minute})
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			asked := time.Now()
			resp, err := c.DoVersion(context.Background(), request(i))
			if err != nil {
				b.Error(err)
				return
			}
			whole[i], answer[i] = time.Since(begun), time.Since(asked)
			told := 0
			for _, t := range resp.(*kmsg.MetadataResponse).Topics {
				told += len(t.Partitions)
			}
			if told != partitions {
				b.Errorf("told of %d partitions, want %d", told, partitions)
			}
		})
	}
	all.Wait()
	close(stop)
	slices.Sort(whole)
	slices.Sort(answer)
	at := func(d []time.Duration, part float64) float64 {
		return d[int(part*float64(len(d)-1))].Seconds() * 1000
	}
	b.ReportMetric((processorTime(b)-before).Seconds()*1000/float64(clients), "cpu-ms/client")
	b.ReportMetric(at(answer, 0.5), "answer-p50-ms")
	b.ReportMetric(at(answer, 0.99), "answer-p99-ms")
	b.ReportMetric(at(whole, 0.99), "connected-and-answered-p99-ms")
	b.ReportMetric(float64(<-heap)/(1<<20), "heap-MiB")
}

// processorTime is what this process has used, in all of its threads.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// highest looks at the heap ten times a second.
func highest(stop <-chan struct{}) (bytes uint64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		bytes = max(bytes, m.HeapInuse)
		select {
		case <-stop:
			return bytes
		case <-tick.C:
		}
	}
}
