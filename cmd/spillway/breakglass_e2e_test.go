//go:build e2e

package main

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway/tests/orders"
	"spillway/tests/world"
)

// A failover group is adopted first (adopting_e2e_test.go), and taken back to its brokers at
// the end (docs/operate/adopt.md). Between them
// all of Spillway is down, after a move: applications go on at the active site by its own
// addresses and with its own credentials, and through the gateways once these are back, and
// after another move. What docs/operate/break-glass.md promises: nothing is skipped or read
// again by a consumer group, and what was written meanwhile is carried like the rest.
func TestRealBreakGlass(t *testing.T) {
	w := world.Start(t, world.Options{Sites: []string{"east", "west"}, Consuls: 1, Extra: "    adopting: true", Control: "directQuiet: 2s"})
	page := pageOf(t, w, "operate/adopt.md")
	begun := time.Now()
	takeIn(t, w, page)
	fmt.Printf("measured: the group was adopted in %s\n", time.Since(begun).Round(time.Second))
	g := &glass{t: t, w: w, next: make(map[int32]int)}
	gateways := []kgo.Opt{kgo.SeedBrokers(w.Bootstrap...)}
	move := func(to string) {
		t.Helper()
		if _, err := w.Run(t.Context(), "east", "switchover", world.Group, "--to", to, "--behind-max", "30s"); err != nil {
			t.Fatal(err)
		}
	}

	g.write(200, gateways...)
	g.read(120, gateways...)
	move("west")
	g.write(200, gateways...)
	g.read(90, gateways...)

	for _, site := range w.Sites {
		if err := w.Spillway(site).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	direct := w.Kafka["west"].Dial()
	g.read(70, direct...)
	g.write(200, direct...)
	g.read(60, direct...)
	for _, site := range w.Sites {
		w.StartSpillway(site)
	}
	w.Eventually(60*time.Second, "all is well again", func() error { return w.Healthy(t.Context()) })

	g.read(40, gateways...)
	g.write(100, gateways...)
	g.read(50, gateways...)
	move("east")
	g.write(100, gateways...)
	g.read(80, gateways...)
	takeOut(t, w, page)
	east := w.Kafka["east"].Dial()
	g.read(40, east...)
	g.write(50, east...)
	g.read(g.written-g.got, east...) // the rest
	page.all()
}

// glass writes and reads one topic, each record once.
type glass struct {
	t       *testing.T
	w       *world.World
	written int
	got     int
	next    map[int32]int // number of the next record, by partition
	sent    map[int32]int // records, by partition
}

var glassTopic = orders.Topics[0]

// client is one that lives for one step. The same group id goes by whichever way.
func (g *glass) client(to []kgo.Opt, more ...kgo.Opt) *kgo.Client {
	g.t.Helper()
	c, err := kgo.NewClient(append(append([]kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner())}, to...), more...)...)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *glass) write(n int, to ...kgo.Opt) {
	g.t.Helper()
	c := g.client(to)
	defer c.Close()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	if g.sent == nil {
		g.sent = make(map[int32]int)
	}
	for range n {
		p := int32(g.written) % g.w.Options.Partitions
		r := &kgo.Record{Topic: glassTopic, Partition: p, Value: []byte(strconv.Itoa(g.sent[p]))}
		if err := c.ProduceSync(ctx, r).FirstErr(); err != nil {
			g.t.Fatalf("record %d: %v", g.written, err)
		}
		g.sent[p]++
		g.written++
	}
}

// read has a member of the group read so many records, each the next one of its partition,
// and commit them. What more was fetched it gives back unread.
func (g *glass) read(n int, from ...kgo.Opt) {
	g.t.Helper()
	c := g.client(from, kgo.ConsumerGroup("desk"), kgo.ConsumeTopics(glassTopic), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(g.t.Context(), 90*time.Second)
	defer cancel()
	var took []*kgo.Record
	for len(took) < n {
		for _, r := range c.PollRecords(ctx, n-len(took)).Records() {
			if want := strconv.Itoa(g.next[r.Partition]); string(r.Value) != want {
				g.t.Fatalf("partition %d: record %s at offset %d, want %s: records were skipped or are read again", r.Partition, r.Value, r.Offset, want)
			}
			g.next[r.Partition]++
			took = append(took, r)
		}
		if ctx.Err() != nil {
			g.t.Fatalf("%d of %d records came", len(took), n)
		}
	}
	if err := c.CommitRecords(ctx, took...); err != nil {
		g.t.Fatal(err)
	}
	if err := c.LeaveGroupContext(ctx); err != nil {
		g.t.Fatal(err)
	}
	g.got += n
	fmt.Printf("measured: %d records were read, %d of %d in all\n", n, g.got, g.written)
}
