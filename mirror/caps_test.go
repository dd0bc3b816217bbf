package mirror

import (
	"strings"
	"testing"
	"time"

	"spillway"
	"spillway/broker"
)

func TestPacerKeepsItsCap(t *testing.T) {
	t.Parallel()
	start := time.Now()
	p := &pacer{cap: Cap{BytesPerSecond: 1000}}
	p.pay(500, start)
	p.pay(500, start.Add(100*time.Millisecond)) // before the first was paid for
	if got := p.next().Sub(start); got != time.Second {
		t.Errorf("1,000 bytes are paid for after %s", got)
	}
	p.pay(250, start.Add(5*time.Second)) // nothing is saved up while nothing comes
	if got := p.next().Sub(start); got != 5250*time.Millisecond {
		t.Errorf("after a pause the next comes after %s", got)
	}
	p = &pacer{cap: Cap{BytesPerSecond: 8 << 20}}
	if got := p.perPartition(4); got != 512<<10 {
		t.Errorf("one of four partitions may bring %d bytes", got)
	}
	if got := p.perPartition(1000); got != partitionBytesMin {
		t.Errorf("one of a thousand may bring %d bytes", got)
	}
}

func TestCapsFit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cap  Cap
		want bool
	}{
		{Cap{}, true},
		{Cap{Source: "east"}, true},
		{Cap{Source: "west"}, false},
		{Cap{Topics: []string{"orders"}}, true},
		{Cap{Topics: []string{"ord*"}}, true},
		{Cap{Topics: []string{"carts", "x*"}}, false},
		{Cap{Source: "west", Topics: []string{"orders"}}, false},
	} {
		if c.cap.fits("east", "orders") != c.want {
			t.Errorf("%+v fits: %v", c.cap, !c.want)
		}
	}
	if err := (Config{Worker: "w", Local: nil, Caps: []Cap{{}}}).Validate(); err == nil || !strings.Contains(err.Error(), "mirror.caps[0]") {
		t.Errorf("a cap of 0: %v", err)
	}
}

// Under a cap the partitions that it bounds share it, and another topic does not wait
// for them; a move is not bounded by it.
func TestCapsBoundFlowsAndNotMoves(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 2, "carts": 1}), embeddedSite(t, "west", nil)
	l := newLoad(t, east.Addresses(), 95)
	for topic, partitions := range map[string]int32{"orders": 2, "carts": 1} {
		if err := l.write(ctx, topic, partitions, 60); err != nil {
			t.Fatal(err)
		}
	}
	served := testMirror(t, east)
	a := Assignment{Share: spillway.ShareID{Group: "g"}, Topics: []string{"*"}, Epoch: 1}
	if err := served.Assign(ctx, a); err != nil {
		t.Fatal(err)
	}
	// An answer brings a batch at least; the second one would take hours.
	m := testMirrorWith(t, Config{Local: west, Caps: []Cap{{Topics: []string{"orders"}, BytesPerSecond: 1}}, PartitionBytesMax: 1}, east)
	a.Source = "east"
	if err := m.Assign(ctx, a); err != nil {
		t.Fatal(err)
	}
	theirs := endsOf(t, east, "orders", 2)
	carts := spillway.TopicPartition{Topic: "carts"}
	cartsEnd := endsOf(t, east, "carts", 1)[carts]
	eventually(t, "the topic without a cap is there", func() bool { return m.Ends(a.Share)[carts] == spillway.Offset(cartsEnd) })
	ends := m.Ends(a.Share)
	for tp, end := range theirs {
		if ends[tp] >= spillway.Offset(end) {
			t.Errorf("%s is there in spite of the cap", tp)
		}
	}
	bounds := map[spillway.TopicPartition]spillway.Offset{carts: spillway.Offset(cartsEnd)}
	for tp, end := range theirs {
		bounds[tp] = spillway.Offset(end)
	}
	from := make(map[spillway.TopicPartition]spillway.SiteID)
	for tp := range bounds {
		from[tp] = "east"
	}
	if _, err := m.CatchUp(ctx, a.Share, 2, from, bounds); err != nil {
		t.Fatal(err)
	}
	for tp, end := range theirs {
		if got := m.Ends(a.Share)[tp]; got != spillway.Offset(end) {
			t.Errorf("after a move %s ends at %d, not at %d", tp, got, end)
		}
	}
}

func endsOf(t *testing.T, c broker.Cluster, topic string, partitions int32) map[spillway.TopicPartition]spillway.LocalOffset {
	t.Helper()
	var tps []spillway.TopicPartition
	for i := range partitions {
		tps = append(tps, spillway.TopicPartition{Topic: topic, Partition: i})
	}
	ends, err := c.Admin().StableEnds(t.Context(), tps)
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

// Only the partitions under a cap divide it.
func TestCapsAreDividedByThoseUnderThem(t *testing.T) {
	t.Parallel()
	capped := &pacer{cap: Cap{BytesPerSecond: 64 << 20}}
	l := &lane{parts: make(map[spillway.TopicPartition]*partition)}
	for i := range int32(100) {
		p := &partition{TopicPartition: spillway.TopicPartition{Topic: "orders", Partition: i}, position: position{bound: noBound}}
		if i < 4 {
			p.pacers = []*pacer{capped}
		}
		l.parts[p.TopicPartition] = p
	}
	now := time.Now()
	one := l.parts[spillway.TopicPartition{Topic: "orders"}]
	if bytes, _ := l.paced(one, 16<<20, l.underCaps(), now); bytes != 4<<20 {
		t.Errorf("one of four partitions under the cap may bring %d bytes", bytes)
	}
	capped.pay(64<<20, now)
	if bytes, next := l.paced(one, 16<<20, l.underCaps(), now); bytes != 0 || next.Sub(now) != time.Second {
		t.Errorf("what is not paid for: %d bytes, %s", bytes, next.Sub(now))
	}
	one.bound = 7
	if bytes, _ := l.paced(one, 16<<20, l.underCaps(), now); bytes != 16<<20 {
		t.Errorf("in a move: %d bytes", bytes)
	}
}
