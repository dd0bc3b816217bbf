package mirror

import (
	"context"
	"sync"
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/maptopic"
	"spillway/mirror/metadata"
)

// gated is a site at which topics are created only while nobody holds the gate.
type gated struct {
	broker.Cluster
	gate *sync.Mutex
}

type gatedAdmin struct {
	broker.Admin
	gate *sync.Mutex
}

func (c gated) Admin() broker.Admin { return gatedAdmin{c.Cluster.Admin(), c.gate} }

func (a gatedAdmin) CreateTopics(ctx context.Context, topics []broker.NewTopic) ([]string, map[string]error, error) {
	a.gate.Lock()
	defer a.gate.Unlock()
	return a.Admin.CreateTopics(ctx, topics)
}

// anew is a flow of a topic of three partitions, of which one has news.
type anew struct {
	*testing.T
	east, west broker.Cluster
	eastM, m   *Mirror
	load       *load
	gate       sync.Mutex
}

func newAnew(t *testing.T) *anew {
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 3}), embeddedSite(t, "west", nil)
	a := &anew{T: t, east: east, west: west, load: newLoad(t, east.Addresses(), 91)}
	a.eastM = testMirror(t, east, west)
	assign(t, a.eastM, ordersAssignment("", 1))
	a.m = testMirrorWith(t, Config{Local: gated{west, &a.gate}, MetadataInterval: MetadataIntervalDefault}, east)
	assign(t, a.m, ordersAssignment("east", 1))
	a.write(3, 30)
	a.whole()
	return a
}

func (a *anew) write(partitions int32, n int) {
	a.Helper()
	if err := a.load.write(testContext(a.T), "orders", partitions, n); err != nil {
		a.Fatal(err)
	}
}

func (a *anew) ends() map[spillway.TopicPartition]spillway.LocalOffset {
	ends, _ := a.west.Admin().LogEnds(testContext(a.T), partitionsOf("orders", 3)) // the topic may be gone
	return ends
}

// whole waits until west has what east has, in its logs too.
func (a *anew) whole() {
	a.Helper()
	eventually(a.T, "west has what east has", func() bool {
		if !caughtUp(testContext(a.T), a.east, a.eastM, a.m, ordersAssignment("", 1)) {
			return false
		}
		ends := a.ends()
		for _, tp := range partitionsOf("orders", 3) {
			if _, local := a.m.Map().View(tp).End(); local == 0 || ends[tp] < local {
				return false
			}
		}
		return true
	})
	for _, tp := range partitionsOf("orders", 3) {
		compareSites(a.T, a.east, a.west, a.eastM, a.m, tp)
	}
}

// A topic is deleted here, and one of its partitions has news: all of them come back, with
// the count of the source, and until then none has a mark that counts.
func TestAQuietPartitionComesBackToo(t *testing.T) {
	t.Parallel()
	a := newAnew(t)
	a.gate.Lock()
	open := sync.OnceFunc(a.gate.Unlock)
	defer open()
	if err := a.west.Admin().DeleteTopic(testContext(t), "orders"); err != nil {
		t.Fatal(err)
	}
	a.write(1, 5)
	eventually(t, "no mark counts", func() bool {
		ends, err := a.m.DurableEnds(testContext(t), ordersShare)
		if err != nil {
			t.Fatal(err)
		}
		for _, end := range ends {
			if end > 0 {
				return false
			}
		}
		return len(ends) == 3
	})
	if flows := a.m.Flows(); len(flows) != 1 || !flows[0].CatchingUp {
		t.Errorf("the flow counts as one that has had everything: %+v", flows)
	}
	open()
	a.whole()
	eventually(t, "nothing is owed", func() bool { return len(a.m.Map().Owed()) == 0 })
	if md, err := a.west.Metadata(testContext(t), "orders"); err != nil || len(md.Topics["orders"].Partitions) != 3 {
		t.Errorf("%v; it came back with %d partitions", err, len(md.Topics["orders"].Partitions))
	}
	a.emptied()
}

