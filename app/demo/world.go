package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"spillway/app"
	"spillway/configs"
	"spillway/console/status"
	"spillway/federation/coordination"
)

const (
	group      = "shop"
	partitions = 6
	// upMax is how long the processes may take until everything is healthy.
	upMax = 40 * time.Second
	// lookEvery is how often the demo looks at the status.
	lookEvery = 100 * time.Millisecond
)

var siteNames = []string{"east", "west", "north", "south", "centre"}

// site is one place of the demo: brokers in one child process, and gateway,
// mirror, control loop and console in another.
type site struct {
	name                                       string
	brokers, gateway, mirror, telemetry, board string // addresses
	store                                      *relay // its line to the coordinator store
	children                                   []*child
	killed                                     bool
}

// world is everything that runs: the sites' children, and the coordinator store
// in this process.
type world struct {
	program string
	dir     string
	file    string
	cfg     *configs.Config
	sites   []*site

	store     coordination.Store
	stopStore func() error
	observer  *app.Observer
	stopWatch func()
}

var configFile = template.Must(template.New("config").Parse(`# Written by spillway demo.
virtualCluster: {name: demo, clusterID: spillway-demo-cluster}
process: {dataDir: {{.Dir}}}
sites:
{{- range .Sites}}
  - {name: {{.Name}}, embedded: {listen: "{{.Brokers}}", dir: {{$.Dir}}/{{.Name}}}}
{{- end}}
coordinator:
  embedded: {socket: {{.Dir}}/coordinator.sock}
failoverGroups:
  - name: {{.Group}}
    topics: ["*"]
    consumerGroups: ["*"]
    sites: [{{.Names}}]
    offsetBase: 100000
    reservedBlock: 10000
    groupDrain: 3s
    ack: {sites: {{.AckSites}}, onShortfall: degrade}
    failover: {automatic: {{.Automatic}}, after: 2s, lossRecordsMax: 100000, perHourMax: 10}
control: {probeInterval: 500ms, probeTimeout: 1s, holdDown: 2s}
`))

// build chooses addresses, writes the configuration and opens the store.
func build(ctx context.Context, o Options, program, dir string) (*world, error) {
	w := &world{program: program, dir: dir, file: filepath.Join(dir, "spillway.yaml")}
	ports := newPorts()
	type row struct{ Name, Brokers string }
	var rows []row
	for i, name := range siteNames[:o.Sites] {
		s := &site{name: name, brokers: ports.next(), gateway: ports.next(), mirror: ports.next(), telemetry: ports.next(), board: ports.next()}
		if i == 0 && o.Stay {
			s.gateway = fmt.Sprintf("127.0.0.1:%d", o.Port)
		}
		w.sites = append(w.sites, s)
		rows = append(rows, row{name, s.brokers})
	}
	if ports.err != nil {
		return nil, ports.err
	}
	var text bytes.Buffer
	err := configFile.Execute(&text, map[string]any{
		"Dir": dir, "Sites": rows, "Group": group, "Names": strings.Join(siteNames[:o.Sites], ", "),
		"AckSites": o.ackSites(), "Automatic": o.Sites >= 3,
	})
	if err != nil {
		return nil, fmt.Errorf("configuration of the demo: %w", err)
	}
	if err := os.WriteFile(w.file, text.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("configuration of the demo: %w", err)
	}
	if w.cfg, err = configs.Load(w.file); err != nil {
		return nil, fmt.Errorf("configuration of the demo: %w", err)
	}
	e := configs.EmbeddedCoordinator{File: filepath.Join(dir, "coordinator.db"), Socket: filepath.Join(dir, "coordinator.sock")}
	if w.store, w.stopStore, err = app.ServeStore(ctx, e); err != nil {
		return nil, err
	}
	for _, s := range w.sites {
		if s.store, err = newRelay(ctx, filepath.Join(dir, s.name+".sock"), e.Socket); err != nil {
			return nil, errors.Join(err, w.close(ctx))
		}
	}
	w.observer = app.NewObserver(w.cfg, w.store)
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); w.observer.Run(watching) }()
	w.stopWatch = func() { cancel(); <-done }
	return w, nil
}

