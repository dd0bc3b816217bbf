package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"spillway"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/maptopic"
)

// startMirror feeds the process's own site and serves its marks.
func (a *App) startMirror(ctx context.Context) error {
	if !a.cfg.HasRole(configs.RoleMirror) {
		return nil
	}
	own := spillway.SiteID(a.cfg.Process.Site)
	sources := map[spillway.SiteID]broker.Cluster{}
	for id, c := range a.sites {
		if id != own {
			sources[id] = c
		}
	}
	c := a.cfg.Mirror
	var principals []string
	for _, s := range a.cfg.Sites {
		for _, p := range []string{s.GatewayPrincipal, s.MirrorPrincipal} {
			if p != "" {
				principals = append(principals, p)
			}
		}
	}
	var caps []mirror.Cap
	for _, limit := range c.Caps {
		caps = append(caps, mirror.Cap{Source: spillway.SiteID(limit.Source), Topics: limit.Topics, BytesPerSecond: int64(limit.BytesPerSecond)})
	}
	writer := control.NewWriter(a.store, failover.Keys(a.cfg.VirtualCluster.Name), own, a.cfg.Process.ID, a.cfg.Gateway.Lease.TTL)
	a.teardown.background("writer lease", writer.Run)
	m, err := mirror.New(context.WithoutCancel(ctx), mirror.Config{
		Worker: a.cfg.Process.ID + "-" + rand.Text()[:8], Local: a.sites[own], Sources: sources,
		Replication: int16(c.MapReplication), FetchBytesMax: c.FetchBytesMax, PartitionBytesMax: c.PartitionBytesMax, MemoryBytes: c.Memory,
		FetchWait: c.FetchWaitMax, TransactionWait: c.TransactionWait, Caps: caps, MetadataInterval: c.MetadataInterval, SettingsExcluded: c.SettingsExcluded, ACLs: c.ACLs, PrincipalsExcluded: principals, Lead: writer.Lead, Events: a.mirrorEvents(),
	})
	if err != nil {
		return err
	}
	a.teardown.push("mirror", func(context.Context) error { m.Close(); return nil })
	mux := http.NewServeMux()
	mux.Handle("GET /marks", m)
	// A stream has no end, so nothing bounds the time of its writes.
	if err := a.serve(ctx, "mirror", c.Listen, &http.Server{Handler: mux}); err != nil {
		return err
	}
	host, port, err := advertised(c.Advertised, a.addrs["mirror"])
	if err != nil {
		return err
	}
	f := control.NewFollower(control.FollowerConfig{
		Topology: a.cfg.Topology(), Store: a.store, Cluster: a.sites[own], Mirror: m, Worker: a.cfg.Process.ID, Writer: writer,
		Marks: fmt.Sprintf("http://%s/marks", net.JoinHostPort(host, strconv.Itoa(int(port)))), LeaseTTL: a.cfg.Gateway.Lease.TTL, Events: a.controlEvents(),
	})
	a.teardown.background("follower", func(ctx context.Context) {
		if err := f.Run(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("follower of the mirror ended", "error", err)
		}
	})
	return nil
}

func (a *App) mirrorEvents() mirror.Events {
	e := a.tel.MirrorEvents()
	said := newProblems(a.log)
	gap := e.GapLogged
	e.GapLogged = func(g maptopic.Gap) {
		gap(g)
		a.log.Warn("gap logged", "kind", g.Kind, "topic", g.Topic, "partition", g.Partition, "from", g.From, "to", g.To, "localFrom", g.LocalFrom, "localTo", g.LocalTo, "detail", g.Detail)
	}
	changed := e.Metadata
	e.Metadata = func(i mirror.MetadataInfo) {
		changed(i)
		switch {
		case i.Problem != "":
			said.tell(fmt.Sprintf("%s of %s: not as at site %s", i.Kind, cmp.Or(i.Name, "topics"), i.Source), errors.New(i.Problem))
		case i.Kept:
			a.log.Warn("metadata differs", "kind", i.Kind, "name", i.Name, "source", i.Source, "what", i.What)
		default:
			a.log.Info("metadata changed", "kind", i.Kind, "name", i.Name, "source", i.Source, "what", i.What)
		}
	}
	stopped := e.PartitionState
	e.PartitionState = func(p mirror.PartitionInfo) {
		stopped(p)
		if p.Problem != "" {
			said.tell(fmt.Sprintf("flow %s→%s of %s stopped", p.Source, p.Target, p.TopicPartition), fmt.Errorf("%s", p.Problem))
		}
	}
	state := e.FlowState
	e.FlowState = func(f mirror.FlowInfo) {
		state(f)
		for tp, what := range f.Hanging {
			said.tell(fmt.Sprintf("flow %s→%s of %s is held back", f.Source, f.Target, tp), errors.New(what))
		}
		if f.GroupAge >= failover.GroupLate {
			said.tell(fmt.Sprintf("flow %s→%s of failover group %s does not carry a consumer group", f.Source, f.Target, f.Share.Group), errors.New(f.GroupBehind))
		}
	}
	return e
}
