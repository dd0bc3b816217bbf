//go:build e2e

package mirror

import (
	"strings"
	"sync/atomic"
	"testing"

	"spillway"
	"spillway/broker"
)

// TestMetadataOnKafka carries settings and new partitions between two versions of
// Kafka, and from a source whose settings the target does not all know.
func TestMetadataOnKafka(t *testing.T) {
	sites, servers := kafkaPair(t)
	east, west := sites[0], sites[1]
	t.Run("settings", func(t *testing.T) { keepInStep(t, east, west) })
	t.Run("a setting that the target refuses", func(t *testing.T) {
		odd := embeddedSite(t, "odd", map[string]int32{"orders-odd": 1, "orders-there": 1})
		createTopic(t, west, "orders-there", 1, nil)
		for _, topic := range []string{"orders-odd", "orders-there"} {
			set(t, odd, topic, map[string]string{"retention.ms": "1000000", "unheard.of": "1"})
		}
		oddM, told := testMirror(t, odd, west), new(atomic.Int64)
		assign(t, oddM, ordersAssignment("", 1))
		m := testMirrorWith(t, Config{Local: west, Events: Events{Metadata: func(i MetadataInfo) {
			if strings.Contains(i.Problem, "unheard.of") {
				told.Add(1)
			}
		}}}, odd)
		a := ordersAssignment("odd", 1)
		a.Share.Group, a.Topics = "odd", []string{"orders-odd", "orders-there"}
		assign(t, m, a)
		for _, topic := range []string{"orders-odd", "orders-there"} {
			awaitSettings(t, west, topic, map[string]string{"retention.ms": "1000000"})
		}
		eventually(t, "it is told what was refused", func() bool { return told.Load() >= 2 })
		all, err := west.Admin().TopicSettings(testContext(t), []string{"orders-there"})
		if want := "9223372036854775807"; err != nil || all["orders-there"]["message.timestamp.after.max.ms"] != want {
			t.Errorf("what the mirror needs is not set: %v, %v", all, err)
		}
		set(t, odd, "orders-there", map[string]string{"retention.ms": ""})
		awaitSettings(t, west, "orders-there", map[string]string{})
		m.Close()
	})
	t.Run("partitions", func(t *testing.T) {
		for _, c := range sites {
			for _, topic := range []string{"orders", spillway.MapTopic} {
				if err := c.Admin().DeleteTopic(testContext(t), topic); err != nil {
					t.Fatal(err)
				}
			}
		}
		createTopic(t, east, "orders", 1, nil)
		growAndCompare(t, east, west, func(broker.Cluster) []string { return servers[0].Bootstrap() })
	})
}
