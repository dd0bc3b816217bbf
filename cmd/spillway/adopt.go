package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/mirror"
	"spillway/mirror/adopt"
)

func newAdoptCommand(s *settings) *cobra.Command {
	e := &ends{settings: s, byID: true}
	var topics topicFlags
	c := mirror.AdoptConfig{}
	cmd := &cobra.Command{
		Use:     "adopt --from BOOTSTRAP --to BOOTSTRAP --topics REGEX",
		Short:   "Take over topics that MirrorMaker 2 has copied: nothing is copied again, and offsets become exact",
		Example: "  spillway mirror adopt --from kafka-a:9092 --to kafka-b:9092 --topics 'orders|carts' --rename '(.*)=east.$1' --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done func()
			var err error
			c.Topics, c.From, c.To, done, err = e.openFor(cmd.Context(), topics)
			defer done()
			if err != nil {
				return err
			}
			last := time.Now()
			c.Compared = func(tp spillway.TopicPartition, records int64) {
				if time.Since(last) >= progressEvery {
					last = time.Now()
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d records are the source's so far\n", tp, records) // nobody may be reading any more
				}
			}
			report, err := mirror.Adopt(cmd.Context(), c)
			if len(report.Partitions) > 0 {
				if err := s.show(cmd.OutOrStdout(), report, func() []string { return adoptRows(report) }); err != nil {
					return err
				}
			}
			return err
		},
	}
	topics.add(cmd)
	cmd.Flags().StringVar(&c.Alias, "alias", "", "what MirrorMaker 2 calls the source: only that one has to be stopped; empty: none may run into the target")
	cmd.Flags().Int64Var(&c.AcceptUnknown, "accept-unknown", 0, "go on though so many records at the target are not the source's")
	cmd.Flags().Int64Var(&c.AcceptMissing, "accept-missing", 0, "go on though so many records of the source are not at the target, and later ones are")
	cmd.Flags().BoolVar(&c.WhileRunning, "while-running", false, "take over what is there while MirrorMaker 2 goes on; the rest, without this, when it has been stopped")
	cmd.Flags().BoolVar(&c.DryRun, "dry-run", false, "compare, say what was found, and write nothing")
	return e.flags(cmd)
}

func adoptRows(r mirror.AdoptReport) []string {
	rows := []string{row("TOPIC-PARTITION", "MAPPED", "RANGES", "FROM", "GOES ON AT", "LEFT", "NOTE")}
	for _, p := range r.Partitions {
		rows = append(rows, row(p.TopicPartition, p.Records, p.Ranges, p.First, p.Next, p.Left, p.Problem))
		for _, f := range p.Findings {
			where := "target"
			if f.Kind.AtSource() {
				where = "source"
			}
			rows = append(rows, row("  "+f.Kind, f.Records, "", fmt.Sprintf("%s [%d,%d)", where, f.From, f.To), "", "", kindMeans[f.Kind]))
		}
	}
	for _, topic := range r.Absent {
		rows = append(rows, row(topic, 0, "", "", "", "", "the target does not have it; a mirror run creates it"))
	}
	for _, topic := range r.Circular {
		rows = append(rows, row(topic, 0, "", "", "", "", "left out, its records come from the target"))
	}
	what := "nothing was written"
	if r.Written {
		what = "the map was written"
	}
	return append(rows, row("all", r.Records, "", "", "", "", what))
}

// kindMeans says what records without a counterpart are.
var kindMeans = map[adopt.Kind]string{
	adopt.Duplicate:  "copied once more, by a mirror that was restarted",
	adopt.Aborted:    "copied from aborted transactions",
	adopt.Older:      "the source has deleted them",
	adopt.Superseded: "not at the source, which may have compacted them away",
	adopt.Unknown:    "not the source's",
	adopt.Before:     "the target has nothing so old",
	adopt.Missing:    "not at the target, and cannot be put there any more",
}

func newHandBackCommand(s *settings) *cobra.Command {
	e := &ends{settings: s, byID: true}
	var topics topicFlags
	c := mirror.HandBackConfig{}
	cmd := &cobra.Command{
		Use:     "hand-back --from BOOTSTRAP --to BOOTSTRAP --topics REGEX --alias NAME",
		Short:   "Have MirrorMaker 2 go on where the mirror has ended, by writing so into the offsets of its workers",
		Example: "  spillway mirror hand-back --from kafka-a:9092 --to kafka-b:9092 --topics 'orders|carts' --rename '(.*)=east.$1' --alias east --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done func()
			var err error
			c.Topics, c.From, c.To, done, err = e.openFor(cmd.Context(), topics)
			defer done()
			if err != nil {
				return err
			}
			report, err := mirror.HandBack(cmd.Context(), c)
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), report, func() []string {
				rows := []string{row("SOURCE", "TOPIC-PARTITION", "LAST COPIED", "IN")}
				for _, o := range report.Offsets {
					rows = append(rows, row(o.Partition.Cluster, fmt.Sprintf("%s-%d", o.Partition.Topic, o.Partition.Partition), o.Offset.Offset, report.Topic))
				}
				return rows
			})
		},
	}
	topics.add(cmd)
	cmd.Flags().StringVar(&c.Alias, "alias", "", "what MirrorMaker 2 calls the source")
	cmd.Flags().StringVar(&c.OffsetsTopic, "offsets-topic", "", "where its workers keep offsets at the target (offset.storage.topic); empty: mm2-offsets.ALIAS.internal")
	cmd.Flags().StringVar(&c.Connector, "connector", "", "its source connector; empty: the one that has offsets there")
	cmd.Flags().BoolVar(&c.DryRun, "dry-run", false, "say what would be written, in the form that Kafka Connect takes with -o json, and write nothing")
	_ = cmd.MarkFlagRequired("alias") // it exists
	return e.flags(cmd)
}
