package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/topicchange"
	"spillway/mirror/maptopic"
)

// A topic that somebody created at a standby, past the service, does not stop a
// switchover there. It is named before; it begins empty with the epoch, since
// clients never saw it; and from then on it is like any other.
func TestTopicThatOnlyTheTargetHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) { g.Topics = []string{"orders", "extra"} }})
	w.settled(1)
	west := w.sites["west"].cluster
	if err := west.Admin().CreateTopic(within(t), "extra", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	extra := spillway.TopicPartition{Topic: "extra"}
	for _, value := range []string{"stray-1", "stray-2"} {
		w.eventually("a stray record", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := produceTo(ctx, west, extra, value)
			return err == nil
		})
	}
	w.eventually("the plan names it", func() bool {
		plan, err := w.operator.Switchover(within(t), "orders", "west", "test", "", true)
		return err == nil && len(plan.OnlyAtTarget) == 1 && strings.HasPrefix(plan.Effects[0], "only west has the topics extra: they begin empty in epoch 2")
	})
	plan := w.switchover("west", "")
	share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%+v, %v; faults %q", share, err, last(w.failed, 5))
	}
	w.eventually("the topic opens", func() bool { _, open := w.sites["west"].maps.View(extra).Open(); return open })
	w.write("west", extra, "first")
	for _, id := range []spillway.SiteID{"west", "east", "north"} {
		w.eventually("the record is at "+string(id), func() bool {
			if _, err := w.sites[id].cluster.Leader(within(t), extra); err != nil {
				return false
			}
			shown := w.visible(id, extra)
			return len(shown) == 1 && shown[1000] == "first"
		})
	}
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
	hidden := false
	for _, g := range w.sites["west"].maps.Gaps() {
		hidden = hidden || g.Topic == "extra" && g.Kind == maptopic.GapExisting && g.LocalFrom == 0 && g.LocalTo == 2
	}
	if !hidden {
		t.Errorf("the gap log does not tell of what is hidden: %+v", w.sites["west"].maps.Gaps())
	}
}

// A gateway dies when it has begun to create a topic. The loops carry it on: the site that
// serves creates it, the mirrors at the others, and all of them have it after a switchover
// as before.
func TestTopicsOfDeadGatewaysAreCreated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) { g.Topics = []string{"orders", "new"} }})
	w.settled(1)
	gateway := topicchange.New(topicchange.Config{Topology: w.topology, Store: w.store})
	counts := func(want int) func() bool {
		return func() bool {
			for _, s := range w.sites {
				md, err := s.cluster.Metadata(within(t), "new")
				if err != nil || len(md.Topics["new"].Partitions) != want {
					return false
				}
			}
			return true
		}
	}
	begin := func(c topicchange.Change) {
		t.Helper()
		c.Topic, c.Who = "new", "a gateway that dies"
		if _, err := gateway.Begin(within(t), c); err != nil {
			t.Fatal(err)
		}
		w.eventually("the change has ended", func() bool {
			_, underWay, err := gateway.UnderWay(within(t), "new")
			return err == nil && !underWay
		})
	}
	begin(topicchange.Change{Partitions: 1, Replication: 1, Configs: map[string]string{"retention.ms": "12345678"}})
	w.eventually("all sites have the topic", counts(1))
	for _, s := range w.sites {
		w.eventually("site "+string(s.id)+" has its settings", func() bool {
			set, err := s.cluster.Admin().TopicSettings(within(t), []string{"new"})
			return err == nil && set["new"]["retention.ms"] == "12345678"
		})
	}
	last := spillway.TopicPartition{Topic: "new"}
	w.eventually("the topic begins", func() bool { _, open := w.sites["east"].maps.View(last).Open(); return open })
	w.write("east", last, "first")
	plan := w.switchover("west", "")
	share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%+v, %v", share, err)
	}
	w.write("west", last, "second")
	for _, id := range []spillway.SiteID{"west", "east", "north"} {
		w.eventually("the records are at "+string(id), func() bool {
			shown := w.visible(id, last)
			return len(shown) == 2 && shown[1000] == "first"
		})
	}
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
}
