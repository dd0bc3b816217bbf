package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/app"
	"spillway/broker"
	"spillway/broker/batch"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
	"spillway/mirror"
	"spillway/mirror/replay"
	"spillway/mirror/sitelog"
)

var replayedPartition = spillway.TopicPartition{Topic: "orders"}

// lostWorld is a virtual cluster that lost the end of what east had, with gateways and
// embedded sites, and the command as it runs against it.
type lostWorld struct {
	*gatewaytest.World
	t       *testing.T
	ctx     context.Context
	virtual broker.Cluster
	began   int64                   // time of the first record, in milliseconds
	tp      spillway.TopicPartition // that is written to and read

	claimTTL time.Duration
}

// newLostWorld has the topic orders, and those named.
func newLostWorld(t *testing.T, topics ...string) *lostWorld {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &lostWorld{t: t, ctx: ctx, began: time.Now().Add(-time.Hour).UnixMilli(), tp: replayedPartition}
	all := map[string]int32{"orders": 1}
	for _, topic := range topics {
		all[topic] = 1
	}
	w.World = gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west", "north"}, Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}, Topics: all,
	})
	var err error
	w.virtual, err = app.OpenGateways(w.Addrs, configs.TLS{}, configs.SASL{})
	w.must(err)
	t.Cleanup(func() { _ = w.virtual.Close() })
	return w
}