// emptied finds each partition's log told of as one that began anew, which hides nothing.
func (a *anew) emptied() {
	a.Helper()
	begun := make(map[int32]bool)
	for _, g := range a.m.Map().Gaps() {
		if g.Kind == maptopic.GapTruncated && g.LocalFrom == 0 {
			begun[g.Partition] = true
		}
	}
	if hiding := a.m.Map().Hiding(); len(begun) != 3 || len(hiding) > 0 {
		a.Errorf("%v began anew, and %v is hidden", begun, hiding)
	}
}

// Somebody creates the topic again at once. The next batch of the session is taken for the
// first one of the new log, whose numbers mean nothing to the map then.
func TestALogThatIsCreatedAgainAtOnce(t *testing.T) {
	t.Parallel()
	a := newAnew(t)
	for round := range 5 {
		admin := a.west.Admin()
		if err := admin.DeleteTopic(testContext(t), "orders"); err != nil {
			t.Fatal(err)
		}
		if err := admin.CreateTopic(testContext(t), "orders", 3, 1, nil); err != nil {
			t.Fatal(err)
		}
		a.write(1, 1+round)
		a.whole()
		a.emptied()
	}
}

// The topic is created again while no mirror is there to see it, and others write to the new
// log until it is as long as the old one was. The mirror that comes back, the same one or
// another, finds that it is not the log that was opened, and none of it is taken for what
// was mirrored.
func TestALogThatIsCreatedAgainBetweenMirrors(t *testing.T) {
	t.Parallel()
	for name, worker := range map[string]string{"the same worker": "", "another worker": "another"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAnew(t)
			before := a.ends()
			if worker == "" {
				worker = a.m.config.Worker
			}
			a.m.Close()
			admin := a.west.Admin()
			if err := admin.DeleteTopic(testContext(t), "orders"); err != nil {
				t.Fatal(err)
			}
			if err := admin.CreateTopic(testContext(t), "orders", 3, 1, nil); err != nil {
				t.Fatal(err)
			}
			for _, tp := range partitionsOf("orders", 3) {
				lateBatch(t, a.west, tp, batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, int(before[tp]), 0)
			}
			a.m = testMirrorWith(t, Config{Local: a.west, Worker: worker}, a.east)
			assign(t, a.m, ordersAssignment("east", 1))
			a.write(1, 5)
			a.whole()
			a.emptied()
		})
	}
}

// Somebody writes to a log of a compacted topic here while the flow has nothing to write:
// it is found all the same, since a failover must not come here for nothing better to know.
func TestAStrayRecordIsFoundWithoutNews(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	if err := east.Admin().CreateTopic(testContext(t), "orders", 2, 1, map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": "1000"}); err != nil {
		t.Fatal(err)
	}
	eastM, m := testMirror(t, east, west), testMirrorWith(t, Config{Local: west, SettingsExcluded: []string{"min.compaction.*"}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, m, ordersAssignment("east", 1))
	if err := newLoad(t, east.Addresses(), 92).write(testContext(t), "orders", 2, 10); err != nil {
		t.Fatal(err)
	}
	eventually(t, "west has what east has", func() bool {
		return caughtUp(testContext(t), east, eastM, m, ordersAssignment("", 1))
	})
	tp := spillway.TopicPartition{Topic: "orders"}
	_, local := m.Map().View(tp).End()
	lateBatch(t, west, tp, batch.Header{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, 1, local)
	eventually(t, "it is known that west hides a record", func() bool {
		return m.Map().Hiding()["orders"] == "foreign-write in partition 0"
	})
	lag := func() string {
		set, err := west.Admin().TopicSettings(testContext(t), []string{"orders"})
		if err != nil {
			t.Fatal(err)
		}
		return set["orders"]["min.compaction.lag.ms"]
	}
	eventually(t, "its cleaner is stopped", func() bool { return lag() == metadata.Stopped["min.compaction.lag.ms"] })
	if err := west.Admin().DeleteTopic(testContext(t), "orders"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic has begun anew", func() bool {
		md, err := west.Metadata(testContext(t), "orders")
		return err == nil && exists(md.Topics["orders"]) && len(m.Map().Hiding()) == 0
	})
	// What is the site's own stays so.
	eventually(t, "its cleaner goes on", func() bool { return lag() != metadata.Stopped["min.compaction.lag.ms"] })
	if got := lag(); got != "" {
		t.Errorf("the lag of the source, %s, was set where settings are excluded", got)
	}
}
