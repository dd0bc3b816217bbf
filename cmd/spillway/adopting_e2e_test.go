//go:build e2e

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/federation/control"
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
func takeIn(t *testing.T, w *world.World, page *page) {
	t.Helper()
	m := &mixed{t: t, w: w, next: make(map[string]int)}
	gateways, east := []kgo.Opt{kgo.SeedBrokers(w.Bootstrap...)}, w.Kafka["east"].Dial()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	found := func(want ...string) {
		t.Helper()
		w.Eventually(30*time.Second, fmt.Sprintf("found are %q", want), func() error {
			out, err := page.run("failover-group clients shop", "-o", "json")
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
					who = append(who, cmp.Or(c.Instance, c.ID))
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
	static := func(to []kgo.Opt) []kgo.Opt {
		return append(slices.Clone(to), kgo.InstanceID("till-2"), kgo.SessionTimeout(6*time.Second))
	}
	one, two := m.join(ctx, "desk-1", east...), m.join(ctx, "desk-2", static(east)...)
	three, four := m.join(ctx, "desk-3", gateways...), m.join(ctx, "desk-4", gateways...)
	found("desk-1", "till-2", direct.KindProducer)
	if _, err := w.Run(t.Context(), "west", "switchover", world.Group, "--to", "west", "--timeout", "1s"); err == nil || !strings.Contains(err.Error(), "member desk-1 of group mixed from ") || !strings.Contains(err.Error(), "adopting") {
		t.Fatalf("a switchover that leaves clients behind: %v", err)
	}
	out, err := w.Run(t.Context(), "west", "status", "-o", "json")
	if err != nil || !strings.Contains(out, "nothing moves and automatic failover is off") {
		t.Fatalf("%s, %v", out, err)
	}
	one()
	five := m.join(ctx, "desk-5", gateways...)
	plain := m.plain(ctx, east...)
	found("till-2", direct.KindProducer, direct.KindUnknown)
	plain()
	plain = m.plain(ctx, gateways...)
	sent := atBroker()
	atBroker = m.produce(ctx, "old", sent, gateways...)
	two()
	six := m.join(ctx, "desk-6", static(gateways)...) // the same member, since it has an instance id
	found()                                           // the producer has been quiet for as long as directQuiet says
	plain()
	sent = atBroker() + atGateway()
	w.Eventually(60*time.Second, "all was read", func() error { return m.has(sent) })
	for _, leave := range []func(){three, four, five, six} {
		leave()
	}
	fmt.Printf("measured: %d records were read once and in order while all clients changed over\n", sent)

	w.Reconfigure(func(o *world.Options) { o.Extra = "" })
	// A static member does not leave, and the gateways that knew it were started anew.
	// One look does not know that the producer has gone: the loop has to say so.
	w.Eventually(90*time.Second, "the dry run says that it may end", func() error {
		out, err := page.run("failover-group end-adoption shop --dry-run")
		if (err != nil || !strings.Contains(out, "no client was found at east past the gateways")) && !strings.Contains(fmt.Sprint(err), "is not adopting") {
			return fmt.Errorf("%s, %w", out, err)
		}
		return nil
	})
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
	if _, err := page.run("failover-group end-adoption shop --accept direct-clients --why 'nightly job, switched off next week'"); !strings.Contains(fmt.Sprint(err), "is not adopting") {
		t.Fatalf("it has ended: %v", err)
	}
}

// takeOut has all consumer groups leave Spillway at east, which serves them.
func takeOut(t *testing.T, w *world.World, page *page) {
	t.Helper()
	for _, line := range []string{"failover-group leave shop --site east --dry-run", "failover-group leave shop --site east"} {
		out, err := page.run(line, "--accept", "not-adopting", "-o", "json") // the group has moved since, so it is not
		if err != nil {
			t.Fatal(err)
		}
		var l control.Leaving
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			t.Fatal(err)
		}
		var groups []string
		for _, g := range l.Groups {
			groups = append(groups, g.Group)
			for _, p := range g.Positions {
				if p.Virtual < 700_000 || p.Local >= 700_000 { // the offset base of the world
					t.Errorf("%+v", p)
				}
			}
			if len(g.Positions) == 0 || g.Left == l.DryRun {
				t.Errorf("%+v", g)
			}
		}
		if !slices.Equal(groups, []string{"desk", "mixed"}) || !slices.Equal(l.Bootstrap, w.Kafka["east"].Bootstrap()) {
			t.Errorf("%+v", l)
		}
	}
}

// page is one of the docs whose commands are run.
type page struct {
	t     *testing.T
	w     *world.World
	name  string
	lines []string
	ran   map[string]bool
}

func pageOf(t *testing.T, w *world.World, name string) *page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	lines, _ := commandsIn(string(text))
	return &page{t: t, w: w, name: name, lines: lines, ran: make(map[string]bool)}
}

// run runs a command as the page has it, with more arguments.
func (p *page) run(line string, more ...string) (string, error) {
	p.t.Helper()
	if !slices.Contains(p.lines, line) {
		p.t.Fatalf("%s has no command spillway %s", p.name, line)
	}
	p.ran[line] = true
	return p.w.Run(p.t.Context(), "west", append(split(line), more...)...)
}

// all tells of commands of the page that were not run.
func (p *page) all() {
	for _, line := range p.lines {
		if !p.ran[line] {
			p.t.Errorf("nobody ran spillway %s of %s", line, p.name)
		}
	}
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

// plain writes without a producer id to a topic of its own, until it is ended.
func (m *mixed) plain(ctx context.Context, to ...kgo.Opt) (end func()) {
	m.t.Helper()
	c := m.client(to, kgo.DisableIdempotentWrite())
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		defer c.Close()
		for ctx.Err() == nil {
			if err := c.ProduceSync(context.WithoutCancel(ctx), &kgo.Record{Topic: orders.Topics[2], Value: []byte("plain")}).FirstErr(); err != nil {
				done <- err
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		done <- nil
	}()
	return func() {
		m.t.Helper()
		cancel()
		if err := <-done; err != nil {
			m.t.Fatal(err)
		}
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
