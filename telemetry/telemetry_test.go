package telemetry

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"spillway"
	"spillway/console/status"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/history"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

func get(t *testing.T, tel *Telemetry, path string) (int, string) {
	t.Helper()
	mux := http.NewServeMux()
	tel.Register(mux)
	rec := httptest.NewRecorder()
	mux.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	body, err := io.ReadAll(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Code, string(body)
}

func TestReferenceIsCurrent(t *testing.T) {
	const file = "../docs/metrics.md"
	if *update {
		if err := os.WriteFile(file, Reference(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Reference()) {
		t.Error("docs/metrics.md is not what the catalogue says; run go test ./telemetry -update")
	}
}

// Names follow Prometheus: own prefix, base units, _total on counters alone.
func TestNames(t *testing.T) {
	rule := regexp.MustCompile(`^spillway_[a-z]+(_[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, m := range Catalogue() {
		if !rule.MatchString(m.Name) || seen[m.Name] {
			t.Errorf("%s is no good name or stands twice", m.Name)
		}
		seen[m.Name] = true
		if (m.Kind == Counter) != strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a %s", m.Name, m.Kind)
		}
		if m.Unit == "seconds" && !strings.Contains(m.Name, "_seconds") {
			t.Errorf("%s does not name its unit", m.Name)
		}
		if !strings.HasSuffix(m.Help, ".") {
			t.Errorf("help of %s is no sentence", m.Name)
		}
	}
}

func TestReadyNamesWhatIsWrong(t *testing.T) {
	tel := New("test")
	if code, _ := get(t, tel, "/readyz"); code != http.StatusOK {
		t.Errorf("without checks: %d", code)
	}
	if !tel.Health.Set("site east", errors.New("no broker answers")) || tel.Health.Set("site east", errors.New("still none")) {
		t.Error("Set tells changes wrongly")
	}
	tel.Health.Set("coordinator", nil)
	code, body := get(t, tel, "/readyz")
	if code != http.StatusServiceUnavailable || body != "[+] coordinator\n[-] site east: still none\n" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := get(t, tel, "/livez"); code != http.StatusOK {
		t.Errorf("livez: %d", code)
	}
	if _, body := get(t, tel, "/metrics"); !strings.Contains(body, `spillway_ready{check="site east"} 0`) {
		t.Error("the check is no metric")
	}
}

func TestStatusBecomesGauges(t *testing.T) {
	tel := New("test")
	s := status.Status{
		At: time.Now(), Coordinator: status.Coordinator{Up: true},
		Sites:  []status.Site{{Name: "east", State: "up", Gateways: []string{"a", "b"}}, {Name: "north", Witness: true}, {Name: "west", State: "down"}},
		Groups: []status.Group{{Name: "shop", State: "STABLE", Epoch: 3, Unreplicated: -1, LossMax: 10, Safe: true, Sites: []status.Standby{{Site: "east", Active: true}, {Site: "west"}}}},
		Flows: []status.Flow{
			{Group: "shop", Source: "east", Target: "west", Behind: 7, Silent: 0.5}, {Group: "shop", Source: "east", Target: "south", Behind: -1, Silent: -1},
		},
	}
	tel.WatchStatus(func() (status.Status, bool) { return s, true })
	_, body := get(t, tel, "/metrics")
	for _, want := range []string{
		`spillway_site_up{site="east"} 1`, `spillway_site_up{site="west"} 0`, `spillway_site_gateways{site="east"} 2`,
		`spillway_share_state{failover_group="shop",state="STABLE"} 1`, `spillway_share_state{failover_group="shop",state="OPEN"} 0`,
		`spillway_share_active{failover_group="shop",site="east"} 1`, `spillway_share_epoch{failover_group="shop"} 3`,
		`spillway_flow_lag_records{failover_group="shop",source="east",target="west"} 7`, `spillway_share_failover_safe{failover_group="shop"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
	if strings.Contains(body, "spillway_share_unreplicated_records{") || strings.Contains(body, `spillway_flow_silent_seconds{failover_group="shop",source="east",target="south"}`) {
		t.Error("unknown is shown as a number")
	}
}

// A group of drills has series; what was never seen has none.
func TestDrillsAreShown(t *testing.T) {
	tel := New("test")
	s := status.Status{At: time.Now(), Groups: []status.Group{
		{Name: "drill", Drill: &status.Drill{Outcome: "failed", PassedAt: time.Now(), Recovery: 1.5, Lost: 7, Overdue: true}},
		{Name: "new", Drill: &status.Drill{}}, {Name: "shop"},
	}}
	tel.WatchStatus(func() (status.Status, bool) { return s, true })
	_, body := get(t, tel, "/metrics")
	for series, want := range map[string]bool{
		`spillway_drill_passed{failover_group="drill"} 0`: true, `spillway_drill_overdue{failover_group="drill"} 1`: true,
		`spillway_drill_recovery_seconds{failover_group="drill"} 1.5`: true, `spillway_drill_lost_records{failover_group="drill"} 7`: true,
		`spillway_drill_overdue{failover_group="new"} 0`: true, `spillway_drill_passed{failover_group="new"}`: false,
		`spillway_drill_recovery_seconds{failover_group="new"}`: false, `spillway_drill_overdue{failover_group="shop"}`: false,
	} {
		if strings.Contains(body, series) != want {
			t.Errorf("%s: is there %t, want %t", series, !want, want)
		}
	}
}

// Two processes that saw the same move write into the same trace.
func TestMoveIsOneTrace(t *testing.T) {
	start := time.Unix(100, 0)
	move := history.Record{
		Group: "shop", Kind: "switchover", From: "east", To: "west", Epoch: 4, Started: start, Ended: start.Add(time.Second),
		Passages: []failover.Passage{{State: failover.Draining, At: start}, {State: failover.Fencing, At: start.Add(300 * time.Millisecond)}},
	}
	ids := map[string]bool{}
	for range 2 {
		recorder := tracetest.NewSpanRecorder()
		traces := newTraces(sdktrace.WithSpanProcessor(recorder), "shop", "east-1", 1)
		traces.Move(move)
		spans := recorder.Ended()
		if len(spans) != 3 {
			t.Fatalf("%d spans", len(spans))
		}
		root := spans[2]
		if root.Name() != "switchover shop" || root.EndTime().Sub(root.StartTime()) != time.Second {
			t.Errorf("root %s", root.Name())
		}
		if spans[0].Name() != "DRAINING" || spans[0].EndTime().Sub(spans[0].StartTime()) != 300*time.Millisecond || spans[0].Parent().SpanID() != root.SpanContext().SpanID() {
			t.Errorf("child %s is wrong", spans[0].Name())
		}
		ids[root.SpanContext().TraceID().String()+root.SpanContext().SpanID().String()] = true
		if err := traces.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d traces for one move", len(ids))
	}
}

// Work that another process told of lies within the span of its state, also
// before that was written.
func TestWorkLiesWithinItsState(t *testing.T) {
	at := time.Unix(100, 0)
	recorder := tracetest.NewSpanRecorder()
	worker, driver := newTraces(sdktrace.WithSpanProcessor(recorder), "shop", "west-1", 1), newTraces(sdktrace.WithSpanProcessor(recorder), "shop", "east-1", 1)
	worker.Action(control.ActionInfo{
		Share: spillway.ShareID{Group: "shop"}, Epoch: 4, State: failover.Cutover, What: "catch up", Site: "west", Started: at, Ended: at.Add(time.Second), Err: errors.New("no leader"),
	})
	driver.Move(history.Record{
		Group: "shop", Kind: "switchover", Epoch: 4, Started: at, Ended: at.Add(3 * time.Second),
		Passages: []failover.Passage{{State: failover.Fenced, At: at}, {State: failover.Cutover, At: at}},
	})
	spans := recorder.Ended()
	if len(spans) != 4 {
		t.Fatalf("%d spans", len(spans))
	}
	work, cutover := spans[0], spans[2]
	if cutover.Name() != "CUTOVER" || work.Parent().SpanID() != cutover.SpanContext().SpanID() || work.SpanContext().TraceID() != cutover.SpanContext().TraceID() {
		t.Errorf("%s does not lie within %s", work.Name(), cutover.Name())
	}
	if work.Status().Description != "no leader" {
		t.Errorf("status %+v", work.Status())
	}
}

func TestGatewayEventsAreCounted(t *testing.T) {
	tel := New("test")
	s, r := tel.SessionEvents(), tel.RouterEvents()
	s.ConnectionOpened()
	s.ConnectionOpened()
	s.ConnectionClosed("frame-too-large")
	s.RequestServed(0, 9, 20*time.Millisecond)
	shop := spillway.ShareID{Group: "shop"}
	r.Held(shop)
	r.Held(shop)
	r.Released(shop, 120*time.Millisecond)
	r.Produced(shop, 5, 1000, time.Millisecond, 3*time.Millisecond)
	r.FirstContact("duplicate")
	r.Refused("moving")
	_, body := get(t, tel, "/metrics")
	for _, want := range []string{
		`spillway_gateway_connections 1`, `spillway_gateway_connections_closed_total{reason="frame-too-large"} 1`,
		`spillway_gateway_requests_total{api="Produce"} 1`, `spillway_gateway_held_requests{failover_group="shop"} 1`,
		`spillway_gateway_hold_seconds_count{failover_group="shop"} 1`, `spillway_gateway_produced_records_total{failover_group="shop"} 5`,
		`spillway_gateway_first_contacts_total{outcome="duplicate"} 1`, `spillway_gateway_refusals_total{reason="moving"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
}

func TestTheAgeOfRightsIsShown(t *testing.T) {
	tel := New("test")
	tel.RightsAged("east", 90*time.Second)
	tel.RightsAged("west", 0)
	_, body := get(t, tel, "/metrics")
	for _, want := range []string{`spillway_gateway_rights_age_seconds{site="east"} 90`, `spillway_gateway_rights_age_seconds{site="west"} 0`} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
}

func TestDeletionsBehindAreShown(t *testing.T) {
	tel := New("test")
	tel.MirrorEvents().FlowState(mirror.FlowInfo{Share: spillway.ShareID{Group: "shop"}, Source: "east", Target: "west", DeletionsBehind: 0.75})
	want := `spillway_mirror_deletions_behind_ratio{failover_group="shop",source="east",target="west"} 0.75`
	if _, body := get(t, tel, "/metrics"); !strings.Contains(body, want+"\n") {
		t.Errorf("lacks %s", want)
	}
}

// The age is that of the flow which runs, and goes with it.
func TestTheAgeOfGroupsIsShown(t *testing.T) {
	tel := New("test")
	e := tel.MirrorEvents()
	flow := mirror.FlowInfo{Share: spillway.ShareID{Group: "shop"}, Source: "east", Target: "west", GroupAge: 90 * time.Second}
	series := `spillway_mirror_group_age_seconds{failover_group="shop",source="east",target="west"} `
	e.FlowState(flow)
	if _, body := get(t, tel, "/metrics"); !strings.Contains(body, series+"90\n") {
		t.Error("no age")
	}
	flow.GroupAge = 0
	e.FlowState(flow)
	if _, body := get(t, tel, "/metrics"); !strings.Contains(body, series+"0\n") {
		t.Error("it does not end")
	}
	e.FlowEnded(flow)
	if _, body := get(t, tel, "/metrics"); strings.Contains(body, series) {
		t.Error("a flow that has ended has an age")
	}
}

// A gateway without a lease serves nobody, whatever it had opened.
func TestServedOnlyUnderALease(t *testing.T) {
	tel := New("test")
	e := tel.GatewayEvents()
	shop := spillway.ShareID{Group: "shop"}
	for _, step := range []struct {
		what   string
		do     func()
		served string
	}{
		{"open, no lease yet", func() { e.ShareState(shop, 1, failover.Stable, true) }, "0"},
		{"lease begins", func() { e.LeaseState(nil) }, "1"},
		{"lease ends", func() { e.LeaseState(errors.New("the store is away")) }, "0"},
		{"lease comes back", func() { e.LeaseState(nil) }, "1"},
		{"the share moves", func() { e.ShareState(shop, 2, failover.Fencing, false) }, "0"},
	} {
		step.do()
		if _, body := get(t, tel, "/metrics"); !strings.Contains(body, `spillway_gateway_share_serving{failover_group="shop"} `+step.served+"\n") {
			t.Errorf("%s: served is not %s", step.what, step.served)
		}
	}
}

func TestMirrorEventsAreCounted(t *testing.T) {
	tel := New("test")
	e := tel.MirrorEvents()
	orders := spillway.TopicPartition{Topic: "orders"}
	e.BatchMirrored(mirror.BatchInfo{TopicPartition: orders, Source: "east", Target: "west", Records: 9, Bytes: 100, Rebuilt: true, MaxTimestamp: time.Now().UnixMilli()})
	e.GapLogged(maptopic.Gap{Site: "west", Kind: maptopic.GapForeign})
	flow := mirror.FlowInfo{Share: spillway.ShareID{Group: "shop"}, Source: "east", Target: "west", Partitions: 6, Running: 5, LagRecords: 3}
	e.FlowState(flow)
	flow.Source = "north"
	flow.Elsewhere, flow.Workers = 4, []mirror.WorkerShare{{Worker: "a", Partitions: 6, This: true}, {Worker: "b", Partitions: 4}}
	e.FlowState(flow)
	e.Workers(mirror.WorkersInfo{Share: flow.Share, Source: "north", Target: "west", Given: []spillway.TopicPartition{orders}})
	_, body := get(t, tel, "/metrics")
	for _, want := range []string{
		`spillway_mirror_records_total{source="east",target="west",topic="orders"} 9`,
		`spillway_mirror_batches_total{form="rebuilt",source="east",target="west"} 1`,
		`spillway_mirror_gaps_total{kind="foreign-write",site="west"} 1`,
		`spillway_mirror_lag_records{failover_group="shop",source="north",target="west"} 3`,
		`spillway_mirror_partitions{failover_group="shop",source="north",state="stopped",target="west"} 1`,
		`spillway_mirror_partitions{failover_group="shop",source="north",state="elsewhere",target="west"} 4`,
		`spillway_mirror_workers{failover_group="shop",source="north",target="west"} 2`,
		`spillway_mirror_partitions_moved_total{direction="given",failover_group="shop",source="north",target="west"} 1`,
		`spillway_mirror_partitions_moved_total{direction="taken",failover_group="shop",source="north",target="west"} 0`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
	if strings.Contains(body, `spillway_mirror_lag_records{failover_group="shop",source="east"`) {
		t.Error("the flow of the old source still has its lag")
	}
	e.FlowEnded(flow)
	if _, body := get(t, tel, "/metrics"); strings.Contains(body, `spillway_mirror_lag_records{`) {
		t.Error("a flow that ended still has its lag")
	}
}

// An increase of a series is seen only from a value that was scraped before.
func TestRareEventsBeginAtZero(t *testing.T) {
	tel := New("test")
	tel.Prepare([]string{"shop"}, "west")
	_, body := get(t, tel, "/metrics")
	for _, want := range []string{
		`spillway_mirror_gaps_total{kind="foreign-write",site="west"} 0`, `spillway_mirror_gaps_total{kind="unreplicated",site="west"} 0`,
		`spillway_move_transitions_total{failover_group="shop",kind="failover",state="OPEN"} 0`,
		`spillway_move_held_seconds_count{failover_group="shop",kind="switchover"} 0`, `spillway_gateway_held_requests_total{failover_group="shop"} 0`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("lacks %s", want)
		}
	}
}
