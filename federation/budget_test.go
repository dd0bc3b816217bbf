package federation_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation"
	"spillway/federation/gatewaytest"
)

// fetchRequest asks for as much as a client may.
func fetchRequest(at int64, wait time.Duration) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 12, int32(wait.Milliseconds()), 1, 1<<30, -1
	rt, rp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	rt.Topic, rp.FetchOffset, rp.PartitionMaxBytes = "orders", at, 1<<30
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

// budgetWorld has a topic of 4 MiB and a budget of 4 MiB; held follows what the
// gateway counts.
func budgetWorld(t *testing.T) (w *gatewaytest.World, held, limited *atomic.Int64) {
	held, limited = &atomic.Int64{}, &atomic.Int64{}
	w = gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		c.BudgetBytesMax = 4 << 20
		c.Events.Session.BytesHeld = func(more int64) { held.Add(more) }
		c.Events.Router.FetchLimited = func() { limited.Add(1) }
	}})
	writer := client(t, w, kgo.ProducerBatchCompression(kgo.NoCompression()))
	for range 256 {
		if err := writer.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: bytes.Repeat([]byte("x"), 16<<10)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return w, held, limited
}

// Readers that ask for everything and then take nothing pin what the budget
// has for answers and no more; others go on reading and writing.
func TestSlowReadersPinNoMoreThanTheBudget(t *testing.T) {
	t.Parallel()
	w, held, limited := budgetWorld(t)
	req := fetchRequest(gatewaytest.OffsetBase, 0)
	ask := request(req, req.AppendTo(nil))
	const readers, taken, left = 12, 8, 40
	for range readers {
		conn, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		deadline(t, conn, soon)
		for range taken { // so that the gateway expects much
			if _, err := conn.Write(ask); err != nil {
				t.Fatal(err)
			}
			var size [4]byte
			if _, err := io.ReadFull(conn, size[:]); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(size[:]))); err != nil {
				t.Fatal(err)
			}
		}
		// More than the buffers of the system take, which are not the process'.
		if _, err := conn.Write(bytes.Repeat(ask, left)); err != nil {
			t.Fatal(err)
		}
	}
	gatewaytest.Eventually(t, "readers pin what there is", func() bool { return held.Load() > 1<<20 && limited.Load() > 0 })
	const free = 96 << 10 // what a fetch may always ask for, and a batch
	for range 100 {
		if n, most := held.Load(), int64(2<<20+readers*free); n > most {
			t.Fatalf("%d readers pin %d bytes; the budget has room for %d", readers, n, most)
		}
		time.Sleep(5 * time.Millisecond)
	}
	good := client(t, w, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().At(gatewaytest.OffsetBase)}}))
	if err := good.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Error(err)
	}
	read(t, good, 257)
}

// A fetch that waits for records keeps no room for them, also if its client
// has just read a lot.
func TestAWaitingFetchCostsNothing(t *testing.T) {
	t.Parallel()
	w, held, _ := budgetWorld(t)
	c := raw(t, w.Addrs[0])
	next := int64(gatewaytest.OffsetBase)
	for next < gatewaytest.OffsetBase+256 {
		p := do[*kmsg.FetchResponse](t, c, fetchRequest(next, time.Second)).Topics[0].Partitions[0]
		if len(p.RecordBatches) == 0 {
			t.Fatalf("nothing at %d: %+v", next, p)
		}
		for b := p.RecordBatches; len(b) > 61; b = b[12+binary.BigEndian.Uint32(b[8:]):] {
			next = int64(binary.BigEndian.Uint64(b)) + int64(binary.BigEndian.Uint32(b[23:])) + 1
		}
	}
	req := fetchRequest(next, 30*time.Second)
	pending := c.Send(t.Context(), 1, req.Version, true, req.AppendTo(nil))
	time.Sleep(300 * time.Millisecond)
	if n := held.Load(); n > 4<<10 {
		t.Errorf("a waiting fetch holds %d bytes", n)
	}
	fill(t, w, "orders", 1, 1)
	if _, err := pending.Wait(within(t, 20*time.Second)); err != nil { // less than it may wait
		t.Fatal(err)
	}
	gatewaytest.Eventually(t, "everything is given back", func() bool { return held.Load() == 0 })
}
