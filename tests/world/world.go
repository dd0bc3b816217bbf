// Package world is a virtual cluster of real parts for tests: Apache Kafka at
// every site, Consul servers, and one `spillway serve` process per site, each a
// child process that can be killed, stopped and started again. Clients of the
// brokers need credentials that the clients under test do not have, so nobody
// goes round the gateways unseen.
package world

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	Sites          []string // default east, west, north; the first is home
	Versions       map[string]string
	Brokers        int // per site; default 1
	Consuls        int // default 3
	Partitions     int32
	Topics         []string // more topics, or patterns of them, of the failover group; nobody creates them
	Administration string   // of gateways, by clients
	AckSites       int
	// Automatic lets the sites fail over by themselves; LossMax bounds it.
	Automatic     bool
	LossMax       int64
	ReservedBlock int64
	OffsetBase    int64
	Extra         string            // lines added to the failover group, YAML
	Control       string            // settings of the control role, YAML
	Mirror        string            // settings of the mirror role, YAML: "key: value, key: value"
	Properties    map[string]string // of all brokers
	// MirrorApart runs the mirror of each site in a process of its own.
	MirrorApart bool
	// LeaderFirst gives the Consul server that leads to the first site.
	LeaderFirst bool
	// Isolated is a site with a network of its own, so that Cut can make it a
	// black hole. Needs root.
	Isolated string
	// OwnClocks lets the time of day of brokers be changed.
	OwnClocks bool
	// OwnDisks lets the disks of brokers be filled. Needs root.
	OwnDisks bool
}

// World is running until the test ends.
type World struct {
	Sites     []string
	Kafka     map[string]*kafka.Cluster
	Consul    *consul.Cluster
	Bootstrap []string // of the gateways
	Options   Options

	t       testing.TB
	dir     string
	binary  string
	network *network // of the isolated site
	ports   map[string]ports
	served  map[string]*process.Process
	mirrors map[string]*process.Process // where they are apart
	away    map[string]bool             // killed, or cut off
}

// Of a site's processes; the mirror's metrics only where it is apart.
type ports struct{ gateway, marks, metrics, console, mirrorMetrics int }

// Start starts everything and returns when the group is served and every
// standby follows.
func Start(t testing.TB, o Options) *World {
	t.Helper()
	if len(o.Sites) == 0 {
		o.Sites = []string{"east", "west", "north"}
	}
	defaults(&o)
	w := &World{
		Sites: o.Sites, Kafka: make(map[string]*kafka.Cluster), Options: o, t: t,
		ports: make(map[string]ports), served: make(map[string]*process.Process), mirrors: make(map[string]*process.Process), away: make(map[string]bool),
	}
	w.makeDir()
	w.must(w.build())
	if o.Isolated != "" {
		var err error
		w.network, err = newNetwork()
		w.must(err)
		t.Cleanup(func() { w.must(w.network.remove()) })
	}
	begun := time.Now()
	var configs []kafka.Config
	var places []consul.Place
	for i, site := range o.Sites {
		places = append(places, consul.Place{Host: w.host(site), Network: w.Network(site)})
		configs = append(configs, kafka.Config{
			Host: w.host(site), Network: w.Network(site), Name: site, Version: o.Versions[site], Brokers: o.Brokers, FirstNode: 1 + 10*i,
			Users: map[string]string{user: password}, SuperUsers: []string{user}, Properties: o.Properties, OwnDisk: o.OwnDisks, OwnClock: o.OwnClocks,
		})
	}
	for i, c := range kafka.ForTest(t, configs...) {
		w.Kafka[o.Sites[i]] = c
	}
	w.Consul = consul.ForTest(t, o.Consuls, places...)
	if o.LeaderFirst {
		w.must(w.leaderFirst(t.Context()))
	}
	t.Logf("brokers and consul are up after %s", time.Since(begun).Round(time.Millisecond))
	home := w.Kafka[o.Sites[0]]
	w.must(orders.CreateTopics(t.Context(), home.Bootstrap(), o.Partitions, int16(o.Brokers), home.Dial()...))
	t.Cleanup(w.stop)
	for _, site := range o.Sites {
		w.reserve(site)
		w.writeConfigs(site)
	}
	for _, site := range o.Sites {
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

// makeDir makes the folder of logs and histories. It stays if the test fails.
func (w *World) makeDir() {
	var err error
	w.dir, err = os.MkdirTemp("", "spillway-world-")
	w.must(err)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			_ = os.Remove(w.binary) // large, and there is a new one soon
			w.t.Logf("histories, logs and configurations of this run are kept in %s", w.dir)
			return
		}
		w.must(os.RemoveAll(w.dir))
	})
}

