package mirror

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
	"spillway/mirror/selection"
)

// selected are topics whose whole names match.
func selected(t *testing.T, include string, rename ...string) selection.Topics {
	t.Helper()
	topics, err := selection.Parse(include, "", rename)
	if err != nil {
		t.Fatal(err)
	}
	return topics
}

// TestRunUntilCaughtUp mirrors without a control plane, twice, and carries
// groups.
func TestRunUntilCaughtUp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 2, "other": 1})
	west := embeddedSite(t, "west", nil)
	l := newLoad(t, east.Addresses(), 51)
	tp, other := spillway.TopicPartition{Topic: "orders"}, spillway.TopicPartition{Topic: "orders", Partition: 1}
	// Without a gateway also this is a client's own: it says nothing about offsets.
	likePrefix := offsetmap.EncodeCommit(3, 1, "text")
	total := int64(0)
	for round := range int64(2) {
		if err := l.write(ctx, "orders", 2, 30); err != nil {
			t.Fatal(err)
		}
		if err := east.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{
			tp:    {Offset: spillway.LocalOffset(40 + 10*round), LeaderEpoch: -1, Metadata: "the client's own"},
			other: {Offset: spillway.LocalOffset(10 + 10*round), LeaderEpoch: -1, Metadata: likePrefix},
		}); err != nil {
			t.Fatal(err)
		}
		report, err := Run(ctx, RunConfig{From: east, To: west, Topics: selected(t, "ord.*"), Groups: regexp.MustCompile("app"), UntilCaughtUp: true})
		if err != nil {
			t.Fatal(err)
		}
		if report.Partitions != 2 || report.Records == 0 || report.Groups != 1 || len(report.Gaps) != 0 {
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
	if want, _ := r.View(other).ToLocal(20); offsets[other].Offset != want {
		t.Errorf("the group stands at %+v, offset 20 is %d here", offsets[other], want)
	}
	if offsets[tp].Metadata != "the client's own" || offsets[other].Metadata != likePrefix {
		t.Errorf("the metadata that came with the commits became %q and %q", offsets[tp].Metadata, offsets[other].Metadata)
	}
}

// TestRunCarriesGroupsThatReadEverything lets a group commit at the end of the
// log. When its offset is translated, the map must hold the last records: else
// the group reads them again.
func TestRunCarriesGroupsThatReadEverything(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east := embeddedSite(t, "east", map[string]int32{"orders": 2})
	west := embeddedSite(t, "west", nil)
	if err := newLoad(t, east.Addresses(), 52).write(ctx, "orders", 2, 100); err != nil {
		t.Fatal(err)
	}
	tps := []spillway.TopicPartition{{Topic: "orders"}, {Topic: "orders", Partition: 1}}
	ends, err := east.Admin().HighWatermarks(ctx, tps)
	if err != nil {
		t.Fatal(err)
	}
	offsets := make(map[spillway.TopicPartition]broker.GroupOffset)
	for tp, end := range ends {
		offsets[tp] = broker.GroupOffset{Offset: end, LeaderEpoch: -1}
	}
	if err := east.Admin().CommitGroupOffsets(ctx, "app", offsets); err != nil {
		t.Fatal(err)
	}
	// Many small answers, of which the map is told seldom.
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: selected(t, "orders"), Groups: regexp.MustCompile("app"), UntilCaughtUp: true,
		Mirror: Config{FetchBytesMax: 8 << 10, PartitionBytesMax: 4 << 10, VerifyInterval: 10 * time.Second}}); err != nil {
		t.Fatal(err)
	}
	there, err := west.Admin().LogEnds(ctx, tps)
	if err != nil {
		t.Fatal(err)
	}
	got, err := west.Admin().FetchGroupOffsets(ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	for _, tp := range tps {
		if got[tp].Offset != there[tp] {
			t.Errorf("%s: the group had read everything and stands at %d, the log ends at %d", tp, got[tp].Offset, there[tp])
		}
	}
}

// TestRunLease starts two runs of one flow: one writes, and when it ends the
// other goes on.
func TestRunLease(t *testing.T) {
	t.Parallel()
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
			if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: selected(t, ".*"),
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
	first.cancel() // it may still carry what comes while it ends
	eventually(t, "the other run goes on", func() bool {
		write()
		return second.records.Load() > 0
	})
}

// TestRunRenames mirrors two of three topics, one under another name, beside a topic of
// the target that has the name of one of the source: group offsets follow, later
// records and a second run go on where the first one stopped, and an audit finds the
// same records.
func TestRunRenames(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	partitions := map[string]int32{"orders": 2, "carts": 1, "other": 1}
	east := embeddedSite(t, "east", partitions)
	west := embeddedSite(t, "west", map[string]int32{"orders": 1})
	loads := map[string]*load{}
	for topic := range partitions {
		loads[topic] = newLoad(t, east.Addresses(), 60+uint64(len(loads)))
	}
	topics, err := selection.Parse(".*", "other", []string{"(orders)=east.$1"})
	if err != nil {
		t.Fatal(err)
	}
	there, here := spillway.TopicPartition{Topic: "orders", Partition: 1}, spillway.TopicPartition{Topic: "east.orders", Partition: 1}
	for round := range int64(2) {
		for topic, partitions := range partitions {
			if err := loads[topic].write(ctx, topic, partitions, 30); err != nil {
				t.Fatal(err)
			}
		}
		if err := east.Admin().CommitGroupOffsets(ctx, "app", map[spillway.TopicPartition]broker.GroupOffset{there: {Offset: spillway.LocalOffset(10 + 10*round), LeaderEpoch: -1}}); err != nil {
			t.Fatal(err)
		}
		report, err := Run(ctx, RunConfig{From: east, To: west, Topics: topics, Groups: regexp.MustCompile("app"), UntilCaughtUp: true})
		if err != nil {
			t.Fatal(err)
		}
		if report.Partitions != 3 || len(report.Gaps) != 0 {
			t.Errorf("report: %+v", report)
		}
	}
	md, err := west.Metadata(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(md.Topics["east.orders"].Partitions) != 2 || len(md.Topics["orders"].Partitions) != 1 || len(md.Topics["other"].Partitions) != 0 {
		t.Errorf("topics of the target: %v", slices.Sorted(maps.Keys(md.Topics)))
	}
	offsets, err := west.Admin().FetchGroupOffsets(ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	r := maptopic.Tail(ctx, west, nil)
	defer r.Close()
	if err := r.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	if want, _ := r.View(here).ToLocal(20); len(offsets) != 1 || offsets[here].Offset != want {
		t.Errorf("the group stands at %+v, offset 20 of %s is %d in %s", offsets, there, want, here)
	}
	report, err := audit.Audit(ctx, east, west, topics, audit.Scope{}, nil)
	if err != nil || !report.Equal || report.Records == 0 || len(report.Partitions) != 3 {
		t.Errorf("audit: %+v, %v", report, err)
	}
}
