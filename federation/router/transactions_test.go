package router

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/federation/layout"
	"spillway/mirror/offsetmap"
)

// What is hidden of a site may have an aborted transaction of a producer that writes there
// again. Its marker is hidden with it, so a client that was told of it would leave out all
// that the producer wrote since.
func TestHiddenAbortsAreNotTold(t *testing.T) {
	t.Parallel()
	m := offsetmap.New()
	m.Apply(offsetmap.EpochStart{Epoch: 3, Virtual: 1000, Local: 20, Mask: 1})
	p := &fetchPart{view: m.View(), out: &kmsg.FetchResponseTopicPartition{}}
	p.aborted([]kmsg.FetchResponseTopicPartitionAbortedTransaction{{ProducerID: 7, FirstOffset: 10}, {ProducerID: 7, FirstOffset: 25}})
	if got := p.out.AbortedTransactions; len(got) != 1 || got[0].ProducerID != 7 || got[0].FirstOffset != 1005 {
		t.Errorf("%+v", got)
	}
	p.out.AbortedTransactions = nil
	if p.aborted(nil); p.out.AbortedTransactions != nil {
		t.Error("none became an empty list")
	}
}

// A commit whose answer was lost before a move is a success if the site that has it says
// so, and the move cannot have lost it.
func TestACommitFromBeforeAMove(t *testing.T) {
	committed := broker.Transaction{State: broker.TransactionCommitted, ProducerID: codecProducer, ProducerEpoch: 4}
	with := func(change func(*broker.Transaction)) broker.Transaction {
		x := committed
		change(&x)
		return x
	}
	unknown := kerr.UnknownProducerID.Code
	for name, c := range map[string]struct {
		commit    bool
		lossy     bool
		at        broker.Transaction
		want      int16
		forgetful bool
	}{
		"committed":                    {true, false, committed, 0, false},
		"decided":                      {true, false, with(func(x *broker.Transaction) { x.State = "PrepareCommit" }), 0, false},
		"open when the move began":     {true, false, with(func(x *broker.Transaction) { x.State = broker.TransactionOngoing }), unknown, false},
		"nobody can tell":              {true, false, broker.Transaction{}, kerr.CoordinatorLoadInProgress.Code, false},
		"committed, and then lost":     {true, true, committed, unknown, false},
		"aborted":                      {true, false, with(func(x *broker.Transaction) { x.State = "CompleteAbort" }), unknown, false},
		"aborted by the move":          {true, false, with(func(x *broker.Transaction) { x.State, x.ProducerEpoch = "Empty", 5 }), unknown, false},
		"committed by a later one":     {true, false, with(func(x *broker.Transaction) { x.ProducerEpoch = 5 }), unknown, false},
		"committed by another":         {true, false, with(func(x *broker.Transaction) { x.ProducerID++ }), unknown, false},
		"an abort has always happened": {false, true, with(func(x *broker.Transaction) { x.State = broker.TransactionOngoing }), 0, false},
		"ended, as far as is known":    {true, false, with(func(x *broker.Transaction) { x.State = broker.TransactionNone }), 0, true},
		"open, as far as is known":     {true, false, with(func(x *broker.Transaction) { x.State = broker.TransactionOngoing }), unknown, true},
		"never begun, as far as known": {true, false, with(func(x *broker.Transaction) { x.State = broker.TransactionNone }), unknown, true},
		"aborted, by its epoch":        {true, false, with(func(x *broker.Transaction) { x.State, x.ProducerEpoch = broker.TransactionNone, 5 }), unknown, true},
		"nothing was ever begun":       {true, false, with(func(x *broker.Transaction) { x.State = broker.TransactionNone }), unknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, translating(), kversion.V4_4_0())
				defer w.Close()
				w.site.forgetful = c.forgetful
				if name != "never begun, as far as known" {
					w.transactions.begin("app", 1)
				}
				if w.site.transaction = c.at; c.at.State == "" {
					w.site.silent = errors.New("the site is down")
				}
				share := w.shares[spillway.ShareID{Group: "shop"}]
				share.SetRecord(failover.Share{State: failover.Stable, Epoch: 2, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}, {Epoch: 2, Site: "east", Lossy: c.lossy}}})
				if !share.Open(Term{Epoch: 2, Base: 2, Site: "east", Past: []failover.Term{{Epoch: 1, Site: "east"}}}) {
					t.Fatal("the share does not open")
				}
				req := kmsg.NewPtrEndTxnRequest()
				req.Version, req.TransactionalID, req.Commit = 3, "app", c.commit
				req.ProducerID, req.ProducerEpoch = spillway.TransactionalProducerID(1, codecProducer), 4
				resp := kmsg.NewPtrEndTxnResponse()
				resp.Version = 3
				body, err := w.serve(t.Context(), 26, 3, req.AppendTo(nil))
				if err == nil {
					err = resp.ReadFrom(body)
				}
				if err != nil || resp.ErrorCode != c.want {
					t.Errorf("%v, %v", kerr.ErrorForCode(resp.ErrorCode), err)
				}
				if asked, _ := w.site.take(); len(asked) > 0 {
					t.Errorf("the site was asked %+v", asked)
				}
			})
		})
	}
}