func (w *lostWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// fail moves the group as a failover does, without the last records of each partition.
func (w *lostWorld) fail(to spillway.SiteID, lost int64) {
	w.t.Helper()
	w.Fence(to, failover.Failover)
	w.Open(lost, 50)
}

// client is a producer, of idempotence or not, that sends what it is told to.
type client struct {
	id    int64
	epoch int16
}

var (
	nobody = client{-1, -1}
	first  = client{spillway.ClientProducerID(11), 0}
)

// send writes the n-th record through the gateways, as the sequence-th of a producer.
func (w *lostWorld) send(c client, sequence int32, key string, n int) {
	w.t.Helper()
	w.must(w.sendTo(w.virtual, c, sequence, key, n))
}

func (w *lostWorld) sendTo(cluster broker.Cluster, c client, sequence int32, key string, n int) error {
	h := batch.Header{BaseTimestamp: w.began + int64(n), LeaderEpoch: -1, ProducerID: c.id, ProducerEpoch: c.epoch, BaseSequence: sequence}
	b, err := batch.Rebuild(h, []batch.Record{{Key: []byte(key), Value: []byte(gatewaytest.Value(n)), Headers: []batch.RecordHeader{{Key: "n", Value: fmt.Append(nil, n)}}}}, batch.None)
	if err != nil {
		return err
	}
	for {
		err := func() error {
			node, err := cluster.Leader(w.ctx, w.tp)
			if err != nil {
				return err
			}
			conn, err := cluster.Dial(w.ctx, node)
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = sitelog.ProduceOne(w.ctx, conn, sitelog.ProducePart{TopicPartition: w.tp, Batch: b}, 10*time.Second)
			return err
		}()
		var k *kerr.Error
		if err == nil || w.ctx.Err() != nil || errors.As(err, &k) && !k.Retriable {
			return err
		}
		_ = cluster.Refresh(w.ctx)
	}
}

// shown is one record of the virtual cluster.
type shown struct {
	offset    int64
	key       string
	value     string
	header    string
	timestamp int64
}

// log reads all that clients see, up to an end that is not one of a gateway with nothing to say.
func (w *lostWorld) log() (all []shown) {
	w.t.Helper()
	ends, err := w.virtual.Admin().HighWatermarks(w.ctx, []spillway.TopicPartition{w.tp})
	w.must(err)
	r := sitelog.PartitionReader{Cluster: w.virtual, Of: w.tp}
	defer r.Close()
	for at := spillway.LocalOffset(gatewaytest.OffsetBase); ; {
		f, err := r.Fetch(w.ctx, at, 1<<20, sitelog.FetchOptions{MaxWait: 10 * time.Millisecond, BytesMax: 1 << 20})
		w.must(err)
		b := batch.Over(f.Records)
		for b.Next() {
			at = spillway.LocalOffset(b.Header.NextOffset())
			records, err := batch.Records(b.Bytes, 1<<20)
			w.must(err)
			for _, rec := range records {
				one := shown{offset: b.Header.BaseOffset + int64(rec.OffsetDelta), key: string(rec.Key), value: string(rec.Value), timestamp: b.Header.BaseTimestamp + rec.TimestampDelta}
				if len(rec.Headers) > 0 {
					one.header = string(rec.Headers[0].Value)
				}
				if !b.Header.Control() {
					all = append(all, one)
				}
			}
		}
		if at >= ends[w.tp] {
			return all
		}
	}
}

// remove takes records at a site as retention does.
func (w *lostWorld) remove(site spillway.SiteID, upTo int64) {
	w.t.Helper()
	admin, err := kgo.NewClient(w.Dial[site]...)
	w.must(err)
	defer admin.Close()
	offsets := make(kadm.Offsets)
	offsets.AddOffset(w.tp.Topic, w.tp.Partition, upTo, -1)
	answers, err := kadm.NewClient(admin).DeleteRecords(w.ctx, offsets)
	w.must(errors.Join(err, answers.Error()))
}

// values are those of the records, in the order of their offsets.
func (w *lostWorld) values() (values []string) {
	for _, s := range w.log() {
		values = append(values, s.value)
	}
	return values
}

// want compares them with numbers of records.
func (w *lostWorld) want(ns ...int) {
	w.t.Helper()
	var want []string
	for _, n := range ns {
		want = append(want, gatewaytest.Value(n))
	}
	if got := w.values(); !slices.Equal(got, want) {
		w.t.Errorf("the virtual cluster has\n%v, want\n%v", got, want)
	}
}

// at opens a site as the command does.
func (w *lostWorld) at(site spillway.SiteID) *mirror.Mirror {
	w.t.Helper()
	m, err := mirror.New(w.ctx, mirror.Config{Worker: "command", Local: w.Direct[site]})
	w.must(err)
	w.t.Cleanup(m.Close)
	w.must(m.Know(mirror.Assignment{Share: gatewaytest.ShareID, Topics: []string{"*"}, Match: func(string) bool { return true }, Owns: func(spillway.TopicPartition) bool { return true }}))
	return m
}

func (w *lostWorld) replay(site spillway.SiteID, adjust func(*replay.Config)) (replayed, error) {
	w.t.Helper()
	r := replayer{
		operator: control.NewOperator(w.Topology, w.Store, nil), mirror: w.at(site), virtual: w.virtual, topology: w.Topology, share: gatewaytest.ShareID, site: site,
		who: "anna", why: "orders of the cut", out: w.t.Output(), claimTTL: w.claimTTL,
	}
	if adjust == nil {
		adjust = func(*replay.Config) {}
	}
	var asked replay.Config
	adjust(&asked)
	r.dryRun = asked.DryRun
	r.adjust = func(c *replay.Config) {
		c.BatchRecordsMax = 2
		adjust(c)
	}
	return r.run(w.ctx)
}

// unclaimed is a run that does not ask whether it is the only one.
func (w *lostWorld) unclaimed(source replay.Source, ranges []mirror.UnreplicatedRange, adjust func(*replay.Config)) ([]replay.Range, error) {
	w.t.Helper()
	r := replayer{operator: control.NewOperator(w.Topology, w.Store, nil), share: gatewaytest.ShareID}
	c := replay.Config{
		Cluster: w.Topology.Name(), Source: source, Ranges: ranges, Virtual: w.virtual, Terms: r.terms, Who: "berta", Why: "a test", BatchRecordsMax: 2,
	}
	if adjust != nil {
		adjust(&c)
	}
	return replay.Run(w.ctx, c)
}

func dryRun(c *replay.Config) { c.DryRun = true }

// counts are those of the only range.
func (w *lostWorld) counts(d replayed, want replay.Range) {
	w.t.Helper()
	if len(d.Ranges) != 1 {
		w.t.Fatalf("ranges: %+v", d.Ranges)
	}
	got := d.Ranges[0]
	got.UnreplicatedRange, got.First, got.Last = want.UnreplicatedRange, time.Time{}, time.Time{}
	if got != want {
		w.t.Errorf("counted %+v, want %+v", got, want)
	}
}

// What only the lost site had is written behind what came since, and what its clients
// wrote again by themselves is not.
func TestReplay(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 14 {
		w.send(first, int32(n), "key", n)
	}
	w.fail("west", 10)
	w.send(nobody, -1, "key", 20)
	for n := 4; n < 7; n++ {
		w.send(first, int32(n), "key", n) // without an answer from east
	}
	w.send(nobody, -1, "key", 8) // its application wrote it again

	before := w.values()
	d, err := w.replay("east", dryRun)
	w.must(err)
	w.counts(d, replay.Range{Records: 10, Numbered: 3, There: 1, Write: 6})
	r := d.Ranges[0]
	if d.Served != "west" || r.First.UnixMilli() != w.began+7 || r.Last.UnixMilli() != w.began+13 || !r.Open() {
		t.Errorf("the dry run told %+v", d)
	}
	if now := w.values(); !slices.Equal(now, before) {
		t.Fatalf("a dry run wrote %v", now)
	}

	d, err = w.replay("east", nil)
	w.must(err)
	w.counts(d, replay.Range{Records: 10, Numbered: 3, There: 7, Written: 6, Done: true})
	w.want(0, 1, 2, 3, 20, 4, 5, 6, 8, 7, 9, 10, 11, 12, 13)
	for _, s := range w.log() {
		if n := s.timestamp - w.began; s.key != "key" || s.header != fmt.Sprint(n) || s.value != gatewaytest.Value(int(n)) {
			t.Errorf("%+v is no copy", s)
		}
	}
	if d, err = w.replay("east", nil); err != nil || len(d.Ranges) != 0 {
		t.Errorf("the second run found %+v, %v", d.Ranges, err)
	}
	ranges, err := w.at("east").Unreplicated(w.ctx, gatewaytest.ShareID)
	if err != nil || len(ranges) != 1 || ranges[0].Outcome() != "replayed" {
		t.Fatalf("listed as %+v, %v", ranges, err)
	}
	// Even where nothing was noted, the log tells.
	ranges[0].Replayed = false
	d, err = w.replay("east", func(c *replay.Config) { c.Ranges = ranges })
	w.must(err)
	w.counts(d, replay.Range{Records: 10, Numbered: 3, There: 7, Done: true})
	w.want(0, 1, 2, 3, 20, 4, 5, 6, 8, 7, 9, 10, 11, 12, 13)

	log, err := control.NewOperator(w.Topology, w.Store, nil).Audit(w.ctx)
	w.must(err)
	var said []string
	for _, e := range log {
		if e.Who != "anna" || e.Why != "orders of the cut" {
			t.Errorf("audit: %+v", e)
		}
		said = append(said, e.What)
	}
	if text := strings.Join(said, "\n"); len(said) != 6 || !strings.Contains(text, "everything from site east began") || !strings.Contains(text, "everything from site east: 6 written, 10 were there, 0 superseded, 1 range closed") {
		t.Errorf("the audit log says\n%s", text)
	}
}

// A producer that wrote the same words twice within a millisecond wrote two records.
func TestReplayTellsRecordsOfTheSameContentApart(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	w.send(first, 0, "key", 0)
	w.send(first, 1, "key", 1)
	w.send(first, 2, "key", 1)
	w.send(nobody, -1, "key", 2)
	w.send(nobody, -1, "key", 2)
	w.fail("west", 4)
	w.send(first, 1, "key", 1)
	w.send(first, 2, "key", 1)
	w.send(first, 3, "key", 1) // another one
	w.send(nobody, -1, "key", 2)
	d, err := w.replay("east", nil)
	w.must(err)
	w.counts(d, replay.Range{Records: 4, Numbered: 2, There: 2, Written: 1, Done: true})
	w.want(0, 1, 1, 1, 2, 2)
}

var errKilled = errors.New("killed")

// buried gives up the claim of a run that was killed: nobody waits for it in a test.
func (w *lostWorld) buried() {
	w.t.Helper()
	e, err := w.Store.Get(w.ctx, w.Keys.Replay(gatewaytest.ShareID))
	if err == nil {
		err = w.Store.Delete(w.ctx, e.Key, e.Version)
	}
	if !errors.Is(err, coordination.ErrNotFound) {
		w.must(err)
	}
}

// A run that ends anywhere is taken up by the next one, and nothing is written twice.
func TestReplayGoesOnAfterItWasKilled(t *testing.T) {
	t.Parallel()
	for _, step := range []replay.Step{replay.StepCompared, replay.StepSent, replay.StepWritten, replay.StepChecked} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			w := newLostWorld(t)
			for n := range 9 {
				w.send(nobody, -1, "key", n)
			}
			w.fail("west", 7)
			kill := func(c *replay.Config) {
				c.At = func(s replay.Step) error {
					if s == step {
						return errKilled
					}
					return nil
				}
			}
			for range 3 {
				if _, err := w.replay("east", kill); !errors.Is(err, errKilled) {
					t.Fatalf("a run that is killed when it has %s: %v", step, err)
				}
				// Nobody may begin while a batch is on its way.
				_, err := w.Store.Get(w.ctx, w.Keys.Replay(gatewaytest.ShareID))
				if claimed := err == nil; claimed != (step == replay.StepSent) {
					t.Errorf("ended when it has %s, and the claim is held: %t (%v)", step, claimed, err)
				}
				w.buried()
			}
			d, err := w.replay("east", nil)
			w.must(err)
			if len(d.Ranges) != 1 || !d.Ranges[0].Done {
				t.Errorf("the last run: %+v", d.Ranges)
			}
			w.want(0, 1, 2, 3, 4, 5, 6, 7, 8)
		})
	}
}

