package federation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/batch"
	"spillway/broker/conn"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// transactional has the failover group name transactional ids.
func transactional(o gatewaytest.Options) gatewaytest.Options {
	o.Group = func(g *spillway.FailoverGroup) { g.TransactionalIDs = []string{"app-*"} }
	return o
}

func committedReader(t *testing.T, w *gatewaytest.World, topic string, opts ...kgo.Opt) *kgo.Client {
	return client(t, w, append(opts, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
}

func values(records []*kgo.Record) []string {
	var vs []string
	for _, r := range records {
		vs = append(vs, string(r.Value))
	}
	return vs
}

func TestTransactionsOfFranz(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 2}, Brokers: 2}))
	cl := client(t, w, kgo.TransactionalID("app-1"))
	var want []string
	for n := range 6 {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		value := fmt.Sprintf("transaction-%d", n)
		for p := range int32(2) {
			if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Partition: p, Value: fmt.Appendf(nil, "%s-%d", value, p)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		commit := kgo.TransactionEndTry(n%3 != 1)
		if err := cl.EndTransaction(within(t, soon), commit); err != nil {
			t.Fatal(err)
		}
		if commit {
			want = append(want, value+"-0", value+"-1")
		}
	}
	id, _, err := cl.ProducerID(within(t, soon))
	if epoch, _, ok := spillway.EpochOfProducerID(id); err != nil || !ok || epoch != 1 {
		t.Errorf("the client has producer id %x, %v", id, err)
	}
	got := values(read(t, committedReader(t, w, "orders"), len(want)))
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("read %v\nwant %v", got, want)
	}
	// Who reads all sees the producer id of the site in every batch.
	for _, r := range siteLog(t, w, "east", "orders", 1) {
		if !spillway.SameProducerID(r.ProducerID&(1<<48-1), id&(1<<48-1)) || r.ProducerID == id {
			t.Errorf("the site has producer id %x, the client %x", r.ProducerID, id)
		}
	}
}

func saramaProducer(t *testing.T, w *gatewaytest.World, id string) sarama.SyncProducer {
	t.Helper()
	c := sarama.NewConfig()
	c.Producer.Return.Successes, c.Producer.Idempotent, c.Net.MaxOpenRequests = true, true, 1
	c.Producer.RequiredAcks, c.Version, c.Producer.Transaction.ID = sarama.WaitForAll, sarama.V4_0_0_0, id
	p, err := sarama.NewSyncProducer(w.Addrs, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestTransactionsOfSarama(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}}))
	p := saramaProducer(t, w, "app-sarama")
	var want []string
	for n := range 6 {
		if err := p.BeginTxn(); err != nil {
			t.Fatal(err)
		}
		if _, offset, err := p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder(gatewaytest.Value(n))}); err != nil || offset < gatewaytest.OffsetBase {
			t.Fatalf("offset %d, %v", offset, err)
		}
		end := p.AbortTxn
		if n%2 == 0 {
			end = p.CommitTxn
			want = append(want, gatewaytest.Value(n))
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	if got := values(read(t, committedReader(t, w, "orders"), len(want))); !slices.Equal(got, want) {
		t.Errorf("read %v\nwant %v", got, want)
	}
}

// A reader that begins far behind gets its first records in a small answer, which ends
// within an aborted transaction. It sees nothing of that.
func TestNothingAbortedIsReadInSmallAnswers(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 1}}))
	cl := client(t, w, kgo.TransactionalID("app-1"))
	transaction := func(records int, value string, end kgo.TransactionEndTry) {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range records {
			if err := cl.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(within(t, soon), end); err != nil {
			t.Fatal(err)
		}
	}
	transaction(1, "first", kgo.TryCommit)
	transaction(40, strings.Repeat("x", 4<<10), kgo.TryAbort) // more than a gateway asks for at first
	transaction(1, "last", kgo.TryCommit)
	for _, bounds := range []kgo.Opt{kgo.FetchMaxBytes(10 << 10), kgo.FetchMaxPartitionBytes(10 << 10), kgo.FetchMaxBytes(10 << 20)} {
		if got := values(read(t, committedReader(t, w, "orders", bounds), 2)); !slices.Equal(got, []string{"first", "last"}) {
			t.Errorf("read %.20q", got)
		}
	}
}

