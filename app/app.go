// Package app builds the parts of a serving process in order and ends them in
// reverse. It knows every part and none of their rules: flags and signals are
// the command's, decisions the parts' own.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"spillway"
	"spillway/broker"
	"spillway/broker/conn"
	"spillway/configs"
	"spillway/console"
	"spillway/console/status"
	"spillway/federation/coordination"
	"spillway/telemetry"
)

// stopMax bounds an orderly stop. What is not done by then is cut off, which
// loses nothing: a killed process is an ordinary event (promise H).
const stopMax = 20 * time.Second

// Options are what a process is told beside its configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	// Dial says how the brokers of a site are reached; default conn.Dial.
	Dial func(spillway.SiteID) conn.DialFunc
}

// App is one serving process.
type App struct {
	// Set once.
	cfg *configs.Config
	log *slog.Logger
	tel *telemetry.Telemetry

	// Set by Start, in this order.
	store     coordination.Store
	observer  *Observer
	sites     map[spillway.SiteID]broker.Cluster // as mirror and control
	asGateway map[spillway.SiteID]broker.Cluster
	addrs     map[string]net.Addr // by part
	traces    *telemetry.Traces   // nil: none are written

	version   string
	dials     func(spillway.SiteID) conn.DialFunc // nil: as ever
	deniedWhy string                              // what tokenHealth has said last of the store's token
	teardown  teardown
}

// New prepares a process; nothing is opened yet.
func New(cfg *configs.Config, o Options) *App {
	a := &App{
		cfg: cfg, log: o.Log, tel: telemetry.New(o.Version), version: o.Version, dials: o.Dial,
		addrs: map[string]net.Addr{}, teardown: teardown{log: o.Log},
	}
	var groups []string
	for _, g := range cfg.Topology().Groups() {
		groups = append(groups, g.Name)
	}
	mirrored := ""
	if cfg.HasRole(configs.RoleMirror) {
		mirrored = cfg.Process.Site
	}
	a.tel.Prepare(groups, mirrored)
	return a
}

// Start builds all parts. A site or a store that cannot be reached is no
// reason to fail: the part that needs it says so, tries again, and /readyz is
// red until then. What cannot get better by waiting (an address in use, a
// secret that cannot be read) fails here, and what was built is ended.
func (a *App) Start(ctx context.Context) error {
	steps := []struct {
		name  string
		build func(context.Context) error
	}{
		{"telemetry", a.startTelemetry},
		{"coordinator store", a.startStore},
		{"embedded brokers", a.startBrokers},
		{"sites", a.startSites},
		{"observer", a.startObserver},
		{"console", a.startConsole},
		{"traces", a.startTraces},
		{"mirror", a.startMirror},
		{"control", a.startControl},
		{"gateway", a.startGateway},
	}
	for _, s := range steps {
		if err := s.build(ctx); err != nil {
			return errors.Join(fmt.Errorf("start %s: %w", s.name, err), a.Stop())
		}
	}
	a.log.Info("started", "id", a.cfg.Process.ID, "site", a.cfg.Process.Site, "roles", a.cfg.Roles(), "version", a.version)
	return nil
}

// Stop ends all parts, the last first. It says at once that this process is not
// ready: no more clients are to be sent here, while those of now finish.
func (a *App) Stop() error {
	a.tel.Health.Set("process", errors.New("it is stopping"))
	ctx, cancel := context.WithTimeout(context.Background(), stopMax)
	defer cancel()
	return a.teardown.run(ctx)
}

// Addr is where a part listens: telemetry, console, gateway, mirror. Nil if it
// does not.
func (a *App) Addr(part string) net.Addr { return a.addrs[part] }

// startTelemetry comes first: a process that cannot get further says so there.
func (a *App) startTelemetry(ctx context.Context) error {
	if a.cfg.Telemetry.Listen == "" {
		return nil
	}
	mux := http.NewServeMux()
	a.tel.Register(mux)
	return a.listen(ctx, "telemetry", a.cfg.Telemetry.Listen, mux)
}

func (a *App) startStore(ctx context.Context) error {
	a.tel.Health.Expect("coordinator")
	if k := a.cfg.Coordinator.Consul; k != nil {
		store, err := a.serveConsul(ctx, *k)
		if err != nil {
			return err
		}
		return a.identify(ctx, store)
	}
	store, stop, err := ServeStore(ctx, *a.cfg.Coordinator.Embedded)
	if err != nil {
		return err
	}
	a.teardown.push("coordinator store", func(context.Context) error { return stop() })
	return a.identify(ctx, store)
}

