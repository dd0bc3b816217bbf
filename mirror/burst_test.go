package mirror

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/mirror/sitelog"
)

// small writes n batches of one record each to a partition of a site.
func small(t *testing.T, addresses []string, n int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addresses...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range n {
		if err := client.ProduceSync(testContext(t), &kgo.Record{Topic: "orders", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// Busy producers that do not wait write small batches, a hundred a second and more
// in each partition. One round trip for each would let the mirror fall behind.
func TestBatchesOfAPartitionTravelTogether(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	eastM := testMirror(t, east, west)
	var sent, batches atomic.Int64
	westM := testMirrorWith(t, Config{Local: west, Events: Events{BatchMirrored: func(BatchInfo) { batches.Add(1) }}, Crash: func(point string) {
		if point == "afterProduceSent" {
			sent.Add(1)
		}
	}}, east)
	assign(t, eastM, ordersAssignment("", 1))
	const written = 200
	small(t, east.Addresses(), written)
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool {
		return caughtUp(testContext(t), east, eastM, westM, ordersAssignment("", 1))
	})
	compareSites(t, east, west, eastM, westM, spillway.TopicPartition{Topic: "orders"})
	if batches.Load() != written || sent.Load() > written/burstMax+10 {
		t.Errorf("%d batches were mirrored, with %d waits for an answer", batches.Load(), sent.Load())
	}
}

// A broker that refuses one of the batches that travel together refuses those behind
// it by their sequences. An answer that is lost in the middle may be that of a batch
// that is there. Either way each record is there once, in order.
func TestARefusalInTheMiddleOfABurst(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*kfake.Cluster, *kmsg.ProduceRequest) (kmsg.Response, error, bool){
		"refused": func(_ *kfake.Cluster, req *kmsg.ProduceRequest) (kmsg.Response, error, bool) {
			resp := req.ResponseKind().(*kmsg.ProduceResponse)
			for _, t := range req.Topics {
				rt := kmsg.NewProduceResponseTopic()
				rt.Topic = t.Topic
				for _, p := range t.Partitions {
					rp := kmsg.NewProduceResponseTopicPartition()
					rp.Partition, rp.ErrorCode, rp.BaseOffset = p.Partition, kerr.NotEnoughReplicas.Code, -1
					rt.Partitions = append(rt.Partitions, rp)
				}
				resp.Topics = append(resp.Topics, rt)
			}
			return resp, nil, true
		},
		"connection lost": func(*kfake.Cluster, *kmsg.ProduceRequest) (kmsg.Response, error, bool) {
			return nil, fmt.Errorf("gone"), true
		},
	} {
		t.Run(name, func(t *testing.T) {
			east := embeddedSite(t, "east", map[string]int32{"orders": 1})
			server, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(server.Close)
			west, err := kafka.New(kafka.Config{Site: "west", Bootstrap: server.ListenAddrs(), Capabilities: embedded.Capabilities(false)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = west.Close() })
			var faults, requests atomic.Int64
			server.ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
				server.KeepControl()
				req := r.(*kmsg.ProduceRequest)
				if len(req.Topics) == 0 || req.Topics[0].Topic != "orders" || requests.Add(1)%7 != 0 {
					return nil, nil, false
				}
				faults.Add(1)
				return fault(server, req)
			})
			eastM := testMirror(t, east)
			westM := testMirrorWith(t, Config{Local: west}, east)
			assign(t, eastM, ordersAssignment("", 1))
			small(t, east.Addresses(), 100)
			assign(t, westM, ordersAssignment("east", 1))
			tp := spillway.TopicPartition{Topic: "orders"}
			eventually(t, "west has all", func() bool {
				return caughtUp(testContext(t), east, eastM, westM, ordersAssignment("", 1))
			})
			compareSites(t, east, west, eastM, westM, tp)
			ends, err := broker.Cluster(west).Admin().LogEnds(testContext(t), []spillway.TopicPartition{tp})
			if err != nil || ends[tp] != 100 {
				t.Errorf("west's log ends at %d, %v: a record is there twice", ends[tp], err)
			}
			if faults.Load() < 10 {
				t.Errorf("%d faults of %d requests", faults.Load(), requests.Load())
			}
			if gaps := westM.Map().Gaps(); len(gaps) != 0 {
				t.Errorf("gaps: %+v", gaps)
			}
		})
	}
}

