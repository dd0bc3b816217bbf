package mirror

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/mirror/maptopic"
)

func TestOriginsRefuse(t *testing.T) {
	t.Parallel()
	o := maptopic.Origin{Site: "b", Topic: "orders", Before: []spillway.SiteID{"a"}}
	for site, want := range map[spillway.SiteID]bool{"a": true, "b": true, "c": false} {
		if o.From(site) != want {
			t.Errorf("from %s: %v", site, !want)
		}
	}
}

// Two sites send each other everything that they have, all the time: each gets what is
// the other's own, once, and nothing comes back. A third one that is fed by one of
// them may not feed the first.
func TestFlowsBothWaysDoNotTurnInCircles(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	west := embeddedSite(t, "west", map[string]int32{"carts": 1})
	north := embeddedSite(t, "north", nil)
	if err := newLoad(t, east.Addresses(), 81).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	if err := newLoad(t, west.Addresses(), 82).write(ctx, "carts", 1, 20); err != nil {
		t.Fatal(err)
	}
	prefix := func(site string) RunConfig { return RunConfig{Topics: selected(t, ".*", "(.*)="+site+".$1")} }
	var runs sync.WaitGroup
	circular := make(chan []string, 2)
	for _, ends := range [][2]broker.Cluster{{east, west}, {west, east}} {
		c := prefix(string(ends[0].Site()))
		c.From, c.To, c.Mirror = ends[0], ends[1], Config{TopicInterval: 50 * time.Millisecond}
		runs.Go(func() {
			report, err := Run(ctx, c)
			if err != nil {
				t.Error(err)
			}
			circular <- report.Circular
		})
	}
	records := func(c broker.Cluster, topic string) int {
		found, err := read(ctx, c, spillway.TopicPartition{Topic: topic})
		if err != nil {
			return -1
		}
		return len(found)
	}
	eventually(t, "each site has the other's records", func() bool {
		return records(west, "east.orders") == records(east, "orders") && records(east, "west.carts") == records(west, "carts")
	})
	// A third site takes over all of west, and with it what east had.
	c := RunConfig{From: west, To: north, Topics: selected(t, ".*"), UntilCaughtUp: true}
	if _, err := Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	report, err := Run(ctx, RunConfig{From: north, To: east, Topics: selected(t, ".*", "(.*)=north.$1"), UntilCaughtUp: true})
	if err != nil || !slices.Equal(report.Circular, []string{"north.east.orders"}) || report.Partitions != 1 {
		t.Errorf("back over a third site: %+v, %v", report, err)
	}
	// One topic cannot have two sources.
	_, err = Run(ctx, RunConfig{From: east, To: north, Topics: selected(t, "orders", "orders=carts"), UntilCaughtUp: true})
	if err == nil || !strings.Contains(err.Error(), "topic carts of site north gets its records from topic carts of site west") {
		t.Errorf("two sources of a topic: %v", err)
	}
	cancel()
	runs.Wait()
	for range 2 {
		if left := <-circular; len(left) == 0 {
			t.Error("a flow carried all that there was")
		}
	}
	for _, c := range []broker.Cluster{east, west} {
		md, err := c.Metadata(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for name := range md.Topics {
			if strings.Contains(name, "east.west") || strings.Contains(name, "west.east") {
				t.Errorf("site %s has topic %s", c.Site(), name)
			}
		}
	}
}

// A flow carries the offsets of groups for what it carries, and no others: those of
// topics that it leaves out would be set back to where this site has nothing.
func TestGroupsOfTopicsThatAreLeftOutStay(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	west := embeddedSite(t, "west", map[string]int32{"carts": 1})
	for seed, c := range []*embedded.Cluster{east, west} {
		if err := newLoad(t, c.Addresses(), uint64(84+seed)).write(ctx, []string{"orders", "carts"}[seed], 1, 20); err != nil {
			t.Fatal(err)
		}
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	if err := east.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: 15, LeaderEpoch: -1}}); err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(".*")
	for _, c := range []RunConfig{{From: east, To: west}, {From: west, To: east}} {
		c.Topics, c.Groups, c.UntilCaughtUp = selected(t, ".*"), all, true
		if _, err := Run(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	offsets, err := east.Admin().FetchGroupOffsets(ctx, "app")
	if err != nil || offsets[tp].Offset != 15 {
		t.Errorf("the group stands at %+v, %v", offsets, err)
	}
	if _, err := Run(ctx, RunConfig{From: west, To: east, Topics: selected(t, "orders"), UntilCaughtUp: true}); err == nil || !strings.Contains(err.Error(), "come from the target: orders") {
		t.Errorf("only what comes from the target: %v", err)
	}
}

// Of two flows that begin to feed a topic at the same time one does.
func TestOneOfTwoSourcesFeedsATopic(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	north := embeddedSite(t, "north", nil)
	var sources []*embedded.Cluster
	for seed, id := range []spillway.SiteID{"east", "west"} {
		c := embeddedSite(t, id, map[string]int32{"orders": 1})
		if err := newLoad(t, c.Addresses(), uint64(87+seed)).write(ctx, "orders", 1, 20); err != nil {
			t.Fatal(err)
		}
		sources = append(sources, c)
	}
	var runs sync.WaitGroup
	for _, c := range sources {
		runs.Go(func() {
			_, err := Run(ctx, RunConfig{From: c, To: north, Topics: selected(t, "orders"), Mirror: Config{TopicInterval: 50 * time.Millisecond}})
			if err != nil && ctx.Err() == nil { // else it was still beginning
				t.Error(err)
			}
		})
	}
	eventually(t, "one has brought all", func() bool {
		r, err := read(ctx, north, spillway.TopicPartition{Topic: "orders"})
		return err == nil && (len(r) == len(readOrders(t, sources[0])) || len(r) == len(readOrders(t, sources[1])))
	})
	time.Sleep(500 * time.Millisecond) // the other one looks again and again
	cancel()
	runs.Wait()
	ours := readOrders(t, north)
	feeder := -1
	for i, c := range sources {
		if theirs := readOrders(t, c); len(theirs) == len(ours) && theirs[0].equal(ours[0]) && theirs[len(theirs)-1].equal(ours[len(ours)-1]) {
			feeder = i
		}
	}
	if feeder < 0 {
		t.Fatalf("%d records are there, which neither source alone has", len(ours))
	}
	// Once the flow is given up, the other source may feed it.
	other := RunConfig{From: sources[1-feeder], To: north, Topics: selected(t, "orders"), UntilCaughtUp: true}
	again := testContext(t)
	if _, err := Run(again, other); err == nil || !strings.Contains(err.Error(), "spillway mirror release") {
		t.Errorf("a second source: %v", err)
	}
	released, err := Release(again, north, selected(t, "orders"))
	if err != nil || len(released) != 1 || released[0].Topic != "orders" {
		t.Fatalf("released %+v, %v", released, err)
	}
	if _, err := Run(again, other); err != nil {
		t.Error(err)
	}
}
