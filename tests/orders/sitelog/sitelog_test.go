package sitelog_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

// Transactions: committed records are visible, aborted and open ones are not,
// and markers take offsets but are no records.
func TestReadKnowsTransactions(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := func(txn string) *kgo.Client {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID(txn), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		return cl
	}
	counter := int64(0)
	write := func(cl *kgo.Client, key string) {
		p := history.Payload{ID: history.ID{Producer: "p", Topic: "orders", Counter: counter}, Order: "o-1"}
		counter++
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "orders", Key: []byte(key), Value: p.Encode()}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	a, b, open := begin("a"), begin("b"), begin("open")
	write(a, "o-1")
	write(b, "o-1")
	write(a, "o-2") // not its order
	if err := a.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if err := b.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	write(open, "o-1")

	site, err := sitelog.Read(ctx, sitelog.Site{Name: "east", Bootstrap: c.ListenAddrs()}, "orders", "no-such-topic")
	if err != nil {
		t.Fatal(err)
	}
	log := site.Logs[check.Partition{Topic: "orders"}]
	if len(site.Logs) != 1 || log.End != 6 || len(log.Records) != 4 {
		t.Fatalf("%d logs, end %d, %d records; want 1, 6 (4 records, 2 markers), 4", len(site.Logs), log.End, len(log.Records))
	}
	want := []check.State{check.Visible, check.InAborted, check.Visible, check.InOpen}
	for i, r := range log.Records {
		if r.State != want[i] || r.ID.Counter != int64(i) || (r.Damage != "") != (i == 2) {
			t.Errorf("record %d: %+v, want state %d", i, r, want[i])
		}
	}
}
