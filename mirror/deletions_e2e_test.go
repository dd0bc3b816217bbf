//go:build e2e

package mirror

import "testing"

// TestDeletionsOnKafka follows deletions between two versions of Kafka.
func TestDeletionsOnKafka(t *testing.T) {
	sites, servers := kafkaPair(t)
	for _, topic := range []string{"orders", "orders-own", "orders-again", "orders-late"} {
		createTopic(t, sites[0], topic, 1, nil)
	}
	followDeletions(newDeletions(t, sites[0], sites[1], servers[0].Bootstrap(), true))
}
