package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/federation"
	"spillway/federation/coordination"
	"spillway/federation/failover"
	"spillway/federation/gatewaytest"
)

// writer produces numbered records until it is stopped, and keeps what it was told.
type writer struct {
	name    string
	stop    chan struct{}
	done    sync.WaitGroup
	sent    atomic.Int64
	mu      sync.Mutex
	offsets map[string]int64 // by value
	errs    []error
}

func startWriter(t *testing.T, w *gatewaytest.World, name string, opts ...kgo.Opt) *writer {
	cl := client(t, w, append(opts, kgo.MaxBufferedRecords(200), kgo.ProducerLinger(0))...)
	wr := &writer{name: name, stop: make(chan struct{}), offsets: make(map[string]int64)}
	wr.done.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-wr.stop:
				if err := cl.Flush(context.Background()); err != nil {
					t.Error(err)
				}
				return
			default:
			}
			r := &kgo.Record{Topic: "orders", Value: fmt.Appendf(nil, "%s-%06d", name, n)}
			wr.sent.Add(1)
			cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
				wr.mu.Lock()
				defer wr.mu.Unlock()
				if err != nil {
					wr.errs = append(wr.errs, err)
					return
				}
				wr.offsets[string(r.Value)] = r.Offset
			})
			time.Sleep(200 * time.Microsecond)
		}
	})
	return wr
}

func (wr *writer) acked() int {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	return len(wr.offsets)
}

func (wr *writer) end(t *testing.T) {
	t.Helper()
	close(wr.stop)
	wr.done.Wait()
	for _, err := range wr.errs {
		t.Errorf("%s: %v", wr.name, err)
	}
}

// checkLog holds what the writers were told against the log of a site in which
// a term's numbering is constant.
func checkLog(t *testing.T, w *gatewaytest.World, site spillway.SiteID, writers ...*writer) {
	t.Helper()
	total := 0
	for _, wr := range writers {
		total += len(wr.offsets)
	}
	next := make(map[string]int)
	for _, r := range siteLog(t, w, site, "orders", total) {
		name, n := string(r.Value[:len(r.Value)-7]), 0
		if _, err := fmt.Sscanf(string(r.Value[len(r.Value)-6:]), "%d", &n); err != nil {
			t.Fatal(err)
		}
		if n != next[name] {
			t.Fatalf("%s/%d: %s follows %s-%06d", site, r.Offset, r.Value, name, next[name]-1)
		}
		next[name]++
		for _, wr := range writers {
			if told, ok := wr.offsets[string(r.Value)]; ok && told != gatewaytest.OffsetBase+r.Offset {
				t.Fatalf("%s was acknowledged at %d, and is at %d", r.Value, told, gatewaytest.OffsetBase+r.Offset)
			}
		}
	}
	for _, wr := range writers {
		if next[wr.name] != int(wr.sent.Load()) {
			t.Errorf("%s wrote %d records, %d are in the log", wr.name, wr.sent.Load(), next[wr.name])
		}
	}
}

var twoSites = gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1}, Brokers: 2}

func TestSwitchoversKeepOrder(t *testing.T) { switchoversKeepOrder(t, twoSites) }

func switchoversKeepOrder(t *testing.T, o gatewaytest.Options) {
	w := gatewaytest.Start(t, o)
	writers := []*writer{
		startWriter(t, w, "idempotent"),
		startWriter(t, w, "plain", kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5)),
		startWriter(t, w, "leader", kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())),
	}
	east, west := o.Sites[0], o.Sites[1]
	for i, site := range []spillway.SiteID{west, east, west} {
		before := writers[0].acked()
		gatewaytest.Eventually(t, "producers go on", func() bool { return writers[0].acked() > before+100 })
		w.Fence(site, failover.Switchover)
		if w.Report(spillway.Epoch(i+2), "gateway-1").Unsure {
			t.Errorf("move %d: unsure though all was answered", i)
		}
		w.Open(0, 0)
	}
	before := writers[0].acked()
	gatewaytest.Eventually(t, "producers go on", func() bool { return writers[0].acked() > before+100 })
	for _, wr := range writers {
		wr.end(t)
	}
	checkLog(t, w, west, writers...)
}

// raises notes each write of reserved ends by one gateway.
type raises struct {
	coordination.Store
	key string
	by  func()
}

