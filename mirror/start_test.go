package mirror

import (
	"testing"
	"time"

	"spillway"
	"spillway/broker/embedded"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
)

// A flow that is told where to start carries what comes from there on: also what was
// written while it was down and had carried nothing yet. What lies before is in the gap
// log, and an audit does not call it missing.
func TestRunStartsWhereItIsTold(t *testing.T) {
	at := time.Now().Add(time.Hour).Truncate(time.Second) // younger than the markers of transactions
	for name, start := range map[string]Start{"latest": {Latest: true}, "time": {At: at.Add(time.Hour)}} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
			l := newLoad(t, east.Addresses(), 71)
			l.at = at // a second for each record
			if err := l.write(ctx, "orders", 1, 20); err != nil {
				t.Fatal(err)
			}
			before := len(readOrders(t, east))
			end := stableEnd(t, east)
			c := RunConfig{From: east, To: west, Topics: selected(t, "orders"), Start: start, UntilCaughtUp: true}
			report, err := Run(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			if report.Records != 0 || len(report.Gaps) != 1 || report.Gaps[0].Kind != maptopic.GapStart || report.Gaps[0].From != 0 || report.Gaps[0].To != spillway.Offset(end) {
				t.Errorf("report: %+v", report)
			}
			l.at = at.Add(2 * time.Hour)
			for range 2 {
				if err := l.write(ctx, "orders", 1, 20); err != nil {
					t.Fatal(err)
				}
				if report, err = Run(ctx, c); err != nil {
					t.Fatal(err)
				}
			}
			theirs, ours := readOrders(t, east), readOrders(t, west)
			if len(ours) != len(theirs)-before || len(report.Gaps) != 1 {
				t.Fatalf("%d records are there, %d were written after the start; gaps %v", len(ours), len(theirs)-before, report.Gaps)
			}
			for i := range ours {
				if !ours[i].equal(theirs[before+i]) {
					t.Fatalf("record %d differs", i)
				}
			}
			found, err := audit.Audit(ctx, east, west, c.Topics, audit.Scope{}, nil)
			if err != nil || !found.Equal || int(found.Records) != len(ours) || found.Partitions[0].NotCompared == "" {
				t.Errorf("audit: %+v, %v", found, err)
			}
		})
	}
}

func readOrders(t *testing.T, c *embedded.Cluster) []logged {
	t.Helper()
	records, err := read(t.Context(), c, spillway.TopicPartition{Topic: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	return records
}

func stableEnd(t *testing.T, c *embedded.Cluster) spillway.LocalOffset {
	t.Helper()
	tp := spillway.TopicPartition{Topic: "orders"}
	ends, err := c.Admin().StableEnds(t.Context(), []spillway.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	return ends[tp]
}

// A start in the middle of the log leaves out what is older, to the record.
func TestRunStartsAtATime(t *testing.T) {
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	l := newLoad(t, east.Addresses(), 72)
	l.at = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	if err := l.write(ctx, "orders", 1, 30); err != nil {
		t.Fatal(err)
	}
	theirs := readOrders(t, east)
	for _, i := range []int{7, 100, len(theirs) - 1} {
		to := embeddedSite(t, "west", nil)
		if _, err := Run(ctx, RunConfig{From: east, To: to, Topics: selected(t, "orders"), Start: Start{At: time.UnixMilli(theirs[i].timestamp)}, UntilCaughtUp: true}); err != nil {
			t.Fatal(err)
		}
		// Batches go as they are: the first one may bring records from before.
		ours := readOrders(t, to)
		if len(ours) < len(theirs)-i || !ours[len(ours)-1].equal(theirs[len(theirs)-1]) || !ours[0].equal(theirs[len(theirs)-len(ours)]) {
			t.Errorf("start at record %d of %d: %d records", i, len(theirs), len(ours))
		}
	}
}

func TestParseStart(t *testing.T) {
	for s, want := range map[string]Start{"": {}, "earliest": {}, "latest": {Latest: true}, "2026-11-01T08:00:00Z": {At: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)}} {
		if got, err := ParseStart(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	if _, err := ParseStart("yesterday"); err == nil {
		t.Errorf("yesterday: %v", err)
	}
}
