package app

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	"spillway"
	"spillway/configs"
	"spillway/federation"
	"spillway/federation/authentication"
	"spillway/federation/router"
	"spillway/federation/session"
)

// startGateway listens for clients.
func (a *App) startGateway(ctx context.Context) error {
	if !a.cfg.HasRole(configs.RoleGateway) {
		return nil
	}
	c := a.cfg.Gateway
	events := a.gatewayEvents()
	front, err := newFront(c, a.log, events.Authenticated)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return cannotListen("gateway", err)
	}
	host, port, err := advertised(c.Advertised, l.Addr())
	if err != nil {
		_ = l.Close() // the first error is the one to tell
		return err
	}
	g, err := federation.New(federation.Config{
		ID: spillway.GatewayID(a.cfg.Process.ID), Site: spillway.SiteID(a.cfg.Process.Site), Topology: a.cfg.Topology(),
		Sites: a.asGateway, Store: a.store, Listener: l, TLS: front.tls, Authentication: front.authenticator, Authorization: a.authorization(c.Authorization), Host: host, Port: port,
		Limits:         session.Limits{FrameBytesMax: c.Limits.FrameBytesMax, InFlightMax: c.Limits.InFlightMax, IdleMax: c.Limits.IdleMax},
		BudgetBytesMax: c.Limits.UnansweredBytesMax, ConnectionsMax: c.Limits.ConnectionsMax, ConnectionsPerAddressMax: c.Limits.ConnectionsPerAddressMax,
		ConnectionRatePerAddress: c.Limits.ConnectionRatePerAddress, ConnectionsPerPrincipalMax: c.Limits.ConnectionsPerPrincipalMax, Quotas: quotas(c.Quotas),
		LeaseTTL: c.Lease.TTL, LeaseEvery: c.Lease.Interval, Release: a.version, Events: events,
		Router: routerConfig(a.cfg),
	})
	if err != nil {
		_ = l.Close() // the first error is the one to tell
		return err
	}
	a.addrs["gateway"] = l.Addr()
	a.tel.Health.Expect("gateway lease")
	a.log.Info("gateway listens", "address", l.Addr().String(), "advertised", net.JoinHostPort(host, strconv.Itoa(int(port))), "admits", admits(c), "allows", rightsOf(c))
	a.teardown.background("files of the gateway", func(ctx context.Context) { front.watch(ctx, a.log, events.Problem) })
	a.teardown.background("gateway", func(ctx context.Context) {
		if err := g.Run(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("gateway ended", "error", err)
			a.tel.Health.Set("gateway lease", fmt.Errorf("the gateway ended: %w", err))
		}
	})
	return nil
}

func quotas(of []configs.Quota) []federation.Quota {
	var all []federation.Quota
	for _, q := range of {
		all = append(all, federation.Quota{
			Principal: authentication.Principal(q.Principal), ProducerBytes: q.ProducerByteRate, ConsumerBytes: q.ConsumerByteRate, Requests: q.RequestRate,
		})
	}
	return all
}

func routerConfig(cfg *configs.Config) router.Config {
	return router.Config{Administration: administration[cfg.Gateway.Administration], DirectQuiet: cfg.Control.DirectQuiet}
}

// administration by the word of the configuration.
var administration = map[string]router.Administration{
	configs.AdministrationNone: router.NoAdministration, configs.AdministrationTopics: router.TopicAdministration,
}

// advertised splits the configured address, or makes one of the listener's
// and the host's name where it listens everywhere.
func advertised(configured string, listens net.Addr) (string, int32, error) {
	address := configured
	if address == "" {
		address = listens.String()
	}
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("advertised address: %w", err)
	}
	port, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		return "", 0, fmt.Errorf("advertised address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return "", 0, fmt.Errorf("advertised address: this host has no name, give one: %w", err)
		}
	}
	return host, int32(port), nil
}
