// Package world is a virtual cluster of real parts for tests: Apache Kafka at
// every site, Consul servers, and one `spillway serve` process per site, each a
// child process that can be killed, stopped and started again. Clients of the
// brokers need credentials that the clients under test do not have, so nobody
// goes round the gateways unseen.
package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/tests/cluster/consul"
	"spillway/tests/cluster/kafka"
	"spillway/tests/cluster/port"
	"spillway/tests/cluster/process"
	"spillway/tests/orders"
	"spillway/tests/orders/sitelog"
)

// Group is the failover group that owns all topics and consumer groups.
const Group = "shop"

// The credentials of Spillway at the brokers.
const (
	user     = "spillway"
	password = "only-spillway-knows"
)

// Options of a world.
type Options struct {
	Sites      []string // default east, west, north; the first is home
	Versions   map[string]string
	Brokers    int // per site; default 1
	Consuls    int // default 3
	Partitions int32
	AckSites   int
	// Automatic lets the sites fail over by themselves; LossMax bounds it.
	Automatic     bool
	LossMax       int64
	ReservedBlock int64
	OffsetBase    int64
	Extra         string // lines added to the failover group, YAML
}

// World is running until the test ends.
type World struct {
	Sites     []string
	Kafka     map[string]*kafka.Cluster
	Consul    *consul.Cluster
	Bootstrap []string // of the gateways
	Options   Options

	t      testing.TB
	dir    string
	binary string
	ports  map[string]ports
	served map[string]*process.Process
}

type ports struct{ gateway, marks, metrics, console int }

// Start starts everything and returns when the group is served and every
// standby follows.
func Start(t testing.TB, o Options) *World {
	t.Helper()
	if len(o.Sites) == 0 {
		o.Sites = []string{"east", "west", "north"}
	}
	defaults(&o)
	w := &World{
		Sites: o.Sites, Kafka: make(map[string]*kafka.Cluster), Options: o, t: t, dir: t.TempDir(),
		ports: make(map[string]ports), served: make(map[string]*process.Process),
	}
	w.must(w.build())
	begun := time.Now()
	var configs []kafka.Config
	for i, site := range o.Sites {
		configs = append(configs, kafka.Config{
			Name: site, Version: o.Versions[site], Brokers: o.Brokers, FirstNode: 1 + 10*i,
			Users: map[string]string{user: password}, SuperUsers: []string{user},
		})
	}
	for i, c := range kafka.ForTest(t, configs...) {
		w.Kafka[o.Sites[i]] = c
	}
	w.Consul = consul.ForTest(t, o.Consuls)
	t.Logf("brokers and consul are up after %s", time.Since(begun).Round(time.Millisecond))
	home := w.Kafka[o.Sites[0]]
	w.must(orders.CreateTopics(t.Context(), home.Bootstrap(), o.Partitions, int16(o.Brokers), home.Dial()...))
	t.Cleanup(w.stop)
	for i, site := range o.Sites {
		w.writeConfig(site, w.Consul.Servers[i%len(w.Consul.Servers)].HTTP)
		w.StartSpillway(site)
	}
	w.Eventually(60*time.Second, "the group is stable and followed", func() error { return w.Healthy(t.Context()) })
	t.Logf("the virtual cluster is healthy after %s", time.Since(begun).Round(time.Millisecond))
	return w
}

func defaults(o *Options) {
	if o.Brokers == 0 {
		o.Brokers = 1
	}
	if o.Consuls == 0 {
		o.Consuls = 3
	}
	if o.Partitions == 0 {
		o.Partitions = 4
	}
	if o.AckSites == 0 {
		o.AckSites = 1
	}
	if o.ReservedBlock == 0 {
		o.ReservedBlock = 5000
	}
	if o.OffsetBase == 0 {
		o.OffsetBase = 700_000 // no virtual offset equals a broker's
	}
	if o.LossMax == 0 {
		o.LossMax = 1_000_000
	}
}

func (w *World) build() error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	w.binary = filepath.Join(w.dir, "spillway")
	cmd := exec.Command("go", "build", "-o", w.binary, "./cmd/spillway")
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build spillway: %w: %s", err, out)
	}
	return nil
}

// StartSpillway starts the process of a site: gateway, mirror, control, console.
func (w *World) StartSpillway(site string) {
	w.t.Helper()
	p, err := process.Start(process.Spec{
		Name: "spillway at " + site, Path: w.binary, Args: []string{"serve", "--config", w.config(site)},
		Env: []string{"SPILLWAY_TEST_PASSWORD=" + password}, Log: w.Log(site),
	})
	w.must(err)
	w.served[site] = p
}

// Log is the file that the process of a site logs to.
func (w *World) Log(site string) string { return filepath.Join(w.dir, site+".log") }

