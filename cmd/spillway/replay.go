package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/control"
	"spillway/federation/failover"
	"spillway/mirror"
	"spillway/mirror/replay"
)

// lateNote is what a person has to know before.
const lateNote = "They come late: they get new offsets at the ends of their partitions, behind what was written since, also of the same key."

func newReplayCommand(s *settings, addSite func(*cobra.Command) *cobra.Command, site *string) *cobra.Command {
	c := &change{settings: s}
	var g gatewayFlags
	cmd := &cobra.Command{
		Use:   "replay GROUP --site SITE --why REASON",
		Short: "Write the unreplicated records again where the group is served, but for what is there already",
		Long: "Write the unreplicated records of a site again, through the gateways, where the failover group is served now.\n" + lateNote + "\n" +
			"Keys, values, headers and times stay. What is there already is recognised by the numbers of its producer or by content, and not written;\n" +
			"on a compacted topic nor is what has a newer record of its key. Interrupted, it goes on when it is given again, and writes nothing twice.\n" +
			"Afterwards the ranges are listed as replayed.",
		Example: "  spillway unreplicated replay shop --site east --dry-run\n  spillway unreplicated replay shop --site east --why 'orders of the cut'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.why == "" && !c.dryRun {
				return exitError{exitUsage, "--why: say why these records are written again; it is kept in the audit log"}
			}
			return s.atSite(cmd.Context(), args[0], *site, func(m *mirror.Mirror, id spillway.ShareID) error {
				return s.operate(cmd.Context(), func(cfg *configs.Config, o *control.Operator) error {
					virtual, err := g.open(cmd.Context(), cfg, o)
					if err != nil {
						return err
					}
					defer func() { _ = virtual.Close() }() // every write was answered
					r := replayer{operator: o, mirror: m, virtual: virtual, topology: cfg.Topology(), share: id, site: spillway.SiteID(*site), dryRun: c.dryRun, who: who(), why: c.why, out: cmd.ErrOrStderr()}
					done, err := r.run(cmd.Context())
					if done.Ranges == nil {
						return err
					}
					return errors.Join(s.show(cmd.OutOrStdout(), done, done.rows), err)
				})
			})
		},
	}
	g.add(cmd)
	return addSite(c.plainFlags(cmd))
}

// noteWait is how long the last entry of the audit log may take.
const noteWait = 10 * time.Second

// claimPatience is how long it waits for the claim before it says so.
const claimPatience = time.Second

// replayer is one run of the command.
type replayer struct {
	operator *control.Operator
	mirror   *mirror.Mirror // of the site
	virtual  broker.Cluster // through gateways
	topology *spillway.Topology
	share    spillway.ShareID
	site     spillway.SiteID
	dryRun   bool
	who, why string
	out      io.Writer // for progress

	// For tests.
	adjust   func(*replay.Config)
	claimTTL time.Duration
}

// replayed is what the command tells.
type replayed struct {
	Group  string          `json:"group"`
	Site   spillway.SiteID `json:"site"`   // that had the records
	Served spillway.SiteID `json:"served"` // where they are written
	DryRun bool            `json:"dryRun"`
	Ranges []replay.Range  `json:"ranges"`
	Note   string          `json:"note"`
}

func (r replayer) run(ctx context.Context) (out replayed, err error) {
	out = replayed{Group: r.share.Group, Site: r.site, DryRun: r.dryRun, Note: lateNote}
	g, _ := r.topology.Group(r.share.Group)
	if g.Kind == spillway.Unordered {
		return out, fmt.Errorf("group %s is unordered: retries are not recognised there, so nothing can be written exactly once; export the records, and write back what is wanted", r.share.Group)
	}
	share, err := r.operator.Share(ctx, r.share.Group)
	if err != nil {
		return out, err
	}
	out.Served, _ = share.Serves()
	c := replay.Config{
		Cluster: r.topology.Name(), Source: r.mirror, Virtual: r.virtual, Terms: r.terms,
		DryRun: r.dryRun, Who: r.who, Why: r.why, Progress: r.progress(),
	}
	what := fmt.Sprintf("replay of unreplicated records of %s from site %s", r.share.Group, r.site)
	if !r.dryRun {
		waits := time.AfterFunc(claimPatience, func() {
			_, _ = fmt.Fprintln(r.out, "another replay or drill of the group is at work, or has died: waiting for its end") // nobody may be reading any more
		})
		var claim *control.Claim
		claim, err = r.operator.ClaimReplay(ctx, r.share, r.who, r.claimTTL)
		waits.Stop()
		if err != nil {
			return out, err
		}
		c.Holds = claim.Holds
		defer func() {
			if errors.Is(err, replay.ErrUnanswered) {
				claim.Abandon() // and it lasts until what is on its way has landed
				return
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWait)
			defer cancel()
			err = errors.Join(err, claim.Release(ctx))
		}()
	}
	if c.Ranges, err = r.mirror.Unreplicated(ctx, r.share); err != nil {
		return out, err
	}
	if !r.dryRun {
		if err := r.operator.Note(ctx, what+" began", r.who, r.why); err != nil {
			return out, err
		}
	}
	if r.adjust != nil {
		r.adjust(&c)
	}
	out.Ranges, err = replay.Run(ctx, c)
	if out.Ranges == nil {
		out.Ranges = []replay.Range{}
	}
	if err == nil {
		err = out.refused()
	}
	if !r.dryRun {
		// Also where a person interrupts it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteWait)
		defer cancel()
		err = errors.Join(err, r.operator.Note(ctx, fmt.Sprintf("%s: %s", what, out.result(err)), r.who, r.why))
	}
	return out, err
}

