package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/broker"
	"spillway/broker/kafka"
	"spillway/mirror/rewrite"
	"spillway/mirror/selection"
)

// ends are the two clusters of a command that needs no control plane. Each is
// named by its bootstrap addresses, or as a site of the configuration, whose
// credentials then count.
type ends struct {
	settings *settings
	from, to string
	// byID names sites of the configuration by their cluster ids too, as those that are
	// named by addresses.
	byID bool
}

func (e *ends) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&e.from, "from", "", "source: host:port[,host:port...], or the name of a site in --config")
	cmd.Flags().StringVar(&e.to, "to", "", "target, in the same way")
	_ = cmd.MarkFlagRequired("from") // both flags exist
	_ = cmd.MarkFlagRequired("to")
	return e.settings.addOutput(cmd)
}

// open opens both clusters. close may be called also after an error.
func (e *ends) open(ctx context.Context) (from, to broker.Cluster, close func(), err error) {
	close = func() {
		for _, c := range []broker.Cluster{from, to} {
			if c != nil {
				_ = c.Close() // nothing is left to be written
			}
		}
	}
	if from, err = e.cluster(ctx, "source", e.from); err != nil {
		return nil, nil, close, fmt.Errorf("--from: %w", err)
	}
	if to, err = e.cluster(ctx, "target", e.to); err != nil {
		return nil, nil, close, fmt.Errorf("--to: %w", err)
	}
	return from, to, close, nil
}

// openFor is open, and the topics that are meant. What is wrong with these is said first.
func (e *ends) openFor(ctx context.Context, topics topicFlags) (selected selection.Topics, from, to broker.Cluster, close func(), err error) {
	if selected, err = topics.selection(); err != nil {
		return selected, nil, nil, func() {}, err
	}
	from, to, close, err = e.open(ctx)
	return selected, from, to, close, err
}

// topicFlags are the topics that a command means, and their names at the target.
type topicFlags struct {
	include, exclude string
	rename           []string
}

// add adds the flags. Where include is not set before, --topics has to be given.
func (f *topicFlags) add(cmd *cobra.Command) {
	required := f.include == ""
	cmd.Flags().StringVar(&f.include, "topics", f.include, "regular expression for whole topic names at the source")
	cmd.Flags().StringVar(&f.exclude, "exclude", "", "regular expression for whole names of topics that are left out all the same")
	f.addRename(cmd)
	if required {
		_ = cmd.MarkFlagRequired("topics") // it exists
	}
}

func (f *topicFlags) addRename(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.rename, "rename", nil, "PATTERN=NAME: another name at the target, as in '(.*)=east.$1'; the first pattern that matches counts (repeatable)")
}

func (f *topicFlags) selection() (selection.Topics, error) {
	t, err := selection.Parse(f.include, f.exclude, f.rename)
	if err != nil {
		return t, exitError{exitUsage, err.Error()}
	}
	return t, nil
}

func (e *ends) cluster(ctx context.Context, name, where string) (broker.Cluster, error) {
	if strings.Contains(where, ":") {
		return byAddress(ctx, kafka.Config{Site: spillway.SiteID(name), Bootstrap: strings.Split(where, ","), ClientID: "spillway"})
	}
	cfg, err := e.settings.load()
	if err != nil {
		return nil, fmt.Errorf("%q is no host:port, so it has to be a site: %w", where, err)
	}
	site, ok := cfg.Site(where)
	if !ok {
		return nil, fmt.Errorf("%q is neither host:port nor a site of the configuration", where)
	}
	if !e.byID || site.Embedded != nil {
		return app.OpenSite(site)
	}
	return identified(ctx, site.Name, func(name string) (broker.Cluster, error) {
		site.Name = name
		return app.OpenSite(site)
	})
}

// byAddress opens a cluster that only its addresses name.
func byAddress(ctx context.Context, c kafka.Config) (broker.Cluster, error) {
	return identified(ctx, string(c.Site), func(name string) (broker.Cluster, error) {
		c.Site = spillway.SiteID(name)
		if err := c.Validate(); err != nil {
			return nil, err
		}
		return kafka.New(c)
	})
}

// identified opens a cluster as the site of its cluster id: what a mirror writes down of
// a site must mean the same cluster in every run, whatever it was called.
func identified(ctx context.Context, name string, open func(name string) (broker.Cluster, error)) (broker.Cluster, error) {
	asked, err := open(name)
	if err != nil {
		return nil, err
	}
	md, err := asked.Metadata(ctx, spillway.MapTopic) // of one topic, as the cluster may have many
	if err := errors.Join(err, asked.Close()); err != nil {
		return nil, err
	}
	return open(cmp.Or(md.ClusterID, name))
}

// rewriteFlags say what becomes of the records of a flow.
type rewriteFlags struct {
	filters    []string
	provenance bool
}

func (f *rewriteFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.filters, "filter", nil, "[TOPICS/]key=REGEX or [TOPICS/]header:NAME=REGEX, != for what does not match: only such records, as in 'orders,cart*/key=EU-.*' (repeatable; all that mean a topic count; needs decoding)")
	cmd.Flags().BoolVar(&f.provenance, "provenance", false, "each record has headers that say its cluster, topic, partition and offset at the source (needs decoding)")
}

func (f *rewriteFlags) rules() (rewrite.Rules, error) {
	filters, err := rewrite.ParseFilters(f.filters)
	if err != nil {
		return rewrite.Rules{}, exitError{exitUsage, "--" + err.Error()}
	}
	return rewrite.Rules{Filters: filters, Provenance: f.provenance}, nil
}
