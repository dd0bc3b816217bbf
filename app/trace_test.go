package app

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"spillway/configs"
	"spillway/federation/control"
)

// receiver is an OTLP/HTTP endpoint that keeps the spans it gets.
type receiver struct {
	sync.Mutex
	spans []*traces.Span
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var export collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &export)
	}
	if err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(req.URL.Path, err), http.StatusBadRequest)
		return
	}
	r.Lock()
	defer r.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
}

// A switchover is one trace, though two processes write it: a span for each
// state, and inside of it what the sites did.
func TestASwitchoverIsOneTrace(t *testing.T) {
	received := &receiver{}
	endpoint := httptest.NewServer(received)
	defer endpoint.Close()
	text := fmt.Sprintf(`
virtualCluster: {name: shop, clusterID: shop-1}
process: {id: $SITE-1, site: $SITE, roles: [$ROLES], dataDir: $DIR}
sites:
- {name: east, embedded: {listen: "%s", dir: $DIR/east}}
- {name: west, embedded: {listen: "%s", dir: $DIR/west}}
coordinator: {embedded: {file: $DIR/store.db, socket: $DIR/store.sock}}
failoverGroups: [{name: shop, topics: [orders], sites: [east, west]}]
telemetry: {listen: "127.0.0.1:0", otlp: "%s"}
mirror: {listen: "127.0.0.1:0"}
gateway: {lease: {interval: 200ms, ttl: 800ms}}
`, freeAddress(t), freeAddress(t), endpoint.URL)
	text = strings.ReplaceAll(text, "$DIR", t.TempDir())
	process := func(site, roles string) *App {
		t.Helper()
		cfg, err := configs.Parse("test.yaml", []byte(strings.NewReplacer("$SITE", site, "$ROLES", roles).Replace(text)), func(string) (string, bool) { return "", false })
		if err != nil {
			t.Fatal(err)
		}
		a, _ := start(t, cfg)
		return a
	}
	east, west := process("east", "broker, mirror, control"), process("west", "broker, mirror")
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	operator := control.NewOperator(east.cfg.Topology(), east.store, Observers(east.cfg))
	eventually(t, "a switchover begins", func() bool {
		_, err := operator.Switchover(ctx, "shop", "west", "test", "", false)
		return err == nil
	})
	if _, err := operator.Await(ctx, "shop", 2, nil); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*App{west, east} {
		if err := a.Stop(); err != nil { // sends what waits
			t.Fatal(err)
		}
	}
	received.Lock()
	defer received.Unlock()
	checkTrace(t, received.spans)
}

func checkTrace(t *testing.T, spans []*traces.Span) {
	t.Helper()
	trace, names := "", make(map[string]string) // by span id
	for _, s := range spans {
		if id := hex.EncodeToString(s.TraceId); trace == "" {
			trace = id
		} else if id != trace {
			t.Errorf("span %s is in another trace", s.Name)
		}
		names[string(s.SpanId)] = s.Name
	}
	var inside []string // "parent: name at site"
	for _, s := range spans {
		site := ""
		for _, a := range s.Attributes {
			if a.Key == "spillway.site" {
				site = " at " + a.Value.GetStringValue()
			}
		}
		inside = append(inside, names[string(s.ParentSpanId)]+": "+s.Name+site)
		if s.EndTimeUnixNano < s.StartTimeUnixNano || s.StartTimeUnixNano == 0 {
			t.Errorf("span %s ends before it begins", s.Name)
		}
	}
	slices.Sort(inside)
	for _, want := range []string{
		": switchover shop", "switchover shop: DRAINING", "switchover shop: FENCING", "switchover shop: FENCED", "switchover shop: CUTOVER",
		"switchover shop: CAUGHT_UP", "switchover shop: OPEN", "FENCED: read-ends at east", "CUTOVER: make ready to follow at east",
		"CUTOVER: catch up, open the epoch at west", // the next states can be over before a site looks
	} {
		if !slices.Contains(inside, want) {
			t.Errorf("the trace lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", strings.Join(inside, "\n"))
	}
}
