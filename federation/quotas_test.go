package federation_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/broker/wire"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/federation/quota"
	"spillway/federation/session"
)

// paused is what a gateway told of quotas.
type paused struct {
	mu    sync.Mutex
	kinds map[quota.Kind]int
}

func (p *paused) count(kind quota.Kind) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kinds[kind]
}

// quotaWorld is a gateway with quotas and little of them saved up.
func quotaWorld(t *testing.T, quotas []federation.Quota, more func(*federation.Config)) (*gatewaytest.World, *paused) {
	t.Helper()
	return quotaWorldOf(t, gatewaytest.Options{}, quotas, more)
}

func quotaWorldOf(t *testing.T, o gatewaytest.Options, quotas []federation.Quota, more func(*federation.Config)) (*gatewaytest.World, *paused) {
	t.Helper()
	p := &paused{kinds: make(map[quota.Kind]int)}
	o.Topics = map[string]int32{"orders": 1}
	o.Gateway = func(c *federation.Config) {
		c.Quotas, c.QuotaBurst, c.Router.SteadyAfter = quotas, quotaBurst, time.Millisecond
		c.Events.Router.OverQuota = func(kind quota.Kind, _ time.Duration) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.kinds[kind]++
		}
		if more != nil {
			more(c)
		}
	}
	return gatewaytest.Start(t, o), p
}

const quotaBurst = 200 * time.Millisecond

func ofEverybody(q federation.Quota) []federation.Quota {
	q.Principal = federation.EveryPrincipal
	return []federation.Quota{q}
}

// told adds up the throttle times that franz-go is told.
type told struct {
	times   atomic.Int32
	all     atomic.Int64
	longest atomic.Int64 // owned by who writes
}

func (h *told) OnBrokerThrottle(_ kgo.BrokerMetadata, interval time.Duration, _ bool) {
	h.times.Add(1)
	h.longest.Store(max(h.longest.Load(), int64(interval)))
	h.all.Add(int64(interval))
}

// noise does not compress.
func noise(bytes int) []byte {
	b := make([]byte, bytes)
	_, _ = rand.Read(b)
	return b
}

// keptRate judges what was used in a time: a busy machine makes the time longer, and so
// never breaks it. last is what was used in one go at the end, or beside it.
func keptRate(t *testing.T, rate int64, used, last int, took time.Duration) {
	t.Helper()
	if most := float64(rate)*(quotaBurst+took).Seconds() + float64(last); float64(used) > most {
		t.Errorf("%d bytes in %s at %d a second", used, took.Round(time.Millisecond), rate)
	}
}

// A producer is told to pause, keeps to it, and is not told to pause longer than it has to.
func TestProducersKeepTheirQuota(t *testing.T) {
	t.Parallel()
	const rate, size, batches = 200_000, 20_000, 20
	const owed = size*batches*time.Second/rate - quotaBurst
	t.Run("franz-go", func(t *testing.T) {
		t.Parallel()
		w, _ := quotaWorld(t, ofEverybody(federation.Quota{ProducerBytes: rate}), nil)
		h := &told{}
		cl := client(t, w, kgo.WithHooks(h), kgo.ProducerBatchCompression(kgo.NoCompression()))
		began := time.Now()
		for range batches {
			if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: noise(size)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		keptRate(t, rate, size*batches, size, time.Since(began))
		if all := time.Duration(h.all.Load()); all == 0 || all > owed+owed/10 {
			t.Errorf("told to pause for %s in all, owed is %s", all, owed)
		}
	})
	t.Run("sarama", func(t *testing.T) {
		t.Parallel()
		w, _ := quotaWorld(t, ofEverybody(federation.Quota{ProducerBytes: rate}), nil)
		c := saramaConfig(nil, "", "", "")
		c.Metadata.Retry.Max = 3
		p, err := sarama.NewSyncProducer(w.Addrs, c)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		began := time.Now()
		for range batches {
			if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.ByteEncoder(noise(size))}); err != nil {
				t.Fatal(err)
			}
		}
		keptRate(t, rate, size*batches, size, time.Since(began))
	})
}