// What is read, written and committed in one transaction is there once. The positions
// are virtual ones for whoever asks, and the site's own at the site.
func TestConsumeProcessProduce(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 1, "bills": 1}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}}))
	fill(t, w, "orders", 1, 20)
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(w.Addrs...), kgo.TransactionalID("app-bills"), kgo.ConsumerGroup("billing"),
		kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(1000))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for handled := 0; handled < 20; {
		fs := s.PollRecords(within(t, soon), 3)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Begin(); err != nil {
			t.Fatal(err)
		}
		records := fs.Records()
		for _, r := range records {
			if err := s.ProduceSync(within(t, soon), &kgo.Record{Topic: "bills", Value: r.Value}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		committed, err := s.End(within(t, soon), kgo.TryCommit)
		if err != nil {
			t.Fatal(err)
		}
		if committed {
			handled += len(records)
		}
	}
	for i, r := range read(t, committedReader(t, w, "bills"), 20) {
		if string(r.Value) != gatewaytest.Value(i) {
			t.Fatalf("bill %d is %s", i, r.Value)
		}
	}
	at, err := w.Direct["east"].Admin().FetchGroupOffsets(within(t, soon), "billing")
	if o := at[spillway.TopicPartition{Topic: "orders"}]; err != nil || o.Offset != 20 {
		t.Errorf("the site has position %+v, %v", o, err)
	}
	resp := do[*kmsg.OffsetFetchResponse](t, raw(t, w.Addrs[1]), offsetFetch("billing", "orders"))
	if o := resp.Groups[0].Topics[0].Partitions[0].Offset; o != gatewaytest.OffsetBase+20 {
		t.Errorf("the gateway tells position %d", o)
	}
}

func offsetFetch(group, topic string) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 8
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.MemberEpoch = group, -1
	g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: topic, Partitions: []int32{0}}}
	req.Groups = append(req.Groups, g)
	return req
}

// txn speaks of one transaction by hand.
type txn struct {
	t     *testing.T
	c     *conn.Conn
	id    string
	pid   int64
	epoch int16

	timeout time.Duration

	member     string // of the group; empty: a producer of none
	generation int32
}

func begin(t *testing.T, address, id string) *txn {
	t.Helper()
	x := &txn{t: t, c: raw(t, address), id: id, timeout: 30 * time.Second, generation: -1}
	if code := x.init(-1, -1); code != 0 {
		t.Fatalf("InitProducerId: %v", kerr.ErrorForCode(code))
	}
	return x
}

func (x *txn) init(pid int64, epoch int16) int16 {
	x.t.Helper()
	req := kmsg.NewPtrInitProducerIDRequest()
	req.Version, req.TransactionalID, req.TransactionTimeoutMillis, req.ProducerID, req.ProducerEpoch = 4, &x.id, int32(x.timeout.Milliseconds()), pid, epoch
	resp := do[*kmsg.InitProducerIDResponse](x.t, x.c, req)
	if resp.ErrorCode == 0 {
		x.pid, x.epoch = resp.ProducerID, resp.ProducerEpoch
	}
	return resp.ErrorCode
}

func (x *txn) add(topics ...string) (codes []int16) {
	x.t.Helper()
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 3, x.id, x.pid, x.epoch
	for _, topic := range topics {
		req.Topics = append(req.Topics, kmsg.AddPartitionsToTxnRequestTopic{Topic: topic, Partitions: []int32{0}})
	}
	for _, topic := range do[*kmsg.AddPartitionsToTxnResponse](x.t, x.c, req).Topics {
		codes = append(codes, topic.Partitions[0].ErrorCode)
	}
	return codes
}

