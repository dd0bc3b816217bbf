package mirror

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/mirror/offsetmap"
)

// A partition comes back from its lane with its session, since the source was in trouble,
// and the target has lost its records meanwhile. Nobody writes them again while the flow
// waits for them. Without a loss there is nothing to wait for: what a new partition has
// was acknowledged.
func TestAReturnMeetsALossAtTheTarget(t *testing.T) {
	t.Parallel()
	const each = 10
	ctx := testContext(t)
	server, east := scripted(t, "east", 0, 0)
	west := embeddedSite(t, "west", nil)
	var cut atomic.Bool
	var cuts, lack, asked atomic.Int64
	server.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		server.KeepControl()
		if r.(*kmsg.FetchRequest).SessionEpoch < 0 || !cut.Swap(false) { // not of a flow
			return nil, nil, false
		}
		cuts.Add(1)
		return nil, errors.New("gone"), true
	})
	eastM := testMirror(t, east)
	westM := testMirrorWith(t, Config{Local: behind{west, &lack, &asked}, quiet: quietLimits{from: 100, after: time.Hour, laneMax: 1}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	assign(t, westM, ordersAssignment("east", 1))
	written := spillway.Offset(0)
	follows := func() {
		t.Helper()
		fill(t, server, each)
		written += each
		eventually(t, "west has all", func() bool {
			ends := westM.Ends(ordersShare)
			for p := range int32(2) {
				if ends[spillway.TopicPartition{Topic: "orders", Partition: p}] != ordersAssignment("", 1).OffsetBase+written {
					return false
				}
			}
			return true
		})
	}
	comesBack := func() {
		t.Helper()
		before := cuts.Load()
		cut.Store(true)
		eventually(t, "the source has hung up", func() bool { return cuts.Load() > before })
	}
	follows()
	comesBack()
	follows()
	if n := asked.Load(); n > 0 {
		t.Errorf("what all replicas have of a partition that was new was asked for %d times", n)
	}
	if err := errors.Join(west.Admin().DeleteTopic(ctx, "orders"), west.Admin().CreateTopic(ctx, "orders", 2, 1, nil)); err != nil {
		t.Fatal(err)
	}
	comesBack()
	follows()
	eventually(t, "the map says so", func() bool { return caughtUp(ctx, east, eastM, westM, ordersAssignment("", 1)) })
	for p := range int32(2) {
		compareSites(t, east, west, eastM, westM, spillway.TopicPartition{Topic: "orders", Partition: p})
	}
}

// toAcknowledge are partitions of orders whose sessions were opened, with so many records
// that were read back.
func toAcknowledge(t *testing.T, local broker.Cluster, records ...int) (*flow, []*partition) {
	t.Helper()
	f := newFlow(testMirror(t, local), ordersAssignment("east", 1), &source{site: "east"}, nil)
	var parts []*partition
	for i, n := range records {
		parts = append(parts, &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: int32(i)}, lease: alwaysHeld{}, session: offsetmap.Session{Session: 2, Opened: true},
			position: position{virtual: 1000 + spillway.Offset(n), local: spillway.LocalOffset(n), bound: noBound}})
	}
	return f, parts
}

// What the target lost between opening and going on is not waited for: the partition is
// opened anew.
func TestWhatTheTargetLostIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	f, parts := toAcknowledge(t, embeddedSite(t, "west", map[string]int32{"orders": 2}), 0, 5)
	got := f.acknowledged(testContext(t), slices.Clone(parts))
	if len(got) != 1 || got[0] != parts[0] || parts[0].durable != 2 || len(f.later) != 1 || f.later[0] != parts[1] {
		t.Errorf("%d go on, %d wait", len(got), len(f.later))
	}
	if parts[1].session.Opened {
		t.Error("the session goes on, and waits for what is lost")
	}
}

// leaderless is a cluster in which one partition has no leader.
type leaderless struct {
	broker.Cluster
	of spillway.TopicPartition
}

type leaderlessAdmin struct {
	broker.Admin
	of spillway.TopicPartition
}

func (c leaderless) Admin() broker.Admin { return leaderlessAdmin{c.Cluster.Admin(), c.of} }

func (c leaderless) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	md, err := c.Cluster.Metadata(ctx, topics...)
	for i, p := range md.Topics[c.of.Topic].Partitions {
		if p.Partition == c.of.Partition {
			md.Topics[c.of.Topic].Partitions[i].Leader = -1
		}
	}
	return md, err
}

func (a leaderlessAdmin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if slices.Contains(tps, a.of) {
		return nil, broker.ErrNoLeader
	}
	return a.Admin.HighWatermarks(ctx, tps)
}

// A partition without a leader at the target waits, and keeps no other from its lane.
func TestAPartitionWithoutALeaderWaitsAlone(t *testing.T) {
	t.Parallel()
	west := embeddedSite(t, "west", map[string]int32{"orders": 3})
	f, parts := toAcknowledge(t, leaderless{west, spillway.TopicPartition{Topic: "orders", Partition: 1}}, 0, 0, 0)
	got := f.acknowledged(testContext(t), slices.Clone(parts))
	if len(got) != 2 || slices.Contains(got, parts[1]) || len(f.later) != 1 || f.later[0] != parts[1] || !parts[1].session.Opened {
		t.Errorf("%d go on, %d wait", len(got), len(f.later))
	}
}
