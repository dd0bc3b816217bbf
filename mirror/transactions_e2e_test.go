//go:build e2e

package mirror

import (
	"testing"

	cluster "spillway/tests/cluster/kafka"
)

func TestTransactionsOfOthersOnKafka(t *testing.T) {
	sites, servers := kafkaSites(t, cluster.DefaultVersion, cluster.DefaultVersion)
	transactionsOfOthers(t, sites[0], sites[1], servers[0].Bootstrap(), servers[1].Bootstrap())
}
