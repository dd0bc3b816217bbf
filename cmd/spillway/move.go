package main

import (
	"cmp"
	"context"
	"fmt"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/authorization"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/preflight"
)

// change is what all changing commands share.
type change struct {
	settings *settings
	dryRun   bool
	noWait   bool
	wait     time.Duration
	why      string
	// Of planned moves: what the target has to have, and what may be missing.
	room   time.Duration
	accept []string
}

// targetFlags are those of planned moves about what their targets must have.
func (c *change) targetFlags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&c.room, "room", preflight.RoomDefault, "begin only if the site's disks have room for what the group writes in this time")
	cmd.Flags().StringSliceVar(&c.accept, "accept", nil, "go on although the site is found to lack something: "+strings.Join(preflight.Acceptable, ", "))
}

// judgeTargets has an operator judge targets by the flags.
func (c *change) judgeTargets(o *control.Operator) error {
	if c.room <= 0 {
		return fmt.Errorf("--room: %s must be more than 0s", c.room)
	}
	for _, a := range c.accept {
		if !slices.Contains(preflight.Acceptable, a) {
			return fmt.Errorf("--accept: %q is none of %s", a, strings.Join(preflight.Acceptable, ", "))
		}
	}
	o.Room, o.Accept = c.room, c.accept
	return nil
}

func (c *change) flags(cmd *cobra.Command) *cobra.Command {
	return c.settings.addOutput(c.plainFlags(cmd))
}

// plainFlags are flags without the form of the output.
func (c *change) plainFlags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().StringVar(&c.why, "why", "", "reason, kept in history and audit log")
	return cmd
}

func (c *change) waitFlags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.noWait, "no-wait", false, "return once the move has begun")
	cmd.Flags().DurationVar(&c.wait, "timeout", time.Minute, "how long to wait for the move's end, and before it for a target that is behind")
	return c.flags(cmd)
}

// waiting tells a person why a switchover does not begin yet, once each time that
// the reason changes, and gives up after the timeout.
func (c *change) waiting(cmd *cobra.Command) func(error) bool {
	began, told := time.Now(), ""
	return func(why error) bool {
		if c.noWait || time.Since(began) > c.wait {
			return false
		}
		if why.Error() != told {
			told = why.Error()
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting: %s\n", told)
		}
		return true
	}
}

// said is what a command without a plan tells.
type said struct {
	What   string `json:"what"`
	Group  string `json:"group,omitempty"`
	Effect string `json:"effect"`
	DryRun bool   `json:"dryRun"`
}

func (c *change) say(cmd *cobra.Command, group, what, effect string) error {
	return c.settings.show(cmd.OutOrStdout(), said{What: what, Group: group, Effect: effect, DryRun: c.dryRun}, func() []string {
		if c.dryRun {
			effect += " (dry run, nothing was changed)"
		}
		return []string{effect}
	})
}

// who is the person at the keyboard, for history and audit log.
func who() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "unknown"
}

// operate opens the store for a command.
func (s *settings) operate(ctx context.Context, run func(*configs.Config, *control.Operator) error) error {
	cfg, err := s.load()
	if err != nil {
		return err
	}
	store, err := app.OpenStore(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // every change was answered
	return run(cfg, control.NewOperator(cfg.Topology(), store, app.Observers(cfg)))
}

func newSwitchoverCommand(s *settings) *cobra.Command {
	c := &change{settings: s}
	var to string
	var behindMax time.Duration
	cmd := &cobra.Command{
		Use:     "switchover NAME --to SITE",
		Short:   "Move a failover group as planned: nothing is lost, repeated or reordered",
		Example: "  spillway switchover shop --to west --dry-run\n  spillway switchover shop --to west --why 'new power supply in east'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				if _, ok := cfg.Site(to); !ok {
					return fmt.Errorf("--to: there is no site %q in the configuration", to)
				}
				if behindMax <= 0 {
					return fmt.Errorf("--behind-max: %s must be more than 0s", behindMax)
				}
				if err := c.judgeTargets(o); err != nil {
					return err
				}
				closeSites := readSites(cfg, o)
				defer closeSites()
				o.Waiting, o.BehindMax = c.waiting(cmd), behindMax
				plan, err := o.Switchover(cmd.Context(), args[0], spillway.SiteID(to), who(), c.why, c.dryRun)
				if err != nil {
					return err
				}
				return c.follow(cmd, o, plan)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "site that shall serve")
	_ = cmd.MarkFlagRequired("to") // the flag exists
	cmd.Flags().DurationVar(&behindMax, "behind-max", failover.BehindMax, "begin while the site is no further behind: clients are held until it has everything")
	c.targetFlags(cmd)
	return c.waitFlags(cmd)
}

