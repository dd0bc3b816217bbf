//go:build e2e

package federation_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway/federation/gatewaytest"
)

func TestRealKafkaMoves(t *testing.T) {
	o := gatewaytest.RealSites(t, map[string]int32{"orders": 1}, "4.3.1", "3.9.2")
	again := func(t *testing.T) gatewaytest.Options {
		t.Helper()
		emptied(t, o, "orders", "__spillway_map")
		return o
	}
	t.Run("switchovers keep order", func(t *testing.T) { switchoversKeepOrder(t, again(t)) })
	t.Run("lost answers are found in the trail", func(t *testing.T) { lostAnswers(t, again(t)) })
	t.Run("loss of acknowledged records stops nobody", func(t *testing.T) { lossStopsNobody(t, again(t)) })
	t.Run("unordered batches find a site", func(t *testing.T) {
		o.Topics = map[string]int32{"clicks": 4}
		emptied(t, o, "clicks", "__spillway_map")
		batchesAlwaysFindASite(t, spreadAs(t, o), o.Sites[0], o.Sites[1])
	})
}

// emptied deletes and creates topics, so that each part begins with nothing.
func emptied(t *testing.T, o gatewaytest.Options, topics ...string) {
	t.Helper()
	for id, site := range o.Real {
		cl, err := kgo.NewClient(site.Dial...)
		if err != nil {
			t.Fatal(err)
		}
		del := kmsg.NewPtrDeleteTopicsRequest()
		del.TimeoutMillis = 10_000
		for _, topic := range topics {
			del.TopicNames = append(del.TopicNames, topic)
			rt := kmsg.NewDeleteTopicsRequestTopic()
			rt.Topic = kmsg.StringPtr(topic)
			del.Topics = append(del.Topics, rt)
		}
		if _, err := del.RequestWith(within(t, 30*time.Second), cl); err != nil {
			t.Fatalf("delete at %s: %v", id, err)
		}
		for topic, partitions := range o.Topics {
			gatewaytest.Eventually(t, "the topic is created", func() bool {
				req := kmsg.NewPtrCreateTopicsRequest()
				rt := kmsg.NewCreateTopicsRequestTopic()
				rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, partitions, 1
				req.Topics = append(req.Topics, rt)
				resp, err := req.RequestWith(within(t, 10*time.Second), cl)
				return err == nil && resp.Topics[0].ErrorCode == 0
			})
		}
		cl.Close()
	}
}
