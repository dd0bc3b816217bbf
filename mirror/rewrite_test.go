package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	"spillway/mirror/rewrite"
	"spillway/mirror/selection"
)

// rulesOf reads filters as a person writes them.
func rulesOf(t *testing.T, provenance bool, filters ...string) rewrite.Rules {
	t.Helper()
	all, err := rewrite.ParseFilters(filters)
	if err != nil {
		t.Fatal(err)
	}
	return rewrite.Rules{Filters: all, Provenance: provenance}
}

// rewritten is a flow with filters and provenance between two clusters.
type rewritten struct {
	t          *testing.T
	east, west broker.Cluster
	run        RunConfig
	tps        []spillway.TopicPartition // by their names at the target
}

// even are the records that come through.
var even = regexp.MustCompile(`^key-\d*[02468]$`)

func newRewritten(t *testing.T, east, west broker.Cluster) *rewritten {
	t.Helper()
	c, err := rewritingRun(east, west)
	if err != nil {
		t.Fatal(err)
	}
	return &rewritten{t: t, east: east, west: west, run: c, tps: []spillway.TopicPartition{{Topic: "east.orders"}, {Topic: "east.orders", Partition: 1}}}
}

func rewritingRun(east, west broker.Cluster) (RunConfig, error) {
	topics, err1 := selection.Parse("orders", "", []string{"(.*)=east.$1"})
	filters, err2 := rewrite.ParseFilters([]string{`orders/key=key-\d*[02468]`, "header:n!=.*4", "carts/key=none"})
	return RunConfig{From: east, To: west, Topics: topics, Groups: regexp.MustCompile("app-.*"), UntilCaughtUp: true,
		Mirror: Config{Rewrite: rewrite.Rules{Filters: filters, Provenance: true}, RepackBytes: 1 << 20}}, errors.Join(err1, err2)
}

// wanted are the records of a partition of the source that have to come, with their
// provenance.
func (r *rewritten) wanted(ctx context.Context, partition int32) (all, want []logged) {
	r.t.Helper()
	tp := spillway.TopicPartition{Topic: "orders", Partition: partition}
	all, err := read(ctx, r.east, tp)
	if err != nil {
		r.t.Fatal(err)
	}
	md, err := r.east.Metadata(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, l := range all {
		n := l.headers[len(l.headers)-1]
		if !even.Match(l.key) || l.value != nil && bytes.HasSuffix(n.Value, []byte("4")) {
			continue
		}
		l.headers = slices.Clone(l.headers)
		for _, h := range [][2]string{{"cluster", md.ClusterID}, {"topic", "orders"}, {"partition", strconv.Itoa(int(partition))}, {"offset", strconv.Itoa(int(l.offset))}} {
			l.headers = append(l.headers, batch.RecordHeader{Key: "spillway." + h[0], Value: []byte(h[1])})
		}
		want = append(want, l)
	}
	return all, want
}

// compare holds all that is at the target against the source. offsets are those of
// the source by the place of their record at the target.
func (r *rewritten) compare(ctx context.Context) (leftOut int64) {
	r.t.Helper()
	for _, tp := range r.tps {
		all, want := r.wanted(ctx, tp.Partition)
		ours, err := read(ctx, r.west, tp)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(ours) != len(want) || len(want) == 0 {
			r.t.Fatalf("%s: %d records are there, want %d of %d", tp, len(ours), len(want), len(all))
		}
		for i := range ours {
			if !ours[i].equal(want[i]) {
				r.t.Fatalf("%s: record %d is %+v, want %+v", tp, i, ours[i], want[i])
			}
		}
		leftOut += int64(len(all) - len(want))
	}
	return leftOut
}

// commit puts groups at every step-th offset of the source.
func (r *rewritten) commit(ctx context.Context, step spillway.LocalOffset) (positions map[string]spillway.LocalOffset) {
	r.t.Helper()
	positions = make(map[string]spillway.LocalOffset)
	for _, there := range []spillway.TopicPartition{{Topic: "orders"}, {Topic: "orders", Partition: 1}} {
		ends, err := r.east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{there})
		if err != nil {
			r.t.Fatal(err)
		}
		for o := spillway.LocalOffset(there.Partition); o < ends[there]; o += step {
			group := fmt.Sprintf("app-%d-%d", there.Partition, o)
			if err := r.east.Admin().CommitGroupOffsets(ctx, group, map[spillway.TopicPartition]broker.GroupOffset{there: {Offset: o, LeaderEpoch: -1}}); err != nil {
				r.t.Fatal(err)
			}
			positions[group] = o
		}
	}
	return positions
}

