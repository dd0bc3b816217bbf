package orders_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

const partitions = 4

func cluster(t *testing.T) []string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

// A workload on one plain cluster, with every kind of client, comes out clean.
func TestPlainClusterComesOutClean(t *testing.T) {
	bootstrap := cluster(t)
	comesOutClean(t, bootstrap, sitelog.Site{Name: "east", Bootstrap: bootstrap}, 200)
}

// comesOutClean runs a workload against a cluster that nothing happens to.
func comesOutClean(t *testing.T, bootstrap []string, site sitelog.Site, slots int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := orders.CreateTopics(ctx, bootstrap, partitions, 1); err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	w, err := orders.Start(ctx, orders.Config{
		Bootstrap: bootstrap, Partitions: partitions, Seed: 7, Slots: slots, RecordsPerSecond: 2000,
		Producers: []orders.Producer{
			{Name: "shop-1"}, {Name: "shop-2", Library: orders.Sarama},
			{Name: "shop-3", Plain: true}, {Name: "shop-4", Library: orders.Sarama, Plain: true, Acks: "1"},
		},
		Readers: []orders.Reader{
			{Name: "desk", Group: "desk", Members: 2, CommitEvery: 100 * time.Millisecond},
			{Name: "ledger", RestartEvery: 300 * time.Millisecond},
			{Name: "sarama-desk", Group: "sarama-desk", Library: orders.Sarama},
			{Name: "sarama-ledger", Library: orders.Sarama, RestartEvery: 500 * time.Millisecond},
		},
	}, history.NewRecorder(&told))
	if err != nil {
		t.Fatal(err)
	}
	w.Wait(ctx)
	progress, err := w.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	log, err := sitelog.Read(ctx, site, orders.Topics...)
	if err != nil {
		t.Fatal(err)
	}
	report, err := check.Run(history.Read(&told), []*check.Site{log}, check.Expect{Home: site.Name, Rules: []check.Rule{orders.FirstFive}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v\n%s", progress, report.Text())
	if !report.OK {
		t.Errorf("anomalies on a plain cluster: %v", report.Findings)
	}
	f := report.Figures
	if f.Acked != f.Sent || f.Records[site.Name] != f.Sent || f.Read != 4*f.Sent || !progress.Drained || progress.Abandoned != 0 || progress.Waiting != 0 {
		t.Errorf("want all sent records acknowledged, logged, and read by all four readers: %+v, %+v", f, progress)
	}
	if want := int64(slots + slots/40*(orders.SaleOrders-1)); progress.Complete != want {
		t.Errorf("complete orders: %d, want %d (%d sales of ten among %d slots)", progress.Complete, want, slots/40, slots)
	}
}