// Two runs at once write nothing twice, though neither knows of the other: what the slower
// one compared is not true any more.
func TestReplayTwiceAtOnce(t *testing.T) {
	t.Parallel()
	type other struct {
		site    spillway.SiteID // that says to have the records
		records int             // of a batch: the same ones or not
		move    bool
	}
	for name, o := range map[string]other{
		"the same batches":   {"east", 2, false},
		"other batches":      {"east", 3, false},
		"of another site":    {"north", 2, false},
		"over a move":        {"east", 2, true},
		"both of these, too": {"north", 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLostWorld(t)
			for n := range 9 {
				w.send(nobody, -1, "key", n)
			}
			w.fail("west", 9) // the dumb mirror would not carry them on to north
			source := w.at("east")
			ranges, err := source.Unreplicated(w.ctx, gatewaytest.ShareID)
			w.must(err)
			ran := false
			done, err := w.unclaimed(source, ranges, func(c *replay.Config) {
				c.At = func(s replay.Step) error {
					if s != replay.StepCompared || ran {
						return nil
					}
					ran = true
					if o.move {
						w.fail("north", 0)
					}
					same := slices.Clone(ranges)
					same[0].Site = o.site
					_, err := w.unclaimed(unmarked{w.at("east")}, same, func(c *replay.Config) { c.BatchRecordsMax = o.records })
					return err
				}
			})
			w.must(err)
			if !ran || len(done) != 1 || !done[0].Done {
				t.Errorf("ended with %+v", done)
			}
			w.want(0, 1, 2, 3, 4, 5, 6, 7, 8)
		})
	}
}

// unmarked is a source that forgets what became of its ranges.
type unmarked struct{ *mirror.Mirror }