func (x *txn) produce(topic string, sequence int32) int16 {
	x.t.Helper()
	req := produceRequest(topic, func(h *batch.Header) {
		h.Attributes, h.ProducerID, h.ProducerEpoch, h.BaseSequence = batch.AttributeTransactional, x.pid, x.epoch, sequence
	})
	req.TransactionID = &x.id
	code, _ := produced(do[*kmsg.ProduceResponse](x.t, x.c, req))
	return code
}

func (x *txn) addOffsets(group string) int16 {
	x.t.Helper()
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = 3, x.id, x.pid, x.epoch, group
	return do[*kmsg.AddOffsetsToTxnResponse](x.t, x.c, req).ErrorCode
}

func (x *txn) commitOffset(group, topic string, offset int64) int16 {
	x.t.Helper()
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group, req.Generation, req.MemberID = 3, x.id, x.pid, x.epoch, group, x.generation, x.member
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Offset = offset
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{p}}}
	return do[*kmsg.TxnOffsetCommitResponse](x.t, x.c, req).Topics[0].Partitions[0].ErrorCode
}

func (x *txn) end(commit bool) int16 {
	x.t.Helper()
	req := kmsg.NewPtrEndTxnRequest()
	req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = 3, x.id, x.pid, x.epoch, commit
	return do[*kmsg.EndTxnResponse](x.t, x.c, req).ErrorCode
}

func (x *txn) want(what string, got int16, want *kerr.Error) {
	x.t.Helper()
	code := int16(0)
	if want != nil {
		code = want.Code
	}
	if got != code {
		x.t.Errorf("%s: %v, want %v", what, kerr.ErrorForCode(got), kerr.ErrorForCode(code))
	}
}

func TestTransactionsAreChecked(t *testing.T) {
	t.Parallel()
	o := transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 1, "other": 1}})
	group := o.Group
	o.Group = func(g *spillway.FailoverGroup) {
		group(g)
		g.Topics, g.ConsumerGroups = []string{"orders"}, []string{"billing"}
	}
	w := gatewaytest.Start(t, o)
	stranger := &txn{t: t, c: raw(t, w.Addrs[0]), id: "nobody's", timeout: 30 * time.Second, generation: -1}
	stranger.want("an id in no group", stranger.init(-1, -1), kerr.TransactionalIDAuthorizationFailed)
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.Version, find.CoordinatorType, find.CoordinatorKeys = 4, 1, []string{"nobody's", "app-1"}
	if found := do[*kmsg.FindCoordinatorResponse](t, stranger.c, find).Coordinators; found[0].ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code || found[1].ErrorCode != 0 || found[1].NodeID < 0 {
		t.Errorf("%+v", found)
	}
	x := begin(t, w.Addrs[0], "app-1")
	x.want("a topic of another group", x.add("other", "orders")[0], kerr.TopicAuthorizationFailed)
	x.want("beside it", x.add("other", "orders")[1], kerr.OperationNotAttempted)
	x.want("a consumer group of another group", x.addOffsets("shipping"), kerr.GroupAuthorizationFailed)
	x.want("a batch before its partition is added", x.produce("orders", 0), kerr.InvalidTxnState)
	x.want("add", x.add("orders")[0], nil)
	x.want("a batch", x.produce("orders", 0), nil)
	x.want("the batch again", x.produce("orders", 0), nil) // the site knows it by its sequence
	x.want("offsets", x.addOffsets("billing"), nil)
	x.want("a position", x.commitOffset("billing", "orders", gatewaytest.OffsetBase+1), nil)
	x.want("a position of another group", x.commitOffset("shipping", "orders", gatewaytest.OffsetBase+1), kerr.GroupAuthorizationFailed)
	x.want("commit", x.end(true), nil)

	second := begin(t, w.Addrs[0], "app-1")
	x.want("the first instance, fenced", x.add("orders")[0], kerr.ProducerFenced)
	second.want("the second", second.add("orders")[0], nil)
	x.want("batches of the first", x.produce("orders", 2), kerr.InvalidProducerEpoch)
	second.want("its abort", second.end(false), nil)
	forged := *second
	forged.pid++
	forged.want("an id of somebody else", forged.add("orders")[0], kerr.InvalidProducerIDMapping)
	forged.want("its batches", forged.produce("orders", 0), kerr.InvalidTxnState)
	siteID := *second
	siteID.pid &= 1<<48 - 1
	siteID.want("a site's own id", siteID.add("orders")[0], kerr.UnknownProducerID)
	siteID.want("its batches", siteID.produce("orders", 0), kerr.InvalidTxnState)

	// What is refused is not in the log: two records of one batch, and a marker; the abort's.
	if ends, err := w.Direct["east"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{{Topic: "orders"}}); err != nil || ends[spillway.TopicPartition{Topic: "orders"}] > 4 {
		t.Errorf("the log ends at %v, %v", ends, err)
	}
}

