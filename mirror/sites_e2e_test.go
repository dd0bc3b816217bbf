//go:build e2e

package mirror

import (
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/broker/kafka"
	cluster "spillway/tests/cluster/kafka"
)

// forgetful makes a broker forget producers within seconds, as it otherwise
// does within minutes (experiments A), and clean compacted topics at once.
var forgetful = map[string]string{
	"producer.id.expiration.check.interval.ms": "2000",
	"log.cleaner.backoff.ms":                   "200",
	"log.retention.check.interval.ms":          "300000",
}

// kafkaPair starts two sites of different versions.
func kafkaPair(t *testing.T) (sites [2]broker.Cluster, servers []*cluster.Cluster) {
	t.Helper()
	return kafkaSites(t, cluster.Versions[0], cluster.Versions[len(cluster.Versions)-1])
}

func kafkaSites(t *testing.T, east, west string) (sites [2]broker.Cluster, servers []*cluster.Cluster) {
	t.Helper()
	servers = cluster.ForTest(t, cluster.Config{Name: "east", Version: east, Properties: forgetful},
		cluster.Config{Name: "west", Version: west, FirstNode: 11, Properties: forgetful})
	for i, id := range []spillway.SiteID{"east", "west"} {
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: servers[i].Bootstrap()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		sites[i] = c
	}
	return sites, servers
}

func createTopic(t *testing.T, c broker.Cluster, name string, partitions int32, configs map[string]string) {
	t.Helper()
	if err := c.Admin().CreateTopic(testContext(t), name, partitions, 1, configs); err != nil {
		t.Fatal(err)
	}
}
