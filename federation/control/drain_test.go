package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

func wait30(p Progress) Progress {
	p.Wait = 30 * time.Second
	return p
}

// A site is drained: what it serves moves to the next home, and nothing moves there
// until it returns. Each may be said again.
func TestDrainAndReturnOfASite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.settled(1)
	w.produce("east", "a", 20)
	w.eventually("a dry run", func() bool { // once west has caught up
		plan, err := w.operator.Drain(within(t), "east", "ann", "", true, Progress{})
		return err == nil && slices.Equal(plan.Groups, []GroupMove{{Group: "orders", From: "east", To: "west", Epoch: 2}})
	})
	if s := w.record(); s.State != failover.Stable || s.Epoch != 1 {
		t.Fatalf("a dry run changed the share: %+v", s)
	}
	var begun []spillway.SiteID
	passages := 0
	told := wait30(Progress{Begun: func(p Plan) { begun = append(begun, p.To) }, Passed: func(failover.Passage) { passages++ }})
	done, err := w.operator.Drain(within(t), "east", "ann", "new power supply", false, told)
	if err != nil || !slices.Equal(done.Groups, []GroupMove{{Group: "orders", From: "east", To: "west", Epoch: 2, Moved: true}}) {
		t.Fatalf("%+v, %v", done, err)
	}
	if len(begun) != 1 || passages < 6 {
		t.Errorf("told of %v and %d passages", begun, passages)
	}
	w.settled(2)
	again, err := w.operator.Drain(within(t), "east", "bob", "me too", false, told)
	if err != nil || len(again.Groups) != 0 || again.Mark.Who != "ann" {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = w.operator.Switchover(within(t), "orders", "east", "bob", "", false)
	if err == nil || !strings.Contains(err.Error(), "target east is drained by ann: new power supply; spillway site return east ends that") {
		t.Errorf("%v", err)
	}
	plan, err := w.operator.Failover(within(t), "orders", "", -1, "bob", "", true)
	if err != nil || plan.To != "north" {
		t.Errorf("%+v, %v", plan, err)
	}
	// The preferred site is back.
	w.eventually("a dry run of the return", func() bool {
		back, err := w.operator.Return(within(t), "east", "ann", "", true, true, Progress{})
		return err == nil && slices.Equal(back.Groups, []GroupMove{{Group: "orders", From: "west", To: "east", Epoch: 3}})
	})
	back, err := w.operator.Return(within(t), "east", "ann", "", true, false, told)
	if err != nil || !slices.Equal(back.Groups, []GroupMove{{Group: "orders", From: "west", To: "east", Epoch: 3, Moved: true}}) {
		t.Fatalf("%+v, %v", back, err)
	}
	share := w.settled(3)
	if missing := w.check("east", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
	var log []string
	audit, err := w.operator.Audit(within(t))
	for _, a := range audit {
		log = append(log, a.Who+": "+a.What)
	}
	if want := []string{"ann: site east drained", "ann: switchover of orders from east to west", "ann: site east returned", "ann: switchover of orders from west to east"}; err != nil || !slices.Equal(log, want) {
		t.Errorf("audit log %q, %v", log, err)
	}
	if _, err := w.operator.Drain(within(t), "mars", "ann", "", false, told); err == nil {
		t.Error("a site that nobody knows was drained")
	}
}

// moving is a store with loops and mirrors that do at once whatever is asked.
type moving struct {
	coordination.Store
	topology *spillway.Topology
	keys     failover.Keys
	refuses  string // this group has no standby that follows

	mu     sync.Mutex
	order  []string // of the groups that moved
	atOnce int      // most moves at one time
}

// run moves shares and renews leases until ctx ends.
func (m *moving) run(ctx context.Context, t *testing.T) {
	for beat := uint64(1); ctx.Err() == nil; beat++ {
		following, under := map[string]failover.Following{}, 0
		for _, g := range m.topology.Groups() {
			key := m.keys.Share(spillway.ShareID{Group: g.Name})
			e, err := m.Get(ctx, key)
			if err != nil {
				break
			}
			s, err := failover.Decode(e.Value)
			if err != nil {
				t.Error(err)
				return
			}
			if s.State != failover.Stable {
				under++
				s.State, s.Active = failover.Stable, s.Target
				s.Terms = append(s.Terms, failover.Term{Epoch: s.Epoch, Site: s.Target})
				s.Target = ""
				if _, err := m.Put(ctx, key, s.Encode(), e.Version); err == nil {
					m.mu.Lock()
					m.order = append(m.order, g.Name)
					m.mu.Unlock()
				}
			}
			if g.Name != m.refuses {
				following[s.ID().String()] = failover.Following{Epoch: s.Epoch}
			}
		}
		m.mu.Lock()
		m.atOnce = max(m.atOnce, under)
		m.mu.Unlock()
		for _, site := range m.topology.Sites() {
			key := m.keys.Mirror(site.ID, "1")
			value, err := json.Marshal(failover.MirrorLease{Site: site.ID, Following: following, Beat: beat})
			if err != nil {
				t.Error(err)
			}
			e, _ := m.Get(ctx, key) // version 0 if absent
			_, _ = m.Put(ctx, key, value, e.Version)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func newMoving(t *testing.T, refuses string, groups ...spillway.FailoverGroup) (*moving, *Operator) {
	t.Helper()
	sites := []spillway.Site{{ID: "east"}, {ID: "west"}, {ID: "north"}}
	m := &moving{Store: coordtest.NewMemory(), topology: spillway.NewTopology("shop", "shop-1", sites, groups), keys: failover.Keys("shop"), refuses: refuses}
	for _, g := range groups {
		s := failover.Share{Group: g.Name, State: failover.Stable, Epoch: 1, Active: g.Sites[0], Terms: []failover.Term{{Epoch: 1, Site: g.Sites[0]}}}
		if _, err := m.Put(t.Context(), m.keys.Share(s.ID()), s.Encode(), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { m.run(ctx, t) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return m, NewOperator(m.topology, m, nil)
}

func groupAt(name string, sites ...spillway.SiteID) spillway.FailoverGroup {
	return spillway.FailoverGroup{Name: name, Kind: spillway.Ordered, Topics: []string{name}, Sites: sites, Ack: spillway.AckPolicy{Sites: 1}}
}

// Groups move one after the other, each to its own next home that is not drained; one
// that cannot move stays, and holds up no other.
func TestDrainMovesOneGroupAfterTheOther(t *testing.T) {
	t.Parallel()
	m, o := newMoving(t, "stuck", groupAt("a", "east", "west"), groupAt("alone", "east"), groupAt("b", "east", "north", "west"), groupAt("elsewhere", "west", "east"), groupAt("stuck", "east", "west"), groupAt("z", "east", "west", "north"))
	ctx := within(t)
	if _, err := o.Drain(ctx, "north", "ann", "old switch", false, wait30(Progress{})); err != nil {
		t.Fatal(err)
	}
	done, err := o.Drain(ctx, "east", "ann", "", false, wait30(Progress{}))
	if err != nil {
		t.Fatal(err)
	}
	want := []GroupMove{
		{Group: "a", From: "east", To: "west", Epoch: 2, Moved: true},
		{Group: "alone", From: "east", Stays: "failover group alone has no other site"},
		{Group: "b", From: "east", To: "west", Epoch: 2, Moved: true, PassedOver: "target north is drained by ann: old switch; spillway site return north ends that"},
		{Group: "stuck", From: "east", To: "west", Stays: "target west does not follow share stuck/0 yet"},
		{Group: "z", From: "east", To: "west", Epoch: 2, Moved: true},
	}
	if !slices.Equal(done.Groups, want) {
		t.Errorf("%+v\nwant\n%+v", done.Groups, want)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.order, []string{"a", "b", "z"}) || m.atOnce != 1 {
		t.Errorf("moved in the order %v, %d at once", m.order, m.atOnce)
	}
}

// Somebody drains the target just as a switchover there begins: it is refused.
func TestASwitchoverThatMeetsADrainIsRefused(t *testing.T) {
	t.Parallel()
	m, o := newMoving(t, "", groupAt("a", "east", "west"))
	store := m.Store.(*coordtest.Memory)
	var once sync.Once
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when == coordtest.BeforeWrite && len(ops) > 1 {
			once.Do(func() {
				if _, err := store.Put(t.Context(), m.keys.Drained("west"), []byte(`{"who":"ann"}`), 0); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	_, err := o.Switchover(within(t), "a", "west", "bob", "", false)
	if err == nil || !strings.Contains(err.Error(), "target west is drained by ann") {
		t.Errorf("%v", err)
	}
}
