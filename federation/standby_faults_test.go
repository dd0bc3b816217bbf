package federation_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/federation"
	"spillway/federation/coordination"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/gatewaytest"
	"spillway/mirror/maptopic"
	"spillway/mirror/offsetmap"
)

// Brokers answer at once, and what they say of offsets that do not exist is looked at for each
// at once: nothing is written there that a connection has once (rule G).
func TestOffsetsThatAreGoneAtTwoBrokers(t *testing.T) {
	t.Parallel()
	const partitions = 64
	w := gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": partitions}, Brokers: 2, Gateways: []spillway.GatewayID{"east", "west"},
		Group:   func(g *spillway.FailoverGroup) { g.Reads, g.FreshnessMax = spillway.ReadsStandby, time.Hour },
		Gateway: func(c *federation.Config) { c.Site = spillway.SiteID(c.ID) },
	})
	req := fetchRequest(base+1000, time.Second)
	req.Rack = "west"
	for i := int32(1); i < partitions; i++ {
		another := req.Topics[0].Partitions[0]
		another.Partition = i
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, another)
	}
	for range 5 {
		c := raw(t, w.Addrs[1])
		told := map[int32]bool{}
		gatewaytest.Eventually(t, "each partition is sent to the leader", func() bool {
			for _, p := range do[*kmsg.FetchResponse](t, c, req).Topics[0].Partitions {
				if p.ErrorCode != 0 {
					t.Fatalf("partition %d: %v", p.Partition, kerr.ErrorForCode(p.ErrorCode))
				}
				if p.PreferredReadReplica >= 0 {
					told[p.Partition] = true
				}
			}
			return len(told) == partitions
		})
	}
}

// Where retention overtook a reader, all gateways know within a moment where the log starts:
// the leader sends nobody near, whatever it has told that connection before, and near the client
// is told with the start, of which franz-go makes the right thing (rule G).
func TestAReaderThatRetentionOvertook(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	w.write("east", "order", 6, 6)
	w.mirror(6, 6)
	w.mark(1, 1, 12)
	w.deleteBelow("east", 9)
	w.deleteBelow("west", strange+9)
	ask := func(gateway int) kmsg.FetchResponseTopicPartition {
		req := fetchRequest(base+3, 100*time.Millisecond)
		req.Rack = "west"
		return do[*kmsg.FetchResponse](t, raw(t, w.Addrs[gateway]), req).Topics[0].Partitions[0]
	}
	for gateway, name := range []string{"the leader", "the standby"} {
		gatewaytest.Eventually(t, name+" says that the offset is gone", func() bool { return ask(gateway).ErrorCode == kerr.OffsetOutOfRange.Code })
		for range 5 {
			p := ask(gateway)
			if p.ErrorCode != kerr.OffsetOutOfRange.Code || p.PreferredReadReplica >= 0 || gateway == 1 && p.LogStartOffset != base+9 {
				t.Errorf("%s: %v, node %d, the log starts at %d", name, kerr.ErrorForCode(p.ErrorCode), p.PreferredReadReplica, p.LogStartOffset)
			}
		}
	}
	w.at["east"] = raw(t, w.Addrs[0])
	if p := w.fetch("east", "west", 9, 0); p.PreferredReadReplica < 0 {
		t.Error("who asks for what is there is not sent near")
	}
}

// A standby's answer may be older than the newest mark. It has lost nothing, and is not left (rule H).
func TestAStandbyThatIsBusyIsNotLeft(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	w.write("east", "order", 6, 4)
	w.Save("west", maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 6,
		Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 6, Local: strange + 6, Length: 4}}}))
	time.Sleep(500 * time.Millisecond) // the gateway has read that
	req := fetchRequest(base+6, time.Second)
	req.Rack = "west"
	answer := begun(t, w.at["west"], req)
	time.Sleep(300 * time.Millisecond) // the standby was asked
	w.Wires["west"].Mute()
	time.Sleep(time.Second) // it has answered that nothing is new
	w.write("west", "order", 6, 4)
	w.mark(1, 1, 10)
	time.Sleep(500 * time.Millisecond) // the gateway has heard that
	before := w.from("west", "east")
	w.Wires["west"].Unmute()
	answer()
	w.want("what came meanwhile", w.readAll("west", 6, 4), "order", 6, 10)
	if w.from("west", "east") != before {
		t.Error("it was read at the active site")
	}
}