func (s raises) Put(ctx context.Context, key string, value []byte, version uint64) (uint64, error) {
	if key == s.key {
		s.by()
	}
	return s.Store.Put(ctx, key, value, version)
}

// A gateway of the site that a switchover is about to open raises the reserved ends
// of the new epoch while clients are held; those of other sites leave it to it, and
// the first record is acknowledged without another write.
func TestTheTargetsGatewayReservesAhead(t *testing.T) {
	t.Parallel()
	at := map[spillway.GatewayID]spillway.SiteID{"gateway-1": "east", "gateway-2": "west"}
	var mu sync.Mutex
	var by []spillway.GatewayID
	w := gatewaytest.Start(t, gatewaytest.Options{Sites: []spillway.SiteID{"east", "west"}, Topics: map[string]int32{"orders": 1},
		Gateways: []spillway.GatewayID{"gateway-1", "gateway-2"}, Gateway: func(c *federation.Config) {
			c.Site = at[c.ID]
			c.Store = raises{c.Store, failover.Keys(c.Topology.Name()).Reserved(gatewaytest.ShareID), func() {
				mu.Lock()
				defer mu.Unlock()
				by = append(by, c.ID)
			}}
		}})
	reserved := func() (r failover.Reserved) {
		e, err := w.Store.Get(t.Context(), w.Keys.Reserved(gatewaytest.ShareID))
		if err != nil {
			return r
		}
		if err := json.Unmarshal(e.Value, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	w.Fence("west", failover.Switchover)
	if got := reserved(); got.Epoch >= 2 {
		t.Errorf("reserved before the cutover is known: %+v", got)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	w.SetShare(func(s *failover.Share) {
		s.State, s.Start = failover.Cutover, failover.PartitionOffsets{"orders": {gatewaytest.OffsetBase}}
	})
	gatewaytest.Eventually(t, "epoch 2 is reserved", func() bool {
		got := reserved()
		return got.Epoch == 2 && got.Ends.Get(tp) > gatewaytest.OffsetBase
	})
	w.Open(0, 0)
	if err := client(t, w).ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("first")}).FirstErr(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(by, []spillway.GatewayID{"gateway-2"}) {
		t.Errorf("raised by %v", by)
	}
}

// The answers of the last batches are lost and their connections die: what the
// clients send again is at the new site already, under the mirror's id. The
// trail recognizes it (experiments L3, "lost answers").
func TestLostAnswersAreFoundInTheTrail(t *testing.T) { lostAnswers(t, twoSites) }

func lostAnswers(t *testing.T, o gatewaytest.Options) {
	duplicates := atomic.Int64{}
	o.Gateway = func(c *federation.Config) {
		c.DrainMax = 300 * time.Millisecond
		c.Events.Router.FirstContact = func(outcome string) {
			if outcome == "duplicate" {
				duplicates.Add(1)
			}
		}
	}
	w := gatewaytest.Start(t, o)
	wr := startWriter(t, w, "idempotent")
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > 100 })
	w.Wires[o.Sites[0]].Mute()
	before := wr.sent.Load()
	gatewaytest.Eventually(t, "requests are on their way", func() bool { return wr.sent.Load() > before+50 })
	w.Fence(o.Sites[1], failover.Failover)
	if !w.Report(2, "gateway-1").Unsure {
		t.Error("the gateway is sure, though answers were lost")
	}
	w.Open(0, 0)
	acked := wr.acked()
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > acked+100 })
	wr.end(t)
	checkLog(t, w, o.Sites[1], wr)
	if duplicates.Load() == 0 {
		t.Error("no batch was found in the trail: the test shows nothing")
	}
}

// A commit is on its way to a site whose network has become a black hole. The
// gateway gives it up and looks for the site again, which gets no answer either;
// the failover does not wait for that.
func TestACommitIntoABlackHoleHoldsUpNoMove(t *testing.T) {
	t.Parallel()
	o := twoSites
	o.Gateway = func(c *federation.Config) { c.DrainMax = 300 * time.Millisecond }
	w := gatewaytest.Start(t, o)
	c := raw(t, w.Addrs[0])
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version, commit.Group, commit.Generation = 7, "readers", -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "orders", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: gatewaytest.OffsetBase, LeaderEpoch: -1}}}}
	if resp := do[*kmsg.OffsetCommitResponse](t, c, commit); resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("error %d", resp.Topics[0].Partitions[0].ErrorCode)
	}
	w.Wires["east"].Mute()
	before := w.Wires["east"].Sent(commit.Key())
	c.Send(context.Background(), commit.Key(), commit.Version, true, commit.AppendTo(nil))
	gatewaytest.Eventually(t, "the commit is on its way", func() bool { return w.Wires["east"].Sent(commit.Key()) > before })
	w.Fence("west", failover.Failover)
	w.Open(0, 0)
}

