//go:build e2e

package federation_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker/kafka"
	"spillway/federation"
	"spillway/federation/gatewaytest"
	cluster "spillway/tests/cluster/kafka"
)

// Leaders move inside a site of three brokers, ten times under idempotent producers
// and ten times under plain ones: four of five by election, the fifth because the
// broker that leads is stopped in order and started again. Nothing is reordered or
// lost. Nothing of an idempotent producer comes twice, and it hears of no move.
func TestRealKafkaLeaderMoves(t *testing.T) {
	site := cluster.ForTest(t, cluster.Config{Brokers: 3})[0]
	told := &refusals{counts: make(map[string]int)}
	w := gatewaytest.Start(t, gatewaytest.Options{
		Real:    map[spillway.SiteID]gatewaytest.RealSite{"east": {Config: kafka.Config{Bootstrap: site.Bootstrap()}, Dial: site.Dial()}},
		Gateway: func(c *federation.Config) { c.Events.Router.Refused = told.add },
	})
	admin, err := kgo.NewClient(site.Dial()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	var nodes []int32
	for _, b := range site.Brokers {
		nodes = append(nodes, int32(b.Node))
	}
	createReplicated(t, admin, nodes)

	ibm := func(name string, change func(*sarama.Config)) *writer { return &startSarama(t, w, name, change).writer }
	idempotent := []*writer{
		startWriter(t, w, "franz-idempotent"),
		ibm("sarama-idempotent", func(c *sarama.Config) { c.Net.MaxOpenRequests, c.Producer.Idempotent = 1, true }),
	}
	moveLeaders(t, w, site, admin, nodes, idempotent)
	heard := told.take()
	fmt.Printf("measured: idempotent producers were refused, by reason: %v\n", heard)
	if heard["site"]+heard["behind-refused"]+heard["hold-over"] > 0 {
		t.Error("idempotent producers heard of moves")
	}
	plain := []*writer{
		startWriter(t, w, "franz-plain", kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5)),
		ibm("sarama-plain", func(c *sarama.Config) { c.Net.MaxOpenRequests = 5 }),
	}
	moveLeaders(t, w, site, admin, nodes, plain)
	fmt.Printf("measured: plain producers were refused, by reason: %v\n", told.take())

	ends, err := w.Direct["east"].Admin().LogEnds(within(t, 10*time.Second), []spillway.TopicPartition{ordersZero})
	if err != nil {
		t.Fatal(err)
	}
	log := siteLog(t, w, "east", "orders", int(ends[ordersZero]))
	for i, wr := range append(idempotent, plain...) {
		reordered, twice := inOrder(t, log, wr)
		fmt.Printf("measured: %s: %d sent, %d acknowledged, %d reordered, %d twice\n", wr.name, wr.sent.Load(), len(wr.offsets), reordered, twice)
		if reordered > 0 || i < len(idempotent) && twice > 0 {
			t.Errorf("%s: %d reordered, %d twice", wr.name, reordered, twice)
		}
	}
}

var ordersZero = spillway.TopicPartition{Topic: "orders"}

// refusals counts what the gateway refused, by reason.
type refusals struct {
	mu     sync.Mutex
	counts map[string]int
}

func (r *refusals) add(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[reason]++
}

func (r *refusals) take() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := r.counts
	r.counts = make(map[string]int)
	return counts
}

