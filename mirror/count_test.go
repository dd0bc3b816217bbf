package mirror

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/mirror/offsetmap"
	"spillway/mirror/sitelog"
)

// A record counts if a reader would be shown it.
func TestCountRecords(t *testing.T) {
	t.Parallel()
	ctx, began := testContext(t), time.Now().Truncate(time.Millisecond)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	tp := spillway.TopicPartition{Topic: "orders"}
	plain, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	write := func(c *kgo.Client, n int) {
		t.Helper()
		records := make([]*kgo.Record, n)
		for i := range records {
			records[i] = &kgo.Record{Topic: "orders", Value: []byte("x")}
		}
		if err := c.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	transaction := func(id string, n int, end kgo.TransactionEndTry, ends bool) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.TransactionalID(id), kgo.TransactionTimeout(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if err := c.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		write(c, n)
		if ends {
			if err := c.EndTransaction(ctx, end); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(plain, 10)                          // [0,10)
	transaction("a", 3, kgo.TryAbort, true)   // [10,13) and a marker
	transaction("b", 4, kgo.TryCommit, true)  // [14,18) and a marker
	write(plain, 5)                           // [19,24)
	transaction("c", 2, kgo.TryCommit, false) // [24,26), not decided
	m := offsetmap.New()
	m.Apply(offsetmap.EpochStart{Epoch: 1, Virtual: 1000})
	hidden := offsetmap.New()
	hidden.Apply(offsetmap.EpochStart{Epoch: 1, Virtual: 1000, Local: 4})
	for _, c := range []struct {
		from, to spillway.LocalOffset
		view     *offsetmap.View
		want     int64
	}{
		{0, 26, m.View(), 19}, {0, 10, m.View(), 10}, {7, 12, m.View(), 3}, {13, 26, m.View(), 9}, {14, 18, m.View(), 0}, {26, 26, m.View(), 0},
		{0, 10, hidden.View(), 6},
	} {
		got, err := CountRecords(ctx, east, map[spillway.TopicPartition]sitelog.Span{tp: {From: c.from, To: c.to}}, map[spillway.TopicPartition]*offsetmap.View{tp: c.view})
		if n := got[tp].Records; err != nil || n != c.want {
			t.Errorf("[%d,%d): %d records, %v; want %d", c.from, c.to, n, err, c.want)
		}
		if first, last := got[tp].First, got[tp].Last; c.from < 26 && (first.Before(began) || last.Before(first) || time.Now().Before(last)) || c.from == 26 && !first.IsZero() {
			t.Errorf("[%d,%d): from %s to %s", c.from, c.to, first, last)
		}
	}
	// Without a view all counts, hidden or not.
	if got, err := CountRecords(ctx, east, map[spillway.TopicPartition]sitelog.Span{tp: {To: 26}}, nil); err != nil || got[tp].Records != 19 {
		t.Errorf("%+v, %v", got, err)
	}
}
