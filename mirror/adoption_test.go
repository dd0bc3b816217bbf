package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/broker/embedded"
	"spillway/mirror/adopt"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	"spillway/mirror/sitelog"
)

// copier copies as MirrorMaker 2 does by default: all records but markers, in order, in
// batches of its own, and again from an older position after a restart.
type copier struct {
	t          *testing.T
	east, west *embedded.Cluster
	from, to   string
	client     *kgo.Client
	random     *rand.Rand
	next       map[int32]spillway.LocalOffset
	copies     map[int32][]spillway.LocalOffset // source offsets, as they lie at the target
}

func newCopier(t *testing.T, east, west *embedded.Cluster, from, to string) *copier {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(west.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &copier{t: t, east: east, west: west, from: from, to: to, client: cl, random: rand.New(rand.NewPCG(3, 4)),
		next: make(map[int32]spillway.LocalOffset), copies: make(map[int32][]spillway.LocalOffset)}
}

// copy copies a partition to its end, and goes back so many times.
func (c *copier) copy(ctx context.Context, partition int32, restarts int) {
	c.t.Helper()
	tp := spillway.TopicPartition{Topic: c.from, Partition: partition}
	for ; restarts >= 0; restarts-- {
		ends, err := c.east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
		if err != nil {
			c.t.Fatal(err)
		}
		end := ends[tp]
		if restarts > 0 { // it is killed before
			end = c.next[partition] + spillway.LocalOffset(c.random.Int64N(int64(end-c.next[partition])+1))
		}
		var records []*kgo.Record
		err = sitelog.Scan(ctx, c.east, tp, c.next[partition], end, func(b sitelog.Batch) error {
			if b.Control() {
				return nil
			}
			rs, err := batch.Records(b.Bytes, 1<<20)
			for _, r := range rs {
				at := spillway.LocalOffset(b.BaseOffset) + spillway.LocalOffset(r.OffsetDelta)
				if at < c.next[partition] || at >= end {
					continue
				}
				k := &kgo.Record{Topic: c.to, Partition: partition, Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(b.BaseTimestamp + r.TimestampDelta)}
				for _, h := range r.Headers {
					k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
				}
				records = append(records, k)
				c.copies[partition] = append(c.copies[partition], at)
			}
			return err
		})
		if err := errors.Join(err, c.client.ProduceSync(ctx, records...).FirstErr()); err != nil {
			c.t.Fatal(err)
		}
		c.next[partition] = end
		if restarts > 0 {
			c.next[partition] = max(0, end-spillway.LocalOffset(c.random.IntN(100)))
		}
	}
}

func rowsOf(r AdoptReport, kind adopt.Kind) (n int64) {
	for _, p := range r.Partitions {
		n += p.Counts[kind]
	}
	return n
}

// adopted is a pair of sites of which the second was fed by a copier.
func adoptedPair(t *testing.T) (*embedded.Cluster, *embedded.Cluster, *load, *copier, AdoptConfig) {
	t.Helper()
	east := embeddedSite(t, "east", map[string]int32{"orders": 2})
	west := embeddedSite(t, "west", map[string]int32{"east.orders": 2})
	c := AdoptConfig{From: east, To: west, Topics: selected(t, ".*", "(.*)=east.$1"), Watch: time.Millisecond}
	return east, west, newLoad(t, east.Addresses(), 71), newCopier(t, east, west, "orders", "east.orders"), c
}

// TestAdoptGoesOnWhereAnotherMirrorEnded takes over a copy with repeated runs and aborted
// records: nothing is copied again, and every offset and group is where its record is.
func TestAdoptGoesOnWhereAnotherMirrorEnded(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	write := func(n int) {
		t.Helper()
		if err := l.write(ctx, "orders", 2, n); err != nil {
			t.Fatal(err)
		}
	}
	write(120)
	cp.copy(ctx, 0, 3)
	cp.copy(ctx, 1, 0)
	write(60)
	cp.copy(ctx, 0, 2)
	write(40) // partition 1 is far behind

	dry := config
	dry.DryRun = true
	would, err := Adopt(ctx, dry)
	if err != nil || would.Written || would.Records == 0 {
		t.Fatalf("dry run: %+v, %v", would, err)
	}
	if md, err := west.Metadata(ctx, spillway.MapTopic); err != nil || exists(md.Topics[spillway.MapTopic]) {
		t.Errorf("the dry run has made a map topic (%v)", err)
	}
	report, err := Adopt(ctx, config)
	if err != nil || !report.Written || report.Records != would.Records || report.Unknown+report.Missing != 0 {
		t.Fatalf("%+v, %v; the dry run said %d", report, err, would.Records)
	}
	if rowsOf(report, adopt.Duplicate) == 0 || rowsOf(report, adopt.Aborted) == 0 {
		t.Errorf("the copy has repeated and aborted records, and the report says %+v", report)
	}
	committed := commitEverywhere(t, east)
	run, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, Groups: regexp.MustCompile(".*"), UntilCaughtUp: true})
	if err != nil {
		t.Fatal(err)
	}
	audited, err := audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil)
	if err != nil || !audited.Equal {
		t.Fatalf("audit: %+v, %v", audited, err)
	}
	if run.Records != audited.Records-report.Records {
		t.Errorf("the run mirrored %d records; %d were taken over, and %d are there", run.Records, report.Records, audited.Records)
	}
	for _, g := range run.Gaps {
		if g.Kind != maptopic.GapDuplicate && g.Kind != maptopic.GapAborted {
			t.Errorf("gap %+v", g)
		}
	}
	everyOffsetIsExact(t, ctx, east, west, config, committed)

	again, err := Adopt(ctx, config)
	if err != nil || again.Records != 0 {
		t.Errorf("taken over once more: %+v, %v", again, err)
	}
}

