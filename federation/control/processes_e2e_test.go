//go:build e2e

package control

import (
	"slices"
	"syscall"
	"testing"

	"spillway"
	"spillway/broker/kafka"
	"spillway/federation/coordination/consul"
	"spillway/federation/failover"
	server "spillway/tests/cluster/consul"
	brokers "spillway/tests/cluster/kafka"
)

// Two real clusters that authorize, a real Consul, and two mirror processes at one of the
// sites. Under load the share moves there and back with both, then the one that leads is
// killed in the middle of the way there, and the other one hangs on the way back. Nothing
// is lost, and nothing is there twice.
func TestMirrorProcessesOnRealKafkaAndConsul(t *testing.T) {
	const n = 2
	users := map[string]string{"admin": "a-secret", "gateway": "g-secret"}
	sites := []spillway.SiteID{"east", "west"}
	real := brokers.ForTest(t, brokers.Config{Name: "east", Version: "4.3.1", FirstNode: 1, Users: users, SuperUsers: []string{"admin"}},
		brokers.Config{Name: "west", Version: "3.9.2", FirstNode: 11, Users: users, SuperUsers: []string{"admin"}})
	address := server.ForTest(t, 1).Servers[0].HTTP
	store, err := consul.New(consul.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	held := &heldStore{Store: store}
	w := newWorld(t, options{store: held, sites: sites,
		group: func(g *spillway.FailoverGroup) { g.HoldMax = holdInTests },
		children: map[spillway.SiteID]childConfig{"west": {Consul: address, Ack: 1, User: "admin", Secret: users["admin"],
			Bootstrap: map[spillway.SiteID][]string{"east": real[0].Bootstrap(), "west": real[1].Bootstrap()}}},
		real: func(id spillway.SiteID) (cluster, asGateway *kafka.Cluster) {
			return realSite(t, id, real[slices.Index(sites, id)].Bootstrap(), users)
		},
	})
	p := w.sites["west"].processes
	alone := p.start()
	w.settled(1)
	stop := w.load()
	there := func(to spillway.SiteID) {
		t.Helper()
		w.loaded(20)
		plan := w.switchover(to, "exercise")
		if share, err := w.operator.Await(within(t), "orders", plan.Epoch, nil); err != nil || share.Active != to {
			t.Fatalf("%v: %s; faults %q", err, w.record().Encode(), last(w.failed, 8))
		}
		w.settled(plan.Epoch)
	}
	there("west") // with one process
	there("east")
	p.start()
	if lead, _ := p.roles(n - 1); lead != alone {
		t.Errorf("%s leads, %s was there before", lead, alone)
	}
	there("west") // with two
	p.roles(n - 1)
	there("east")
	w.strike(p, held, blow{"west", failover.Cutover, true, syscall.SIGKILL})
	w.strike(p, held, blow{"east", failover.Fencing, false, syscall.SIGSTOP})
	w.intact(stop)
	history, err := w.operator.History(within(t), "orders")
	if err != nil || len(history) != 6 {
		t.Fatalf("%d moves, %v", len(history), err)
	}
	for i, what := range []string{"to one process", "away from one", "to two", "away from two", "to two, the one that leads is killed", "away from two, one hangs"} {
		t.Logf("%s: clients were held for %d ms", what, history[i].HeldMillis)
	}
}