func (unmarked) ReplayedUnreplicated(context.Context, mirror.UnreplicatedRange, string) error {
	return nil
}

// One command of a group writes at a time, whichever sites they are of. That of one that
// died goes to the next, and one that has lost it does not go on.
func TestReplayHasAClaim(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 5 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 3)
	w.claimTTL = 2 * time.Second
	if control.ClaimTTL <= replay.AnswerMax {
		t.Errorf("the claim of a run that died lasts %s, and a gateway may hold a batch of it for %s", control.ClaimTTL, replay.AnswerMax)
	}
	ran := 0
	lose := func(holds func() error) {
		e, err := w.Store.Get(w.ctx, w.Keys.Replay(gatewaytest.ShareID))
		w.must(err)
		for err = coordination.ErrConflict; errors.Is(err, coordination.ErrConflict); {
			if e, err = w.Store.Get(w.ctx, e.Key); err == nil {
				_, err = w.Store.Put(w.ctx, e.Key, []byte(`{"owner":"other","who":"berta"}`), e.Version)
			}
		}
		w.must(err)
		gatewaytest.Eventually(t, "the claim is lost", func() bool { return holds() != nil })
	}
	_, err := w.replay("east", func(c *replay.Config) {
		c.At = func(s replay.Step) error {
			if s != replay.StepCompared {
				return nil
			}
			for _, site := range []spillway.SiteID{"east", "west"} {
				if _, err := w.replay(site, nil); err == nil || !strings.Contains(err.Error(), "another replay or drill of the group is at work") {
					t.Errorf("beside another one, of site %s: %v", site, err)
				}
				ran++
			}
			lose(c.Holds)
			return nil
		}
	})
	if err == nil || !strings.Contains(err.Error(), "the claim on the replay is lost") || ran != 2 {
		t.Errorf("without the claim: %v (%d others)", err, ran)
	}
	w.want(0, 1)
	began := time.Now()
	if _, err = w.replay("east", nil); err != nil || time.Since(began) < w.claimTTL {
		t.Errorf("after %s, beside one that died: %v", time.Since(began), err)
	}
	w.want(0, 1, 2, 3, 4)
	if _, err := w.Store.Get(w.ctx, w.Keys.Replay(gatewaytest.ShareID)); !errors.Is(err, coordination.ErrNotFound) {
		t.Errorf("it is over, and has the claim: %v", err)
	}
}

// A batch that may be in the log is looked for, and not sent again: brokers that have
// forgotten its producer would take it twice.
func TestReplayAfterAnUnsureAnswer(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 6 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 6)
	end := func() spillway.LocalOffset {
		ends, err := w.Direct["west"].Admin().LogEnds(w.ctx, []spillway.TopicPartition{w.tp})
		w.must(err)
		return ends[w.tp]
	}
	var steps []replay.Step
	unsure, before := 0, spillway.LocalOffset(0) // unsure: the step at which the answer was lost
	d, err := w.replay("east", func(c *replay.Config) {
		c.At = func(s replay.Step) error {
			switch {
			case s == replay.StepWritten && unsure == 0 && before == 0: // the first one; the connections are made
				before = end()
				w.Wires["west"].Mute()
			case s == replay.StepSent && unsure == 0 && before > 0: // the second one
				gatewaytest.Eventually(t, "west has it", func() bool { return end() > before })
				unsure = len(steps)
				w.Wires["west"].Cut(false)
				w.Wires["west"].Unmute()
			}
			steps = append(steps, s)
			return nil
		}
	})
	w.must(err)
	w.counts(d, replay.Range{Records: 6, There: 6, Written: 6, Done: true})
	if unsure == 0 || steps[unsure+1] != replay.StepCompared {
		t.Errorf("after step %d nobody looked whether it is there: %v", unsure, steps)
	}
	w.want(0, 1, 2, 3, 4, 5)
}

// Batches are no larger than what the topic takes, also where that has become less.
func TestReplayOfBatchesThatATopicTakes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit string
		later bool
		sent  int
	}{
		"as it is told": {"200", false, 1 + 4},
		"in halves":     {"100", true, 1 + 2 + 7}, // of 7 and 3 records, which are not taken
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLostWorld(t)
			for n := range 8 {
				w.send(nobody, -1, "key", n)
			}
			w.fail("west", 8)
			limit := func() {
				w.must(w.Direct["west"].Admin().SetTopicConfigs(w.ctx, "orders", map[string]*string{"max.message.bytes": &c.limit}))
			}
			if !c.later {
				limit()
			}
			sent := 0
			d, err := w.replay("east", func(r *replay.Config) {
				r.BatchRecordsMax = 500
				r.At = func(s replay.Step) error {
					switch {
					case s == replay.StepSent:
						sent++
					case s == replay.StepCompared && c.later:
						limit()
					}
					return nil
				}
			})
			w.must(err)
			w.counts(d, replay.Range{Records: 8, There: 8, Written: 8, Done: true})
			if sent != c.sent {
				t.Errorf("%d batches were sent, want %d", sent, c.sent)
			}
			w.want(0, 1, 2, 3, 4, 5, 6, 7)
		})
	}
}

// shownBy are gateways that tell other ends of the log than they should.
type shownBy struct {
	broker.Cluster
	end func(tp spillway.TopicPartition) (at spillway.LocalOffset, told bool, err error)
}

