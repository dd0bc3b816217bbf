package orders_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/sitelog"
)

// Two sites hold the same visible records behind different holes: the expected
// position of every offset is that of the next visible record.
func TestFilledLogsTranslateByCounters(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	read := func(name string, abortEvery int64) *check.Log {
		bootstrap := cluster(t)
		cl, err := kgo.NewClient(kgo.SeedBrokers(bootstrap...))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, "events"); err != nil {
			t.Fatal(err)
		}
		fill := orders.Fill{Bootstrap: bootstrap, Producer: "filler", Topic: "events", Records: 600, TxnRecords: 100, AbortEvery: abortEvery, Keys: 50}
		if err := fill.Run(ctx); err != nil {
			t.Fatal(err)
		}
		site, err := sitelog.Read(ctx, sitelog.Site{Name: name, Bootstrap: bootstrap}, "events")
		if err != nil {
			t.Fatal(err)
		}
		return site.Logs[check.Partition{Topic: "events"}]
	}
	source, target := read("east", 3), read("west", 0)
	if len(source.Records) != 600 || len(target.Records) != 600 || source.End != 606 {
		t.Fatalf("%d and %d records, source ends at %d; want 600, 600, 606 (six markers)", len(source.Records), len(target.Records), source.End)
	}
	tr := check.NewTranslation(source, target)
	// Counters 200..299 are aborted at the source, at local 202..301 there.
	for _, c := range []struct{ at, lowest, highest int64 }{
		{0, 0, 0}, {50, 50, 50}, {101, 100, 101}, {201, 201, 303}, {303, 201, 303}, {304, 304, 304},
	} {
		if lowest, highest := tr.Expected(c.at); lowest != c.lowest || highest != c.highest {
			t.Errorf("Expected(%d) = [%d, %d], want [%d, %d]", c.at, lowest, highest, c.lowest, c.highest)
		}
	}
}
