//go:build e2e

package control

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	real "spillway/tests/world"
)

// accounts is a compacted topic and what its writer was told of each key.
type accounts struct {
	*real.World
	t       *testing.T
	ctx     context.Context
	written map[string]string // the last value of each key that was acknowledged; "" is a tombstone
}

const (
	accountsTopic      = "accounts"
	accountsPartitions = 2
	accountsKeys       = 150
)

func (a *accounts) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *accounts) client(site string, o ...kgo.Opt) *kgo.Client {
	a.t.Helper()
	if site == "" {
		o = append(o, kgo.SeedBrokers(a.Bootstrap...))
	} else {
		o = append(append(o, a.Kafka[site].Dial()...), kgo.SeedBrokers(a.Kafka[site].Bootstrap()...))
	}
	cl, err := kgo.NewClient(o...)
	a.must(err)
	return cl
}

// keep writes values of keys, some of them tombstones, until stop is called, which returns
// when each is acknowledged.
func (a *accounts) keep() (stop func() int) {
	a.t.Helper()
	cl := a.client("", kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1), kgo.RecordDeliveryTimeout(5*time.Minute))
	var mu sync.Mutex
	ctx, cancel := context.WithCancel(a.ctx)
	var writing sync.WaitGroup
	n := 0
	writing.Go(func() {
		for ; ctx.Err() == nil; n++ {
			r := &kgo.Record{Topic: accountsTopic, Key: fmt.Appendf(nil, "key-%d", rand.IntN(accountsKeys))}
			if rand.IntN(10) > 0 {
				r.Value = []byte(strconv.Itoa(n))
			}
			cl.Produce(a.ctx, r, func(r *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					a.t.Errorf("%s: %v", r.Key, err)
				}
				a.written[string(r.Key)] = string(r.Value)
			})
			time.Sleep(2 * time.Millisecond)
		}
	})
	return func() int {
		cancel()
		writing.Wait()
		a.must(cl.Flush(a.ctx))
		cl.Close()
		return n
	}
}

// put writes one value of a key and waits until it is acknowledged.
func (a *accounts) put(key, value string) {
	a.t.Helper()
	cl := a.client("", kgo.UnknownTopicRetries(-1), kgo.RecordDeliveryTimeout(time.Minute))
	defer cl.Close()
	r := &kgo.Record{Topic: accountsTopic, Key: []byte(key)}
	if value != "" {
		r.Value = []byte(value)
	}
	a.must(cl.ProduceSync(a.ctx, r).FirstErr())
	a.written[key] = value
}

// shown reads the topic to its end, through gateways or, of a site, all that lies there. It
// returns the last value of each key and how many records there are.
func (a *accounts) shown(site string) (state map[string]string, records int) {
	a.t.Helper()
	state = make(map[string]string)
	cl := a.client(site)
	ends, err := kadm.NewClient(cl).ListEndOffsets(a.ctx, accountsTopic)
	a.must(errors.Join(err, ends.Error()))
	cl.Close()
	from := make(map[int32]kgo.Offset)
	for p := range int32(accountsPartitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl = a.client(site, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{accountsTopic: from}), kgo.KeepControlRecords())
	defer cl.Close()
	for quiet := 0; quiet < 2; {
		ctx, cancel := context.WithTimeout(a.ctx, time.Second)
		fetched := cl.PollFetches(ctx)
		cancel()
		if quiet++; fetched.NumRecords() > 0 {
			quiet = 0
		}
		fetched.EachRecord(func(r *kgo.Record) {
			records++
			state[string(r.Key)] = string(r.Value)
		})
	}
	maps.DeleteFunc(state, func(_, value string) bool { return value == "" })
	return state, records
}