// Acknowledged records are lost. This gateway acknowledged them itself, so it
// knows that nothing is missing and lets the producer go on at once.
func TestLossOfAcknowledgedRecordsStopsNobody(t *testing.T) { lossStopsNobody(t, twoSites) }

func lossStopsNobody(t *testing.T, o gatewaytest.Options) {
	o.Gateway = func(c *federation.Config) { c.Router.OutstandingMax = time.Hour }
	w := gatewaytest.Start(t, o)
	wr := startWriter(t, w, "idempotent")
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > 200 })
	w.Fence(o.Sites[1], failover.Failover)
	w.Open(50, 1000)
	acked := wr.acked()
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > acked+100 })
	wr.end(t)
}

// The gateway that acknowledged the lost records is gone too. Another one
// cannot know whether something is missing, but franz-go sends a refused batch
// again only when nothing older is in flight, and then it may go.
func TestAnotherGatewayAfterLoss(t *testing.T) {
	t.Parallel()
	o := twoSites
	o.Gateways = []spillway.GatewayID{"gateway-1", "gateway-2"}
	o.Gateway = func(c *federation.Config) {
		c.Limits.LingerMax, c.Router.OutstandingMax = 100*time.Millisecond, time.Hour
	}
	w := gatewaytest.Start(t, o)
	wr := startWriter(t, w, "idempotent", kgo.MetadataMinAge(10*time.Millisecond))
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > 200 })
	w.Fence("west", failover.Failover)
	l := w.LayOut("east")
	n, _ := l.Leader(gatewaytest.ShareID, spillway.TopicPartition{Topic: "orders"}, -1)
	w.StopGateway(n.Gateway)
	w.LayOut("east")
	w.Open(50, 1000)
	acked := wr.acked()
	gatewaytest.Eventually(t, "the producer goes on", func() bool { return wr.acked() > acked+100 })
	wr.end(t)
	tp := spillway.TopicPartition{Topic: "orders"}
	ends, err := w.Direct["west"].Admin().LogEnds(within(t, soon), []spillway.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, r := range siteLog(t, w, "west", "orders", int(ends[tp])) {
		if string(r.Value) <= last {
			t.Fatalf("%s follows %s", r.Value, last)
		}
		last = string(r.Value)
	}
}

// A share comes home while a retry is outstanding that its home site took before:
// what a site wrote itself is in no trail of its own, and its brokers do not know
// the producer under the new mask. The trail of the site in between knows, also
// where it lost what came later.
func TestARetryIsRecognizedAtTheSiteThatTookIt(t *testing.T) {
	t.Parallel()
	w := gatewaytest.Start(t, gatewaytest.Options{Topics: map[string]int32{"orders": 1}, Sites: []spillway.SiteID{"east", "west"}})
	c := raw(t, w.Addrs[0])
	for _, sequence := range []int32{0, 2} {
		if code, _ := produced(do[*kmsg.ProduceResponse](t, c, sequenced(sequence, 5*time.Second))); code != 0 {
			t.Fatalf("sequence %d: error %d", sequence, code)
		}
	}
	w.Fence("west", failover.Failover)
	w.Open(2, 10) // the second batch is lost
	w.Fence("east", failover.Switchover)
	w.Open(0, 0)
	if code, offset := produced(do[*kmsg.ProduceResponse](t, c, sequenced(0, 5*time.Second))); code != 0 || offset != gatewaytest.OffsetBase {
		t.Errorf("error %d, offset %d: a batch that is there is no duplicate", code, offset)
	}
	if code, offset := produced(do[*kmsg.ProduceResponse](t, c, sequenced(2, 5*time.Second))); code != 0 || offset != gatewaytest.OffsetBase+12 {
		t.Errorf("error %d, offset %d: a batch that was lost was not written again", code, offset)
	}
}
