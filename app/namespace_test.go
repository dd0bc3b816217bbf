package app

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"spillway"
	"spillway/broker"
	"spillway/broker/brokertest"
	"spillway/broker/namespace"
	"spillway/configs"
	"spillway/federation/coordination"
	"spillway/federation/failover"
)

// Two virtual clusters have the same sites, and the same names of everything: each has what
// was written to it, exactly once, and sees nothing of the other; one moves and the other
// goes on.
func TestTwoVirtualClustersShareTheirSites(t *testing.T) {
	text := twoSitesText(t, "")
	red := startVirtualCluster(t, text, "red", "red.", "broker, mirror, control")
	blue := startVirtualCluster(t, text, "blue", "blue.", "mirror, control")
	both := []*twoSites{red, blue}
	ctx, cancel := context.WithCancel(t.Context())
	var working, writing sync.WaitGroup
	defer working.Wait()
	defer cancel()
	const orders = 200
	for _, w := range both {
		writing.Go(func() { w.writeOrders(ctx, orders) })
		working.Go(func() { w.bill(ctx) })
	}
	for _, to := range []spillway.SiteID{"west", "east", "west"} {
		red.switchover(to)
	}
	writing.Wait()
	want := numbered(orders)
	for _, w := range both {
		for _, topic := range []string{"orders", "bills"} {
			if got := w.read(topic, orders); !slices.Equal(got, want) {
				t.Errorf("%s: %d records, want %d; more than once: %v", topic, len(got), len(want), repeated(got))
			}
		}
		if topics, groups := w.shown(); !slices.Equal(topics, []string{"bills", "orders"}) || !slices.Equal(groups, []string{"billing"}) {
			t.Errorf("a client is shown topics %q and groups %q", topics, groups)
		}
	}
	cancel()
	working.Wait()
	if share, err := blue.operator.Status(blue.within(), "shop"); err != nil || share.Share.Active != "east" || share.Share.Epoch != 1 {
		t.Errorf("blue was moved: %+v, %v", share.Share, err)
	}
	for _, site := range []spillway.SiteID{"east", "west"} {
		brokertest.CheckNamespace(t, red.outside(site), []namespace.Namespace{"red.", "blue."})
	}
}

// A process, or a command, with another namespace than the others of its virtual cluster takes
// no part in it: it would show clients what is not theirs.
func TestAProcessWithAnotherNamespaceDoesNotStart(t *testing.T) {
	text := twoSitesText(t, "")
	w := startVirtualCluster(t, text, "red", "red.", "broker, mirror, control")
	for name, wrong := range map[string]string{
		"namespace": strings.Replace(w.text, `namespace: "red."`, `namespace: ""`, 1),
		"clusterID": strings.Replace(w.text, "clusterID: red-1", "clusterID: red-2", 1),
	} {
		text := strings.NewReplacer("$SITE", "east", "$ID", "another", "$ROLES", "gateway", "$GATEWAY", freeAddress(t)).Replace(wrong)
		cfg := parse(t, text)
		a := New(cfg, Options{Version: "test", Log: slog.New(slog.NewTextHandler(&logBuffer{}, nil))})
		if err := a.Start(t.Context()); !errors.Is(err, coordination.ErrOther) || !strings.Contains(err.Error(), "clusterID and namespace can never change") {
			t.Errorf("another %s: %v", name, err)
		}
		store, err := OpenStore(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.List(t.Context(), failover.Keys("red").Shares()); !errors.Is(err, coordination.ErrOther) {
			t.Errorf("a command with another %s: %v", name, err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// shown are the topics and groups that a client can list.
func (w *twoSites) shown() (topics, groups []string) {
	w.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.gateways...))
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	md, err := kmsg.NewPtrMetadataRequest().RequestWith(w.within(), cl)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, topic := range md.Topics {
		topics = append(topics, *topic.Topic)
	}
	for _, shard := range cl.RequestSharded(w.within(), kmsg.NewPtrListGroupsRequest()) {
		if shard.Err != nil {
			w.t.Fatal(shard.Err)
		}
		for _, g := range shard.Resp.(*kmsg.ListGroupsResponse).Groups {
			groups = append(groups, g.Group)
		}
	}
	slices.Sort(topics)
	slices.Sort(groups)
	return topics, slices.Compact(groups)
}

// outside reaches a site as somebody who knows no namespaces.
func (w *twoSites) outside(site spillway.SiteID) broker.Cluster {
	w.t.Helper()
	text := regexp.MustCompile(`namespace: "[^"]*"`).ReplaceAllString(w.text, `namespace: ""`)
	text = strings.NewReplacer("$SITE", string(site), "$ID", "outside", "$ROLES", "control", "$GATEWAY", "127.0.0.1:9092").Replace(text)
	cfg, err := configs.Parse("test.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		w.t.Fatal(err)
	}
	place, _ := cfg.Site(string(site))
	c, err := OpenSite(place)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() }) // only read
	return c
}
