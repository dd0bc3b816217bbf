package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/console/status"
)

func newStatusCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Sites, failover groups and flows, worst news first; exit code 10 if unhealthy",
		Example: "  spillway status\n  spillway status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := s.observe(cmd.Context())
			if err != nil {
				return err
			}
			if err := s.show(cmd.OutOrStdout(), got, func() []string { return statusRows(got) }); err != nil {
				return err
			}
			if got.Level == status.Bad {
				return exitError{code: exitUnhealthy}
			}
			return nil
		},
	}
	return s.addOutput(cmd)
}

// observe looks at the coordinator store, and at sites that nobody votes about.
func (s *settings) observe(ctx context.Context) (status.Status, error) {
	cfg, err := s.load()
	if err != nil {
		return status.Status{}, err
	}
	store, err := app.OpenStore(ctx, cfg)
	if err != nil {
		return status.Status{}, err
	}
	defer func() { _ = store.Close() }() // nothing was written
	return app.NewObserver(cfg, store).Look(ctx, func(ctx context.Context, id spillway.SiteID) error {
		site, _ := cfg.Site(string(id))
		c, err := app.OpenSite(site)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }() // only asked
		ctx, cancel := context.WithTimeout(ctx, cfg.Control.ProbeTimeout)
		defer cancel()
		return app.Probe(ctx, c)
	}), nil
}

func statusRows(s status.Status) []string {
	rows := []string{fmt.Sprintf("%s (cluster id %s) is %s", s.VirtualCluster, s.ClusterID, s.Level)}
	for _, n := range s.News {
		rows = append(rows, "  "+n)
	}
	rows = append(rows, "", row("SITE", "STATE", "SERVES", "GATEWAYS", "MIRRORS", "NEWS"))
	for _, site := range s.Sites {
		rows = append(rows, row(site.Name, site.State, strings.Join(site.Active, ","), strings.Join(site.Gateways, ","), strings.Join(site.Mirrors, ","), site.Why))
	}
	rows = append(append(rows, ""), groupRows(s.Groups)...)
	return append(append(rows, ""), flowRows(s.Flows)...)
}

func groupRows(groups []status.Group) []string {
	rows := []string{row("GROUP", "STATE", "EPOCH", "ACTIVE", "STANDBYS BEHIND", "UNREPLICATED", "SAFE", "NEWS")}
	for _, g := range groups {
		var standbys []string
		for _, p := range g.Sites {
			if !p.Active {
				standbys = append(standbys, p.Site+" "+amount(p.Behind))
			}
		}
		rows = append(rows, row(g.Name, g.State, g.Epoch, g.Active, strings.Join(standbys, ", "), amount(g.Unreplicated), g.Safe, g.Why))
	}
	return rows
}

func flowRows(flows []status.Flow) []string {
	rows := []string{row("FLOW", "STATE", "BEHIND", "FOR", "PARTITIONS", "HEARD", "NEWS")}
	for _, f := range flows {
		rows = append(rows, row(f.Name, f.Level, amount(f.Behind), lagTime(f), f.Partitions, heard(f), f.Why))
	}
	return rows
}

// heard is when a flow's mirror spoke last.
func heard(f status.Flow) string {
	if f.Silent < 0 {
		return "never"
	}
	return fmt.Sprintf("%.1fs ago", f.Silent)
}

// lagTime is for how long a flow has been behind.
func lagTime(f status.Flow) string {
	switch {
	case f.Behind == 0:
		return "-"
	case f.Lag < 0:
		return "unknown"
	}
	return fmt.Sprintf("%.1fs", f.Lag)
}

// amount shows what is unknown as such.
func amount(n int64) string {
	if n < 0 {
		return "unknown"
	}
	return strconv.FormatInt(n, 10)
}
