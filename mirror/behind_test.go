package mirror

import (
	"testing"

	"spillway"
)

// A flow that has just begun says that it is catching up until it has had
// everything once: before that, a switchover to its site would hold clients for
// as long as the copying takes, and its lag in time began only now.
func TestAFlowThatBeganIsCatchingUp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	topics := map[string]int32{"orders": 2}
	east, west := embeddedSite(t, "east", topics), embeddedSite(t, "west", topics)
	eastM := testMirror(t, east, west)
	assign(t, eastM, ordersAssignment("", 1))
	l := newLoad(t, east.Addresses(), 5)
	for range 30 {
		if err := l.write(ctx, "orders", 2, 3); err != nil {
			t.Fatal(err)
		}
	}
	m := testMirrorWith(t, Config{Local: west}, east)
	f := newFlow(m, ordersAssignment("east", 1), &source{site: "east"}, nil)
	if !f.info(m.config.Now()).CatchingUp {
		t.Error("a flow that has not looked for its partitions says that it has everything")
	}
	p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}, highWatermark: -1}
	f.mu.found = true
	f.setState(p, true, "")
	if !f.info(m.config.Now()).CatchingUp {
		t.Error("a partition of which nothing was fetched yet counts as whole")
	}
	p.highWatermark, p.source = 30, 12
	f.setState(p, true, "")
	if !f.info(m.config.Now()).CatchingUp {
		t.Error("a partition with 18 records to come counts as whole")
	}
	p.source = 30
	f.setState(p, true, "")
	p.highWatermark = 31
	f.setState(p, true, "")
	if f.info(m.config.Now()).CatchingUp {
		t.Error("a partition that was whole once counts as catching up")
	}
	assign(t, m, ordersAssignment("east", 1))
	eventually(t, "the flow has caught up", func() bool {
		flows := m.Flows()
		return len(flows) == 1 && flows[0].Partitions == 2 && !flows[0].CatchingUp
	})
}
