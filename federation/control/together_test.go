package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/federation/failover"
	"spillway/mirror/offsetmap"
)

// What fails for all is not asked again each second, nor by each.
func TestAFailureIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recent[int]
		var owner rounds
		var asked atomic.Int64
		bad := errors.New("one topic is gone")
		answers := func(context.Context) (int, error) {
			time.Sleep(10 * time.Millisecond)
			if asked.Add(1) <= 2 {
				return 0, bad
			}
			return 7, nil
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 2 * int(endsRest/measureEvery) {
					if _, err := r.within(t.Context(), &owner, endsAge, endsRest, answers); !errors.Is(err, bad) {
						t.Error(err)
					}
					time.Sleep(measureEvery - 20*time.Millisecond)
				}
			})
		}
		wg.Wait()
		if asked.Load() != 2 {
			t.Errorf("asked %d times in %v", asked.Load(), 2*endsRest)
		}
		time.Sleep(endsRest)
		if got, err := r.within(t.Context(), &owner, endsAge, endsRest, answers); got != 7 || err != nil {
			t.Errorf("afterwards: %d, %v", got, err)
		}
	})
}

// One that hangs, is overtaken and fails then does not take the newer answer's place.
func TestAnOvertakenFailureCountsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recent[string]
		var owner rounds
		var asked atomic.Int64
		do := func(context.Context) (string, error) {
			if asked.Add(1) == 1 {
				time.Sleep(endsMax)
				return "", errors.New("a broker hangs")
			}
			return "newer", nil
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.within(t.Context(), &owner, time.Minute, time.Minute, do); err == nil {
				t.Error("who asked first is not told of the failure")
			}
		})
		synctest.Wait()
		if got, err := r.within(t.Context(), &owner, time.Minute, time.Minute, do); got != "newer" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		wg.Wait()
		if got, err := r.within(t.Context(), &owner, time.Minute, time.Minute, do); got != "newer" || err != nil {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	})
}

// A topic of one share is gone, for good, and a broker of another one hangs: the others go on
// asking together, are told their ends, and wait for neither. Once they can be told, they ask
// with the others again.
func TestSharesThatCannotBeToldKeepNoOtherWaiting(t *testing.T) {
	t.Parallel()
	const shares, partitions = 6, 2
	m := newMany(t, shares, partitions, true)
	m.settled("east", time.Minute)
	east := m.sites["east"]
	share := func(i int) *followed { return east.follow.shares[failover.Keys("shop").Share(m.ids()[i])] }
	gone, hangs := share(0), share(1)
	var mu sync.Mutex
	var asked [][]string // topics of each question
	bad := func(ctx context.Context, tps []spillway.TopicPartition) error {
		var topics []string
		for _, tp := range tps {
			topics = append(topics, tp.Topic)
		}
		topics = slices.Compact(topics)
		mu.Lock()
		asked = append(asked, topics)
		mu.Unlock()
		if slices.Contains(topics, gone.group.Topics[0]) {
			return broker.ErrUnknownTopic
		}
		if slices.Contains(topics, hangs.group.Topics[0]) {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	east.cluster.asks.Store(&bad)
	await := func(what string, ok func() bool) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(limit) {
				mu.Lock()
				defer mu.Unlock()
				t.Fatalf("%s; asked was lately: %v", what, asked[max(0, len(asked)-20):])
			}
		}
	}
	together := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.ContainsFunc(asked, func(topics []string) bool { return len(topics) == n })
		}
	}
	await("the others ask together", together(shares-2))
	mu.Lock()
	asked = nil
	mu.Unlock()
	for range 5 {
		for i := 2; i < shares; i++ {
			began := time.Now()
			if ends := share(i).measuredEnds(t.Context()); len(ends) != partitions {
				t.Errorf("share %d is told %v", i, ends)
			}
			if took := time.Since(began); took >= endsMax {
				t.Errorf("share %d waited for %v", i, took)
			}
		}
		time.Sleep(measureEvery / 2)
	}
	mu.Lock()
	for _, topics := range asked {
		if len(topics) > 1 && len(topics) != shares-2 || len(topics) == 1 && topics[0] != gone.group.Topics[0] && topics[0] != hangs.group.Topics[0] {
			t.Errorf("asked for %v together", topics)
		}
	}
	asked = nil
	mu.Unlock()
	well := func(_ context.Context, tps []spillway.TopicPartition) error {
		mu.Lock()
		defer mu.Unlock()
		var topics []string
		for _, tp := range tps {
			topics = append(topics, tp.Topic)
		}
		asked = append(asked, slices.Compact(topics))
		return nil
	}
	east.cluster.asks.Store(&well)
	await("all ask together again", together(shares))
}

// Of partitions of which no epoch is open nothing is asked: their topics may be gone.
func TestOnlyOpenPartitionsAreAsked(t *testing.T) {
	t.Parallel()
	m := newMany(t, 1, 2, true)
	m.settled("east", time.Minute)
	east := m.sites["east"]
	shut := spillway.TopicPartition{Topic: "gone"}
	asks := func(_ context.Context, tps []spillway.TopicPartition) error {
		if len(tps) == 0 || slices.Contains(tps, shut) {
			return broker.ErrUnknownTopic
		}
		return nil
	}
	east.cluster.asks.Store(&asks)
	views := map[spillway.TopicPartition]*offsetmap.View{shut: offsetmap.New().View()}
	if ends, err := virtualEnds(t.Context(), east.cluster, views); len(ends) != 0 || err != nil {
		t.Errorf("%v, %v", ends, err)
	}
	east.follow.shares[failover.Keys("shop").Share(m.ids()[0])].views(views)
	if ends, err := virtualEnds(t.Context(), east.cluster, views); len(ends) != 2 || err != nil {
		t.Errorf("%v, %v", ends, err)
	}
}
