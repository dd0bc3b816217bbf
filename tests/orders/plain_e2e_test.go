//go:build e2e

package orders_test

import (
	"testing"

	"spillway/tests/cluster/kafka"
	"spillway/tests/orders/sitelog"
)

// The same workload on real Kafka comes out clean too.
func TestRealKafkaComesOutClean(t *testing.T) {
	c := kafka.ForTest(t, kafka.Config{Name: "east"})[0]
	comesOutClean(t, c.Bootstrap(), sitelog.Site{Name: "east", Bootstrap: c.Bootstrap(), Options: c.Dial()}, 800)
}
