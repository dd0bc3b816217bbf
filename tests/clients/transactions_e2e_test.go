//go:build e2e

package clients_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/clients"
	"spillway/tests/world"
)

// Applications in Java and over librdkafka, which know nothing of sites, write, read and
// write again in transactions while the group moves from real Kafka of one release to
// another and back: what a reader of committed records sees is each value once.
func TestTransactionsOverRealSwitchovers(t *testing.T) {
	w := world.Start(t, world.Options{
		Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.3.1", "west": "3.9.2"}, Consuls: 1, Partitions: 2,
		Extra: `    transactionalIds: ["app-*"]`,
	})
	const records = 1500
	start := func(a clients.Transactional) *clients.Client {
		t.Helper()
		a.Bootstrap, a.Dir = w.Bootstrap, w.Dir()
		c, err := clients.Transact(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Kill)
		return c
	}
	copies := []*clients.Client{
		start(clients.Transactional{Kind: "java-4.3.1", ID: "app-java-copy", Group: "java-copies", From: "orders", To: "carts"}),
		start(clients.Transactional{Kind: "python", ID: "app-python-copy", Group: "python-copies", From: "orders", To: "inventory"}),
	}
	writes := start(clients.Transactional{Kind: "java-3.9.2", ID: "app-java-write", To: "orders", Records: records, Pause: 100})
	moves := []string{"west", "east", "west"}
	for _, to := range moves {
		time.Sleep(6 * time.Second) // work between moves
		out, err := w.Run(t.Context(), to, "switchover", world.Group, "--to", to, "--timeout", "2m", "--behind-max", "30s")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("moved to %s", to)
	}
	select {
	case <-writes.Done():
	case <-time.After(3 * time.Minute):
		t.Fatalf("the writer has not ended:\n%s", writes.Log(20))
	}
	if err := clients.Stop([]*clients.Client{writes}, time.Minute); err != nil {
		t.Fatal(err)
	}
	want := make([]string, records)
	for i := range want {
		want[i] = fmt.Sprintf("value-%06d", i)
	}
	for _, topic := range []string{"orders", "carts", "inventory"} {
		got := readCommitted(t, w.Bootstrap, topic, records)
		if !slices.Equal(got, want) {
			t.Errorf("%s has %d values, %d different ones, want %d", topic, len(got), len(slices.Compact(slices.Clone(got))), records)
		}
	}
	if err := clients.Stop(copies, time.Minute); err != nil {
		t.Error(err)
	}
	for _, c := range append(copies, writes) {
		log := c.Log(1000)
		aborts := strings.Count(log, "aborts:")
		t.Logf("%d aborts:\n%s", aborts, tailOf(log, "aborts:"))
		// Each move costs a producer one transaction, or two: it begins anew by itself.
		if aborts < 1 || aborts > 2*len(moves) {
			t.Errorf("%d transactions were aborted in %d moves", aborts, len(moves))
		}
	}
}

func tailOf(log, with string) string {
	var lines []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, with) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-8):], "")
}

// readCommitted reads until there are as many different values, and a while longer for
// any that come twice.
func readCommitted(t *testing.T, bootstrap []string, topic string, n int) []string {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var found []string
	distinct := make(map[string]bool)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for len(distinct) < n && ctx.Err() == nil {
		for _, r := range cl.PollFetches(ctx).Records() {
			found = append(found, string(r.Value))
			distinct[string(r.Value)] = true
		}
	}
	more, end := context.WithTimeout(ctx, 3*time.Second)
	defer end()
	for more.Err() == nil {
		for _, r := range cl.PollFetches(more).Records() {
			found = append(found, string(r.Value))
		}
	}
	slices.Sort(found)
	return found
}