// moveLeaders moves the leader ten times while the producers work, and ends them.
func moveLeaders(t *testing.T, w *gatewaytest.World, site *cluster.Cluster, admin *kgo.Client, nodes []int32, producers []*writer) {
	t.Helper()
	goOn := func() {
		t.Helper()
		for _, p := range producers {
			before := p.acked()
			gatewaytest.Eventually(t, p.name+" goes on", func() bool { return p.acked() > before+100 })
		}
	}
	for i := range 10 {
		goOn()
		leader := leaderOf(t, w, ordersZero)
		if i%5 == 4 {
			b := site.Brokers[slices.Index(nodes, leader)]
			if err := b.Stop(); err != nil {
				t.Fatal(err)
			}
			goOn()
			if err := b.Start(within(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
		} else {
			elect(t, admin, nodes, nodes[(slices.Index(nodes, leader)+1)%len(nodes)])
		}
		gatewaytest.Eventually(t, "another broker leads", func() bool { return leaderOf(t, w, ordersZero) != leader })
	}
	goOn()
	for _, p := range producers {
		p.end(t)
	}
}

// inOrder counts records that come into the log for the first time before one
// that was sent earlier, and those that come twice. All must be there, and where
// the producer was told.
func inOrder(t *testing.T, log []*kgo.Record, wr *writer) (reordered, twice int) {
	t.Helper()
	seen, next, at := make(map[int]bool), 0, make(map[string][]int64)
	for _, r := range log {
		n := 0
		if name := string(r.Value[:len(r.Value)-7]); name != wr.name {
			continue
		}
		if _, err := fmt.Sscanf(string(r.Value[len(r.Value)-6:]), "%d", &n); err != nil {
			t.Fatal(err)
		}
		at[string(r.Value)] = append(at[string(r.Value)], gatewaytest.OffsetBase+r.Offset)
		switch {
		case seen[n]:
			twice++
			continue
		case n < next:
			reordered++
		}
		seen[n], next = true, max(next, n+1)
	}
	if int64(len(seen)) != wr.sent.Load() {
		t.Errorf("%s wrote %d records, %d are in the log", wr.name, wr.sent.Load(), len(seen))
	}
	for value, offset := range wr.offsets {
		if !slices.Contains(at[value], offset) {
			t.Errorf("%s was acknowledged at %d, and is at %v", value, offset, at[value])
		}
	}
	return reordered, twice
}

func createReplicated(t *testing.T, admin *kgo.Client, nodes []int32) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = "orders", -1, -1
	rt.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: nodes}}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(within(t, 10*time.Second), admin)
	if err != nil || resp.Topics[0].ErrorCode != 0 {
		t.Fatalf("create orders: %v, %+v", err, resp)
	}
}

// elect makes a broker the preferred leader and has it elected.
func elect(t *testing.T, admin *kgo.Client, nodes []int32, to int32) {
	t.Helper()
	replicas := slices.Clone(nodes)
	slices.SortStableFunc(replicas, func(a, b int32) int { return cmp.Compare(preference(a, to), preference(b, to)) })
	assign := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	assign.TimeoutMillis = 10_000
	at, ap := kmsg.NewAlterPartitionAssignmentsRequestTopic(), kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	at.Topic, ap.Replicas = "orders", replicas
	at.Partitions = append(at.Partitions, ap)
	assign.Topics = append(assign.Topics, at)
	elect := kmsg.NewPtrElectLeadersRequest()
	elect.TimeoutMillis = 10_000
	elect.Topics = []kmsg.ElectLeadersRequestTopic{{Topic: "orders", Partitions: []int32{0}}}
	gatewaytest.Eventually(t, "the leader is elected", func() bool {
		assigned, err := assign.RequestWith(within(t, 10*time.Second), admin)
		if err != nil || assigned.ErrorCode != 0 || assigned.Topics[0].Partitions[0].ErrorCode != 0 {
			return false
		}
		resp, err := elect.RequestWith(context.Background(), admin)
		return err == nil && resp.ErrorCode == 0 && (len(resp.Topics) == 0 || resp.Topics[0].Partitions[0].ErrorCode == 0)
	})
}

func preference(node, first int32) int {
	if node == first {
		return 0
	}
	return 1
}

func leaderOf(t *testing.T, w *gatewaytest.World, tp spillway.TopicPartition) int32 {
	t.Helper()
	md, err := w.Direct["east"].Metadata(within(t, 10*time.Second), tp.Topic)
	if err != nil {
		t.Fatal(err)
	}
	return md.Topics[tp.Topic].Partitions[tp.Partition].Leader
}
