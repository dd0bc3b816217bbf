package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/mirror/maptopic"
)

// mapReadMax bounds how long a site's map topic is read by a command.
const mapReadMax = 30 * time.Second

func newGapsCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "gaps", Short: "The gap log: what could not be mirrored, with exact ranges"}
	var site string
	list := &cobra.Command{
		Use:   "list",
		Short: "All gaps of all sites, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			gaps, unread, err := s.gaps(cmd.Context(), site)
			if err != nil {
				return err
			}
			if err := s.show(cmd.OutOrStdout(), gaps, func() []string { return gapRows(gaps) }); err != nil {
				return err
			}
			return unread
		},
	}
	list.Flags().StringVar(&site, "site", "", "only gaps at this site")
	cmd.AddCommand(s.addOutput(list))
	return cmd
}

// gaps reads the gap logs of all sites, or of one. Sites that cannot be read
// are told apart, since silence must not look like health (promise F).
func (s *settings) gaps(ctx context.Context, only string) (gaps []maptopic.Gap, unread, err error) {
	cfg, err := s.load()
	if err != nil {
		return nil, nil, err
	}
	if _, ok := cfg.Site(only); only != "" && !ok {
		return nil, nil, fmt.Errorf("there is no site %q in the configuration", only)
	}
	sites, err := app.OpenSites(cfg)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = app.CloseSites(sites) }() // only read
	ctx, cancel := context.WithTimeout(ctx, mapReadMax)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	gaps = []maptopic.Gap{}
	for id, c := range sites {
		if only != "" && id != spillway.SiteID(only) {
			continue
		}
		wg.Go(func() {
			found, err := app.Gaps(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unread = errors.Join(unread, fmt.Errorf("gap log of site %s cannot be read: %w", id, err))
			}
			gaps = append(gaps, found...)
		})
	}
	wg.Wait()
	slices.SortFunc(gaps, func(a, b maptopic.Gap) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.ID, b.ID)) })
	return gaps, unread, nil
}

func gapRows(gaps []maptopic.Gap) []string {
	rows := []string{row("AT", "SITE", "KIND", "TOPIC-PARTITION", "EPOCH", "VIRTUAL", "LOCAL", "DETAIL")}
	for _, g := range gaps {
		rows = append(rows, row(g.At.UTC().Format(time.RFC3339), g.Site, g.Kind, fmt.Sprintf("%s-%d", g.Topic, g.Partition), g.Epoch,
			fmt.Sprintf("[%d,%d)", g.From, g.To), fmt.Sprintf("[%d,%d)", g.LocalFrom, g.LocalTo), g.Detail))
	}
	return rows
}
