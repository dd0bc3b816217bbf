//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/federation/direct"
	"spillway/federation/failover"
	"spillway/tests/orders"
	"spillway/tests/world"
)

// takeIn has the clients of a cluster change over to gateways one by one, as docs/operate/adopt.md
// says: members of one consumer group, half of them direct and half by a gateway, read what
// an idempotent producer of each kind writes to the same partitions, each record once and each
// producer's in its order. Who goes past the gateways is listed, and nothing moves until
// nobody does.
func takeIn(t *testing.T, w *world.World) {
	t.Helper()
	m := &mixed{t: t, w: w, next: make(map[string]int)}
	gateways, east := []kgo.Opt{kgo.SeedBrokers(w.Bootstrap...)}, w.Kafka["east"].Dial()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	found := func(want ...string) {
		t.Helper()
		w.Eventually(30*time.Second, fmt.Sprintf("found are %q", want), func() error {
			out, err := w.Run(t.Context(), "west", "failover-group", "clients", world.Group, "-o", "json")
			if err != nil {
				return err
			}
			var f direct.Found
			if err := json.Unmarshal([]byte(out), &f); err != nil {
				return err
			}
			var who []string
			for _, c := range f.Clients {
				switch c.Kind {
				case direct.KindMember:
					who = append(who, c.ID)
				default:
					who = append(who, c.Kind)
				}
			}
			if !slices.Equal(who, want) || len(f.Unread) > 0 {
				return errors.New(out)
			}
			return nil
		})
	}

	atBroker := m.produce(ctx, "old", 0, east...)
	atGateway := m.produce(ctx, "new", 0, gateways...)
	one, two := m.join(ctx, "desk-1", east...), m.join(ctx, "desk-2", east...)
	three, four := m.join(ctx, "desk-3", gateways...), m.join(ctx, "desk-4", gateways...)
	found("desk-1", "desk-2", direct.KindProducer)
	if _, err := w.Run(t.Context(), "west", "switchover", world.Group, "--to", "west", "--timeout", "1s"); err == nil || !strings.Contains(err.Error(), "member desk-1 of group mixed from ") || !strings.Contains(err.Error(), "adopting") {
		t.Fatalf("a switchover that leaves clients behind: %v", err)
	}
	out, err := w.Run(t.Context(), "west", "status", "-o", "json")
	if err != nil || !strings.Contains(out, "nothing moves and automatic failover is off") {
		t.Fatalf("%s, %v", out, err)
	}
	one()
	five := m.join(ctx, "desk-5", gateways...)
	found("desk-2", direct.KindProducer)
	sent := atBroker()
	atBroker = m.produce(ctx, "old", sent, gateways...)
	two()
	six := m.join(ctx, "desk-6", gateways...)
	found() // the producer has been quiet for as long as directQuiet says
	sent = atBroker() + atGateway()
	w.Eventually(60*time.Second, "all was read", func() error { return m.has(sent) })
	for _, leave := range []func(){three, four, five, six} {
		leave()
	}
	fmt.Printf("measured: %d records were read once and in order while all clients changed over\n", sent)

	w.Reconfigure(func(o *world.Options) { o.Extra = "" })
	w.Eventually(60*time.Second, "the adoption has ended", func() error {
		var share failover.Share
		if err := w.Share(t.Context(), "west", &share); err != nil {
			return err
		}
		if share.Adoption != nil {
			return fmt.Errorf("%+v", share.Adoption)
		}
		return w.Healthy(t.Context())
	})
}

// mixed is one topic that clients of both kinds write and read.
type mixed struct {
	t *testing.T
	w *world.World

	mu   sync.Mutex
	next map[string]int // number of the next record, by producer and partition
	got  int
}

var mixedTopic = orders.Topics[1]

func (m *mixed) client(to []kgo.Opt, more ...kgo.Opt) *kgo.Client {
	m.t.Helper()
	c, err := kgo.NewClient(append(append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner())}, to...), more...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// produce writes numbers, each partition's own, until it is ended, which returns how many
// there are. It begins behind those that were written under its name before.
func (m *mixed) produce(ctx context.Context, name string, before int, to ...kgo.Opt) (end func() (sent int)) {
	m.t.Helper()
	c := m.client(to, kgo.ClientID("producer-"+name))
	ctx, cancel := context.WithCancel(ctx)
	done, sent := make(chan error, 1), before
	go func() {
		done <- func() error {
			defer c.Close()
			for ; ctx.Err() == nil; sent++ {
				p := int32(sent) % m.w.Options.Partitions
				r := &kgo.Record{Topic: mixedTopic, Partition: p, Value: []byte(fmt.Sprintf("%s %d", name, sent/int(m.w.Options.Partitions)))}
				if err := c.ProduceSync(context.WithoutCancel(ctx), r).FirstErr(); err != nil {
					return fmt.Errorf("producer %s, record %d: %w", name, sent, err)
				}
				time.Sleep(2 * time.Millisecond)
			}
			return nil
		}()
	}()
	return func() int {
		m.t.Helper()
		cancel()
		if err := <-done; err != nil {
			m.t.Fatal(err)
		}
		return sent
	}
}

// join has one more member read; it commits what it has before it gives partitions away.
func (m *mixed) join(ctx context.Context, clientID string, to ...kgo.Opt) (leave func()) {
	m.t.Helper()
	c := m.client(to, kgo.ClientID(clientID), kgo.ConsumerGroup("mixed"), kgo.ConsumeTopics(mixedTopic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			defer c.CloseAllowingRebalance()
			for ctx.Err() == nil {
				polled, end := context.WithTimeout(ctx, time.Second)
				records := c.PollRecords(polled, 50).Records()
				end()
				if err := m.take(clientID, records); err != nil {
					return err
				}
				if err := c.CommitRecords(context.WithoutCancel(ctx), records...); err != nil {
					return fmt.Errorf("%s commits: %w", clientID, err)
				}
				c.AllowRebalance()
			}
			return nil
		}()
	}()
	return func() {
		m.t.Helper()
		cancel()
		if err := <-done; err != nil {
			m.t.Fatal(err)
		}
	}
}

// take judges what a member has read.
func (m *mixed) take(who string, records []*kgo.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		producer, number, _ := strings.Cut(string(r.Value), " ")
		of := fmt.Sprintf("%s of partition %d", producer, r.Partition)
		if number != strconv.Itoa(m.next[of]) {
			return fmt.Errorf("%s read %s of %s at offset %d, want %d: it is lost, read again or out of order", who, number, of, r.Offset, m.next[of])
		}
		m.next[of]++
		m.got++
	}
	return nil
}

func (m *mixed) has(sent int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.got != sent {
		return fmt.Errorf("%d of %d were read", m.got, sent)
	}
	return nil
}