type shownAdmin struct {
	broker.Admin
	shownBy
}

func (s shownBy) Admin() broker.Admin { return shownAdmin{s.Cluster.Admin(), s} }

func (s shownAdmin) HighWatermarks(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	if at, told, err := s.end(tps[0]); told {
		return map[spillway.TopicPartition]spillway.LocalOffset{tps[0]: at}, err
	}
	return s.Admin.HighWatermarks(ctx, tps)
}

// A partition without a leader keeps no other one from what can be written.
func TestReplayBesideAPartitionThatIsSilent(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t, "carts") // comes first
	for n := range 5 {
		for _, topic := range []string{"carts", "orders"} {
			w.tp.Topic = topic
			w.send(nobody, -1, "key", n)
		}
	}
	w.fail("west", 3)
	for all, want := range map[bool]int{true: 1, false: 2} {
		d, err := w.replay("east", func(c *replay.Config) {
			c.PatienceMax = 3 * time.Second
			c.Virtual = shownBy{w.virtual, func(tp spillway.TopicPartition) (spillway.LocalOffset, bool, error) {
				return 0, all || tp.Topic == "carts", kerr.LeaderNotAvailable
			}}
			c.DryRun = all
		})
		if err == nil || len(d.Ranges) != want || d.Ranges[0].Topic != "carts" || d.Ranges[0].Done || (d.Ranges[0].Refused == "") != all {
			t.Fatalf("all are silent: %t: ended with %+v, %v", all, d.Ranges, err)
		}
		if !all && !d.Ranges[1].Done {
			t.Errorf("beside it: %+v", d.Ranges[1])
		}
	}
	w.want(0, 1, 2, 3, 4)
}

// What gateways have not shown is found as soon as one record is acknowledged behind it.
func TestReplayOfWhatIsThereAndHidden(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 6 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 6)
	for n := range 6 {
		w.send(nobody, -1, "key", n)
	}
	asked := 0 // at first they lack reserved offsets, or other sites that have the records
	d, err := w.replay("east", func(c *replay.Config) {
		c.Virtual = shownBy{w.virtual, func(spillway.TopicPartition) (spillway.LocalOffset, bool, error) {
			asked++
			return gatewaytest.OffsetBase, asked == 1, nil
		}}
	})
	w.must(err)
	w.counts(d, replay.Range{Records: 6, There: 6, Written: 1, Done: true})
	w.want(0, 1, 2, 3, 4, 5, 0)
}

// A move in the middle stops nothing for good: the rest is written at the site that
// serves then, and what the move lost is written again.
func TestReplayOverAMove(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]int64{"planned": 0, "with loss": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLostWorld(t)
			for n := range 7 {
				w.send(nobody, -1, "key", n)
			}
			w.fail("west", 7)
			moved := false
			d, err := w.replay("east", func(c *replay.Config) {
				c.At = func(s replay.Step) error {
					if s == replay.StepWritten && !moved {
						moved = true
						w.fail("north", lost)
					}
					return nil
				}
			})
			w.must(err)
			if !moved || len(d.Ranges) != 1 || !d.Ranges[0].Done || d.Ranges[0].Written != 7+lost {
				t.Errorf("ended with %+v", d.Ranges)
			}
			w.want(0, 1, 2, 3, 4, 5, 6) // none before what the move took back
			// West has what it was given and lost, and that is known at north.
			if d, err = w.replay("west", nil); err != nil || lost > 0 && (len(d.Ranges) != 1 || d.Ranges[0].There != lost || d.Ranges[0].Written != 0) {
				t.Errorf("west's own: %+v, %v", d.Ranges, err)
			}
		})
	}
}

// While nobody serves, nothing is written (promise A).
func TestReplayWaitsForAServingSite(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 5 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 5)
	ends := func() (all []spillway.LocalOffset) {
		for _, site := range []spillway.SiteID{"east", "west", "north"} {
			end, err := w.Direct[site].Admin().LogEnds(w.ctx, []spillway.TopicPartition{replayedPartition})
			w.must(err)
			all = append(all, end[replayedPartition])
		}
		return all
	}
	before := ends()
	w.Fence("north", failover.Switchover)
	impatient := func(c *replay.Config) { c.PatienceMax = 100 * time.Millisecond }
	if _, err := w.replay("east", impatient); err == nil || !strings.Contains(err.Error(), "is moving (FENCING)") {
		t.Errorf("without a serving site: %v", err)
	}
	// Neither where the record says so and the gateways do not.
	terms := termsOf(w.Share())
	if _, err := w.replay("east", func(c *replay.Config) {
		impatient(c)
		c.Terms = func(context.Context) (replay.Terms, error) { return terms, nil }
	}); err == nil {
		t.Error("written through gateways that hold")
	}
	if after := ends(); !slices.Equal(after, before) {
		t.Errorf("the logs of the sites end at %v, and ended at %v", after, before)
	}
	w.Open(0, 0)
	_, err := w.replay("east", nil)
	w.must(err)
	w.want(0, 1, 2, 3, 4)
}