// terms are those of the share, once it is served.
func (r replayer) terms(ctx context.Context) (replay.Terms, error) {
	share, err := r.operator.Share(ctx, r.share.Group)
	if err != nil {
		return nil, err
	}
	if _, serves := share.Serves(); !serves {
		return nil, fmt.Errorf("group %s is moving (%s); give the command again when that is over", share.Group, share.State)
	}
	return termsOf(share), nil
}

func termsOf(share failover.Share) (terms replay.Terms) {
	for _, t := range share.Terms {
		terms = append(terms, replay.Term{Epoch: t.Epoch, Mask: t.Mask, Start: t.Start.Get, Verified: t.Verified.Get})
	}
	return terms
}

// progress says how far it is, every few seconds.
func (r replayer) progress() func(replay.Range) {
	last := time.Now()
	return func(u replay.Range) {
		if time.Since(last) >= progressEvery {
			last = time.Now()
			_, _ = fmt.Fprintf(r.out, "%s-%d [%d,%d): %d of %d records written\n", u.Topic, u.Partition, u.From, u.To, u.Written, u.Write) // nobody may be reading any more
		}
	}
}

// refused is the error of ranges that the topic does not take.
func (d replayed) refused() error {
	n := 0
	for _, u := range d.Ranges {
		if u.Refused != "" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%s of %d cannot be replayed; REFUSED says why", count(n, "range"), len(d.Ranges))
}

// result is a sentence for the audit log.
func (d replayed) result(err error) string {
	var written, there, superseded int64
	closed := 0
	for _, u := range d.Ranges {
		written, there, superseded = written+u.Written, there+u.There+u.Numbered, superseded+u.Superseded
		if u.Done {
			closed++
		}
	}
	said := fmt.Sprintf("%d written, %d were there, %d superseded, %s closed", written, there, superseded, count(closed, "range"))
	if err != nil {
		said += "; it ended with: " + err.Error()
	}
	return said
}

func (d replayed) rows() []string {
	rows := []string{row("TOPIC-PARTITION", "EPOCH", "VIRTUAL", "RECORDS", "THERE", "SUPERSEDED", "TO WRITE", "CANNOT TELL", "WRITTEN", "FROM", "TO", "OUTCOME")}
	notes := []string{}
	for _, u := range d.Ranges {
		name, first, last, outcome := fmt.Sprintf("%s-%d", u.Topic, u.Partition), "", "", u.Outcome()
		if !u.First.IsZero() {
			first, last = u.First.Format(time.RFC3339Nano), u.Last.Format(time.RFC3339Nano)
		}
		if u.Refused != "" {
			outcome = "refused"
			notes = append(notes, fmt.Sprintf("REFUSED %s [%d,%d): %s", name, u.From, u.To, u.Refused))
		}
		if u.InTransactions > 0 {
			notes = append(notes, fmt.Sprintf("OPEN %s [%d,%d): %s like those to be written in open transactions of the virtual cluster; if they are committed, they are there twice", name, u.From, u.To, count(int(u.InTransactions), "record")))
		}
		rows = append(rows, row(name, u.Epoch, fmt.Sprintf("[%d,%d)", u.From, u.To), u.Records, u.Numbered+u.There, u.Superseded, u.Write, u.CannotTell, u.Written, first, last, outcome))
	}
	rows = append(rows, notes...)
	return append(rows, "", d.Note)
}
