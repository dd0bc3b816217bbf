package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/direct"
	"spillway/federation/failover"
)

func newClientsCommand(s *settings) *cobra.Command {
	return s.addOutput(&cobra.Command{
		Use:   "clients NAME",
		Short: "Clients of a failover group that go past the gateways, as far as the brokers of its active site show them",
		Long: "List who reaches the brokers of the active site of a failover group past the gateways: members of consumer groups, and producers\n" +
			"whose ids no gateway gave, those with an open transaction by their transactional ids. It takes a moment, since who writes shows\n" +
			"between two readings. What brokers cannot show is said below the list. See docs/operate/adopt.md.",
		Example: "  spillway failover-group clients shop\n  spillway fg clients shop -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				closeSites := readSites(cfg, o)
				defer closeSites()
				found, err := o.DirectClients(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), found, func() []string { return clientRows(found) })
			})
		},
	})
}

func clientRows(f direct.Found) []string {
	rows := []string{f.String()}
	list := func(title string, clients []direct.Client, more int) {
		if len(clients) == 0 {
			return
		}
		rows = append(rows, "", row(title, "ID", "HOST", "GROUP", "TOPIC-PARTITIONS", "LAST SEEN"))
		for _, c := range clients {
			partitions := partitionList(c.Partitions, c.More)
			rows = append(rows, row(c.Kind, name(c), orDash(direct.Shown(c.Host)), orDash(direct.Shown(c.Group)), orDash(partitions), c.LastSeen.UTC().Format(time.RFC3339)))
		}
		if more > 0 {
			rows = append(rows, fmt.Sprintf("and %d more", more))
		}
	}
	list("PAST THE GATEWAYS", f.Clients, f.More)
	list("NOT FOR LONG", f.Gone, f.MoreGone)
	rows = append(rows, "")
	for _, u := range f.Unread {
		rows = append(rows, fmt.Sprintf("not looked at: %s: %s", u.About, u.Why))
	}
	if len(f.Unattributed) > 0 {
		rows = append(rows, fmt.Sprintf("written to without a producer id, by a gateway or past it: %s", partitionList(f.Unattributed, 0)))
	}
	for _, u := range f.Unseen {
		rows = append(rows, "not shown by brokers: "+u)
	}
	return rows
}

// name is what a person knows a client by.
func name(c direct.Client) string {
	if c.Instance != "" {
		return direct.Shown(c.Instance)
	}
	if c.Kind == direct.KindUnknown { // which no client chose
		return c.ID
	}
	return direct.Shown(c.ID)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// fewPartitions is how many partitions a row names; -o json has more.
const fewPartitions = 5

func partitionList(names []string, more int) string {
	n := min(len(names), fewPartitions)
	text := ""
	for i, name := range names[:n] {
		if i > 0 {
			text += ", "
		}
		text += name
	}
	if more += len(names) - n; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// acceptDirect is what a person says who leaves clients behind.
const acceptDirect = "direct-clients"

func newEndAdoptionCommand(s *settings) *cobra.Command {
	c := &change{settings: s}
	cmd := &cobra.Command{
		Use:   "end-adoption NAME",
		Short: "Let a failover group move again, when no client goes past the gateways any more",
		Long: "Control loops end the adoption of a failover group by themselves once adopting is not in their configuration any more and looks have found\n" +
			"no client past the gateways. This command looks once and ends it at once; with --accept direct-clients also where clients are left,\n" +
			"or brokers cannot be looked at. They will write where nobody reads once the group has moved. The audit log keeps who they are.",
		Example: "  spillway failover-group end-adoption shop --dry-run\n  spillway failover-group end-adoption shop --accept direct-clients --why 'job runs only once more'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if i := slices.IndexFunc(c.accept, func(a string) bool { return a != acceptDirect }); i >= 0 {
				return exitError{exitUsage, fmt.Sprintf("--accept: %q is not %s", c.accept[i], acceptDirect)}
			}
			if len(c.accept) > 0 && c.why == "" && !c.dryRun {
				return exitError{exitUsage, "--why: say why clients may be left behind; it is kept in the audit log"}
			}
			return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
				closeSites := readSites(cfg, o)
				defer closeSites()
				end, err := o.EndAdoption(cmd.Context(), args[0], who(), c.why, len(c.accept) > 0, c.dryRun)
				if err != nil {
					return err
				}
				if err := s.show(cmd.OutOrStdout(), end, func() []string { return endRows(end) }); err != nil {
					return err
				}
				if end.Refused != "" {
					return fmt.Errorf("%w: adoption of %s does not end: %s; move these clients to the gateways, or give --accept %s", failover.ErrRefused, args[0], end.Refused, acceptDirect)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringSliceVar(&c.accept, "accept", nil, "go on although clients may be left behind: "+acceptDirect)
	return c.flags(cmd)
}

func endRows(end control.AdoptionEnd) []string {
	rows := []string{"nobody looked for clients past the gateways"}
	if end.Found.Site != "" { // else there was no way to the site
		rows = clientRows(end.Found)
	}
	switch {
	case end.Ended:
		rows = append(rows, "", fmt.Sprintf("%s is adopted: it may move", end.Group))
	case end.Refused == "":
		rows = append(rows, "", fmt.Sprintf("%s would be adopted, and may move then (dry run, nothing was changed)", end.Group))
	}
	return rows
}