func (a *App) startBrokers(context.Context) error {
	if !a.cfg.HasRole(configs.RoleBroker) {
		return nil
	}
	site, _ := a.cfg.Site(a.cfg.Process.Site) // the configuration was checked
	c, err := startEmbedded(site)
	if err != nil {
		return err
	}
	a.teardown.push("embedded brokers", func(context.Context) error { return c.Close() })
	a.log.Info("embedded brokers listen", "site", site.Name, "addresses", c.Addresses())
	return nil
}

func (a *App) startSites(context.Context) error {
	sites, err := openSites(a.cfg, a.asMirror)
	if err != nil {
		return err
	}
	a.sites = sites
	a.teardown.push("sites", func(context.Context) error { return CloseSites(sites) })
	// Gateways have connections of their own, also where the credentials are
	// the same: a slow client must not hold up the mirror.
	if a.asGateway, err = openSites(a.cfg, a.asItsGateway); err != nil {
		return err
	}
	a.teardown.push("sites of the gateway", func(context.Context) error { return CloseSites(a.asGateway) })
	return nil
}

// startObserver watches the store for console and metrics, and asks the
// process's own site whether it is there.
func (a *App) startObserver(context.Context) error {
	a.observer = NewObserver(a.cfg, a.store)
	a.tel.WatchStatus(a.observer.Latest)
	a.teardown.background("observer", a.observer.Run)
	own := a.sites[spillway.SiteID(a.cfg.Process.Site)]
	if own != nil {
		a.tel.Health.Expect("site " + a.cfg.Process.Site)
	}
	a.teardown.background("health", func(ctx context.Context) { a.watchHealth(ctx, own) })
	return nil
}

// watchHealth says once when something goes away and once when it is back.
func (a *App) watchHealth(ctx context.Context, own broker.Cluster) {
	tick := time.NewTicker(a.cfg.Control.ProbeInterval)
	defer tick.Stop()
	a.observer.firstLook(ctx, a.cfg.Control.ProbeTimeout) // or every start would complain
	for {
		a.health("coordinator", "coordinator", a.observer.Problem())
		if own != nil {
			probe, cancel := context.WithTimeout(ctx, a.cfg.Control.ProbeTimeout)
			err := Probe(probe, own)
			cancel()
			if ctx.Err() == nil {
				a.health("site "+string(own.Site()), "site", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *App) health(check, what string, err error) {
	if !a.tel.Health.Set(check, err) {
		return
	}
	if err != nil {
		a.log.Warn(what+" cannot be reached, trying again", "check", check, "error", err)
		return
	}
	a.log.Info(what+" is reached", "check", check)
}

func (a *App) startTraces(ctx context.Context) error {
	if a.cfg.Telemetry.OTLP == "" || !a.cfg.HasRole(configs.RoleControl) && !a.cfg.HasRole(configs.RoleMirror) {
		return nil
	}
	t, err := telemetry.NewTraces(ctx, a.cfg.Telemetry.OTLP, a.cfg.VirtualCluster.Name, a.cfg.Process.ID, a.cfg.Telemetry.TraceSample)
	if err != nil {
		return err
	}
	a.traces = t
	a.teardown.push("traces", t.Close)
	return nil
}

func (a *App) startConsole(ctx context.Context) error {
	if !a.cfg.HasRole(configs.RoleConsole) || a.cfg.Console.Listen == "" {
		return nil
	}
	mux := http.NewServeMux()
	console.Register(mux, func() (status.Status, bool) { return a.observer.Latest() })
	a.tel.Register(mux)
	return a.listen(ctx, "console", a.cfg.Console.Listen, mux)
}

// listen serves pages and metrics: short answers.
func (a *App) listen(ctx context.Context, part, address string, h http.Handler) error {
	return a.serve(ctx, part, address, &http.Server{Handler: h, WriteTimeout: 30 * time.Second})
}

// cannotListen names the key to change.
func cannotListen(part string, err error) error {
	return fmt.Errorf("%w; if another process has the address, name a free one in %s.listen", err, part)
}

// serve serves HTTP until the teardown.
func (a *App) serve(ctx context.Context, part, address string, srv *http.Server) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return cannotListen(part, err)
	}
	a.addrs[part] = l.Addr()
	srv.ReadHeaderTimeout, srv.MaxHeaderBytes = 5*time.Second, 16<<10
	streams, cut := context.WithCancel(context.Background())
	srv.BaseContext = func(net.Listener) context.Context { return streams }
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	a.teardown.push(part, func(ctx context.Context) error {
		cut() // a stream would keep Shutdown waiting
		err := srv.Shutdown(ctx)
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	a.log.Info(part+" listens", "address", l.Addr().String())
	return nil
}