// start runs both processes of a site.
func (w *world) start(s *site) error {
	env := func(id string, roles ...string) []string {
		value := func(key, v string) string { return configs.EnvName(key) + "=" + v }
		return []string{
			value("process.id", id), value("process.site", s.name), value("process.roles", strings.Join(roles, ",")),
			value("coordinator.embedded.socket", s.store.socket),
			value("gateway.listen", s.gateway), value("gateway.advertised", s.gateway),
			value("mirror.listen", s.mirror), value("mirror.advertised", s.mirror),
			value("telemetry.listen", map[bool]string{true: "127.0.0.1:0", false: s.telemetry}[slices.Contains(roles, configs.RoleBroker)]),
			value("console.listen", s.board),
		}
	}
	brokers, err := spawn(w.program, w.dir, s.name+"-brokers", env(s.name+"-brokers", configs.RoleBroker), "serve", "--config", w.file, "--tether")
	if err != nil {
		return err
	}
	s.children, s.killed = append(s.children[:0], brokers), false
	rest, err := spawn(w.program, w.dir, s.name+"-1", env(s.name+"-1", configs.RoleGateway, configs.RoleMirror, configs.RoleControl, configs.RoleConsole), "serve", "--config", w.file, "--tether")
	if err != nil {
		return err
	}
	s.children = append(s.children, rest)
	return nil
}

// kill ends every process of a site at once, as the loss of the place would.
func (s *site) kill() error {
	s.killed = true
	var faults []error
	for _, c := range s.children {
		if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			faults = append(faults, fmt.Errorf("kill %s: %w", c.name, err))
		}
	}
	for _, c := range s.children {
		<-c.done
	}
	return errors.Join(faults...)
}

// close ends everything, the store last.
func (w *world) close(ctx context.Context) error {
	var faults []error
	for _, s := range w.sites {
		for _, c := range slices.Backward(s.children) {
			faults = append(faults, c.stop(ctx))
		}
	}
	if w.stopWatch != nil {
		w.stopWatch()
	}
	for _, s := range w.sites {
		if s.store != nil {
			faults = append(faults, s.store.close())
		}
	}
	if w.stopStore != nil {
		faults = append(faults, w.stopStore())
	}
	return errors.Join(faults...)
}

func (w *world) site(name string) *site {
	i := slices.IndexFunc(w.sites, func(s *site) bool { return s.name == name })
	return w.sites[i]
}

// bootstrap are the gateways' addresses, all of them: a client that knew the
// lost site's only would have nobody to ask.
func (w *world) bootstrap() []string {
	addresses := make([]string, len(w.sites))
	for i, s := range w.sites {
		addresses[i] = s.gateway
	}
	return addresses
}

// await looks at the status until it is as wanted. An early end of a child
// that should live ends the wait.
func (w *world) await(ctx context.Context, limit time.Duration, what string, ok func(status.Status) bool) (status.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		s := w.observer.Status()
		if ok(s) {
			return s, nil
		}
		for _, site := range w.sites {
			for _, c := range site.children {
				if c.ended() && !site.killed {
					return s, fmt.Errorf("wait until %s: %s ended: %w; its log is %s", what, c.name, c.err, c.log)
				}
			}
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("wait until %s: %w; news: %s; logs are in %s", what, context.Cause(ctx), strings.Join(s.News, "; "), w.dir)
		case <-tick.C:
		}
	}
}

// healthy: every site up with gateway and mirror, the group stable and followed.
func healthy(s status.Status) bool {
	return s.Level == status.Good && len(s.Groups) == 1 && s.Groups[0].State == "STABLE"
}

// ports hands out loopback addresses below the range from which the kernel
// takes the ports of outgoing connections, so that nothing steals them.
type ports struct {
	given map[int]bool
	err   error
}

func newPorts() *ports { return &ports{given: map[int]bool{}} }

func (p *ports) next() string {
	for range 1000 {
		n := 20000 + rand.IntN(10000)
		if p.given[n] {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(n))
		var lc net.ListenConfig
		l, err := lc.Listen(context.Background(), "tcp", address)
		if err != nil {
			continue
		}
		_ = l.Close() // only asked whether it is free
		p.given[n] = true
		return address
	}
	p.err = errors.New("no free port between 20000 and 30000 on 127.0.0.1")
	return ""
}
