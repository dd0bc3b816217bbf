package groupdeletion

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway"
	"spillway/broker"
	"spillway/broker/embedded"
	"spillway/broker/kafka"
	"spillway/federation/coordination/coordtest"
	"spillway/federation/failover"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var orders = spillway.TopicPartition{Topic: "orders"}
var carts = spillway.TopicPartition{Topic: "carts"}

// world is two embedded sites; east serves.
type world struct {
	*testing.T
	store    *coordtest.Memory
	keys     failover.Keys
	topology *spillway.Topology
	sites    map[spillway.SiteID]broker.Cluster
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, store: coordtest.NewMemory(), keys: "test", sites: map[spillway.SiteID]broker.Cluster{}}
	names := []spillway.SiteID{"east", "west"}
	for _, id := range names {
		server, err := embedded.Start(embedded.Config{Site: id, Brokers: 1, Topics: map[string]int32{"orders": 1, "carts": 1}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		cluster, err := kafka.New(kafka.Config{Site: id, Bootstrap: server.Addresses(), Capabilities: embedded.Capabilities(false)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cluster.Close() })
		w.sites[id] = cluster
		w.commit(id)
	}
	w.topology = spillway.NewTopology("test", "cluster", []spillway.Site{{ID: "east"}, {ID: "west"}}, []spillway.FailoverGroup{{Name: "shop", Topics: []string{"*"}, ConsumerGroups: []string{"*"}, Sites: names}})
	w.serve("east", 1, failover.Stable)
	return w
}

func (w *world) serve(site spillway.SiteID, epoch spillway.Epoch, state failover.State) {
	w.Helper()
	s := failover.Share{Group: "shop", State: state, Epoch: epoch, Active: site, Terms: []failover.Term{{Epoch: epoch, Site: site}}}
	e, _ := w.store.Get(w.Context(), w.keys.Share(s.ID()))
	if _, err := w.store.Put(w.Context(), w.keys.Share(s.ID()), s.Encode(), e.Version); err != nil {
		w.Fatal(err)
	}
}

func (w *world) commit(site spillway.SiteID) {
	w.Helper()
	at := map[spillway.TopicPartition]broker.GroupOffset{orders: {Offset: 0, LeaderEpoch: -1}, carts: {Offset: 0, LeaderEpoch: -1}}
	if err := w.sites[site].Admin().CommitGroupOffsets(w.Context(), "a/group", at); err != nil {
		w.Fatal(err)
	}
}

// has is which positions a site has.
func (w *world) has(site spillway.SiteID) string {
	w.Helper()
	offsets, err := w.sites[site].Admin().FetchGroupOffsets(w.Context(), "a/group")
	if err != nil && !errors.Is(err, broker.ErrUnknownGroup) {
		w.Fatal(err)
	}
	var all []string
	for _, tp := range []spillway.TopicPartition{carts, orders} {
		if o, ok := offsets[tp]; ok && o.Offset >= 0 {
			all = append(all, tp.Topic)
		}
	}
	return strings.Join(all, " ")
}

func (w *world) process(settle time.Duration) *Groups {
	return New(Config{Topology: w.topology, Store: w.store, Sites: w.sites, Settle: settle, TakeOver: 50 * time.Millisecond})
}

func (w *world) begin(g *Groups, partitions map[string][]int32) Deletion {
	w.Helper()
	d, err := g.Begin(w.Context(), Deletion{Group: "a/group", Share: "shop", Partitions: partitions, Who: "test"})
	if err != nil {
		w.Fatal(err)
	}
	return d
}

func (w *world) home(g *Groups, d Deletion) Deletion {
	w.Helper()
	d, err := g.AtHome(w.Context(), d)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

// recovers runs a control loop's part until nothing is under way.
func (w *world) recovers() {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.process(10 * time.Millisecond).Run(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		entries, err := w.store.List(ctx, w.keys.Groups())
		if err != nil {
			w.Fatal(err)
		}
		if len(entries) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("still under way: %s", entries[0].Value)
		}
	}
}

func (w *world) audit() string {
	w.Helper()
	entries, err := w.store.List(w.Context(), w.keys.Audits())
	if err != nil {
		w.Fatal(err)
	}
	var all strings.Builder
	for _, e := range entries {
		all.Write(e.Value)
	}
	return all.String()
}

// A group is gone at both sites, also where the process that began dies behind any step; and
// positions alone, while the others stay.
func TestDeletionsOutliveTheirProcess(t *testing.T) {
	t.Parallel()
	for name, partitions := range map[string]map[string][]int32{"group": nil, "positions": {"orders": {0}}} {
		left := ""
		if partitions != nil {
			left = "carts"
		}
		t.Run(name+" after the first site", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.process(time.Hour)
			w.home(g, w.begin(g, partitions))
			w.recovers()
			if w.has("east") != left || w.has("west") != left {
				t.Errorf("east has %q, west %q", w.has("east"), w.has("west"))
			}
			if log := w.audit(); strings.Count(log, "a/group") != 1 {
				t.Errorf("audit: %s", log)
			}
		})
		t.Run(name+" before that is told", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			g := w.process(time.Hour)
			d := w.begin(g, partitions)
			if err := g.take(t.Context(), "east", d); err != nil {
				t.Fatal(err)
			}
			w.recovers()
			if w.has("east") != left || w.has("west") != left {
				t.Errorf("east has %q, west %q", w.has("east"), w.has("west"))
			}
		})
		t.Run(name+" before the first site", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.begin(w.process(time.Hour), partitions)
			w.recovers()
			if w.has("east") != "carts orders" || w.has("west") != "carts orders" {
				t.Errorf("nobody was told that it is done: east has %q, west %q", w.has("east"), w.has("west"))
			}
			if log := w.audit(); !strings.Contains(log, "not, or not everywhere") {
				t.Errorf("audit: %s", log)
			}
		})
	}
}

// A mirror commits what it had read before the deletion: it does not stay (C).
func TestAMirrorThatCommitsLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.process(500 * time.Millisecond)
	d := w.home(g, w.begin(g, nil))
	done := make(chan error, 1)
	go func() { done <- g.Elsewhere(t.Context(), d) }()
	for w.has("west") != "" {
		time.Sleep(time.Millisecond)
	}
	w.commit("west")
	if err := <-done; err != nil || w.has("west") != "" {
		t.Errorf("%v; west has %q", err, w.has("west"))
	}
}

// What the group has committed since, where it is served, is left alone everywhere; so is
// all of it once the share has moved (B).
func TestWhatIsCommittedSinceStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.process(10 * time.Millisecond)
	d := w.home(g, w.begin(g, nil))
	w.commit("east")
	if err := g.Elsewhere(t.Context(), d); err != nil || w.has("west") == "" || w.has("east") == "" {
		t.Errorf("%v; east has %q, west %q", err, w.has("east"), w.has("west"))
	}
	d = w.home(g, w.begin(g, map[string][]int32{"orders": {0}}))
	w.serve("west", 2, failover.Stable)
	if err := g.Elsewhere(t.Context(), d); err != nil || w.has("west") != "carts orders" {
		t.Errorf("%v; west, which serves now, has %q", err, w.has("west"))
	}
	if entries, _ := w.store.List(t.Context(), w.keys.Groups()); len(entries) > 0 {
		t.Errorf("still under way: %s", entries[0].Value)
	}
	w.serve("west", 2, failover.Fencing)
	if _, err := g.Begin(t.Context(), Deletion{Group: "a/group", Share: "shop"}); !errors.Is(err, ErrMoved) {
		t.Errorf("while the share moves: %v", err)
	}
}
