package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/configs"
	"spillway/federation/policies"
)

func newConfigCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check a configuration file, print its schema, an example, or what it needs in Consul"}
	cmd.AddCommand(
		newConsulPolicyCommand(s),
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

func newConsulPolicyCommand(s *settings) *cobra.Command {
	var roles []string
	for _, r := range policies.Roles() {
		roles = append(roles, string(r))
	}
	return &cobra.Command{
		Use:   "consul-policy ROLE",
		Short: "Print the ACL policy that a role needs in Consul: " + strings.Join(roles, ", "),
		Long: "Print the ACL policy that a role needs in Consul, and no more: " + strings.Join(roles, ", ") + ".\n" +
			"Those of processes are for the one that the configuration names (process.id and process.site, often given by the\n" +
			"environment). A token for several roles has several policies. reader and operator are for people.",
		Example:   "  SPILLWAY_PROCESS_ID=east-1 SPILLWAY_PROCESS_SITE=east spillway config consul-policy gateway --config spillway.yaml",
		Args:      cobra.ExactArgs(1),
		ValidArgs: roles,
		RunE: func(cmd *cobra.Command, args []string) error {
			role := policies.Role(args[0])
			if !slices.Contains(roles, args[0]) {
				return exitError{exitUsage, fmt.Sprintf("there is no role %q; roles are %s", role, strings.Join(roles, ", "))}
			}
			cfg, err := s.load()
			if err != nil {
				return err
			}
			h := policies.Holder{VirtualCluster: cfg.VirtualCluster.Name, Site: spillway.SiteID(cfg.Process.Site), Process: cfg.Process.ID, Drills: cfg.Topology().HasDrills()}
			if role.OfProcess() && (h.Site == "" || h.Process == "") {
				return exitError{exitUsage, fmt.Sprintf("the policy of role %s is one process's: set process.id and process.site in %s, or %s and %s",
					role, s.file(), configs.EnvName("process.id"), configs.EnvName("process.site"))}
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), policies.Policy(role, h))
			return err
		},
	}
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