// An open transaction keeps what others write behind it from the other sites, so how long
// that may be is the group's to say.
func TestTransactionTimeoutsAreBounded(t *testing.T) {
	t.Parallel()
	o := transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 1}})
	group := o.Group
	o.Group = func(g *spillway.FailoverGroup) {
		group(g)
		g.TransactionTimeoutMax = 30 * time.Second
	}
	w := gatewaytest.Start(t, o)
	x := begin(t, w.Addrs[0], "app-1") // with the longest one
	producer := x.epoch
	x.timeout = 30*time.Second + time.Millisecond
	x.want("a longer one", x.init(-1, -1), kerr.InvalidTransactionTimeout)
	x.timeout = 30 * time.Second
	x.want("the longest one", x.init(-1, -1), nil)
	if x.epoch != producer+1 {
		t.Errorf("the site was asked for %d epochs", x.epoch-producer)
	}
}

// A gateway that has started anew, or that never saw the producer, asks the site.
func TestTransactionsOverGateways(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}}))
	x := begin(t, w.Addrs[0], "app-1")
	x.want("add", x.add("orders")[0], nil)
	x.c = raw(t, w.Addrs[1])
	x.want("commit at the other", x.end(true), nil)
	w.StopGateway("gateway-1")
	w.StartGateway("gateway-3")
	x.c = raw(t, w.Addrs[2])
	gatewaytest.Eventually(t, "the new gateway serves", func() bool { return x.add("orders")[0] == 0 })
	x.want("abort at the new one", x.end(false), nil)
	x.want("a new epoch of the producer", x.init(x.pid, x.epoch), nil)
	if x.epoch != 1 {
		t.Errorf("producer epoch %d", x.epoch)
	}
}

// After a move the ids of the epoch before are refused so that each library begins anew,
// and nothing of them is appended. The site that serves now may have given the id to
// somebody else.
func TestIDsOfAnOlderEpochAreRefused(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}}))
	zombie := begin(t, w.Addrs[0], "app-1")
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	zombie.want("add", zombie.add("orders")[0], kerr.UnknownProducerID)
	zombie.want("a batch", zombie.produce("orders", 0), kerr.InvalidTxnState)
	zombie.want("offsets", zombie.addOffsets("billing"), kerr.UnknownProducerID)
	zombie.want("a position", zombie.commitOffset("billing", "orders", gatewaytest.OffsetBase), kerr.IllegalGeneration)
	zombie.want("commit", zombie.end(true), kerr.UnknownProducerID)
	zombie.want("abort", zombie.end(false), nil)
	ends, err := w.Direct["west"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{{Topic: "orders"}})
	if err != nil || ends[spillway.TopicPartition{Topic: "orders"}] != 0 {
		t.Errorf("the new site's log ends at %v, %v", ends, err)
	}
	again := *zombie
	again.want("a new id", again.init(zombie.pid, zombie.epoch), nil)
	again.want("add", again.add("orders")[0], nil)
	again.want("a batch", again.produce("orders", 0), nil)
	again.want("commit", again.end(true), nil)
	zombie.want("the old id", zombie.add("orders")[0], kerr.UnknownProducerID)
}

