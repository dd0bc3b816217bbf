package control

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"spillway"
	"spillway/mirror"
)

// Who asks while another one is being answered gets no answer that was begun before, and
// shares the next one with all who came meanwhile.
func TestAnInquiryIsSharedAndNeverOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inquiry[time.Time]
		var owner rounds
		var mu sync.Mutex
		asked := 0
		do := func(context.Context) (time.Time, error) {
			begun := time.Now()
			mu.Lock()
			asked++
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			return begun, nil
		}
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond / 10) // all within the first
				came := time.Now()
				if begun, err := q.ask(t.Context(), &owner, do); err != nil || begun.Before(came) {
					t.Errorf("asked at %v, answered as of %v, %v", came, begun, err)
				}
			})
		}
		wg.Wait()
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// One that is not answered keeps others waiting for a moment only, and ends with the last
// who waits for it. An error is of those who asked, and of nobody else.
func TestAnInquiryThatHangsIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inquiry[string]
		var owner rounds
		ended := make(chan struct{})
		hangs := func(ctx context.Context) (string, error) {
			<-ctx.Done()
			close(ended)
			return "", ctx.Err()
		}
		first, end := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := q.ask(first, &owner, hangs); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		began := time.Now()
		got, err := q.ask(t.Context(), &owner, func(context.Context) (string, error) { return "answered", nil })
		if took := time.Since(began); got != "answered" || err != nil || took != overtakeAfter {
			t.Errorf("%q, %v after %v", got, err, took)
		}
		end()
		wg.Wait()
		<-ended
		bad := errors.New("away")
		if _, err := q.ask(t.Context(), &owner, func(context.Context) (string, error) { return "", bad }); !errors.Is(err, bad) {
			t.Error(err)
		}
		if got, err := q.ask(t.Context(), &owner, func(context.Context) (string, error) { return "back", nil }); got != "back" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// Whoever owns an inquiry ends after all its rounds, also those that nobody waits for any
// more, and no more than a few of them are under way where all hang.
func TestRoundsEndWithTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q inquiry[int]
		var owner rounds
		var under, most, begun, ended atomic.Int64
		slow := func(ctx context.Context) (int, error) {
			begun.Add(1)
			most.Store(max(most.Load(), under.Add(1)))
			defer under.Add(-1)
			<-ctx.Done()
			time.Sleep(time.Second) // it closes its connection
			ended.Add(1)
			return 0, ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 400 * time.Millisecond)
				_, _ = q.ask(ctx, &owner, slow) // ends with ctx
			})
		}
		time.Sleep(actMax - time.Second)
		synctest.Wait()
		if most.Load() != underMax {
			t.Errorf("%d rounds were under way at once, not %d", most.Load(), underMax)
		}
		time.Sleep(3 * time.Second) // the first ones are given up, and leave their places
		synctest.Wait()
		if begun.Load() <= underMax || most.Load() != underMax {
			t.Errorf("%d rounds have begun, %d at once", begun.Load(), most.Load())
		}
		cancel()
		wg.Wait()
		owner.close()
		if ended.Load() != begun.Load() {
			t.Errorf("%d of %d rounds have ended", ended.Load(), begun.Load())
		}
	})
}

// flowing counts how often its flows are listed.
type flowing struct {
	Mirror
	mu    sync.Mutex
	times int
	flows []mirror.FlowInfo
}

func (m *flowing) Flows() []mirror.FlowInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.times++
	return m.flows
}

// What all shares of a site ask for each second is asked for once.
func TestSharesAskTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &flowing{}
		ids := someShares(200)
		for _, id := range ids {
			m.flows = append(m.flows, mirror.FlowInfo{Share: id, Epoch: 7, Partitions: 3})
		}
		f := &Follower{cfg: FollowerConfig{Mirror: m}}
		const seconds = 10
		var wg sync.WaitGroup
		for i, id := range ids {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for range seconds {
					if flows := f.flowsOf(t.Context(), id); len(flows) != 1 || flows[0].Share != id {
						t.Errorf("of %s: %+v", id, flows)
					}
					time.Sleep(measureEvery)
				}
			})
		}
		wg.Wait()
		if m.times > 2*seconds {
			t.Errorf("flows were listed %d times in %d s for %d shares", m.times, seconds, len(ids))
		}
		if flows := f.flowsOf(t.Context(), spillway.ShareID{Group: "another"}); len(flows) != 0 {
			t.Errorf("%+v", flows)
		}
	})
}