// groupsAreExact expects each group at the record that it would have got next of those
// that are carried.
func (r *rewritten) groupsAreExact(ctx context.Context, positions map[string]spillway.LocalOffset) {
	r.t.Helper()
	for _, tp := range r.tps {
		_, want := r.wanted(ctx, tp.Partition)
		for group, o := range positions {
			if !strings.HasPrefix(group, fmt.Sprintf("app-%d-", tp.Partition)) {
				continue
			}
			next, _ := slices.BinarySearchFunc(want, int64(o), func(l logged, o int64) int { return int(l.offset - o) })
			offsets, err := r.west.Admin().FetchGroupOffsets(ctx, group)
			if err != nil {
				r.t.Fatal(err)
			}
			if got := offsets[tp].Offset; got != spillway.LocalOffset(next) {
				r.t.Errorf("group %s stands at %d, want %d", group, got, next)
			}
		}
	}
}

func (r *rewritten) audit(ctx context.Context, rules rewrite.Rules) (audit.Report, error) {
	return audit.Audit(ctx, r.east, r.west, r.run.Topics, audit.Scope{Rewrite: rules}, nil)
}

// carry runs twice, with what was written since, and looks at everything.
func (r *rewritten) carry(ctx context.Context, l *load) {
	r.t.Helper()
	leftOut := int64(0)
	for range 2 {
		if err := l.write(ctx, "orders", 2, 60); err != nil {
			r.t.Fatal(err)
		}
		positions := r.commit(ctx, 37)
		report, err := Run(ctx, r.run)
		if err != nil {
			r.t.Fatal(err)
		}
		leftOut += report.LeftOut
		if want := r.compare(ctx); leftOut != want || len(report.Gaps) != 0 {
			r.t.Errorf("%d records are counted as left out, %d are; gaps %v", leftOut, want, report.Gaps)
		}
		r.groupsAreExact(ctx, positions)
	}
	found, err := r.audit(ctx, r.run.Mirror.Rewrite)
	if err != nil || !found.Equal || found.Records == 0 || found.Partitions[0].LeftOut+found.Partitions[1].LeftOut != leftOut {
		r.t.Errorf("audit: %+v, %v", found, err)
	}
	part := audit.Scope{Rewrite: r.run.Mirror.Rewrite, From: 40, To: 200}
	if found, err = audit.Audit(ctx, r.east, r.west, r.run.Topics, part, nil); err != nil || !found.Equal || found.Records == 0 {
		r.t.Errorf("audit of a part: %+v, %v", found, err)
	}
}

func TestRunFiltersAndMarks(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2}), embeddedSite(t, "west", nil)
	newRewritten(t, east, west).carry(ctx, newLoad(t, east.Addresses(), 91))
}