// Both libraries recover by themselves: an abort, and the next transaction is committed.
func TestLibrariesRecoverAfterAMove(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}}))
	franz := client(t, w, kgo.TransactionalID("app-franz"))
	p := saramaProducer(t, w, "app-sarama")
	if _, _, err := franz.ProducerID(within(t, soon)); err != nil {
		t.Fatal(err)
	}
	w.Fence("west", failover.Switchover)
	w.Open(0, 0)
	tries := 0
	for {
		if tries++; tries > 3 {
			t.Fatal("franz-go does not recover")
		}
		if err := franz.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		produced := franz.ProduceSync(within(t, soon), &kgo.Record{Topic: "orders", Value: []byte("franz")}).FirstErr()
		if err := franz.EndTransaction(within(t, soon), produced == nil); err == nil && produced == nil {
			break
		} else if err != nil {
			if err := franz.EndTransaction(within(t, soon), kgo.TryAbort); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("franz-go, try %d: %v", tries, produced)
	}
	for tries = 1; ; tries++ {
		if tries > 3 {
			t.Fatal("sarama does not recover")
		}
		if err := p.BeginTxn(); err != nil {
			t.Fatal(err)
		}
		_, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder("sarama")})
		if err == nil {
			if err = p.CommitTxn(); err == nil {
				break
			}
		}
		t.Logf("sarama, try %d: %v", tries, err)
		if p.TxnStatus()&sarama.ProducerTxnFlagFatalError != 0 {
			t.Fatalf("sarama gives up: %v", err)
		}
		if err := p.AbortTxn(); err != nil {
			t.Fatal(err)
		}
	}
	if got := values(read(t, committedReader(t, w, "orders"), 2)); !slices.Equal(got, []string{"franz", "sarama"}) {
		t.Errorf("read %v", got)
	}
}

// While groups drain, what is open may end, and nothing begins: that waits for the move.
func TestNoTransactionBeginsWhileGroupsDrain(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}}))
	open, later := begin(t, w.Addrs[0], "app-1"), begin(t, w.Addrs[0], "app-2")
	open.want("add", open.add("orders")[0], nil)
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Target, s.Kind = failover.Draining, s.Epoch+1, "west", failover.Switchover
	})
	epoch := w.Share().Epoch
	c := raw(t, w.Addrs[0])
	gatewaytest.Eventually(t, "the gateway sees the record", func() bool {
		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.MemberID = "billing", "nobody"
		return do[*kmsg.HeartbeatResponse](t, c, beat).ErrorCode == kerr.RebalanceInProgress.Code
	})
	// It is answered, and asked again: what its client sends behind it must not wait.
	later.want("what would begin", later.add("orders")[0], kerr.CoordinatorLoadInProgress)
	later.want("offsets of it", later.addOffsets("billing"), kerr.CoordinatorLoadInProgress)
	open.want("a batch", open.produce("orders", 0), nil)
	time.Sleep(100 * time.Millisecond) // long enough for what must not come
	if r := w.Report(epoch, "gateway-1"); r.GroupsDrained || !r.MembersWait {
		t.Errorf("with a transaction open the gateway says %+v", r)
	}
	version := func() uint64 {
		e, err := w.Store.Get(t.Context(), w.Keys.GatewayReport(gatewaytest.ShareID, epoch, "gateway-1"))
		if err != nil {
			t.Fatal(err)
		}
		return e.Version
	}
	before := version()
	for range 20 {
		open.want("more", open.add("orders")[0], nil)
	}
	time.Sleep(100 * time.Millisecond) // the same
	if now := version(); now != before {
		t.Errorf("what has not changed was written again, as version %d after %d", now, before)
	}
	open.want("abort", open.end(false), nil)
	gatewaytest.Eventually(t, "the gateway has drained", func() bool { return w.Report(epoch, "gateway-1").GroupsDrained })
	later.want("what would begin then", later.add("orders")[0], kerr.CoordinatorLoadInProgress)
	w.SetShare(func(s *failover.Share) { // given up
		s.State, s.Epoch, s.Target = failover.Stable, s.Epoch+1, ""
		s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: "east", Mask: s.Terms[0].Mask, Continues: true})
	})
	gatewaytest.Eventually(t, "what waited is of an older epoch", func() bool { return later.add("orders")[0] == kerr.UnknownProducerID.Code })
}

