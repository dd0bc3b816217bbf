package embedded_test

import (
	"testing"
	"time"

	"spillway/broker/brokertest"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/broker/namespace"
)

func TestContract(t *testing.T) {
	for name, config := range map[string]embedded.Config{
		"memory": {Site: "east", Brokers: 1},
		"disk":   {Site: "east", Brokers: 3, Dir: t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := embedded.Start(config)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := c.Capabilities().Durable; got != (config.Dir != "") {
				t.Errorf("durable: %v", got)
			}
			brokertest.Run(t, brokertest.Site{Cluster: c, ExpiryCheck: 100 * time.Millisecond})
		})
	}
}

// Who is in a namespace has a cluster for itself, and leaves nothing outside of it.
func TestContractInANamespace(t *testing.T) {
	c, err := embedded.Start(embedded.Config{Site: "east", Topics: map[string]int32{"orders": 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	within, err := kafka.New(kafka.Config{Site: "east", Bootstrap: c.Addresses(), Capabilities: embedded.Capabilities(false), Namespace: "payments."})
	if err != nil {
		t.Fatal(err)
	}
	defer within.Close()
	brokertest.Run(t, brokertest.Site{Cluster: within, ExpiryCheck: 100 * time.Millisecond})
	brokertest.CheckNamespace(t, c, []namespace.Namespace{"payments."}, "orders")
}
