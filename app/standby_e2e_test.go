//go:build e2e

package app

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway/tests/clients"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/orders/history"
)

// On real clusters of three releases, 10, 30 and 80 ms apart, consumers of all libraries that
// know KIP-392 read at their own site, and have what is at the active site at the same offsets,
// also after a switchover.
func TestRealKafkaStandbyReads(t *testing.T) {
	versions := map[string]string{"east": "4.3.1", "west": "4.4.0", "north": "3.9.2"}
	var specs []cluster.Config
	for i, site := range siteNames {
		specs = append(specs, cluster.Config{Name: site, Version: versions[site], FirstNode: 11 + 10*i})
	}
	bootstrap := make(map[string]string)
	for i, c := range cluster.ForTest(t, specs...) {
		bootstrap[siteNames[i]] = strings.Join(c.Bootstrap(), ", ")
	}
	w := startSites(t, func(site string) string { return fmt.Sprintf("bootstrap: [%q]", bootstrap[site]) }, "")
	w.brokers = bootstrap
	reference := w.follow("")
	var all []*clients.Client
	start := func(kind, rack string, roles ...string) {
		t.Helper()
		s := clients.Spec{Kind: kind, Name: kind + "-" + rack, Group: kind + "-" + rack, Roles: roles, Dir: t.TempDir(), Topics: []string{"orders"}, Partitions: standbyPartitions, Rate: 200,
			Bootstrap: []string{w.gateways["east"], w.gateways["west"], w.gateways["north"]}}
		if rack != "" {
			s.Conf = map[string]string{"client.rack": rack}
		}
		c, err := clients.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Kill)
		all = append(all, c)
	}
	start("java-4.3.1", "", history.Producer)
	w.eventually("the first records", func() bool { return reference.n() > 10 })
	readers := []*seen{reference, w.follow("west"), w.follow("north"), w.followSarama("west")}
	lateGo := w.follow("north")
	w.eventually("franz-go reads at the standby", func() bool {
		return lateGo.n() > 10 && w.metric("north", "spillway_gateway_near_reads_total", "standby") > 0
	})
	lateGo.client.PauseFetchTopics("orders")
	start("java-4.3.1", "west", history.Assigned, history.Member)
	start("java-3.9.2", "north", history.Assigned)
	start("python", "north", history.Assigned)
	const sent = 8 * standbyPartitions // to all but the first
	w.eventually("each reader is sent to its site", func() bool {
		return w.metric("east", "spillway_gateway_reads_sent_total", "near") >= sent
	})
	fmt.Printf("| reads at standbys, nothing moves | %.1f %% local |\n", 100*w.readLocally())
	w.switchover("west")
	fmt.Printf("| reads at standbys, after a switchover | %.1f %% local |\n", 100*w.readLocally())
	// Positions that do not exist any more, at a site that follows: each library is told so, there
	// or by the leader, and goes on where the log begins.
	// franz-go asks for no position that does not exist when it begins: one that pauses meanwhile.
	lateGo.mu.Lock()
	deleted := slices.Max(lateGo.last[:]) - 1000 + 50
	lateGo.mu.Unlock()
	late := []string{"java-4.3.1", "java-3.9.2", "python"}
	w.deleteEverywhere(deleted)
	end := w.leadersKnow("north")
	for _, kind := range late {
		w.commit(kind+"-north", 1)
		start(kind, "north", history.Member)
	}
	for _, kind := range late {
		w.eventually(kind+" goes on where the log begins", func() bool { return w.committed(kind+"-north") > 1000+deleted })
	}
	end()
	had := lateGo.n()
	lateGo.client.ResumeFetchTopics("orders")
	w.eventually("franz-go goes on where the log begins", func() bool { return lateGo.n() > had+100 })
	if lateGo.fault != "" {
		t.Error(lateGo.fault)
	}
	if err := clients.Stop(all, 2*time.Minute); err != nil {
		t.Error(err)
	}
	w.compare(newSeen("nobody"), readers...)
	events, done, err := clients.Histories(all)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	count := make(map[string]int)
	reference.mu.Lock()
	defer reference.mu.Unlock()
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case history.Consume:
			count[e.Client]++
			if value := reference.values[e.Partition][e.Offset]; !strings.HasPrefix(value, e.Payload.String()+" ") {
				t.Errorf("%s: %s at offset %d of partition %d, where others read %.40q", e.Client, e.Payload, e.Offset, e.Partition, value)
			}
		case history.Ack:
			count[e.Client]++
		case history.Fail:
			t.Errorf("%s: %s", e.Client, e.Error)
		}
	}
	written := count["java-4.3.1--producer"]
	for _, kind := range late {
		name := kind + "-north-group"
		if least := written - 2*int(deleted)*standbyPartitions; count[name] < least {
			t.Errorf("%s read %d of %d records, at least %d are there", name, count[name], written, least)
		}
		fmt.Printf("| %s, from a position that is gone | %d of %d records |\n", name, count[name], written)
	}
	for _, name := range []string{"java-4.3.1-west-assign", "java-4.3.1-west-group", "java-3.9.2-north-assign", "python-north-assign"} {
		if count[name] < written {
			t.Errorf("%s read %d of %d records", name, count[name], written)
		}
		fmt.Printf("| %s | %d of %d records |\n", name, count[name], written)
	}
	if written < 1000 {
		t.Errorf("%d records were written", written)
	}
}