// A move that was given up may have left a transaction open: the coordinator is the same
// one, and ends it. To say that it is ended already would keep readers of committed records
// waiting until its time is over.
func TestATransactionIsEndedAfterAMoveThatWasGivenUp(t *testing.T) {
	unknown, fenced := kerr.UnknownProducerID.Code, kerr.ProducerFenced.Code
	for name, c := range map[string]struct {
		commit  bool
		library string
		at      int16 // what the coordinator says
		want    int16
	}{
		"abort":                       {false, "", 0, 0},
		"abort, librdkafka":           {false, "librdkafka", 0, unknown}, // it gets an id of now after this
		"abort, and it was ended":     {false, "", fenced, 0},
		"abort, nothing was open":     {false, "", kerr.InvalidTxnState.Code, 0},
		"abort, and it is being done": {false, "", kerr.ConcurrentTransactions.Code, kerr.ConcurrentTransactions.Code},
		"commit":                      {true, "", 0, 0},
		"commit, and it was aborted":  {true, "", fenced, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCodecWorld(t, translating(), kversion.V4_4_0())
				defer w.Close()
				w.site.transaction = broker.Transaction{State: "Empty", ProducerID: codecProducer, ProducerEpoch: 5}
				w.site.answers(func(up kmsg.Request) kmsg.Response {
					resp := up.ResponseKind()
					resp.(*kmsg.EndTxnResponse).ErrorCode = c.at
					return resp
				})
				if c.library != "" {
					w.manners = mannersOf(c.library, "2.3.0", "rdkafka")
				}
				share := w.shares[spillway.ShareID{Group: "shop"}]
				share.SetRecord(failover.Share{State: failover.Stable, Epoch: 3, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}, {Epoch: 3, Site: "east", Continues: true}}})
				w.transactions.learn("app", 1, codecProducer)
				if !share.Open(Term{Epoch: 3, Base: 1, Site: "east"}) {
					t.Fatal("the share does not open")
				}
				req := kmsg.NewPtrEndTxnRequest()
				req.Version, req.TransactionalID, req.Commit = 3, "app", c.commit
				req.ProducerID, req.ProducerEpoch = spillway.TransactionalProducerID(1, codecProducer), 4
				resp := kmsg.NewPtrEndTxnResponse()
				resp.Version = 3
				body, err := w.serve(t.Context(), 26, 3, req.AppendTo(nil))
				if err == nil {
					err = resp.ReadFrom(body)
				}
				if err != nil || resp.ErrorCode != c.want {
					t.Errorf("%v, %v", kerr.ErrorForCode(resp.ErrorCode), err)
				}
				asked, _ := w.site.take()
				if len(asked) != 1 || asked[0].(*kmsg.EndTxnRequest).ProducerID != codecProducer || asked[0].(*kmsg.EndTxnRequest).Commit != c.commit {
					t.Errorf("the site was asked %+v", asked)
				}
			})
		})
	}
}

func TestTransactionsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newTransactions()
		for n := range transactionalMax {
			x.learn(fmt.Sprint(n), 1, int64(n))
		}
		if was, _ := x.begin("one more", 1); was || len(x.mu.byID) != transactionalMax {
			t.Fatalf("%d are remembered", len(x.mu.byID))
		}
		x.initialized("7", 1, 7, 0, time.Hour)
		x.begin("7", 1)
		time.Sleep(2 * transactionalMemory)
		if was, _ := x.begin("7", 1); !was {
			t.Error("an open transaction was forgotten")
		}
		x.begin("one more", 1)
		if n := len(x.mu.byID); n != 2 {
			t.Errorf("%d are remembered, two are open", n)
		}
		all := func(string) bool { return true }
		if x.settledAll(1, all) {
			t.Error("nothing is open")
		}
		if !x.settledAll(2, all) { // a move has ended them
			t.Error("a transaction has outlived its epoch")
		}
		if was, undo := x.begin("7", 2); was || x.settledAll(2, all) {
			t.Error("the next one of the producer counts as the one of the epoch before")
		} else {
			undo()
			x.begin("7", 1)
		}
		x.ended("one more")
		time.Sleep(transactionTimeoutMx)
		if !x.settledAll(1, all) { // the site has aborted the other one
			t.Error("a transaction is open for ever")
		}
		x.learn(string(make([]byte, transactionalIDMax+1)), 1, 1)
		if len(x.mu.byID) != 2 {
			t.Error("a name too long was kept")
		}
	})
}

// The answer depends on who asks: see docs/decisions/0027.
func TestMannersOfLibraries(t *testing.T) {
	t.Parallel()
	unknown, mapping, epoch, state := kerr.UnknownProducerID.Code, kerr.InvalidProducerIDMapping.Code, kerr.InvalidProducerEpoch.Code, kerr.InvalidTxnState.Code
	for _, c := range []struct {
		name, version, client string
		want                  manners
	}{
		{"apache-kafka-java", "2.8.2", "app", manners{coordinator: mapping, produce: epoch}},
		{"apache-kafka-java", "3.9.2", "app", manners{coordinator: mapping, produce: epoch}},
		{"apache-kafka-java", "4.3.1", "app", manners{coordinator: unknown, produce: epoch}},
		{"apache-kafka-java", "4.3.1", "shop-0b-StreamThread-1-producer", manners{coordinator: mapping, produce: epoch}},
		{"kgo", "v1.22.2", "kgo", manners{coordinator: unknown, produce: epoch}},
		{"sarama", "v1.61.1", "sarama", manners{coordinator: unknown, produce: epoch}},
		{"librdkafka", "2.3.0", "rdkafka", manners{coordinator: unknown, produce: state, abort: unknown, later: true}},
		{"confluent-kafka-python", "2.16.1-rdkafka-2.16.1", "rdkafka", manners{coordinator: unknown, produce: state, abort: unknown, later: true}},
		{"kafkajs", "2.2.4", "kafkajs", manners{coordinator: unknown, produce: state}},
		{"", "", "", manners{coordinator: unknown, produce: state}},
	} {
		if got := mannersOf(c.name, c.version, c.client); *got != c.want {
			t.Errorf("%s %s: %+v", c.name, c.version, *got)
		}
	}
}

