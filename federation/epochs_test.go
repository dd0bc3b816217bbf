package federation_test

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// endOfEpoch asks where a leader epoch of a partition ends.
func endOfEpoch(t *testing.T, w *gatewaytest.World, tp spillway.TopicPartition, current, epoch int32) kmsg.OffsetForLeaderEpochResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = 4, -1
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = tp.Partition, current, epoch
	req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: tp.Topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}}}
	return do[*kmsg.OffsetForLeaderEpochResponse](t, raw(t, w.Addrs[0]), req).Topics[0].Partitions[0]
}

// After a move, also one that lost records, no position that a client may hold is above where
// the epoch ends in which it was given: a consumer that asks goes on where it was.
func TestNoEpochEndsBelowAPositionOfAClient(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 2}})
	orders := spillway.TopicPartition{Topic: "orders", Partition: 1}
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.Addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	const records = 20
	var position int64
	for range records {
		r := &kgo.Record{Topic: orders.Topic, Partition: orders.Partition, Value: []byte("x")}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		position = r.Offset + 1
	}
	first := spillway.VirtualLeaderEpoch(1)
	if got := endOfEpoch(t, w, orders, first, first); got.ErrorCode != 0 || got.LeaderEpoch != first || got.EndOffset != position {
		t.Errorf("the epoch that is served: %+v, want an end of %d", got, position)
	}
	for name, row := range map[string]struct {
		tp             spillway.TopicPartition
		current, epoch int32
		want           int16
	}{
		"of a move that this gateway has not heard of":     {orders, spillway.VirtualLeaderEpoch(2), first, kerr.UnknownLeaderEpoch.Code},
		"an epoch that this gateway has not heard of":      {orders, -1, spillway.VirtualLeaderEpoch(2), kerr.UnknownLeaderEpoch.Code},
		"a client that has not heard of the present epoch": {orders, first - 1, first - 1, kerr.FencedLeaderEpoch.Code},
		"a topic that is not there":                        {spillway.TopicPartition{Topic: "none"}, -1, first, kerr.UnknownTopicOrPartition.Code},
		"a partition that is not there":                    {spillway.TopicPartition{Topic: "orders", Partition: -7}, -1, first, kerr.UnknownTopicOrPartition.Code},
		"no epoch":                                         {orders, -1, -1, 0},
	} {
		if got := endOfEpoch(t, w, row.tp, row.current, row.epoch); got.ErrorCode != row.want || got.EndOffset != -1 || got.LeaderEpoch != -1 {
			t.Errorf("%s: %+v, want error %d", name, got, row.want)
		}
	}

	// Whoever names a partition twice is answered twice, and costs the site two questions.
	metadata, offsets := w.Wires["east"].Sent(3), w.Wires["east"].Sent(2)
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = 4, -1
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = 1, first, first
	other := p
	other.Partition = 0
	none := p
	none.Partition = 2
	req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p, other, p, none}}}
	all := do[*kmsg.OffsetForLeaderEpochResponse](t, raw(t, w.Addrs[0]), req).Topics[0].Partitions
	for i, want := range []int64{position, gatewaytest.OffsetBase, position, -1} {
		if all[i].EndOffset != want || (all[i].ErrorCode == 0) != (want >= 0) {
			t.Errorf("answer %d: %+v, want %d", i, all[i], want)
		}
	}
	if m, o := w.Wires["east"].Sent(3)-metadata, w.Wires["east"].Sent(2)-offsets; m != 1 || o != 1 {
		t.Errorf("the site was asked %d times for metadata and %d times for offsets", m, o)
	}

	w.Fence("west", failover.Failover)
	if got := endOfEpoch(t, w, orders, -1, first); got.ErrorCode != kerr.NotLeaderForPartition.Code || got.EndOffset != -1 {
		t.Errorf("while the group moves: %+v", got)
	}
	w.Open(5, 100) // the last five records of each partition are lost
	second := spillway.VirtualLeaderEpoch(w.Share().Epoch)
	var got kmsg.OffsetForLeaderEpochResponseTopicPartition
	gatewaytest.Eventually(t, "west serves", func() bool {
		got = endOfEpoch(t, w, orders, second, first)
		return got.ErrorCode == 0
	})
	if got.LeaderEpoch != first || got.EndOffset < position {
		t.Errorf("a consumer that has read up to %d is told that %d ends at %d", position, got.LeaderEpoch, got.EndOffset)
	}
}

// Who may not know of a topic is told of no end of its epochs, and its site is asked for those
// of the others alone.
func TestEpochsOfHiddenTopics(t *testing.T) {
	t.Parallel()
	f, l := newFront(t), newLists()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1, "carts": 1}, Gateway: func(c *federation.Config) {
		f.ask(c, 0, authentication.ScramSHA256)
		l.authorize(c, l.read)
	}})
	c := login(t, w.Addrs[0], "alice", "alice's")
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.Version, req.ReplicaID = 4, -1
	p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	p.CurrentLeaderEpoch, p.LeaderEpoch = spillway.VirtualLeaderEpoch(1), spillway.VirtualLeaderEpoch(1)
	for _, topic := range []string{"orders", "carts"} {
		req.Topics = append(req.Topics, kmsg.OffsetForLeaderEpochRequestTopic{Topic: topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{p}})
	}
	const end = gatewaytest.OffsetBase
	for _, step := range []struct {
		list     string
		want     string
		siteAsks int
	}{
		{"deny User:alice describe topic orders", "orders no-topic -1, carts no-topic -1", 0},
		{"allow User:alice describe topic carts", fmt.Sprint("orders no-topic -1, carts ", end), 1},
		{"allow User:alice read topic *", fmt.Sprint("orders ", end, ", carts ", end), 1},
	} {
		l.set(t, "east", step.list)
		before := w.Wires["east"].Sent(2)
		var got string
		for i, topic := range do[*kmsg.OffsetForLeaderEpochResponse](t, c, req).Topics {
			if i > 0 {
				got += ", "
			}
			got += fmt.Sprint(topic.Topic, refusal(topic.Partitions[0].ErrorCode), " ", topic.Partitions[0].EndOffset)
		}
		if n := w.Wires["east"].Sent(2) - before; got != step.want || n != step.siteAsks {
			t.Errorf("%s: %s, and the site was asked for ends %d times", step.list, got, n)
		}
	}
}
