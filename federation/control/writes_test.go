package control

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

// counting remembers what the store was asked, and when.
type counting struct {
	coordination.Store
	mu    sync.Mutex
	began time.Time
	asked []question
}

type question struct {
	what, key string
	value     []byte
	at, took  time.Duration
}

func newCounting(s coordination.Store) *counting { return &counting{Store: s, began: time.Now()} }

func (c *counting) note(what, key string, value []byte, from time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, question{what, strings.TrimPrefix(key, "spillway/shop/"), value, from.Sub(c.began), time.Since(from)})
}

func (c *counting) Get(ctx context.Context, key string) (coordination.Entry, error) {
	defer c.note("get", key, nil, time.Now())
	return c.Store.Get(ctx, key)
}

func (c *counting) List(ctx context.Context, prefix string) ([]coordination.Entry, error) {
	defer c.note("list", prefix, nil, time.Now())
	return c.Store.List(ctx, prefix)
}

func (c *counting) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	defer c.note("put", key, value, time.Now())
	return c.Store.Put(ctx, key, value, version)
}

func (c *counting) Txn(ctx context.Context, ops []coordination.Op) error {
	defer c.note("put", ops[0].Key, ops[0].Value, time.Now())
	return c.Store.Txn(ctx, ops)
}

// hold is what was asked about a move from the moment in which somebody writes
// FENCING until OPEN is written.
func (c *counting) hold(epoch spillway.Epoch) (asked []question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	holding := false
	for _, q := range c.asked {
		state := failover.State("")
		if strings.HasPrefix(q.key, "shares/") && q.what == "put" {
			if s, err := failover.Decode(q.value); err == nil && s.Epoch == epoch {
				state = s.State
			}
		}
		holding = holding || state == failover.Fencing
		moves := strings.HasPrefix(q.key, "shares/") || strings.HasPrefix(q.key, fmt.Sprintf("moves/orders/0/%d/", epoch)) || q.key == "gateways/"
		if holding && moves {
			if state != "" {
				q.key += " " + string(state)
			}
			asked = append(asked, q)
		}
		if state == failover.Open {
			return asked
		}
	}
	return nil
}

// chain prints a hold for people.
func (c *counting) chain(epoch spillway.Epoch) (lines []string) {
	asked := c.hold(epoch)
	for _, q := range asked {
		lines = append(lines, fmt.Sprintf("%6.1f ms  %-4s %s (%.1f ms)", float64((q.at-asked[0].at).Microseconds())/1000, q.what, q.key, float64(q.took.Microseconds())/1000))
	}
	return lines
}

// Clients are held while a switchover asks the store, so it asks no more than it
// must: the cutover and the opening are written, and one report of the target. (The
// gateways of this test are dumb ones. It runs alone: on a busy machine the target may
// report that it has everything, and later that it has opened the epoch.)
func TestAHoldAsksTheStoreNoMoreThanItMust(t *testing.T) {
	store := newCounting(coordtest.NewMemory())
	w := newWorld(t, options{store: store, group: func(g *spillway.FailoverGroup) { g.GroupDrain = 2 * time.Second }})
	w.settled(1)
	plan := w.switchover("west", "")
	if _, err := w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, q := range store.hold(plan.Epoch) {
		count[q.what+" "+q.key]++
	}
	for what, most := range map[string]int{
		"put shares/orders/0 FENCING": 1, "put shares/orders/0 CUTOVER": 1, "put shares/orders/0 OPEN": 1,
		"put moves/orders/0/2/site/west": 1,
	} {
		if count[what] != most {
			t.Errorf("%s: %d times, want %d", what, count[what], most)
		}
	}
	if n := count["put shares/orders/0 FENCED"]; n != 0 {
		t.Errorf("FENCED was written %d times; nobody waits for it", n)
	}
	for _, line := range store.chain(plan.Epoch) {
		t.Log(line)
	}
}