// A transaction is within one failover group (C33): what is of another one, which may be
// served at another site, is refused and not forwarded.
func TestATransactionIsWithinOneFailoverGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := translating()
		m.topology = spillway.NewTopology("t", "id", nil, []spillway.FailoverGroup{
			{Name: "shop", Topics: []string{"orders"}, ConsumerGroups: []string{"billing"}, TransactionalIDs: []string{"app"}},
			{Name: "other", Topics: []string{"carts"}, ConsumerGroups: []string{"shipping"}},
		})
		w := newCodecWorld(t, m, kversion.V4_4_0())
		defer w.Close()
		w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
		id := spillway.ShareID{Group: "other"}
		other := NewShare(id, m.topology.Groups()[1])
		other.SetRecord(failover.Share{State: failover.Stable, Epoch: 1, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}}})
		other.Open(Term{Epoch: 1, Base: 1, Site: "east"})
		w.shares[id] = other
		ask := func(req kmsg.Request, into kmsg.Response) {
			t.Helper()
			body, err := w.serve(t.Context(), req.Key(), req.GetVersion(), req.AppendTo(nil))
			if err == nil {
				into.SetVersion(req.GetVersion())
				err = into.ReadFrom(body)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		random := rand.New(rand.NewPCG(1, 1))
		producer := m.producer(codecProducer, atClient)

		produce, produced := kmsg.NewPtrProduceRequest(), kmsg.NewPtrProduceResponse()
		produce.Version, produce.Acks, produce.TimeoutMillis, produce.TransactionID = 9, -1, 1000, kmsg.StringPtr("app")
		produce.Topics = []kmsg.ProduceRequestTopic{{Topic: "carts", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: inTransaction(randomBatch(random, 0), producer, 0, 0)}}}}
		if ask(produce, produced); produced.Topics[0].Partitions[0].ErrorCode != kerr.TopicAuthorizationFailed.Code {
			t.Errorf("a batch: %+v", produced)
		}
		add, added := kmsg.NewPtrAddPartitionsToTxnRequest(), kmsg.NewPtrAddPartitionsToTxnResponse()
		add.Version, add.TransactionalID, add.ProducerID = 3, "app", producer
		add.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "carts", Partitions: []int32{0}}}
		if ask(add, added); added.Topics[0].Partitions[0].ErrorCode != kerr.TopicAuthorizationFailed.Code {
			t.Errorf("its partition: %+v", added)
		}
		offsets, answer := kmsg.NewPtrAddOffsetsToTxnRequest(), kmsg.NewPtrAddOffsetsToTxnResponse()
		offsets.Version, offsets.TransactionalID, offsets.ProducerID, offsets.Group = 3, "app", producer, "shipping"
		if ask(offsets, answer); answer.ErrorCode != kerr.GroupAuthorizationFailed.Code {
			t.Errorf("a consumer group: %+v", answer)
		}
		if asked, _ := w.site.take(); len(asked) > 0 {
			t.Errorf("the site was asked %+v", asked)
		}
		offsets.Group = "billing"
		ask(offsets, answer)
		if asked, _ := w.site.take(); answer.ErrorCode != 0 || len(asked) != 1 {
			t.Errorf("its own group: %+v, the site was asked %d times", answer, len(asked))
		}
	})
}

// The site is asked to append in a newer version than clients may know.
func TestErrorsOfTransactionsAreThoseOfTheVersion(t *testing.T) {
	for version, want := range map[int16]*kerr.Error{9: kerr.InvalidTxnState, 10: kerr.InvalidTxnState, 11: kerr.TransactionAbortable, 12: kerr.TransactionAbortable} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := translating()
				w := newCodecWorld(t, m, kversion.V4_4_0())
				defer w.Close()
				w.site.answers(func(up kmsg.Request) kmsg.Response {
					resp := up.ResponseKind().(*kmsg.ProduceResponse)
					resp.Topics = []kmsg.ProduceResponseTopic{{Topic: "orders", Partitions: []kmsg.ProduceResponseTopicPartition{{ErrorCode: kerr.TransactionAbortable.Code, BaseOffset: -1}}}}
					return resp
				})
				req, resp := kmsg.NewPtrProduceRequest(), kmsg.NewPtrProduceResponse()
				req.Version, req.Acks, req.TimeoutMillis, req.TransactionID = version, -1, 1000, kmsg.StringPtr("app")
				batch := inTransaction(randomBatch(rand.New(rand.NewPCG(1, 1)), 0), m.producer(codecProducer, atClient), 0, 0)
				req.Topics = []kmsg.ProduceRequestTopic{{Topic: "orders", Partitions: []kmsg.ProduceRequestTopicPartition{{Records: batch}}}}
				body, err := w.serve(t.Context(), 0, version, req.AppendTo(nil))
				resp.Version = version
				if err == nil {
					err = resp.ReadFrom(body)
				}
				if err != nil || resp.Topics[0].Partitions[0].ErrorCode != want.Code {
					t.Errorf("%+v, %v", resp, err)
				}
			})
		})
	}
}

