package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"spillway/configs"
)

// version is set by the linker at a release.
var version = ""

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return "development " + s.Value
			}
		}
	}
	return "development"
}

// settings are the flags that all commands share.
type settings struct {
	config string
	output string
}

func newRoot() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:   "spillway",
		Short: "Several Kafka clusters behave as one",
		Long: "Spillway makes several Apache Kafka clusters behave as one service that survives the loss of a data centre.\n" +
			"Clients keep one bootstrap address and one offset space.",
		Version:       versionText(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exitError{exitUsage, fmt.Sprintf("%v; see %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVarP(&s.config, "config", "c", os.Getenv("SPILLWAY_CONFIG"), "configuration file (also SPILLWAY_CONFIG)")
	root.AddCommand(
		newDemoCommand(s), newServeCommand(s), newConfigCommand(s), newStatusCommand(s),
		newGroupCommand(s), newSwitchoverCommand(s), newFailoverCommand(s), newAbortCommand(s), newSiteCommand(s), newAutomationCommand(s), newDrillCommand(s),
		newFlowCommand(s), newGapsCommand(s), newUnreplicatedCommand(s),
		newMirrorCommand(s), newAuditCommand(s), newOffsetsCommand(s), newUserCommand(),
	)
	return root
}

// load reads the configuration file that the flags name.
func (s *settings) load() (*configs.Config, error) {
	if s.config == "" {
		return nil, exitError{exitUsage, "no configuration file: give --config FILE or set SPILLWAY_CONFIG"}
	}
	return configs.Load(s.config)
}

// file is how messages name the configuration file.
func (s *settings) file() string { return filepath.Base(s.config) }