// Dir is a folder that stays if the test fails.
func (w *World) Dir() string { return w.dir }

// StartSpillway starts what Spillway runs at a site: one process of gateway,
// mirror, control and console, or two if the mirror is apart.
func (w *World) StartSpillway(site string) {
	w.t.Helper()
	w.StartServing(site)
	if w.Options.MirrorApart {
		w.StartMirror(site)
	}
}

// StartServing starts the process of a site that has its gateway.
func (w *World) StartServing(site string) {
	w.t.Helper()
	w.served[site] = w.serve("spillway at "+site, w.config(site), w.Log(site), site)
}

// StartMirror starts the mirror of a site where it is apart.
func (w *World) StartMirror(site string) {
	w.t.Helper()
	w.mirrors[site] = w.serve("mirror at "+site, w.config(site+"-mirror"), w.Log(site+"-mirror"), site)
}

func (w *World) serve(name, config, log, site string) *process.Process {
	p, err := process.Start(process.Spec{
		Name: name, Path: w.binary, Args: []string{"serve", "--config", config},
		Env: []string{"SPILLWAY_TEST_PASSWORD=" + password}, Log: log, Network: w.Network(site),
	})
	w.must(err)
	return p
}

// Log is the file that the process of a site logs to.
func (w *World) Log(site string) string { return filepath.Join(w.dir, site+".log") }

func (w *World) config(site string) string { return filepath.Join(w.dir, site+".yaml") }

// Spillway is the process of a site.
func (w *World) Spillway(site string) *process.Process { return w.served[site] }

// Mirror is the process that has the mirror of a site.
func (w *World) Mirror(site string) *process.Process {
	if p := w.mirrors[site]; p != nil {
		return p
	}
	return w.served[site]
}

func (w *World) spillways(site string) []*process.Process {
	all := []*process.Process{w.served[site]}
	if p := w.mirrors[site]; p != nil {
		all = append(all, p)
	}
	return all
}

// KillSite ends brokers and Spillway of a site with SIGKILL.
func (w *World) KillSite(site string) {
	w.t.Helper()
	w.must(w.kill(site))
}

func (w *World) kill(site string) error {
	w.away[site] = true
	var errs []error
	for _, p := range w.spillways(site) {
		errs = append(errs, p.Kill())
	}
	return errors.Join(append(errs, w.Kafka[site].Kill())...)
}

// RestartSite starts what KillSite ended.
func (w *World) RestartSite(site string) {
	w.t.Helper()
	w.must(w.Kafka[site].Restart(w.t.Context()))
	w.StartSpillway(site)
	w.away[site] = false
}

// LoseSite ends everything of a site with SIGKILL at one moment: brokers,
// gateway, mirror, control, and its Consul server.
func (w *World) LoseSite(site string) {
	w.t.Helper()
	store := make(chan error, 1)
	go func() { store <- w.ConsulOf(site).Kill() }()
	w.must(w.kill(site))
	w.must(<-store)
}

// ReturnSite starts what LoseSite ended.
func (w *World) ReturnSite(site string) {
	w.t.Helper()
	w.must(w.ConsulOf(site).Start(w.t.Context()))
	w.RestartSite(site)
}

