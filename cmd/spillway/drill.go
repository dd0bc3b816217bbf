package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/drill"
	"spillway/federation/history"
)

func newDrillCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "drill", Short: "Rehearse the loss of a site with a failover group that exists for it"}
	cmd.AddCommand(newDrillRunCommand(s), s.addOutput(&cobra.Command{
		Use:     "list GROUP",
		Short:   "How the last drills went, oldest first",
		Example: "  spillway drill list drill -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				if _, err := drillGroup(cfg.Topology(), args[0]); err != nil {
					return err
				}
				drills, err := o.Drills(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), drills, func() []string { return drillRows(drills) })
			})
		},
	}))
	return cmd
}

func newDrillRunCommand(s *settings) *cobra.Command {
	r := &drillRun{change: change{settings: s}}
	cmd := &cobra.Command{
		Use:   "run GROUP",
		Short: "Write and read, fail over to another site under that load, and move home",
		Long: "Write and read the topic of a failover group that exists for drills (drillEvery), through the gateways, as any client does;\n" +
			"have the group fail over to the site to which that was done longest ago, although its own site lives, and move home again;\n" +
			"and hold what the client was told against what the failover announced. The account is kept: spillway drill list shows it, and so\n" +
			"do the metrics. A timer gives the command (docs/operate/drills.md). It exits with 1 if the drill did not pass.",
		Example: "  spillway drill run drill --dry-run\n  spillway drill run drill --why 'monthly'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				closeSites := readSites(cfg, o)
				defer closeSites()
				return r.run(cmd, cfg, o, args[0])
			})
		},
	}
	cmd.Flags().DurationVar(&r.wait, "timeout", 2*time.Minute, "how long to wait for each move, before it for a site that is behind, and for the last records")
	cmd.Flags().DurationVar(&r.within, "within", 30*time.Second, "the drill fails if clients are told nothing for longer in a move")
	r.gateways.add(cmd)
	return r.flags(cmd)
}

// drillRun is one run of the command.
type drillRun struct {
	change
	gateways gatewayFlags
	within   time.Duration
}

// drillGroup finds a group that exists for drills.
func drillGroup(topology *spillway.Topology, name string) (spillway.FailoverGroup, error) {
	if err := knownGroup(topology, name); err != nil {
		return spillway.FailoverGroup{}, err
	}
	g, _ := topology.Group(name)
	if g.DrillEvery == 0 {
		return g, fmt.Errorf("failover group %s is not for drills: a drill fails over, which may lose records. Configure a group for it, with drillEvery", name)
	}
	return g, nil
}

func (r *drillRun) run(cmd *cobra.Command, cfg *configs.Config, o *control.Operator, name string) (err error) {
	ctx := cmd.Context()
	g, err := drillGroup(cfg.Topology(), name)
	if err != nil {
		return err
	}
	if r.wait <= 0 || r.within <= 0 {
		return exitError{exitUsage, "--timeout and --within must be more than 0s"}
	}
	earlier, err := o.Drills(ctx, name)
	if err != nil {
		return err
	}
	if r.dryRun {
		return r.foretell(cmd, o, g, earlier)
	}
	addresses, client, err := r.gateways.client(ctx, cfg, o)
	if err != nil {
		return err
	}
	// One drill at a time, and none while somebody writes records of the group again.
	claim, err := o.ClaimReplay(ctx, spillway.ShareID{Group: name}, who(), 0)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWait)
		defer cancel()
		err = errors.Join(err, claim.Release(ctx))
	}()
	if err := r.makeTopic(ctx, o, g); err != nil {
		return err
	}
	o.Waiting = func(error) bool { return true } // the drill bounds it
	quiet := r.settings.output == "json"
	done := drill.Run(ctx, drill.Config{
		Group: g, Mover: o, Addresses: addresses, Client: client, Earlier: earlier,
		Who: who(), Why: cmp.Or(r.why, "drill"), Run: rand.Text(), Within: r.within, Wait: r.wait,
		Say: func(text string) {
			if !quiet {
				fmt.Fprintln(cmd.OutOrStdout(), text)
			}
		},
	})
	keeping, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWait)
	defer cancel()
	kept := o.KeepDrill(keeping, name, done)
	if err := r.settings.show(cmd.OutOrStdout(), done, func() []string { return drillRows([]history.Drill{done}) }); err != nil {
		return err
	}
	if done.Outcome != history.DrillPassed {
		return errors.Join(fmt.Errorf("the drill did not pass (%s): %s", done.Outcome, strings.Join(done.Problems, "; ")), kept)
	}
	return kept
}

// foretell says what a drill would do.
func (r *drillRun) foretell(cmd *cobra.Command, o *control.Operator, g spillway.FailoverGroup, earlier []history.Drill) error {
	target, ok := history.DrillTarget(earlier, g.Sites, g.Sites[0])
	if !ok {
		return fmt.Errorf("failover group %s has no other site", g.Name)
	}
	plan, err := o.Failover(cmd.Context(), g.Name, target, g.Failover.LossRecordsMax, who(), r.why, true)
	if err != nil {
		return err
	}
	return r.settings.show(cmd.OutOrStdout(), plan, func() []string {
		return append(planRows(plan), fmt.Sprintf("then a switchover home to %s; both while a client writes and reads topic %s", g.Sites[0], drill.Topic(g)))
	})
}

// makeTopic creates the topic of the drills where the group is served; a mirror carries it
// to the others.
func (r *drillRun) makeTopic(ctx context.Context, o *control.Operator, g spillway.FailoverGroup) error {
	share, err := o.Share(ctx, g.Name)
	if err != nil {
		return err
	}
	site, ok := o.Sites[share.Active]
	if !ok {
		return nil // this command has no way there; a topic that is missing is told of by the gateways
	}
	err = site.Admin().CreateTopic(ctx, drill.Topic(g), drill.Partitions, -1, nil)
	if err != nil && !errors.Is(err, broker.ErrTopicExists) {
		return fmt.Errorf("create topic %s at %s: %w", drill.Topic(g), share.Active, err)
	}
	return nil
}

func drillRows(drills []history.Drill) []string {
	rows := []string{row("HELD AT", "OUTCOME", "TO", "CLIENTS WAITED", "AND ON THE WAY HOME", "SENT", "ACKNOWLEDGED", "LOST", "WHO", "WHY", "PROBLEM")}
	for _, d := range drills {
		var waited []string
		to := ""
		for _, m := range d.Moves {
			waited = append(waited, fmt.Sprintf("%d ms", m.SilentMillis))
			to = cmp.Or(to, string(m.To))
		}
		waited = append(waited, slices.Repeat([]string{""}, 2)...)
		problem := ""
		if len(d.Problems) > 0 {
			problem, _, _ = strings.Cut(d.Problems[0], "\n") // the rest is in -o json
		}
		rows = append(rows, row(d.At.UTC().Format(time.RFC3339), d.Outcome, to, waited[0], waited[1], d.Sent, d.Acked, d.Lost, d.Who, d.Why, problem))
	}
	return rows
}
