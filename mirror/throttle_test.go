package mirror

import (
	"strings"
	"sync"
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
	"spillway/mirror/workers"
)

func TestThrottled(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(seconds float64) time.Time { return now.Add(time.Duration(seconds * float64(time.Second))) }
	var known throttled
	for _, step := range []struct {
		what     string
		bytes    int
		pause    time.Duration
		bytesMax int
		until    float64
	}{
		{"a short pause bounds nothing", 1 << 20, 500 * time.Millisecond, 0, 0.5},
		{"a long one makes requests small", 8 << 20, 16 * time.Second, 512 << 10, 17},
		{"they grow when the pauses are short", 512 << 10, 500 * time.Millisecond, 1 << 20, 2.5},
		{"and not without measure", 1 << 20, 10 * time.Millisecond, 2 << 20, 3.01},
		{"and when there are none", 2 << 20, 0, 4 << 20, 3.01},
		{"never below a least", 1 << 20, time.Hour, throttledBytesMin, 3605},
	} {
		seconds := map[string]float64{"a short pause bounds nothing": 0, "a long one makes requests small": 1}[step.what]
		switch {
		case step.bytesMax == 1<<20:
			seconds = 2
		case step.bytesMax == 2<<20:
			seconds = 3
		case step.bytesMax == throttledBytesMin:
			seconds = 5
		}
		known.answered(step.bytes, step.pause, at(seconds))
		if known.bytesMax != step.bytesMax || known.until.Sub(at(step.until)).Abs() > time.Millisecond {
			t.Errorf("%s: %d bytes, until %s", step.what, known.bytesMax, known.until.Sub(now))
		}
	}
	over := at(5).Add(time.Hour)
	if !known.lately(at(5)) || !known.lately(over.Add(throttledFor-time.Second)) || known.lately(over.Add(throttledFor)) || (*throttled)(nil).lately(now) {
		t.Error("lately is for so long behind the pause, and no longer")
	}
}

// A pause that the source wants begins when its answer comes, not when the lane takes it.
func TestAPauseOfTheSourceBeginsWithItsAnswer(t *testing.T) {
	t.Parallel()
	l := &lane{m: &Mirror{events: &Events{}}, flow: &flow{source: &source{site: "east"}}}
	came := time.Now().Add(-time.Minute)
	l.sourceThrottles(time.Second, came)
	if want := came.Add(time.Second); !l.sourceMuted.Equal(want) {
		t.Errorf("quiet until %s behind the answer, want a second", l.sourceMuted.Sub(came))
	}
}

// scripted is a site of two brokers with two partitions of orders, led by leaders.
func scripted(t *testing.T, id spillway.SiteID, leaders ...int32) (*kfake.Cluster, broker.Cluster) {
	t.Helper()
	server, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(2, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	site, err := kafka.New(kafka.Config{Site: id, Bootstrap: server.ListenAddrs(), Capabilities: embedded.Capabilities(false)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = site.Close() })
	for p, leader := range leaders {
		if err := server.MoveTopicPartition("orders", int32(p), leader); err != nil {
			t.Fatal(err)
		}
	}
	return server, site
}

func fill(t *testing.T, server *kfake.Cluster, each int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(server.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range 2 * each {
		if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "orders", Partition: int32(i % 2), Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// refuse answers a produce with an error that may pass, and a throttle time.
func refuse(req *kmsg.ProduceRequest, pause time.Duration) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	resp.ThrottleMillis = int32(pause.Milliseconds())
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
	return resp
}

// A broker that wants a pause gets nothing before it is over, and the partitions of the
// others go on meanwhile: at the target, and at the source.
func TestABrokerThatThrottlesHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	const each = 30
	for name, side := range map[string]struct {
		key    int16
		target bool
		second int32 // leader of the second partition at the source: one lane, or two
	}{"target": {0, true, 0}, "source": {1, false, 1}} {
		t.Run(name, func(t *testing.T) {
			eastServer, east := scripted(t, "east", 0, side.second)
			westServer, west := scripted(t, "west", 0, 1)
			fill(t, eastServer, each)
			server := eastServer
			if side.target {
				server = westServer
			}
			var mu sync.Mutex
			asked := 0
			var told []ThrottleInfo
			server.ControlKey(side.key, func(r kmsg.Request) (kmsg.Response, error, bool) {
				server.KeepControl()
				mu.Lock()
				defer mu.Unlock()
				if server.CurrentNode() != 1 {
					return nil, nil, false
				}
				switch req := r.(type) {
				case *kmsg.ProduceRequest:
					if req.Topics[0].Topic == "orders" {
						asked++
						return refuse(req, time.Hour), nil, true
					}
				case *kmsg.FetchRequest:
					if len(req.Topics) > 0 && req.Topics[0].Topic == "orders" && req.MaxWaitMillis == 50 { // of a flow
						asked++
						resp := req.ResponseKind().(*kmsg.FetchResponse)
						resp.ThrottleMillis = int32(time.Hour.Milliseconds())
						return resp, nil, true
					}
				}
				return nil, nil, false
			})
			eastM := testMirror(t, east)
			westM := testMirrorWith(t, Config{Local: west, Events: Events{Throttled: func(i ThrottleInfo) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, i)
			}}}, east)
			assign(t, eastM, ordersAssignment("", 1))
			assign(t, westM, ordersAssignment("east", 1))
			share, base := ordersAssignment("", 1).Share, ordersAssignment("", 1).OffsetBase
			ahead, behind := spillway.TopicPartition{Topic: "orders"}, spillway.TopicPartition{Topic: "orders", Partition: 1}
			eventually(t, "the broker has asked for a pause", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(told) > 0
			})
			fill(t, eastServer, each)
			eventually(t, "the other broker's partition is there", func() bool { return westM.Ends(share)[ahead] >= base+2*each })
			if end := westM.Ends(share)[behind]; end > base {
				t.Errorf("the partition of the broker that throttles is at %d", end)
			}
			mu.Lock()
			defer mu.Unlock()
			if asked != 1 || len(told) != 1 {
				t.Errorf("the broker was asked %d times, and %d pauses were told", asked, len(told))
			}
			if i := told[0]; i.Node != 1 || i.Target != side.target || i.Pause < time.Minute {
				t.Errorf("told %+v", i)
			}
		})
	}
}