func newFailoverCommand(s *settings) *cobra.Command {
	c := &change{settings: s}
	var to string
	var loss int64
	cmd := &cobra.Command{
		Use:     "failover NAME --to SITE",
		Short:   "Move a failover group away from a site that is lost, without asking it",
		Example: "  spillway failover shop --to west --dry-run\n  spillway failover shop --to west --accept-loss 500",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				if _, ok := cfg.Site(to); !ok && to != "" {
					return fmt.Errorf("--to: there is no site %q in the configuration", to)
				}
				closeSites := readSites(cfg, o)
				defer closeSites()
				plan, err := o.Failover(cmd.Context(), args[0], spillway.SiteID(to), loss, who(), c.why, c.dryRun)
				if err != nil {
					return err
				}
				return c.follow(cmd, o, plan)
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "site that shall serve; without it the best survivor")
	cmd.Flags().Int64Var(&loss, "accept-loss", 0, "records that may be lost at most; -1: any number")
	return c.waitFlags(cmd)
}

// readSites lets a command look at the sites that the configuration leads to before it
// moves anything. One that cannot be opened is among those that the plan names as unread.
func readSites(cfg *configs.Config, o *control.Operator) (closeSites func()) {
	if a := cfg.Gateway.Authorization; a.Rules == "acls" {
		o.ByLists = &authorization.Policy{SuperUsers: a.SuperUsers, AllowUnlisted: a.AllowUnlisted}
		o.NotClients = a.NotClients
	}
	o.DirectQuiet = cfg.Control.DirectQuiet
	o.Sites = map[spillway.SiteID]broker.Cluster{}
	for _, s := range cfg.Sites {
		if c, err := app.OpenSite(s); err == nil {
			o.Sites[c.Site()] = c
		}
	}
	return func() { _ = app.CloseSites(o.Sites) } // nothing was written
}

// follow prints the plan and then the passages of the move until its end.
func (c *change) follow(cmd *cobra.Command, o *control.Operator, plan control.Plan) error {
	out := cmd.OutOrStdout()
	json := c.settings.output == "json"
	if !json || c.dryRun || c.noWait {
		if err := c.settings.show(out, plan, func() []string { return planRows(plan) }); err != nil {
			return err
		}
	}
	if c.dryRun {
		return plan.Refusal()
	}
	if c.noWait {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.wait)
	defer cancel()
	share, err := o.Await(ctx, plan.Group, plan.Epoch, func(p failover.Passage) {
		if !json {
			fmt.Fprintln(out, passageRow(p))
		}
	})
	if err != nil {
		return fmt.Errorf("%w; it goes on without this command, see spillway failover-group show %s", err, plan.Group)
	}
	if json {
		if err := c.settings.show(out, share, nil); err != nil {
			return err
		}
	}
	if share.Active != plan.To {
		return fmt.Errorf("the move was given up: %s serves %s in epoch %d; see spillway failover-group history %s", share.Active, plan.Group, share.Epoch, plan.Group)
	}
	if !json {
		fmt.Fprintf(out, "%s serves %s in epoch %d\n", share.Active, plan.Group, share.Epoch)
	}
	return nil
}

func passageRow(p failover.Passage) string {
	return fmt.Sprintf("%s  %-9s %s", p.At.UTC().Format("15:04:05.000"), p.State, p.Why)
}

