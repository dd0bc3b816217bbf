package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"spillway/configs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// freeAddress finds a loopback port that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // only asked for its number
	return l.Addr().String()
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
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "[-] coordinator: ") || !strings.Contains(body, "[-] site east: ") {
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
	if err == nil || !strings.Contains(err.Error(), "start console: ") || !strings.Contains(err.Error(), "address already in use") {
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
