package control

import (
	"context"
	"errors"
	"sync"
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
				if begun, err := q.ask(t.Context(), do); err != nil || begun.Before(came) {
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
		ended := make(chan struct{})
		hangs := func(ctx context.Context) (string, error) {
			<-ctx.Done()
			close(ended)
			return "", ctx.Err()
		}
		first, end := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := q.ask(first, hangs); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		began := time.Now()
		got, err := q.ask(t.Context(), func(context.Context) (string, error) { return "answered", nil })
		if took := time.Since(began); got != "answered" || err != nil || took != overtakeAfter {
			t.Errorf("%q, %v after %v", got, err, took)
		}
		end()
		wg.Wait()
		<-ended
		bad := errors.New("away")
		if _, err := q.ask(t.Context(), func(context.Context) (string, error) { return "", bad }); !errors.Is(err, bad) {
			t.Error(err)
		}
		if got, err := q.ask(t.Context(), func(context.Context) (string, error) { return "back", nil }); got != "back" || err != nil {
			t.Errorf("%q, %v", got, err)
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
