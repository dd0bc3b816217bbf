package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"spillway"
	"spillway/app"
	"spillway/broker"
	"spillway/broker/kafka"
)

// ends are the two clusters of a command that needs no control plane. Each is
// named by its bootstrap addresses, or as a site of the configuration, whose
// credentials then count.
type ends struct {
	settings *settings
	from, to string
}

func (e *ends) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&e.from, "from", "", "source: host:port[,host:port...], or the name of a site in --config")
	cmd.Flags().StringVar(&e.to, "to", "", "target, in the same way")
	_ = cmd.MarkFlagRequired("from") // both flags exist
	_ = cmd.MarkFlagRequired("to")
	return e.settings.addOutput(cmd)
}

// open opens both clusters. close may be called also after an error.
func (e *ends) open() (from, to broker.Cluster, close func(), err error) {
	close = func() {
		for _, c := range []broker.Cluster{from, to} {
			if c != nil {
				_ = c.Close() // nothing is left to be written
			}
		}
	}
	if from, err = e.cluster("source", e.from); err != nil {
		return nil, nil, close, fmt.Errorf("--from: %w", err)
	}
	if to, err = e.cluster("target", e.to); err != nil {
		return nil, nil, close, fmt.Errorf("--to: %w", err)
	}
	return from, to, close, nil
}

func (e *ends) cluster(name, where string) (broker.Cluster, error) {
	if strings.Contains(where, ":") {
		c := kafka.Config{Site: spillway.SiteID(name), Bootstrap: strings.Split(where, ","), ClientID: "spillway"}
		if err := c.Validate(); err != nil {
			return nil, err
		}
		return kafka.New(c)
	}
	cfg, err := e.settings.load()
	if err != nil {
		return nil, fmt.Errorf("%q is no host:port, so it has to be a site: %w", where, err)
	}
	site, ok := cfg.Site(where)
	if !ok {
		return nil, fmt.Errorf("%q is neither host:port nor a site of the configuration", where)
	}
	return app.OpenSite(site)
}
