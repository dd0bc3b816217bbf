package mirror

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
)

// A transaction that is left open at the source holds a flow back. The flow says since
// when and whose it is, counts what waits apart from what is merely behind, and goes on
// when it has ended.
func TestAHangingTransactionIsNamed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	c, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.TransactionalID("hangs"), kgo.TransactionTimeout(5*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	l := newLoad(t, east.Addresses(), 91)
	if err := l.write(ctx, "orders", 1, 5); err != nil {
		t.Fatal(err)
	}
	since := stableEnd(t, east)
	if err := c.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := c.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("open")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := l.plain.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("behind")}, &kgo.Record{Topic: "orders", Value: []byte("too")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	m := testMirrorWith(t, Config{Local: west, IdentitySources: true, TransactionWait: 100 * time.Millisecond}, east)
	a := Assignment{Share: spillway.ShareID{Group: "run"}, Topics: []string{"*"}, Epoch: 1, Source: "east"}
	if err := m.Assign(ctx, a); err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	var info FlowInfo
	eventually(t, "the flow says what holds it back", func() bool {
		info = m.Flows()[0]
		return info.Hanging[tp] != "" && info.LagRecords == info.UndecidedRecords // all else is there
	})
	for _, want := range []string{"transaction of producer ", "at site east since offset "} {
		if !strings.Contains(info.Hanging[tp], want) {
			t.Errorf("said %q, without %q", info.Hanging[tp], want)
		}
	}
	if info.HeldBack < 100*time.Millisecond || info.HeldBackBy != tp.String()+": "+info.Hanging[tp] {
		t.Errorf("held back for %s by %q", info.HeldBack, info.HeldBackBy)
	}
	if info.UndecidedRecords != 3 || info.LagRecords != 3 || !strings.Contains(info.Hanging[tp], fmt.Sprintf("offset %d ", since)) {
		t.Errorf("since offset %d: %+v", since, info)
	}
	if err := c.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the flow goes on", func() bool {
		info = m.Flows()[0]
		return len(info.Hanging) == 0 && info.UndecidedRecords == 0 && info.LagRecords == 0 && info.HeldBack == 0 && info.HeldBackBy == ""
	})
}
