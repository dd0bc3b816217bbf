package mirror

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"spillway"
	"spillway/broker"
)

// A delayed flow carries what is old enough and nothing else. Then its target is
// brought to a moment, to the record: the middle of a batch, before somebody wrote what
// he should not have.
func TestADelayedTargetIsBroughtToAMoment(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	c, err := kgo.NewClient(kgo.SeedBrokers(east.Addresses()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now := time.Now().Truncate(time.Millisecond)
	write := func(ages ...time.Duration) {
		t.Helper()
		var batch []*kgo.Record
		for _, age := range ages {
			batch = append(batch, &kgo.Record{Topic: "orders", Value: []byte(age.String()), Timestamp: now.Add(-age)})
		}
		if err := c.ProduceSync(ctx, batch...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write(3*time.Hour, 2*time.Hour)
	write(90*time.Minute, 30*time.Minute) // its youngest record is too young
	write(20*time.Minute, 19*time.Minute, 10*time.Minute)
	m := testMirrorWith(t, Config{Local: west, IdentitySources: true}, east)
	a := Assignment{Share: spillway.ShareID{Group: "run-east"}, Topics: []string{"*"}, Epoch: 1, Source: "east", Delay: time.Hour}
	if err := m.Assign(ctx, a); err != nil {
		t.Fatal(err)
	}
	tp := spillway.TopicPartition{Topic: "orders"}
	eventually(t, "what is old enough is there", func() bool { return m.Ends(a.Share)[tp] == 2 })
	eventually(t, "the flow says how far it is behind", func() bool { return m.Flows()[0].LagRecords == 5 })
	if got := readOrders(t, west); len(got) != 2 {
		t.Errorf("%d records are there, 2 are an hour old", len(got))
	}
	m.Close()

	run := RunConfig{From: east, To: west, Topics: selected(t, "orders")}
	for _, c := range []struct {
		until time.Duration
		want  int
	}{{25 * time.Minute, 4}, {19 * time.Minute, 6}, {10*time.Minute + time.Millisecond, 6}, {10 * time.Minute, 7}} {
		run.Until = now.Add(-c.until)
		if _, err := Run(ctx, run); err != nil {
			t.Fatal(err)
		}
		if got := readOrders(t, west); len(got) != c.want {
			t.Errorf("until %s ago: %d records, want %d", c.until, len(got), c.want)
		}
	}
	run.Until = now.Add(-25 * time.Minute)
	if _, err := Run(ctx, run); err == nil || !strings.Contains(err.Error(), "has records of orders-0 up to virtual offset 7 already") {
		t.Errorf("until a moment that is past: %v", err)
	}
}

// slowTimes is a source that takes long to find records by their time.
type slowTimes struct{ broker.Cluster }

func (s slowTimes) Admin() broker.Admin { return slowAdmin{s.Cluster.Admin()} }

type slowAdmin struct{ broker.Admin }

func (s slowAdmin) OffsetsForTime(ctx context.Context, tps []spillway.TopicPartition, milliseconds int64) (map[spillway.TopicPartition]spillway.LocalOffset, error) {
	time.Sleep(time.Second) // long enough for a flow that runs to carry everything
	return s.Admin.OffsetsForTime(ctx, tps, milliseconds)
}

// Nothing is carried before it is known where to end.
func TestUntilIsKnownBeforeTheFlowBegins(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	l := newLoad(t, east.Addresses(), 98)
	l.at = time.Now().Add(-time.Hour).Truncate(time.Second)
	until := l.at
	if err := l.plain.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("good"), Timestamp: until}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := l.write(ctx, "orders", 1, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(ctx, RunConfig{From: slowTimes{east}, To: west, Topics: selected(t, "orders"), Until: until}); err != nil {
		t.Fatal(err)
	}
	if got := readOrders(t, west); len(got) != 1 {
		t.Errorf("%d records are there, one is not younger", len(got))
	}
}

func TestRunRefusesTimesThatContradict(t *testing.T) {
	t.Parallel()
	east, west := embeddedSite(t, "east", nil), embeddedSite(t, "west", nil)
	for want, c := range map[string]RunConfig{
		"never caught up": {Delay: time.Hour, UntilCaughtUp: true},
		"is not over yet": {Until: time.Now().Add(time.Hour)},
		"a delay of -1s":  {Delay: -time.Second},
	} {
		c.From, c.To = east, west
		if _, err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestADelayedPartitionDoesNotLookForEachBatch(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct{ delay, due, want time.Duration }{
		{time.Hour, 10 * time.Minute, 30 * time.Second},
		{time.Hour, 0, 30 * time.Second},
		{time.Minute, time.Second, 3 * time.Second},
		{time.Minute, 10 * time.Second, 10 * time.Second},
	} {
		f := &flow{share: Assignment{Delay: c.delay}}
		if got := f.untilDue(now.Add(c.due-c.delay).UnixMilli(), now).Round(10 * time.Millisecond); got != c.want {
			t.Errorf("%+v: rests for %s", c, got)
		}
	}
}

// A batch with a time in the future would hold its partition up for as long, and nobody
// would know why.
func TestADelayedFlowSaysThatATimeIsInTheFuture(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	east, west := embeddedSite(t, "east", map[string]int32{"orders": 1}), embeddedSite(t, "west", nil)
	l := newLoad(t, east.Addresses(), 99)
	if err := l.plain.ProduceSync(ctx, &kgo.Record{Topic: "orders", Timestamp: time.Now().Add(10 * time.Hour)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	m := testMirrorWith(t, Config{Local: west, IdentitySources: true}, east)
	assign(t, m, Assignment{Share: spillway.ShareID{Group: "run-east"}, Topics: []string{"*"}, Epoch: 1, Source: "east", Delay: time.Hour})
	eventually(t, "the flow says it", func() bool {
		return strings.Contains(m.Flows()[0].Problems[spillway.TopicPartition{Topic: "orders"}], "offset 0 of site east has a time in the future")
	})
}
