package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"spillway/configs"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check a configuration file, print its schema or an example"}
	cmd.AddCommand(
		&cobra.Command{
			Use:     "check FILE",
			Short:   "Name all faults of a configuration file with key and line",
			Example: "  spillway config check spillway.yaml",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				cfg, err := configs.Load(args[0])
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %s, %s, %s\n", args[0],
					counted(len(cfg.Sites), "site"), counted(len(cfg.Witnesses), "witness"), counted(len(cfg.FailoverGroups), "failover group"))
				return nil
			},
		},
		&cobra.Command{
			Use:   "schema",
			Short: "Print the JSON schema of the configuration file",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := cmd.OutOrStdout().Write(configs.Schema())
				return err
			},
		},
		&cobra.Command{
			Use:       "example NAME",
			Short:     "Print a configuration file to start from: " + strings.Join(configs.Examples(), ", "),
			Args:      cobra.ExactArgs(1),
			ValidArgs: configs.Examples(),
			RunE: func(cmd *cobra.Command, args []string) error {
				text, err := configs.Example(args[0])
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(text)
				return err
			},
		},
	)
	return cmd
}

// counted is "1 site", "2 sites", "3 witnesses".
func counted[N int | int32 | int64](n N, noun string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", noun)
	}
	if strings.HasSuffix(noun, "s") {
		return fmt.Sprintf("%d %ses", n, noun)
	}
	if stem, ok := strings.CutSuffix(noun, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
