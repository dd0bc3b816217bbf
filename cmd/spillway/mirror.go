package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/http"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"spillway/mirror"
	"spillway/mirror/selection"
	"spillway/telemetry"
)

func newMirrorCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "mirror", Short: "Replication flows without a control plane"}
	e := &ends{settings: s, byID: true}
	var topics topicFlags
	var groups, start, until, deletes, metrics string
	var dryRun bool
	var caps []string
	var rewrite rewriteFlags
	var repack string
	c := mirror.RunConfig{}
	run := &cobra.Command{
		Use:     "run --from BOOTSTRAP --to BOOTSTRAP --topics REGEX",
		Short:   "Mirror topics from one cluster to another, byte for byte, with exact offsets",
		Example: "  spillway mirror run --from kafka-a:9092 --to kafka-b:9092 --topics 'orders|carts' --groups '.*' --until-caught-up",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if c.Topics, err = topics.selection(); err != nil {
				return err
			}
			if groups != "" {
				if c.Groups, err = wholeNames("groups", groups); err != nil {
					return err
				}
			}
			if c.FollowDeletions = deletes == "follow"; deletes != "keep" && deletes != "follow" {
				return exitError{exitUsage, fmt.Sprintf("--deletes %s: want keep or follow", deletes)}
			}
			if c.Start, err = mirror.ParseStart(start); err != nil {
				return exitError{exitUsage, "--" + err.Error()}
			}
			if until != "" {
				if c.Until, err = time.Parse(time.RFC3339, until); err != nil {
					return exitError{exitUsage, fmt.Sprintf("--until %q: want a time like 2026-11-01T08:00:00Z", until)}
				}
			}
			if c.Mirror.Caps, err = parseCaps(caps); err != nil {
				return err
			}
			if c.Mirror.Rewrite, err = rewrite.rules(); err != nil {
				return err
			}
			if c.Mirror.RepackBytes, err = parseRepack(repack); err != nil {
				return err
			}
			from, to, done, err := e.open(cmd.Context())
			defer done()
			if err != nil {
				return err
			}
			c.From, c.To = from, to
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if dryRun {
				would, err := mirror.PreviewRun(ctx, c)
				if err != nil {
					return err
				}
				return s.show(cmd.OutOrStdout(), would, func() []string { return previewRows(would) })
			}
			c.Events = newProgress(cmd.ErrOrStderr()).events()
			if metrics != "" {
				counted, at, end, err := serveMetrics(ctx, metrics, string(to.Site()))
				if err != nil {
					return err
				}
				defer end()
				cmd.PrintErrf("metrics are at http://%s/metrics\n", at)
				c.Events = c.Events.And(counted)
			}
			report, err := mirror.Run(ctx, c)
			if err != nil && (ctx.Err() == nil || !errors.Is(err, ctx.Err())) {
				return err
			}
			return s.show(cmd.OutOrStdout(), report, func() []string { return runRows(report) })
		},
	}
	topics.add(run)
	run.Flags().StringVar(&groups, "groups", "", "regular expression for whole names of consumer groups whose offsets are carried; empty: none")
	run.Flags().StringVar(&start, "start", "earliest", "where partitions begin that were never mirrored: earliest, latest, or a time like 2026-11-01T08:00:00Z")
	run.Flags().StringSliceVar(&c.Mirror.SettingsExcluded, "exclude-settings", nil, "settings of topics that are not carried, beside those that are each cluster's own: exact names, or a prefix followed by *")
	run.Flags().DurationVar(&c.Mirror.MetadataInterval, "metadata-interval", mirror.MetadataIntervalDefault, "how often topics are compared with the source; negative: never")
	run.Flags().StringArrayVar(&caps, "cap", nil, "[TOPICS=]BYTES: fetch no faster than this in a second, all topics together or those named, as in 50MiB or 'orders,cart*=10MiB' (repeatable; each that fits counts)")
	run.Flags().DurationVar(&c.Delay, "delay", 0, "keep the target behind by so much, as 1h: what is deleted or corrupted at the source comes later")
	run.Flags().StringVar(&until, "until", "", "end when the target has all records up to a time like 2026-11-01T08:00:00Z, and none behind the first younger one")
	run.Flags().BoolVar(&c.UntilCaughtUp, "until-caught-up", false, "end when the target has what the source had at the start")
	run.Flags().StringVar(&deletes, "deletes", "keep", "what becomes of topics at the target that are deleted at the source: keep or follow")
	run.Flags().BoolVar(&c.Mirror.ACLs, "acls", false, "carry entries of the access control list about the topics and groups that are meant")
	run.Flags().StringSliceVar(&c.Mirror.PrincipalsExcluded, "exclude-principals", nil, "principals (User:name) whose entries are each cluster's own")
	run.Flags().BoolVar(&c.Mirror.Quotas, "quotas", false, "carry the quotas of clients")
	rewrite.add(run)
	run.Flags().StringVar(&repack, "repack", "", "write small batches that were fetched together as one of up to so many bytes, compressed as they were (--repack alone: 1MiB); needs decoding")
	run.Flags().Lookup("repack").NoOptDefVal = "1MiB"
	run.Flags().StringVar(&metrics, "metrics", "", "HOST:PORT where /metrics, /livez and /readyz are served; empty: nowhere")
	run.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be changed at the target beside records, and change nothing")
	cmd.AddCommand(e.flags(run), newAdoptCommand(s), newHandBackCommand(s), newReleaseCommand(s))
	return cmd
}

