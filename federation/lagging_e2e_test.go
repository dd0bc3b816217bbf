//go:build e2e

package federation_test

import (
	"testing"
	"time"

	"spillway"
	"spillway/federation"
	"spillway/federation/gatewaytest"
	"spillway/federation/router"
	"spillway/tests/clients"
	"spillway/tests/orders/history"
)

// Producers of other languages write more than a mirror carries: they are slowed down so
// far that the limit is kept, and none of them gives anything up. Java's batches are of
// 16 KiB by default; librdkafka's would be so large that the records offered here fit into
// those that it may have unanswered, and then it cannot be slowed down.
func TestRealKafkaProducersAreSlowedDown(t *testing.T) {
	const records, carried, offered = 5000, 40, 2000 // carried in each step, offered a second by each producer
	o := gatewaytest.RealSites(t, map[string]int32{"orders": 1}, "4.3.1", "3.9.2")
	told := make(chan router.LagInfo, 100)
	o.Group = func(g *spillway.FailoverGroup) {
		g.Ack = spillway.AckPolicy{Sites: 1, OnLag: spillway.OnLagThrottle, LagRecordsMax: records}
	}
	o.Gateway = func(c *federation.Config) {
		c.Events.Lag = func(_ spillway.ShareID, info router.LagInfo) {
			select {
			case told <- info:
			default:
			}
		}
	}
	w := gatewaytest.Start(t, o)
	mirror := markStream(t, w, o.Sites[1])
	var producers []*clients.Client
	for _, kind := range []string{"java-4.3.1", "python"} {
		c, err := clients.Start(t.Context(), clients.Spec{Kind: kind, Name: kind, Roles: []string{"producer"}, Bootstrap: w.Addrs,
			Topics: []string{"orders"}, Partitions: 1, Rate: offered, Dir: t.TempDir(), Conf: map[string]string{"batch.size": "16384"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Kill()
		producers = append(producers, c)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	marked, atLimit := int64(0), 0
	for until := time.Now().Add(2 * time.Minute); atLimit < 15; { // times in which producers were slowed down
		if time.Now().After(until) {
			t.Fatalf("producers were slowed down %d times only", atLimit)
		}
		ends, err := w.Direct[o.Sites[0]].Admin().LogEnds(t.Context(), []spillway.TopicPartition{tp})
		if err != nil {
			t.Fatal(err)
		}
		marked = min(marked+carried, int64(ends[tp]))
		mirror <- markLine(o.Sites[1], 0, 1, gatewaytest.OffsetBase+int(marked))
		time.Sleep(100 * time.Millisecond)
		select {
		case info := <-told:
			if info.Records > records {
				t.Errorf("%d records are at one site, %d may be", info.Records, records)
			}
			if info.Slowed > 0 {
				atLimit++
				t.Logf("measured: %d records at one site, %s since the oldest was written", info.Records, info.Age)
			}
		default:
		}
	}
	mirror <- markLine(o.Sites[1], 0, 1, gatewaytest.OffsetBase+1<<30)
	if err := clients.Stop(producers, time.Minute); err != nil {
		t.Error(err)
	}
	events, done, err := clients.Histories(producers)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	acked := 0
	for event, err := range events {
		switch {
		case err != nil:
			t.Fatal(err)
		case event.Kind == history.Fail:
			t.Errorf("%s gave %v up: %s", event.Client, event.Payload, event.Error)
		case event.Kind == history.Ack:
			acked++
		}
	}
	t.Logf("measured: %d records acknowledged", acked)
}
