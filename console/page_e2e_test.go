//go:build e2e

package console

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/console/status"
)

// sample has one of everything that the page can show.
func sample() status.Status {
	return status.Status{
		VirtualCluster: "shop", ClusterID: "shop-virtual-cluster-1", At: time.Now(), Level: status.Bad,
		News:        []string{"group shop: its active site east is down", "site east is down, say north and west: no broker can be reached", "flow shop:east→west: its source east is down", "automatic failover is paused by ada: rolling the brokers"},
		Coordinator: status.Coordinator{Kind: "consul", Up: true},
		Sites: []status.Site{
			{Name: "east", Level: status.Bad, Why: "is down, say north and west: no broker can be reached", Evidence: "no broker can be reached; node 11: connection refused", State: "down", Active: []string{"shop"}, Gateways: []string{}, Mirrors: []string{}, Votes: []status.Vote{{Observer: "north", Verdict: "down", For: 75.2}, {Observer: "west", Verdict: "down", For: 74}}},
			{Name: "west", State: "up", Active: []string{"clicks"}, Gateways: []string{"west-1", "west-2"}, Mirrors: []string{"west-1"}},
			{Name: "north", State: "witness", Witness: true, Active: []string{}, Gateways: []string{}, Mirrors: []string{}},
		},
		Groups: []status.Group{
			{Name: "shop", Level: status.Bad, Why: "its active site east is down", State: "STABLE", Doing: "served by east", Epoch: 7, Active: "east", Topics: []string{"orders", "carts", "<b>inventory</b>"}, AckSites: 2, Unreplicated: 1234, Sites: []status.Standby{{Site: "east", Active: true}, {Site: "west", Behind: 1234}}},
			{Name: "clicks", State: "STABLE", Doing: "served by west", Epoch: 2, Active: "west", Topics: []string{"clicks-*"}, AckSites: 1, Safe: true, Sites: []status.Standby{{Site: "west", Active: true}, {Site: "east", Behind: -1}}},
		},
		Flows: []status.Flow{{Name: "shop:east→west", Level: status.Bad, Why: "its source east is down", Behind: 1234, Lag: 195, Partitions: 24, Silent: 0.4}, {Name: "clicks:west→east", Behind: 0, Partitions: 6, Silent: 0.2}},
	}
}

func chromium(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v; install the Debian package chromium", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	args = append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=4000",
	}, args...)
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return string(out)
}

// A real browser draws the page from the event stream.
func TestBrowserShowsTheStatus(t *testing.T) {
	s := serve(t, func() (status.Status, bool) { return sample(), true })
	dom := chromium(t, "--dump-dom", s.URL+"/")
	for _, want := range []string{
		"its active site east is down", "STABLE, epoch 7", "shop:east→west", "1,234 records behind", "Votes about the sites",
		"say north and west", "<summary>what was found</summary>", "down for 75 s", "served by east", "3 min", // how long the flow is behind
		"&lt;b&gt;inventory&lt;/b&gt;", // names are text, never markup
		`class="badge bad"`,
	} {
		if !strings.Contains(dom, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	picture := filepath.Join(t.TempDir(), "page.png")
	if dir := os.Getenv("SPILLWAY_PICTURES"); dir != "" {
		picture = filepath.Join(dir, "console.png")
	}
	chromium(t, "--window-size=1280,1250", "--screenshot="+picture, s.URL+"/")
	if info, err := os.Stat(picture); err != nil || info.Size() < 10_000 {
		t.Errorf("no picture: %v", err)
	}
}