func planRows(p control.Plan) []string {
	head := fmt.Sprintf("%s of %s from %s to %s, epoch %d", p.Kind, p.Group, p.From, p.To, p.Epoch)
	if p.DryRun {
		head += " (dry run, nothing was changed)"
	}
	rows := []string{head}
	for _, e := range p.Effects {
		rows = append(rows, "  "+e)
	}
	rows = append(rows, "  gateways that will confirm: "+cmp.Or(strings.Join(p.Gateways, ", "), "none"))
	if len(p.Silent) > 0 {
		rows = append(rows, "  not heard now: "+strings.Join(p.Silent, ", "))
	}
	if p.Automation != "" {
		rows = append(rows, "  automatic failover: "+p.Automation)
	}
	if p.Torn != "" {
		rows = append(rows, "  torn transactions: "+p.Torn)
	}
	for _, f := range p.Findings {
		what := "  found: "
		if f.Accepted {
			what = "  accepted: "
		}
		rows = append(rows, what+f.What)
	}
	for _, r := range p.Refused {
		rows = append(rows, "  would be refused: "+r)
	}
	return append(rows, lossRows(p)...)
}

// lossRowsMax is how many partitions a person is shown; -o json has them all.
const lossRowsMax = 50

// lossRows say of each partition what may be missing after a failover.
func lossRows(p control.Plan) []string {
	var rows []string
	for _, u := range p.Unread {
		first, _, _ := strings.Cut(u, "\n") // the rest tells of each broker
		rows = append(rows, "  not read: "+first)
	}
	if len(p.Losses) == 0 {
		return rows
	}
	rows = append(rows, "", row("MAY BE MISSING", "FROM", "AT MOST TO", "KEPT BY", fmt.Sprintf("LOG END AT %s", p.From), "RECORDS THERE", "WRITTEN"))
	for i, l := range p.Losses {
		if i == lossRowsMax {
			return append(rows, fmt.Sprintf("and %d partitions more, see -o json", len(p.Losses)-i))
		}
		end, records := "unknown", "unknown"
		if l.LogEnd >= 0 {
			end = fmt.Sprint(l.LogEnd)
		}
		if l.Records >= 0 {
			records = fmt.Sprint(l.Records)
		}
		rows = append(rows, row(fmt.Sprintf("%s-%d", l.Topic, l.Partition), l.From, l.To, l.Site, end, records, written(l)))
	}
	return rows
}

// written says when what may be missing was written, as far as that is known.
func written(l failover.Loss) string {
	const stamp = "2006-01-02T15:04:05.000Z"
	switch {
	case !l.First.IsZero():
		return l.First.UTC().Format(stamp) + " to " + l.Last.UTC().Format(stamp)
	case l.Records == 0:
		return "-"
	case !l.Kept.IsZero():
		return "after " + l.Kept.UTC().Format(stamp)
	}
	return "unknown"
}

func newAbortCommand(s *settings) *cobra.Command {
	c := &change{settings: s}
	cmd := &cobra.Command{
		Use:   "abort NAME",
		Short: "Give up the move of a failover group, as long as the new site does not serve",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.operate(cmd.Context(), func(_ *configs.Config, o *control.Operator) error {
				if c.dryRun {
					st, err := o.Status(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					if _, err := failover.Abort(st.Share, who(), c.why); err != nil {
						return err
					}
					return c.say(cmd, args[0], "abort", fmt.Sprintf("%s goes on serving %s, held requests go on in order", st.Share.Active, args[0]))
				}
				if err := o.Abort(cmd.Context(), args[0], who(), c.why); err != nil {
					return err
				}
				return c.say(cmd, args[0], "abort", fmt.Sprintf("the move of %s is being given up; see spillway failover-group show %s", args[0], args[0]))
			})
		},
	}
	return c.flags(cmd)
}

func newAutomationCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "automation", Short: "Failovers that happen without a person"}
	for _, verb := range []struct {
		use, short string
		paused     bool
	}{
		{"pause", "From now on a person decides about every failover", true},
		{"resume", "Allow failovers without a person again, where groups are configured so", false},
	} {
		c := &change{settings: s}
		cmd.AddCommand(c.flags(&cobra.Command{
			Use:   verb.use,
			Short: verb.short,
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return s.operate(cmd.Context(), func(_ *configs.Config, o *control.Operator) error {
					if !c.dryRun {
						if err := o.Pause(cmd.Context(), verb.paused, who(), c.why); err != nil {
							return err
						}
					}
					return c.say(cmd, "", "automation "+verb.use, "automation: "+verb.use)
				})
			},
		}))
	}
	return cmd
}