// A member that commits its positions in transactions may not come while groups drain: it
// waits for a transaction that begins when the move is over. It has nothing to save, so
// nobody waits for it once it was told: it joins anew then, before it tries again. One that
// commits by itself is waited for.
func TestAMemberThatTransactsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"classic", "consumer"} {
		for _, transacts := range []bool{true, false} {
			t.Run(fmt.Sprint(protocol, " transacts ", transacts), func(t *testing.T) { notWaitedFor(t, protocol, transacts) })
		}
	}
}

func notWaitedFor(t *testing.T, protocol string, transacts bool) {
	w := gatewaytest.Start(t, transactional(gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}}))
	x := begin(t, w.Addrs[0], "app-1")
	beat := func(member string) int16 {
		req := kmsg.NewPtrHeartbeatRequest()
		req.Group, req.Generation, req.MemberID = "billing", x.generation, member
		return do[*kmsg.HeartbeatResponse](t, x.c, req).ErrorCode
	}
	told := func() bool { return beat(x.member) == kerr.RebalanceInProgress.Code }
	if protocol == "classic" {
		joined := do[*kmsg.JoinGroupResponse](t, x.c, joinRequest("billing"))
		x.member, x.generation = joined.MemberID, joined.Generation
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Version, sync.Group, sync.Generation, sync.MemberID = 3, "billing", x.generation, x.member
		x.want("sync", do[*kmsg.SyncGroupResponse](t, x.c, sync).ErrorCode, nil)
		x.want("a heartbeat", beat(x.member), nil)
	} else {
		x.member, x.generation = "bWVtYmVyLW9uZS1vbmUxMQ", 0
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "billing", x.member, 10_000
		req.SubscribedTopicNames, req.Topics = []string{"orders"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		joined := do[*kmsg.ConsumerGroupHeartbeatResponse](t, x.c, req)
		x.want("join", joined.ErrorCode, nil)
		x.generation = joined.MemberEpoch
		told = func() bool {
			req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
			req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "billing", x.member, x.generation
			r := do[*kmsg.ConsumerGroupHeartbeatResponse](t, x.c, req)
			return r.ErrorCode == 0 && r.Assignment != nil && len(r.Assignment.Topics) == 0
		}
	}
	x.want("offsets", x.addOffsets("billing"), nil)
	x.want("positions", x.commitOffset("billing", "orders", 0), nil)
	x.want("commit", x.end(true), nil)
	if !transacts {
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation, req.MemberID = 9, "billing", x.generation, x.member
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}}}
		x.want("positions by themselves", do[*kmsg.OffsetCommitResponse](t, x.c, req).Topics[0].Partitions[0].ErrorCode, nil)
	}
	w.SetShare(func(s *failover.Share) {
		s.State, s.Epoch, s.Target, s.Kind = failover.Draining, s.Epoch+1, "west", failover.Switchover
	})
	epoch := w.Share().Epoch
	gatewaytest.Eventually(t, "the gateway sees the record", func() bool { return beat("nobody") == kerr.RebalanceInProgress.Code })
	drained := func() bool { return w.Report(epoch, "gateway-1").GroupsDrained }
	time.Sleep(100 * time.Millisecond) // long enough for what must not come
	if drained() {
		t.Error("a member that was not told is not waited for")
	}
	if !told() {
		t.Error("it is not told")
	}
	if transacts {
		gatewaytest.Eventually(t, "nobody is waited for", drained)
		return
	}
	time.Sleep(100 * time.Millisecond) // the same
	if drained() {
		t.Error("a member that commits by itself is not waited for")
	}
}