// Consumers leave a gateway that has had nothing to tell them for long, though another one may
// have (rule I).
func TestAGatewayThatHasNothingToTellIsLeft(t *testing.T) {
	t.Parallel()
	brief := func(g *spillway.FailoverGroup) { g.FreshnessMax = 3 * time.Second }
	leader := func(t *testing.T, w *standbyWorld) int32 {
		t.Helper()
		md := kmsg.NewPtrMetadataRequest()
		md.Version = 9
		return do[*kmsg.MetadataResponse](t, w.at["north"], md).Topics[0].Partitions[0].Leader
	}
	left := func(t *testing.T, w *standbyWorld, leads int32) {
		t.Helper()
		began := time.Now()
		gatewaytest.Eventually(t, "the reader is sent back", func() bool {
			p := w.fetch("west", "west", 0, 200*time.Millisecond)
			if len(p.RecordBatches) > 0 {
				t.Fatal("it got records")
			}
			return p.PreferredReadReplica == leads
		})
		if after := time.Since(began); after < 2*time.Second {
			t.Errorf("that was after %s", after)
		}
	}
	t.Run("it has no lease", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, brief, func(c *federation.Config) { c.LeaseTTL = time.Second })
		w.follows(6)
		leads := leader(t, w)
		w.Store.Fail(func(when coordtest.Moment, ops []coordination.Op) error {
			if when == coordtest.BeforeWrite && ops[0].Key == w.Keys.Gateway("west") {
				return errors.New("it does not reach the store")
			}
			return nil
		})
		time.Sleep(1500 * time.Millisecond) // its own clock counts, and the test has no other
		w.at["west"] = raw(t, w.Addrs[1])
		left(t, w, leads)
	})
	t.Run("it does not reach the active site, and the standby lacks what is wanted", func(t *testing.T) {
		t.Parallel()
		w := startStandbys(t, brief, nil)
		w.follows(6)
		leads := leader(t, w)
		w.deleteBelow("west", strange+3)
		w.Wires["east"].Cut(true)
		left(t, w, leads)
	})
}

// A reader of uncommitted records that is ahead of what standbys can have, since a transaction
// is open, does not wait for them with each fetch (rule H).
func TestAReaderOfWhatIsOpenDoesNotWait(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	w.leavesOpen("east", "order-6")
	const rounds = 8
	w.write("east", "order", 7, rounds)
	w.want("it is away for the first time", w.readAll("west", 7, rounds), "order", 7, 7+rounds)
	began := time.Now()
	for i := range rounds {
		if p := w.fetch("west", "west", 7+i, 3*time.Second); len(got(t, p)) != rounds-i {
			t.Fatalf("from offset %d: %v", 7+i, got(t, p))
		}
	}
	if took := time.Since(began); took > rounds*time.Second/2 {
		t.Errorf("%d fetches took %s", rounds, took)
	}
}

