//go:build e2e

package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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
	"spillway/mirror/adopt"
	"spillway/mirror/audit"
	"spillway/mirror/maptopic"
	cluster "spillway/tests/cluster/kafka"
	"spillway/tests/cluster/process"
	"spillway/tests/orders/check"
	"spillway/tests/orders/sitelog"
)

// What TestMirrorMakerIsTakenOverOnKafka is made of.
const (
	takenPartitions = 3
	takenRecords    = 30_000 // written to each partition, in each of its three parts
	takenGroups     = 20
	takenOffsets    = 1000 // translated
)

// TestMirrorMakerIsTakenOverOnKafka has MirrorMaker 2 copy two sites to each other, both
// written with transactions, kills it in the middle, lets it go on, and ends it in the
// middle again. Then Spillway goes on, hands back, and takes over once more. Where readers
// have to go on is computed from payload counters alone.
func TestMirrorMakerIsTakenOverOnKafka(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	sites, servers := kafkaSites(t, cluster.DefaultVersion, cluster.DefaultVersion)
	w := &takeover{t: t, ctx: ctx, sites: sites, servers: servers, program: buildSpillway(t, ctx), random: rand.New(rand.NewPCG(7, 8))}
	for site := range sites {
		createTopic(t, sites[site], "orders", takenPartitions, nil)
		for p := range int32(takenPartitions) {
			w.writers[site] = append(w.writers[site], newHoley(t, servers[site].Bootstrap(), spillway.TopicPartition{Topic: "orders", Partition: p}, codecs[p]))
		}
	}
	w.copiedByMirrorMaker()
	w.takenOver()
	w.exact()
	w.handedBackAndTakenAgain()
	w.sameNames()
}

type takeover struct {
	t       *testing.T
	ctx     context.Context
	sites   [2]broker.Cluster
	servers []*cluster.Cluster
	program string
	random  *rand.Rand
	writers [2][]*holey

	committed map[string]map[int32]int64

	taken, twice, aborted [2]int64 // from each site
}

var siteNames = []string{"east", "west"}

func (w *takeover) write(records int) {
	w.t.Helper()
	var writing sync.WaitGroup
	faults := make(chan error, 2*takenPartitions)
	for site := range w.writers {
		for _, h := range w.writers[site] {
			writing.Go(func() { faults <- h.write(w.ctx, records) })
		}
	}
	writing.Wait()
	close(faults)
	for err := range faults {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// mirrorMaker starts MirrorMaker 2 as its documentation does, in both directions.
func (w *takeover) mirrorMaker(aliases [2]string, settings string) *process.Process {
	w.t.Helper()
	java, err := cluster.Tools(w.ctx, "mirrormaker-4.3.1")
	if err != nil {
		w.t.Fatal(err)
	}
	java.Options = append([]string{"-Xmx512m"}, java.Options...)
	a, b := aliases[0], aliases[1]
	text := fmt.Sprintf(`clusters = %[1]s, %[2]s
%[1]s.bootstrap.servers = %[3]s
%[2]s.bootstrap.servers = %[4]s
%[1]s->%[2]s.enabled = true
tasks.max = 2
replication.factor = 1
checkpoints.topic.replication.factor = 1
heartbeats.topic.replication.factor = 1
offset-syncs.topic.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
config.storage.replication.factor = 1
%[1]s.offset.flush.interval.ms = 3000
%[2]s.offset.flush.interval.ms = 3000
dedicated.mode.enable.internal.rest = false
sync.group.offsets.enabled = true
emit.checkpoints.interval.seconds = 1
sync.group.offsets.interval.seconds = 1
%[5]s
`, a, b, w.address(0), w.address(1), settings)
	file := filepath.Join(w.t.TempDir(), "mm2.properties")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	spec := java.Spec("mm2", filepath.Join(w.t.TempDir(), "mm2.log"), "org.apache.kafka.connect.mirror.MirrorMaker", file)
	p, err := process.Start(spec)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = p.Kill() // it may have ended
		if w.t.Failed() {
			w.t.Logf("end of MirrorMaker's log:\n%s", p.Tail(30))
		}
	})
	return p
}

func (w *takeover) address(site int) string { return strings.Join(w.servers[site].Bootstrap(), ",") }

const bothWays = "east->west.topics = orders\nwest->east.enabled = true\nwest->east.topics = orders"

