package federation

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/federation/router"
)

var (
	reservedShare = spillway.ShareID{Group: "g"}
	reservedTP    = spillway.TopicPartition{Topic: "orders", Partition: 1}
	errAway       = errors.New("the store is away")
)

// reserveAt is what one of several gateways keeps; it runs until the test ends.
func reserveAt(t *testing.T, store coordination.Store) (*reserve, *router.Share) {
	share := router.NewShare(reservedShare, spillway.FailoverGroup{Name: "g", ReservedBlock: 10})
	r := newReserve(&Gateway{config: Config{Store: store}, keys: "test", shares: map[spillway.ShareID]*router.Share{reservedShare: share}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r, share
}

// stored is the record that the store has, read past all faults.
func stored(t *testing.T, store *coordtest.Memory) (r failover.Reserved) {
	for _, e := range store.Peek(failover.Keys("test").ReservedAll()) {
		if err := json.Unmarshal(e.Value, &r); err != nil {
			t.Error(err)
		}
	}
	return r
}

// A store that fails, keeps its answers back, or hangs: what waits for a raise
// gets it when the store is back, and nobody has to ask again.
func TestReserveRecovers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(coordtest.Moment, []coordination.Op) error{
		"fails": func(coordtest.Moment, []coordination.Op) error { return errAway },
		"loses answers": func(when coordtest.Moment, _ []coordination.Op) error {
			return map[coordtest.Moment]error{coordtest.AfterWrite: errAway}[when]
		},
		"refuses writes": func(when coordtest.Moment, _ []coordination.Op) error {
			return map[coordtest.Moment]error{coordtest.BeforeWrite: errAway}[when]
		},
		"hangs": func(coordtest.Moment, []coordination.Op) error { time.Sleep(3 * time.Second); return errAway },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := coordtest.NewMemory()
				r, share := reserveAt(t, store)
				term := router.Term{Epoch: 1}
				if err := r.Extend(t.Context(), share, term, reservedTP, 5); err != nil {
					t.Fatal(err)
				}
				store.Fail(fault)
				granted := make(chan error, 1)
				go func() { granted <- r.Extend(t.Context(), share, term, reservedTP, 100) }()
				time.Sleep(20 * time.Second)
				if have := r.Ask(share, term, reservedTP, 0); have >= 100 && name != "loses answers" {
					t.Errorf("%d is reserved, and the store is away", have)
				}
				short, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := r.Extend(short, share, term, reservedTP, 1000); err == nil && name != "loses answers" {
					t.Error("1000 was granted, and the store is away")
				}
				store.Fail(nil)
				time.Sleep(5 * time.Second)
				select {
				case err := <-granted:
					if end := stored(t, store).Ends.Get(reservedTP); err != nil || end < 100 {
						t.Errorf("granted with %v, stored %d", err, end)
					}
				default:
					t.Error("the store is back, and what waited still waits")
				}
			})
		})
	}
}

// Before a switchover opens, the ends of its epoch are raised: its first records are
// acknowledged without another write. What is below stays, for the move may yet be
// given up, and a failover burns up to what was ever reserved.
func TestReserveAheadOfAnEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := coordtest.NewMemory()
		r, share := reserveAt(t, store)
		other := spillway.TopicPartition{Topic: "orders", Partition: 0}
		if err := r.Extend(t.Context(), share, router.Term{Epoch: 1}, other, 500); err != nil {
			t.Fatal(err)
		}
		r.ahead(reservedShare, 2, failover.PartitionOffsets{"orders": {-1, 100}})
		time.Sleep(time.Second)
		if got := stored(t, store); got.Epoch != 2 || got.Ends.Get(reservedTP) != 110 || got.Ends.Get(other) < 500 {
			t.Errorf("stored %+v", got)
		}
		writes := 0
		store.Fail(func(when coordtest.Moment, _ []coordination.Op) error {
			if when == coordtest.BeforeWrite {
				writes++
			}
			return nil
		})
		if err := r.Extend(t.Context(), share, router.Term{Epoch: 2}, reservedTP, 101); err != nil || writes > 0 {
			t.Errorf("the first record of the epoch waited for %d writes: %v", writes, err)
		}
		// Told late, it asks for nothing of an epoch that is over.
		if err := r.Extend(t.Context(), share, router.Term{Epoch: 3}, reservedTP, 105); err != nil {
			t.Fatal(err)
		}
		r.ahead(reservedShare, 2, failover.PartitionOffsets{"orders": {-1, 900}})
		time.Sleep(time.Second)
		if got := stored(t, store); got.Epoch != 3 || got.Ends.Get(reservedTP) >= 900 {
			t.Errorf("an epoch that is over was reserved for: %+v", got)
		}
	})
}

