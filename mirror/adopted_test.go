package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/mirror/adopt"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// retainFrom deletes what a partition has below an offset, as retention does.
func retainFrom(t *testing.T, ctx context.Context, c *embedded.Cluster, topic string, partition int32, from int64) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addresses()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var deleted kadm.Offsets
	deleted.AddOffset(topic, partition, from, -1)
	answers, err := kadm.NewClient(cl).DeleteRecords(ctx, deleted)
	if err := errors.Join(err, answers.Error()); err != nil {
		t.Fatal(err)
	}
}

// copied has both partitions of a pair written and copied.
func copied(t *testing.T, ctx context.Context, l *load, cp *copier, n int) {
	t.Helper()
	if err := l.write(ctx, "orders", 2, n); err != nil {
		t.Fatal(err)
	}
	cp.copy(ctx, 0, 0)
	cp.copy(ctx, 1, 0)
}

// runsOn runs the flow and compares all that the source still has. No client is taken for
// a foreign writer, and no record that was taken over is copied again.
func runsOn(t *testing.T, ctx context.Context, config AdoptConfig, taken int64) {
	t.Helper()
	run, err := Run(ctx, RunConfig{From: config.From, To: config.To, Topics: config.Topics, UntilCaughtUp: true,
		Events: Events{ForeignWriter: func(i ForeignInfo) { t.Errorf("a foreign writer: %+v", i) }}})
	if err != nil {
		t.Fatal(err)
	}
	audited, err := audit.Audit(ctx, config.From, config.To, config.Topics, audit.Scope{}, nil)
	if err != nil || !audited.Equal {
		t.Errorf("audit: %+v, %v", audited, err)
	}
	if taken >= 0 && run.Records != audited.Records-taken {
		t.Errorf("the run mirrored %d records; %d were taken over, and %d are there", run.Records, taken, audited.Records)
	}
}

// retaining is a site whose retention begins after the start of a log was told.
type retaining struct {
	broker.Cluster
	once   *sync.Once
	delete func()
}

func (c *retaining) Admin() broker.Admin { return retainingAdmin{c.Cluster.Admin(), c} }

type retainingAdmin struct {
	broker.Admin
	c *retaining
}

func (a retainingAdmin) LogStarts(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	starts, err := a.Admin.LogStarts(ctx, tps)
	for _, tp := range tps {
		if strings.HasSuffix(tp.Topic, "orders") && tp.Partition == 1 {
			a.c.once.Do(a.c.delete)
		}
	}
	return starts, err
}

// TestAdoptWhileRetentionRuns has either site delete records while others are compared,
// and after it has told where its log starts.
func TestAdoptWhileRetentionRuns(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"source", "source, before it is read", "target, before it is read"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			east, west, l, cp, config := adoptedPair(t)
			copied(t, ctx, l, cp, 120)
			var once sync.Once
			older := adopt.Older
			switch at {
			case "source":
				config.Compared = func(tp spillway.TopicPartition, _ int64) {
					if tp.Partition == 0 {
						once.Do(func() { retainFrom(t, ctx, east, "orders", 1, 100) })
					}
				}
			case "source, before it is read":
				config.From = &retaining{east, &once, func() { retainFrom(t, ctx, east, "orders", 1, 100) }}
			default:
				config.To, older = &retaining{west, &once, func() { retainFrom(t, ctx, west, "east.orders", 1, 100) }}, adopt.Before
			}
			report, err := Adopt(ctx, config)
			if err != nil || !report.Written || rowsOf(report, older) == 0 || report.Unknown+report.Missing > 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			config.From, config.To = east, west
			if older == adopt.Older {
				runsOn(t, ctx, config, -1)
			}
		})
	}
}

// unread is a site that does not say where one partition starts.
type unread struct{ broker.Cluster }

func (c *unread) Admin() broker.Admin { return unreadAdmin{c.Cluster.Admin()} }

type unreadAdmin struct{ broker.Admin }

