//go:build e2e

package mirror

import (
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/broker/kafka"
	cluster "spillway/tests/cluster/kafka"
)

// TestRightsOnKafka carries entries and quotas between clusters that authorize, and
// finds the user that the target lacks.
func TestRightsOnKafka(t *testing.T) {
	config := func(name string, node int, users map[string]string) cluster.Config {
		return cluster.Config{Name: name, FirstNode: node, Users: users, SuperUsers: []string{"admin"}, Properties: forgetful}
	}
	servers := cluster.ForTest(t, config("east", 1, map[string]string{"admin": "for-the-admin", "shop": "for-the-shop"}), config("west", 11, map[string]string{"admin": "for-the-admin"}))
	var sites [2]broker.Cluster
	for i, id := range []spillway.SiteID{"east", "west"} {
		c, err := kafka.New(kafka.Config{Site: id, Bootstrap: servers[i].Bootstrap(), SASL: &conn.SASL{Mechanism: "SCRAM-SHA-512", User: "admin", Password: "for-the-admin"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		sites[i] = c
		if i == 0 {
			createTopic(t, c, "orders", 1, nil)
			createTopic(t, c, "other", 1, nil)
		}
	}
	carryRights(&rights{t, sites[0], sites[1]})
	m := testMirror(t, sites[1], sites[0])
	src, err := m.source("east")
	if err != nil {
		t.Fatal(err)
	}
	missing, err := m.missingUsers(testContext(t), src)
	if err != nil || len(missing) != 1 || missing[0].User != "shop" || len(missing[0].Mechanisms) == 0 {
		t.Errorf("users that are missing: %+v, %v", missing, err)
	}
}