// A store that was restored has forgotten a raise, or all of them.
func TestReserveAfterTheStoreWasRestored(t *testing.T) {
	t.Parallel()
	for name, restore := range map[string]func(coordination.Store, coordination.Entry){
		"to an older record": func(s coordination.Store, e coordination.Entry) {
			old := encode(failover.Reserved{Epoch: 1, Ends: failover.PartitionOffsets{"orders": {-1, 20}}})
			_, _ = s.Put(context.Background(), e.Key, old, e.Version)
		},
		"to nothing": func(s coordination.Store, e coordination.Entry) { _ = s.Delete(context.Background(), e.Key, e.Version) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := coordtest.NewMemory()
				r, share := reserveAt(t, store)
				term := router.Term{Epoch: 1}
				if err := r.Extend(t.Context(), share, term, reservedTP, 100); err != nil {
					t.Fatal(err)
				}
				other := spillway.TopicPartition{Topic: "carts"}
				e, err := store.Get(t.Context(), failover.Keys("test").Reserved(reservedShare))
				if err != nil {
					t.Fatal(err)
				}
				restore(store, e)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := r.Extend(ctx, share, term, other, 1); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if ends := stored(t, store).Ends; ends.Get(reservedTP) < 100 || ends.Get(other) < 1 {
					t.Errorf("stored %v; 100 was granted once", ends)
				}
			})
		})
	}
}

// The store is put back while nobody asks for more: what it has forgotten is
// written again at once. A failover begins its epoch above what the store has,
// so whoever waited for the next raise would see offsets used twice (C5).
func TestReserveIsWrittenAgainWithoutAnybodyAsking(t *testing.T) {
	t.Parallel()
	all := failover.Keys("test").ReservedAll()
	for name, since := range map[string]spillway.Offset{"to an older record": 20, "to nothing": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := coordtest.NewMemory()
				r, share := reserveAt(t, store)
				watch, stop := context.WithCancel(t.Context())
				defer stop()
				go func() {
					_ = store.Watch(watch, all, func(entries []coordination.Entry, err error) {
						if err == nil {
							r.see(entries)
						}
					})
				}()
				var backup []coordination.Entry
				for _, end := range []spillway.Offset{since, 100} {
					if end == 0 {
						continue
					}
					if err := r.Extend(t.Context(), share, router.Term{Epoch: 1}, reservedTP, end); err != nil {
						t.Fatal(err)
					}
					if end < 100 {
						backup = store.Peek(all)
					}
				}
				time.Sleep(time.Second)
				store.Fail(func(coordtest.Moment, []coordination.Op) error { return errAway }) // while it is put back
				store.Restore(all, backup)
				time.Sleep(time.Second)
				store.Fail(nil)
				time.Sleep(10 * time.Second)
				if end := stored(t, store).Ends.Get(reservedTP); end < 100 {
					t.Errorf("stored %d, and 100 was granted", end)
				}
			})
		})
	}
}

