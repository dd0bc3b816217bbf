package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"spillway/console/status"
)

func newFlowCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "flow", Short: "Replication flows"}
	cmd.AddCommand(s.addOutput(&cobra.Command{
		Use:   "list",
		Short: "All flows, worst news first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := s.observe(cmd.Context())
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), got.Flows, func() []string { return flowRows(got.Flows) })
		},
	}), s.addOutput(&cobra.Command{
		Use:   "show NAME",
		Short: "One flow, by the name that flow list shows",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			got, err := s.observe(cmd.Context())
			if err != nil {
				return err
			}
			for _, f := range got.Flows {
				if f.Name == args[0] {
					return s.show(cmd.OutOrStdout(), f, func() []string { return flowRows([]status.Flow{f}) })
				}
			}
			return fmt.Errorf("there is no flow %q; see spillway flow list", args[0])
		},
	}))
	return cmd
}