func (a unreadAdmin) LogStarts(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	for _, tp := range tps {
		if tp.Partition == 0 && tp.Topic == "east.orders" {
			return nil, errors.New("not now")
		}
	}
	return a.Admin.LogStarts(ctx, tps)
}

// A partition that cannot be compared is told, with what was found in the others.
func TestAdoptTellsWhatFails(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, west, l, cp, config := adoptedPair(t)
	copied(t, ctx, l, cp, 40)
	config.To = &unread{west}
	report, err := Adopt(ctx, config)
	if !errors.Is(err, ErrNotAdopted) || report.Written || len(report.Partitions) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	if failed, other := report.Partitions[0], report.Partitions[1]; failed.Problem != "not now" || failed.Records != 0 || other.Problem != "" || other.Records == 0 {
		t.Errorf("%+v", report.Partitions)
	}
}

// TestAdoptKilledBeforeTheFirstPair ends a take-over while the map has only heard of
// records that have no pair. The next one finds what the first one did.
func TestAdoptKilledBeforeTheFirstPair(t *testing.T) {
	t.Parallel()
	for _, begins := range []string{"the source has deleted its beginning", "the copy was begun late, behind others"} {
		t.Run(begins, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			east, _, l, cp, config := adoptedPair(t)
			kind := adopt.Older
			if begins == "the source has deleted its beginning" {
				copied(t, ctx, l, cp, 300)
				retainFrom(t, ctx, east, "orders", 0, 200)
				retainFrom(t, ctx, east, "orders", 1, 200)
			} else {
				kind, config.AcceptUnknown = adopt.Before, 60
				for range 60 {
					if err := cp.client.ProduceSync(ctx, &kgo.Record{Topic: "east.orders", Value: []byte("not the source's")}).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
				cp.next[0], cp.next[1] = 100, 100
				copied(t, ctx, l, cp, 300)
			}
			dry := config
			dry.DryRun = true
			would, err := Adopt(ctx, dry)
			if err != nil || rowsOf(would, kind) < 30 {
				t.Fatalf("%+v, %v", would, err)
			}
			killed, kill := context.WithCancel(ctx)
			dies := config
			dies.pieceOffsets = 20
			dies.Mirror.Crash = func(p string) {
				if p == "afterSaveRanges" {
					kill()
				}
			}
			if _, err := Adopt(killed, dies); err == nil {
				t.Fatal("it was not ended")
			}
			again, err := Adopt(ctx, config)
			if err != nil || again.Records != would.Records || rowsOf(again, kind) != rowsOf(would, kind) {
				t.Fatalf("%+v, %v; want %+v", again, err, would)
			}
			if kind == adopt.Older {
				runsOn(t, ctx, config, again.Records)
			}
		})
	}
}

