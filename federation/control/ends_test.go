package control

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/federation/coordination/coordtest"
	"spillway/mirror/maptopic"
)

// lateSite appends a record after each of the first reads of its log ends, as a
// broker does with a produce that waited in its queue.
type lateSite struct {
	broker.Cluster
	write func()
	reads atomic.Int32
	late  int32
}

type lateAdmin struct {
	broker.Admin
	site *lateSite
}

func (s *lateSite) Admin() broker.Admin { return lateAdmin{s.Cluster.Admin(), s} }

func (a lateAdmin) LogEnds(ctx context.Context, tps []spillway.TopicPartition) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	ends, err := a.Admin.LogEnds(ctx, tps)
	if a.site.reads.Add(1) <= a.site.late {
		a.site.write()
	}
	return ends, err
}

// Where a produce has no answer, the site may still append it: the log end is
// read until it stays (C9). Where all was answered, once is enough.
func TestLogEndsAreReadUntilTheyStay(t *testing.T) {
	for name, c := range map[string]struct {
		late, reads int32
		twice       bool
		want        spillway.Offset
		known       map[spillway.TopicPartition]leader
	}{
		"all was answered":             {0, 1, false, 1, nil},
		"nothing comes any more":       {0, 2, true, 1, nil},
		"one comes after the first":    {1, 3, true, 2, nil},
		"another comes after the next": {2, 4, true, 3, nil},
		"its leader was known":         {0, 1, false, 1, map[spillway.TopicPartition]leader{{Topic: "orders"}: {}}},
		"another one leads since":      {0, 2, false, 1, map[spillway.TopicPartition]leader{{Topic: "orders"}: {0, -7}}},
		"a topic is gone since":        {0, 2, false, 1, map[spillway.TopicPartition]leader{{Topic: "carts"}: {}, {Topic: "orders"}: {}}},
		"a topic is new":               {0, 2, false, 1, map[spillway.TopicPartition]leader{{Topic: "carts"}: {}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			server, err := embedded.Start(embedded.Config{Site: "east", Brokers: 1, Topics: map[string]int32{"orders": 1}})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			client, err := kgo.NewClient(kgo.SeedBrokers(server.Addresses()...))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			site := &lateSite{Cluster: server, late: c.late, write: func() {
				if err := client.ProduceSync(ctx, &kgo.Record{Topic: "orders"}).FirstErr(); err != nil {
					t.Error(err)
				}
			}}
			site.write()
			group := spillway.FailoverGroup{Name: "g", Kind: spillway.Ordered, Topics: []string{"*"}, Sites: []spillway.SiteID{"east"}, OffsetBase: 1000}
			topology := spillway.NewTopology("test", "id", []spillway.Site{{ID: "east"}}, []spillway.FailoverGroup{group})
			loop, err := New(Config{Topology: topology, Store: coordtest.NewMemory(), Site: "east", Sites: map[spillway.SiteID]Access{"east": {Cluster: site}}})
			if err != nil {
				t.Fatal(err)
			}
			reader := maptopic.Tail(ctx, server, nil)
			defer reader.Close()
			loop.mu.maps["east"] = reader
			leads, err := loop.leaders(ctx, "east", group)
			if err != nil {
				t.Fatal(err)
			}
			for tp, l := range c.known {
				if l == (leader{}) {
					c.known[tp] = leads[tp]
				}
			}
			ends, err := loop.logEnds(ctx, "east", group, c.twice, c.known)
			if err != nil {
				t.Fatal(err)
			}
			if end := ends.Get(spillway.TopicPartition{Topic: "orders"}); end != 1000+c.want || site.reads.Load() != c.reads {
				t.Errorf("the log ends at %d after %d reads, want %d after %d", end-1000, site.reads.Load(), c.want, c.reads)
			}
		})
	}
}
