package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
)

// A flow that is told where to start carries what comes from there on: also what was
// written while it was down and had carried nothing yet. What lies before is in the gap
// log, and an audit does not call it missing.
func TestRunStartsWhereItIsTold(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	l := newLoad(t, east.Addresses(), 72)
	at := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	for range 30 {
		var some []*kgo.Record
		for range 5 {
			at = at.Add(time.Second)
			some = append(some, &kgo.Record{Topic: "orders", Value: []byte(at.String()), Timestamp: at})
		}
		if err := l.plain.ProduceSync(ctx, some...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	theirs := readOrders(t, east)
	for _, i := range []int{7, 100, len(theirs) - 1} {
		to := embeddedSite(t, "west", nil)
		if _, err := Run(ctx, RunConfig{From: east, To: to, Topics: selected(t, "orders"), Start: Start{At: time.UnixMilli(theirs[i].timestamp)}, UntilCaughtUp: true}); err != nil {
			t.Fatal(err)
		}
		ours := readOrders(t, to)
		if len(ours) != len(theirs)-i || !ours[len(ours)-1].equal(theirs[len(theirs)-1]) || !ours[0].equal(theirs[i]) {
			t.Errorf("start at record %d of %d: %d records", i, len(theirs), len(ours))
		}
	}
}

func TestParseStart(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Start{"": {}, "earliest": {}, "latest": {Latest: true}, "2026-11-01T08:00:00Z": {At: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)}} {
		if got, err := ParseStart(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	if _, err := ParseStart("yesterday"); err == nil {
		t.Errorf("yesterday: %v", err)
	}
}

// noEnds is a target that does not tell its log ends the first time.
type noEnds struct {
	broker.Cluster
	failed *atomic.Bool
}

func (n noEnds) Admin() broker.Admin { return noEndsAdmin{n.Cluster.Admin(), n.failed} }

type noEndsAdmin struct {
	broker.Admin
	failed *atomic.Bool
}

func (n noEndsAdmin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if !n.failed.Swap(true) {
		return nil, errors.New("no leader yet")
	}
	return n.Admin.LogEnds(ctx, tps)
}

// A start holds also where the first append session was claimed and never opened.
func TestAStartOutlivesAFailedOpening(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	if err := newLoad(t, east.Addresses(), 73).write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	to := noEnds{west, new(atomic.Bool)}
	report, err := Run(ctx, RunConfig{From: east, To: to, Topics: selected(t, "orders"), Start: Start{Latest: true}, UntilCaughtUp: true})
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != 0 || len(report.Gaps) != 1 || !to.failed.Load() {
		t.Errorf("report: %+v", report)
	}
}

// A topic that is created anew at the source has other records, and all of them are
// younger than the start.
func TestAStartIsVoidForATopicCreatedAnew(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	l := newLoad(t, east.Addresses(), 74)
	if err := l.write(ctx, "orders", 1, 20); err != nil {
		t.Fatal(err)
	}
	c := RunConfig{From: east, To: west, Topics: selected(t, "orders"), Start: Start{Latest: true}, UntilCaughtUp: true}
	if _, err := Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := l.write(ctx, "orders", 1, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := east.Admin().DeleteTopic(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	createEmbedded(t, east, "orders")
	fresh := newLoad(t, east.Addresses(), 75)
	for i := range 5 {
		if err := fresh.plain.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "new %d", i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	before := len(readOrders(t, west))
	found, err := audit.Audit(ctx, east, west, c.Topics, audit.Scope{}, nil)
	if err != nil || found.Equal {
		t.Errorf("an audit of other records: %+v, %v", found, err)
	}
	if _, err := Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	ours := readOrders(t, west)
	if len(ours) != before+5 || string(ours[before].value) != "new 0" {
		t.Errorf("%d records came of the new topic, it has 5", len(ours)-before)
	}
}

func createEmbedded(t *testing.T, c *embedded.Cluster, topic string) {
	t.Helper()
	if err := c.Admin().CreateTopic(t.Context(), topic, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
}