func (w *World) config(site string) string { return filepath.Join(w.dir, site+".yaml") }

// Spillway is the process of a site.
func (w *World) Spillway(site string) *process.Process { return w.served[site] }

// KillSite ends everything of a site with SIGKILL: brokers and Spillway.
func (w *World) KillSite(site string) {
	w.t.Helper()
	w.must(errors.Join(w.served[site].Kill(), w.Kafka[site].Kill()))
}

// RestartSite starts what KillSite ended.
func (w *World) RestartSite(site string) {
	w.t.Helper()
	w.must(w.Kafka[site].Restart(w.t.Context()))
	w.StartSpillway(site)
}

func (w *World) stop() {
	for site, p := range w.served {
		if err := p.Kill(); err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("end of the log of spillway at %s:\n%s", site, p.Tail(60))
		}
	}
}

// Run runs a spillway command with the configuration of a site and returns its
// standard output.
func (w *World) Run(ctx context.Context, site string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, w.binary, append(args, "--config", w.config(site))...)
	cmd.Env = append(os.Environ(), "SPILLWAY_TEST_PASSWORD="+password)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return string(out), fmt.Errorf("spillway %s: %w: %s%s", strings.Join(args, " "), err, exit.Stderr, out)
	}
	return string(out), err
}

// Healthy asks `spillway status`, which says so by its exit status.
func (w *World) Healthy(ctx context.Context) error {
	_, err := w.Run(ctx, w.Sites[0], "status", "-o", "json")
	return err
}

// MetricsAddress is where a site's process tells Prometheus how it is.
func (w *World) MetricsAddress(site string) string {
	return fmt.Sprintf("127.0.0.1:%d", w.ports[site].metrics)
}

// Metrics reads what a site's process tells Prometheus.
func (w *World) Metrics(ctx context.Context, site string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.MetricsAddress(site)+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// Share is what `spillway failover-group show` says.
func (w *World) Share(ctx context.Context, site string, into any) error {
	out, err := w.Run(ctx, site, "failover-group", "show", Group, "-o", "json")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// SiteLog tells the checker how to read a site's logs directly.
func (w *World) SiteLog(site string) sitelog.Site {
	c := w.Kafka[site]
	return sitelog.Site{Name: site, Bootstrap: c.Bootstrap(), Options: c.Dial()}
}

// Eventually waits for a condition.
func (w *World) Eventually(patience time.Duration, what string, ok func() error) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("did not happen within %s: %s: %v", patience, what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *World) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// writeConfig writes the configuration of a site's process.
func (w *World) writeConfig(site, consulAddress string) {
	w.t.Helper()
	free, err := port.Reserve(4)
	w.must(err)
	p := ports{gateway: free[0], marks: free[1], metrics: free[2], console: free[3]}
	w.ports[site] = p
	w.Bootstrap = append(w.Bootstrap, fmt.Sprintf("127.0.0.1:%d", p.gateway))
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("virtualCluster: {name: world, clusterID: world-of-tests}")
	line("process: {id: %s-1, site: %s, dataDir: %s}", site, site, filepath.Join(w.dir, site+"-data"))
	line("sites:")
	for _, s := range w.Sites {
		line("  - name: %s", s)
		line("    bootstrap: [%s]", strings.Join(w.Kafka[s].Bootstrap(), ", "))
		line("    sasl: {mechanism: SCRAM-SHA-256, user: %s, passwordEnv: SPILLWAY_TEST_PASSWORD}", user)
	}
	line("coordinator: {consul: {address: %q}}", consulAddress)
	line("failoverGroups:")
	line("  - name: %s", Group)
	line("    topics: [%s]", strings.Join(orders.Topics, ", "))
	line("    consumerGroups: [\"*\"]")
	line("    sites: [%s]", strings.Join(w.Sites, ", "))
	line("    ack: {sites: %d}", w.Options.AckSites)
	line("    offsetBase: %d", w.Options.OffsetBase)
	line("    reservedBlock: %d", w.Options.ReservedBlock)
	line("    groupDrain: 5s")
	line("    failover: {automatic: %t, after: 2s, lossRecordsMax: %d, perHourMax: 100}", w.Options.Automatic, w.Options.LossMax)
	line("%s", w.Options.Extra)
	line("gateway: {listen: \"127.0.0.1:%d\"}", p.gateway)
	line("mirror: {listen: \"127.0.0.1:%d\"}", p.marks)
	line("telemetry: {listen: \"127.0.0.1:%d\"}", p.metrics)
	line("console: {listen: \"127.0.0.1:%d\"}", p.console)
	w.must(os.WriteFile(w.config(site), []byte(b.String()), 0o600))
}