// bigProduce writes so many bytes.
func bigProduce(size int, acks int16) *kmsg.ProduceRequest {
	req := produceRequest("orders", nil)
	b, err := batch.Rebuild(batch.Header{Magic: 2, LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, []batch.Record{{Value: noise(size)}}, batch.None)
	if err != nil {
		panic(err)
	}
	req.Acks, req.Topics[0].Partitions[0].Records = acks, b
	return req
}

// A client that is told, and sends all the same, is not read.
func TestWhoDoesNotPauseIsNotRead(t *testing.T) {
	t.Parallel()
	const rate, size, batches = 200_000, 20_000, 15
	w, p := quotaWorld(t, ofEverybody(federation.Quota{ProducerBytes: rate}), nil)
	c := raw(t, w.Addrs[0])
	began := time.Now()
	for range batches {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, bigProduce(size, -1))); code != 0 {
			t.Fatalf("refused with %d", code)
		}
	}
	keptRate(t, rate, size*batches, size, time.Since(began))
	if p.count(quota.Produce) == 0 {
		t.Error("no pause was counted")
	}
	siteLog(t, w, "east", "orders", batches)
}

// One principal's pause is nobody else's, and is that of all its connections; one that is new
// waits with its first batch.
func TestPrincipalsPauseApart(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	quotas := append(ofEverybody(federation.Quota{ProducerBytes: 1 << 40}), federation.Quota{Principal: "User:alice", ProducerBytes: 1000})
	w, _ := quotaWorld(t, quotas, func(c *federation.Config) { f.ask(c, 0, authentication.Plain) })
	produce := func(who string, size int) time.Duration {
		t.Helper()
		h := &told{}
		cl := client(t, w, kgo.SASL(kgoLogins[authentication.Plain](who, who+"'s")), kgo.WithHooks(h), kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: noise(size)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return time.Duration(h.all.Load())
	}
	if pause := produce("alice", 100_000); pause != quota.PauseMax {
		t.Errorf("alice is told to pause for %s", pause)
	}
	for range 3 {
		if pause := produce("bob", 100_000); pause != 0 {
			t.Errorf("bob is told to pause for %s", pause)
		}
	}
	began := time.Now()
	if pause := produce("alice", 1); pause < time.Second {
		t.Errorf("alice's other connection is told to pause for %s", pause)
	}
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("the first batch on it was written after %s", took)
	}
}

// Others wait for the end of a transaction: readers of what is committed, and a move. Their
// connections pause shortly.
func TestPausesOfTransactionsAreShort(t *testing.T) {
	t.Parallel()
	w, p := quotaWorldOf(t, transactional(gatewaytest.Options{}), ofEverybody(federation.Quota{ProducerBytes: 100}), nil)
	h := &told{}
	cl := client(t, w, kgo.TransactionalID("app-1"), kgo.WithHooks(h), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for range 3 {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: noise(100_000)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(within(t, soon), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	if p.count(quota.Produce) == 0 {
		t.Error("it never pauses")
	}
	if longest := time.Duration(h.longest.Load()); longest > time.Second || longest == 0 {
		t.Errorf("told to pause for %s", longest)
	}
	read(t, committedReader(t, w, "orders"), 3)
}

func fetchAll(most int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.ReplicaID, req.SessionEpoch, req.MinBytes, req.MaxBytes, req.MaxWaitMillis = 11, -1, -1, 1, most, 5000
	ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	ft.Topic, fp.FetchOffset, fp.PartitionMaxBytes, fp.CurrentLeaderEpoch = "orders", gatewaytest.OffsetBase, most, -1
	ft.Partitions = append(ft.Partitions, fp)
	req.Topics = append(req.Topics, ft)
	return req
}

func recordBytes(r *kmsg.FetchResponse) int { return len(r.Topics[0].Partitions[0].RecordBatches) }

// stock writes records of 10 kB behind the gateway's back.
func stock(t *testing.T, w *gatewaytest.World, count int) {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0)}, w.Dial["east"]...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for range count {
		if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: noise(10_000)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// A consumer reads all there is at its rate: who owes gets no records, and is told for how
// long.
func TestConsumersKeepTheirQuota(t *testing.T) {
	t.Parallel()
	const rate, records = 200_000, 50
	w, _ := quotaWorld(t, ofEverybody(federation.Quota{ConsumerBytes: rate}), nil)
	stock(t, w, records)
	h := &told{}
	cl := client(t, w, kgo.WithHooks(h), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().AtStart()}}))
	began := time.Now()
	for found := 0; found < records; {
		fs := cl.PollFetches(within(t, soon))
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		found += fs.NumRecords()
	}
	// No answer is larger than what may be saved up, or than what may always be asked for.
	keptRate(t, rate, records*10_000, 64<<10, time.Since(began))
	if h.times.Load() == 0 {
		t.Error("it was never told")
	}
	second, third := raw(t, w.Addrs[0]), raw(t, w.Addrs[0])
	for {
		if first := do[*kmsg.FetchResponse](t, second, fetchAll(1<<20)); recordBytes(first) > 0 {
			break
		}
	}
	if r := do[*kmsg.FetchResponse](t, third, fetchAll(1<<20)); r.ThrottleMillis == 0 || recordBytes(r) > 0 {
		t.Errorf("another connection is answered with %d bytes of records, throttle time %d ms", recordBytes(r), r.ThrottleMillis)
	}
}

