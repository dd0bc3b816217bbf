package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/configs"
	"spillway/federation/control"
)

// twoSites are two embedded sites, each with a process that has all roles.
type twoSites struct {
	t         *testing.T
	text      string
	processes map[string]*App
	logs      map[string]*logBuffer
	gateways  []string
	operator  *control.Operator
}

func startTwoSites(t *testing.T, group string) *twoSites {
	t.Helper()
	return startVirtualCluster(t, twoSitesText(t, group), "shop", "", "broker, mirror, control")
}

// twoSitesText is the configuration of all processes: where there is more than one virtual
// cluster, of those of each.
func twoSitesText(t *testing.T, group string) string {
	t.Helper()
	return strings.ReplaceAll(fmt.Sprintf(`
virtualCluster: {name: $NAME, clusterID: $NAME-1, namespace: "$NAMESPACE"}
process: {id: $SITE-$ID, site: $SITE, roles: [$ROLES], dataDir: $DIR/$NAME}
sites:
- {name: east, embedded: {listen: "%s", dir: $DIR/east}}
- {name: west, embedded: {listen: "%s", dir: $DIR/west}}
coordinator: {embedded: {file: $DIR/store.db, socket: $DIR/store.sock}}
failoverGroups:
- {name: shop, topics: [orders, bills], consumerGroups: ["*"], transactionalIds: [app-*], sites: [east, west], offsetBase: 1000, groupDrain: 1500ms%s}
telemetry: {listen: "127.0.0.1:0"}
mirror: {listen: "127.0.0.1:0"}
gateway: {listen: "$GATEWAY", advertised: "$GATEWAY", lease: {interval: 200ms, ttl: 800ms}}
`, freeAddress(t), freeAddress(t), group), "$DIR", t.TempDir())
}

