package federation_test

import (
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/broker/conn"
	"spillway/federation/gatewaytest"
)

const heartbeat = 68 // ConsumerGroupHeartbeat

// A gateway that starts while a site is away offers what the site offered to the others: a
// Java consumer of KIP-848 that comes to it would end for good (Java 4.0.1: "The node does not
// support CONSUMER_GROUP_HEARTBEAT").
func TestWhatASiteOfferedCountsWhileItIsAway(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}})
	offered := func(gateway int) bool { return raw(t, w.Addrs[gateway]).MaxVersion(heartbeat) >= 0 }
	w.Wires["west"].Cut(true)
	w.StartGateway("gateway-2")
	if offered(1) {
		t.Error("a site that nobody ever heard counts as one that has KIP-848")
	}
	w.Wires["west"].Mend()
	if !offered(0) {
		t.Error("both sites have KIP-848, and clients are not told")
	}
	w.Wires["west"].Cut(true)
	w.StartGateway("gateway-3")
	if !offered(2) {
		t.Error("gateway-3 started while west is away, and does not offer what west has")
	}
}

// Clients that come to a gateway that has just started wait for what the sites say, also those
// that come while it is being asked for another one.
func TestNobodyIsAnsweredWhileASiteIsAsked(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}})
	w.Wires["west"].Mute()
	asked := w.Wires["west"].Sent(18)
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			c, err := conn.Open(within(t, soon), conn.Config{Address: w.Addrs[0], Node: -1})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if c.MaxVersion(heartbeat) < 0 {
				t.Error("a client was told that there is no KIP-848")
			}
		})
	}
	gatewaytest.Eventually(t, "west is asked", func() bool { return w.Wires["west"].Sent(18) > asked })
	time.Sleep(100 * time.Millisecond) // for clients that do not wait
	w.Wires["west"].Unmute()
	clients.Wait()
}
