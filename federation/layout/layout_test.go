package layout

import (
	"fmt"
	"slices"
	"strings"
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

// Metadata asks for it for every partition and site: a list of nodes for each would be more
// than all the rest of the answer.
func TestTheNearestNodeCostsNoMemory(t *testing.T) {
	var leases []GatewayLease
	for i := range 30 {
		leases = append(leases, lease(fmt.Sprintf("g%d", i), []string{"east", "west", "north"}[i%3], 1))
	}
	l, _ := Next(Layout{}, leases, map[string]spillway.SiteID{"orders/0": "east"})
	share, counts := spillway.ShareID{Group: "orders"}, map[spillway.GatewayID]int{}
	for p := range int32(300) {
		n, ok := l.Nearest(share, spillway.TopicPartition{Topic: "orders", Partition: p}, "west")
		if !ok || n.Site != "west" {
			t.Fatalf("partition %d is read at %+v", p, n)
		}
		counts[n.Gateway]++
	}
	if len(counts) != 10 {
		t.Errorf("of ten gateways %v are read at", counts)
	}
	if _, ok := l.Nearest(share, spillway.TopicPartition{Topic: "orders"}, "south"); ok {
		t.Error("there is a node at a site without gateways")
	}
	if n := testing.AllocsPerRun(100, func() { l.Nearest(share, spillway.TopicPartition{Topic: "orders", Partition: 7}, "west") }); n > 1 {
		t.Errorf("%.0f allocations", n)
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

// The home follows nothing but the loss of its gateways, and then goes where the share
// is served next, if gateways live there (L4).
func TestHome(t *testing.T) {
	for _, c := range []struct {
		home, next spillway.SiteID
		live       string
		want       spillway.SiteID
		why        string
	}{
		{"", "east", "", "east", "the first home of a share is where it is served"},
		{"east", "east", "east west", "east", "nothing moves"},
		{"east", "west", "east west", "east", "it does not follow a move"},
		{"east", "west", "west north", "west", "no gateway is left, and the share is served by west, or about to be"},
		{"east", "east", "west north", "east", "no gateway is left where the share is served: all lead"},
		{"east", "west", "north", "east", "none at the next site either"},
		{"west", "north", "west north", "west", "once it has moved it stays, whatever becomes of the move"},
		{"west", "east", "east west", "west", "it does not go back when the lost gateways return"},
	} {
		lives := func(site spillway.SiteID) bool { return slices.Contains(strings.Fields(c.live), string(site)) }
		got := Home(c.home, c.next, lives)
		if got != c.want {
			t.Errorf("%s: home %q, next %q, %s live: %q, want %q", c.why, c.home, c.next, c.live, got, c.want)
		}
		if again := Home(got, c.next, lives); again != got {
			t.Errorf("%s: asked again it is %q", c.why, again)
		}
	}
}

// A gateway that knows a share record before the layout that follows it says what that
// layout will say.
func TestHomeIsTheSameBeforeTheLayoutFollows(t *testing.T) {
	share, key := spillway.ShareID{Group: "orders"}, "orders/0"
	live := []GatewayLease{lease("w1", "west", 1), lease("n1", "north", 1)}
	before, _ := Next(Layout{}, live, map[string]spillway.SiteID{key: "east"})
	after, _ := Next(before, live, map[string]spillway.SiteID{key: Home("east", "west", before.lives)})
	before.Sites = map[string]spillway.SiteID{key: "west"}
	for n := range 50 {
		group := fmt.Sprint("billing-", n)
		b, _ := before.Coordinator(share, group)
		a, _ := after.Coordinator(share, group)
		if a != b || a.Site != "west" {
			t.Errorf("%s is coordinated by %s, later by %s", group, b.Gateway, a.Gateway)
		}
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
