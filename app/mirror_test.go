package app

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
)

// Two mirror processes at one site: they share what flows in, and one of them leads and
// says what the site follows. A switchover goes to that site, and when the one that leads
// is gone, the other one takes its place.
func TestTwoMirrorsOfASiteShareItsWork(t *testing.T) {
	text := fmt.Sprintf(`
virtualCluster: {name: shop, clusterID: shop-1}
process: {id: $ID, site: $SITE, roles: [$ROLES], dataDir: $DIR}
sites:
- {name: east, embedded: {listen: "%s", dir: $DIR/east}}
- {name: west, embedded: {listen: "%s", dir: $DIR/west}}
coordinator: {embedded: {file: $DIR/store.db, socket: $DIR/store.sock}}
failoverGroups: [{name: shop, topics: [orders], sites: [east, west]}]
telemetry: {listen: "127.0.0.1:0"}
mirror: {listen: "127.0.0.1:0"}
gateway: {lease: {interval: 200ms, ttl: 800ms}}
`, freeAddress(t), freeAddress(t))
	text = strings.ReplaceAll(text, "$DIR", t.TempDir())
	process := func(id, site, roles string) *App {
		t.Helper()
		cfg, err := configs.Parse("test.yaml", []byte(strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(text, "$ID", id), "$SITE", site), "$ROLES", roles)), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		a, _ := start(t, cfg)
		return a
	}
	east := process("east-1", "east", "broker, mirror, control")
	process("west-brokers", "west", "broker")
	mirrors := map[string]*App{"west-1": process("west-1", "west", "mirror"), "west-2": process("west-2", "west", "mirror")}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	said := func(worker string) (l failover.MirrorLease) {
		e, err := east.store.Get(ctx, failover.Keys("shop").Mirror("west", worker))
		if err == nil {
			err = json.Unmarshal(e.Value, &l)
		}
		if err != nil {
			t.Log(err)
		}
		return l
	}
	const topicPartitions = 16
	if err := east.sites["east"].Admin().CreateTopic(ctx, "orders", topicPartitions, 1, nil); err != nil {
		t.Fatal(err)
	}
	var leads, helps string
	eventually(t, "one of two mirrors leads, and the other one carries its part", func() bool {
		leads, helps = "west-1", "west-2"
		if said(leads).Waits {
			leads, helps = helps, leads
		}
		a, b := said(leads), said(helps)
		return !a.Waits && len(a.Following) == 1 && b.Waits && len(b.Following) == 0 &&
			b.Carries["shop/0"].Partitions > 0 && a.Following["shop/0"].Partitions == topicPartitions && a.Following["shop/0"].Elsewhere == b.Carries["shop/0"].Partitions
	})
	operator := control.NewOperator(east.cfg.Topology(), east.store, Observers(east.cfg))
	eventually(t, "a switchover to the site of the two", func() bool {
		_, err := operator.Switchover(ctx, "shop", "west", "test", "", false)
		return err == nil
	})
	share, err := operator.Await(ctx, "shop", 2, nil)
	if err != nil || share.Active != "west" {
		t.Fatalf("%+v, %v", share, err)
	}
	if err := mirrors[leads].Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other one leads", func() bool { l := said(helps); return !l.Waits && l.Following["shop/0"].Epoch == share.Epoch })
}