// leaderFirst elects the first server, by making a leader that is another one
// step down for a moment.
func (w *World) leaderFirst(ctx context.Context) error {
	for range 20 {
		leader, err := w.Consul.Leader(ctx)
		if err != nil {
			time.Sleep(200 * time.Millisecond)
			continue
		}
		if leader == w.Consul.Servers[0] {
			return nil
		}
		if err := leader.Kill(); err != nil {
			return err
		}
		if err := leader.Start(ctx); err != nil {
			return err
		}
	}
	return errors.New("the first Consul server was not elected in 20 elections")
}

// ConsulOf is the Consul server at a site.
func (w *World) ConsulOf(site string) *consul.Server {
	return w.Consul.Servers[slices.Index(w.Sites, site)%len(w.Consul.Servers)]
}

// Cut makes the isolated site a black hole; what runs there goes on.
func (w *World) Cut() {
	w.t.Helper()
	w.must(w.network.cut(true, true))
	w.away[w.Options.Isolated] = true
}

// CutOneWay drops either what the isolated site sends, or what it is sent.
func (w *World) CutOneWay(sends bool) {
	w.t.Helper()
	w.must(w.network.cut(sends, !sends))
	w.away[w.Options.Isolated] = true
}

// CutBrokers drops what passes to brokers between the isolated site and the others;
// gateways, mirrors and Consul servers go on talking to each other.
func (w *World) CutBrokers() {
	w.t.Helper()
	var elsewhere, there []int
	for site, c := range w.Kafka {
		for _, b := range c.Brokers {
			if site == w.Options.Isolated {
				there = append(there, b.Port)
			} else {
				elsewhere = append(elsewhere, b.Port)
			}
		}
	}
	w.must(w.network.cutPorts(elsewhere, there))
}

// LosePackets loses so many of a hundred packets between the isolated site and everybody
// else, each way.
func (w *World) LosePackets(percent int) {
	w.t.Helper()
	w.must(w.network.lose(percent))
}

// Heal ends a cut, of whatever kind.
func (w *World) Heal() {
	w.t.Helper()
	w.must(w.network.heal())
	w.away[w.Options.Isolated] = false
}

// Network is the network namespace of a site, empty for that of the test.
func (w *World) Network(site string) string {
	if w.network != nil && site == w.Options.Isolated {
		return w.network.name
	}
	return ""
}

// host is the address at which everything of a site listens.
func (w *World) host(site string) string {
	switch {
	case w.network == nil:
		return "127.0.0.1"
	case site == w.Options.Isolated:
		return w.network.there
	default:
		return w.network.here
	}
}

