package federation_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation"
	"spillway/federation/gatewaytest"
)

// movable is a virtual cluster over one site whose leaders the test moves.
func movable(t *testing.T, replicas bool, gateway ...func(*federation.Config)) (*gatewaytest.World, *kfake.Cluster) {
	t.Helper()
	site, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(site.Close)
	capabilities := embedded.Capabilities(false)
	capabilities.Replicas = replicas
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Real: map[spillway.SiteID]gatewaytest.RealSite{"east": {
		Config: kafka.Config{Bootstrap: site.ListenAddrs(), Capabilities: capabilities},
		Dial:   []kgo.Opt{kgo.SeedBrokers(site.ListenAddrs()...)},
	}}, Gateway: func(c *federation.Config) {
		for _, change := range gateway {
			change(c)
		}
	}})
	return w, site
}

func moveLeader(t *testing.T, site *kfake.Cluster, to int32) {
	t.Helper()
	if err := site.MoveTopicPartition("orders", 0, to); err != nil {
		t.Fatal(err)
	}
}

// numbered is a producer that sends numbered records until it is ended.
type numbered interface {
	acked() int
	end(*testing.T)
}

// saramaWriter is a writer that uses sarama.
type saramaWriter struct {
	writer
	producer sarama.AsyncProducer
}

func startSarama(t *testing.T, w *gatewaytest.World, name string, change func(*sarama.Config)) *saramaWriter {
	t.Helper()
	c := sarama.NewConfig()
	c.Version, c.Producer.Return.Successes, c.Producer.RequiredAcks = sarama.V4_0_0_0, true, sarama.WaitForAll
	c.Producer.Flush.MaxMessages, c.ChannelBufferSize = 5, 50
	change(c)
	p, err := sarama.NewAsyncProducer(w.Addrs, c)
	if err != nil {
		t.Fatal(err)
	}
	wr := &saramaWriter{writer: writer{name: name, stop: make(chan struct{}), offsets: make(map[string]int64)}, producer: p}
	wr.done.Go(func() {
		defer p.AsyncClose()
		for n := 0; ; n++ {
			select {
			case <-wr.stop:
				return
			case p.Input() <- &sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder(fmt.Sprintf("%s-%06d", name, n))}:
				wr.sent.Add(1)
			}
			time.Sleep(200 * time.Microsecond)
		}
	})
	wr.done.Go(func() {
		for m := range p.Successes() {
			wr.mu.Lock()
			value, _ := m.Value.Encode()
			wr.offsets[string(value)] = m.Offset
			wr.mu.Unlock()
		}
	})
	wr.done.Go(func() {
		for err := range p.Errors() {
			wr.mu.Lock()
			wr.errs = append(wr.errs, err)
			wr.mu.Unlock()
		}
	})
	return wr
}

// The leader of a partition moves inside the site again and again while clients
// have several requests in flight. What the former broker refuses goes to the next
// one before all that came behind it, and no client hears of it.
func TestProducersKeepOrderWhenALeaderMoves(t *testing.T) {
	t.Parallel()
	franz := func(opts ...kgo.Opt) func(*testing.T, *gatewaytest.World) (numbered, *writer) {
		return func(t *testing.T, w *gatewaytest.World) (numbered, *writer) {
			wr := startWriter(t, w, "record", append(opts, kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }))...)
			return wr, wr
		}
	}
	ibm := func(change func(*sarama.Config)) func(*testing.T, *gatewaytest.World) (numbered, *writer) {
		return func(t *testing.T, w *gatewaytest.World) (numbered, *writer) {
			wr := startSarama(t, w, "record", change)
			return wr, &wr.writer
		}
	}
	for name, start := range map[string]func(*testing.T, *gatewaytest.World) (numbered, *writer){
		"franz-go, plain":      franz(kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5)),
		"franz-go, acks 1":     franz(kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.MaxProduceRequestsInflightPerBroker(5)),
		"franz-go, idempotent": franz(),
		"sarama, plain":        ibm(func(c *sarama.Config) { c.Net.MaxOpenRequests = 5 }),
		"sarama, idempotent":   ibm(func(c *sarama.Config) { c.Net.MaxOpenRequests, c.Producer.Idempotent = 1, true }),
	} {
		t.Run(name, func(t *testing.T) {
			w, site := movable(t, false)
			client, wr := start(t, w)
			for i := range int32(6) {
				before := client.acked()
				gatewaytest.Eventually(t, "the producer goes on", func() bool { return client.acked() > before+100 })
				moveLeader(t, site, i%2)
			}
			before := client.acked()
			gatewaytest.Eventually(t, "the producer goes on", func() bool { return client.acked() > before+100 })
			client.end(t)
			checkLog(t, w, "east", wr)
		})
	}
}

// refuseOnce lets the site's next produce be refused as by a broker that does not
// lead; wrote is where it says that it wrote the batch, −1 for nowhere.
func refuseOnce(site *kfake.Cluster, wrote int64) *atomic.Bool {
	refused := &atomic.Bool{}
	site.ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		t, p := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		t.Topic, p.Partition = req.Topics[0].Topic, req.Topics[0].Partitions[0].Partition
		p.ErrorCode, p.BaseOffset = kerr.NotLeaderForPartition.Code, wrote
		t.Partitions = append(t.Partitions, p)
		resp.Topics = append(resp.Topics, t)
		refused.Store(true)
		return resp, nil, true
	})
	return refused
}

