package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"spillway/configs"
	"spillway/tests/cluster/port"
)

// TestMain also runs those with real servers: what starts these keeps a thread of its own.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("spillway/tests/cluster/process.init.func1.1"))
}

// freeAddress is a loopback address on which nobody but this process listens, as long as it lives:
// one that the kernel gave away a moment ago can be that of any outgoing connection before a server
// listens there, or after it was stopped.
func freeAddress(t *testing.T) string {
	t.Helper()
	ports, err := port.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0]))
}

// parse reads a configuration for a test; $DIR stands for its folder.
func parse(t *testing.T, text string) *configs.Config {
	t.Helper()
	text = strings.ReplaceAll(text, "$DIR", t.TempDir())
	cfg, err := configs.Parse("test.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

type logBuffer struct {
	sync.Mutex
	b bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.Lock()
	defer l.Unlock()
	return l.b.String()
}

func start(t *testing.T, cfg *configs.Config) (*App, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	a := New(cfg, Options{Version: "test", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	return a, log
}

func httpGet(t *testing.T, address net.Addr, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://%s%s", address, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // read only
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come about", what)
		case <-tick.C:
		}
	}
}

// A process starts without Consul and without its site, says so once, and is
// not ready.
func TestStartsWithoutStoreAndSite(t *testing.T) {
	cfg := parse(t, fmt.Sprintf(`
virtualCluster: {name: shop, clusterID: shop-1}
process: {id: east-1, site: east, roles: [console], dataDir: $DIR}
sites: [{name: east, bootstrap: ["%s"]}]
coordinator: {consul: {address: "%s"}}
failoverGroups: [{name: shop, topics: [orders], sites: [east]}]
telemetry: {listen: "127.0.0.1:0"}
console: {listen: "127.0.0.1:0"}
control: {probeInterval: 50ms, probeTimeout: 500ms}
`, freeAddress(t), freeAddress(t)))
	a, log := start(t, cfg)
	eventually(t, "a warning about both", func() bool {
		text := log.String()
		return strings.Contains(text, "coordinator cannot be reached") && strings.Contains(text, "site cannot be reached")
	})
	code, body := httpGet(t, a.Addr("telemetry"), "/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "[-] coordinator: ") || !strings.Contains(body, "[-] coordinator token: ") || !strings.Contains(body, "[-] site east: ") {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := httpGet(t, a.Addr("telemetry"), "/livez"); code != http.StatusOK {
		t.Errorf("livez: %d", code)
	}
	eventually(t, "the page tells", func() bool {
		_, body := httpGet(t, a.Addr("console"), "/api/status")
		return strings.Contains(body, `"coordinator store: `)
	})
	if n := strings.Count(log.String(), "site cannot be reached"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// An address in use cannot get better by waiting: the start fails, names it,
// and ends what was built.
func TestStartRollsBack(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // only in the way
	cfg := parse(t, fmt.Sprintf(`
virtualCluster: {name: shop, clusterID: shop-1}
process: {id: here-1, site: here, roles: [broker, console], dataDir: $DIR}
sites: [{name: here, embedded: {listen: "%s", dir: $DIR/here}}]
coordinator: {embedded: {file: $DIR/store.db, socket: $DIR/store.sock}}
failoverGroups: [{name: shop, topics: [orders], sites: [here]}]
telemetry: {listen: "127.0.0.1:0"}
console: {listen: "%s"}
`, freeAddress(t), l.Addr()))
	a := New(cfg, Options{Log: slog.New(slog.DiscardHandler)})
	err = a.Start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "start console: ") || !strings.Contains(err.Error(), "address already in use; if another process has the address, name a free one in console.listen") {
		t.Fatalf("%v", err)
	}
	// The embedded store and site are free again.
	cfg.Console.Listen = "127.0.0.1:0"
	b, _ := start(t, cfg)
	eventually(t, "ready", func() bool {
		code, _ := httpGet(t, b.Addr("telemetry"), "/readyz")
		return code == http.StatusOK
	})
}

// The shipped example for one host runs: a client that knows nothing of
// Spillway writes and reads through its gateway, and all is well afterwards.
func TestEmbeddedExampleServes(t *testing.T) {
	text, err := configs.Example("embedded")
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for _, address := range []string{"127.0.0.1:19092", "127.0.0.1:9092", "127.0.0.1:9094", "127.0.0.1:9095", "127.0.0.1:9096"} {
		changed = strings.ReplaceAll(changed, address, freeAddress(t))
	}
	cfg := parse(t, strings.ReplaceAll(changed, "./spillway-data", "$DIR"))
	a, log := start(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	home, err := OpenSite(cfg.Sites[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := home.Admin().CreateTopic(ctx, "greetings", 2, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := home.Close(); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(a.Addr("gateway").String()), kgo.ConsumeTopics("greetings"), kgo.ConsumerGroup("readers"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	sent, err := client.ProduceSync(ctx, &kgo.Record{Topic: "greetings", Value: []byte("hello")}).First()
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	got := client.PollFetches(ctx)
	if got.Err() != nil || got.NumRecords() != 1 || string(got.Records()[0].Value) != "hello" || got.Records()[0].Offset != sent.Offset {
		t.Errorf("read %v, %v", got.Records(), got.Err())
	}
	eventually(t, "a good status", func() bool {
		_, body := httpGet(t, a.Addr("console"), "/api/status")
		return strings.Contains(body, `"level": "good"`) && strings.Contains(body, `"news": []`)
	})
	eventually(t, "ready", func() bool {
		code, _ := httpGet(t, a.Addr("telemetry"), "/readyz")
		return code == http.StatusOK
	})
	// The commands of the README reach the store of the running process.
	beside, err := OpenStore(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := beside.Close(); err != nil {
		t.Error(err)
	}
	if _, body := httpGet(t, a.Addr("telemetry"), "/metrics"); !strings.Contains(body, `spillway_gateway_produced_records_total{failover_group="shop"} 1`) {
		t.Error("the record was not counted")
	}
}

// While parts finish what clients have begun, a load balancer that asks sends no more.
func TestAProcessThatStopsIsNotReady(t *testing.T) {
	a, _ := start(t, parse(t, fmt.Sprintf(`
virtualCluster: {name: shop, clusterID: shop-1}
process: {id: here-1, site: here, roles: [broker, console], dataDir: $DIR}
sites: [{name: here, embedded: {listen: "%s", dir: $DIR/here}}]
coordinator: {embedded: {file: $DIR/store.db, socket: $DIR/store.sock}}
failoverGroups: [{name: shop, topics: [orders], sites: [here]}]
telemetry: {listen: "127.0.0.1:0"}
`, freeAddress(t))))
	ready := func() (int, string) { return httpGet(t, a.Addr("telemetry"), "/readyz") }
	eventually(t, "ready", func() bool {
		code, _ := ready()
		return code == http.StatusOK
	})
	asked := false
	a.teardown.push("the first part that ends", func(context.Context) error {
		asked = true
		if code, body := ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "[-] process: it is stopping") {
			t.Errorf("%d %s", code, body)
		}
		return nil
	})
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	if !asked {
		t.Error("nobody asked")
	}
}