// On a compacted topic an old value is not written over a newer one of its key.
func TestReplayOfACompactedTopic(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	w.send(nobody, -1, "kept", 0)
	w.send(nobody, -1, "anna", 1)
	w.send(nobody, -1, "berta", 2)
	w.send(nobody, -1, "berta", 3)
	w.send(nobody, -1, "clara", 4)
	w.send(nobody, -1, "clara", 5)
	w.send(nobody, -1, "dora", 6)
	w.send(nobody, -1, "dora", 7)
	w.fail("west", 7)
	compact := "compact"
	w.must(w.Direct["west"].Admin().SetTopicConfigs(w.ctx, "orders", map[string]*string{"cleanup.policy": &compact}))
	w.send(nobody, -1, "anna", 20)
	w.send(nobody, -1, "clara", 5) // the newer one was written again, so the older one is over
	w.send(nobody, -1, "dora", 6)  // the older one was: the newer one is missing
	d, err := w.replay("east", dryRun)
	w.must(err)
	w.counts(d, replay.Range{Records: 7, There: 2, Superseded: 2, Write: 3, CannotTell: 3})
	killed := false
	if _, err = w.replay("east", func(c *replay.Config) {
		c.BatchRecordsMax = 1
		c.At = func(s replay.Step) error {
			if killed = s == replay.StepWritten; killed {
				return errKilled
			}
			return nil
		}
	}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	d, err = w.replay("east", nil)
	w.must(err)
	w.want(0, 20, 5, 6, 2, 3, 7)
	w.counts(d, replay.Range{Records: 7, There: 5, Superseded: 2, Written: 2, Done: true})
}

// What transactions did not commit is not written.
func TestReplayOfTransactions(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	w.send(nobody, -1, "key", 0)
	transaction := func(id string, n int, end func(*kgo.Client)) {
		cl, err := kgo.NewClient(append([]kgo.Opt{kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner())}, w.Dial["east"]...)...)
		w.must(err)
		defer cl.Close()
		w.must(cl.BeginTransaction())
		w.must(cl.ProduceSync(w.ctx, &kgo.Record{Topic: "orders", Value: []byte(gatewaytest.Value(n))}).FirstErr())
		end(cl)
	}
	transaction("committed", 1, func(cl *kgo.Client) { w.must(cl.EndTransaction(w.ctx, kgo.TryCommit)) })
	transaction("aborted", 2, func(cl *kgo.Client) { w.must(cl.EndTransaction(w.ctx, kgo.TryAbort)) })
	transaction("undecided", 3, func(*kgo.Client) {})
	w.fail("west", 5)
	d, err := w.replay("east", nil)
	w.must(err)
	w.want(0, 1)
	w.counts(d, replay.Range{Records: 1, There: 1, Written: 1, Done: true})
}

// What an application writes again in a transaction is there once that is committed. It is
// waited for, and told of where it takes too long.
func TestReplayBesideOpenTransactions(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]bool{"that end": true, "that do not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLostWorld(t)
			for n := range 3 {
				w.send(nobody, -1, "key", n)
			}
			w.fail("west", 3)
			cl, err := kgo.NewClient(append([]kgo.Opt{kgo.TransactionalID("again"), kgo.RecordPartitioner(kgo.ManualPartitioner())}, w.Dial["west"]...)...)
			w.must(err)
			defer cl.Close()
			w.must(cl.BeginTransaction())
			w.must(cl.ProduceSync(w.ctx, &kgo.Record{
				Topic: "orders", Key: []byte("key"), Value: []byte(gatewaytest.Value(1)), Timestamp: time.UnixMilli(w.began + 1), Headers: []kgo.RecordHeader{{Key: "n", Value: []byte("1")}},
			}).FirstErr())
			d, err := w.replay("east", dryRun)
			w.must(err)
			w.counts(d, replay.Range{Records: 3, Write: 3, CannotTell: 3, InTransactions: 1})
			if text := strings.Join(d.rows(), "\n"); !strings.Contains(text, "OPEN orders-0 [1000000,1000003): 1 record like") {
				t.Errorf("the table is\n%s", text)
			}
			asked := 0
			d, err = w.replay("east", func(c *replay.Config) {
				c.PatienceMax = 20 * time.Second
				if !ends {
					c.PatienceMax = time.Second
				}
				terms := c.Terms
				c.Terms = func(ctx context.Context) (replay.Terms, error) {
					if asked++; asked == 2 && ends {
						w.must(cl.EndTransaction(w.ctx, kgo.TryCommit))
					}
					return terms(ctx)
				}
			})
			w.must(err)
			if ends {
				w.counts(d, replay.Range{Records: 3, There: 3, Written: 2, Done: true})
				w.want(1, 0, 2)
			} else if len(d.Ranges) != 1 || d.Ranges[0].Written != 3 || !d.Ranges[0].Done || d.Ranges[0].InTransactions != 1 {
				t.Errorf("ended with %+v", d.Ranges)
			}
		})
	}
}