// Three requests are on their way. The broker refuses the first one and would take
// the others: a plain producer keeps its order, and an idempotent one is not told
// that its second batch is out of sequence.
func TestARefusedBatchGoesAgain(t *testing.T) {
	t.Parallel()
	plain := func(int32) *kmsg.ProduceRequest { return produceRequest("orders", nil) }
	idempotent := func(n int32) *kmsg.ProduceRequest { return sequenced(n, 5*time.Second) }
	for name, c1 := range map[string]struct {
		request  func(int32) *kmsg.ProduceRequest
		replicas bool
		wrote    int64
		before   int32 // batches that the broker took before
	}{
		"plain, to a broker that has taken nothing yet":      {plain, true, -1, 0},
		"plain, at a site without replicas":                  {plain, false, 0, 0},
		"idempotent, to a broker that has taken nothing yet": {idempotent, true, -1, 0},
		"idempotent, to one that would not take the second":  {idempotent, true, -1, 2},
		"idempotent, and it may be written":                  {idempotent, true, 4, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w, site := movable(t, c1.replicas)
			c := raw(t, w.Addrs[0])
			for n := range c1.before {
				if code, _ := produced(do[*kmsg.ProduceResponse](t, c, c1.request(2*n))); code != 0 {
					t.Fatalf("error %d", code)
				}
			}
			refused := refuseOnce(site, c1.wrote)
			var answers []func() kmsg.Response
			for n := c1.before; n < c1.before+3; n++ {
				answers = append(answers, begun(t, c, c1.request(2*n)))
			}
			for i, answer := range answers {
				code, offset := produced(answer().(*kmsg.ProduceResponse))
				if want := int64(gatewaytest.OffsetBase) + 2*int64(int(c1.before)+i); code != 0 || offset != want {
					t.Errorf("request %d: error %d, offset %d, want %d", i, code, offset, want)
				}
			}
			if !refused.Load() {
				t.Error("nothing was refused: the test shows nothing")
			}
		})
	}
}

// A broker refuses a batch of a plain producer that it has written, when it loses
// the lead before its replicas have it. Nobody can send that again without a risk:
// the client decides, and what it sent behind that batch goes back with it.
func TestAPlainBatchThatMayBeWrittenIsTheClients(t *testing.T) {
	t.Parallel()
	var held atomic.Int64
	w, site := movable(t, true, func(c *federation.Config) { c.Events.Session.BytesHeld = func(more int64) { held.Add(more) } })
	c := raw(t, w.Addrs[0])
	all := make(chan struct{}) // the gateway has read all three
	site.ControlKey(0, func(kmsg.Request) (kmsg.Response, error, bool) {
		<-all
		site.DropControl()
		return nil, nil, false
	})
	refuseOnce(site, 0)
	var answers []func() kmsg.Response
	for range 3 {
		answers = append(answers, begun(t, c, produceRequest("orders", nil)))
	}
	const large = 16 << 10 // more than the others count together: once it counts, all before it have been read
	last := kmsg.NewPtrApiVersionsRequest()
	last.Version, last.ClientSoftwareName, last.ClientSoftwareVersion = 3, strings.Repeat("a", large), "1"
	begun(t, c, last)
	gatewaytest.Eventually(t, "the gateway has read all", func() bool { return held.Load() >= large })
	close(all)
	for i, answer := range answers {
		if code, _ := produced(answer().(*kmsg.ProduceResponse)); code != kerr.NotLeaderForPartition.Code {
			t.Errorf("request %d: error %d", i, code)
		}
	}
	if code, offset := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("orders", nil))); code != 0 || offset != gatewaytest.OffsetBase {
		t.Errorf("error %d, offset %d: nothing was written before", code, offset)
	}
}

// A broker that lost the lead closes the connection of a batch without an answer,
// which is lost then, as with Kafka. Those behind it go to the new leader.
func TestAcksZeroFollowsTheLeader(t *testing.T) {
	t.Parallel()
	w, site := movable(t, true)
	var mu sync.Mutex
	leads := int32(-1)
	site.ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
		site.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		if leads >= 0 && site.CurrentNode() != leads {
			return nil, errors.New("not the leader"), true
		}
		return nil, nil, false
	})
	c := raw(t, w.Addrs[0])
	send := func() {
		req := produceRequest("orders", nil)
		req.Acks = 0
		if _, err := c.DoVersion(within(t, soon), req); err != nil {
			t.Fatal(err)
		}
	}
	end := func() spillway.LocalOffset {
		tp := spillway.TopicPartition{Topic: "orders"}
		ends, err := w.Direct["east"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{tp})
		if err != nil {
			t.Fatal(err)
		}
		return ends[tp]
	}
	send()
	gatewaytest.Eventually(t, "the first one is written", func() bool { return end() == 2 })
	former, err := w.Direct["east"].Leader(within(t, soon), spillway.TopicPartition{Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	leads = 1 - former
	mu.Unlock()
	moveLeader(t, site, 1-former)
	gatewaytest.Eventually(t, "batches go to the new leader", func() bool {
		send()
		time.Sleep(10 * time.Millisecond)
		return end() > 2
	})
}
