package control

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination/coordtest"
)

// Of two commands one has the claim; that of one that died is taken over, and that of one
// that lives is not.
func TestClaimOfAReplay(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	o := NewOperator(spillway.NewTopology("test", "test-1", nil, nil), store, nil)
	id := spillway.ShareID{Group: "shop"}
	ctx, ttl := t.Context(), 1500*time.Millisecond
	first, err := o.ClaimReplay(ctx, id, "anna", 0)
	if err != nil {
		t.Fatal(err)
	}
	other := make(chan error, 1)
	go func() {
		_, err := o.ClaimReplay(ctx, id, "berta", ttl) // and waits for longer than it lasts
		other <- err
	}()
	// What is rewritten is alive.
	for beat := uint64(1000); ; beat++ {
		select {
		case err := <-other:
			if !errors.Is(err, errClaimed) || !strings.Contains(err.Error(), "by anna since ") {
				t.Fatalf("beside a claim that is held: %v", err)
			}
			if err := first.Release(ctx); err != nil {
				t.Fatal(err)
			}
			second, err := o.ClaimReplay(ctx, id, "berta", ttl)
			if err != nil {
				t.Fatal(err)
			}
			second.Abandon() // as if it had died
			began := time.Now()
			third, err := o.ClaimReplay(ctx, id, "clara", ttl)
			if err != nil || third.Holds() != nil {
				t.Fatalf("after one that died: %v", err)
			}
			if took := time.Since(began); took < ttl {
				t.Errorf("taken over after %s, and it lasts %s", took, ttl)
			}
			steal(ctx, t, store, o.keys.Replay(id))
			for third.Holds() == nil {
				time.Sleep(time.Millisecond)
			}
			if err := third.Release(ctx); err != nil {
				t.Error(err)
			}
			if e, err := store.Get(ctx, o.keys.Replay(id)); err != nil || claimOf(e.Value).Owner != "dora" {
				t.Errorf("the claim of another was given up: %s, %v", e.Value, err)
			}
			return
		case <-time.After(ttl / 4):
			rewrite(ctx, t, store, o.keys.Replay(id), func(c *replayClaim) { c.Beat = beat })
		}
	}
}

func steal(ctx context.Context, t *testing.T, store *coordtest.Memory, key string) {
	t.Helper()
	rewrite(ctx, t, store, key, func(c *replayClaim) { c.Owner = "dora" })
}

// rewrite changes the claim, whoever else does meanwhile.
func rewrite(ctx context.Context, t *testing.T, store *coordtest.Memory, key string, change func(*replayClaim)) {
	t.Helper()
	for {
		e, err := store.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		c := claimOf(e.Value)
		change(&c)
		value, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = store.Put(ctx, key, value, e.Version); err == nil {
			return
		}
	}
}