// TestAdoptAfterRetentionBetween has the source delete records that came to the target after
// the first take-over, before the second.
func TestAdoptAfterRetentionBetween(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, _, l, cp, config := adoptedPair(t)
	copied(t, ctx, l, cp, 60)
	first, err := Adopt(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	known := first.Partitions[1].Next
	copied(t, ctx, l, cp, 60)
	retainFrom(t, ctx, east, "orders", 1, int64(known)+10)
	again, err := Adopt(ctx, config)
	if err != nil || again.Records == 0 || rowsOf(again, adopt.Older) == 0 || again.Unknown+again.Missing > 0 {
		t.Fatalf("%+v, %v", again, err)
	}
	runsOn(t, ctx, config, -1)
}

// TestAdoptOnlyDuplicates takes over what another mirror has copied once more between two
// take-overs, and nothing else.
func TestAdoptOnlyDuplicates(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, _, l, cp, config := adoptedPair(t)
	copied(t, ctx, l, cp, 120)
	first := config
	first.WhileRunning = true
	taken, err := Adopt(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	cp.next[0] -= 30
	cp.copy(ctx, 0, 0)
	again, err := Adopt(ctx, config)
	if err != nil || !again.Written || again.Records != 0 || rowsOf(again, adopt.Duplicate) == 0 {
		t.Fatalf("%+v, %v", again, err)
	}
	runsOn(t, ctx, config, taken.Records)
}

// TestAdoptOfNothingButOthers accepts records of which none is the source's: a flow begins
// there as it was told to.
func TestAdoptOfNothingButOthers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	if err := l.write(ctx, "orders", 2, 40); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := cp.client.ProduceSync(ctx, &kgo.Record{Topic: "east.orders", Value: []byte("not the source's")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	config.AcceptUnknown = 3
	report, err := Adopt(ctx, config)
	if err != nil || !report.Written || report.Records != 0 || report.Unknown != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, Start: Start{Latest: true}, UntilCaughtUp: true,
		Events: Events{ForeignWriter: func(i ForeignInfo) { t.Errorf("a foreign writer: %+v", i) }}}); err != nil {
		t.Fatal(err)
	}
	ours, err := read(ctx, west, spillway.TopicPartition{Topic: "east.orders"})
	if err != nil || len(ours) != 3 {
		t.Errorf("%d records at the target, %v; the flow was to start behind them all", len(ours), err)
	}
}

// TestARunThatBeginsWhileATakeOverWrites starts a run between two pieces of the map. The run
// may have no partition before the take-over has ended, and copies nothing again.
func TestARunThatBeginsWhileATakeOverWrites(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	copied(t, ctx, l, cp, 200)
	tps := []spillway.TopicPartition{{Topic: "east.orders", Partition: 0}, {Topic: "east.orders", Partition: 1}}
	on := newOnlooker(t, west, flowOf("east"), tps)
	config.Mirror.Worker = "adopts"
	config.pieceOffsets = 50
	var runs *inProcess
	config.Mirror.Crash = func(point string) {
		if point != "afterSaveRanges" || runs != nil {
			return
		}
		runs = startRun(t, RunConfig{From: east, To: west, Topics: config.Topics, Mirror: Config{Worker: "runs"}})
		eventually(t, "both have heard of each other", func() bool {
			came, here := on.table().Member("runs")
			adopts, _ := on.table().Member("adopts")
			return here && adopts.Seen >= came.Seen
		})
		table, theirs := on.table(), 0
		for _, tp := range tps {
			key := partitionKey("orders", tp)
			if table.Owner(key, on.covers) == "runs" {
				theirs++
			}
			if table.Free("runs", key, on.covers) {
				t.Errorf("the run may have %s while it is taken over", tp)
			}
		}
		if theirs == 0 {
			t.Error("no partition belongs to the run, and the test proves nothing")
		}
	}
	report, err := Adopt(ctx, config)
	if err != nil || !report.Written || runs == nil {
		t.Fatalf("%+v, %v", report, err)
	}
	on.settled(1)
	done := runs.stop()
	runsOn(t, ctx, config, report.Records+done.Records)
}

// TestAdoptAfterARunWrote refuses to write about a partition in which a run has written
// since it was compared.
func TestAdoptAfterARunWrote(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	copied(t, ctx, l, cp, 40)
	m, share, err := RunConfig{From: east, To: west, Topics: config.Topics}.open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	src, err := m.source(share.Source)
	if err != nil {
		t.Fatal(err)
	}
	config.Limits, config.pieceOffsets = adopt.DefaultLimits(), adoptOffsets
	a := &adoption{AdoptConfig: config, m: m, share: share, src: src}
	if err := m.lead(ctx, share); err != nil {
		t.Fatal(err)
	}
	var report AdoptReport
	tps, err := a.partitions(ctx, &report)
	if err := errors.Join(err, a.match(ctx, tps, &report)); err != nil {
		t.Fatal(err)
	}
	other := maptopic.NewWriter(ctx, west, 1)
	defer other.Close()
	session, err := m.nextSession(offsetmap.Session{}, false)
	if err != nil {
		t.Fatal(err)
	}
	session.Worker = "another"
	if err := other.EnsureTopic(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Save(ctx, maptopic.SessionEntry(tps[0], session)); err != nil {
		t.Fatal(err)
	}
	if err := a.write(ctx, tps); err == nil || !strings.Contains(err.Error(), "take it over again") {
		t.Error(fmt.Sprint(err))
	}
}