// startVirtualCluster starts gateways, and processes with the given roles, at both sites.
func startVirtualCluster(t *testing.T, text, name, namespace, roles string) *twoSites {
	t.Helper()
	w := &twoSites{t: t, processes: make(map[string]*App), logs: make(map[string]*logBuffer)}
	at := map[string]string{"east": freeAddress(t), "west": freeAddress(t)}
	w.gateways = []string{at["east"], at["west"]}
	w.text = strings.NewReplacer("$NAMESPACE", namespace, "$NAME", name).Replace(text)
	for _, site := range []string{"east", "west"} {
		w.start(site, "brokers", roles, freeAddress(t))
		w.start(site, "gateway", "gateway", at[site])
	}
	east := w.processes["east-brokers"]
	ctx := w.within()
	for _, topic := range []string{"orders", "bills"} {
		if err := east.sites["east"].Admin().CreateTopic(ctx, topic, 2, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.operator = control.NewOperator(east.cfg.Topology(), east.store, Observers(east.cfg))
	return w
}

func (w *twoSites) within() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *twoSites) start(site, id, roles, gateway string) {
	w.t.Helper()
	text := strings.NewReplacer("$SITE", site, "$ID", id, "$ROLES", roles, "$GATEWAY", gateway).Replace(w.text)
	cfg, err := configs.Parse("test.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		w.t.Fatal(err)
	}
	log := &logBuffer{}
	a := New(cfg, Options{Version: "test", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err := a.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	name := site + "-" + id
	w.processes[name], w.logs[name] = a, log
	w.t.Cleanup(func() {
		if w.processes[name] == a {
			w.stop(name)
		}
	})
}

func (w *twoSites) stop(name string) {
	if err := w.processes[name].Stop(); err != nil {
		w.t.Error(err)
	}
	delete(w.processes, name)
}

func (w *twoSites) switchover(to spillway.SiteID) {
	w.t.Helper()
	ctx := w.within()
	var plan control.Plan
	var err error
	eventually(w.t, "a switchover begins", func() bool {
		plan, err = w.operator.Switchover(ctx, "shop", to, "test", "", false)
		return err == nil
	})
	share, err := w.operator.Await(ctx, "shop", plan.Epoch, nil)
	if err != nil || share.Active != to {
		w.t.Fatalf("%s is active: %v; %+v", share.Active, err, share.Passages)
	}
	history, err := w.operator.History(ctx, "shop")
	if err == nil && len(history) > 0 {
		w.t.Logf("held %d ms", history[len(history)-1].HeldMillis)
	}
}

// A transaction that its producer leaves open does not stop a switchover: it is aborted
// whole, nothing of it is seen, and its producer goes on with the next one.
func TestAnOpenTransactionEndsWithTheMove(t *testing.T) {
	w := startTwoSites(t, "")
	ctx := w.within()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.gateways...), kgo.TransactionalID("app-open"), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	transaction := func(value string, end func() error) error {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr(); err != nil {
			return err
		}
		return end()
	}
	commit := func() error { return cl.EndTransaction(ctx, kgo.TryCommit) }
	if err := transaction("before", commit); err != nil {
		t.Fatal(err)
	}
	err = transaction("left open", func() error {
		w.switchover("west")
		return commit()
	})
	if !errors.Is(err, kerr.UnknownProducerID) {
		t.Errorf("commit after the move: %v", err)
	}
	open, err := w.processes["east-brokers"].sites["east"].Admin().OpenTransactions(ctx)
	if err != nil || len(open) > 0 {
		t.Errorf("open at the old site: %+v, %v", open, err)
	}
	if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	if err := transaction("after", commit); err != nil {
		t.Fatal(err)
	}
	if got := w.read("orders", 2); !slices.Equal(got, []string{"after", "before"}) {
		t.Errorf("read %v", got)
	}
	plan, err := w.operator.Failover(ctx, "shop", "east", 1_000_000, "test", "", true)
	if err != nil || !strings.HasPrefix(plan.Torn, "possible, of app-*") {
		t.Errorf("%q, %v", plan.Torn, err)
	}
	if plan, err = w.operator.Switchover(ctx, "shop", "east", "test", "", true); err != nil || !strings.HasPrefix(plan.Torn, "not possible: transactions of app-* end") {
		t.Errorf("%q, %v", plan.Torn, err)
	}
}

// numbered are the values 0..n-1, each of which an input and an output record has.
func numbered(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("order-%05d", i)
	}
	return all
}

// What is read, handled and written in transactions is there exactly once after five
// switchovers, in the middle of which a gateway is started anew: with franz-go, and with
// sarama writing the input in transactions of its own, some of them aborted.
func TestTransactionsOverSwitchovers(t *testing.T) {
	w := startTwoSites(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	defer working.Wait()
	defer cancel()
	const orders = 1200
	var aborted, refused int
	working.Go(func() { aborted, refused = w.writeOrders(ctx, orders) })
	var restarts int
	working.Go(func() { restarts = w.bill(ctx) })
	for i, to := range []spillway.SiteID{"west", "east", "west", "east", "west"} {
		time.Sleep(500 * time.Millisecond) // work between moves
		if i == 2 {
			w.stop("east-gateway")
			w.start("east", "gateway", "gateway", w.gateways[0])
		}
		w.switchover(to)
	}
	inputs := w.read("orders", orders)
	outputs := w.read("bills", orders)
	cancel()
	working.Wait()
	t.Logf("%d orders; %d transactions were aborted on purpose, %d by moves; the bill process began anew %d times", orders, aborted, refused, restarts)
	want := numbered(orders)
	if !slices.Equal(inputs, want) {
		t.Errorf("orders differ: %d, want %d; more than once: %v", len(inputs), len(want), repeated(inputs))
	}
	if !slices.Equal(outputs, want) {
		t.Errorf("bills differ: %d, want %d; more than once: %v", len(outputs), len(want), repeated(outputs))
	}
}

// repeated are the values, of sorted ones, that are there more than once.
func repeated(sorted []string) (values []string) {
	for i, v := range sorted {
		if i > 0 && v == sorted[i-1] {
			values = append(values, v)
		}
	}
	return values
}

// writeOrders writes values in transactions of four; every seventh is aborted and written
// again.
func (w *twoSites) writeOrders(ctx context.Context, n int) (aborted, refused int) {
	c := sarama.NewConfig()
	c.Producer.Return.Successes, c.Producer.Idempotent, c.Net.MaxOpenRequests = true, true, 1
	c.Producer.RequiredAcks, c.Version, c.Producer.Transaction.ID = sarama.WaitForAll, sarama.V4_0_0_0, "app-orders"
	c.Metadata.Retry.Max, c.Producer.Retry.Max, c.Producer.Transaction.Retry.Max = 50, 50, 100
	p, err := sarama.NewSyncProducer(w.gateways, c)
	if err != nil {
		w.t.Error(err)
		return 0, 0
	}
	defer p.Close()
	values := numbered(n)
	write := func(from int) error {
		if err := p.BeginTxn(); err != nil {
			return err
		}
		for i := from; i < from+4; i++ {
			if _, _, err := p.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder(values[i])}); err != nil {
				return err
			}
		}
		if from/4%7 == 3 && aborted < from/28+1 {
			aborted++
			return errPurpose
		}
		return p.CommitTxn()
	}
	for from := 0; from < n && ctx.Err() == nil; {
		err := write(from)
		if err == nil {
			from += 4
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if !errors.Is(err, errPurpose) {
			refused++
			w.t.Logf("sarama: %v", err)
		}
		if p.TxnStatus()&sarama.ProducerTxnFlagFatalError != 0 {
			w.t.Errorf("sarama gives up: %v", err)
			return aborted, refused
		}
		if err := p.AbortTxn(); err != nil {
			w.t.Errorf("sarama: abort: %v", err)
			return aborted, refused
		}
	}
	return aborted, refused
}

var errPurpose = errors.New("aborted on purpose")

// bill writes one bill for each order, in one transaction with the position.
func (w *twoSites) bill(ctx context.Context) (restarts int) {
	for ctx.Err() == nil {
		s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(w.gateways...), kgo.TransactionalID("app-bills"), kgo.ConsumerGroup("billing"),
			kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.HeartbeatInterval(200*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond))
		if err != nil {
			w.t.Error(err)
			return restarts
		}
		for err = nil; err == nil && ctx.Err() == nil; {
			err = billSome(ctx, s)
		}
		s.Close()
		if ctx.Err() == nil {
			restarts++
			w.t.Logf("franz-go begins anew: %v", err)
		}
	}
	return restarts
}

