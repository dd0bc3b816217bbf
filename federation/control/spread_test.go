package control

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
)

// The failover groups of an unordered one are mirrored in both directions, each only
// its own partitions, and move one by one. Topics are created with the partitions of all.
func TestSiblingsAreMirroredAndMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, spread: 2, group: func(g *spillway.FailoverGroup) { g.ConsumerGroups = []string{"readers"} }})
	state := func(group string) failover.Share {
		e, err := w.store.Get(context.Background(), failover.Keys("shop").Share(spillway.ShareID{Group: group}))
		if err != nil {
			return failover.Share{}
		}
		s, err := failover.Decode(e.Value)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.eventually("both shares stand at their homes", func() bool {
		return state("orders-east").Active == "east" && state("orders-west").Active == "west"
	})
	w.eventually("west has the topic", func() bool {
		md, err := w.sites["west"].cluster.Metadata(within(t))
		return err == nil && len(md.Topics["orders"].Partitions) == 4
	})
	write := func(site spillway.SiteID, partition int32, n int) {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(w.sites[site].server.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for i := range n {
			if err := cl.ProduceSync(within(t), &kgo.Record{Topic: "orders", Partition: partition, Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	ends := func(site spillway.SiteID) (all [4]spillway.LocalOffset) {
		var tps []spillway.TopicPartition
		for p := range int32(4) {
			tps = append(tps, spillway.TopicPartition{Topic: "orders", Partition: p})
		}
		found, err := w.sites[site].cluster.Admin().LogEnds(within(t), tps)
		if err != nil {
			t.Fatal(err)
		}
		for i, tp := range tps {
			all[i] = found[tp]
		}
		return all
	}
	write("east", 0, 3)
	write("east", 1, 4)
	write("west", 2, 5)
	write("west", 3, 6)
	for _, site := range []spillway.SiteID{"east", "west"} {
		w.eventually(fmt.Sprintf("%s has all", site), func() bool { return ends(site) == [4]spillway.LocalOffset{3, 4, 5, 6} })
	}
	at := func(partition int32) spillway.TopicPartition {
		return spillway.TopicPartition{Topic: "orders", Partition: partition}
	}
	if err := w.sites["east"].cluster.Admin().CommitGroupOffsets(within(t), "readers", map[spillway.TopicPartition]broker.GroupOffset{at(0): {Offset: 2}, at(2): {Offset: 4}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the first share carries all that the group has committed", func() bool {
		there, err := w.sites["west"].cluster.Admin().FetchGroupOffsets(within(t), "readers")
		return err == nil && there[at(0)].Offset == 2 && there[at(2)].Offset == 4
	})
	var plan Plan
	w.eventually("the switchover begins", func() (ok bool) {
		var err error
		plan, err = w.operator.Switchover(within(t), "orders-west", "east", "test", "", false)
		return err == nil
	})
	share, err := w.operator.Await(within(t), "orders-west", plan.Epoch, nil)
	if err != nil || share.Active != "east" {
		t.Fatalf("%v: %+v; faults %q, waits %q", err, share, last(w.failed, 5), last(w.waits, 5))
	}
	if start := share.Current().Start; len(start) != 1 || start.Get(spillway.TopicPartition{Topic: "orders", Partition: 0}) >= 0 ||
		start.Get(spillway.TopicPartition{Topic: "orders", Partition: 3}) != 1006 {
		t.Errorf("the epoch starts at %v", start)
	}
	if other := state("orders-east"); other.Active != "east" || other.Epoch != 1 {
		t.Errorf("the other share moved too: %+v", other)
	}
	write("east", 3, 2)
	w.eventually("west follows", func() bool { return ends("west") == [4]spillway.LocalOffset{3, 4, 5, 8} })
}