// What was carried by some rules is not carried on by others, and nothing happens to what
// is there.
func TestOtherRulesAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2, "carts": 1}), embeddedSite(t, "west", nil)
	l, r := newLoad(t, east.Addresses(), 92), newRewritten(t, east, west)
	r.carry(ctx, l)
	if err := l.write(ctx, "orders", 2, 5); err != nil {
		t.Fatal(err)
	}
	before := r.compareCounts(ctx)
	for name, rules := range map[string]rewrite.Rules{
		"none":            {},
		"one less":        rulesOf(t, true, `key=key-\d*[02468]`),
		"no provenance":   rulesOf(t, false, `key=key-\d*[02468]`, "header:n!=.*4"),
		"other condition": rulesOf(t, true, `key=key-\d*[13579]`, "header:n!=.*4"),
	} {
		c := r.run
		c.Mirror.Rewrite = rules
		for what, do := range map[string]func() error{
			"run":     func() error { _, err := Run(ctx, c); return err },
			"dry run": func() error { _, err := PreviewRun(ctx, c); return err },
			"audit":   func() error { _, err := r.audit(ctx, rules); return err },
		} {
			if err := do(); err == nil || !strings.Contains(err.Error(), `east.orders`) || !strings.Contains(err.Error(), `--filter 'header:n!=.*4' --filter 'key=key-\d*[02468]' --provenance`) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	if after := r.compareCounts(ctx); after != before {
		t.Errorf("%s, before %s", after, before)
	}
	// The order of the flags, and how batches are written, make no difference.
	r.run.Mirror.Rewrite, r.run.Mirror.RepackBytes = rulesOf(t, true, "header:n!=.*4", `east*,orders/key=key-\d*[02468]`), 0
	if _, err := PreviewRun(ctx, r.run); err != nil {
		t.Error(err)
	}
	if _, err := Run(ctx, r.run); err != nil {
		t.Error(err)
	}
	r.compare(ctx)
}

// A topic that a failover group carried came whole, and nothing in its map says so: a run
// and an audit with rules are refused all the same.
func TestRulesBehindAFailoverGroupAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := newBounded(t, nil)
	b.write(t, 1)
	b.follows(t)
	b.westM.Close()
	rules := rulesOf(t, false, `key=key-\d*[02468]`)
	for what, do := range map[string]func(rewrite.Rules) error{
		"run": func(r rewrite.Rules) error {
			_, err := PreviewRun(ctx, RunConfig{From: b.east, To: b.west, Mirror: Config{Rewrite: r}})
			return err
		},
		"audit": func(r rewrite.Rules) error {
			_, err := audit.Audit(ctx, b.east, b.west, selection.Topics{}, audit.Scope{Rewrite: r}, nil)
			return err
		},
	} {
		if err := do(rules); err == nil || !strings.Contains(err.Error(), "orders") || !strings.Contains(err.Error(), "was carried with ") {
			t.Errorf("%s with rules: %v", what, err)
		}
		if err := do(rewrite.Rules{}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func (r *rewritten) compareCounts(ctx context.Context) string {
	r.t.Helper()
	var counts []int
	for _, tp := range r.tps {
		ours, err := read(ctx, r.west, tp)
		if err != nil {
			r.t.Fatal(err)
		}
		counts = append(counts, len(ours))
	}
	return fmt.Sprint(counts)
}

// A topic that is carried whole stays so; one that holds a part is nothing for a failover
// group, in which nothing may be left out.
func TestRulesAndFailoverGroups(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	small(t, east.Addresses(), 3)
	c := RunConfig{From: east, To: west, Topics: selected(t, "orders"), UntilCaughtUp: true}
	if _, err := Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	c.Mirror.Rewrite = rulesOf(t, true)
	if _, err := Run(ctx, c); err == nil || !strings.Contains(err.Error(), "was carried with no filter and no provenance, and this flow has --provenance") {
		t.Errorf("rules for a topic that was carried whole: %v", err)
	}
	for _, config := range []Config{{Rewrite: rulesOf(t, true)}, {Rewrite: rulesOf(t, false, "key=x")}, {RepackBytes: 1000}} {
		config.Worker, config.Local = "w", west
		if _, err := New(ctx, config); err == nil || !strings.Contains(err.Error(), "failover") {
			t.Errorf("a failover group's mirror with %+v: %v", config.Rewrite, err)
		}
	}
	north := embeddedSite(t, "north", nil)
	c.To = north
	if _, err := Run(ctx, c); err != nil {
		t.Fatal(err)
	}
	eastM := testMirror(t, east, north)
	assign(t, eastM, ordersAssignment("", 1))
	northM := testMirror(t, north, east)
	assign(t, northM, ordersAssignment("east", 1))
	eventually(t, "the flow of the failover group says why it does not begin", func() bool {
		flows := northM.Flows()
		return len(flows) == 1 && strings.Contains(flows[0].Problem, "topic orders of site north was carried with --provenance by spillway mirror run, and a failover group needs all records")
	})
}

// Where filters leave out all that comes, for long, a restart still finds that the source
// is the one that it was, and that it is not.
func TestARestartBehindMuchThatWasLeftOut(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	fill := func(first string) {
		t.Helper()
		client, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(100_000))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var records []*kgo.Record
		for i := range pastOffsetsMax + 2000 {
			r := &kgo.Record{Topic: "orders", Key: []byte("other"), Value: fmt.Append(nil, i), Timestamp: time.UnixMilli(1_700_000_000_000)}
			if i < 10 {
				r.Key, r.Value = []byte("mine"), fmt.Append(nil, first, i)
			}
			records = append(records, r)
		}
		if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	fill("first")
	c := RunConfig{From: east, To: west, Topics: selected(t, "orders"), UntilCaughtUp: true, Mirror: Config{Rewrite: rulesOf(t, false, "key=mine")}}
	for i := range 3 {
		report, err := Run(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if want := max(0, 10-10*i); report.Records != int64(want) || len(report.Gaps) != 0 {
			t.Errorf("run %d: %+v", i, report)
		}
	}
	if err := east.Admin().DeleteTopic(ctx, "orders"); err != nil {
		t.Fatal(err)
	}
	createEmbedded(t, east, "orders")
	fill("second")
	report, err := Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != 10 || len(report.Gaps) != 1 || report.Gaps[0].Kind != maptopic.GapSource {
		t.Errorf("the topic was created anew: %+v", report)
	}
}

// TestRunRepacks writes small batches as large ones, and each record stays where it was.
func TestRunRepacks(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	small(t, east.Addresses(), 300)
	c := RunConfig{From: east, To: west, Topics: selected(t, "orders"), UntilCaughtUp: true, Mirror: Config{RepackBytes: 1 << 20}}
	report, err := Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if report.Records != 300 || report.Batches > 3 || report.Rebuilt != report.Batches || report.LeftOut != 0 {
		t.Errorf("300 small batches: %+v", report)
	}
	small(t, east.Addresses(), 1)
	if report, err = Run(ctx, c); err != nil || report.Batches != 1 || report.Rebuilt != 0 {
		t.Errorf("one that comes alone passes as it is: %+v, %v", report, err)
	}
	found, err := audit.Audit(ctx, east, west, selection.Topics{}, audit.Scope{}, nil)
	if err != nil || !found.Equal || found.Records != 301 {
		t.Errorf("audit: %+v, %v", found, err)
	}
}

// TestKilledAtEveryStepWhileRewriting kills a flow with filters, provenance and repacked
// batches at each crash point, several times.
func TestKilledAtEveryStepWhileRewriting(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2}), embeddedSite(t, "west", nil)
	killWhileRewriting(t, newRewritten(t, east, west), newLoad(t, east.Addresses(), 93), east.Addresses(), west.Addresses(), 1)
}

func killWhileRewriting(t *testing.T, r *rewritten, l *load, eastAddresses, westAddresses []string, rounds int) {
	t.Helper()
	ctx := testContext(t)
	for _, point := range CrashPoints {
		for range rounds {
			if err := l.write(ctx, "orders", 2, 6); err != nil {
				t.Fatal(err)
			}
			runChild(t, eastAddresses, westAddresses, point, 1, childRewrites+"=1")
		}
	}
	positions := r.commit(ctx, 61)
	report, err := Run(ctx, r.run)
	if err != nil || len(report.Gaps) != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	r.compare(ctx)
	r.groupsAreExact(ctx, positions)
	if found, err := r.audit(ctx, r.run.Mirror.Rewrite); err != nil || !found.Equal {
		t.Errorf("audit: %+v, %v", found, err)
	}
}
