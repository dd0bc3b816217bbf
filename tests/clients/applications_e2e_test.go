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
func TestStreamsAndConnectMoveTogether(t *testing.T) {
	begun := time.Now()
	w := world.Start(t, world.Options{
		Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.3.1", "west": "3.9.2"}, Consuls: 1, Partitions: 2,
		Topics: []string{"bills", "billing-*", "connect-*"}, Administration: "topics",
		Extra: `    transactionalIds: ["billing-*"]`,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	javaTopics(t, w.Bootstrap[0], "create bills 2 1")

	billing, err := clients.StartBills(ctx, w.Bootstrap, "billing", "orders", "bills", w.Dir(), map[string]string{
		"num.stream.threads":            "2",
		"repartition.purge.interval.ms": "1000", // Streams would delete what it has read, which gateways do not offer
		"topic.retention.ms":            "86400000",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(billing.Kill)
	connect, err := clients.StartConnect(ctx, w.Bootstrap, "connect-shop", w.Dir(), map[string]string{"consumer.isolation.level": "read_committed"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connect.Kill)
	stock, paid := filepath.Join(w.Dir(), "stock.txt"), filepath.Join(w.Dir(), "paid.txt")
	lines, err := os.Create(stock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lines.Close() }()
	connectors := map[string]map[string]string{
		"stock": {"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "tasks.max": "1", "file": stock, "topic": "inventory"},
		"paid":  {"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector", "tasks.max": "1", "file": paid, "topics": "bills"},
	}
	for name, config := range connectors {
		if err := connect.Await(2*time.Minute, func() error { return connect.Configure(ctx, name, config) }); err != nil {
			t.Fatal(err)
		}
	}
	for name := range connectors {
		if err := connect.Await(time.Minute, func() error { return connect.Running(ctx, name) }); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Printf("| all runs after %s\n", time.Since(begun).Round(time.Second))

	load, end := context.WithCancel(ctx)
	defer end()
	var orders []clients.Order
	var stocked int
	var work sync.WaitGroup
	work.Go(func() { orders = placeOrders(t, load, w.Bootstrap) })
	work.Go(func() { stocked = writeLines(t, load, lines) })
	inventory := follow(t, ctx, w.Bootstrap, "inventory")

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
	progress("east")
	for _, to := range []string{"west", "east"} {
		asked := time.Now()
		if out, err := w.Run(ctx, to, "switchover", world.Group, "--to", to, "--timeout", "2m", "--behind-max", "30s"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		moved := time.Now()
		progress(to)
		fmt.Printf("| moved to %s in %s, %d records of each went on within %s\n", to, moved.Sub(asked).Round(time.Millisecond), progressMin, time.Since(moved).Round(time.Millisecond))
	}
	end()
	work.Wait()
	w.Eventually(2*time.Minute, "all that was written has come through", func() error {
		if p, s := distinct(linesOf(t, paid)), distinct(inventory.all()); p < len(orders) || s < stocked {
			return fmt.Errorf("the sink has %d of %d orders, the source's topic %d of %d lines", p, len(orders), s, stocked)
		}
		return nil
	})
	for name := range connectors {
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
	bills := readCommittedAt(t, w, "east", "bills")
	var values []string
	for _, r := range bills {
		values = append(values, string(r.Value))
	}
	judged := clients.JudgeBills(orders, values)
	fmt.Printf("| Streams: %d orders, %d bills at the serving site: %d wrong, %d missing, %d twice\n", len(orders), len(bills), len(judged.Wrong), judged.Missing, judged.Twice)
	if len(judged.Wrong)+judged.Missing+judged.Twice > 0 {
		t.Errorf("bills: %d wrong, %d missing, %d twice, such as %v", len(judged.Wrong), judged.Missing, judged.Twice, judged.Wrong[:min(5, len(judged.Wrong))])
	}
	missing, twice := clients.Compare(values, linesOf(t, paid))
	fmt.Printf("| Connect sink: %d records, %d missing, %d repeated in the file\n", len(values), missing, twice)
	if missing+twice > 0 {
		t.Errorf("the sink's file lacks %d, has %d too often", missing, twice)
	}
	judgeStock(t, w, "east", stocked)
	fmt.Printf("measured: Streams and Connect through two moves: %s\n", time.Since(begun).Round(time.Second))
}

// With exactly.once.source.support the task of a source ends for good with the first transaction
// after a move, as it does with any error of a transaction. Once somebody has started it again
// nothing is missing and nothing is there twice. When it goes on by itself this test fails:
// then docs/clients.md has to say so, and TestStreamsAndConnectMoveTogether may have it too.
func TestAnExactlyOnceSourceIsStartedAgain(t *testing.T) {
	begun := time.Now()
	w := world.Start(t, world.Options{
		Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.3.1", "west": "3.9.2"}, Consuls: 1, Partitions: 2,
		Topics: []string{"connect-*"}, Administration: "topics",
		Extra: `    transactionalIds: ["connect-*"]`, // Connect puts its group in front of its ids
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	connect, err := clients.StartConnect(ctx, w.Bootstrap, "connect-shop", w.Dir(), map[string]string{"exactly.once.source.support": "enabled"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connect.Kill)
	stock := filepath.Join(w.Dir(), "stock.txt")
	lines, err := os.Create(stock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lines.Close() }()
	await := func(patience time.Duration, ready func() error) {
		t.Helper()
		if err := connect.Await(patience, ready); err != nil {
			t.Fatal(err)
		}
	}
	await(2*time.Minute, func() error {
		return connect.Configure(ctx, "stock", map[string]string{
			"connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector", "tasks.max": "1", "file": stock, "topic": "inventory", "exactly.once.support": "required",
		})
	})
	await(time.Minute, func() error { return connect.Running(ctx, "stock") })
	load, end := context.WithCancel(ctx)
	defer end()
	var stocked int
	var work sync.WaitGroup
	work.Go(func() { stocked = writeLines(t, load, lines) })
	inventory := follow(t, ctx, w.Bootstrap, "inventory")
	w.Eventually(time.Minute, "the source works", func() error {
		if n := inventory.len(); n < progressMin {
			return fmt.Errorf("it has written %d", n)
		}
		return nil
	})
	if out, err := w.Run(ctx, "west", "switchover", world.Group, "--to", "west", "--timeout", "2m", "--behind-max", "30s"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	await(2*time.Minute, func() error { return connect.Failed(ctx, "stock", "UnknownProducerIdException") })
	if err := connect.Restart(ctx, "stock"); err != nil {
		t.Fatal(err)
	}
	await(time.Minute, func() error { return connect.Running(ctx, "stock") })
	end()
	work.Wait()
	w.Eventually(2*time.Minute, "all that was written has come through", func() error {
		if n := distinct(inventory.all()); n < stocked {
			return fmt.Errorf("%d of %d lines", n, stocked)
		}
		return nil
	})
	if err := connect.Stop(time.Minute); err != nil {
		t.Error(err)
	}
	judgeStock(t, w, "west", stocked)
	fmt.Printf("measured: a source with exactly-once through a move: %s\n", time.Since(begun).Round(time.Second))
}

// judgeStock compares the lines of the source's file with what is at a site.
func judgeStock(t *testing.T, w *world.World, site string, stocked int) {
	t.Helper()
	var wanted, found []string
	for i := range stocked {
		wanted = append(wanted, stockLine(i))
	}
	for _, r := range readCommittedAt(t, w, site, "inventory") {
		found = append(found, string(r.Value))
	}
	missing, twice := clients.Compare(wanted, found)
	fmt.Printf("| Connect source: %d lines, %d missing, %d repeated at the serving site\n", stocked, missing, twice)
	if missing+twice > 0 {
		t.Errorf("the source's topic lacks %d, has %d too often", missing, twice)
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