func newReleaseCommand(s *settings) *cobra.Command {
	e := &ends{settings: s, byID: true}
	var topics topicFlags
	cmd := &cobra.Command{
		Use:     "release --to BOOTSTRAP --topics REGEX",
		Short:   "Let topics of a cluster forget which flow fed them, once it has ended for good",
		Example: "  spillway mirror release --to kafka-b:9092 --topics 'orders|carts'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			selected, err := topics.selection()
			if err != nil {
				return err
			}
			to, err := e.cluster(cmd.Context(), "target", e.to)
			if err != nil {
				return fmt.Errorf("--to: %w", err)
			}
			defer func() { _ = to.Close() }() // nothing is left to be written
			released, err := mirror.Release(cmd.Context(), to, selected)
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), released, func() []string {
				rows := []string{row("TOPIC", "WAS FED FROM", "TOPIC THERE")}
				for _, r := range released {
					rows = append(rows, row(r.Topic, r.Site, r.Origin.Topic))
				}
				return rows
			})
		},
	}
	cmd.Flags().StringVar(&e.to, "to", "", "the cluster: host:port[,host:port...], or the name of a site in --config")
	cmd.Flags().StringVar(&topics.include, "topics", "", "regular expression for whole topic names")
	for _, name := range []string{"to", "topics"} {
		_ = cmd.MarkFlagRequired(name) // they exist
	}
	return s.addOutput(cmd)
}

// serveMetrics counts what a mirror to a site does, and serves it until end.
func serveMetrics(ctx context.Context, address, of string) (e mirror.Events, at net.Addr, end func(), err error) {
	t := telemetry.New(versionText())
	t.Prepare(nil, of)
	mux := http.NewServeMux()
	t.Register(mux)
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return e, nil, nil, fmt.Errorf("--metrics: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // it ends when it is closed
	}()
	return t.MirrorEvents(), l.Addr(), func() {
		_ = srv.Close() // nothing is left to be said
		<-done
	}, nil
}

// parseCaps reads [TOPICS=]BYTES.
func parseCaps(all []string) (caps []mirror.Cap, err error) {
	for _, s := range all {
		var c mirror.Cap
		rate := s
		if topics, after, ok := strings.Cut(s, "="); ok {
			c.Topics, rate = strings.Split(topics, ","), after
		}
		bytes, err := humanize.ParseBytes(rate)
		if err != nil || bytes == 0 || bytes > math.MaxInt64 || slices.Contains(c.Topics, "") {
			return nil, exitError{exitUsage, fmt.Sprintf("--cap: %q: want [TOPICS=]BYTES, as in 50MiB or 'orders,cart*=10MiB'", s)}
		}
		c.BytesPerSecond = int64(bytes)
		caps = append(caps, c)
	}
	return caps, nil
}

