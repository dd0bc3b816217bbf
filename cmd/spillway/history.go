package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/federation/history"
)

func newHistoryCommand(s *settings) *cobra.Command {
	return s.addOutput(&cobra.Command{
		Use:   "history NAME",
		Short: "All moves of a failover group, oldest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.history(cmd.Context(), args[0], func(records []history.Record) error {
				return s.show(cmd.OutOrStdout(), records, func() []string { return historyRows(records) })
			})
		},
	})
}

// history gives all moves of a failover group, oldest first.
func (s *settings) history(ctx context.Context, group string, to func([]history.Record) error) error {
	return s.operate(ctx, func(cfg *configs.Config, o *control.Operator) error {
		if err := knownGroup(cfg.Topology(), group); err != nil {
			return err
		}
		records, err := o.History(ctx, group)
		if err != nil {
			return err
		}
		return to(records)
	})
}

func historyRows(records []history.Record) []string {
	rows := []string{row("EPOCH", "KIND", "FROM", "TO", "STARTED", "TOOK", "HELD", "FORETOLD", "LOST AT MOST", "FOUND", "WHO", "WHY", "ENDED")}
	for _, r := range records {
		held, foretold, found, took, end := "-", "-", "-", r.Ended.Sub(r.Started).Round(time.Millisecond).String(), "done"
		if r.Ended.IsZero() {
			took, end = "-", "goes on"
		}
		if r.HeldMillis >= 0 {
			held = fmt.Sprintf("%d ms", r.HeldMillis)
		}
		if r.Known != nil && r.Known.Forecast.PauseMillis >= 0 {
			foretold = fmt.Sprintf("%d ms", r.Known.Forecast.PauseMillis)
		}
		if len(r.Found) > 0 {
			found = foundIn(r.Found)
		}
		if r.Aborted != "" {
			end = "given up: " + r.Aborted
		}
		if r.Unread != "" {
			end = "its account cannot be read: " + r.Unread
		}
		rows = append(rows, row(r.Epoch, r.Kind, r.From, r.To, r.Started.UTC().Format(time.RFC3339), took, held, foretold, r.LostMost, found, r.Who, r.Why, end))
	}
	return rows
}

// foundIn says how many records each site that was given up alone had.
func foundIn(found []history.Found) string {
	var said []string
	for _, f := range found {
		n := "not counted"
		if f.Records >= 0 {
			n = fmt.Sprint(f.Records)
		}
		said = append(said, fmt.Sprintf("%s at %s", n, f.Site))
	}
	return strings.Join(said, ", ")
}

func newReportCommand(s *settings) *cobra.Command {
	var epoch int32
	cmd := &cobra.Command{
		Use:     "report NAME",
		Short:   "One move of a failover group on a page, in Markdown, for a post-mortem",
		Long:    "One move of a failover group on a page, in Markdown: who asked for it and why, what was known, what had been foretold and\nwhat happened, the time of each step, the loss, and the cutover offsets. It is made from the history alone.",
		Example: "  spillway fg report shop\n  spillway fg report shop --epoch 7 > failover.md",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.history(cmd.Context(), args[0], func(records []history.Record) error {
				r, err := moveOf(records, spillway.Epoch(epoch))
				if err != nil {
					return fmt.Errorf("failover group %s: %w", args[0], err)
				}
				_, err = fmt.Fprint(cmd.OutOrStdout(), r.Report())
				return err
			})
		},
	}
	cmd.Flags().Int32Var(&epoch, "epoch", 0, "that the move opened, or was to open; without it the last move")
	return cmd
}

// moveOf finds the move to an epoch; 0: the last one.
func moveOf(records []history.Record, epoch spillway.Epoch) (history.Record, error) {
	var moves []history.Record
	var epochs []string
	for _, r := range records {
		if r.Kind != failover.Degrade {
			moves, epochs = append(moves, r), append(epochs, fmt.Sprint(r.Epoch))
		}
		if r.Kind != failover.Degrade && r.Epoch == epoch {
			return r, nil
		}
	}
	switch {
	case len(moves) == 0:
		return history.Record{}, errors.New("no move of it has ended yet")
	case epoch != 0:
		return history.Record{}, fmt.Errorf("no move to epoch %d has ended; there are those to %s", epoch, strings.Join(epochs, ", "))
	}
	return moves[len(moves)-1], nil
}
