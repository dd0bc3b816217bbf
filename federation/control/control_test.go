package control

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/federation/failover"
)

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Planned moves under load: nothing lost, nothing twice, and every offset that a
// client was told names the same record at the new site.
func TestSwitchoversUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) { g.GroupDrain = 100 * time.Millisecond }})
	share := w.settled(1)
	stop := w.load()
	for i, to := range []spillway.SiteID{"west", "north", "east", "west"} {
		w.eventually("load", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.acked[spillway.TopicPartition{Topic: "orders"}]) > 30*(i+1)
		})
		plan, err := w.operator.Switchover(within(t), "orders", to, "test", "exercise", false)
		if err != nil {
			t.Fatalf("%v; faults %q", err, w.failed)
		}
		if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil {
			t.Fatalf("%v; faults %q, waits %q", err, last(w.failed, 5), last(w.waits, 5))
		}
		if share.Active != to || share.Epoch != plan.Epoch {
			t.Fatalf("%s in epoch %d, planned %s in %d: %+v; faults %q", share.Active, share.Epoch, to, plan.Epoch, share.Passages, last(w.failed, 5))
		}
		w.settled(share.Epoch)
	}
	acked := stop()
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 4 {
		t.Fatalf("%d moves in the history, %v", len(history), err)
	}
	for _, r := range history {
		t.Logf("%s → %s held %d ms, fence %s", r.From, r.To, r.HeldMillis, r.Fence)
		if k := r.Known; k == nil || len(k.Evidence) != 3 || k.Evidence[0].Down || k.Evidence[0].Why == "" || k.Forecast.LostMost != 0 || len(r.Found) > 0 {
			t.Errorf("what was known: %+v", k)
		}
		if r.HeldMillis < 0 || r.LostMost != 0 || r.Aborted != "" || len(r.Passages) != 7 {
			t.Errorf("%+v", r)
		}
	}
	if missing := w.check(share.Active, share); missing > 0 || acked < 100 {
		t.Errorf("%d of %d acknowledged records are missing", missing, acked)
	}
	t.Logf("%d records acknowledged", acked)
	log, err := w.operator.Audit(within(t))
	if err != nil || len(log) != 4 || log[0].What != "switchover of orders from east to west" || log[0].Who != "test" {
		t.Errorf("audit log: %+v, %v", log, err)
	}
}

// A whole site dies: observers agree, leases run out, and the share opens at a
// survivor above everything that was handed out. What is missing lies in the
// burnt range.
func TestFailoverWithoutAPerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{group: func(g *spillway.FailoverGroup) {
		g.Failover = spillway.AutomaticFailover{Enabled: true, After: 200 * time.Millisecond, LossRecordsMax: 1000}
	}})
	w.settled(1)
	stop := w.load()
	w.eventually("load", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked[spillway.TopicPartition{Topic: "orders"}]) > 30
	})
	w.kill("east")
	started := time.Now()
	share := w.settled(2)
	took := time.Since(started)
	w.eventually("load goes on", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		_, ok := w.acked[spillway.TopicPartition{Topic: "orders"}][share.Current().Start.Get(spillway.TopicPartition{Topic: "orders"})+5]
		return ok
	})
	acked := stop()
	if share.Active == "east" || share.Kind != failover.Failover || share.Who != "automation" || !share.Current().Lossy {
		t.Fatalf("%+v", share)
	}
	missing := w.check(share.Active, share)
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 1 {
		t.Fatalf("%+v, %v", history, err)
	}
	for _, p := range history[0].Passages {
		t.Logf("%s: %s", p.State, p.Why)
	}
	known := history[0].Known
	if known == nil || len(known.Evidence) != 3 || !known.Evidence[0].Down || !strings.Contains(known.Evidence[0].Why, "east is down to ") || known.Evidence[1].Down {
		t.Errorf("what was known of the sites: %+v", known)
	} else if f := known.Forecast; f.PauseMillis < 0 || f.LostMost < int64(missing) || len(f.Losses) != partitions || f.Losses[0].Site == "" || !slices.Contains(f.Silent, "site east is down") {
		t.Errorf("what was foretold: %+v", f)
	} else {
		t.Logf("held for %d ms, foretold %d ms (%s); loss foretold between %d and %d", history[0].HeldMillis, f.PauseMillis, f.PauseWhy, f.LostLeast, f.LostMost)
	}
	t.Logf("%d acknowledged, %d missing, at most %d announced, stable after %v", acked, missing, history[0].LostMost, took)
	if int64(missing) > history[0].LostMost || history[0].LostMost > int64(missing)+50*partitions+50*partitions/2 {
		t.Errorf("%d are missing, %d were announced", missing, history[0].LostMost)
	}
}

func (w *world) kill(id spillway.SiteID) {
	w.t.Helper()
	s := w.sites[id]
	w.mu.Lock()
	gw := s.gateway
	w.mu.Unlock()
	gw.freeze()
	if err := s.server.Close(); err != nil {
		w.t.Fatal(err)
	}
	s.stop()
}

// The target's mirror cannot catch up: the move gives up by itself before clients
// are refused, the old site goes on in a higher epoch, and the next try works.
func TestSwitchoverGivesUpAndTheOldSiteGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{sites: []spillway.SiteID{"east", "west"}, group: func(g *spillway.FailoverGroup) { g.HoldMax = 2 * time.Second }})
	w.settled(1)
	stop := w.load()
	w.eventually("load", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked[spillway.TopicPartition{Topic: "orders"}]) > 30
	})
	// A gateway that neither confirms nor lets its lease go holds the move up.
	gw := w.sites["west"].gateway
	stuck := make(chan struct{})
	gw.inflight.Go(func() { <-stuck })
	plan := w.switchover("west", "")
	share, err := w.operator.Await(within(t), "orders", plan.Epoch+1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if share.Active != "east" || share.Epoch != plan.Epoch+1 || !share.Current().Continues {
		t.Fatalf("%+v", share)
	}
	close(stuck)
	w.settled(share.Epoch)
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 1 || !strings.Contains(history[0].Aborted, "automation: clients were held for") {
		t.Fatalf("%+v, %v", history, err)
	}
	if plan, err = w.operator.Switchover(within(t), "orders", "west", "test", "again", false); err != nil {
		t.Fatal(err)
	}
	if share, err = w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != "west" {
		t.Fatalf("%+v, %v", share, err)
	}
	stop()
	if missing := w.check("west", share); missing > 0 {
		t.Errorf("%d acknowledged records are missing", missing)
	}
}