// copies counts what lies in a topic.
func (w *takeover) copies(site int, topic string) (n int64) {
	w.t.Helper()
	md, err := w.sites[site].Metadata(w.ctx, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	var tps []spillway.TopicPartition
	for _, p := range md.Topics[topic].Partitions {
		tps = append(tps, spillway.TopicPartition{Topic: topic, Partition: p.Partition})
	}
	if len(tps) == 0 {
		return 0
	}
	ends, err := w.sites[site].Admin().HighWatermarks(w.ctx, tps)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, end := range ends {
		n += int64(end)
	}
	return n
}

// await waits for MirrorMaker.
func (w *takeover) await(p *process.Process, what string, ok func() bool) {
	w.t.Helper()
	if err := p.Await(2*time.Minute, func() error {
		if !ok() {
			return errors.New(what)
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// at rest tells whether nothing comes any more.
func (w *takeover) still(site int, topic string) bool {
	before := w.copies(site, topic)
	time.Sleep(3 * time.Second) // nothing tells that MirrorMaker has nothing to do
	return before > 0 && w.copies(site, topic) == before
}

// copiedByMirrorMaker leaves both sites with a part of the other's records, some twice.
func (w *takeover) copiedByMirrorMaker() {
	w.t.Helper()
	w.write(takenRecords)
	p := w.mirrorMaker([2]string{"east", "west"}, bothWays)
	w.await(p, "both directions are under way", func() bool {
		return w.copies(1, "east.orders") > takenRecords && w.copies(0, "west.orders") > takenRecords/2
	})
	if _, said, err := w.spillway(append(w.between(0), "mirror", "adopt", "--dry-run")...); err == nil || !strings.Contains(said, "MirrorMaker 2") && !strings.Contains(said, "came into") {
		w.t.Errorf("MirrorMaker runs, and would be taken over: %v, %s", err, said)
	}
	w.writeBeside(func() {
		if err := p.Kill(); err != nil {
			w.t.Fatal(err)
		}
	})
	killed := w.copies(1, "east.orders")
	p = w.mirrorMaker([2]string{"east", "west"}, bothWays)
	w.await(p, "it goes on", func() bool { return w.copies(1, "east.orders") > killed+3*takenRecords })
	w.writeBeside(func() {
		w.adopt("--while-running")
		if err := p.Stop(time.Minute); err != nil {
			w.t.Logf("MirrorMaker was stopped: %v", err)
		}
	})
	fmt.Printf("measured: MirrorMaker 2 was killed with %d copies at west and stopped with %d, of %d offsets at east\n", killed, w.copies(1, "east.orders"), w.copies(0, "orders"))
}

// writeBeside writes, and does something in the middle of it.
func (w *takeover) writeBeside(do func()) {
	w.t.Helper()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.write(takenRecords)
	}()
	time.Sleep(500 * time.Millisecond) // in the middle of the load
	do()
	<-written
}

// between are the flags of a direction, from a site to the other one.
func (w *takeover) between(from int) []string {
	return []string{"--from", w.address(from), "--to", w.address(1 - from), "--topics", "orders", "--rename", "(.*)=" + siteNames[from] + ".$1"}
}

// spillway runs a command line, with its words behind the flags.
func (w *takeover) spillway(words ...string) (out []byte, said string, err error) {
	i := slices.IndexFunc(words, func(s string) bool { return s == "mirror" || s == "audit" })
	line := append(slices.Clone(words[i:]), words[:i]...)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(w.ctx, w.program, append(line, "-o", "json")...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.Bytes(), stderr.String(), err
}

// done runs a command line that has to succeed, and decodes what it prints.
func (w *takeover) done(into any, words ...string) {
	w.t.Helper()
	out, said, err := w.spillway(words...)
	if err != nil {
		w.t.Fatalf("spillway %v: %v\n%s\n%s", words, err, said, out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		w.t.Fatalf("spillway %v: %v\n%s", words, err, out)
	}
}

// takenOver takes over both directions, lets groups commit, and mirrors the rest.
func (w *takeover) takenOver() {
	w.t.Helper()
	w.adopt()
	for site := range w.sites {
		if w.taken[site] < takenRecords || w.aborted[site] == 0 {
			w.t.Errorf("%d records were taken over from %s, and %d aborted ones seen", w.taken[site], siteNames[site], w.aborted[site])
		}
	}
	if w.twice[0] == 0 {
		w.t.Errorf("MirrorMaker was killed and copied nothing twice, so the test shows little")
	}
	w.commit()
	w.mirrorTheRest()
}

// adopt takes over both directions as far as they are.
func (w *takeover) adopt(flags ...string) {
	w.t.Helper()
	for site := range w.sites {
		began := time.Now()
		var report AdoptReport
		w.done(&report, append(append(w.between(site), "mirror", "adopt"), flags...)...)
		fmt.Printf("measured: %s was taken over in %s %s: %d records mapped, %d duplicates, %d aborted copies, %d unknown, %d missing\n", siteNames[site]+".orders",
			time.Since(began).Round(100*time.Millisecond), strings.Join(flags, " "), report.Records, rowsOf(report, adopt.Duplicate), rowsOf(report, adopt.Aborted), report.Unknown, report.Missing)
		// Nothing is new where MirrorMaker had copied everything when it was looked at before;
		// takenOver looks at the sum.
		if !report.Written || report.Unknown+report.Missing > 0 {
			w.t.Errorf("%+v", report)
		}
		w.taken[site] += report.Records
		w.twice[site] += rowsOf(report, adopt.Duplicate)
		w.aborted[site] += rowsOf(report, adopt.Aborted)
	}
}

func (w *takeover) mirrorTheRest() {
	w.t.Helper()
	for site := range w.sites {
		before := w.copies(1-site, siteNames[site]+".orders")
		var run RunReport
		w.done(&run, append(w.between(site), "mirror", "run", "--groups", "app-.*", "--until-caught-up")...)
		for _, g := range run.Gaps {
			if g.Kind != maptopic.GapDuplicate && g.Kind != maptopic.GapAborted && g.Kind != maptopic.GapExisting {
				w.t.Errorf("gap %+v", g)
			}
		}
		if n := w.copies(1-site, siteNames[site]+".orders") - before; n != run.Records {
			w.t.Errorf("%d records came to the target, the run says %d", n, run.Records)
		}
		var audited audit.Report
		w.done(&audited, append(w.between(site), "audit")...) // it fails on any difference
		fmt.Printf("measured: from %s: %d records mirrored after that, audit of %d records: %d differences\n", siteNames[site], run.Records, audited.Records, audited.Faults)
	}
}

// commit lets groups commit anywhere at east.
func (w *takeover) commit() {
	w.t.Helper()
	c, err := kgo.NewClient(w.servers[0].Dial()...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	w.committed = make(map[string]map[int32]int64)
	for g := range takenGroups {
		group, offsets := fmt.Sprintf("app-%02d", g), kadm.Offsets{}
		w.committed[group] = make(map[int32]int64)
		for p := range int32(takenPartitions) {
			tp := spillway.TopicPartition{Topic: "orders", Partition: p}
			ends, err := w.sites[0].Admin().HighWatermarks(w.ctx, []spillway.TopicPartition{tp})
			if err != nil {
				w.t.Fatal(err)
			}
			at := int64(ends[tp])
			if g > 0 {
				at = w.random.Int64N(at + 1)
			}
			w.committed[group][p] = at
			offsets.AddOffset("orders", p, at, -1)
		}
		answers, err := kadm.NewClient(c).CommitOffsets(w.ctx, group, offsets)
		if err := errors.Join(err, answers.Error()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// content reads a topic by the checker's own client.
func (w *takeover) content(site int, topic string) map[int32]*check.Log {
	w.t.Helper()
	read, err := sitelog.Read(w.ctx, sitelog.Site{Name: siteNames[site], Bootstrap: w.servers[site].Bootstrap()}, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	logs := make(map[int32]*check.Log)
	for p, log := range read.Logs {
		logs[p.Index] = log
	}
	return logs
}

// exact translates random offsets, and compares them, and what groups have committed, with
// what the counters say.
func (w *takeover) exact() {
	w.t.Helper()
	translator, err := audit.OpenTranslator(w.ctx, w.sites[0], w.sites[1])
	if err != nil {
		w.t.Fatal(err)
	}
	defer translator.Close()
	source, target := w.content(0, "orders"), w.content(1, "east.orders")
	inexact, reread, skipped, positions := 0, 0, 0, 0
	see := func(what string, j *judge, at, got int64) {
		exact, again, lost := j.look(at, got)
		positions++
		reread += again
		skipped += lost
		if !exact || lost > 0 {
			inexact++
			w.t.Errorf("%s: %d became %d: exact %v, %d re-read, %d skipped", what, at, got, exact, again, lost)
		}
	}
	judges := make(map[int32]*judge)
	for p := range int32(takenPartitions) {
		judges[p] = judgeOf(source[p], target[p])
		for range takenOffsets / takenPartitions {
			at := w.random.Int64N(source[p].End + 1)
			got, err := translator.Translate(spillway.TopicPartition{Topic: "east.orders", Partition: p}, spillway.LocalOffset(at), false)
			if err != nil {
				w.t.Fatal(err)
			}
			see(fmt.Sprintf("offset of partition %d", p), judges[p], at, int64(got.Translated))
		}
	}
	fmt.Printf("measured: %d random offsets translated: %d are not exact, %d records re-read and %d skipped in all\n", positions, inexact, reread, skipped)
	inexact, reread, skipped, positions = 0, 0, 0, 0
	for group, committed := range w.committed {
		got, err := w.sites[1].Admin().FetchGroupOffsets(w.ctx, group)
		if err != nil {
			w.t.Fatal(err)
		}
		for p, at := range committed {
			see("group "+group, judges[p], at, int64(got[spillway.TopicPartition{Topic: "east.orders", Partition: p}].Offset))
		}
	}
	fmt.Printf("measured: %d positions of groups carried: %d are not exact, %d records re-read and %d skipped in all\n", positions, inexact, reread, skipped)
}

// handedBackAndTakenAgain has MirrorMaker 2 go on where Spillway ended, and the other way
// round, and nothing is copied twice.
func (w *takeover) handedBackAndTakenAgain() {
	w.t.Helper()
	for site := range w.sites {
		var report HandBackReport
		w.done(&report, append(w.between(site), "mirror", "hand-back", "--alias", siteNames[site])...)
		if !report.Written || len(report.Offsets) != takenPartitions {
			w.t.Fatalf("%+v", report)
		}
	}
	east, west := w.copies(1, "east.orders"), w.copies(0, "west.orders")
	p := w.mirrorMaker([2]string{"east", "west"}, bothWays)
	w.write(2000)
	w.await(p, "it has copied what came, in both directions", func() bool {
		return w.copies(1, "east.orders") > east && w.copies(0, "west.orders") > west && w.still(1, "east.orders") && w.still(0, "west.orders")
	})
	if err := p.Stop(time.Minute); err != nil {
		w.t.Logf("MirrorMaker was stopped: %v", err)
	}
	for site := range w.sites {
		var report AdoptReport
		w.done(&report, append(w.between(site), "mirror", "adopt")...)
		fmt.Printf("measured: handed back and taken over once more, from %s: %d records mapped, %d duplicates, %d unknown, %d missing\n",
			siteNames[site], report.Records, rowsOf(report, adopt.Duplicate), report.Unknown, report.Missing)
		if report.Records == 0 || rowsOf(report, adopt.Duplicate)+report.Unknown+report.Missing > 0 {
			w.t.Errorf("%+v", report)
		}
	}
	w.write(1000)
	w.mirrorTheRest()
	w.commit()
	w.mirrorTheRest()
	w.exact()
}

// sameNames takes over a topic that MirrorMaker 2 copied under its own name, in which
// others wrote at the target.
func (w *takeover) sameNames() {
	w.t.Helper()
	createTopic(w.t, w.sites[0], "carts", 1, nil)
	h := newHoley(w.t, w.servers[0].Bootstrap(), spillway.TopicPartition{Topic: "carts"}, kgo.NoCompression())
	write := func() {
		if err := h.write(w.ctx, 3000); err != nil {
			w.t.Fatal(err)
		}
	}
	write()
	p := w.mirrorMaker([2]string{"e", "w"}, "e->w.topics = carts\nw->e.enabled = false\nreplication.policy.class = org.apache.kafka.connect.mirror.IdentityReplicationPolicy")
	w.await(p, "it copies", func() bool { return w.copies(1, "carts") > 0 && w.still(1, "carts") })
	c, err := kgo.NewClient(w.servers[1].Dial()...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	for i := range 10 {
		if err := c.ProduceSync(w.ctx, &kgo.Record{Topic: "carts", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
	write()
	w.await(p, "it goes on", func() bool { return w.still(1, "carts") })
	if err := p.Stop(time.Minute); err != nil {
		w.t.Logf("MirrorMaker was stopped: %v", err)
	}
	ends := []string{"--from", w.address(0), "--to", w.address(1), "--topics", "carts"}
	if _, said, err := w.spillway(append(ends, "mirror", "adopt")...); err == nil || !strings.Contains(said, "10 records at the target are not the source's") {
		w.t.Fatalf("somebody else wrote at the target: %v, %s", err, said)
	}
	var report AdoptReport
	w.done(&report, append(ends, "mirror", "adopt", "--alias", "e", "--accept-unknown", "10")...)
	write()
	var run RunReport
	w.done(&run, append(ends, "mirror", "run", "--until-caught-up")...)
	var audited audit.Report
	w.done(&audited, append(ends, "audit")...)
	fmt.Printf("measured: carts, same name: %d records mapped, %d unknown, %d mirrored after that, audit of %d records: %d differences, %d hidden\n",
		report.Records, report.Unknown, run.Records, audited.Records, audited.Faults, audited.Partitions[0].Hidden)
	if report.Unknown != 10 || run.Records == 0 || report.Records+run.Records != audited.Records {
		w.t.Errorf("%+v\n%+v", report, audited)
	}
}
