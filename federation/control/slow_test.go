package control

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
	"spillway/mirror"
)

// slow is a mirror that does not hear of a move until it may.
type slow struct {
	Mirror
	hears chan struct{}
}

func (m slow) wait(ctx context.Context) error {
	select {
	case <-m.hears:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m slow) CatchUp(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, from map[spillway.TopicPartition]spillway.SiteID, until map[spillway.TopicPartition]spillway.Offset) (map[spillway.TopicPartition]spillway.Offset, error) {
	if err := m.wait(ctx); err != nil {
		return nil, err
	}
	return m.Mirror.CatchUp(ctx, id, epoch, from, until)
}

func (m slow) Assign(ctx context.Context, a mirror.Assignment) error {
	if a.Epoch > 1 {
		if err := m.wait(ctx); err != nil {
			return err
		}
	}
	return m.Mirror.Assign(ctx, a)
}

// A switchover opens without a standby that is slow: its flow still runs without a
// bound, and copies what somebody wrote to the old site past the gateways, beyond
// the cutover. When it follows the new site, which gave that offset to another
// record, it hides its own and has what all others have (C8, promise D).
func TestSlowStandbyOfASwitchoverIsCutBack(t *testing.T) {
	t.Parallel()
	store := coordtest.NewMemory()
	hears := make(chan struct{})
	w := newWorld(t, options{store: store, mirror: func(id spillway.SiteID, m Mirror) Mirror {
		if id == "north" {
			return slow{m, hears}
		}
		return m
	}})
	w.settled(1)
	w.produce("east", "a", 20)
	north := func() spillway.Offset {
		return w.sites["north"].mirror.Ends(spillway.ShareID{Group: "orders"})[orders0]
	}
	w.eventually("north has all", func() bool { return north() == 1020 })
	// The moment before OPEN: east and west are done, and east's map is still open.
	var once sync.Once
	store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
		if when != coordtest.BeforeWrite {
			return nil
		}
		if s, err := failover.Decode(ops[0].Value); err != nil || s.State != failover.Open {
			return nil
		}
		once.Do(func() {
			ctx := within(t)
			if _, err := produceTo(ctx, w.sites["east"].cluster, orders0, "stray"); err != nil {
				t.Error(err)
			}
			for north() < 1021 && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
		})
		return nil
	})
	plan := w.switchover("west", "")
	w.eventually("west serves", func() bool { return w.record().Active == "west" })
	w.write("west", orders0, "new")
	w.eventually("north shows the stray record", func() bool { return w.visible("north", orders0)[1020] == "stray" })
	close(hears)
	share := w.settled(plan.Epoch)
	if share.Active != "west" {
		t.Fatalf("%+v", share)
	}
	w.eventually("north shows what west shows", func() bool {
		shown := w.visible("north", orders0)
		return shown[1020] == "new" && len(shown) == 21
	})
	if missing := w.check("north", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
}

// groupless is a mirror whose first copy of the consumer groups fails, once the
// epoch is open.
type groupless struct {
	Mirror
	opened chan struct{}
	once   *sync.Once
	copies *atomic.Int32
}

func (m groupless) OpenEpoch(ctx context.Context, id spillway.ShareID, epoch spillway.Epoch, mask uint64, start map[spillway.TopicPartition]spillway.Offset) (int64, error) {
	position, err := m.Mirror.OpenEpoch(ctx, id, epoch, mask, start)
	if err == nil {
		m.once.Do(func() { close(m.opened) })
	}
	return position, err
}

func (m groupless) CopyGroups(ctx context.Context, id spillway.ShareID, from spillway.SiteID, caughtUp func(context.Context) error) error {
	if err := caughtUp(ctx); err != nil {
		return err
	}
	select {
	case <-m.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.copies.Add(1) == 1 {
		return errors.New("the coordinator of a group is loading")
	}
	return m.Mirror.CopyGroups(ctx, id, from, caughtUp)
}

// The groups cannot be copied at the first attempt, beside an epoch that opens: the
// move goes on with the next one.
func TestGroupsThatCannotBeCopiedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{mirror: func(_ spillway.SiteID, m Mirror) Mirror {
		return groupless{m, make(chan struct{}), &sync.Once{}, &atomic.Int32{}}
	}})
	w.settled(1)
	w.produce("east", "a", 20)
	plan := w.switchover("west", "")
	share := w.settled(plan.Epoch)
	if share.Active != "west" {
		t.Fatalf("%+v; faults %q", share, last(w.failed, 5))
	}
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d are missing", missing)
	}
}

// sociable is a mirror that tells which sites it meets.
type sociable struct {
	Mirror
	met chan spillway.SiteID
}

func (m sociable) Meet(site spillway.SiteID) error {
	select {
	case m.met <- site:
	default: // nobody wants to know any more
	}
	return m.Mirror.Meet(site)
}

// Whoever follows the target of a switchover connects to it while groups drain, and not when
// clients are held.
func TestSitesMeetBeforeClientsAreHeld(t *testing.T) {
	t.Parallel()
	store, met := &heldStore{Store: coordtest.NewMemory()}, make(chan spillway.SiteID, 1)
	w := newWorld(t, options{store: store, mirror: func(site spillway.SiteID, m Mirror) Mirror {
		if site != "east" {
			return m
		}
		return sociable{m, met}
	}})
	w.settled(1)
	store.hold(failover.Fencing)
	plan := w.switchover("west", "")
	select {
	case site := <-met:
		if site != "west" {
			t.Errorf("east met %s", site)
		}
	case <-within(t).Done():
		t.Fatal("clients are about to be held, and east has not met west")
	}
	store.hold("")
	w.settled(plan.Epoch)
}
