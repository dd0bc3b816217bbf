package direct

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"spillway"
)

var (
	now    = time.Date(2026, 11, 30, 20, 0, 0, 0, time.UTC)
	orders = spillway.TopicPartition{Topic: "orders", Partition: 1}
	carts  = spillway.TopicPartition{Topic: "carts", Partition: 0}
)

const quiet = 10 * time.Minute

// Each row is what brokers show, and whom it gives away.
func TestWhoGoesPastTheGateways(t *testing.T) {
	wrote := func(id int64, ago time.Duration) Producer {
		return Producer{TopicPartition: orders, ID: id, Sequence: 7, Last: now.Add(-ago)}
	}
	twice := func(p ...Producer) Look { return Look{Producers: p, Before: p} }
	byGateway := spillway.MaskProducerID(spillway.ClientProducerID(12345), 98765)
	for name, c := range map[string]struct {
		look          Look
		clients, gone string
		unattributed  string
	}{
		"nobody": {},
		"a member by a gateway, though from the same host as one that is not": {
			look: Look{Members: []Member{
				{Group: "desk", ID: "a", ClientID: spillway.GatewayClientID("east-1"), Host: "/10.0.0.1"},
				{Group: "desk", ID: "b", ClientID: "desk-app", Host: "/10.0.0.1", Partitions: []spillway.TopicPartition{orders}},
			}},
			clients: "member desk-app of group desk from 10.0.0.1",
		},
		"a gateway of an older version says nothing, so its member counts": {
			look:    Look{Members: []Member{{Group: "desk", ID: "a", ClientID: "spillway", Host: "h"}}},
			clients: "member spillway of group desk from h",
		},
		"static members show who joined first, so gateways are believed": {
			look: Look{StaticByGateways: func(group, id string) bool { return group == "desk" && id == "till-1-a" }, Members: []Member{
				{Group: "desk", ID: "till-1-a", Instance: "till-1", ClientID: "desk-app", Host: "h"},
				{Group: "desk", ID: "till-2-b", Instance: "till-2", ClientID: spillway.GatewayClientID("east-1"), Host: "h"},
			}},
			clients: "static member till-2 of group desk",
		},
		"ids of a gateway's client and of a mirror": {look: twice(wrote(byGateway, 0), wrote(spillway.MirrorProducerID(5), 0))},
		"an id of the cluster":                      {look: twice(wrote(4711, time.Minute)), clients: "producer 4711 of orders-1"},
		"one that has not written for long":         {look: twice(wrote(4711, quiet)), gone: "producer 4711 of orders-1"},
		"its records are old, but it writes them now": {
			look:    Look{Producers: []Producer{{TopicPartition: orders, ID: 4711, Sequence: 8, Last: now.Add(-quiet)}}, Before: []Producer{wrote(4711, quiet)}},
			clients: "producer 4711 of orders-1",
		},
		"one that came during the look with old records": {look: Look{Producers: []Producer{wrote(4711, 2*quiet)}}, clients: "producer 4711 of orders-1"},
		"one in many partitions is one": {
			look:    twice(wrote(1, time.Hour), Producer{TopicPartition: carts, ID: 1, Last: now}),
			clients: "producer 1 of carts-0, orders-1",
		},
		"an id that another kind of cluster gives": {look: twice(wrote(1<<50, 0)), clients: fmt.Sprintf("producer %d of orders-1", int64(1)<<50)},
		"an open transaction keeps a producer there": {
			look: Look{Producers: []Producer{{TopicPartition: orders, ID: 9, Last: now.Add(-time.Hour), Open: true}}, Before: []Producer{{TopicPartition: orders, ID: 9, Last: now.Add(-time.Hour), Open: true}},
				Transactions: map[int64]string{9: "pay-1"}},
			clients: "transactional producer pay-1",
		},
		"a gateway says that it came by it": {
			look: Look{Producers: []Producer{{TopicPartition: orders, ID: 9, Last: now, Open: true}}, Transactions: map[int64]string{9: "pay-1"}, ByGateways: map[int64]int16{9: 0}, Transactional: func(string) bool { return true }},
		},
		"it came by a gateway, and by the brokers since": {
			look:    Look{Producers: []Producer{{TopicPartition: orders, ID: 9, Epoch: 4, Last: now}}, ByGateways: map[int64]int16{9: 3}},
			clients: "producer 9 of orders-1",
		},
		"a marker with a newer epoch is nobody's": {
			look: Look{Producers: []Producer{{TopicPartition: orders, ID: 9, Epoch: 4, Sequence: -1, Last: now}, {TopicPartition: carts, ID: 9, Epoch: 5, Sequence: -1, Last: now}}, ByGateways: map[int64]int16{9: 3}},
		},
		"one with a much newer epoch ended a transaction past the gateways": {
			look:    Look{Producers: []Producer{{TopicPartition: orders, ID: 9, Epoch: 6, Sequence: -1, Last: now}}, ByGateways: map[int64]int16{9: 3}},
			clients: "producer 9 of orders-1",
		},
		"the last epoch": {
			look: Look{Producers: []Producer{{TopicPartition: orders, ID: 9, Epoch: math.MaxInt16, Sequence: -1, Last: now}}, ByGateways: map[int64]int16{9: math.MaxInt16 - 1}},
		},
		"it began with a newer epoch, and has written nothing yet": {
			look:    Look{Transactions: map[int64]string{9: "pay-1"}, Epochs: map[int64]int16{9: 4}, ByGateways: map[int64]int16{9: 3}, Transactional: func(string) bool { return true }},
			clients: "transactional producer pay-1",
		},
		"one that has written nothing yet, and one of another group": {
			look:    Look{Transactions: map[int64]string{9: "pay-1", 10: "other"}, Transactional: func(id string) bool { return id == "pay-1" }},
			clients: "transactional producer pay-1",
		},
		"a log grows, and no producer with an id wrote": {
			look:    Look{Producers: []Producer{{TopicPartition: carts, ID: byGateway, Sequence: 2, Last: now}}, Before: []Producer{{TopicPartition: carts, ID: byGateway, Sequence: 1, Last: now}}, Grew: map[spillway.TopicPartition]int64{orders: 5, carts: 1}},
			clients: "somebody who writes without a producer id to orders-1",
		},
		"a gateway writes there too": {
			look:         Look{Grew: map[spillway.TopicPartition]int64{orders: 5}, Plain: map[spillway.TopicPartition]bool{orders: true}},
			unattributed: "orders-1",
		},
	} {
		c.look.Site, c.look.At = "east", now
		f := Judge("shop", c.look, quiet)
		if got := said(f.Clients); got != c.clients {
			t.Errorf("%s: %q, want %q", name, got, c.clients)
		}
		if got := said(f.Gone); got != c.gone {
			t.Errorf("%s: gone %q, want %q", name, got, c.gone)
		}
		if got := strings.Join(f.Unattributed, " "); got != c.unattributed {
			t.Errorf("%s: unattributed %q, want %q", name, got, c.unattributed)
		}
		if f.None() != (c.clients == "") || f.Count() != len(f.Clients) {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func said(clients []Client) string {
	var all []string
	for _, c := range clients {
		all = append(all, c.String())
	}
	return strings.Join(all, "; ")
}

// What could not be looked at may hide somebody.
func TestWhatCouldNotBeLookedAtIsNotNone(t *testing.T) {
	f := Judge("shop", Look{Site: "east", At: now, Unread: []Unread{{"producers", "no rights"}}}, quiet)
	if f.None() || f.Count() != 0 || f.String() != "producers could not be looked at: no rights" {
		t.Errorf("%s", f)
	}
	if f := Judge("shop", Look{Site: "east", At: now}, quiet); !f.None() || f.String() != "no client was found at east past the gateways" {
		t.Errorf("%s", f)
	}
}

// Many are counted, some are listed, and a sentence names a few.
func TestManyClientsAreBounded(t *testing.T) {
	l := Look{Site: "east", At: now}
	for i := range clientsMax + 7 {
		l.Members = append(l.Members, Member{Group: "desk", ID: fmt.Sprintf("%04d", i), ClientID: "app", Host: "h", Partitions: slices.Repeat([]spillway.TopicPartition{orders}, 100)})
	}
	f := Judge("shop", l, quiet)
	if len(f.Clients) != clientsMax || f.More != 7 || f.Count() != clientsMax+7 || len(f.Clients[0].Partitions) != partitionsMax || f.Clients[0].More != 80 {
		t.Errorf("%d of %d, %d and %d partitions", len(f.Clients), f.Count(), len(f.Clients[0].Partitions), f.Clients[0].More)
	}
	if s := f.String(); !strings.HasPrefix(s, "1007 clients at east: ") || !strings.HasSuffix(s, " and 1002 more") || len(s) > 500 {
		t.Error(s)
	}
}

// Over many looks a producer has gone when it did nothing for long by the clock of those, and
// not by the time that its records bear.
func TestAProducerHasGoneWhenItDidNothingOverAllLooks(t *testing.T) {
	h := &History{}
	look := func(after time.Duration, p ...Producer) string {
		return said(Judge("shop", Look{Site: "east", At: now.Add(after), Producers: p, Before: p, History: h}, quiet).Gone)
	}
	old := Producer{TopicPartition: orders, ID: 4711, Sequence: 7, Last: now.Add(-time.Hour)}
	ahead := Producer{TopicPartition: carts, ID: 12, Sequence: 7, Last: now.Add(time.Hour)}
	wrote := old
	wrote.Sequence++ // between two looks, a record of the same old time
	for i, step := range []struct {
		after time.Duration
		shown []Producer
		gone  string
	}{
		{0, []Producer{old, ahead}, ""},
		{quiet - time.Second, []Producer{old, ahead}, ""},
		{quiet, []Producer{wrote, ahead}, "producer 12 of carts-0"},
		{2*quiet - time.Second, []Producer{wrote, ahead}, "producer 12 of carts-0"},
		{2 * quiet, []Producer{wrote, ahead}, "producer 12 of carts-0; producer 4711 of orders-1"},
		{3 * quiet, []Producer{wrote}, "producer 4711 of orders-1"},
		{4 * quiet, []Producer{wrote, ahead}, "producer 4711 of orders-1"}, // it was away from what is shown
	} {
		if got := look(step.after, step.shown...); got != step.gone {
			t.Errorf("look %d: gone %q, want %q", i, got, step.gone)
		}
	}
}

// A look that could not see everything makes no producer new: neither one that it missed, nor
// one that it missed the first time.
func TestALookThatCouldNotSeeEverythingMakesNobodyNew(t *testing.T) {
	old := Producer{TopicPartition: orders, ID: 4711, Sequence: 7, Last: now.Add(-time.Hour)}
	h := &History{}
	look := func(after time.Duration, before, shown []Producer, unread ...Unread) Found {
		return Judge("shop", Look{Site: "east", At: now.Add(after), Producers: shown, Before: before, Unread: unread, History: h}, quiet)
	}
	one, fault := []Producer{old}, Unread{"producers", "a broker does not answer"}
	for i, step := range []struct {
		after         time.Duration
		before, shown []Producer
		unread        []Unread
		gone          string
	}{
		{0, one, one, nil, ""},
		{quiet, one, one, nil, "producer 4711 of orders-1"},
		{quiet + time.Minute, one, nil, []Unread{fault}, ""},
		{quiet + 2*time.Minute, one, one, nil, "producer 4711 of orders-1"},
		{quiet + 3*time.Minute, nil, one, []Unread{fault}, "producer 4711 of orders-1"},
		{quiet + 4*time.Minute, nil, nil, []Unread{fault}, ""},
		{quiet + 4*time.Minute + hiddenMax, nil, nil, []Unread{fault}, ""},
		{quiet + 5*time.Minute + hiddenMax, one, one, nil, ""}, // it was away for too long
	} {
		f := look(step.after, step.before, step.shown, step.unread...)
		if got := said(f.Gone); got != step.gone {
			t.Errorf("look %d: gone %q, want %q", i, got, step.gone)
		}
		if want := len(step.shown) > 0 && step.gone == ""; (f.Count() > 0) != want {
			t.Errorf("look %d: %s", i, f)
		}
	}
}

// What clients choose does not look like anything else, and is no longer than some.
func TestNamesOfClientsAreQuoted(t *testing.T) {
	for name, want := range map[string]string{
		"desk-app": "desk-app", "": "", "a; accepted": `"a; accepted"`, "a\x1b[2J": `"a\x1b[2J"`, strings.Repeat("x", 1000): `"` + strings.Repeat("x", chosenMax) + `"`,
	} {
		if got := Shown(name); got != want {
			t.Errorf("%q is shown as %s", name, got)
		}
	}
	c := Client{Kind: KindMember, ID: "a\nb", Group: "g\nh", Host: "h"}
	if got := c.String(); strings.Contains(got, "\n") {
		t.Errorf("%q", got)
	}
}