// A gateway that may not ask about transactional ids says so, to its log and to clients,
// which would ask for ever otherwise.
func TestAGatewayWithoutRightsSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := translating()
		w := newCodecWorld(t, m, kversion.V4_4_0())
		defer w.Close()
		w.site.silent = fmt.Errorf("DescribeTransactions of transactional id app: %w", broker.ErrNotAuthorized)
		var told []string
		w.events.TransactionUnknown = func(site spillway.SiteID, err error) { told = append(told, fmt.Sprintf("%s: %v", site, err)) }
		req, resp := kmsg.NewPtrAddPartitionsToTxnRequest(), kmsg.NewPtrAddPartitionsToTxnResponse()
		req.Version, req.TransactionalID, req.ProducerID, resp.Version = 3, "app", m.producer(codecProducer, atClient), 3
		req.Topics = []kmsg.AddPartitionsToTxnRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
		body, err := w.serve(t.Context(), 24, 3, req.AppendTo(nil))
		if err == nil {
			err = resp.ReadFrom(body)
		}
		if err != nil || resp.Topics[0].Partitions[0].ErrorCode != kerr.TransactionalIDAuthorizationFailed.Code {
			t.Errorf("%+v, %v", resp, err)
		}
		_, _ = w.serve(t.Context(), 24, 3, req.AppendTo(nil)) // not told again at once
		if len(told) != 1 || told[0] != "east: DescribeTransactions of transactional id app: not authorized" {
			t.Errorf("told %q", told)
		}
	})
}

// A fence that a move left for a moment denies the gateway some partitions: the client tries
// again, with all of them, since librdkafka gives a transaction up for one that was not attempted.
func TestPartitionsThatAFenceDeniesAreTriedAgain(t *testing.T) {
	answer := func(codes ...int16) *kmsg.AddPartitionsToTxnResponse {
		resp := kmsg.NewPtrAddPartitionsToTxnResponse()
		topic := kmsg.NewAddPartitionsToTxnResponseTopic()
		for _, code := range codes {
			topic.Partitions = append(topic.Partitions, kmsg.AddPartitionsToTxnResponseTopicPartition{ErrorCode: code})
		}
		resp.Topics = append(resp.Topics, topic)
		return resp
	}
	denied, notTried, again, other := kerr.TopicAuthorizationFailed.Code, kerr.OperationNotAttempted.Code, kerr.CoordinatorLoadInProgress.Code, kerr.UnknownTopicOrPartition.Code
	for _, c := range []struct{ is, want []int16 }{
		{[]int16{notTried, denied}, []int16{again, again}},
		{[]int16{notTried, other}, []int16{notTried, other}},
		{[]int16{0, 0}, []int16{0, 0}},
	} {
		got, want := answer(c.is...), answer(c.want...)
		if fenced(got); !reflect.DeepEqual(got, want) {
			t.Errorf("%v becomes %+v, want %v", c.is, got.Topics[0].Partitions, c.want)
		}
	}
}