// In any order of events, with two gateways, epochs that end, late news and a
// store that fails in all its ways: what is granted lies below the end that is
// in the store (C5), and in the end everything that may be granted is.
func TestReserveGrantsWhatIsStored(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			var faults sync.Mutex
			dice := func(n int) int { faults.Lock(); defer faults.Unlock(); return random.IntN(n) }
			store := coordtest.NewMemory()
			var gateways [2]*reserve
			var shares [2]*router.Share
			for i := range gateways {
				gateways[i], shares[i] = reserveAt(t, store)
			}
			store.Fail(func(coordtest.Moment, []coordination.Op) error {
				switch dice(5) {
				case 0:
					return errAway
				case 1:
					time.Sleep(time.Duration(dice(3000)) * time.Millisecond)
				}
				return nil
			})
			var asking sync.WaitGroup
			epoch, granted := spillway.Epoch(1), 0
			for range 200 {
				i, end := dice(2), spillway.Offset(dice(2000))
				term := router.Term{Epoch: max(1, epoch-spillway.Epoch(dice(2)))} // some are late
				switch dice(10) {
				case 0:
					epoch++
				case 1:
					if err := gateways[i].load(t.Context(), shares[i]); err != nil && !errors.Is(err, coordination.ErrUnavailable) {
						t.Error(err)
					}
				case 2, 3: // a watch
					entries := store.Peek(failover.Keys("test").ReservedAll())
					time.AfterFunc(time.Duration(dice(5000))*time.Millisecond, func() { gateways[i].see(entries) })
				default:
					asking.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(dice(8000))*time.Millisecond)
						defer cancel()
						if gateways[i].Extend(ctx, shares[i], term, reservedTP, end) != nil {
							return
						}
						if have := stored(t, store); have.Epoch < term.Epoch || have.Ends.Get(reservedTP) < end {
							t.Errorf("seed %d: %d was granted in epoch %d, stored is %d of epoch %d", seed, end, term.Epoch, have.Ends.Get(reservedTP), have.Epoch)
						}
						faults.Lock()
						granted++
						faults.Unlock()
					})
				}
				time.Sleep(time.Duration(dice(300)) * time.Millisecond)
			}
			asking.Wait()
			if granted < 20 {
				t.Errorf("seed %d: %d grants show nothing", seed, granted)
			}
			store.Fail(nil)
			for i := range gateways {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if err := gateways[i].Extend(ctx, shares[i], router.Term{Epoch: epoch}, reservedTP, 3000); err != nil {
					t.Errorf("seed %d: with a store that is well: %v", seed, err)
				}
			}
		})
	}
}

// Only a gateway of the site that a switchover opens raises ends ahead, once it is
// known where the epoch starts and while it may still open.
func TestWhoReservesAhead(t *testing.T) {
	t.Parallel()
	record := func(change func(*failover.Share)) failover.Share {
		r := failover.Share{State: failover.Cutover, Kind: failover.Switchover, Epoch: 2, Active: "east", Target: "west", Start: failover.PartitionOffsets{"orders": {-1, 100}}}
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		change func(*failover.Share)
		want   bool
	}{
		"the target's, from the cutover on": {func(*failover.Share) {}, true},
		"when it has caught up":             {func(r *failover.Share) { r.State = failover.CaughtUp }, true},
		"before the cutover":                {func(r *failover.Share) { r.State = failover.Fenced }, false},
		"when it is open":                   {func(r *failover.Share) { r.State = failover.Open }, false},
		"that of another site":              {func(r *failover.Share) { r.Target = "north" }, false},
		"in a failover":                     {func(r *failover.Share) { r.Kind = failover.Failover }, false},
		"when it is given up":               {func(r *failover.Share) { r.Abort = "somebody asked for it" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			share := router.NewShare(reservedShare, spillway.FailoverGroup{Name: "g", ReservedBlock: 10})
			g := &Gateway{config: Config{Site: "west"}, keys: "test", shares: map[spillway.ShareID]*router.Share{reservedShare: share}}
			g.reserve = newReserve(g)
			share.SetRecord(record(c.change))
			g.reserveAhead(share)
			s := g.reserve.shares[reservedShare]
			if got := s.want[reservedTP]; c.want != (got == 110 && s.epoch == 2) || !c.want && len(s.want) > 0 {
				t.Errorf("wanted: %v in epoch %d", s.want, s.epoch)
			}
		})
	}
}
