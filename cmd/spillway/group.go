package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/federation/failover"
)

func newGroupCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "failover-group", Aliases: []string{"fg"}, Short: "Topics and consumer groups that move together"}
	cmd.AddCommand(s.addOutput(&cobra.Command{
		Use:   "list",
		Short: "All failover groups, worst news first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := s.observe(cmd.Context())
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), got.Groups, func() []string { return groupRows(got.Groups) })
		},
	}), s.addOutput(&cobra.Command{
		Use:     "show NAME",
		Short:   "The record of one failover group: state, epoch, terms, cutover offsets",
		Example: "  spillway fg show shop -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			share, err := s.share(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), share, func() []string { return shareRows(share) })
		},
	}), newHistoryCommand(s), newReportCommand(s), newClientsCommand(s), newEndAdoptionCommand(s), newLeaveCommand(s))
	return cmd
}

// share reads the record of a group.
func (s *settings) share(ctx context.Context, name string) (failover.Share, error) {
	cfg, err := s.load()
	if err != nil {
		return failover.Share{}, err
	}
	if err := knownGroup(cfg.Topology(), name); err != nil {
		return failover.Share{}, err
	}
	store, err := app.OpenStore(ctx, cfg)
	if err != nil {
		return failover.Share{}, err
	}
	defer func() { _ = store.Close() }() // only read
	e, err := store.Get(ctx, failover.Keys(cfg.VirtualCluster.Name).Share(spillway.ShareID{Group: name}))
	if err != nil {
		return failover.Share{}, fmt.Errorf("record of failover group %s: %w; a control loop writes it when it starts", name, err)
	}
	return failover.Decode(e.Value)
}

func knownGroup(t *spillway.Topology, name string) error {
	if _, ok := t.Group(name); ok {
		return nil
	}
	var names []string
	for _, g := range t.Groups() {
		names = append(names, g.Name)
	}
	return fmt.Errorf("there is no failover group %q; the configuration has %v", name, names)
}

func shareRows(share failover.Share) []string {
	rows := []string{
		row("group", share.Group), row("state", share.State), row("epoch", share.Epoch), row("active", share.Active),
	}
	if share.State != failover.Stable {
		rows = append(rows, row("move", fmt.Sprintf("%s to %s by %s: %s", share.Kind, share.Target, share.Who, share.Why)))
	}
	if share.Degraded {
		rows = append(rows, row("degraded", fmt.Sprintf("since %s: %s", share.DegradedAt.UTC().Format(time.RFC3339), share.DegradedWhy)))
		if share.Restoring {
			rows = append(rows, row("", "producers wait for all sites again; degraded until those have everything"))
		}
	}
	if share.Asking != "" {
		rows = append(rows, row("decide", share.Asking))
	}
	if a := share.Adoption; a != nil {
		rows = append(rows, row("adopting", fmt.Sprintf("since %s: %s", a.Since.UTC().Format(time.RFC3339), cmp.Or(a.Direct, "nobody has looked yet"))))
	}
	for _, p := range share.Passages {
		rows = append(rows, row("  "+p.At.UTC().Format(time.RFC3339Nano), string(p.State)+": "+p.Why))
	}
	rows = append(rows, "", row("EPOCH", "SITE", "OPENED BY"))
	for _, t := range share.Terms {
		by := "switchover"
		switch {
		case t.Epoch == 1:
			by = "start"
		case t.Lossy:
			by = "failover"
		case t.Continues:
			by = "abort"
		}
		rows = append(rows, row(t.Epoch, t.Site, by))
	}
	return rows
}
