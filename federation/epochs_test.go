package federation_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
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
