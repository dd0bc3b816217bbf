package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
		if _, err := c.layOut(t.Context()); err != nil {
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

// stalled is a store whose writes take their time; the first ones fail.
type stalled struct {
	coordination.Store
	takes time.Duration
	fails int
	begun []time.Time // writes
}

func (s *stalled) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	s.begun = append(s.begun, time.Now())
	pause(ctx, s.takes)
	if s.fails--; s.fails >= 0 {
		return 0, coordination.ErrUnavailable
	}
	return s.Store.Put(ctx, key, value, version)
}

// A store that takes seconds for a write, or fails, is no reason to rest: gateways that are
// gone would stay leaders meanwhile.
func TestAStoreThatStallsKeepsTheLayoutWaitingNoLonger(t *testing.T) {
	for what, fails := range map[string]int{"it stalls": 0, "it fails": 2} {
		synctest.Test(t, func(t *testing.T) {
			const ttl, takes = 4 * time.Second, 2500 * time.Millisecond
			store := &stalled{Store: coordtest.NewMemory(), takes: takes, fails: fails}
			keys, clock := failover.Keys("shop"), coordination.GoClock{}
			c := &Control{cfg: Config{Store: store, LeaseTTL: ttl, Clock: clock}, keys: keys, hub: newHub(store, keys, clock, time.Hour, time.Second)}
			var leases []coordination.Entry
			comes := func(id spillway.GatewayID) {
				value, err := json.Marshal(layout.GatewayLease{ID: id, Boot: "1", Site: "east", Host: "east", Port: 9092})
				if err != nil {
					t.Fatal(err)
				}
				leases = append(leases, coordination.Entry{Key: keys.Gateway(id), Value: value, Version: uint64(len(leases) + 1)})
				c.hub.take(keys.Gateways(), slices.Clone(leases))
			}
			for _, prefix := range []string{keys.Layout(), keys.Shares(), keys.Gateways()} {
				c.hub.take(prefix, nil)
			}
			ctx, end := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { c.keepLayout(ctx) })
			const gateways = 5
			for i := range gateways {
				comes(spillway.GatewayID("gw-" + string(rune('a'+i))))
				time.Sleep(takes) // another one comes while it is being written
			}
			time.Sleep(time.Minute)
			end()
			wg.Wait()
			if l := c.laidOut.layout; len(l.Nodes) == 0 || len(l.NodesOf("gw-a")) == 0 || len(l.NodesOf("gw-e")) == 0 {
				t.Errorf("%s: laid out is %+v", what, l)
			}
			for i := 1; i < len(store.begun); i++ {
				if waited := store.begun[i].Sub(store.begun[i-1]) - takes; waited > ttl/4 {
					t.Errorf("%s: write %d began %v after the one before had ended", what, i+1, waited)
				}
			}
		})
	}
}

// How long a loop rests goes by what it worked, up to a bound.
func TestARestIsBounded(t *testing.T) {
	const ttl = 4 * time.Second
	for worked, want := range map[time.Duration]time.Duration{0: 0, 10 * time.Millisecond: 40 * time.Millisecond, 3 * time.Second: time.Second} {
		if got := restFor(worked, ttl); got != want {
			t.Errorf("after %v of work it rests for %v, not %v", worked, got, want)
		}
	}
}
