package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/broker/embedded"
	"spillway/broker/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hanging is a site of three brokers of which some can be made to hang: they take
// connections and never answer.
type hanging struct {
	*kafka.Cluster
	addresses []string // by node
	hangs     [3]atomic.Bool
}

func newHanging(t *testing.T, topics map[string]int32) *hanging {
	t.Helper()
	server, err := embedded.Start(embedded.Config{Site: "east", Brokers: 3, Topics: topics})
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hanging{addresses: server.Addresses()}
	h.Cluster, err = kafka.New(kafka.Config{Site: "east", Bootstrap: h.addresses, Capabilities: embedded.Capabilities(false),
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			for i, a := range h.addresses {
				if a == address && h.hangs[i].Load() {
					address = silent.Addr().String()
				}
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = h.Close()
		_ = silent.Close()
		_ = server.Close()
	})
	return h
}

// ledBy lists the partitions of a topic that a node leads.
func (h *hanging) ledBy(t *testing.T, topic string, node int32) (led []string) {
	t.Helper()
	md, err := h.Metadata(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range md.Topics[topic].Partitions {
		if p.Leader == node {
			led = append(led, fmt.Sprintf("%s-%d", topic, p.Partition))
		}
	}
	return led
}

// A broker that takes connections and does not answer uses up the time of its own
// canaries only, whichever they are: the site is up, and those that are named are
// those of the broker that hangs.
func TestABrokerThatHangsIsNotTheSite(t *testing.T) {
	const canaries = 40 // leaders are drawn: with 9 one run in thirteen had a node that leads none
	h := newHanging(t, map[string]int32{CanaryTopic: canaries})
	for node := range int32(3) {
		led := h.ledBy(t, CanaryTopic, node)
		if len(led) == 0 || len(led) == canaries {
			t.Fatalf("node %d leads %v", node, led)
		}
		h.hangs[node].Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		r, err := Site(ctx, h)
		cancel()
		h.hangs[node].Store(false)
		if err != nil {
			t.Errorf("node %d hangs, and the site is called down: %v", node, err)
		}
		if !strings.HasPrefix(r.Failing, led[0]+": ") {
			t.Errorf("node %d, which leads %v, hangs, and it is said that %q", node, led, r.Failing)
		}
		if want := fmt.Sprintf("(and %d more of %d canaries)", len(led)-1, canaries); len(led) > 1 && !strings.HasSuffix(r.Failing, want) {
			t.Errorf("it is said that %q, want %q", r.Failing, want)
		}
	}
}

// All brokers hang: that is a site which does not work.
func TestASiteThatHangsIsDown(t *testing.T) {
	h := newHanging(t, map[string]int32{CanaryTopic: 3})
	h.ledBy(t, CanaryTopic, 0) // has a connection
	for i := range h.hangs {
		h.hangs[i].Store(true)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Site(ctx, h); err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
