package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"spillway/app"
	"spillway/configs"
)

func newServeCommand(s *settings) *cobra.Command {
	var tether bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the roles that the configuration names: gateway, mirror, control, console, broker",
		Long: "Run the roles that the configuration names until SIGINT or SIGTERM.\n" +
			"Where the coordinator store or a site cannot be reached, the process starts, says so, and tries again; /readyz is red until then.",
		Example: "  spillway serve --config spillway.yaml\n  SPILLWAY_PROCESS_ID=east-1 SPILLWAY_PROCESS_SITE=east spillway serve --config spillway.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if err := cfg.ReadyToServe(s.file()); err != nil {
				return err
			}
			limitServing(cfg)
			a := app.New(cfg, app.Options{Version: versionText(), Log: newLog(cfg.Log)})
			if err := a.Start(cmd.Context()); err != nil {
				return err
			}
			ctx := cmd.Context()
			if tether {
				ctx = tethered(ctx, os.Stdin)
			}
			<-ctx.Done()
			return a.Stop()
		},
	}
	cmd.Flags().BoolVar(&tether, "tether", false, "end when standard input ends, as a child of the demo")
	_ = cmd.Flags().MarkHidden("tether") // the flag exists
	return cmd
}

// tethered ends when in ends: the process at its other end is gone, however it
// ended.
func tethered(ctx context.Context, in io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in) // only its end counts
		cancel()
	}()
	return ctx
}

func newLog(l configs.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // the configuration was checked
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}
