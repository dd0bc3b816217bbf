//go:build e2e

package gateways

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/tests/bench/report"
	"spillway/tests/cluster/process"
)

const (
	produceVersion = 9
	fetchVersion   = 12

	turns    = 10       // of each contender; what else the machine does meets all of them
	inFlight = 5        // requests of a connection, as clients do
	perTurn  = 64 << 20 // bytes of all connections
	fetchMax = 1 << 20  // of a partition, as clients do

	bulkRecords = 64 // of 1 KiB
)

// bulkBatch is what a busy producer sends, and smallBatch what one sends that does not
// linger: their bytes do not compress.
var (
	bulkBatch  = makeBatch(bulkRecords, 1<<10)
	smallBatch = makeBatch(1, 100)
)

func makeBatch(records, valueBytes int) []byte {
	random := rand.NewChaCha8([32]byte{1})
	all := make([]batch.Record, records)
	for i := range all {
		value := make([]byte, valueBytes)
		_, _ = random.Read(value) // it never fails
		all[i] = batch.Record{OffsetDelta: int32(i), Value: value}
	}
	now := time.Now().UnixMilli()
	b, err := batch.Rebuild(batch.Header{Magic: 2, BaseTimestamp: now, MaxTimestamp: now, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, all, batch.None)
	if err != nil {
		panic(err)
	}
	return b
}

func produceRequest(topic string, partition int32, records []byte) []byte {
	req := kmsg.NewPtrProduceRequest()
	rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, records
	rt.Topic, rt.Partitions = topic, []kmsg.ProduceRequestTopicPartition{rp}
	req.Version, req.Acks, req.TimeoutMillis, req.Topics = produceVersion, -1, 30_000, []kmsg.ProduceRequestTopic{rt}
	return req.AppendTo(nil)
}

func produced(answer []byte) error {
	resp := kmsg.ProduceResponse{Version: produceVersion}
	if err := resp.ReadFrom(answer); err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
}

func fetchRequest(topic string, partition int32, offset int64) []byte {
	req := kmsg.NewPtrFetchRequest()
	rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, offset, fetchMax
	rt.Topic, rt.Partitions = topic, []kmsg.FetchRequestTopicPartition{rp}
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = fetchVersion, 500, 1, 50<<20, -1
	req.Topics = []kmsg.FetchRequestTopic{rt}
	return req.AppendTo(nil)
}

// spent is what a contender took in all its turns.
type spent struct {
	took, cpu time.Duration
	bytes     int64
	requests  int64
	delays    []time.Duration
}

func (s spent) mbPerSecond() float64   { return float64(s.bytes) / 1e6 / s.took.Seconds() }
func (s spent) cpuPerGiB() float64     { return s.cpu.Seconds() / (float64(s.bytes) / (1 << 30)) }
func (s spent) perSecond() float64     { return float64(s.requests) / s.took.Seconds() }
func (s spent) cpuPerRequest() float64 { return float64(s.cpu.Microseconds()) / float64(s.requests) }

func (s spent) quantile(q float64) float64 {
	return float64(s.delays[min(len(s.delays)-1, int(q*float64(len(s.delays))))].Microseconds()) / 1000
}

// takeTurns lets each contender work for a turn after the other, and adds up.
func takeTurns(t *testing.T, all []contender, n int, turn func(c contender, s *spent) error) map[string]*spent {
	t.Helper()
	sums := make(map[string]*spent)
	for range n {
		for _, c := range all {
			s := sums[c.name]
			if s == nil {
				s = &spent{}
				sums[c.name] = s
			}
			before, began := c.use(), time.Now()
			if err := turn(c, s); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			s.took += time.Since(began)
			s.cpu += c.use().CPU - before.CPU
		}
	}
	for _, s := range sums {
		slices.Sort(s.delays)
	}
	return sums
}

// together has each of n connections work by itself, and returns the first error.
func together(ctx context.Context, c contender, n int, work func(i int, to *conn.Conn) error) error {
	failed := make(chan error, n)
	var working sync.WaitGroup
	for i := range n {
		working.Go(func() {
			to, err := c.dial(ctx)
			if err == nil {
				defer to.Close()
				err = work(i, to)
			}
			failed <- err
		})
	}
	working.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestBulk writes and reads as fast as four connections can.
func TestBulk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	all := start(t, ctx)
	write := func(c contender, s *spent) error {
		n := perTurn / partitions / len(bulkBatch)
		s.bytes += int64(n * partitions * len(bulkBatch))
		return together(ctx, c, partitions, func(i int, to *conn.Conn) error {
			return pipeline(ctx, to, n, produceRequest(c.topic(), int32(i), bulkBatch))
		})
	}
	takeTurns(t, all, 1, write) // files, heaps and compilers grow warm
	tell(all, "bulk produce, 64 KiB batches", takeTurns(t, all, turns, write))

	at := make(map[string]*[partitions]int64)
	for _, c := range all {
		starts := c.starts(t, ctx)
		for p := range starts {
			starts[p]++ // the small batch that showed that it serves
		}
		at[c.name] = &starts
	}
	tell(all, "bulk consume, 1 MiB fetches", takeTurns(t, all, turns, func(c contender, s *spent) error {
		var mu sync.Mutex
		return together(ctx, c, partitions, func(i int, to *conn.Conn) error {
			n, err := follow(ctx, to, c.topic(), int32(i), &at[c.name][i], perTurn/partitions)
			mu.Lock()
			defer mu.Unlock()
			s.bytes += n
			return err
		})
	}))
}

func tell(all []contender, what string, sums map[string]*spent) {
	told.Tell(what, "throughput", "MB/s", by(all, func(c contender) float64 { return sums[c.name].mbPerSecond() }), report.AtLeast(0.95, haproxy), report.AtLeast(0.9, direct))
	told.Tell(what, "processor of the proxy", "s per GiB", by(proxies(all), func(c contender) float64 { return sums[c.name].cpuPerGiB() }), report.AtMost(1.3, haproxy))
}

// pipeline sends a request n times and waits for all answers.
func pipeline(ctx context.Context, to *conn.Conn, n int, request []byte) error {
	var pending []*conn.Pending
	wait := func() error {
		answer, err := pending[0].Wait(ctx)
		pending = pending[1:]
		if err != nil {
			return err
		}
		return produced(answer)
	}
	for range n {
		if len(pending) == inFlight {
			if err := wait(); err != nil {
				return err
			}
		}
		pending = append(pending, to.Send(ctx, 0, produceVersion, true, request))
	}
	for len(pending) > 0 {
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

// follow reads so many bytes of bulk batches from an offset on, which it moves, one
// request after the other as consumers do.
func follow(ctx context.Context, to *conn.Conn, topic string, partition int32, offset *int64, want int) (n int64, err error) {
	to.Expect(fetchMax + 1<<20)
	for n < int64(want-len(bulkBatch)) {
		answer, err := to.Send(ctx, 1, fetchVersion, true, fetchRequest(topic, partition, *offset)).Wait(ctx)
		if err != nil {
			return n, err
		}
		resp := kmsg.FetchResponse{Version: fetchVersion}
		if err := resp.ReadFrom(answer); err != nil {
			return n, err
		}
		p := resp.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return n, err
		}
		whole := len(p.RecordBatches) / len(bulkBatch)
		if whole == 0 {
			return n, fmt.Errorf("%s-%d has %d bytes at offset %d", topic, partition, len(p.RecordBatches), *offset)
		}
		if h, _, err := batch.Parse(p.RecordBatches); err != nil || h.BaseOffset != *offset {
			return n, fmt.Errorf("%s-%d: a batch at offset %d, want %d: %w", topic, partition, h.BaseOffset, *offset, err)
		}
		*offset += int64(whole) * bulkRecords
		n += int64(whole * len(bulkBatch))
	}
	return n, nil
}

// TestSmall sends records of 100 bytes that nobody lets linger: one connection at half of
// what it can do, and a hundred that are busy.
func TestSmall(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	all := start(t, ctx)
	const turnFor = 2 * time.Second
	one := func(c contender, s *spent) error {
		return together(ctx, c, 1, func(_ int, to *conn.Conn) error { return paced(ctx, to, c.topic(), turnFor, 0, s) })
	}
	takeTurns(t, all, 1, one)
	most := takeTurns(t, all, 2, one)
	pause := time.Duration(2 * float64(most[direct].took) / float64(most[direct].requests))
	half := takeTurns(t, all, turns, func(c contender, s *spent) error {
		return together(ctx, c, 1, func(_ int, to *conn.Conn) error { return paced(ctx, to, c.topic(), turnFor, pause, s) })
	})
	what := fmt.Sprintf("100 B records, one connection, %.0f requests/s", float64(time.Second)/float64(pause))
	for _, q := range []struct {
		name string
		at   float64
		goal float64 // added, ms
	}{{"p50", 0.5, 0.2}, {"p99", 0.99, 1}} {
		told.Tell(what, "time to the answer, "+q.name, "ms", by(all, func(c contender) float64 { return half[c.name].quantile(q.at) }), report.Beside(direct), report.Beside(haproxy))
		added := by(proxies(all), func(c contender) float64 { return half[c.name].quantile(q.at) - half[direct].quantile(q.at) })
		told.Tell(what, "added to direct, "+q.name, "ms", added, report.Below(q.goal))
	}

	const busy = 100
	many := takeTurns(t, all, turns/2, func(c contender, s *spent) error {
		var mu sync.Mutex
		return together(ctx, c, busy, func(i int, to *conn.Conn) error {
			var mine spent
			err := paced(ctx, to, c.topic(), turnFor, 0, &mine)
			mu.Lock()
			defer mu.Unlock()
			s.requests += mine.requests
			s.delays = append(s.delays, mine.delays...)
			return err
		})
	})
	what = fmt.Sprintf("100 B records, %d busy connections", busy)
	told.Tell(what, "requests", "1/s", by(all, func(c contender) float64 { return many[c.name].perSecond() }), report.Beside(haproxy), report.Beside(direct))
	told.Tell(what, "time to the answer, p99", "ms", by(all, func(c contender) float64 { return many[c.name].quantile(0.99) }), report.Beside(haproxy), report.Beside(direct))
	told.Tell(what, "processor of the proxy", "µs per request", by(proxies(all), func(c contender) float64 { return many[c.name].cpuPerRequest() }), report.Beside(haproxy))
}

// paced sends a small batch for a time: the next one at its time, whether the last is
// answered or not, as far as inFlight allows; or, without a pause, when the last is
// answered. It notes how long each took from when it was due, without what the sleep took
// too long.
func paced(ctx context.Context, to *conn.Conn, topic string, d, pause time.Duration, s *spent) error {
	type sent struct {
		from    time.Time
		pending *conn.Pending
	}
	request, began := produceRequest(topic, 0, smallBatch), time.Now()
	onTheWay, answered := make(chan sent, inFlight), make(chan error, 1)
	take := func(one sent) error {
		answer, err := one.pending.Wait(ctx)
		if err != nil {
			return err
		}
		s.requests++
		s.delays = append(s.delays, time.Since(one.from))
		return produced(answer)
	}
	go func() {
		var failed error
		for one := range onTheWay {
			if err := take(one); failed == nil {
				failed = err
			}
		}
		answered <- failed
	}()
	for due := began; due.Sub(began) < d; due = due.Add(pause) {
		if pause == 0 {
			due = time.Now()
		}
		from := due
		if left := time.Until(due); left > 0 {
			time.Sleep(left)
			from = time.Now()
		}
		one := sent{from, to.Send(ctx, 0, produceVersion, true, request)}
		if pause == 0 {
			if err := take(one); err != nil {
				close(onTheWay)
				return err
			}
			continue
		}
		onTheWay <- one
	}
	close(onTheWay)
	return <-answered
}

// TestIdle opens connections that ask once what clients ask first, and then nothing.
func TestIdle(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	some := proxies(start(t, ctx))
	for _, n := range []int{1000, 9000} {
		grown := make(map[string]process.Usage)
		for _, c := range some {
			before := c.use()
			open := make([]*conn.Conn, n)
			must(t, openAll(ctx, c, open))
			time.Sleep(10 * time.Second) // buffers of what was asked are given back
			after := c.use()
			grown[c.name] = process.Usage{ResidentKiB: after.ResidentKiB - before.ResidentKiB}
			for _, o := range open {
				must(t, o.Close())
			}
			time.Sleep(5 * time.Second)
		}
		told.Tell(fmt.Sprintf("%d idle connections", n), "memory of the proxy", "KiB per connection",
			by(some, func(c contender) float64 { return float64(grown[c.name].ResidentKiB) / float64(n) }), report.Below(24), report.Beside(haproxy))
	}
}

// openAll opens connections, a few at a time, each of which asks for metadata.
func openAll(ctx context.Context, c contender, open []*conn.Conn) error {
	slots, failed := make(chan struct{}, 32), make(chan error, len(open))
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 9
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(c.topic())
	req.Topics = []kmsg.MetadataRequestTopic{rt}
	body := bytes.Clone(req.AppendTo(nil))
	var opening sync.WaitGroup
	for i := range open {
		slots <- struct{}{}
		opening.Go(func() {
			defer func() { <-slots }()
			var err error
			if open[i], err = c.dial(ctx); err == nil {
				_, err = open[i].Send(ctx, 3, 9, true, body).Wait(ctx)
			}
			failed <- err
		})
	}
	opening.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}
