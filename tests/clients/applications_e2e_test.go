//go:build e2e

package clients_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/clients"
	"spillway/tests/world"
)

// An application of Kafka Streams with exactly-once and a store, and a Connect worker with a
// source and a sink, move together from real Kafka of one release to another and back, under
// load. Nobody touches them. The sink writes into a file what Streams made of the orders; the
// source carries the lines of another file into a topic.
//
// A second worker has a source with exactly.once.source.support. Its task ends for good with the
// first transaction after a move, as it does with any error of a transaction. Once somebody has
// started it again nothing is missing and nothing is there twice. When it goes on by itself
// this test fails: then docs/clients.md has to say so.
func TestStreamsAndConnectMoveTogether(t *testing.T) {
	begun := time.Now()
	w := world.Start(t, world.Options{
		Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.3.1", "west": "3.9.2"}, Consuls: 1, Partitions: 2,
		Topics: []string{"bills", "billing-*", "connect-*"}, Administration: "topics",
		Extra: `    transactionalIds: ["billing-*", "connect-*"]`, // Connect puts its group in front of its ids
	})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	createTopic(t, w, "bills", 2)

	billing, err := clients.StartBills(ctx, w.Bootstrap, "billing", "orders", "bills", w.Dir(), map[string]string{
		"num.stream.threads":            "2",
		"repartition.purge.interval.ms": "1000", // Streams would delete what it has read, which gateways do not offer
		"topic.retention.ms":            "86400000",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(billing.Kill)
	worker := func(id, setting, value string) *clients.Connect {
		t.Helper()
		c, err := clients.StartConnect(ctx, w.Bootstrap, id, w.Dir(), map[string]string{setting: value})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Kill)
		return c
	}
	connect := worker("connect-shop", "consumer.isolation.level", "read_committed")
	exactly := worker("connect-exactly", "exactly.once.source.support", "enabled")
	stock, paid := filepath.Join(w.Dir(), "stock.txt"), filepath.Join(w.Dir(), "paid.txt")
	lines, err := os.Create(stock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lines.Close() }()
	const source, sink = "org.apache.kafka.connect.file.FileStreamSourceConnector", "org.apache.kafka.connect.file.FileStreamSinkConnector"
	connectors := []struct {
		at     *clients.Connect
		name   string
		config map[string]string
	}{
		{connect, "stock", map[string]string{"connector.class": source, "tasks.max": "1", "file": stock, "topic": "inventory"}},
		{connect, "paid", map[string]string{"connector.class": sink, "tasks.max": "1", "file": paid, "topics": "bills"}},
		{exactly, "once", map[string]string{"connector.class": source, "tasks.max": "1", "file": stock, "topic": "carts", "exactly.once.support": "required"}},
	}
	await := func(at *clients.Connect, patience time.Duration, ready func() error) {
		t.Helper()
		if err := at.Await(patience, ready); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range connectors {
		await(c.at, 2*time.Minute, func() error { return c.at.Configure(ctx, c.name, c.config) })
	}
	for _, c := range connectors {
		await(c.at, time.Minute, func() error { return c.at.Running(ctx, c.name) })
	}
	fmt.Printf("| all runs after %s\n", time.Since(begun).Round(time.Second))

	load, end := context.WithCancel(ctx)
	defer end()
	var orders []clients.Order
	var stocked int
	var work sync.WaitGroup
	work.Go(func() { orders = placeOrders(t, load, w.Bootstrap) })
	work.Go(func() { stocked = writeLines(t, load, lines) })
	inventory, once := follow(t, ctx, w.Bootstrap, "inventory"), follow(t, ctx, w.Bootstrap, "carts")

	// progress waits until all of it works, where the group is now.
	progress := func(where string) {
		t.Helper()
		wantPaid, wantStock := len(linesOf(t, paid))+progressMin, inventory.len()+progressMin
		w.Eventually(90*time.Second, "bills and stock go on at "+where, func() error {
			if p, s := len(linesOf(t, paid)), inventory.len(); p < wantPaid || s < wantStock {
				return fmt.Errorf("the sink has %d lines, want %d; the source's topic has %d, want %d; end of the log of Streams:\n%s\nof Connect:\n%s", p, wantPaid, s, wantStock, billing.Log(8), connect.Log(8))
			}
			return nil
		})
	}
	// onceGoes waits until the source with exactly-once works.
	onceGoes := func(where string) {
		t.Helper()
		want := once.len() + progressMin
		w.Eventually(90*time.Second, "the source with exactly-once goes on at "+where, func() error {
			if n := once.len(); n < want {
				return fmt.Errorf("its topic has %d lines, want %d; end of its log:\n%s", n, want, exactly.Log(8))
			}
			return nil
		})
	}
	progress("east")
	onceGoes("east")
	move := func(to string) {
		t.Helper()
		asked := time.Now()
		if out, err := w.Run(ctx, to, "switchover", world.Group, "--to", to, "--timeout", "2m", "--behind-max", "30s"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		moved := time.Now()
		progress(to)
		fmt.Printf("| moved to %s in %s, %d records of each went on within %s\n", to, moved.Sub(asked).Round(time.Millisecond), progressMin, time.Since(moved).Round(time.Millisecond))
	}
	move("west")
	restart := time.Now()
	await(exactly, 2*time.Minute, func() error { return exactly.Failed(ctx, "once", "UnknownProducerIdException") })
	if err := exactly.Restart(ctx, "once"); err != nil {
		t.Fatal(err)
	}
	await(exactly, time.Minute, func() error { return exactly.Running(ctx, "once") })
	onceGoes("west")
	if err := exactly.Running(ctx, "once"); err != nil {
		t.Error(err)
	}
	if err := exactly.Stop(time.Minute); err != nil { // what it has written moves back without it
		t.Error(err)
	}
	fmt.Printf("| the source with exactly-once had failed, was started again and went on in %s\n", time.Since(restart).Round(time.Millisecond))
	move("east")
	end()
	work.Wait()
	w.Eventually(2*time.Minute, "all that was written has come through", func() error {
		if p, s := distinct(linesOf(t, paid)), distinct(inventory.all()); p < len(orders) || s < stocked {
			return fmt.Errorf("the sink has %d of %d orders, the source's topic %d of %d lines", p, len(orders), s, stocked)
		}
		return nil
	})
	for _, name := range []string{"stock", "paid"} {
		if err := connect.Running(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if err := connect.Stop(time.Minute); err != nil {
		t.Error(err)
	}
	if err := clients.Stop([]*clients.Client{billing}, time.Minute); err != nil {
		t.Error(err)
	}
	if set, err := settingsAt(t, w.Kafka["east"], "billing-by-customer-repartition"); err != nil || set["retention.ms"] != "86400000" || set["cleanup.policy"] != "delete" {
		t.Errorf("the repartition topic has %q, %q: %v", set["retention.ms"], set["cleanup.policy"], err)
	}
	if set, err := settingsAt(t, w.Kafka["west"], "billing-sums-changelog"); err != nil || set["cleanup.policy"] != "compact" {
		t.Errorf("the changelog has %q: %v", set["cleanup.policy"], err)
	}
	if log := billing.Log(100_000); strings.Contains(log, "thread died") || !strings.Contains(log, "threads: 2") {
		t.Errorf("not all threads of Streams live:\n%s", billing.Log(40))
	}

	// What is at the serving site, read there and not through a gateway.
	values := valuesAt(t, w, "bills")
	judged := clients.JudgeBills(orders, values)
	fmt.Printf("| Streams: %d orders, %d bills at the serving site: %d wrong, %d missing, %d twice\n", len(orders), len(values), len(judged.Wrong), judged.Missing, judged.Twice)
	if len(judged.Wrong)+judged.Missing+judged.Twice > 0 {
		t.Errorf("bills: %d wrong, %d missing, %d twice, such as %v", len(judged.Wrong), judged.Missing, judged.Twice, judged.Wrong[:min(5, len(judged.Wrong))])
	}
	missing, twice := clients.Compare(values, linesOf(t, paid))
	fmt.Printf("| Connect sink: %d records, %d missing, %d repeated in the file\n", len(values), missing, twice)
	if missing+twice > 0 {
		t.Errorf("the sink's file lacks %d, has %d too often", missing, twice)
	}
	judgeStock(t, valuesAt(t, w, "inventory"), "inventory", stocked)
	carried := valuesAt(t, w, "carts") // its worker was stopped: it has the lines up to some
	judgeStock(t, carried, "carts", max(distinct(carried), 2*progressMin))
	fmt.Printf("measured: Streams and Connect through two moves: %s\n", time.Since(begun).Round(time.Second))
}

// createTopic has a gateway create a topic.
func createTopic(t *testing.T, w *world.World, topic string, partitions int32) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.Bootstrap...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

// valuesAt is what is committed in a topic at east.
func valuesAt(t *testing.T, w *world.World, topic string) (values []string) {
	t.Helper()
	for _, r := range readCommittedAt(t, w, "east", topic) {
		values = append(values, string(r.Value))
	}
	return values
}

// judgeStock compares the first lines of the sources' file with what is in a topic.
func judgeStock(t *testing.T, found []string, topic string, lines int) {
	t.Helper()
	var wanted []string
	for i := range lines {
		wanted = append(wanted, stockLine(i))
	}
	missing, twice := clients.Compare(wanted, found)
	fmt.Printf("| Connect source of %s: %d lines, %d missing, %d repeated at the serving site\n", topic, lines, missing, twice)
	if missing+twice > 0 {
		t.Errorf("%s lacks %d, has %d too often", topic, missing, twice)
	}
}

const (
	loadPause   = 10 * time.Millisecond // between orders, and between lines
	customers   = 20
	progressMin = 200 // records that every application carries at each site
)

// placeOrders writes numbered orders through gateways until the load ends, and returns what
// was acknowledged, which is all of it.
func placeOrders(t *testing.T, load context.Context, bootstrap []string) []clients.Order {
	cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap...), kgo.DefaultProduceTopic("orders"))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer cl.Close()
	var all []clients.Order
	tick := time.NewTicker(loadPause)
	defer tick.Stop()
	for n := 0; load.Err() == nil; n++ {
		o := clients.Order{ID: n, Amount: 1 + n%97, Customer: fmt.Sprintf("c%d", n%customers)}
		cl.Produce(context.WithoutCancel(load), &kgo.Record{Key: []byte(fmt.Sprint(o.ID)), Value: []byte(o.Value())}, func(r *kgo.Record, err error) {
			if err != nil {
				t.Errorf("order %d was not acknowledged: %v", o.ID, err)
				return
			}
			o.Partition = r.Partition
			all = append(all, o) // the library calls one after the other
		})
		select {
		case <-tick.C:
		case <-load.Done():
		}
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(load), time.Minute)
	defer cancel()
	if err := cl.Flush(patience); err != nil {
		t.Error(err)
	}
	return all
}

func stockLine(i int) string { return fmt.Sprintf("stock-%06d", i) }

// writeLines appends numbered lines to a file until the load ends, and returns how many.
func writeLines(t *testing.T, load context.Context, to *os.File) int {
	tick := time.NewTicker(loadPause)
	defer tick.Stop()
	for n := 0; ; n++ {
		if _, err := fmt.Fprintln(to, stockLine(n)); err != nil {
			t.Error(err)
			return n
		}
		select {
		case <-tick.C:
		case <-load.Done():
			return n + 1
		}
	}
}

// linesOf are the whole lines of a file that somebody may be writing.
func linesOf(t *testing.T, file string) []string {
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	all := strings.Split(string(text), "\n")
	return all[:len(all)-1]
}

// followed is what a reader with positions of its own has read so far.
type followed struct {
	sync.Mutex
	values []string
}

func (f *followed) len() int {
	f.Lock()
	defer f.Unlock()
	return len(f.values)
}

func (f *followed) all() []string {
	f.Lock()
	defer f.Unlock()
	return append([]string(nil), f.values...)
}

// follow reads a topic through gateways until the test ends.
func follow(t *testing.T, ctx context.Context, bootstrap []string, topic string) *followed {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	f, done := new(followed), make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(func() {
		cancel()
		<-done
		cl.Close()
	})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, r := range cl.PollFetches(ctx).Records() {
				f.Lock()
				f.values = append(f.values, string(r.Value))
				f.Unlock()
			}
		}
	}()
	return f
}

// readCommittedAt reads what is committed in a topic at a site, from its brokers.
func readCommittedAt(t *testing.T, w *world.World, site, topic string) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(append(w.Kafka[site].Dial(), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	next := make(map[int32]int64)
	var all []*kgo.Record
	for behind(ends, next) {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s at %s: %v", topic, site, err)
		}
		for _, r := range fetches.Records() {
			next[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		}
	}
	return all
}

// behind tells whether a partition was not read to its end.
func behind(ends kadm.ListedOffsets, next map[int32]int64) bool {
	more := false
	ends.Each(func(end kadm.ListedOffset) { more = more || next[end.Partition] < end.Offset })
	return more
}

func distinct(values []string) int {
	set := make(map[string]bool)
	for _, value := range values {
		set[value] = true
	}
	return len(set)
}