// A site of which nobody can say who leads there is one problem, not one for each partition.
func TestASiteWithoutLeadersIsOneProblem(t *testing.T) {
	t.Parallel()
	const partitions = 20
	var fails atomic.Bool
	var mu sync.Mutex
	var problems []string
	w := startStandbysOf(t, partitions, nil, func(c *federation.Config) {
		if c.Site == "west" {
			c.Sites = maps.Clone(c.Sites)
			c.Sites["east"] = leaderless{c.Sites["east"], &fails}
			c.Events.Problem = func(what string, err error) {
				mu.Lock()
				defer mu.Unlock()
				if strings.Contains(what, "who leads") {
					problems = append(problems, what)
				}
			}
		}
	})
	w.follows(6)
	req := fetchRequest(base, 0)
	req.Rack = "west"
	for i := int32(1); i < partitions; i++ {
		w.Save("west", maptopic.SessionEntry(spillway.TopicPartition{Topic: "orders", Partition: i}, offsetmap.Session{Session: 1, Worker: "test", Opened: true, Epoch: 1, Virtual: base}))
		w.marks <- fmt.Sprintf(`{"site":"west","topic":"orders","partition":%d,"epoch":1,"session":1,"end":%d,"compared":true,"map":%d}`, i, base, w.saved)
		another := req.Topics[0].Partitions[0]
		another.Partition = i
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, another)
	}
	fails.Store(true)
	began := time.Now()
	var found []string
	gatewaytest.Eventually(t, "that is a problem", func() bool {
		do[*kmsg.FetchResponse](t, w.at["west"], req)
		mu.Lock()
		defer mu.Unlock()
		found = problems
		return len(found) > 0 && strings.Contains(found[len(found)-1], fmt.Sprintf("%d partitions", partitions))
	})
	if rounds := int(time.Since(began)/time.Second) + partitions + 2; len(found) > rounds { // each new partition is asked for at once
		t.Errorf("%d problems: %q", len(found), found)
	}
}

// leaderless is a cluster of which it is not known who leads.
type leaderless struct {
	broker.Cluster
	fails *atomic.Bool
}

func (c leaderless) Leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	if c.fails.Load() {
		return -1, errors.New("it does not answer")
	}
	return c.Cluster.Leader(ctx, tp)
}

// One low answer may be that of a node which is cut off and thinks that it leads: it is asked
// who leads, and then again. Only a site that says the same then has lost records, and that is a
// problem (freshness, D).
func TestALowAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	cutOff, lost := new(atomic.Bool), new(atomic.Bool)
	var mu sync.Mutex
	var problems []string
	w := startStandbys(t, nil, func(c *federation.Config) {
		if c.Site == "west" {
			c.Sites = maps.Clone(c.Sites)
			c.Sites["east"] = lacking{c.Sites["east"], cutOff, lost}
			c.Events.Problem = func(what string, err error) {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, what+": "+err.Error())
			}
		}
	})
	found := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(strings.Join(problems, "\n"), "read 1 partitions at standby west, where a mirror has to compare them with site east first: orders")
	}
	w.follows(6)
	cutOff.Store(true)
	gatewaytest.Eventually(t, "it was asked who leads", func() bool { w.fetch("west", "west", 0, 0); return !cutOff.Load() })
	for range 20 {
		w.locallyFrom(0)
		time.Sleep(100 * time.Millisecond)
	}
	if found() {
		t.Error("one answer of a node that does not lead any more is a loss")
	}
	lost.Store(true)
	gatewaytest.Eventually(t, "it is not read any more", func() bool {
		before := w.from("west", "west")
		return len(w.fetch("west", "west", 0, 200*time.Millisecond).RecordBatches) > 0 && w.from("west", "west") == before
	})
	gatewaytest.Eventually(t, "that is a problem", found)
}

// lacking is a cluster where a node that is cut off says that the log ends at 3, until who leads
// is asked anew; or where all do.
type lacking struct {
	broker.Cluster
	cutOff, lost *atomic.Bool
}

func (c lacking) Metadata(ctx context.Context, topics ...string) (broker.Metadata, error) {
	if len(topics) > 0 {
		c.cutOff.Store(false)
	}
	return c.Cluster.Metadata(ctx, topics...)
}

func (c lacking) Admin() broker.Admin { return lackingAdmin{c.Cluster.Admin(), c} }

type lackingAdmin struct {
	broker.Admin
	of lacking
}

func (a lackingAdmin) LogBounds(ctx context.Context, tps []spillway.TopicPartition) (starts, ends map[spillway.TopicPartition]spillway.LocalOffset, err error) {
	starts, ends, err = a.Admin.LogBounds(ctx, tps)
	if a.of.cutOff.Load() || a.of.lost.Load() {
		for tp := range ends {
			ends[tp] = min(ends[tp], 3)
		}
	}
	return starts, ends, err
}

