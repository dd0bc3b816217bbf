package coordination_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
)

// What changes is somebody else's work; what stands still is carried on, one call at a time
// for each key, until it is gone.
func TestCarryOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := coordtest.NewMemory()
		put := func(key string, version uint64) uint64 {
			t.Helper()
			v, err := store.Put(t.Context(), key, []byte("x"), version)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		put("work/stands", 0)
		moves := put("work/moves", 0)
		put("other/stands", 0)
		ctx, cancel := context.WithCancel(t.Context())
		var calls, atOnce atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			coordination.CarryOn(ctx, store, "work/", time.Second, 2, func(ctx context.Context, e coordination.Entry) {
				if e.Key != "work/stands" {
					t.Errorf("%s is carried on", e.Key)
				}
				if atOnce.Add(1) > 1 {
					t.Error("twice at the same time")
				}
				time.Sleep(3 * time.Second)
				atOnce.Add(-1)
				if calls.Add(1) == 2 {
					if err := store.Delete(ctx, e.Key, e.Version); err != nil {
						t.Error(err)
					}
				}
			})
		}()
		for range 40 {
			time.Sleep(500 * time.Millisecond)
			moves = put("work/moves", moves)
		}
		cancel()
		<-done
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

// What nobody can do anything about is asked less and less often, until it changes.
func TestCarryOnBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := coordtest.NewMemory()
		version, err := store.Put(t.Context(), "work/stands", []byte("x"), 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int32
		done := make(chan struct{})
		go func() {
			defer close(done)
			coordination.CarryOn(ctx, store, "work/", time.Second, 2, func(context.Context, coordination.Entry) { calls.Add(1) })
		}()
		time.Sleep(10 * time.Minute)
		if n := calls.Load(); n < 20 || n > 26 { // 1, 2, 4, 8, 16, then 30 s apart
			t.Errorf("%d calls in 10 minutes", n)
		}
		calls.Store(0)
		if _, err := store.Put(t.Context(), "work/stands", []byte("y"), version); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if n := calls.Load(); n != 3 {
			t.Errorf("%d calls in 5 s after a change", n)
		}
		cancel()
		<-done
	})
}
