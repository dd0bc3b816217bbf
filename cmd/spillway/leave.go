package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
)

// acceptHidden is what a person says whose clients will meet records that gateways hide.
const acceptHidden = "hidden-records"

// acceptNotAdopting is what a person says where the failover group may move meanwhile.
const acceptNotAdopting = "not-adopting"

func newLeaveCommand(s *settings) *cobra.Command {
	c := &change{settings: s}
	var r control.LeaveRequest
	var site, others string
	cmd := &cobra.Command{
		Use:   "leave NAME --site SITE",
		Short: "Give consumer groups the offsets of their active site, for clients of its brokers",
		Long: "What the consumer groups of a failover group have committed at its active site becomes the site's own: the local offset of exactly the next\n" +
			"record, and nothing of Spillway in the metadata. Their clients go on at the brokers there. Groups must have no members. It may be\n" +
			"repeated, and what has left goes on through gateways too, should it come back. See docs/operate/adopt.md.",
		Example: "  spillway failover-group leave shop --site east --dry-run\n  spillway failover-group leave shop --site east --consumer-group desk --why 'back to plain Kafka'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if i := slices.IndexFunc(c.accept, func(a string) bool { return a != acceptHidden && a != acceptNotAdopting }); i >= 0 {
				return exitError{exitUsage, fmt.Sprintf("--accept: %q is neither %s nor %s", c.accept[i], acceptHidden, acceptNotAdopting)}
			}
			if others != "keep" && others != "remove" {
				return exitError{exitUsage, fmt.Sprintf("--others: %q is neither keep nor remove", others)}
			}
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				at, ok := cfg.Site(site)
				if !ok {
					return exitError{exitUsage, fmt.Sprintf("--site: there is no site %q in the configuration", site)}
				}
				closeSites := readSites(cfg, o)
				defer closeSites()
				r.Site, r.RemoveOthers, r.AcceptHidden = spillway.SiteID(site), others == "remove", slices.Contains(c.accept, acceptHidden)
				r.AcceptNotAdopting = slices.Contains(c.accept, acceptNotAdopting)
				r.Who, r.Why, r.DryRun = who(), c.why, c.dryRun
				l, err := o.Leave(cmd.Context(), args[0], r)
				if err != nil {
					if slices.ContainsFunc(l.Groups, func(g control.LeavingGroup) bool { return g.Left }) {
						l.Bootstrap = at.Bootstrap
						return errors.Join(err, s.show(cmd.OutOrStdout(), l, func() []string { return leavingRows(l) }))
					}
					return err
				}
				l.Bootstrap = at.Bootstrap
				if err := s.show(cmd.OutOrStdout(), l, func() []string { return leavingRows(l) }); err != nil {
					return err
				}
				if len(l.Refused) > 0 {
					return fmt.Errorf("%w: %s", failover.ErrRefused, strings.Join(l.Refused, "; "))
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&site, "site", "", "the site that serves the group, and goes on without Spillway")
	_ = cmd.MarkFlagRequired("site") // it exists
	cmd.Flags().StringSliceVar(&r.ConsumerGroups, "consumer-group", nil, "only this consumer group (repeatable)")
	cmd.Flags().StringVar(&others, "others", "keep", "what becomes of the consumer groups at the other sites: keep, or remove where no mirror carries them any more")
	cmd.Flags().StringSliceVar(&c.accept, "accept", nil, "go on although clients will read records that gateways hide: "+acceptHidden+", or the failover group may move meanwhile: "+acceptNotAdopting)
	return c.flags(cmd)
}

// positionRowsMax is how many positions a person is shown; -o json has them all.
const positionRowsMax = 50

func leavingRows(l control.Leaving) []string {
	rows := []string{row("CONSUMER GROUP", "STATE", "POSITIONS TO CHANGE", "OWN ALREADY", "OF OTHER FAILOVER GROUPS", "LEFT")}
	for _, g := range l.Groups {
		rows = append(rows, row(g.Group, g.State, len(g.Positions), g.Own, g.Others, g.Left))
	}
	shown := 0
	for _, g := range l.Groups {
		for _, p := range g.Positions {
			if shown++; shown == 1 {
				rows = append(rows, "", row("CONSUMER GROUP", "TOPIC-PARTITION", "VIRTUAL", "STORED", "LOCAL", "REMARKS"))
			}
			if shown > positionRowsMax {
				continue
			}
			var remarks []string
			if p.Hidden > 0 {
				remarks = append(remarks, fmt.Sprintf("%d hidden offsets follow", p.Hidden))
			}
			if p.Expired {
				remarks = append(remarks, "expired")
			}
			rows = append(rows, row(g.Group, fmt.Sprintf("%s-%d", p.Topic, p.Partition), p.Virtual, p.Stored, p.Local, strings.Join(remarks, ", ")))
		}
	}
	if more := shown - positionRowsMax; more > 0 {
		rows = append(rows, fmt.Sprintf("and %d positions more, see -o json", more))
	}
	for _, r := range l.Removed {
		verb := "removed"
		if l.DryRun {
			verb = "would be removed"
		}
		rows = append(rows, fmt.Sprintf("%s at %s: %s", verb, r.Site, r.Group))
	}
	rows = append(rows, "")
	switch {
	case len(l.Refused) > 0:
	case l.DryRun:
		rows = append(rows, "dry run, nothing was changed")
	case slices.ContainsFunc(l.Groups, func(g control.LeavingGroup) bool { return !g.Left }):
		rows = append(rows, fmt.Sprintf("not all have left; clients of those that have go on at the brokers of %s: %s", l.Site, strings.Join(l.Bootstrap, ",")))
	default:
		rows = append(rows, fmt.Sprintf("clients of these groups go on at the brokers of %s: %s", l.Site, strings.Join(l.Bootstrap, ",")))
	}
	return rows
}
