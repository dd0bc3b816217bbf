package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// layouts notes each layout that is written, and those that send clients elsewhere
// though no gateway went, behind the opening of a share.
type layouts struct {
	coordination.Store

	mu      sync.Mutex
	opened  bool
	written []layout.Layout
	late    []int64 // versions
}

func (s *layouts) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.Store.Put(ctx, key, value, version)
	if err != nil {
		return v, err
	}
	if share, err := failover.Decode(value); err == nil && share.State == failover.Open {
		s.opened = true
	}
	if l, err := layout.Decode(value); err == nil && strings.HasSuffix(key, "/layout") {
		if n := len(s.written); n > 0 && s.opened && l.Homes["orders/0"] != s.written[n-1].Homes["orders/0"] && slices.Equal(l.Nodes, s.written[n-1].Nodes) {
			s.late = append(s.late, l.Version)
		}
		s.written = append(s.written, l)
	}
	return v, nil
}

// A site is lost: its home moves once, with its gateways or before the share opens at
// the next site. Clients that find a leader or a coordinator there are not sent on.
func TestTheHomeMovesOnceWithTheLostGateways(t *testing.T) {
	t.Parallel()
	store := &layouts{Store: coordtest.NewMemory()}
	w := newWorld(t, options{store: store, group: func(g *spillway.FailoverGroup) {
		g.Failover = spillway.AutomaticFailover{Enabled: true, After: 200 * time.Millisecond, LossRecordsMax: 1000}
	}})
	w.settled(1)
	w.eventually("a layout with all gateways", func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		n := len(store.written)
		return n > 0 && len(store.written[n-1].Nodes) == 3
	})
	w.kill("east")
	next := w.settled(2).Active
	seen := func() (homes []spillway.SiteID, late []int64) {
		store.mu.Lock()
		defer store.mu.Unlock()
		for _, l := range store.written {
			home := l.Homes["orders/0"] // none before the share was there
			if n := len(homes); home != "" && (n == 0 || homes[n-1] != home) || home == "" && n > 0 {
				homes = append(homes, home)
			}
		}
		return homes, slices.Clone(store.late)
	}
	w.eventually("the next site leads", func() bool {
		homes, _ := seen()
		return len(homes) > 0 && homes[len(homes)-1] == next
	})
	if homes, late := seen(); len(homes) != 2 || len(late) > 0 {
		t.Errorf("homes one after the other: %v; changed behind the opening in the versions %v", homes, late)
	}
}

// A loop that starts lays out nothing before it has read everything: it would take out
// what it has not read yet, and all clients would look for their leaders. Nor does it
// take out the home of a share that it knows nothing of.
func TestALoopThatStartsTakesNothingOutOfTheLayout(t *testing.T) {
	store := coordtest.NewMemory()
	keys := failover.Keys("shop")
	lease := layout.GatewayLease{ID: "east-gw", Boot: "1", Site: "east", Host: "east", Port: 9092}
	stands, _ := layout.Next(layout.Layout{}, []layout.GatewayLease{lease}, map[string]spillway.SiteID{"orders/0": "east"})
	if _, err := store.Put(t.Context(), keys.Layout(), stands.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	beat, err := json.Marshal(lease)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), keys.Gateway(lease.ID), beat, 0); err != nil {
		t.Fatal(err)
	}
	clock := coordination.SystemClock{}
	c := &Control{cfg: Config{Store: store}, keys: keys, hub: newHub(store, keys, clock, time.Hour, time.Second)}
	for _, prefix := range []string{"", keys.Layout(), keys.Shares(), keys.Gateways()} {
		if prefix != "" {
			entries, err := store.List(t.Context(), prefix)
			if err != nil {
				t.Fatal(err)
			}
			c.hub.take(prefix, entries)
		}
		if err := c.layOut(t.Context()); err != nil {
			t.Fatal(err)
		}
		e, err := store.Get(t.Context(), keys.Layout())
		if err != nil {
			t.Fatal(err)
		}
		if l, err := layout.Decode(e.Value); err != nil || l.Version != stands.Version {
			t.Fatalf("after it has read %q: %+v, %v", prefix, l, err)
		}
	}
}
