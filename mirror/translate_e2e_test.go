//go:build e2e

package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

// What TestAMillionRecordsAreTranslatedOnKafka is made of. The topic orders has
// more than a million visible records at the end; ledger is small and goes on
// being compacted at both sites, each by its own cleaner.
const (
	ordersPartitions = 4
	compactedRecords = 90_000  // written to each partition of orders before the cleaner ran
	laterRecords     = 125_000 // beside a mirror, and the same without one
	ledgerRecords    = 20_000  // of ledger, all three times
	visibleMin       = 1_000_000
	groups           = 60
	consumedGroups   = 8
	randomOffsets    = 1000 // translated in each direction
	commandOffsets   = 2    // of them in each partition by the command line too
)

var (
	codecs       = []kgo.CompressionCodec{kgo.NoCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(), kgo.SnappyCompression()}
	translatedTo = []spillway.TopicPartition{
		{Topic: "orders", Partition: 0}, {Topic: "orders", Partition: 1}, {Topic: "orders", Partition: 2}, {Topic: "orders", Partition: 3},
		{Topic: "ledger", Partition: 0},
	}
)

// TestAMillionRecordsAreTranslatedOnKafka is promise D at full size, as a user
// meets it: spillway mirror run carries a topic with transactions and a part
// that the log cleaner went over, is killed in the middle, goes on, and copies
// consumer groups that committed anywhere. Where readers have to go on at the
// target is computed from payload counters alone (package check), by a reader
// that shares no code with mirror and maps.
func TestAMillionRecordsAreTranslatedOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 7*time.Minute)
	defer cancel()
	sites, servers := kafkaSites(t, cluster.DefaultVersion, cluster.DefaultVersion)
	w := &translation{t: t, random: rand.New(rand.NewPCG(11, 12)), east: sites[0], west: sites[1], servers: servers, program: buildSpillway(t, ctx)}
	w.fill(ctx)
	w.mirrorWhileWriting(ctx)
	w.source = w.read(ctx, "east", servers[0])
	w.commit(ctx)
	w.mirrorTheRest(ctx)
	w.cleanLedgerAtTarget(ctx)
	w.target = w.read(ctx, "west", servers[1])
	w.sameRecords()
	w.groupsAreExact(ctx)
	w.offsetsAreExact(ctx)
	w.groupsGoOn(ctx)
}

// translation is what the test knows.
type translation struct {
	t              *testing.T
	random         *rand.Rand
	east, west     broker.Cluster
	servers        []*cluster.Cluster
	program        string
	writers        []*holey
	source, target map[spillway.TopicPartition]*content
	committed      map[string]map[spillway.TopicPartition]int64

	reread, skipped int64 // over all that was judged
}

func buildSpillway(t *testing.T, ctx context.Context) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "spillway")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "spillway/cmd/spillway").CombinedOutput(); err != nil {
		t.Fatalf("build spillway: %v\n%s", err, out)
	}
	return program
}