// Who owes for what it fetched pauses for less than a session of a group lasts, again and
// again, and gets no records meanwhile.
func TestPausesOfConsumersAreShort(t *testing.T) {
	t.Parallel()
	w, _ := quotaWorld(t, ofEverybody(federation.Quota{ConsumerBytes: 100}), nil)
	stock(t, w, 5)
	c := raw(t, w.Addrs[0])
	for n := range 4 {
		r := do[*kmsg.FetchResponse](t, c, fetchAll(1<<20))
		if r.ThrottleMillis > 1000 || r.ThrottleMillis == 0 || (recordBytes(r) > 0) != (n == 0) {
			t.Errorf("fetch %d: %d bytes of records, told to pause for %d ms", n, recordBytes(r), r.ThrottleMillis)
		}
	}
}

// A member that may read little, far beyond its session's timeout, stays in its group: also
// where all goes over one connection, as with sarama, or waits for one, as with franz-go.
func TestAMemberThatPausesStaysInItsGroup(t *testing.T) {
	t.Parallel()
	const stays = 9 * time.Second // a session and a half
	t.Run("sarama", func(t *testing.T) {
		t.Parallel()
		w, p := quotaWorld(t, ofEverybody(federation.Quota{ConsumerBytes: 1000}), nil)
		stock(t, w, 20)
		c := sarama.NewConfig()
		c.Version, c.Consumer.Offsets.Initial = sarama.V4_0_0_0, sarama.OffsetOldest
		c.Consumer.Group.Session.Timeout, c.Consumer.Group.Heartbeat.Interval = 6*time.Second, time.Second
		group, err := sarama.NewConsumerGroup(w.Addrs, "shop", c)
		if err != nil {
			t.Fatal(err)
		}
		defer group.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m := &lasting{joined: make(chan struct{}, 10)}
		ended := make(chan error, 1)
		go func() { ended <- group.Consume(ctx, []string{"orders"}, m) }()
		<-m.joined
		gatewaytest.Eventually(t, "it pauses", func() bool { return p.count(quota.Fetch) > 0 && m.read.Load() > 0 })
		select {
		case err := <-ended:
			t.Errorf("its session ended: %v", err)
		case <-time.After(stays):
		}
		cancel()
	})
	t.Run("franz-go", func(t *testing.T) {
		t.Parallel()
		w, p := quotaWorld(t, ofEverybody(federation.Quota{ConsumerBytes: 1000}), nil)
		stock(t, w, 20)
		lost := make(chan struct{}, 10)
		cl := client(t, w, kgo.ConsumeTopics("orders"), kgo.ConsumerGroup("shop"), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(time.Second),
			kgo.OnPartitionsLost(func(context.Context, *kgo.Client, map[string][]int32) { lost <- struct{}{} }),
			kgo.OnPartitionsRevoked(func(context.Context, *kgo.Client, map[string][]int32) { lost <- struct{}{} }))
		found := 0
		for found == 0 {
			fs := cl.PollFetches(within(t, soon))
			if fs.Err() != nil {
				t.Fatal(fs.Err())
			}
			found = fs.NumRecords()
		}
		gatewaytest.Eventually(t, "it pauses", func() bool { return p.count(quota.Fetch) > 0 })
		select {
		case <-lost:
			t.Error("it lost its partitions")
		case <-time.After(stays):
		}
		if err := cl.CommitUncommittedOffsets(within(t, soon)); err != nil {
			t.Errorf("it cannot commit: %v", err)
		}
	})
}