// One batch travels alone where the broker may not know, or not remember, the
// session: it would take one whose predecessor it has refused.
func TestBurst(t *testing.T) {
	t.Parallel()
	now := time.Now()
	of := func(sequence int32, ages ...time.Duration) *planned {
		p := &planned{partition: &partition{position: position{sequence: sequence}}}
		for _, age := range ages {
			p.plan.batches = append(p.plan.batches, outgoing{maxTimestamp: now.Add(-age).UnixMilli()})
		}
		return p
	}
	east := embeddedSite(t, "east", nil)
	l := &lane{target: newTarget(nil, 0, nil), m: &Mirror{local: remembers{east}, config: Config{Now: func() time.Time { return now }}}}
	const old = 20 * time.Hour
	for name, c := range map[string]struct {
		left []*planned
		want []int
	}{
		"nothing":                       {nil, nil},
		"a session that is new":         {[]*planned{of(0, 0, 0, 0)}, []int{1}},
		"a session that is known":       {[]*planned{of(9, 0, 0, 0)}, []int{1, 1, 1}},
		"no more than are remembered":   {[]*planned{of(9, 0, 0, 0, 0, 0, 0, 0)}, []int{1, 1, 1, 1, 1}},
		"an aged batch first":           {[]*planned{of(9, old, 0, 0)}, []int{1}},
		"an aged batch behind":          {[]*planned{of(9, 0, 0, old, 0)}, []int{1, 1}},
		"each partition as it is":       {[]*planned{of(0, 0, 0), of(9, 0, 0), of(9, 0, 0, 0)}, []int{3, 2, 1}},
		"only what is left of the plan": {[]*planned{func() *planned { p := of(9, 0, 0, 0); p.next = 2; return p }()}, []int{1}},
	} {
		var got []int
		for _, r := range l.burst(c.left) {
			got = append(got, len(r.parts))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: rounds %v, want %v", name, got, c.want)
		}
	}
}

// A request names so many partitions, and those of other brokers go beside it.
func TestARequestHasRoomForSoMany(t *testing.T) {
	t.Parallel()
	l := &lane{target: newTarget(nil, 0, nil), m: &Mirror{config: Config{Now: time.Now}}}
	var left []*planned
	for i := range int32(producedAtOnce + 10) {
		p := &planned{partition: &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: i}}, plan: plan{batches: make([]outgoing, 1)}}
		left = append(left, p)
		l.target.leads[p.TopicPartition] = i / (producedAtOnce + 5) // the last five are another's
	}
	rounds := l.burst(left)
	if len(rounds) != 1 || len(rounds[0].parts) != producedAtOnce+5 || rounds[0].parts[producedAtOnce].Partition != producedAtOnce+5 {
		t.Errorf("%d rounds, the first of %d partitions", len(rounds), len(rounds[0].parts))
	}
}

// A broker that takes nothing is waited for once, however many requests its partitions
// would fill; those of others, and of one that takes something, are still sent.
func TestABrokerThatTakesNothingIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	m := &Mirror{events: &Events{}, site: "west", budget: newBudget(MemoryBytesDefault)}
	l := newLane(t.Context(), newFlow(m, ordersAssignment("east", 1), &source{site: "east"}, nil), 1)
	r := &round{answers: make(map[spillway.TopicPartition]sitelog.Produced)}
	refusals := make(map[*planned]sitelog.Produced)
	var left []*planned
	long := time.Now().Add(-2 * resendMax)
	for i, c := range []struct {
		node  int32
		sent  bool
		since time.Time
	}{
		{node: 1}, {node: 2}, {node: 3}, // had no room
		{1, true, long}, {1, true, time.Now()}, {2, true, time.Now()}, {3, true, long},
	} {
		p := &planned{partition: &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: int32(i)}}, since: c.since}
		l.parts[p.TopicPartition], l.target.leads[p.TopicPartition] = p.partition, c.node
		if c.sent {
			r.answers[p.TopicPartition] = sitelog.Produced{Err: errUnsure}
			refusals[p] = r.answers[p.TopicPartition]
		}
		left = append(left, p)
	}
	var stay []int32
	for _, p := range l.withoutLate(left, []*round{r}, refusals, map[int32]bool{3: true}, false) {
		stay = append(stay, p.Partition)
	}
	if want := []int32{1, 2, 4, 5}; !slices.Equal(stay, want) {
		t.Errorf("%v stay, want %v", stay, want)
	}
	if back := l.flow.mu.back; len(back) != 3 || !strings.Contains(back[2].why.problem, errUnsure.Error()) || !back[2].why.open {
		t.Errorf("handed back: %+v", back)
	}
}

// remembers is a site that says how long it remembers producers.
type remembers struct{ broker.Cluster }

func (r remembers) Capabilities() broker.Capabilities {
	c := r.Cluster.Capabilities()
	c.ProducerExpiry = true
	return c
}
