//go:build e2e

package facts

import (
	"fmt"
	"testing"

	"spillway/tests/cluster/kafka"
)

// TestLogEnd: a cutover is the end of the leader's log and not the high
// watermark (C9). The two differ while a replica is behind, here because it is
// stopped.
func TestLogEnd(t *testing.T) {
	const name = "a replica is stopped; offsets listed by a consumer and by replica -2"
	for _, version := range kafka.Versions {
		t.Run(version, func(t *testing.T) {
			c := kafka.ForTest(t, kafka.Config{Version: version, Brokers: 2, Properties: map[string]string{"min.insync.replicas": "1"}})[0]
			s := &site{name: version, broker: c.Brokers[0], address: c.Brokers[0].Address(), owner: t}
			s.connect(t)
			topic := s.replicated(t, int32(c.Brokers[0].Node), int32(c.Brokers[1].Node))
			for i := range int32(3) {
				s.produce(t, topic, shape{id: tag, sequence: i}.batch(t, fmt.Sprint(i)))
			}
			eventually(t, "the high watermark has come to 3", func() bool { return s.end(t, topic) == 3 })
			must(t, c.Brokers[1].Pause())
			// acks=1: with acks=all the answer waits for the replica, which is the point.
			request := produceRequest(topic, shape{id: tag, sequence: 3}.batch(t, "3"))
			request.Acks = 1
			_, err := s.conn.DoVersion(t.Context(), request)
			must(t, err)
			consumer, _ := s.listOffset(t, topic, -1)
			debugger, _ := s.listOffset(t, topic, -2)
			must(t, c.Brokers[1].Resume())
			got := fmt.Sprintf("%d and %d", consumer, debugger)
			table.add(name, version, got)
			if got != "3 and 4" {
				t.Errorf("%s: %s\nthe design was made for: 3 and 4", name, got)
			}
			eventually(t, "the high watermark has come to 4", func() bool { return s.end(t, topic) == 4 })
		})
	}
	t.Run("kfake", func(t *testing.T) {
		s := embeddedSite(t)
		topic := s.topic(t)
		s.produce(t, topic, shape{id: tag}.batch(t, "0"))
		consumer, _ := s.listOffset(t, topic, -1)
		debugger, _ := s.listOffset(t, topic, -2)
		if consumer != 1 || debugger != 1 {
			t.Errorf("kfake, which has no replicas that could be behind, lists %d and %d instead of 1 and 1", consumer, debugger)
		}
		table.add(name, "kfake", "cannot show it")
	})
}