// A fenced producer that did not notice costs the coordinator a question in a second, not
// one for each of its batches.
func TestAnotherProducerIsRememberedForAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := translating()
		w := newCodecWorld(t, m, kversion.V4_4_0())
		defer w.Close()
		w.site.transaction.ProducerID++
		term := Term{Epoch: 1, Base: 1, Site: "east"}
		look := func(want error, asked int64) {
			t.Helper()
			_, err := w.producerAt(t.Context(), term, 1, "app", spillway.TransactionalProducerID(1, codecProducer))
			if got := w.site.described.Load(); !errors.Is(err, want) || got != asked {
				t.Errorf("%v, after %d questions, want %v after %d", err, got, want, asked)
			}
		}
		look(errOtherProducer, 1)
		look(errOtherProducer, 1)
		time.Sleep(refusedMemory)
		look(errOtherProducer, 2)
		time.Sleep(refusedMemory)
		w.site.transaction.ProducerID--
		look(nil, 3)
		look(nil, 3)
	})
}

// Brokers do not tell by which way a transactional producer came, so gateways say who came by
// them, while a share is adopting: lately, in the share's failover group, and with an id of the
// site that serves.
func TestAGatewayTellsWhichTransactionalProducersCameByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		share := w.shares[spillway.ShareID{Group: "shop"}]
		record := share.Record()
		record.Adoption = &failover.Adoption{}
		share.SetRecord(record)
		ids := func(all []layout.Through) (got []int64) {
			for _, one := range all {
				got = append(got, one.Producer*10+int64(one.Epoch))
			}
			return got
		}
		tells := func(want ...int64) {
			t.Helper()
			if got := ids(w.TransactionalProducers()[share]); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		}
		w.transactions.initialized("app", 1, 42, 3, time.Minute)
		w.transactions.learn("app-2", 1, 7)
		w.transactions.learn("app-4", 1, 8) // with which epoch is not known
		w.transactions.came("app-2", 7, 1)
		w.transactions.begin("app-3", 1) // of which the site's id is not known here
		tells(71, 423)
		w.config.DirectQuiet = time.Hour
		time.Sleep(w.transactionalFor() / 2)
		w.transactions.begin("app", 1)
		w.transactions.came("app", 42, 5)
		w.transactions.came("app", 42, 4) // one that was fenced
		tells(71, 425)
		time.Sleep(w.config.DirectQuiet + transactionalMore) // it pauses for longer than loops wait for it
		tells(425)
		time.Sleep(w.transactionalFor() / 2)
		tells()
		w.transactions.begin("app", 1)
		tells(425)
		share.SetRecord(failover.Share{State: failover.Stable, Epoch: 2, Active: "east", Terms: []failover.Term{{Epoch: 1, Site: "east"}, {Epoch: 2, Site: "east"}}, Adoption: record.Adoption})
		if !share.Open(Term{Epoch: 2, Base: 2, Site: "east"}) {
			t.Fatal("the share does not open")
		}
		tells() // 42 is somebody else's there
		for n := range throughMax + 5 {
			w.transactions.learn(fmt.Sprint("app-", n), 2, int64(n))
			w.transactions.came(fmt.Sprint("app-", n), int64(n), 0)
			time.Sleep(time.Millisecond)
		}
		if got := w.TransactionalProducers()[share]; len(got) != throughMax || got[0].Producer != 5 || got[throughMax-1].Producer != throughMax+4 {
			t.Errorf("%d are told, from %d to %d", len(got), got[0].Producer, got[len(got)-1].Producer)
		}
		record = share.Record()
		record.Adoption = nil
		share.SetRecord(record)
		tells()
	})
}

