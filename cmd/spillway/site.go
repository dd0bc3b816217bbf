package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
)

func newSiteCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "site", Short: "Take a site out of service and back"}
	cmd.AddCommand(newDrainCommand(s), newReturnCommand(s))
	return cmd
}

func newDrainCommand(s *settings) *cobra.Command {
	c := &siteCommand{change: change{settings: s}}
	return c.command(&cobra.Command{
		Use:   "drain SITE",
		Short: "Move all failover groups away from a site, one after the other, and let none move there",
		Long: "Move all failover groups that a site serves to their next preferred sites, by switchovers, one after the other, and mark\n" +
			"the site: until spillway site return no switchover and no automatic failover moves a group there. It goes on as a standby.\n" +
			"A group that cannot be moved stays; give the command again, and it goes on with what is left.",
		Example: "  spillway site drain east --dry-run\n  spillway site drain east --why 'new power supply'",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, o *control.Operator, site spillway.SiteID, p control.Progress) (control.SiteChange, error) {
		return o.Drain(ctx, site, who(), c.why, c.dryRun, p)
	})
}

func newReturnCommand(s *settings) *cobra.Command {
	c := &siteCommand{change: change{settings: s}}
	groups := false
	cmd := c.command(&cobra.Command{
		Use:     "return SITE",
		Short:   "Let failover groups move to a drained site again",
		Example: "  spillway site return east\n  spillway site return east --groups --dry-run",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, o *control.Operator, site spillway.SiteID, p control.Progress) (control.SiteChange, error) {
		return o.Return(ctx, site, who(), c.why, groups, c.dryRun, p)
	})
	cmd.Flags().BoolVar(&groups, "groups", false, "move the groups there whose first preferred site it is")
	return cmd
}

// siteCommand is a change that moves several groups.
type siteCommand struct {
	change
	began time.Time // of the move under way, or of the wait for it
	told  string
}

func (c *siteCommand) command(cmd *cobra.Command, do func(context.Context, *control.Operator, spillway.SiteID, control.Progress) (control.SiteChange, error)) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.settings.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
			if err := c.judgeTargets(o); err != nil {
				return err
			}
			closeSites := readSites(cfg, o)
			defer closeSites()
			c.began = time.Now()
			o.Waiting = c.waits(cmd)
			done, err := do(cmd.Context(), o, spillway.SiteID(args[0]), c.progress(cmd))
			if err != nil {
				return err
			}
			if err := c.settings.show(cmd.OutOrStdout(), done, func() []string { return siteRows(done) }); err != nil {
				return err
			}
			if stay := done.Staying(); len(stay) > 0 && !c.dryRun {
				return fmt.Errorf("%d of %d groups did not move; give the command again to go on with them", len(stay), len(done.Groups))
			}
			return nil
		})
	}
	cmd.Flags().DurationVar(&c.wait, "timeout", time.Minute, "how long to wait for the end of each move, and before it for a target that is behind")
	c.targetFlags(cmd)
	return c.flags(cmd)
}

// waits tells why a switchover does not begin yet, and gives up after the timeout.
func (c *siteCommand) waits(cmd *cobra.Command) func(error) bool {
	return func(why error) bool {
		if time.Since(c.began) > c.wait {
			return false
		}
		if why.Error() != c.told {
			c.told = why.Error()
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %s\n", c.told)
		}
		return true
	}
}

// progress prints each move as it goes; with -o json there is only the result.
func (c *siteCommand) progress(cmd *cobra.Command) control.Progress {
	out, quiet := cmd.OutOrStdout(), c.settings.output == "json"
	return control.Progress{
		Wait: c.wait,
		Begun: func(p control.Plan) {
			if !quiet {
				fmt.Fprintf(out, "%s of %s from %s to %s, epoch %d\n", p.Kind, p.Group, p.From, p.To, p.Epoch)
			}
		},
		Passed: func(p failover.Passage) {
			if !quiet {
				fmt.Fprintln(out, passageRow(p))
			}
		},
		Ended: func(control.GroupMove) { c.began, c.told = time.Now(), "" },
	}
}

func siteRows(c control.SiteChange) []string {
	marked := fmt.Sprintf("site %s is not drained", c.Site)
	if c.Drained {
		marked = fmt.Sprintf("site %s is %s: no switchover and no automatic failover goes there until spillway site return %s", c.Site, c.Mark, c.Site)
	}
	if c.DryRun {
		marked = strings.Replace(marked, " is ", " would be ", 1) + " (dry run, nothing was changed)"
	}
	rows := []string{marked}
	if len(c.Groups) == 0 {
		return append(rows, "no failover group has to move")
	}
	rows = append(rows, row("GROUP", "FROM", "TO", "EPOCH", "MOVE"))
	for _, g := range c.Groups {
		what := "planned"
		switch {
		case g.Stays != "":
			what = "stays: " + g.Stays
		case g.Moved:
			what = "done"
		}
		if g.PassedOver != "" {
			what += "; rather to another site, but: " + g.PassedOver
		}
		epoch := ""
		if g.Epoch > 0 {
			epoch = fmt.Sprint(g.Epoch)
		}
		rows = append(rows, row(g.Group, g.From, g.To, epoch, what))
	}
	return rows
}
