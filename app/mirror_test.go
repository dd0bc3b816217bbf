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

// Two mirror processes at one site: one of them writes and says what it follows,
// the other waits. A switchover goes to that site, and when the one that wrote is
// gone, the other one takes its place.
func TestTwoMirrorsOfASiteTakeTurns(t *testing.T) {
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
	var writes, waits string
	eventually(t, "one of two mirrors writes", func() bool {
		writes, waits = "west-1", "west-2"
		if said(writes).Waits {
			writes, waits = waits, writes
		}
		a, b := said(writes), said(waits)
		return !a.Waits && len(a.Following) == 1 && b.Waits && len(b.Following) == 0
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
	if err := mirrors[writes].Stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other one writes", func() bool { l := said(waits); return !l.Waits && l.Following["shop/0"].Epoch == share.Epoch })
}
