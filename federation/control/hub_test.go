package control

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/layout"
)

// What a hub knows of gateways: starts whose key was overwritten or deleted, for
// how long they are over, and how long it must reckon with some that it never saw.
func TestHubRemembersStartsOfGateways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, margin = 4 * time.Second, time.Second
		store := coordtest.NewMemory()
		h := newHub(store, "shop", coordination.GoClock{}, ttl, margin)
		key := failover.Keys("shop").Gateway("gw")
		put := func(boot string, beat uint64) {
			t.Helper()
			value, err := json.Marshal(layout.GatewayLease{ID: "gw", Boot: boot, Beat: beat})
			if err != nil {
				t.Fatal(err)
			}
			e, _ := store.Get(t.Context(), key) // version 0 if absent
			if _, err := store.Put(t.Context(), key, value, e.Version); err != nil {
				t.Fatal(err)
			}
		}
		look := func(every time.Duration, times int) {
			t.Helper()
			for range times {
				if _, err := h.gateways(t.Context()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(every)
			}
		}
		if h.unseen() != ttl+margin {
			t.Fatalf("before the first look: %v", h.unseen())
		}
		put("1", 1)
		look(time.Second, 3)
		if got := h.unseen(); got != ttl+margin-3*time.Second {
			t.Fatalf("after three seconds: %v", got)
		}
		put("2", 1)
		look(time.Second, 3)
		e, err := store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Delete(t.Context(), key, e.Version); err != nil {
			t.Fatal(err)
		}
		look(time.Second, 3)
		if len(h.starts()) != 2 || h.unseen() != 0 {
			t.Fatalf("%+v, unseen for %v", h.starts(), h.unseen())
		}
		if one, two := h.left("gw", "1"), h.left("gw", "2"); one != -time.Second || two != 2*time.Second {
			t.Fatalf("the first start has %v left, the second %v", one, two)
		}
		time.Sleep(ttl + time.Second) // nobody looks: who came and went was not seen
		look(0, 1)
		if got := h.unseen(); got != ttl+margin {
			t.Fatalf("after a gap: %v", got)
		}
		look(time.Second, int(forgetAfter/time.Second)+10)
		if len(h.starts()) != 0 {
			t.Fatalf("never forgotten: %+v", h.starts())
		}
	})
}

// What the configuration of a loop says counts while the loop lives: its ballot outlives it, and
// would keep a group from being adopted for ever.
func TestABallotSaysWhoIsAdoptingWhileItsLoopLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, keys := newTeller(t), failover.Keys("shop")
		s.h.clock = coordination.GoClock{}
		vote := func(beat uint64, adopting ...string) {
			s.put(keys.Ballots(), keys.Ballot("west"), failover.Ballot{Beat: beat, Adopting: adopting})
		}
		says := func(want bool) {
			t.Helper()
			if got := s.h.adopting("orders"); got != want {
				t.Errorf("it says %t", got)
			}
		}
		vote(1, "carts", "orders")
		says(false) // this may be the last word of a loop that died long ago
		vote(2, "carts", "orders")
		says(true)
		time.Sleep(coordination.LeaseTTL - time.Millisecond)
		says(true)
		time.Sleep(time.Millisecond)
		says(false)
		vote(3, "orders")
		says(true)
		vote(4, "carts")
		says(false)
	})
}

// lagging is a store of which the first listing arrives late, as of when it was begun.
type lagging struct {
	coordination.Store
	late time.Duration
}

func (s *lagging) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	late := s.late
	s.late = 0
	entries, err := s.Store.List(ctx, prefix)
	pause(ctx, late)
	return entries, err
}

// A read of the leases that was overtaken by a newer one is told to who asked for it, and
// changes nothing of what is known: a gateway that it does not have yet would be over too
// early, or one that has gone would be back.
func TestAnOlderReadOfLeasesChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 4 * time.Second
		store := &lagging{Store: coordtest.NewMemory(), late: 3 * time.Second}
		h := newHub(store, "shop", coordination.GoClock{}, ttl, time.Second)
		key := failover.Keys("shop").Gateway("gw")
		version := uint64(0)
		put := func(boot string) {
			t.Helper()
			value, err := json.Marshal(layout.GatewayLease{ID: "gw", Boot: boot})
			if err != nil {
				t.Fatal(err)
			}
			if version, err = store.Put(t.Context(), key, value, version); err != nil {
				t.Fatal(err)
			}
		}
		put("1")
		old := make(chan []layout.GatewayLease, 1)
		go func() {
			leases, err := h.gateways(t.Context())
			if err != nil {
				t.Error(err)
			}
			old <- leases
		}()
		time.Sleep(time.Second)
		put("2")
		if leases, err := h.gateways(t.Context()); err != nil || leases[0].Boot != "2" { // it overtakes
			t.Fatalf("%+v, %v", leases, err)
		}
		at := h.looked
		if leases := <-old; len(leases) != 1 || leases[0].Boot != "1" {
			t.Errorf("who asked first is told %+v", leases)
		}
		if leases, lately := h.lately(ttl); !lately || leases[0].Boot != "2" || h.looked != at {
			t.Errorf("known is %+v, as of %v and not %v", leases, h.looked, at)
		}
		if left := h.left("gw", "2"); left < ttl-2*time.Second {
			t.Errorf("the start that lives has %v left", left)
		}
	})
}
