package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"spillway/app/demo"
)

func newDemoCommand(s *settings) *cobra.Command {
	o := demo.Options{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Lose a site of three under load, and see which promises held",
		Long: "Start embedded sites on this host, each a pair of child processes, serve an order workload through their gateways,\n" +
			"move the group as planned, kill the active site, and judge what clients were told against what the sites' logs hold.\n" +
			"Exit code 0 only if every promise that this can test held.",
		Example: "  spillway demo\n  spillway demo --stay    # then point any Kafka client at 127.0.0.1:9092",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("this program's file: %w", err)
			}
			o.Program, o.Say = program, cmd.ErrOrStderr()
			if s.output != "json" {
				o.Say = cmd.OutOrStdout()
			}
			result, err := demo.Run(cmd.Context(), o, func(r demo.Result) {
				r.Text(o.Say)
				fmt.Fprintf(o.Say, "\neverything stays up until Ctrl-C: Kafka clients at %s, status page at %s\n", r.Gateway, r.Console)
			})
			if err != nil {
				return err
			}
			if s.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				if err := enc.Encode(result); err != nil {
					return err
				}
			} else if !o.Stay {
				result.Text(o.Say)
			}
			if !result.OK {
				return exitError{code: exitFailed}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.Sites, "sites", 3, "number of sites, 2 to 5")
	f.DurationVar(&o.For, "for", 30*time.Second, "how long orders come in")
	f.IntVar(&o.Orders, "orders", 10, "orders that are under way at once")
	f.BoolVar(&o.Stay, "stay", false, "keep everything up afterwards, until Ctrl-C")
	f.IntVar(&o.Port, "port", 9092, "port of the first site's gateway, with --stay")
	return s.addOutput(cmd)
}
