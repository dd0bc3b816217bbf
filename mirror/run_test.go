package mirror

import (
	"context"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"

	"spillway"
	"spillway/broker"
	"spillway/mirror/maptopic"
)

// TestRunUntilCaughtUp mirrors without a control plane, twice, and carries
// groups.
func TestRunUntilCaughtUp(t *testing.T) {
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 2, "other": 1})
	west := embeddedSite(t, "west", nil)
	l := newLoad(t, east.Addresses(), 51)
	tp := spillway.TopicPartition{Topic: "orders"}
	total := int64(0)
	for round := range int64(2) {
		if err := l.write(ctx, "orders", 2, 30); err != nil {
			t.Fatal(err)
		}
		if err := east.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{tp: {Offset: spillway.LocalOffset(40 + 10*round), LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
		report, err := Run(ctx, RunConfig{From: east, To: west, Topics: regexp.MustCompile("ord.*"), Groups: regexp.MustCompile("app"), UntilCaughtUp: true})
		if err != nil {
			t.Fatal(err)
		}
		if report.Partitions != 2 || report.Records == 0 || report.Groups == 0 || len(report.Gaps) != 0 {
			t.Errorf("report: %+v", report)
		}
		total += report.Records
	}
	records := int64(0)
	for i := range int32(2) {
		ours, err := read(ctx, west, spillway.TopicPartition{Topic: "orders", Partition: i})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := read(ctx, east, spillway.TopicPartition{Topic: "orders", Partition: i})
		if err != nil {
			t.Fatal(err)
		}
		if len(ours) != len(theirs) {
			t.Fatalf("%d records at the target, %d at the source", len(ours), len(theirs))
		}
		for j := range ours {
			if !ours[j].equal(theirs[j]) {
				t.Fatalf("record %d differs", j)
			}
		}
		records += int64(len(ours))
	}
	if records != total {
		t.Errorf("%d records are there, the reports say %d", records, total)
	}
	r := maptopic.Tail(ctx, west, nil)
	defer r.Close()
	if err := r.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	offsets, err := west.Admin().FetchGroupOffsets(ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := r.View(tp).ToLocal(50); offsets[tp].Offset != want {
		t.Errorf("the group stands at %+v, offset 50 is %d here", offsets[tp], want)
	}
}

// TestRunLease starts two runs of one flow: one writes, and when it ends the
// other goes on.
func TestRunLease(t *testing.T) {
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	west := embeddedSite(t, "west", nil)
	type run struct {
		cancel  context.CancelFunc
		records atomic.Int64
	}
	var runs [2]run
	var done sync.WaitGroup
	for i := range runs {
		r := &runs[i]
		ctx, cancel := context.WithCancel(ctx)
		r.cancel = cancel
		done.Go(func() {
			if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: regexp.MustCompile(".*"),
				Events: Events{BatchMirrored: func(i BatchInfo) { r.records.Add(int64(i.Records)) }}}); err != nil {
				t.Error(err)
			}
		})
	}
	defer done.Wait()
	defer runs[0].cancel()
	defer runs[1].cancel()
	l := newLoad(t, east.Addresses(), 61)
	write := func() {
		if err := l.write(ctx, "orders", 1, 10); err != nil {
			t.Fatal(err)
		}
	}
	write()
	eventually(t, "one run mirrors", func() bool { return runs[0].records.Load()+runs[1].records.Load() > 0 })
	write()
	first, second := &runs[0], &runs[1]
	if second.records.Load() > 0 {
		first, second = second, first
	}
	if second.records.Load() != 0 {
		t.Error("both runs wrote")
	}
	first.cancel()
	write()
	eventually(t, "the other run goes on", func() bool { return second.records.Load() > 0 })
}
