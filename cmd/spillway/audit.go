package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/mirror/audit"
	"spillway/mirror/selection"
)

// exitDifferent is the exit status of an audit that found a difference.
const exitDifferent = 1

func newAuditCommand(s *settings) *cobra.Command {
	e := &ends{settings: s}
	var topics topicFlags
	var scope audit.Scope
	var rewrite rewriteFlags
	var since string
	var partitions []int
	var from, to int64
	cmd := &cobra.Command{
		Use:     "audit --from BOOTSTRAP --to BOOTSTRAP --topics REGEX",
		Short:   "Prove that two clusters hold the same records, without trusting the mirror; exit code 1 on any difference",
		Example: "  spillway audit --from kafka-a:9092 --to kafka-b:9092 --topics 'orders|carts' -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			selected, err := topics.selection()
			if err != nil {
				return err
			}
			if scope.Rewrite, err = rewrite.rules(); err != nil {
				return err
			}
			for _, p := range partitions {
				scope.Partitions = append(scope.Partitions, int32(p))
			}
			scope.From, scope.To = spillway.LocalOffset(from), spillway.LocalOffset(to)
			if since != "" {
				if scope.Since, err = time.Parse(time.RFC3339, since); err != nil {
					return exitError{exitUsage, fmt.Sprintf("--since %q: want a time like 2026-11-01T08:00:00Z", since)}
				}
			}
			if err := scope.Validate(); err != nil {
				return exitError{exitUsage, err.Error()}
			}
			source, target, done, err := e.open(cmd.Context())
			defer done()
			if err != nil {
				return err
			}
			report, err := audit.Audit(cmd.Context(), source, target, selected, scope, auditProgress(cmd))
			if err != nil {
				return err
			}
			if err := s.show(cmd.OutOrStdout(), report, func() []string { return auditRows(report) }); err != nil {
				return err
			}
			if !report.Equal {
				return exitError{exitDifferent, fmt.Sprintf("%d differences in %d records", report.Faults, report.Records)}
			}
			return nil
		},
	}
	topics.add(cmd)
	rewrite.add(cmd)
	cmd.Flags().IntSliceVar(&partitions, "partition", nil, "compare only these partitions")
	cmd.Flags().Int64Var(&from, "from-offset", 0, "compare from this offset of the source on")
	cmd.Flags().Int64Var(&to, "to-offset", 0, "compare below this offset of the source; 0: to the end")
	cmd.Flags().StringVar(&since, "since", "", "compare from the first record of a time like 2026-11-01T08:00:00Z on")
	cmd.Flags().Float64Var(&scope.Sample, "sample", 0, "compare this part of the offsets, in rows of 1,000, as 0.01; 0: all")
	cmd.Flags().Uint64Var(&scope.Seed, "seed", 0, "choose other rows for the sample")
	return e.flags(cmd)
}

// auditProgress says on standard error how far an audit is.
func auditProgress(cmd *cobra.Command) func(audit.Progress) {
	last := time.Now()
	return func(p audit.Progress) {
		if p.Records%1024 == 0 && time.Since(last) >= progressEvery {
			last = time.Now()
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d records compared, %d partitions done, now %s\n", p.Records, p.Partitions, p.Current) // nobody may be reading any more
		}
	}
}

func auditRows(r audit.Report) []string {
	rows := []string{row("TOPIC-PARTITION", "RECORDS", "LEFT OUT", "HIDDEN", "DIFFERENCES", "NOTE")}
	for _, p := range r.Partitions {
		rows = append(rows, row(fmt.Sprintf("%s-%d", p.Topic, p.Partition), p.Records, p.LeftOut, p.Hidden, p.Faults, p.NotCompared))
		for _, d := range p.Differences {
			rows = append(rows, row("  "+d.Kind, fmt.Sprintf("source %d", d.Source), fmt.Sprintf("target %d", d.Target), "", "", d.Detail))
		}
	}
	return rows
}

func newOffsetsCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "offsets", Short: "Offsets of one site in the numbers of another"}
	e := &ends{settings: s}
	var tp spillway.TopicPartition
	var offset int64
	var reverse bool
	topics := topicFlags{include: ".*"}
	translate := &cobra.Command{
		Use:     "translate --from BOOTSTRAP --to BOOTSTRAP --topic T --partition P --offset N",
		Short:   "Where a consumer at an offset of the source goes on at the target",
		Example: "  spillway offsets translate --from kafka-a:9092 --to kafka-b:9092 --topic orders --partition 3 --offset 1042",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			selected, from, to, done, err := e.openFor(cmd.Context(), topics)
			defer done()
			if err != nil {
				return err
			}
			got, err := audit.Translate(cmd.Context(), selection.Of(from, selected), to, tp, spillway.LocalOffset(offset), reverse)
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), got, func() []string {
				return []string{
					row("FROM", "OFFSET", "VIRTUAL", "TO", "TRANSLATED", "EXACT"),
					row(got.From, got.Offset, got.Virtual, got.To, got.Translated, got.Exact),
				}
			})
		},
	}
	translate.Flags().StringVar(&tp.Topic, "topic", "", "topic, by its name at the target")
	topics.add(translate)
	translate.Flags().Int32Var(&tp.Partition, "partition", 0, "partition")
	translate.Flags().Int64Var(&offset, "offset", 0, "offset in the source's numbers (with --reverse, in the target's)")
	translate.Flags().BoolVar(&reverse, "reverse", false, "translate from the target's numbers to the source's")
	for _, name := range []string{"topic", "offset"} {
		_ = translate.MarkFlagRequired(name) // they exist
	}
	cmd.AddCommand(e.flags(translate))
	return cmd
}