func (w *translation) admin(server *cluster.Cluster) *kadm.Client {
	w.t.Helper()
	c, err := kgo.NewClient(server.Dial()...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return kadm.NewClient(c)
}

func (w *translation) alter(ctx context.Context, server *cluster.Cluster, topic string, settings map[string]string) {
	w.t.Helper()
	var changes []kadm.AlterConfig
	for name, value := range settings {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
	}
	answers, err := w.admin(server).AlterTopicConfigs(ctx, changes, topic)
	for _, a := range answers {
		err = errors.Join(err, a.Err)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// writeAll lets all writers write at once: so many records to each partition of
// orders.
func (w *translation) writeAll(ctx context.Context, records int) {
	w.t.Helper()
	faults := make([]error, len(w.writers))
	var writing sync.WaitGroup
	for i, h := range w.writers {
		n := map[string]int{"orders": records, "ledger": ledgerRecords}[h.topic]
		writing.Go(func() { faults[i] = h.write(ctx, n) })
	}
	writing.Wait()
	if err := errors.Join(faults...); err != nil {
		w.t.Fatal(err)
	}
}

// fill writes the part that the source's log cleaner is to make holes in, and
// waits until it has. Then orders is kept as it is, but for the start of one
// partition, which is deleted; ledger stays compacted, and its later records
// are out of the cleaner's reach for now.
func (w *translation) fill(ctx context.Context) {
	w.t.Helper()
	begin := time.Now()
	often := map[string]string{"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "1000", "delete.retention.ms": "100"}
	createTopic(w.t, w.east, "orders", ordersPartitions, often)
	createTopic(w.t, w.east, "ledger", 1, often)
	for i, tp := range translatedTo {
		w.writers = append(w.writers, newHoley(w.t, w.servers[0].Bootstrap(), tp, codecs[i%len(codecs)]))
	}
	w.writeAll(ctx, compactedRecords)
	written := time.Since(begin)
	eventually(w.t, "the cleaner has made holes in every partition", func() bool {
		time.Sleep(500 * time.Millisecond) // a scan reads the whole log
		for _, h := range w.writers {      // rolls the segments: the one that is written is not cleaned
			if err := h.write(ctx, 1); err != nil {
				w.t.Fatal(err)
			}
		}
		for _, tp := range translatedTo {
			if part, err := remaining(ctx, w.east, tp); err != nil || part > 0.6 {
				return false
			}
		}
		return true
	})
	week := fmt.Sprint((7 * 24 * time.Hour).Milliseconds())
	w.alter(ctx, w.servers[0], "orders", map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "segment.ms": week})
	w.alter(ctx, w.servers[0], "ledger", map[string]string{"min.compaction.lag.ms": week, "max.compaction.lag.ms": fmt.Sprint(int64(1) << 60)})
	var deleted kadm.Offsets
	deleted.AddOffset("orders", 0, 4321, -1)
	answers, err := w.admin(w.servers[0]).DeleteRecords(ctx, deleted)
	if err := errors.Join(err, answers.Error()); err != nil {
		w.t.Fatal(err)
	}
	fmt.Printf("measured: written %s, compacted %s\n", written.Round(time.Second), (time.Since(begin) - written).Round(time.Second))
}

func (w *translation) runArgs(more ...string) []string {
	return append([]string{"mirror", "run", "--from", strings.Join(w.servers[0].Bootstrap(), ","), "--to", strings.Join(w.servers[1].Bootstrap(), ","),
		"--topics", "orders|ledger", "--groups", "app-.*"}, more...)
}

// mirrorWhileWriting starts a mirror, writes beside it, ends the mirror with
// SIGKILL, and writes the rest.
func (w *translation) mirrorWhileWriting(ctx context.Context) {
	w.t.Helper()
	p, err := process.Start(process.Spec{Name: "mirror run", Path: w.program, Args: w.runArgs(), Log: filepath.Join(w.t.TempDir(), "mirror.log")})
	if err != nil {
		w.t.Fatal(err)
	}
	begin := time.Now()
	w.writeAll(ctx, laterRecords)
	if err := p.Kill(); err != nil {
		w.t.Fatal(err)
	}
	have := int64(0)
	for _, tp := range translatedTo {
		ends, err := w.west.Admin().LogEnds(ctx, []spillway.TopicPartition{tp})
		if err != nil {
			w.t.Fatalf("the mirror has made nothing at the target: %v\n%s", err, p.Tail(20))
		}
		have += int64(ends[tp])
	}
	beside := time.Since(begin)
	w.writeAll(ctx, laterRecords)
	fmt.Printf("measured: written %s beside a mirror, which had written %d records when it was killed, and %s after that\n",
		beside.Round(time.Second), have, (time.Since(begin) - beside).Round(time.Second))
}

// mirrorTheRest runs the mirror to the end.
func (w *translation) mirrorTheRest(ctx context.Context) {
	w.t.Helper()
	begin := time.Now()
	var report RunReport
	w.command(ctx, &report, w.runArgs("--until-caught-up", "-o", "json")...)
	fmt.Printf("measured: the rest mirrored in %s: %d records, %d batches of which %d were rebuilt, %d groups\n", time.Since(begin).Round(time.Second),
		report.Records, report.Batches, report.Rebuilt, report.Groups)
	if report.Records < laterRecords || report.Groups != groups || len(report.Gaps) > 0 {
		w.t.Errorf("the run's report: %+v", report)
	}
}

// command runs spillway to its end and decodes what it prints.
func (w *translation) command(ctx context.Context, into any, args ...string) {
	w.t.Helper()
	var out bytes.Buffer
	if err := process.Run(ctx, process.Spec{Name: "spillway", Path: w.program, Args: args, Log: filepath.Join(w.t.TempDir(), "command.log"), Stdout: &out}); err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		w.t.Fatalf("spillway %v: %v\n%s", args, err, out.String())
	}
}

// content is one partition as the checker's client reads it.
type content struct {
	*check.Log
	visible []check.Record
}

func (w *translation) read(ctx context.Context, name string, server *cluster.Cluster) map[spillway.TopicPartition]*content {
	w.t.Helper()
	site, err := sitelog.Read(ctx, sitelog.Site{Name: name, Bootstrap: server.Bootstrap()}, "orders", "ledger")
	if err != nil {
		w.t.Fatal(err)
	}
	logs := make(map[spillway.TopicPartition]*content)
	for p, log := range site.Logs {
		c := &content{Log: log}
		for _, r := range log.Records {
			if r.Damage != "" {
				w.t.Fatalf("%s of %s at %d: %s", p, name, r.Offset, r.Damage)
			}
			if r.State == check.Visible {
				c.visible = append(c.visible, r)
			}
		}
		logs[spillway.TopicPartition{Topic: p.Topic, Partition: p.Index}] = c
	}
	return logs
}

// commit lets every group commit in every partition: at the log's start, below
// it, at its end, at records, inside of holes, anywhere.
func (w *translation) commit(ctx context.Context) {
	w.t.Helper()
	kinds := make(map[string]int)
	w.committed = make(map[string]map[spillway.TopicPartition]int64)
	for g := range groups {
		group, offsets := fmt.Sprintf("app-%02d", g), kadm.Offsets{}
		w.committed[group] = make(map[spillway.TopicPartition]int64)
		for i, tp := range translatedTo {
			at, kind := w.position(w.source[tp], (g+i)%6)
			kinds[kind]++
			w.committed[group][tp] = at
			offsets.AddOffset(tp.Topic, tp.Partition, at, -1)
		}
		answers, err := w.admin(w.servers[0]).CommitOffsets(ctx, group, offsets)
		if err := errors.Join(err, answers.Error()); err != nil {
			w.t.Fatal(err)
		}
	}
	fmt.Printf("measured: %d groups have committed: %v\n", groups, kinds)
}

// position is an offset of a log of the wanted kind.
func (w *translation) position(log *content, kind int) (at int64, name string) {
	records := log.visible
	switch kind {
	case 0:
		return log.Start, "at the start"
	case 1:
		return log.End, "at the end"
	case 2:
		return records[w.random.IntN(len(records))].Offset, "at a record"
	case 3:
		return max(0, log.Start-1-w.random.Int64N(1000)), "at or below the start"
	case 4:
		return log.Start + w.random.Int64N(log.End-log.Start), "anywhere"
	default:
		for {
			i := w.random.IntN(len(records) - 1)
			if from, to := records[i].Offset+1, records[i+1].Offset; from < to {
				return from + w.random.Int64N(to-from), "in a hole"
			}
		}
	}
}

// cleanLedgerAtTarget lets the target's cleaner remove what the source's may
// not, so that the two sites have different holes.
func (w *translation) cleanLedgerAtTarget(ctx context.Context) {
	w.t.Helper()
	ledger := spillway.TopicPartition{Topic: "ledger"}
	before, err := remaining(ctx, w.west, ledger)
	if err != nil {
		w.t.Fatal(err)
	}
	w.alter(ctx, w.servers[1], "ledger", map[string]string{"min.compaction.lag.ms": "0", "max.compaction.lag.ms": "1000", "segment.ms": "1000"})
	after := before
	eventually(w.t, "the target's cleaner has made holes", func() bool {
		time.Sleep(200 * time.Millisecond)
		after, err = remaining(ctx, w.west, ledger)
		return err == nil && after < before-0.1
	})
	fmt.Printf("measured: ledger at the target: a record at %.0f%% of the offsets, %.0f%% before its cleaner ran\n", 100*after, 100*before)
}

// sameRecords compares orders record for record, and tells the size of it all.
func (w *translation) sameRecords() {
	w.t.Helper()
	total := 0
	for _, tp := range translatedTo {
		source, target := w.source[tp].visible, w.target[tp].visible
		holes := int64(0)
		for i := range source {
			if i > 0 && source[i-1].Offset+1 < source[i].Offset {
				holes++
			}
		}
		fmt.Printf("measured: %s: offsets %d to %d at the source with %d records behind %d holes; %d records at the target\n",
			tp, w.source[tp].Start, w.source[tp].End, len(source), holes, len(target))
		if tp.Topic != "orders" {
			continue
		}
		total += len(target)
		if len(source) != len(target) {
			w.t.Fatalf("%s: %d records at the source, %d at the target", tp, len(source), len(target))
		}
		for i := range source {
			if source[i].ID != target[i].ID || source[i].Digest != target[i].Digest {
				w.t.Fatalf("%s: record %d is %s at the source and %s at the target, or their bytes differ", tp, i, source[i].ID, target[i].ID)
			}
		}
		if holes < 1000 {
			w.t.Errorf("%s has only %d holes", tp, holes)
		}
	}
	if total < visibleMin {
		w.t.Errorf("%d records are visible, the test is about %d", total, visibleMin)
	}
}

// judged compares one translated position with the computed one.
func (w *translation) judged(what string, tp spillway.TopicPartition, tr *check.Translation, at, got int64) {
	w.t.Helper()
	lowest, highest := tr.Expected(at)
	reread, skipped := tr.Judge(at, got)
	w.reread += reread
	w.skipped += skipped
	// Between lowest and highest there are holes only. What both sites have
	// complete is translated to the next record itself.
	if reread > 0 || skipped > 0 || got < lowest || got > highest || tp.Topic == "orders" && got != highest {
		w.t.Errorf("%s, %s: offset %d is translated to %d: %d re-read, %d skipped; the counters say %d to %d", what, tp, at, got, reread, skipped, lowest, highest)
	}
}

// groupsAreExact compares what the groups have committed at the target.
func (w *translation) groupsAreExact(ctx context.Context) {
	w.t.Helper()
	admin := w.admin(w.servers[1])
	positions := 0
	for _, tp := range translatedTo {
		tr := check.NewTranslation(w.source[tp].Log, w.target[tp].Log)
		for _, group := range slices.Sorted(maps.Keys(w.committed)) {
			fetched, err := admin.FetchOffsets(ctx, group)
			if err != nil {
				w.t.Fatal(err)
			}
			got, ok := fetched.Lookup(tp.Topic, tp.Partition)
			if !ok || got.Err != nil {
				w.t.Fatalf("group %s has no offset of %s at the target: %v", group, tp, got.Err)
			}
			w.judged("group "+group, tp, tr, w.committed[group][tp], got.At)
			positions++
		}
	}
	fmt.Printf("measured: %d groups with %d positions carried: %d records re-read, %d skipped by the counters\n", len(w.committed), positions, w.reread, w.skipped)
}

// offsetsAreExact translates random offsets in both directions, some by the
// command line.
func (w *translation) offsetsAreExact(ctx context.Context) {
	w.t.Helper()
	translator, err := audit.OpenTranslator(ctx, w.east, w.west)
	if err != nil {
		w.t.Fatal(err)
	}
	defer translator.Close()
	for _, reverse := range []bool{false, true} {
		from, to, name := w.source, w.target, "forward"
		if reverse {
			from, to, name = w.target, w.source, "reverse"
		}
		inHoles := 0
		for _, tp := range translatedTo {
			tr := check.NewTranslation(from[tp].Log, to[tp].Log)
			for n := range randomOffsets / len(translatedTo) {
				at, kind := w.position(from[tp], 4)
				if n%2 == 0 && (!reverse || tp.Topic == "ledger") { // the mirror makes orders without holes
					at, kind = w.position(from[tp], 5)
				}
				if kind == "in a hole" {
					inHoles++
				}
				got, err := translator.Translate(tp, spillway.LocalOffset(at), reverse)
				if err != nil {
					w.t.Fatal(err)
				}
				w.judged(name, tp, tr, at, int64(got.Translated))
				if n >= commandOffsets {
					continue
				}
				var told audit.Translated
				args := []string{"offsets", "translate", "--from", strings.Join(w.servers[0].Bootstrap(), ","), "--to", strings.Join(w.servers[1].Bootstrap(), ","),
					"--topic", tp.Topic, "--partition", fmt.Sprint(tp.Partition), "--offset", fmt.Sprint(at), "-o", "json"}
				if reverse {
					args = append(args, "--reverse")
				}
				w.command(ctx, &told, args...)
				if told.Translated != got.Translated || told.Exact != got.Exact {
					w.t.Errorf("the command says %+v, the library %+v", told, got)
				}
			}
		}
		fmt.Printf("measured: %d random offsets translated %s, at least %d of them in holes: %d records re-read, %d skipped by the counters\n", randomOffsets, name, inHoles, w.reread, w.skipped)
	}
	r := maptopic.Tail(ctx, w.west, nil)
	defer r.Close()
	if err := r.CaughtUp(ctx); err != nil {
		w.t.Fatal(err)
	}
	ranges := 0
	for _, tp := range translatedTo {
		ranges += len(r.View(tp).Ranges())
	}
	sizes, err := w.admin(w.servers[1]).DescribeAllLogDirs(ctx, kadm.TopicsSet{spillway.MapTopic: {0: {}}})
	if err != nil {
		w.t.Fatal(err)
	}
	bytes := int64(0)
	sizes.Each(func(d kadm.DescribedLogDir) { bytes += d.Topics.Size() })
	fmt.Printf("measured: the map has %d ranges in %d bytes\n", ranges, bytes)
}

// groupsGoOn consumes at the target as some of the groups and looks at the
// first record of each partition.
func (w *translation) groupsGoOn(ctx context.Context) {
	w.t.Helper()
	records := 0
	for g := range consumedGroups {
		group := fmt.Sprintf("app-%02d", g*groups/consumedGroups+g%6)
		due := make(map[spillway.TopicPartition]history.ID)
		for tp, at := range w.committed[group] {
			// The checker's ids, from the source: at ledger, the target may lack
			// the record, so the first that it has from there on.
			there := make(map[history.ID]bool)
			for _, r := range w.target[tp].visible {
				there[r.ID] = true
			}
			for _, r := range w.source[tp].visible {
				if r.Offset >= at && there[r.ID] {
					due[tp] = r.ID
					break
				}
			}
		}
		want := len(due)
		c, err := kgo.NewClient(kgo.SeedBrokers(w.servers[1].Bootstrap()...), kgo.ConsumerGroup(group), kgo.ConsumeTopics("orders", "ledger"),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableAutoCommit(), kgo.FetchMaxPartitionBytes(64<<10), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
		if err != nil {
			w.t.Fatal(err)
		}
		deadline, cancel := context.WithTimeout(ctx, 30*time.Second)
		for len(due) > 0 && deadline.Err() == nil {
			fetches := c.PollFetches(deadline)
			for _, e := range fetches.Errors() {
				w.t.Fatalf("group %s reads %s-%d: %v", group, e.Topic, e.Partition, e.Err)
			}
			fetches.EachPartition(func(p kgo.FetchTopicPartition) {
				tp := spillway.TopicPartition{Topic: p.Topic, Partition: p.Partition}
				wanted, waits := due[tp]
				if !waits || len(p.Records) == 0 {
					return
				}
				payload, err := history.Decode(p.Records[0].Value)
				if err != nil || payload.ID != wanted {
					w.t.Errorf("group %s goes on in %s with %s (%v), the next record is %s", group, tp, payload.ID, err, wanted)
				}
				delete(due, tp)
				records++
			})
		}
		cancel()
		c.Close()
		if len(due) > 0 {
			w.t.Fatalf("group %s reads nothing in %d of %d partitions: %v", group, len(due), want, due)
		}
	}
	fmt.Printf("measured: %d groups consumed at the target: the first %d records are the next ones\n", consumedGroups, records)
}
