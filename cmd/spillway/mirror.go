package main

import (
	"errors"
	"fmt"
	"os/signal"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"spillway/mirror"
)

func newMirrorCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "mirror", Short: "Replication flows without a control plane"}
	e := &ends{settings: s}
	var topics, groups string
	c := mirror.RunConfig{}
	run := &cobra.Command{
		Use:     "run --from BOOTSTRAP --to BOOTSTRAP --topics REGEX",
		Short:   "Mirror topics from one cluster to another, byte for byte, with exact offsets",
		Example: "  spillway mirror run --from kafka-a:9092 --to kafka-b:9092 --topics 'orders|carts' --groups '.*' --until-caught-up",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.Topics, err = wholeNames("topics", topics); err != nil {
				return err
			}
			if groups != "" {
				if c.Groups, err = wholeNames("groups", groups); err != nil {
					return err
				}
			}
			from, to, done, err := e.open()
			defer done()
			if err != nil {
				return err
			}
			c.From, c.To = from, to
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			c.Events = progress(cmd)
			report, err := mirror.Run(ctx, c)
			if err != nil && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
				return err
			}
			return s.show(cmd.OutOrStdout(), report, func() []string { return runRows(report) })
		},
	}
	run.Flags().StringVar(&topics, "topics", "", "regular expression for whole topic names")
	run.Flags().StringVar(&groups, "groups", "", "regular expression for whole names of consumer groups whose offsets are carried; empty: none")
	run.Flags().BoolVar(&c.UntilCaughtUp, "until-caught-up", false, "end when the target has what the source had at the start")
	_ = run.MarkFlagRequired("topics") // it exists
	cmd.AddCommand(e.flags(run))
	return cmd
}

func wholeNames(flag, expression string) (*regexp.Regexp, error) {
	r, err := regexp.Compile("^(?:" + expression + ")$")
	if err != nil {
		return nil, exitError{exitUsage, fmt.Sprintf("--%s: %q is not a regular expression: %v", flag, expression, err)}
	}
	return r, nil
}

// progressEvery is how often a long run says how far it is.
const progressEvery = 5 * time.Second

// progress says on standard error how far a run is.
func progress(cmd *cobra.Command) mirror.Events {
	var mu sync.Mutex
	records, last := int64(0), time.Now()
	return mirror.Events{BatchMirrored: func(i mirror.BatchInfo) {
		mu.Lock()
		defer mu.Unlock()
		records += int64(i.Records)
		if time.Since(last) >= progressEvery {
			last = time.Now()
			fmt.Fprintf(cmd.ErrOrStderr(), "%d records mirrored\n", records)
		}
	}}
}

func runRows(r mirror.RunReport) []string {
	rows := []string{
		row("partitions", r.Partitions), row("records", r.Records), row("batches", r.Batches), row("rebuilt", r.Rebuilt),
		row("groups carried", r.Groups), row("gaps", len(r.Gaps)),
	}
	for _, g := range r.Gaps {
		rows = append(rows, row("  "+g.Kind, fmt.Sprintf("%s-%d [%d,%d) %s", g.Topic, g.Partition, g.From, g.To, g.Detail)))
	}
	return rows
}
