package demo

import (
	"context"
	"fmt"
	"os"
	"time"

	"spillway"
	"spillway/app"
	"spillway/broker"
	"spillway/configs"
	"spillway/federation/failover"
	"spillway/tests/orders"
	"spillway/tests/orders/check"
	"spillway/tests/orders/history"
	"spillway/tests/orders/sitelog"
)

const auditMax = 60 * time.Second

func siteID(name string) spillway.SiteID { return spillway.SiteID(name) }

// reach waits until a site answers.
func reach(ctx context.Context, c broker.Cluster) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		err := app.Probe(ctx, c)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("site %s does not come up: %w", c.Site(), err)
		case <-tick.C:
		}
	}
}

// audit reads the logs of the sites that live with the checker's own client and
// judges the history by them.
func (s *story) audit(ctx context.Context) (*check.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, auditMax)
	defer cancel()
	share, err := s.share(ctx)
	if err != nil {
		return nil, err
	}
	expect := check.Expect{
		Home: string(share.Active), Losses: losses(share), Hidden: map[string][]check.Range{}, GroupsRepeat: true,
		Rules: []check.Rule{orders.FirstFive},
	}
	var sites []*check.Site
	for _, site := range s.world.sites {
		if s.dead[site.name] {
			continue
		}
		read, err := sitelog.Read(ctx, sitelog.Site{Name: site.name, Bootstrap: []string{site.brokers}}, orders.Topics...)
		if err != nil {
			return nil, err
		}
		sites = append(sites, read)
		c, _ := s.world.cfg.Site(site.name)
		if expect.Hidden[site.name], err = hidden(ctx, c); err != nil {
			return nil, err
		}
	}
	file, err := os.Open(s.history)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read only
	return check.Run(history.Read(file), sites, expect)
}

func (s *story) share(ctx context.Context) (failover.Share, error) {
	keys := failover.Keys(s.world.cfg.VirtualCluster.Name)
	e, err := s.world.store.Get(ctx, keys.Share(spillway.ShareID{Group: group}))
	if err != nil {
		return failover.Share{}, err
	}
	return failover.Decode(e.Value)
}

// losses are the ranges that failovers announced: from the longest prefix that
// any survivor had to the start of the new epoch.
func losses(share failover.Share) []check.Range {
	var out []check.Range
	for _, t := range share.Terms {
		if !t.Lossy {
			continue
		}
		for topic, starts := range t.Start {
			for p, to := range starts {
				from := t.Verified.Get(spillway.TopicPartition{Topic: topic, Partition: int32(p)})
				if from >= 0 && from < to {
					out = append(out, check.Range{Topic: topic, Partition: int32(p), From: int64(from), To: int64(to)})
				}
			}
		}
	}
	return out
}

// hidden are the ranges that the site's gap log says nobody is shown.
func hidden(ctx context.Context, c configs.Site) ([]check.Range, error) {
	cluster, err := app.OpenSite(c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cluster.Close() }() // only read
	gaps, err := app.Gaps(ctx, cluster)
	if err != nil {
		return nil, err
	}
	var out []check.Range
	for _, g := range gaps {
		if g.LocalFrom < g.LocalTo {
			out = append(out, check.Range{Topic: g.Topic, Partition: g.Partition, From: int64(g.LocalFrom), To: int64(g.LocalTo)})
		}
	}
	return out, nil
}