func (w *World) stop() {
	for _, site := range w.Sites {
		for _, p := range w.spillways(site) {
			if p == nil {
				continue
			}
			if !w.t.Failed() {
				w.must(p.Kill())
				continue
			}
			w.t.Logf("end of the log of %s:\n%s", p.Name(), p.Tail(30))
			if err := p.Quit(5 * time.Second); err != nil { // its stacks go into the log that is kept
				w.t.Error(err)
			}
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

// StartCommand starts a spillway command with the configuration of a site.
func (w *World) StartCommand(site string, args ...string) *process.Process {
	w.t.Helper()
	p, err := process.Start(process.Spec{
		Name: "spillway " + args[0], Path: w.binary, Args: append(slices.Clone(args), "--config", w.config(site)),
		Env: []string{"SPILLWAY_TEST_PASSWORD=" + password}, Log: filepath.Join(w.dir, "command.log"),
	})
	w.must(err)
	return p
}

// From tells whether every site runs this release of Kafka or a later one.
func (w *World) From(release string) bool {
	for _, site := range w.Sites {
		if v := w.Kafka[site].Version; slices.Compare(numbers(v), numbers(release)) < 0 {
			return false
		}
	}
	return true
}

func numbers(version string) []int {
	var all []int
	for _, digits := range strings.Split(version, ".") {
		n, _ := strconv.Atoi(digits) // versions are ours, in tests/cluster/kafka
		all = append(all, n)
	}
	return all
}

// Desk is a site that is there, to give commands from.
func (w *World) Desk() string {
	for _, site := range w.Sites {
		if !w.away[site] {
			return site
		}
	}
	return w.Sites[0]
}

// Healthy asks `spillway status`, which says so by its exit status.
func (w *World) Healthy(ctx context.Context) error {
	_, err := w.Run(ctx, w.Desk(), "status", "-o", "json")
	return err
}

// MetricsAddress is where a site's process tells Prometheus how it is.
func (w *World) MetricsAddress(site string) string {
	return fmt.Sprintf("%s:%d", w.host(site), w.ports[site].metrics)
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

// reserve takes the ports of a site.
func (w *World) reserve(site string) {
	w.t.Helper()
	free, err := port.Reserve(5)
	w.must(err)
	w.ports[site] = ports{gateway: free[0], marks: free[1], metrics: free[2], console: free[3], mirrorMetrics: free[4]}
	w.Bootstrap = append(w.Bootstrap, fmt.Sprintf("%s:%d", w.host(site), free[0]))
}

// Reconfigure changes what configurations are made of, and starts the processes of all sites
// anew with them, one site after the other.
func (w *World) Reconfigure(change func(*Options)) {
	w.t.Helper()
	change(&w.Options)
	for _, site := range w.Sites {
		for _, p := range w.spillways(site) {
			w.must(p.Kill())
		}
		w.writeConfigs(site)
		w.StartSpillway(site)
	}
}

// writeConfigs writes the configurations of a site's processes.
func (w *World) writeConfigs(site string) {
	w.t.Helper()
	if !w.Options.MirrorApart {
		w.writeConfig(site, site, "gateway, mirror, control, console", w.ports[site].metrics)
		return
	}
	w.writeConfig(site, site, "gateway, control, console", w.ports[site].metrics)
	w.writeConfig(site, site+"-mirror", "mirror", w.ports[site].mirrorMetrics)
}

func quoted(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

func (w *World) writeConfig(site, process, roles string, metrics int) {
	w.t.Helper()
	p, host := w.ports[site], w.host(site)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("virtualCluster: {name: world, clusterID: world-of-tests}")
	line("process: {id: %s-1, site: %s, roles: [%s], dataDir: %s}", process, site, roles, filepath.Join(w.dir, process+"-data"))
	line("sites:")
	for _, s := range w.Sites {
		line("  - name: %s", s)
		line("    bootstrap: [%s]", strings.Join(w.Kafka[s].Bootstrap(), ", "))
		line("    sasl: {mechanism: SCRAM-SHA-256, user: %s, passwordEnv: SPILLWAY_TEST_PASSWORD}", user)
	}
	line("coordinator: {consul: {address: %q}}", w.ConsulOf(site).HTTP)
	line("failoverGroups:")
	line("  - name: %s", Group)
	line("    topics: [%s]", quoted(append(slices.Clone(orders.Topics), w.Options.Topics...)))
	line("    consumerGroups: [\"*\"]")
	line("    sites: [%s]", strings.Join(w.Sites, ", "))
	line("    ack: {sites: %d}", w.Options.AckSites)
	line("    offsetBase: %d", w.Options.OffsetBase)
	line("    reservedBlock: %d", w.Options.ReservedBlock)
	line("    groupDrain: 5s")
	line("    failover: {automatic: %t, after: 1s, lossRecordsMax: %d, perHourMax: 100}", w.Options.Automatic, w.Options.LossMax)
	line("%s", w.Options.Extra)
	line("gateway: {listen: \"%s:%d\", administration: %s}", host, p.gateway, cmp.Or(w.Options.Administration, "none"))
	line("mirror: {%s}", strings.Join(slices.DeleteFunc([]string{fmt.Sprintf("listen: \"%s:%d\"", host, p.marks), w.Options.Mirror}, func(s string) bool { return s == "" }), ", "))
	line("control: {%s}", w.Options.Control)
	line("telemetry: {listen: \"%s:%d\"}", host, metrics)
	line("console: {listen: \"%s:%d\"}", host, p.console)
	w.must(os.WriteFile(w.config(process), []byte(b.String()), 0o600))
}