// commitEverywhere has groups commit at offsets of all kinds.
func commitEverywhere(t *testing.T, east broker.Cluster) map[string]map[spillway.TopicPartition]spillway.LocalOffset {
	t.Helper()
	ctx := testContext(t)
	committed := make(map[string]map[spillway.TopicPartition]spillway.LocalOffset)
	for g := range 12 {
		group, offsets := fmt.Sprintf("app-%d", g), make(map[spillway.TopicPartition]broker.GroupOffset)
		committed[group] = make(map[spillway.TopicPartition]spillway.LocalOffset)
		for p := range int32(2) {
			tp := spillway.TopicPartition{Topic: "orders", Partition: p}
			ends, err := east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{tp})
			if err != nil {
				t.Fatal(err)
			}
			at := ends[tp] * spillway.LocalOffset(g) / 11
			committed[group][tp], offsets[tp] = at, broker.GroupOffset{Offset: at, LeaderEpoch: -1}
		}
		if err := east.Admin().CommitGroupOffsets(ctx, group, offsets); err != nil {
			t.Fatal(err)
		}
	}
	return committed
}

// everyOffsetIsExact compares what each offset and group became with the logs: all records
// from there on at the source are at the target from its translation on.
func everyOffsetIsExact(t *testing.T, ctx context.Context, east, west broker.Cluster, config AdoptConfig, committed map[string]map[spillway.TopicPartition]spillway.LocalOffset) {
	t.Helper()
	maps := maptopic.Tail(ctx, west, nil)
	defer maps.Close()
	if err := maps.CaughtUp(ctx); err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		there, here := spillway.TopicPartition{Topic: "orders", Partition: p}, spillway.TopicPartition{Topic: "east.orders", Partition: p}
		theirs, err := read(ctx, east, there)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := read(ctx, west, here)
		if err != nil {
			t.Fatal(err)
		}
		view := maps.View(here)
		for i, r := range theirs {
			local, _ := view.ToLocal(spillway.Offset(r.offset))
			n := slices.IndexFunc(ours, func(o logged) bool { return o.offset == int64(local) })
			if n < 0 || !ours[n].equal(r) {
				t.Fatalf("%s: offset %d is %d there, which is not the record", here, r.offset, local)
			}
			if back, visible := view.ToVirtual(local); !visible || back != spillway.Offset(r.offset) {
				t.Fatalf("%s: offset %d is %d there, and that is %d", here, r.offset, local, back)
			}
			if i == 0 {
				continue
			}
			if before, _ := view.ToLocal(spillway.Offset(theirs[i-1].offset)); before >= local {
				t.Fatalf("%s: offsets %d and %d became %d and %d", here, theirs[i-1].offset, r.offset, before, local)
			}
		}
		for group, at := range committed {
			got, err := west.Admin().FetchGroupOffsets(ctx, group)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := view.ToLocal(spillway.Offset(at[there]))
			if got[here].Offset != want {
				t.Errorf("group %s stood at %d of %s and stands at %d, want %d", group, at[there], there, got[here].Offset, want)
			}
		}
	}
}