// A reader waits at the standby's end while the active site deletes what comes next, before it
// was mirrored. It is told so, as it would be at the active site, and does not jump over it
// with what the standby has from there on (rule C).
func TestAGapWhileAReaderWaits(t *testing.T) {
	t.Parallel()
	w := startStandbys(t, nil, nil)
	w.follows(6)
	w.write("east", "order", 6, 6)
	req := fetchRequest(base+6, 10*time.Second)
	req.Rack = "west"
	answer := begun(t, w.at["west"], req)
	time.Sleep(500 * time.Millisecond) // the standby was asked
	w.deleteBelow("east", 9)
	w.Save("west", maptopic.GapEntry(maptopic.Gap{ID: "deleted", Kind: maptopic.GapRetention, Topic: "orders", From: base + 6, To: base + 9}),
		maptopic.ChunkEntry(standbyOrders, &offsetmap.Chunk{Session: 1, Worker: "test", First: strange + 6,
			Ranges: []offsetmap.Range{{Epoch: 1, Virtual: base + 9, Local: strange + 6, Length: 3}}}))
	w.write("west", "order", 9, 3)
	w.mark(1, 1, 12)
	if p := answer().(*kmsg.FetchResponse).Topics[0].Partitions[0]; p.ErrorCode != kerr.OffsetOutOfRange.Code && p.PreferredReadReplica < 0 {
		t.Errorf("%v, records %v", kerr.ErrorForCode(p.ErrorCode), got(t, p))
	}
	gatewaytest.Eventually(t, "it is told where the log starts", func() bool {
		p := do[*kmsg.FetchResponse](t, w.at["west"], req).Topics[0].Partitions[0]
		if len(p.RecordBatches) > 0 {
			t.Fatalf("records %v", got(t, p))
		}
		return p.ErrorCode == kerr.OffsetOutOfRange.Code && p.LogStartOffset == base+9
	})
}

// A client at the active site reads through another gateway, which does not know who leads
// there, and gets no answer: its partitions of other groups wait no longer for that than they
// do with any dark site.
func TestADarkSiteOfOnesOwnHoldsNothingUp(t *testing.T) {
	t.Parallel()
	var dark atomic.Bool
	w := gatewaytest.Start(t, gatewaytest.Options{
		Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1, "carts": 1}, Gateways: []spillway.GatewayID{"east", "west"},
		Group: func(g *spillway.FailoverGroup) {
			g.Topics, g.Reads, g.FreshnessMax = []string{"orders"}, spillway.ReadsStandby, time.Hour
		},
		Also: []func(*spillway.FailoverGroup){func(g *spillway.FailoverGroup) {
			g.Name, g.Topics, g.ConsumerGroups, g.Sites = "carts", []string{"carts"}, []string{"carts-*"}, []spillway.SiteID{"west", "east"}
		}},
		Gateway: func(c *federation.Config) {
			if c.Site = spillway.SiteID(c.ID); c.Site == "west" {
				c.Sites = maps.Clone(c.Sites)
				c.Sites["east"] = unanswering{c.Sites["east"], &dark}
			}
		},
	})
	c := raw(t, w.Addrs[1])
	if code, _ := produced(do[*kmsg.ProduceResponse](t, c, produceRequest("carts", nil))); code != 0 {
		t.Fatalf("error %d", code)
	}
	req := fetchRequest(base, 5*time.Second)
	req.Rack = "east"
	carts := fetchRequest(base, 0).Topics[0]
	carts.Topic = "carts"
	req.Topics = append(req.Topics, carts)
	dark.Store(true)
	began := time.Now()
	resp := do[*kmsg.FetchResponse](t, c, req)
	if p := resp.Topics[1].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 || time.Since(began) > darkMax {
		t.Errorf("after %s: %v, %d bytes", time.Since(began), kerr.ErrorForCode(p.ErrorCode), len(p.RecordBatches))
	}
}

// unanswering is a cluster that does not answer who leads.
type unanswering struct {
	broker.Cluster
	dark *atomic.Bool
}

func (c unanswering) Leader(ctx context.Context, tp spillway.TopicPartition) (int32, error) {
	if c.dark.Load() {
		<-ctx.Done()
		return -1, ctx.Err()
	}
	return c.Cluster.Leader(ctx, tp)
}
