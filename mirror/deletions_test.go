package mirror

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
)

// deletions is a flow of topics that come and go.
type deletions struct {
	*testing.T
	east, west broker.Cluster
	addresses  []string
	eastM      *Mirror
	follow     bool

	mu   sync.Mutex
	told map[string]string // what was said last of a topic
}

func newDeletions(t *testing.T, east, west broker.Cluster, addresses []string, follow bool) *deletions {
	d := &deletions{T: t, east: east, west: west, addresses: addresses, follow: follow, told: make(map[string]string)}
	d.eastM = testMirror(t, east, west)
	assign(t, d.eastM, ordersAssignment("", 1))
	return d
}

func (d *deletions) start() *Mirror {
	d.Helper()
	m := testMirrorWith(d.T, Config{Local: d.west, DeletedAfter: 300 * time.Millisecond, Events: Events{Metadata: func(i MetadataInfo) {
		if i.Kind == KindTopic {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.told[i.Name] = i.What + i.Problem
		}
	}}}, d.east)
	a := ordersAssignment("east", 1)
	a.FollowDeletions = d.follow
	assign(d.T, m, a)
	return m
}

func (d *deletions) create(c broker.Cluster, topic string) {
	d.Helper()
	if err := c.Admin().CreateTopic(testContext(d.T), topic, 1, 1, nil); err != nil {
		d.Fatal(err)
	}
}

func (d *deletions) delete(topic string) {
	d.Helper()
	if err := d.east.Admin().DeleteTopic(testContext(d.T), topic); err != nil {
		d.Fatal(err)
	}
}

func (d *deletions) write(m *Mirror, seed uint64, topics ...string) {
	d.Helper()
	l := newLoad(d.T, d.addresses, seed)
	for _, topic := range topics {
		if err := l.write(testContext(d.T), topic, 1, 5); err != nil {
			d.Fatal(err)
		}
	}
	d.wait(m)
}

func (d *deletions) wait(m *Mirror) {
	d.Helper()
	eventually(d.T, "west has what east has", func() bool { return caughtUp(testContext(d.T), d.east, d.eastM, m, ordersAssignment("", 1)) })
}

func (d *deletions) there(topic string) bool {
	d.Helper()
	md, err := d.west.Metadata(testContext(d.T), topic)
	if err != nil {
		d.Fatal(err)
	}
	return exists(md.Topics[topic])
}

func (d *deletions) awaitTold(topic, word string) {
	d.Helper()
	eventually(d.T, "it is told that "+topic+" "+word, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return strings.Contains(d.told[topic], word)
	})
}

// awaitCalm waits until the flow has no problem with what is gone.
func (d *deletions) awaitCalm(m *Mirror, partitions int) {
	d.Helper()
	eventually(d.T, "the flow has no problem", func() bool {
		f := m.Flows()[0]
		return f.Problem == "" && len(f.Problems) == 0 && f.Partitions == partitions
	})
}

// Topics that are deleted at the source stay at the target, and are no problem of
// the flow any more.
func TestDeletedTopicsAreKept(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1, "orders-old": 1}), embeddedSite(t, "west", nil)
	d := newDeletions(t, east, west, east.Addresses(), false)
	m := d.start()
	d.write(m, 81, "orders", "orders-old")
	d.delete("orders-old")
	d.awaitTold("orders-old", "kept here: deletions are not followed")
	d.awaitCalm(m, 1)
	if !d.there("orders-old") {
		t.Error("the topic was deleted")
	}
	d.write(m, 82, "orders")
}

// Where it is asked for they are deleted, if the mirror created them: over a restart
// too, and not if they come again.
func TestDeletionsAreFollowed(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1, "orders-own": 1, "orders-again": 1, "orders-late": 1}), embeddedSite(t, "west", nil)
	followDeletions(newDeletions(t, east, west, east.Addresses(), true))
}

func followDeletions(d *deletions) {
	d.Helper()
	d.create(d.west, "orders-own")
	m := d.start()
	d.write(m, 83, "orders", "orders-own", "orders-again", "orders-late")
	d.delete("orders-own")
	d.delete("orders-again")
	eventually(d.T, "the topic is deleted at the target", func() bool { return !d.there("orders-again") })
	d.awaitTold("orders-own", "not the mirror that created it")
	d.awaitCalm(m, 2)
	if !d.there("orders-own") {
		d.Error("a topic that somebody had created at the target was deleted")
	}

	// It comes again, with other records.
	d.create(d.east, "orders-again")
	eventually(d.T, "the topic is there again", func() bool { return d.there("orders-again") })
	d.write(m, 84, "orders-again")
	compareSites(d.T, d.east, d.west, d.eastM, m, spillway.TopicPartition{Topic: "orders-again"})
	m.Close()

	d.delete("orders-late")
	m = d.start()
	eventually(d.T, "what was deleted while no mirror ran is deleted too", func() bool { return !d.there("orders-late") })
	d.awaitCalm(m, 2)
	m.Close()
}

// A source that was set up anew has deleted nothing.
func TestAnEmptySourceDeletesNothing(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1, "orders-old": 1}), embeddedSite(t, "west", nil)
	d := newDeletions(t, east, west, east.Addresses(), true)
	m := d.start()
	d.write(m, 85, "orders", "orders-old")
	m.Close()
	fresh, err := embedded.Start(embedded.Config{Site: "east", Topics: map[string]int32{"orders": 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fresh.Close() })
	d.east = fresh
	freshM := testMirror(t, fresh, west)
	assign(t, freshM, ordersAssignment("", 1))
	d.start()
	d.awaitTold("orders-old", "it came from another cluster")
	if !d.there("orders-old") || !d.there("orders") {
		t.Error("topics were deleted")
	}
}

// hiding is a source whose topics the mirror may not see any more.
type hiding struct {
	broker.Cluster
	hidden atomic.Bool
}

func (h *hiding) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	md, err := h.Cluster.Metadata(ctx, topics...)
	if h.hidden.Load() {
		delete(md.Topics, "orders-old")
		for _, name := range topics {
			if name == "orders-old" {
				md.Topics[name] = broker.TopicMetadata{Name: name, ErrorCode: kerr.TopicAuthorizationFailed.Code}
			}
		}
	}
	return md, err
}

// That a topic may not be seen any more is told, and nothing is deleted.
func TestATopicThatMayNotBeSeenIsNotDeleted(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1, "orders-old": 1}), embeddedSite(t, "west", nil)
	source := &hiding{Cluster: east}
	d := newDeletions(t, source, west, east.Addresses(), true)
	m := d.start()
	d.write(m, 86, "orders", "orders-old")
	source.hidden.Store(true)
	d.awaitTold("", "orders-old of site east cannot be seen any more")
	d.delete("orders")
	eventually(t, "what was deleted is", func() bool { return !d.there("orders") })
	if !d.there("orders-old") {
		t.Error("the topic was deleted")
	}
}
