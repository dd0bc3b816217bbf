package federation_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

// The order workload, with franz-go and sarama, through two gateways and three
// switchovers: what clients were told and what the sites hold agree in every
// record, and readers with positions of their own go on at the next one.
func TestOrdersThroughSwitchovers(t *testing.T) {
	t.Parallel()
	const partitions = 4
	topics := make(map[string]int32)
	for _, topic := range orders.Topics {
		topics[topic] = partitions
	}
	w := gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}, Topics: topics,
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var told bytes.Buffer
	load, err := orders.Start(ctx, orders.Config{
		Bootstrap: w.Addrs, Partitions: partitions, Seed: 11, RecordsPerSecond: 1000, InFlight: 32, DrainQuiet: 2 * time.Second,
		Producers: []orders.Producer{{Name: "shop-1"}, {Name: "shop-2", Library: orders.Sarama}},
		Readers: []orders.Reader{
			{Name: "ledger", RestartEvery: 700 * time.Millisecond},
			{Name: "sarama-ledger", Library: orders.Sarama},
		},
	}, history.NewRecorder(&told))
	if err != nil {
		t.Fatal(err)
	}
	home := spillway.SiteID("east")
	for _, to := range []spillway.SiteID{"west", "east", "west"} {
		before := load.Progress().Acked
		gatewaytest.Eventually(t, "the load goes on", func() bool { return load.Progress().Acked > before+200 })
		w.Fence(to, failover.Switchover)
		w.Open(0, 0)
		home = to
	}
	before := load.Progress().Acked
	gatewaytest.Eventually(t, "the load goes on", func() bool { return load.Progress().Acked > before+200 })
	progress, err := load.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var sites []*check.Site
	expect := check.Expect{Home: string(home), Rules: []check.Rule{orders.FirstFive}}
	for id, site := range w.Embedded {
		read, err := sitelog.Read(ctx, sitelog.Site{Name: string(id), Bootstrap: site.Addresses()}, orders.Topics...)
		if err != nil {
			t.Fatal(err)
		}
		sites = append(sites, read)
		if id != home {
			expect.Behind = append(expect.Behind, string(id)) // nobody mirrors between moves here
		}
	}
	report, err := check.Run(history.Read(&told), sites, expect)
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK || !progress.Drained || progress.Failed > 0 || progress.Abandoned > 0 || report.Figures.Read != 2*report.Figures.Sent {
		t.Errorf("%+v\n%s", progress, report.Text())
	}
}