// TestAdoptRefuses lists what a person has to decide, or to do before.
func TestAdoptRefuses(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	if err := l.write(ctx, "orders", 2, 60); err != nil {
		t.Fatal(err)
	}
	foreign := func(topic, key string) {
		t.Helper()
		if err := cp.client.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte("not the source's")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string) {
		t.Helper()
		r, err := Adopt(ctx, config)
		if err == nil || !strings.Contains(err.Error(), what) || r.Written {
			t.Fatalf("%+v, %v; want an error about %q", r, err, what)
		}
		t.Log(err)
		m := maptopic.Tail(ctx, west, nil)
		defer m.Close()
		if err := m.CaughtUp(ctx); err != nil && !errors.Is(err, broker.ErrUnknownTopic) {
			t.Fatal(err)
		}
		if len(m.Partitions()) > 0 || len(m.Gaps()) > 0 || len(m.Origins()) > 0 {
			t.Errorf("it was refused, and the map says %v %v %v", m.Partitions(), m.Gaps(), m.Origins())
		}
	}
	cp.copy(ctx, 0, 0)
	// The middle of partition 1 is left out.
	cp.next[1] = 0
	ends, err := east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{{Topic: "orders", Partition: 1}})
	if err != nil {
		t.Fatal(err)
	}
	cp.copy(ctx, 1, 1)
	cp.next[1] = ends[spillway.TopicPartition{Topic: "orders", Partition: 1}]
	if err := l.write(ctx, "orders", 2, 40); err != nil {
		t.Fatal(err)
	}
	left, err := east.Admin().HighWatermarks(ctx, []spillway.TopicPartition{{Topic: "orders", Partition: 1}})
	if err != nil {
		t.Fatal(err)
	}
	cp.next[1] += (left[spillway.TopicPartition{Topic: "orders", Partition: 1}] - cp.next[1]) / 2
	cp.copy(ctx, 1, 0)
	refused("records of the source are not at the target")
	config.AcceptMissing = 1 << 20
	foreign("east.orders", "k")
	refused("1 records at the target are not the source's")
	config.AcceptUnknown = 1

	// Somebody still writes.
	compared := false
	config.Compared = func(spillway.TopicPartition, int64) {
		if !compared {
			compared = true
			foreign("east.orders", "k")
		}
	}
	refused("came into east.orders-0")
	config.Compared = nil
	config.AcceptUnknown = 2

	// MirrorMaker 2 says that it runs.
	if err := west.Admin().CreateTopic(ctx, "heartbeats", 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	foreign("heartbeats", "\x00\x04east\x00\x04west")
	config.Alias = "east"
	compared = false
	config.Compared = func(spillway.TopicPartition, int64) {
		if !compared {
			compared = true
			foreign("heartbeats", "\x00\x04east\x00\x04west")
		}
	}
	refused("MirrorMaker 2 still runs")
	compared = false
	config.Alias = "north" // another one may

	report, err := Adopt(ctx, config)
	if err != nil || !report.Written || report.Unknown != 2 || report.Missing == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	run, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true})
	if err != nil {
		t.Fatal(err)
	}
	missing, foreigners := int64(0), int64(0)
	for _, g := range run.Gaps {
		switch g.Kind {
		case maptopic.GapMissing:
			missing += int64(g.To - g.From)
		case maptopic.GapExisting:
			foreigners += int64(g.LocalTo - g.LocalFrom)
		}
	}
	audited, err := audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil)
	if err != nil || audited.Faults != report.Missing || missing < report.Missing || foreigners != 2 {
		t.Errorf("%d differences, %v; %d are missing; the gap log: %+v", audited.Faults, err, report.Missing, run.Gaps)
	}
	for _, p := range audited.Partitions {
		for _, d := range p.Differences {
			if d.Kind != audit.Missing {
				t.Errorf("%+v", d)
			}
		}
	}
}

// TestAdoptKilled ends a take-over at each of its steps. The next one goes on, also where
// repeated runs lie across the place at which the first one ended.
func TestAdoptKilled(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"afterClaim", "afterSaveRanges"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			east, west, l, cp, config := adoptedPair(t)
			for range 3 {
				if err := l.write(ctx, "orders", 2, 60); err != nil {
					t.Fatal(err)
				}
				cp.copy(ctx, 0, 2)
				cp.copy(ctx, 1, 1)
			}
			killed, kill := context.WithCancel(ctx)
			dies := config
			dies.pieceOffsets = 50
			left := 5 // pieces
			dies.Mirror.Crash = func(p string) {
				if p == point {
					left--
				}
				if p == point && (left == 0 || point == "afterClaim") {
					kill()
				}
			}
			if _, err := Adopt(killed, dies); err == nil {
				t.Fatal("it was not ended")
			}
			again, err := Adopt(ctx, config)
			if err != nil || !again.Written || again.Unknown+again.Missing != 0 {
				t.Fatalf("%+v, %v", again, err)
			}
			if err := l.write(ctx, "orders", 2, 20); err != nil {
				t.Fatal(err)
			}
			if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true}); err != nil {
				t.Fatal(err)
			}
			audited, err := audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil)
			if err != nil || !audited.Equal {
				t.Errorf("audit: %+v, %v", audited, err)
			}
			everyOffsetIsExact(t, ctx, east, west, config, nil)
		})
	}
}