// What was planned when a pause came is written when it is over, once and in order.
func TestAPlanGoesOnBehindAPause(t *testing.T) {
	t.Parallel()
	eastServer, east := scripted(t, "east", 0, 0)
	westServer, west := scripted(t, "west", 0, 1)
	var mu sync.Mutex
	pauses, early := 0, 0
	var quiet time.Time
	westServer.ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
		westServer.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		req := r.(*kmsg.ProduceRequest)
		if req.Topics[0].Topic != "orders" || westServer.CurrentNode() != 1 {
			return nil, nil, false
		}
		if time.Now().Before(quiet) {
			early++
		}
		if pauses++; pauses%3 == 0 {
			return nil, nil, false
		}
		const pause = 100 * time.Millisecond
		quiet = time.Now().Add(pause)
		return refuse(req, pause), nil, true
	})
	eastM := testMirror(t, east)
	westM := testMirrorWith(t, Config{Local: west}, east)
	assign(t, eastM, ordersAssignment("", 1))
	fill(t, eastServer, 20)
	assign(t, westM, ordersAssignment("east", 1))
	eventually(t, "west has all", func() bool { return caughtUp(testContext(t), east, eastM, westM, ordersAssignment("", 1)) })
	for p := range int32(2) {
		compareSites(t, east, west, eastM, westM, spillway.TopicPartition{Topic: "orders", Partition: p})
	}
	mu.Lock()
	defer mu.Unlock()
	if early > 0 || pauses < 20 {
		t.Errorf("%d requests, %d of them before the end of a pause", pauses, early)
	}
}

// A batch that is refused with a pause each time is reported as one that is refused
// without: it is put aside in between, and its time goes on.
func TestARefusalWithPausesIsReported(t *testing.T) {
	t.Parallel()
	eastServer, east := scripted(t, "east", 0, 0)
	westServer, west := scripted(t, "west", 0, 1)
	var asked atomic.Int64
	westServer.ControlKey(0, func(r kmsg.Request) (kmsg.Response, error, bool) {
		westServer.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		if req.Topics[0].Topic != "orders" || westServer.CurrentNode() != 1 {
			return nil, nil, false
		}
		asked.Add(1)
		return refuse(req, resendMax*6/10), nil, true
	})
	eastM := testMirror(t, east)
	westM := testMirrorWith(t, Config{Local: west}, east)
	assign(t, eastM, ordersAssignment("", 1))
	fill(t, eastServer, 3)
	assign(t, westM, ordersAssignment("east", 1))
	behind := spillway.TopicPartition{Topic: "orders", Partition: 1}
	eventually(t, "the refusal is reported", func() bool {
		flows := westM.Flows()
		return len(flows) == 1 && strings.Contains(flows[0].Problems[behind], kerr.NotEnoughReplicas.Message)
	})
	if n := asked.Load(); n < 2 {
		t.Errorf("it was tried %d times", n)
	}
}

// A partition that another worker asks for stays while the fate of a batch is open that
// waits for the end of a pause, and goes when it is known.
func TestAnOpenBatchIsNotHandedOver(t *testing.T) {
	t.Parallel()
	m := &Mirror{events: &Events{}}
	m.crew = &crew{m: m}
	m.crew.mu.away, m.crew.mu.holders = true, map[string]int{"orders": 1} // all is asked back
	m.crew.mu.worker = workers.New("one", "", "", workers.Limits{}, nil)
	f := newFlow(m, ordersAssignment("east", 1), &source{site: "east"}, nil)
	lease := &crewLease{c: m.crew, key: "orders"}
	p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders"}, lease: lease, position: position{bound: noBound}}
	put := &planned{partition: p, unsure: true}
	l := &lane{m: m, flow: f, looked: -1, parts: map[spillway.TopicPartition]*partition{p.TopicPartition: p},
		resting: make(map[spillway.TopicPartition]time.Time), parked: map[spillway.TopicPartition]*planned{p.TopicPartition: put}}
	arrive := func() bool {
		if err := l.arrive(t.Context()); err != nil {
			t.Fatal(err)
		}
		return l.parts[p.TopicPartition] == nil && lease.released.Load()
	}
	for range 2 {
		if arrive() || lease.released.Load() {
			t.Fatal("it was handed over while a batch of it may come yet")
		}
	}
	put.unsure = false
	if !arrive() {
		t.Error("it was not handed over when nothing of it was on its way")
	}
}