// What the topic would refuse for its age is told before, with what to do.
func TestReplayOfRecordsThatAreTooOld(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 5 {
		w.send(first, int32(n), "key", n) // an hour ago
	}
	w.fail("west", 3)
	limit := "60000"
	w.must(w.Direct["west"].Admin().SetTopicConfigs(w.ctx, "orders", map[string]*string{"message.timestamp.before.max.ms": &limit}))
	d, err := w.replay("east", nil)
	if err == nil || len(d.Ranges) != 1 || !strings.Contains(d.Ranges[0].Refused, "takes no records that are older than 1m0s") || d.Ranges[0].Done {
		t.Fatalf("%+v, %v", d.Ranges, err)
	}
	if text := strings.Join(d.rows(), "\n"); !strings.Contains(text, "\trefused") || !strings.Contains(text, "REFUSED orders-0 [") || !strings.Contains(text, lateNote) {
		t.Errorf("the table is\n%s", text)
	}
	w.want(0, 1)
	w.must(w.Direct["west"].Admin().SetTopicConfigs(w.ctx, "orders", map[string]*string{"message.timestamp.before.max.ms": nil}))
	_, err = w.replay("east", nil)
	w.must(err)
	w.want(0, 1, 2, 3, 4)
}

// A native export is what lies in the log, byte for byte.
func TestNativeExport(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 9 {
		w.send(first, int32(n), "key", n)
	}
	w.fail("west", 7)
	dir := t.TempDir()
	files, err := exportLogs(w.ctx, w.at("east"), gatewaytest.ShareID, dir)
	w.must(err)
	if want := filepath.Join(dir, "orders-0", "00000000000000000002.log"); !slices.Equal(files, []string{want}) {
		t.Fatalf("files: %v, want %s", files, want)
	}
	got, err := os.ReadFile(files[0])
	w.must(err)
	var want []byte
	w.must(sitelog.Scan(w.ctx, w.Direct["east"], replayedPartition, 2, 9, func(b sitelog.Batch) error {
		want = append(want, b.Bytes...)
		return nil
	}))
	if !bytes.Equal(got, want) || len(want) == 0 {
		t.Errorf("%d bytes were written, the log has %d", len(got), len(want))
	}
	if _, err := exportLogs(w.ctx, w.at("east"), gatewaytest.ShareID, dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over an older export: %v", err)
	}
	_, err = w.replay("east", nil)
	w.must(err)
	if files, err := exportLogs(w.ctx, w.at("east"), gatewaytest.ShareID, t.TempDir()); err != nil || len(files) != 0 {
		t.Errorf("after the replay: %v, %v", files, err)
	}
}

// Half of an export would look like all of it, and be in the way of the next one.
func TestHalfAnExportIsRemoved(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 5 {
		w.send(first, int32(n), "key", n)
	}
	w.fail("west", 3)
	m, dir := w.at("east"), t.TempDir()
	ranges, err := m.Unreplicated(w.ctx, gatewaytest.ShareID)
	w.must(err)
	r := ranges[0]
	r.LocalTo++ // the log is shorter by now
	name, err := exportLog(w.ctx, m, r, filepath.Join(dir, "orders-0"))
	if err == nil || !strings.Contains(err.Error(), "records were lost meanwhile") {
		t.Errorf("a log that was cut: %v", err)
	}
	if _, err := os.Stat(name); name == "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file %q is left: %v", name, err)
	}
	file := filepath.Join(dir, "lost.jsonl")
	if _, err := exportTo(nil, file, func(out io.Writer) (int64, error) {
		_, err := io.WriteString(out, "{}\n")
		return 1, errors.Join(err, errKilled)
	}); !errors.Is(err, errKilled) {
		t.Error(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("file %q is left: %v", file, err)
	}
}

// What was given up stays so, and the audit log has who did it.
func TestDiscardWhileItIsReplayed(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 5 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 3)
	operator := control.NewOperator(w.Topology, w.Store, nil)
	give := func() []mirror.UnreplicatedRange {
		t.Helper()
		ranges, err := discard(w.ctx, operator, w.at("east"), gatewaytest.ShareID, "east", "berta", "the shop was told")
		w.must(err)
		return ranges
	}
	d, err := w.replay("east", func(c *replay.Config) {
		c.At = func(s replay.Step) error {
			if s == replay.StepChecked && len(give()) != 1 {
				t.Error("nothing was discarded")
			}
			return nil
		}
	})
	if err == nil || len(d.Ranges) != 1 || d.Ranges[0].Done || !d.Ranges[0].Discarded || !strings.Contains(d.Ranges[0].Refused, "was discarded while it was replayed") {
		t.Errorf("ended with %+v, %v", d.Ranges, err)
	}
	ranges, err := w.at("east").Unreplicated(w.ctx, gatewaytest.ShareID)
	if err != nil || len(ranges) != 1 || ranges[0].Outcome() != "discarded" {
		t.Errorf("listed as %+v, %v", ranges, err)
	}
	give() // of nothing, and nothing is noted
	log, err := operator.Audit(w.ctx)
	w.must(err)
	var found []failover.AuditEntry
	for _, e := range log {
		if e.Who == "berta" {
			found = append(found, e)
		}
	}
	if len(found) != 1 || found[0].What != "discard of unreplicated records of everything at site east: 1 range, 3 offsets" || found[0].Why != "the shop was told" {
		t.Errorf("the audit log has %+v", found)
	}
}

