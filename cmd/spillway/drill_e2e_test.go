//go:build e2e

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"spillway/console/status"
	"spillway/federation/history"
	"spillway/tests/world"
)

// On real Kafka and a real Consul: each other site has its turn, what is lost was announced,
// and a drill is refused, before anything moves, where the site would not take the group.
func TestRealDrills(t *testing.T) {
	w := world.Start(t, world.Options{ReservedBlock: 2000, Control: "probeInterval: 500ms, holdDown: 2s",
		Extra: "  - {name: drill, topics: [drill], sites: [east, west, north], drillEvery: 24h, reservedBlock: 2000}"})
	held := func(args ...string) (d history.Drill, err error) {
		out, err := w.Run(t.Context(), "north", append([]string{"drill", "run", "drill", "-o", "json"}, args...)...)
		if bad := json.NewDecoder(strings.NewReader(out)).Decode(&d); bad != nil {
			t.Fatalf("%v: %v\n%s", err, bad, out)
		}
		return d, err
	}
	if drill := drillStatus(t, w); drill == nil || !drill.Overdue || drill.Outcome != "" {
		t.Errorf("before any drill the status says %+v", drill)
	}
	for _, to := range []string{"west", "north"} {
		d, err := held("--why", "test")
		if err != nil || d.Outcome != history.DrillPassed || len(d.Moves) != 2 || string(d.Moves[0].To) != to || string(d.Moves[1].To) != "east" {
			t.Fatalf("drill to %s: %v: %+v", to, err, d)
		}
		if d.Acked == 0 || d.Unanswered > 0 || d.Read < d.Acked-d.Lost {
			t.Errorf("%d sent, %d acknowledged, %d read, %d lost", d.Sent, d.Acked, d.Read, d.Lost)
		}
		fmt.Printf("measured: drill to %s: clients waited %d ms in the failover, %d ms on the way home; %d sent, %d acknowledged, %d lost\n",
			to, d.Moves[0].SilentMillis, d.Moves[1].SilentMillis, d.Sent, d.Acked, d.Lost)
	}
	if drill := drillStatus(t, w); drill == nil || drill.Overdue || drill.Outcome != string(history.DrillPassed) || drill.Recovery <= 0 {
		t.Errorf("after two that passed the status says %+v", drill)
	}
	w.Eventually(10*time.Second, "the metrics have it", func() error {
		text, err := w.Metrics(t.Context(), "east")
		if err == nil && !strings.Contains(text, `spillway_drill_passed{failover_group="drill"} 1`) {
			err = fmt.Errorf("no series of the drill")
		}
		return err
	})

	// The next one would go to west.
	w.KillSite("west")
	w.Eventually(30*time.Second, "west is down", func() error {
		s := observed(t, w)
		for _, site := range s.Sites {
			if site.Name == "west" && site.State == "down" {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.Sites)
	})
	before := epochOf(t, w)
	d, err := held("--timeout", "5s")
	if err == nil || d.Outcome != history.DrillRefused || epochOf(t, w) != before {
		t.Errorf("with west down: %v: %+v; epoch %d, then %d", err, d, before, epochOf(t, w))
	}
	if drill := drillStatus(t, w); drill == nil || drill.Outcome != string(history.DrillRefused) || drill.Problem == "" || drill.Overdue {
		t.Errorf("after one that was refused the status says %+v", drill)
	}
	if out, err := w.Run(t.Context(), "east", "drill", "list", "drill"); err != nil || strings.Count(out, "passed") != 2 || strings.Count(out, "refused") < 1 {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, err := w.Run(t.Context(), "east", "drill", "run", world.Group); err == nil || !strings.Contains(err.Error(), "is not for drills") {
		t.Errorf("a group that others use: %v\n%s", err, out)
	}
}

func observed(t *testing.T, w *world.World) (s status.Status) {
	t.Helper()
	out, _ := w.Run(t.Context(), "east", "status", "-o", "json") // its exit status tells of a site that is down
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&s); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return s
}

func drillStatus(t *testing.T, w *world.World) *status.Drill {
	t.Helper()
	for _, g := range observed(t, w).Groups {
		if g.Name == "drill" {
			return g.Drill
		}
	}
	t.Fatal("no group for drills")
	return nil
}

func epochOf(t *testing.T, w *world.World) int {
	t.Helper()
	for _, g := range observed(t, w).Groups {
		if g.Name == "drill" {
			return int(g.Epoch)
		}
	}
	return -1
}
