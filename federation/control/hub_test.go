package control

import (
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