// right compares what is shown with what was acknowledged, key by key.
func (a *accounts) right(site, when string) {
	a.t.Helper()
	want := maps.Clone(a.written)
	maps.DeleteFunc(want, func(_, value string) bool { return value == "" })
	where := site
	if where == "" {
		where = "the gateways"
	}
	got, records := a.shown(site)
	var wrong []string
	for _, key := range slices.Sorted(maps.Keys(a.written)) {
		if got[key] != want[key] {
			wrong = append(wrong, fmt.Sprintf("%s is %q and was written as %q", key, got[key], want[key]))
		}
	}
	if len(wrong) > 0 || len(got) != len(want) {
		a.t.Errorf("%s, %s: of %d keys %d are there and %d wrong: %q", when, where, len(want), len(got), len(wrong), wrong[:min(5, len(wrong))])
	}
	fmt.Printf("| %s: %s show %d keys in %d records\n", when, where, len(got), records)
}

// cleaned waits until the cleaner of a site has removed most records of the topic. It
// writes a little, since what is in a segment that is written to is not cleaned.
func (a *accounts) cleaned(site string) {
	a.t.Helper()
	cl := a.client(site)
	defer cl.Close()
	a.Eventually(time.Minute, "the cleaner of "+site+" has been there", func() error {
		a.put("ticking", time.Now().String())
		time.Sleep(300 * time.Millisecond)
		ends, err := kadm.NewClient(cl).ListEndOffsets(a.ctx, accountsTopic)
		if err != nil {
			return err
		}
		offsets := int64(0)
		ends.Each(func(o kadm.ListedOffset) { offsets += o.Offset })
		if _, records := a.shown(site); int64(records) > offsets*2/3 {
			return fmt.Errorf("%d records of %d offsets are left", records, offsets)
		}
		return nil
	})
}

func (a *accounts) settings(site string) map[string]string {
	a.t.Helper()
	cl := a.client(site)
	defer cl.Close()
	all, err := kadm.NewClient(cl).DescribeTopicConfigs(a.ctx, accountsTopic)
	a.must(err)
	set := make(map[string]string)
	for _, c := range all[0].Configs {
		if c.Source == 1 && c.Value != nil { // of the topic
			set[c.Key] = *c.Value
		}
	}
	return set
}