func billSome(ctx context.Context, s *kgo.GroupTransactSession) error {
	fs := s.PollRecords(ctx, 10)
	if ctx.Err() != nil || fs.NumRecords() == 0 {
		return nil
	}
	if err := s.Begin(); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	var failed error
	fs.EachRecord(func(r *kgo.Record) {
		if err := s.ProduceSync(ctx, &kgo.Record{Topic: "bills", Value: r.Value}).FirstErr(); err != nil {
			failed = err
		}
	})
	if _, err := s.End(ctx, kgo.TransactionEndTry(failed == nil)); err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return nil
}

// read reads committed values until there are as many different ones, and a moment longer.
// It gives up when none comes for a while, so that a slow machine is not taken for a loss.
// Two copies in different terms, or one within a transaction that was aborted, have
// different causes: it says where they lie.
func (w *twoSites) read(topic string, n int) []string {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.gateways...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	var found []string
	places := make(map[string][]string)
	take := func(patience time.Duration) (more bool) {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		before := len(places)
		for _, r := range cl.PollFetches(ctx).Records() {
			v := string(r.Value)
			found = append(found, v)
			places[v] = append(places[v], fmt.Sprintf("%d/%d in epoch %d, in a transaction: %t", r.Partition, r.Offset, r.LeaderEpoch>>20, r.Attrs.IsTransactional()))
		}
		return len(places) > before
	}
	for news := time.Now(); len(places) < n && time.Since(news) < time.Minute; {
		if take(time.Second) {
			news = time.Now()
		}
	}
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		take(time.Until(until))
	}
	for v, at := range places {
		if len(at) > 1 {
			w.t.Logf("%s: %s is at %s", topic, v, strings.Join(at, " and at "))
		}
	}
	slices.Sort(found)
	return found
}
