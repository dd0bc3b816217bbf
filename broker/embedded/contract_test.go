package embedded_test

import (
	"testing"
	"time"

	"spillway/broker/brokertest"
	"spillway/broker/embedded"
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