// With which epochs producers come is noted for shares that are adopting, and costs others
// nothing.
func TestEpochsOfTransactionalProducersAreNotedWhileAdopting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		share := w.shares[spillway.ShareID{Group: "shop"}]
		w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
		ends := func(epoch int16) {
			t.Helper()
			req := kmsg.NewPtrEndTxnRequest()
			req.Version, req.TransactionalID, req.ProducerID, req.ProducerEpoch = 4, "app", spillway.TransactionalProducerID(1, codecProducer), epoch
			if _, err := w.serve(t.Context(), 26, 4, req.AppendTo(nil)); err != nil {
				t.Fatal(err)
			}
		}
		ends(3)
		if e := w.transactions.mu.byID["app"]; e == nil || e.producer != codecProducer || e.told != -1 {
			t.Errorf("not adopting: %+v", e)
		}
		record := share.Record()
		record.Adoption = &failover.Adoption{}
		share.SetRecord(record)
		ends(4)
		if got := w.TransactionalProducers()[share]; !slices.Equal(got, []layout.Through{{Producer: codecProducer, Epoch: 4}}) {
			t.Errorf("adopting: %+v", got)
		}
	})
}

// Of static members brokers show who joined first, so gateways say who came by them: lately,
// and those alone.
func TestAGatewayTellsWhichStaticMembersCameByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		share := w.shares[spillway.ShareID{Group: "shop"}]
		record := share.Record()
		record.Adoption = &failover.Adoption{}
		share.SetRecord(record)
		w.site.answers(func(up kmsg.Request) kmsg.Response { return up.ResponseKind() })
		beat := func(member string, instance *string) {
			t.Helper()
			req := kmsg.NewPtrHeartbeatRequest()
			req.Version, req.Group, req.MemberID, req.InstanceID = 4, "desk", member, instance
			if _, err := w.serve(t.Context(), 12, 4, req.AppendTo(nil)); err != nil {
				t.Fatal(err)
			}
		}
		beat("till-1-a", kmsg.StringPtr("till-1"))
		beat("desk-b", nil)
		time.Sleep(throughFor - time.Second) // longer than who is silent is waited for before a move
		beat("desk-b", nil)
		if got := w.StaticMembers()[share]; !slices.Equal(got, []uint64{layout.MemberKey("desk", "till-1-a")}) {
			t.Errorf("%v", got)
		}
		time.Sleep(2 * time.Second)
		if got := w.StaticMembers()[share]; len(got) > 0 {
			t.Errorf("it has gone, and is told: %v", got)
		}
		for n := range staticMax + 5 {
			w.members.touch("desk", fmt.Sprint("m-", n))
			w.members.comesAs("desk", fmt.Sprint("m-", n), kmsg.StringPtr("x"))
		}
		if n := len(w.StaticMembers()[share]); n != staticMax {
			t.Errorf("%d are told", n)
		}
	})
}

// Batches without a producer id look the same whoever wrote them, so gateways say to which
// partitions they sent such, while the share is adopting.
func TestAGatewayTellsWhereItWritesWithoutAProducerID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCodecWorld(t, translating(), kversion.V4_4_0())
		defer w.Close()
		share := w.shares[spillway.ShareID{Group: "shop"}]
		tp := spillway.TopicPartition{Topic: "orders", Partition: 3}
		w.plain.sends(&part{share: share, tp: tp})
		if got := w.PlainPartitions()[share]; len(got) > 0 {
			t.Errorf("it is not adopting, and %v are remembered", got)
		}
		record := share.Record()
		record.Adoption = &failover.Adoption{}
		share.SetRecord(record)
		w.plain.sends(&part{share: share, tp: tp})
		if got := w.PlainPartitions()[share]; !slices.Equal(got, []spillway.TopicPartition{tp}) {
			t.Errorf("%v", got)
		}
		for n := range int32(plainMax + 5) {
			w.plain.sends(&part{share: share, tp: spillway.TopicPartition{Topic: "carts", Partition: n}})
		}
		if n := len(w.PlainPartitions()[share]); n != plainMax {
			t.Errorf("%d are remembered", n)
		}
		time.Sleep(throughFor + time.Second)
		if got := w.PlainPartitions()[share]; len(got) > 0 {
			t.Errorf("long ago, and %d are told", len(got))
		}
		tp.Partition++
		if w.plain.sends(&part{share: share, tp: tp}); len(w.plain.at) != 1 {
			t.Errorf("%d take room", len(w.plain.at))
		}
	})
}
