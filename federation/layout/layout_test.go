package layout

import (
	"fmt"
	"testing"

	"spillway"
)

func lease(id, site string, slots int32) GatewayLease {
	return GatewayLease{ID: spillway.GatewayID(id), Site: spillway.SiteID(site), Host: id, Port: 9092, Slots: slots}
}

func TestNextKeepsNodesAndNeverReusesIDs(t *testing.T) {
	homes := map[string]spillway.SiteID{"orders/0": "east"}
	l, why := Next(Layout{}, []GatewayLease{lease("e1", "east", 2), lease("w1", "west", 1)}, homes)
	if l.Version != 1 || len(l.Nodes) != 3 || why != "gateway e1 at east came, node 1000" {
		t.Fatalf("first layout: %+v, %q", l, why)
	}
	if same, why := Next(l, []GatewayLease{lease("w1", "west", 1), lease("e1", "east", 2)}, homes); same.Version != 1 || why != "" {
		t.Fatalf("L2: nothing changed, but %q made version %d", why, same.Version)
	}
	gone, why := Next(l, []GatewayLease{lease("w1", "west", 1), lease("e2", "east", 1)}, homes)
	if why != "gateway e2 at east came, node 1003" || len(gone.Nodes) != 2 {
		t.Fatalf("L1: %q %+v", why, gone.Nodes)
	}
	back, _ := Next(gone, []GatewayLease{lease("w1", "west", 1), lease("e2", "east", 1), lease("e1", "east", 2)}, homes)
	for slot, want := range []int32{1000, 1001} {
		if n := back.NodesOf("e1")[slot]; n.ID != want {
			t.Errorf("L1: slot %d of e1 came back as node %d, had %d", slot, n.ID, want)
		}
	}
	leaving := lease("w1", "west", 1)
	leaving.Leaving = true
	if l, why := Next(back, []GatewayLease{leaving, lease("e2", "east", 1), lease("e1", "east", 2)}, homes); len(l.NodesOf("w1")) != 0 || why != "gateway w1 at west is gone, node 1002" {
		t.Errorf("a leaving gateway keeps nodes: %q", why)
	}
}

func TestLeaderStaysWhenAnotherSiteChanges(t *testing.T) {
	homes := map[string]spillway.SiteID{"orders/0": "east"}
	share := spillway.ShareID{Group: "orders"}
	gateways := []GatewayLease{lease("e1", "east", 1), lease("e2", "east", 1), lease("e3", "east", 1), lease("w1", "west", 1)}
	before, _ := Next(Layout{}, gateways, homes)
	other, _ := Next(before, gateways[:3], homes)
	fewer, _ := Next(before, append(gateways[:2:2], gateways[3]), homes)
	counts := map[spillway.GatewayID]int{}
	for p := range int32(300) {
		tp := spillway.TopicPartition{Topic: "orders", Partition: p}
		n, ok := before.Leader(share, tp, -1)
		if !ok || n.Site != "east" {
			t.Fatalf("partition %d is led by %+v, home is east", p, n)
		}
		counts[n.Gateway]++
		if carts, _ := before.Leader(share, spillway.TopicPartition{Topic: "carts", Partition: p}, -1); carts != n {
			t.Fatalf("equal partitions %d of one share are led by %s and %s", p, n.Gateway, carts.Gateway)
		}
		if o, _ := other.Leader(share, tp, -1); o.ID != n.ID {
			t.Fatalf("L3: partition %d moved from node %d to %d because west changed", p, n.ID, o.ID)
		}
		if o, _ := fewer.Leader(share, tp, -1); n.Gateway != "e3" && o.ID != n.ID {
			t.Fatalf("L3: partition %d moved from node %d to %d because e3 left", p, n.ID, o.ID)
		}
	}
	for g, n := range counts {
		if n < 60 || n > 140 {
			t.Errorf("%s leads %d of 300 partitions", g, n)
		}
	}
}

func TestLeaderFollowsUpstreamBroker(t *testing.T) {
	l, _ := Next(Layout{}, []GatewayLease{lease("e1", "east", 3)}, map[string]spillway.SiteID{"orders/0": "east"})
	for upstream := range 6 {
		n, _ := l.Leader(spillway.ShareID{Group: "orders"}, spillway.TopicPartition{Topic: "orders"}, upstream)
		if int(n.Slot) != upstream%3 {
			t.Errorf("upstream broker %d is reached by slot %d", upstream, n.Slot)
		}
	}
}

func TestWithoutGatewayAtHomeOthersLead(t *testing.T) {
	l, _ := Next(Layout{}, []GatewayLease{lease("w1", "west", 1)}, map[string]spillway.SiteID{"orders/0": "east"})
	if n, ok := l.Leader(spillway.ShareID{Group: "orders"}, spillway.TopicPartition{}, -1); !ok || n.Gateway != "w1" {
		t.Errorf("led by %+v", n)
	}
	if n, ok := l.Coordinator(spillway.ShareID{Group: "orders"}, "billing"); !ok || n.ID != 1000 {
		t.Errorf("coordinated by %+v", n)
	}
	if n, ok := l.Node(1000); !ok || n.Gateway != "w1" {
		t.Errorf("node 1000 is %+v", n)
	}
	if _, ok := (Layout{}).Leader(spillway.ShareID{}, spillway.TopicPartition{}, -1); ok {
		t.Error("an empty layout has a leader")
	}
}

func TestRecordSurvivesEncoding(t *testing.T) {
	l, _ := Next(Layout{}, []GatewayLease{lease("e1", "east", 2)}, map[string]spillway.SiteID{"orders/0": "east"})
	got, err := Decode(l.Encode())
	if err != nil || fmt.Sprint(got) != fmt.Sprint(l) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Decode([]byte("{")); err == nil {
		t.Error("half a record was accepted")
	}
}