// TestAdoptOfTransactions takes over what was copied exactly once: committed records only,
// in transactions at the target, of which some were aborted and written again.
func TestAdoptOfTransactions(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(west.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("copier"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := l.write(ctx, "orders", 2, 120); err != nil {
		t.Fatal(err)
	}
	aborted := 0
	for p := range int32(2) {
		records, err := read(ctx, east, spillway.TopicPartition{Topic: "orders", Partition: p})
		if err != nil {
			t.Fatal(err)
		}
		for records = records[:len(records)/2]; len(records) > 0; {
			n := min(len(records), 1+cp.random.IntN(30))
			if err := client.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			for _, r := range records[:n] {
				k := &kgo.Record{Topic: "east.orders", Partition: p, Key: r.key, Value: r.value, Timestamp: time.UnixMilli(r.timestamp)}
				for _, h := range r.headers {
					k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
				}
				client.Produce(ctx, k, nil)
			}
			commit := cp.random.IntN(3) > 0
			if err := errors.Join(client.Flush(ctx), client.EndTransaction(ctx, kgo.TransactionEndTry(commit))); err != nil {
				t.Fatal(err)
			}
			if commit {
				records = records[n:]
			} else {
				aborted++
			}
		}
	}
	report, err := Adopt(ctx, config)
	if err != nil || aborted == 0 || report.Records == 0 || report.Unknown+report.Missing+rowsOf(report, adopt.Aborted)+rowsOf(report, adopt.Duplicate) > 0 {
		t.Fatalf("%+v, %v; %d transactions were aborted", report, err, aborted)
	}
	run, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true})
	if err != nil || len(run.Gaps) > 0 {
		t.Fatalf("%+v, %v", run, err)
	}
	audited, err := audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil)
	if err != nil || !audited.Equal || audited.Records != report.Records+run.Records {
		t.Errorf("audit: %+v, %v", audited, err)
	}
	everyOffsetIsExact(t, ctx, east, west, config, nil)

	// A transaction that is open at the target has to end before.
	if err := errors.Join(client.BeginTransaction(), client.ProduceSync(ctx, &kgo.Record{Topic: "east.orders", Value: []byte("open")}).FirstErr()); err != nil {
		t.Fatal(err)
	}
	config.Mirror.TransactionWait = time.Millisecond
	if again, err := Adopt(ctx, config); err == nil || !strings.Contains(err.Error(), "a transaction is open at the target") {
		t.Errorf("%+v, %v", again, err)
	}
	if err := client.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

// TestAdoptWhileRunning takes over what is there while the other mirror goes on, and is
// restarted, and the rest when it has ended.
func TestAdoptWhileRunning(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	config.WhileRunning = true
	last := int64(0)
	for range 3 {
		if err := l.write(ctx, "orders", 2, 60); err != nil {
			t.Fatal(err)
		}
		cp.copy(ctx, 0, 1)
		cp.copy(ctx, 1, 0)
		once := true
		config.Compared = func(spillway.TopicPartition, int64) {
			if once {
				once = false
				cp.next[0] = max(0, cp.next[0]-50)
				cp.copy(ctx, 0, 1)
			}
		}
		report, err := Adopt(ctx, config)
		if err != nil || !report.Written || report.Records == 0 || report.Unknown+report.Missing > 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		last = report.Records
	}
	config.WhileRunning, config.Compared = false, nil
	rest, err := Adopt(ctx, config)
	if err != nil || rest.Records >= last || rest.Unknown+rest.Missing > 0 {
		t.Fatalf("%+v, %v", rest, err)
	}
	if err := l.write(ctx, "orders", 2, 20); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	audited, err := audit.Audit(ctx, east, west, config.Topics, audit.Scope{}, nil)
	if err != nil || !audited.Equal {
		t.Errorf("audit: %+v, %v", audited, err)
	}
	everyOffsetIsExact(t, ctx, east, west, config, nil)
}

// TestAdoptTakesSettings has settings that were kept in step go on to be, and leaves alone
// what differs.
func TestAdoptTakesSettings(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west, l, cp, config := adoptedPair(t)
	set(t, east, "orders", map[string]string{"retention.ms": "1000000000", "segment.bytes": "100000000"})
	set(t, west, "east.orders", map[string]string{"retention.ms": "1000000000", "segment.bytes": "200000000"})
	if err := l.write(ctx, "orders", 2, 20); err != nil {
		t.Fatal(err)
	}
	cp.copy(ctx, 0, 0)
	if _, err := Adopt(ctx, config); err != nil {
		t.Fatal(err)
	}
	set(t, east, "orders", map[string]string{"retention.ms": "1100000000", "segment.bytes": "300000000"})
	if _, err := Run(ctx, RunConfig{From: east, To: west, Topics: config.Topics, UntilCaughtUp: true}); err != nil {
		t.Fatal(err)
	}
	awaitSettings(t, west, "east.orders", map[string]string{"retention.ms": "1100000000", "segment.bytes": "200000000"})
}
