package control

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/federation/failover"
)

// unknowing is a site whose brokers do not say for a while which topics there are.
type unknowing struct {
	broker.Cluster
	knows atomic.Bool
}

func (f *unknowing) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	if !f.knows.Load() {
		return broker.Metadata{}, errors.New("no broker answers")
	}
	return f.Cluster.Metadata(ctx, topics...)
}

// Which topics a site compacts decides whether a share moves, so that nobody can say it is
// told, once, and it is asked again until it is known.
func TestALookAtPoliciesThatFailsIsTold(t *testing.T) {
	t.Parallel()
	site, err := embedded.Start(embedded.Config{Site: "west", Topics: map[string]int32{"orders": 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { site.Close() })
	compact := "compact"
	if err := site.Admin().SetTopicConfigs(within(t), "orders", map[string]*string{"cleanup.policy": &compact}); err != nil {
		t.Fatal(err)
	}
	group := testGroup([]spillway.SiteID{"east", "west"})
	c, told := &unknowing{Cluster: site}, make(chan string, 100)
	f := NewFollower(FollowerConfig{Topology: spillway.NewTopology("shop", "shop-1", nil, []spillway.FailoverGroup{group}), Cluster: c,
		Events: Events{FollowFailed: func(_ spillway.ShareID, _ failover.State, err error) { told <- err.Error() }}})
	s := &followed{f: f, group: group, id: spillway.ShareID{Group: group.Name}}
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan struct{})
	go func() { defer close(done); s.policies(ctx) }()
	select {
	case why := <-told:
		if !strings.HasPrefix(why, "find out which topics site west compacts: no broker answers") {
			t.Error(why)
		}
	case <-ctx.Done():
		t.Error("it is not told")
	}
	pause(ctx, 2*measureEvery) // it is asked twice more
	c.knows.Store(true)
	known := func() []string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.mu.compacted == nil {
			return nil
		}
		return *s.mu.compacted
	}
	for known() == nil && ctx.Err() == nil {
		pause(ctx, measureEvery/10)
	}
	cancel()
	<-done
	if topics := known(); len(topics) != 1 || topics[0] != "orders" || len(told) > 0 {
		t.Errorf("%q are compacted, and it was told %d times more", topics, len(told))
	}
}
