package mirror

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
)

// TestTransactionsOfOthersAtTheTarget has a client leave transactions open in a
// standby's partition: when a flow begins, and when the standby is about to serve
// (C6).
func TestTransactionsOfOthersAtTheTarget(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	transactionsOfOthers(t, east, west, east.Addresses(), west.Addresses())
}

func transactionsOfOthers(t *testing.T, east, west broker.Cluster, eastAddresses, westAddresses []string) {
	tp, other := spillway.TopicPartition{Topic: "orders"}, spillway.TopicPartition{Topic: "orders", Partition: 1}
	ctx := testContext(t)
	for _, c := range []broker.Cluster{east, west} {
		if err := c.Admin().CreateTopic(ctx, "orders", 2, 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	open := func(id string, tps ...spillway.TopicPartition) *kgo.Client {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(westAddresses...), kgo.TransactionalID(id), kgo.TransactionTimeout(5*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		if err := c.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for _, tp := range tps {
			if err := c.ProduceSync(ctx, &kgo.Record{Topic: tp.Topic, Partition: tp.Partition, Value: []byte("open")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	write := func(addresses []string, n int) {
		t.Helper()
		c, err := kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range n {
			if err := c.ProduceSync(ctx, &kgo.Record{Topic: "orders", Partition: int32(i % 2), Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	write(eastAddresses, 6)
	open("stays open", tp)
	ends := open("ends by itself", other)

	const wait = 3 * time.Second
	westM := testMirrorWith(t, Config{Local: west, TransactionWait: wait}, east)
	begun := time.Now()
	assign(t, westM, ordersAssignment("east", 1))
	waits := func(tp spillway.TopicPartition) bool {
		flows := westM.Flows()
		return len(flows) == 1 && strings.Contains(flows[0].Problems[tp], "has had a transaction open in "+tp.String()+" of site west since offset 0")
	}
	eventually(t, "both partitions wait", func() bool { return waits(tp) && waits(other) })
	if err := ends.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the partition whose transaction ended is mirrored", func() bool { return westM.Ends(ordersShare)[other] == 1003 })
	if waited := time.Since(begun); waited < wait && westM.Ends(ordersShare)[tp] != 0 {
		t.Errorf("after %s the partition with the open transaction has records up to %d", waited, westM.Ends(ordersShare)[tp])
	}
	eventually(t, "the other one too", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	if waited := time.Since(begun); waited < wait {
		t.Errorf("the flow waited for %s only", waited)
	}
	aborted := func() (found []maptopic.Gap) {
		t.Helper()
		if err := westM.Map().CaughtUp(ctx); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(westM.Map().Gaps(), func(g maptopic.Gap) bool { return g.Kind != maptopic.GapTransaction })
	}
	if gaps := aborted(); len(gaps) != 1 || gaps[0].Partition != 0 || gaps[0].LocalFrom != 0 || gaps[0].LocalTo != 1 || !strings.HasSuffix(gaps[0].Detail, "it was aborted") {
		t.Errorf("gaps: %+v", gaps)
	}

	// A flow that runs goes on beside one. Whoever takes over does not wait.
	opened := []spillway.TopicPartition{tp, other}
	before, err := west.Admin().LogEnds(ctx, opened)
	if err != nil {
		t.Fatal(err)
	}
	open("open at the cutover", opened...)
	write(eastAddresses, 4)
	eventually(t, "west has what east has", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	cutover, err := westM.Stop(ctx, ordersShare, 2)
	if err != nil {
		t.Fatal(err)
	}
	stable, err := west.Admin().StableEnds(ctx, opened)
	if err != nil || stable[tp] != before[tp] || stable[other] != before[other] {
		t.Fatalf("readers of committed records see up to %v, %v; the transaction began at %v", stable, err, before)
	}
	if _, err := westM.OpenEpoch(ctx, ordersShare, 2, 7, cutover); err != nil {
		t.Fatal(err)
	}
	assign(t, westM, ordersAssignment("", 2))
	write(westAddresses, 2)
	for _, p := range opened {
		all, err := read(ctx, west, p)
		if err != nil {
			t.Fatal(err)
		}
		last := all[len(all)-1]
		if v, visible := westM.Map().View(p).ToVirtual(spillway.LocalOffset(last.offset)); !visible || v != cutover[p] {
			t.Errorf("%s: the first record of the new epoch is at virtual offset %d, %v, not at %d", p, v, visible, cutover[p])
		}
	}
	gaps := aborted()
	slices.SortStableFunc(gaps, func(a, b maptopic.Gap) int { return int(a.Partition - b.Partition) })
	if len(gaps) != 3 || gaps[1].LocalFrom != before[tp] || gaps[2].LocalFrom != before[other] {
		t.Errorf("gaps: %+v", gaps)
	}
	assign(t, eastM, ordersAssignment("west", 2, Term{Epoch: 1, Site: "east"}, term(2, "west", cutover)))
	eventually(t, "east follows west", func() bool { return caughtUp(ctx, west, westM, eastM, ordersAssignment("", 2)) })
	for _, p := range opened {
		compareSites(t, west, east, westM, eastM, p)
	}
}