// parseRepack reads how large batches become; "": they stay.
func parseRepack(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	bytes, err := humanize.ParseBytes(s)
	if err != nil || bytes == 0 || bytes > mirror.RepackBytesMax {
		return 0, exitError{exitUsage, fmt.Sprintf("--repack: %q: want bytes, as in 1MiB, and at most %s", s, humanize.IBytes(mirror.RepackBytesMax))}
	}
	return int(bytes), nil
}

func wholeNames(flag, expression string) (*regexp.Regexp, error) {
	r, err := selection.Pattern(expression)
	if err != nil {
		return nil, exitError{exitUsage, fmt.Sprintf("--%s: %q is not a regular expression: %v", flag, expression, err)}
	}
	return r, nil
}

// previewRows has a line for each change.
func previewRows(v mirror.Preview) []string {
	rows := []string{row("CHANGE", "OF", "WHAT")}
	for _, t := range v.Topics {
		var settings []string
		for _, key := range slices.Sorted(maps.Keys(t.Settings)) {
			settings = append(settings, key+"="+t.Settings[key])
		}
		rows = append(rows, row("create topic", t.Topic, fmt.Sprintf("%d partitions, %s", t.Partitions, strings.Join(settings, " "))))
	}
	for _, p := range v.Partitions {
		rows = append(rows, row("add partitions", p.Topic, fmt.Sprintf("%d, are %d", p.To, p.From)))
	}
	for _, s := range v.Settings {
		rows = append(rows, row("set", s.Topic, s.String()))
	}
	for _, k := range v.Kept {
		rows = append(rows, row("keep", k.Topic, k.String()))
	}
	for _, d := range v.Deletions {
		what := "keep"
		if d.Deleted {
			what = "delete topic"
		}
		rows = append(rows, row(what, d.Topic, "deleted at the source: "+d.Why))
	}
	for _, e := range v.CreateACLs {
		rows = append(rows, row("create ACL", e.Name, e))
	}
	for _, e := range v.DeleteACLs {
		rows = append(rows, row("delete ACL", e.Name, e))
	}
	for _, e := range v.RefusedACLs {
		rows = append(rows, row("leave out ACL", e.Name, fmt.Sprintf("%s: it would stop the mirror itself", e)))
	}
	for _, q := range v.Quotas {
		rows = append(rows, row("set quota", q.Topic, q.String()))
	}
	for _, topic := range v.Circular {
		rows = append(rows, row("leave out", topic, "its records come from the target"))
	}
	if len(rows) == 1 {
		rows = []string{"nothing is to be changed"}
	}
	return append(rows, userRows(v.MissingUsers, v.UsersUnknown)...)
}

// userRows are the users that a person has to bring to the target.
func userRows(missing []mirror.MissingUser, unknown string) (rows []string) {
	if unknown != "" {
		rows = append(rows, row("SCRAM users", "not compared: "+unknown))
	}
	for _, u := range missing {
		rows = append(rows, row("user is missing", u.User, strings.Join(u.Mechanisms, " ")))
	}
	return rows
}

func runRows(r mirror.RunReport) []string {
	rows := []string{
		row("partitions", r.Partitions), row("records", r.Records), row("batches", r.Batches), row("rebuilt", r.Rebuilt), row("left out by filters", r.LeftOut),
		row("groups carried", r.Groups), row("metadata changed", r.Changes), row("gaps", len(r.Gaps)),
	}
	for _, w := range r.Workers {
		if name := w.Worker; len(r.Workers) > 1 {
			if w.This {
				name += " (this one)"
			}
			rows = append(rows, row("worker", name, fmt.Sprintf("%d partitions", w.Partitions)))
		}
	}
	if len(r.Circular) > 0 {
		rows = append(rows, row("left out, they come from the target", strings.Join(r.Circular, ", ")))
	}
	rows = append(rows, userRows(r.MissingUsers, r.UsersUnknown)...)
	for _, g := range r.Gaps {
		rows = append(rows, row("  "+g.Kind, fmt.Sprintf("%s-%d [%d,%d) %s", g.Topic, g.Partition, g.From, g.To, g.Detail)))
	}
	return rows
}
