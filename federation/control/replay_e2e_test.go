//go:build e2e

package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/mirror"
	"spillway/mirror/replay"
	"spillway/tests/cluster/kafka"
	real "spillway/tests/world"
)

// A real site is lost with records that no other one has, and comes back. They are
// exported as Kafka's own tool reads them, and replayed by a command that is killed with
// SIGKILL again and again. Each record is there once, in the order in which it was written.
func TestRealReplayAfterALoss(t *testing.T) {
	const kept, lost, again = 50, 40_000, 300
	const stride = 1500 // a replay is killed when it has written so much: a few batches of 80
	w := real.Start(t, real.Options{Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.3.1", "west": "3.9.2"}, Consuls: 1, Partitions: 1, MirrorApart: true})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(into any, args ...string) {
		t.Helper()
		out, err := w.Run(ctx, w.Desk(), append(args, "-o", "json")...)
		must(err)
		if into != nil {
			must(json.Unmarshal([]byte(out), into))
		}
	}
	began := time.Now().Add(-time.Hour)
	write := func(from, to int) {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(w.Bootstrap...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
		must(err)
		defer cl.Close()
		var records []*kgo.Record
		for n := from; n < to; n++ {
			records = append(records, &kgo.Record{Topic: "orders", Key: fmt.Append(nil, n%7), Value: fmt.Appendf(nil, "%06d", n), Timestamp: began.Add(time.Duration(n) * time.Millisecond)})
		}
		must(cl.ProduceSync(ctx, records...).FirstErr())
	}
	write(0, kept)
	west, err := kgo.NewClient(append(w.Kafka["west"].Dial(), kgo.SeedBrokers(w.Kafka["west"].Bootstrap()...))...)
	must(err)
	defer west.Close()
	end := func() int64 {
		t.Helper()
		ends, err := kadm.NewClient(west).ListEndOffsets(ctx, "orders")
		must(err)
		o, _ := ends.Lookup("orders", 0)
		return o.Offset
	}
	w.Eventually(time.Minute, "west follows", func() error {
		if n := end(); n < kept {
			return fmt.Errorf("west has %d records of %d", n, kept)
		}
		return w.Healthy(ctx)
	})
	must(w.Mirror("west").Pause())
	time.Sleep(time.Second) // a fetch that is waiting is answered, with nothing: only the mirror knows, and it stands still
	write(kept, kept+lost)
	w.KillSite("east")
	must(w.Mirror("west").Resume())
	w.Eventually(time.Minute, "west serves", func() error {
		_, err := w.Run(ctx, "west", "failover", real.Group, "--to", "west", "--accept-loss", "-1", "--why", "east is lost")
		return err
	})
	write(kept+lost-again, kept+lost) // their application wrote the last ones again
	w.RestartSite("east")
	w.Eventually(2*time.Minute, "east has come back", func() error { return w.Healthy(ctx) })

	var open []mirror.UnreplicatedRange
	w.Eventually(time.Minute, "east's mirror has closed the epoch", func() error {
		run(&open, "unreplicated", "list", real.Group, "--site", "east")
		if len(open) == 0 {
			return errors.New("nothing is listed")
		}
		return nil
	})
	if len(open) != 1 || open[0].LocalTo-open[0].LocalFrom != lost {
		t.Fatalf("unreplicated: %+v", open)
	}
	out, err := w.Run(ctx, w.Desk(), "unreplicated", "export", real.Group, "--site", "east", "--format", "native", "--dir", w.Dir())
	must(err)
	java, err := kafka.Tools(ctx, "4.3.1")
	must(err)
	dump, err := java.Run(ctx, "org.apache.kafka.tools.DumpLogSegments", "--files", strings.TrimSpace(out), "--print-data-log")
	must(err)
	if n := strings.Count(dump, "payload: "); n != lost || !strings.Contains(dump, fmt.Sprintf("payload: %06d", kept)) {
		t.Errorf("kafka-dump-log shows %d records of %d:\n%.2000s", n, lost, dump)
	}

	type told struct{ Ranges []replay.Range }
	var plan told
	run(&plan, "unreplicated", "replay", real.Group, "--site", "east", "--dry-run")
	if len(plan.Ranges) != 1 || plan.Ranges[0].There != again || plan.Ranges[0].Write != lost-again {
		t.Fatalf("the dry run says %+v", plan.Ranges)
	}
	command := []string{"unreplicated", "replay", real.Group, "--site", "east", "--why", "a test", "-o", "json"}
	kills := 0
	for kills < 5 {
		before := end()
		p := w.StartCommand(w.Desk(), command...)
		alive := func() bool {
			select {
			case <-p.Done():
				return false
			default:
				return true
			}
		}
		for alive() && end() < before+stride {
		}
		if alive() {
			kills++
		}
		must(p.Kill())
		if end() == before {
			break // nothing was missing
		}
	}
	if kills < 3 {
		t.Errorf("the command was killed %d times while it wrote; a kill must come before its last batch", kills)
	}
	run(nil, command[:len(command)-2]...)
	run(&open, "unreplicated", "list", real.Group, "--site", "east")
	if len(open) != 1 || !open[0].Replayed {
		t.Errorf("listed as %+v", open)
	}
	var want, late []string
	for n := range kept + lost {
		want = append(want, fmt.Sprintf("%06d", n))
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.Bootstrap...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"orders": {0: kgo.NewOffset().AtStart()}}))
	must(err)
	defer cl.Close()
	var got []string
	until := time.Now().Add(time.Minute)
	for quiet := false; !quiet || len(got) < kept+lost && time.Now().Before(until); {
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		fetched := cl.PollFetches(within)
		cancel()
		quiet = errors.Is(fetched.Err(), context.DeadlineExceeded)
		fetched.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if len(got) < kept+lost {
		t.Fatalf("%d records of %d are there", len(got), kept+lost)
	}
	late = got[kept+again:]
	if !slices.IsSorted(late) {
		t.Error("the replayed records are not in their order")
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%d records are there, %d different ones; want %d", len(got), len(slices.Compact(slices.Clone(got))), len(want))
	}
	var done told
	run(&done, command[:len(command)-2]...)
	if len(done.Ranges) != 0 {
		t.Errorf("once more: %+v", done.Ranges)
	}
	t.Logf("killed %d times while it wrote", kills)
}
