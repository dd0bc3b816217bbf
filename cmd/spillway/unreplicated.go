package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/mirror"
)

func newUnreplicatedCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "unreplicated", Short: "Records that a lost site had and no other site got"}
	var site string
	addSite := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&site, "site", "", "the site that came back")
		_ = c.MarkFlagRequired("site") // it exists
		return s.addOutput(c)
	}
	cmd.AddCommand(addSite(&cobra.Command{
		Use:     "list GROUP --site SITE",
		Short:   "The exact ranges of a failover group's unreplicated records at a site",
		Example: "  spillway unreplicated list shop --site east -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.atSite(cmd.Context(), args[0], site, func(m *mirror.Mirror, id spillway.ShareID) error {
				ranges, err := m.Unreplicated(cmd.Context(), id)
				if err != nil {
					return err
				}
				if ranges == nil {
					ranges = []mirror.UnreplicatedRange{}
				}
				return s.show(cmd.OutOrStdout(), ranges, func() []string { return unreplicatedRows(ranges) })
			})
		},
	}))
	cmd.AddCommand(newExportCommand(s, addSite, &site), newReplayCommand(s, addSite, &site), newDiscardCommand(s, addSite, &site))
	return cmd
}

func newDiscardCommand(s *settings, addSite func(*cobra.Command) *cobra.Command, site *string) *cobra.Command {
	c := &change{settings: s}
	return addSite(c.plainFlags(&cobra.Command{
		Use:   "discard GROUP --site SITE --why REASON",
		Short: "Give the unreplicated records up; they stay in the site's log, hidden, until its retention removes them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.why == "" && !c.dryRun {
				return exitError{exitUsage, "--why: say why these records are given up; it is kept in the audit log and the gap log"}
			}
			return s.atSite(cmd.Context(), args[0], *site, func(m *mirror.Mirror, id spillway.ShareID) error {
				ranges, err := m.Unreplicated(cmd.Context(), id)
				if !c.dryRun && err == nil {
					err = s.operate(cmd.Context(), func(_ *configs.Config, o *control.Operator) error {
						ranges, err = discard(cmd.Context(), o, m, id, *site, who(), c.why)
						return err
					})
				}
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), ranges, func() []string { return unreplicatedRows(ranges) })
			})
		},
	}))
}

// discard gives what is open up, and returns it. The audit log has it before it is done.
func discard(ctx context.Context, o *control.Operator, m *mirror.Mirror, id spillway.ShareID, site, who, why string) ([]mirror.UnreplicatedRange, error) {
	ranges, err := m.Unreplicated(ctx, id)
	if err != nil {
		return nil, err
	}
	open, offsets := 0, spillway.LocalOffset(0)
	for _, r := range ranges {
		if r.Open() {
			open, offsets = open+1, offsets+r.LocalTo-r.LocalFrom
		}
	}
	if open == 0 {
		return nil, nil
	}
	what := fmt.Sprintf("discard of unreplicated records of %s at site %s: %s, %s", id.Group, site, count(open, "range"), count(int(offsets), "offset"))
	if err := o.Note(ctx, what, who, why); err != nil {
		return nil, err
	}
	return m.DiscardUnreplicated(ctx, id, who, why)
}

// atSite runs an operation on what a site's log and map hold of a failover
// group. It starts no flow.
func (s *settings) atSite(ctx context.Context, group, site string, run func(*mirror.Mirror, spillway.ShareID) error) error {
	cfg, err := s.load()
	if err != nil {
		return err
	}
	if err := knownGroup(cfg.Topology(), group); err != nil {
		return err
	}
	where, ok := cfg.Site(site)
	if !ok {
		return fmt.Errorf("--site: there is no site %q in the configuration", site)
	}
	cluster, err := app.OpenSite(where)
	if err != nil {
		return err
	}
	defer func() { _ = cluster.Close() }() // nothing is left to be written
	m, err := mirror.New(ctx, mirror.Config{Worker: "command", Local: cluster})
	if err != nil {
		return err
	}
	defer m.Close()
	id := spillway.ShareID{Group: group}
	if err := m.Know(assignment(cfg, id)); err != nil {
		return err
	}
	return run(m, id)
}

func assignment(cfg *configs.Config, id spillway.ShareID) mirror.Assignment {
	t := cfg.Topology()
	g, _ := t.Group(id.Group)
	return mirror.Assignment{
		Share: id, Topics: g.Topics,
		Match: func(topic string) bool { return t.HasTopic(g, topic) },
		Owns:  func(tp spillway.TopicPartition) bool { return t.Has(g, tp) },
	}
}

func unreplicatedRows(ranges []mirror.UnreplicatedRange) []string {
	rows := []string{row("SITE", "TOPIC-PARTITION", "EPOCH", "VIRTUAL", "LOCAL", "OFFSETS", "OUTCOME")}
	for _, r := range ranges {
		rows = append(rows, row(r.Site, fmt.Sprintf("%s-%d", r.Topic, r.Partition), r.Epoch,
			fmt.Sprintf("[%d,%d)", r.From, r.To), fmt.Sprintf("[%d,%d)", r.LocalFrom, r.LocalTo), int64(r.LocalTo-r.LocalFrom), r.Outcome()))
	}
	return rows
}
