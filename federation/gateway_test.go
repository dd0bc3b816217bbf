package federation_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

func client(t *testing.T, w *gatewaytest.World, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(w.Addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// soon bounds what is to come at once. No test judges how long that takes, and a busy
// machine may take long.
const soon = time.Minute

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// siteLog reads a partition of a site directly, from its start.
func siteLog(t *testing.T, w *gatewaytest.World, site spillway.SiteID, topic string, count int) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}})}, w.Dial[site]...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var found []*kgo.Record
	ctx := within(t, soon)
	for len(found) < count {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(found), count, err)
		}
		found = append(found, fs.Records()...)
	}
	return found
}

func TestMetadataShowsNothingOfTheSite(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 3}, Brokers: 2})
	cl := client(t, w)
	md, err := w.Sites["east"].Metadata(within(t, soon), "orders")
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	resp, err := req.RequestWith(within(t, soon), cl)
	if err != nil {
		t.Fatal(err)
	}
	if *resp.ClusterID != gatewaytest.ClusterID {
		t.Errorf("cluster id %s", *resp.ClusterID)
	}
	if len(resp.Brokers) != 1 || resp.Brokers[0].NodeID != 1000 || fmt.Sprintf("%s:%d", resp.Brokers[0].Host, resp.Brokers[0].Port) != w.Addrs[0] {
		t.Errorf("brokers %+v, want node 1000 at %s", resp.Brokers, w.Addrs[0])
	}
	if len(resp.Topics) != 1 || *resp.Topics[0].Topic != "orders" || len(resp.Topics[0].Partitions) != 3 {
		t.Fatalf("topics %+v, want only orders with 3 partitions", resp.Topics)
	}
	if id := resp.Topics[0].TopicID; id != w.Topology.TopicID("orders") || id == md.Topics["orders"].ID {
		t.Errorf("topic id %x", id)
	}
	for i, p := range resp.Topics[0].Partitions {
		if p.Leader != 1000 || p.LeaderEpoch != spillway.VirtualLeaderEpoch(1) || p.LeaderEpoch == md.Topics["orders"].Partitions[i].LeaderEpoch {
			t.Errorf("partition %+v", p)
		}
	}
}

func TestProduceAcks(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Brokers: 2})
	n := 0
	for name, opts := range map[string][]kgo.Opt{
		"idempotent": nil,
		"acks all":   {kgo.DisableIdempotentWrite()},
		"acks 1":     {kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())},
		"acks 0":     {kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck())},
	} {
		cl := client(t, w, opts...)
		for range 50 {
			r := &kgo.Record{Topic: "orders", Value: []byte(gatewaytest.Value(n))}
			if err := cl.ProduceSync(within(t, soon), r).FirstErr(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if name != "acks 0" && r.Offset != int64(gatewaytest.OffsetBase+n) {
				t.Fatalf("%s: offset %d, want %d", name, r.Offset, gatewaytest.OffsetBase+n)
			}
			n++
			if name == "acks 0" {
				siteLog(t, w, "east", "orders", n)
			}
		}
	}
	for i, r := range siteLog(t, w, "east", "orders", n) {
		if string(r.Value) != gatewaytest.Value(i) {
			t.Fatalf("record %d is %s", i, r.Value)
		}
		if r.ProducerID >= 0 && !spillway.IsClientProducerID(r.ProducerID) {
			t.Fatalf("record %d was written under id %x", i, r.ProducerID)
		}
	}
}

func TestProducerIDIsMasked(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	cl := client(t, w)
	if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	id, _, err := cl.ProducerID(within(t, soon))
	if err != nil {
		t.Fatal(err)
	}
	got := siteLog(t, w, "east", "orders", 1)[0].ProducerID
	if want := spillway.MaskProducerID(id, w.Share().Terms[0].Mask); got != want || got == id {
		t.Errorf("the site has id %x, the client %x, want %x", got, id, want)
	}
}

func TestSaramaProduces(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	c := sarama.NewConfig()
	c.Producer.Return.Successes, c.Producer.Idempotent, c.Net.MaxOpenRequests = true, true, 1
	c.Producer.RequiredAcks, c.Version = sarama.WaitForAll, sarama.V4_0_0_0
	p, err := sarama.NewSyncProducer(w.Addrs, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 20 {
		_, offset, err := p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder(gatewaytest.Value(i))})
		if err != nil || offset != int64(gatewaytest.OffsetBase+i) {
			t.Fatalf("record %d: offset %d, %v", i, offset, err)
		}
	}
}

// A producer that waits for no answer closes right behind its last record. All
// of them are kept, as Kafka keeps them.
func TestRecordsOfAProducerThatLeaves(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	const producers, records = 5, 10
	for range producers {
		cl, err := kgo.NewClient(kgo.SeedBrokers(w.Addrs...), kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite(), kgo.MaxBufferedRecords(records),
			kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		for n := range records {
			r := &kgo.Record{Topic: "orders", Value: []byte(gatewaytest.Value(n))}
			if err := cl.ProduceSync(within(t, soon), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		cl.Close()
	}
	siteLog(t, w, "east", "orders", producers*records)
}

// A gateway that stops still has a request of a client. Whoever knocks finds it, until
// it has let go of everything: a port that refuses tells others that it has.
func TestAGatewayThatStopsKeepsItsPort(t *testing.T) {
	t.Parallel()
	held := make(chan struct{}, 1)
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateway: func(c *federation.Config) {
		c.Router.HoldMax, c.Limits.LingerMax = time.Hour, time.Hour
		c.Events.Router.Held = func(spillway.ShareID) { held <- struct{}{} }
	}})
	w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Fencing, 2, "west" })
	c := raw(t, w.Addrs[0])
	req := produceRequest("orders", nil)
	req.TimeoutMillis = 60_000
	answer := begun(t, c, req)
	<-held
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.StopGateway("gateway-1")
	}()
	gatewaytest.Eventually(t, "it turns others away", func() bool {
		knock, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer knock.Close()
		knock.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err = knock.Read(make([]byte, 1))
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	})
	w.SetShare(func(s *failover.Share) { // the move is given up
		s.State, s.Epoch, s.Target = failover.Stable, 3, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: 3, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	if code, _ := produced(answer().(*kmsg.ProduceResponse)); code != 0 {
		t.Errorf("error %d", code)
	}
	<-stopped
	if knock, err := net.Dial("tcp", w.Addrs[0]); err == nil {
		knock.Close()
		t.Error("somebody listens at a gateway that has stopped")
	}
}
