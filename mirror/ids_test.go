package mirror

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"spillway/broker"
)

// counting is a site that hands out producer ids in steps.
type counting struct {
	broker.Cluster
	last *atomic.Int64
	step int64
}

func countsFrom(c broker.Cluster, first, step int64) counting {
	last := new(atomic.Int64)
	last.Store(first - step)
	return counting{c, last, step}
}

func (c counting) Admin() broker.Admin { return countingAdmin{c.Cluster.Admin(), c} }

type countingAdmin struct {
	broker.Admin
	of counting
}

func (a countingAdmin) NewProducerID(context.Context) (int64, error) {
	return a.of.last.Add(a.of.step), nil
}

// TestSiteThatHandsOutOurProducerIDsIsRefused meets a cluster that begins above
// the highest id that it has seen, which was a mirror's (C25).
func TestSiteThatHandsOutOurProducerIDsIsRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	above := countsFrom(west, 1<<62+7, 1000)
	m := testMirror(t, above, east)
	for _, a := range []Assignment{ordersAssignment("east", 1), ordersAssignment("", 1)} { // fed, and serving
		err := m.Assign(ctx, a)
		if !errors.Is(err, ErrProducerIDs) || !strings.Contains(err.Error(), "site west hands out producer ids 46116860184273") {
			t.Errorf("from %q: %v", a.Source, err)
		}
	}
	if len(m.Flows()) != 0 {
		t.Errorf("flows run: %+v", m.Flows())
	}
	if _, err := Run(ctx, RunConfig{From: east, To: above, Topics: selected(t, "orders"), UntilCaughtUp: true}); !errors.Is(err, ErrProducerIDs) {
		t.Errorf("mirror run: %v", err)
	}
	if md, err := west.Metadata(ctx); err != nil || len(md.Topics["orders"].Partitions) != 0 {
		t.Errorf("west was written to: %v, %v", md.Topics, err)
	}
	for _, c := range []struct {
		first, step int64
		refused     bool
	}{
		{0, 1, false},
		{0, 1000, false},
		{1<<48 - 2, 1, false},
		{1<<48 - 1, 1, true},
		{1 << 48, 1000, true},
		{math.MaxInt64 - 10, -1, true},
		{1 << 61, 1 << 33, false}, // drawn at random
	} {
		err := testMirror(t, countsFrom(west, c.first, c.step), east).Assign(ctx, ordersAssignment("east", 1))
		if errors.Is(err, ErrProducerIDs) != c.refused || !c.refused && err != nil {
			t.Errorf("from %d in steps of %d: %v", c.first, c.step, err)
		}
	}
}