// lasting is a member that reads until its session ends.
type lasting struct {
	joined chan struct{}
	read   atomic.Int32
}

func (l *lasting) Setup(sarama.ConsumerGroupSession) error   { l.joined <- struct{}{}; return nil }
func (l *lasting) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (l *lasting) ConsumeClaim(_ sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for range c.Messages() {
		l.read.Add(1)
	}
	return nil
}

// Requests are counted whatever they are, and their answers tell.
func TestRequestsKeepTheirQuota(t *testing.T) {
	t.Parallel()
	const rate = 50
	w, _ := quotaWorld(t, ofEverybody(federation.Quota{Requests: rate}), nil)
	c := raw(t, w.Addrs[0])
	var pause int32
	began, n := time.Now(), 0
	for ; n < 100; n++ {
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.Topics = 9, []kmsg.MetadataRequestTopic{}
		pause = max(pause, do[*kmsg.MetadataResponse](t, c, req).ThrottleMillis)
	}
	keptRate(t, rate, n, 2, time.Since(began))
	if pause == 0 {
		t.Error("no answer tells")
	}
}

// asleep makes a connection that pauses for the longest time, and has one more request unread.
func asleep(t *testing.T, w *gatewaytest.World) (c *conn.Conn, answer *conn.Pending) {
	t.Helper()
	c = raw(t, w.Addrs[0])
	if r := do[*kmsg.ProduceResponse](t, c, bigProduce(100_000, -1)); r.ThrottleMillis != int32(quota.PauseMax.Milliseconds()) {
		t.Fatalf("it is told to pause for %d ms", r.ThrottleMillis)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 9
	answer = c.Send(context.Background(), 3, req.Version, true, req.AppendTo(nil))
	select {
	case <-answer.Done():
		t.Fatal("it is read though it pauses")
	case <-time.After(300 * time.Millisecond):
	}
	return c, answer
}

// pausesEnd is below quota.PauseMax, and much for a busy machine.
const pausesEnd = 8 * time.Second

// A client that pauses and goes is let go. All that it sent without waiting for answers is
// kept; what it would have been answered for is not, since it may send that elsewhere: also
// where that waits for what its principal owed before.
func TestAClientThatPausesMayLeave(t *testing.T) {
	t.Parallel()
	ended := make(chan session.Reason, 10)
	w, p := quotaWorld(t, ofEverybody(federation.Quota{ProducerBytes: 1000}), func(c *federation.Config) {
		c.Events.Session.ConnectionClosed = func(r session.Reason) { ended <- r }
	})
	leave := func(c net.Conn) {
		t.Helper()
		c.Close()
		select {
		case r := <-ended:
			if r != session.ReasonClient {
				t.Errorf("it ended for %q", r)
			}
		case <-time.After(pausesEnd):
			t.Error("the connection stays")
		}
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		deadline(t, c, soon)
		return c
	}
	send := func(c net.Conn, acks int16, size int) {
		t.Helper()
		req := bigProduce(size, acks)
		if _, err := c.Write(request(req, req.AppendTo(nil))); err != nil {
			t.Fatal(err)
		}
	}
	c := dial()
	send(c, -1, 100_001)
	if _, err := wire.ReadFrame(c, nil, 1<<20); err != nil { // all of it, or closing would reset what is sent
		t.Fatal(err)
	}
	for n := range 3 {
		send(c, -1, 10)
		send(c, 0, 20+n)
	}
	leave(c)

	before := p.count(quota.Produce)
	c = dial()
	send(c, -1, 11)
	gatewaytest.Eventually(t, "the first batch of another connection waits", func() bool { return p.count(quota.Produce) > before })
	leave(c)
	c = dial()
	send(c, 0, 30)
	leave(c)
	want := []int{100_001, 20, 21, 22, 30}
	for n, r := range siteLog(t, w, "east", "orders", len(want)) {
		if n >= len(want) || len(r.Value) != want[n] {
			t.Errorf("record %d has %d bytes, want those of %v", n, len(r.Value), want)
		}
	}
}

func TestAGatewayStopsWhileClientsPause(t *testing.T) {
	t.Parallel()
	w, _ := quotaWorld(t, ofEverybody(federation.Quota{ProducerBytes: 1000}), nil)
	asleep(t, w)
	began := time.Now()
	w.StopGateway("gateway-1")
	if took := time.Since(began); took > pausesEnd {
		t.Errorf("it took %s", took)
	}
}

// Other gateways count on it that what clients have sent is answered soon after a move.
func TestAMoveEndsPauses(t *testing.T) {
	t.Parallel()
	w, p := quotaWorld(t, ofEverybody(federation.Quota{ProducerBytes: 1000}), func(c *federation.Config) { c.Router.SteadyAfter = time.Second })
	gatewaytest.Eventually(t, "nothing has moved lately", func() bool {
		return do[*kmsg.ProduceResponse](t, raw(t, w.Addrs[0]), bigProduce(100_000, -1)).ThrottleMillis > 0
	})
	c, answer := asleep(t, w)
	before := p.count(quota.Produce)
	w.SetShare(func(s *failover.Share) { s.State, s.Epoch, s.Target = failover.Fencing, 2, "west" })
	select {
	case <-answer.Done():
	case <-time.After(pausesEnd):
		t.Error("it is not read")
	}
	late := bigProduce(100_000, -1)
	late.TimeoutMillis = 100
	if r := do[*kmsg.ProduceResponse](t, c, late); r.ThrottleMillis != 0 || p.count(quota.Produce) != before {
		t.Errorf("told to pause for %d ms while a share moves", r.ThrottleMillis)
	}
}

// A principal has so many connections at once, whichever address they come from; what it
// would be told as a wrong login it would take for final.
func TestConnectionsOfOnePrincipalAreBounded(t *testing.T) {
	t.Parallel()
	f, refused := newFront(t), make(chan string, 100)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.Plain)
		c.ConnectionsPerPrincipalMax = 2
		c.Events.ConnectionRefused = func(reason string) { refused <- reason }
	}})
	login := func(name string) *conn.Conn {
		c, err := conn.Open(within(t, soon), conn.Config{Address: w.Addrs[0], Node: -1, SASL: &conn.SASL{Mechanism: "PLAIN", User: name, Password: name + "'s"}})
		if err != nil {
			return nil
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first, second := login("alice"), login("alice")
	if first == nil || second == nil {
		t.Fatal("two connections of one principal are not served")
	}
	if login("alice") != nil {
		t.Fatal("a third connection of one principal is served")
	}
	if reason := next(t, refused); reason != "too-many-of-principal" {
		t.Errorf("refused for %q", reason)
	}
	if reason := next(t, f.ended); reason != session.ReasonPrincipal {
		t.Errorf("ended for %q", reason)
	}
	if f.count("PLAIN credentials") > 0 {
		t.Error("it counts as a wrong password")
	}
	if login("bob") == nil {
		t.Error("another principal is not served")
	}
	first.Close()
	gatewaytest.Eventually(t, "the principal has room again", func() bool { return login("alice") != nil })
}

// Where nobody is asked, all are one principal, and are counted before they say anything.
func TestConnectionsOfNobodyAreBounded(t *testing.T) {
	t.Parallel()
	refused := make(chan string, 100)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.ConnectionsPerPrincipalMax = 2
		c.Events.ConnectionRefused = func(reason string) { refused <- reason }
	}})
	for range 3 {
		c, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if reason := next(t, refused); reason != "too-many-of-principal" {
		t.Errorf("refused for %q", reason)
	}
}

// An address may open so many connections in a time; those that are closed count too.
func TestConnectionsOfOneAddressComeSlowly(t *testing.T) {
	t.Parallel()
	const rate = 2
	refused := make(chan string, 1000)
	w := gatewaytest.Start(t, gatewaytest.Options{Gateway: func(c *federation.Config) {
		c.ConnectionRatePerAddress = rate
		c.Events.ConnectionRefused = func(reason string) { refused <- reason }
	}})
	served, began := 0, time.Now()
	for range 200 {
		c, err := net.Dial("tcp", w.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == nil || !isTimeout(err) {
			c.Close()
			break
		}
		served++
		c.Close()
	}
	if most := rate*(quota.BurstDefault+time.Since(began)).Seconds() + 1; float64(served) > most || served < rate*int(quota.BurstDefault.Seconds()) {
		t.Errorf("%d connections were served", served)
	}
	if reason := next(t, refused); reason != "too-fast-of-address" {
		t.Errorf("refused for %q", reason)
	}
}

// next is what is told next.
func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(soon):
		t.Fatal("nothing is told")
		panic("unreachable")
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
