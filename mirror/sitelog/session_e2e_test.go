//go:build e2e

package sitelog

import (
	"testing"

	"spillway/broker/kafka"
	cluster "spillway/tests/cluster/kafka"
)

func TestSessionOnKafka(t *testing.T) {
	for _, version := range cluster.Versions {
		t.Run(version, func(t *testing.T) {
			servers := cluster.ForTest(t, cluster.Config{Version: version})
			c, err := kafka.New(kafka.Config{Site: "east", Bootstrap: servers[0].Bootstrap()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			sessionContract(t, c)
		})
	}
}