// Where retention has taken what was written since, nobody can compare.
func TestReplayIsRefusedWhereTheLogIsGone(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 5 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 3)
	for n := 20; n < 24; n++ {
		w.send(nobody, -1, "key", n)
	}
	remove := func(upTo int64) { w.remove("west", upTo) }
	remove(2) // what was before the failover: nobody asks for it
	d, err := w.replay("east", dryRun)
	if err != nil || len(d.Ranges) != 1 || d.Ranges[0].Refused != "" || d.Ranges[0].Write != 3 {
		t.Fatalf("all is there to compare with: %+v, %v", d.Ranges, err)
	}
	remove(4)
	d, err = w.replay("east", nil)
	if err == nil || len(d.Ranges) != 1 || !strings.Contains(d.Ranges[0].Refused, "begins behind offset") || d.Ranges[0].Written != 0 || d.Ranges[0].Done {
		t.Fatalf("without the first of what was written since: %+v, %v", d.Ranges, err)
	}
}

// An unordered group knows no retries again.
func TestReplayIsRefusedForUnorderedGroups(t *testing.T) {
	t.Parallel()
	topology := spillway.NewTopology("shop", "shop-1", []spillway.Site{{ID: "east"}}, []spillway.FailoverGroup{{Name: "events", Kind: spillway.Unordered}})
	_, err := replayer{topology: topology, share: spillway.ShareID{Group: "events"}}.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is unordered") {
		t.Error(err)
	}
}

// A failover after the last look, and before the range is marked, takes back what was seen.
func TestReplayOverAFailoverBeforeItIsClosed(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 6 {
		w.send(nobody, -1, "key", n)
	}
	w.fail("west", 6)
	all, asked := false, 0
	d, err := w.replay("east", func(c *replay.Config) {
		c.Progress = func(r replay.Range) { all = all || r.Written == 6 }
		terms := c.Terms
		c.Terms = func(ctx context.Context) (replay.Terms, error) {
			if all {
				asked++
			}
			if all && asked == 2 { // before it compares for the last time, before it closes
				w.fail("north", 2)
			}
			return terms(ctx)
		}
	})
	w.must(err)
	if asked < 4 || len(d.Ranges) != 1 || !d.Ranges[0].Done || d.Ranges[0].Written != 8 {
		t.Errorf("ended with %+v", d.Ranges)
	}
	w.want(0, 1, 2, 3, 4, 5)
}

// A gateway that has nothing to say is no empty log: what clients wrote again is found when
// it says something.
func TestReplayReadsFromAGatewayThatHolds(t *testing.T) {
	t.Parallel()
	w := newLostWorld(t)
	for n := range 6 {
		w.send(first, int32(n), "key", n)
	}
	w.fail("west", 6)
	for n := range 6 {
		w.send(first, int32(n), "key", n) // without an answer from east
	}
	stale := termsOf(w.Share())
	w.Fence("north", failover.Switchover)
	asked, ended, moved := make(chan struct{}), make(chan replayed, 1), atomic.Bool{}
	go func() {
		var once sync.Once
		d, err := w.replay("east", func(c *replay.Config) {
			terms := c.Terms
			c.Terms = func(ctx context.Context) (replay.Terms, error) { // it has read the record just before
				once.Do(func() { close(asked) })
				if !moved.Load() {
					return stale, nil
				}
				return terms(ctx)
			}
		})
		if err != nil {
			t.Error(err)
		}
		ended <- d
	}()
	<-asked
	time.Sleep(time.Second) // a fetch that may wait for half a second has its answer, which is nothing
	w.Open(0, 0)
	moved.Store(true)
	if d := <-ended; len(d.Ranges) != 1 || !d.Ranges[0].Done || d.Ranges[0].Written != 0 {
		t.Errorf("ended with %+v", d.Ranges)
	}
	w.want(0, 1, 2, 3, 4, 5)
}

// What cannot be replayed of one partition keeps nothing else from it, in this run and in
// every later one.
func TestReplayGoesOnWithoutARangeThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(w *lostWorld)
		want  string
	}{
		"retention at the lost site": {func(w *lostWorld) { w.remove("east", 4) }, "retention at site east has taken records"},
		"the topic was deleted": {func(w *lostWorld) { w.must(w.Direct["west"].Admin().DeleteTopic(w.ctx, "carts")) },
			"the virtual cluster has no topic carts any more"},
		"the records are too large": {func(w *lostWorld) {
			limit := "70"
			w.must(w.Direct["west"].Admin().SetTopicConfigs(w.ctx, "carts", map[string]*string{"max.message.bytes": &limit}))
		}, "MESSAGE_TOO_LARGE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newLostWorld(t, "carts") // comes first
			for n := range 5 {
				for _, topic := range []string{"carts", "orders"} {
					w.tp.Topic = topic
					w.send(nobody, -1, "key", n)
				}
			}
			w.fail("west", 3)
			w.tp.Topic = "carts"
			c.spoil(w)
			w.tp.Topic = "orders"
			for run := range 2 {
				d, err := w.replay("east", func(c *replay.Config) { c.PatienceMax = 5 * time.Second })
				if err == nil || len(d.Ranges) != 2-run || d.Ranges[0].Topic != "carts" || d.Ranges[0].Done || !strings.Contains(d.Ranges[0].Refused, c.want) {
					t.Fatalf("run %d ended with %+v, %v", run, d.Ranges, err)
				}
				if run == 0 && (!d.Ranges[1].Done || d.Ranges[1].Written != 3) {
					t.Errorf("beside it: %+v", d.Ranges[1])
				}
			}
			w.want(0, 1, 2, 3, 4)
		})
	}
}