// A topic that real cleaners clean all the time moves there and back twice while it is
// written, and no key is wrong anywhere. Then its site is lost with the newest value of a
// key, and comes back: it is not moved there, its cleaner stands still, until the topic has
// begun anew at that site. Then it goes home, and every key is right (C11).
func TestRealCompactedTopicsMove(t *testing.T) {
	w := real.Start(t, real.Options{Sites: []string{"east", "west"}, Versions: map[string]string{"east": "4.3.1", "west": "3.9.2"}, Consuls: 1, Partitions: 1, MirrorApart: true,
		Topics: []string{accountsTopic}, Administration: "topics", Mirror: "metadataInterval: 1s", Properties: map[string]string{"log.cleaner.backoff.ms": "200"}})
	a := &accounts{World: w, t: t, ctx: t.Context(), written: make(map[string]string)}
	often := map[string]*string{}
	for key, value := range map[string]string{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0", "max.compaction.lag.ms": "1000"} {
		often[key] = &value
	}
	cl := a.client("")
	_, err := kadm.NewClient(cl).CreateTopic(a.ctx, accountsPartitions, 1, often, accountsTopic)
	a.must(err)
	cl.Close()

	began := time.Now()
	stop := a.keep()
	for _, to := range []string{"west", "east", "west", "east"} {
		time.Sleep(2 * time.Second)
		a.Eventually(time.Minute, "a switchover to "+to, func() error {
			_, err := a.Run(a.ctx, to, "switchover", real.Group, "--to", to)
			return err
		})
	}
	n := stop()
	a.Eventually(time.Minute, "all follow", func() error { return a.Healthy(a.ctx) })
	fmt.Printf("measured: four switchovers, %d records, %s\n", n, time.Since(began).Round(time.Second))
	a.cleaned("east")
	a.cleaned("west")
	a.right("", "after four switchovers")
	a.right("east", "after four switchovers")
	a.right("west", "after four switchovers")
	if out, err := a.Run(a.ctx, a.Desk(), "gaps", "list"); err != nil || strings.Contains(out, accountsTopic) {
		t.Errorf("%v: something was hidden: %s", err, out)
	}

	// East is lost with the newest value of a key.
	key := "key-7"
	a.put(key, "kept")
	a.Eventually(time.Minute, "west has it", func() error {
		if state, _ := a.shown("west"); state[key] != "kept" {
			return fmt.Errorf("west has %q", state[key])
		}
		return nil
	})
	a.must(a.Mirror("west").Pause())
	time.Sleep(time.Second)
	a.put(key, "lost")
	a.KillSite("east")
	a.must(a.Mirror("west").Resume())
	a.Eventually(time.Minute, "west serves", func() error {
		_, err := a.Run(a.ctx, "west", "failover", real.Group, "--to", "west", "--accept-loss", "-1", "--why", "east is lost")
		return err
	})
	a.written[key] = "kept"
	a.put("key-8", "written while east is away")
	a.RestartSite("east")
	a.Eventually(2*time.Minute, "east has come back", func() error { return a.Healthy(a.ctx) })
	refusedAt := func() error {
		out, err := a.Run(a.ctx, "west", "switchover", real.Group, "--to", "east", "--dry-run")
		if err == nil {
			return fmt.Errorf("a switchover to east would begin: %s", out)
		}
		if want := "east hides records in its logs of compacted topics"; !strings.Contains(err.Error()+out, want) {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
	a.Eventually(time.Minute, "it is said why there is no way home", refusedAt)
	never := strconv.FormatInt(math.MaxInt64, 10)
	for i := range 40 { // much that a cleaner could take for newer
		a.put(fmt.Sprintf("key-%d", 10+i%5), fmt.Sprint("after ", i))
	}
	if s := a.settings("east"); s["min.compaction.lag.ms"] != never || s["max.compaction.lag.ms"] != never {
		t.Errorf("the cleaner of east goes on: %v", s)
	}
	if s := a.settings("west"); s["min.compaction.lag.ms"] != "0" || s["max.compaction.lag.ms"] != "1000" {
		t.Errorf("west has %v", s)
	}
	a.must(refusedAt())
	if out, err := a.Run(a.ctx, a.Desk(), "unreplicated", "export", real.Group, "--site", "east"); err != nil || !strings.Contains(out, base64.StdEncoding.EncodeToString([]byte("lost"))) {
		t.Errorf("the lost value is not listed: %v, %s", err, out)
	}
	a.anew("east")
	a.Eventually(2*time.Minute, "a way home", func() error {
		_, err := a.Run(a.ctx, "west", "switchover", real.Group, "--to", "east", "--dry-run")
		return err
	})
	a.Eventually(time.Minute, "the cleaner of east goes on", func() error {
		if s := a.settings("east"); s["min.compaction.lag.ms"] != "0" || s["max.compaction.lag.ms"] != "1000" {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
	stop = a.keep()
	time.Sleep(2 * time.Second)
	a.Eventually(time.Minute, "a switchover home", func() error {
		_, err := a.Run(a.ctx, "west", "switchover", real.Group, "--to", "east")
		return err
	})
	time.Sleep(2 * time.Second)
	stop()
	a.Eventually(time.Minute, "all follow", func() error { return a.Healthy(a.ctx) })
	a.cleaned("east")
	a.cleaned("west")
	a.right("", "at home")
	a.right("east", "at home")
	a.right("west", "at home")
	if a.written[key] == "kept" {
		fmt.Printf("| %s is as west had it\n", key)
	}
}

// anew lets the topic begin anew at a site that follows.
func (a *accounts) anew(site string) {
	a.t.Helper()
	cl := a.client(site)
	defer cl.Close()
	gone, err := kadm.NewClient(cl).DeleteTopics(a.ctx, accountsTopic)
	a.must(errors.Join(err, gone.Error()))
}
