package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/console/status"
	"spillway/federation/failover"
	"spillway/federation/history"
)

// statusMetrics come from the newest status at the time of the scrape.
var statusMetrics = []Metric{
	statusAge, coordinatorUp, automation, siteUp, siteGateways, siteMirrors,
	shareEpoch, shareState, shareActive, shareSafe, shareDegraded, shareUnreplicated, shareLossMax,
	drillPassed, drillOverdue, drillRecovery, drillLost,
	flowLag, flowUp, flowSilent,
}

var fromStatus = func() map[string]bool {
	names := map[string]bool{}
	for _, m := range statusMetrics {
		names[m.Name] = true
	}
	return names
}()

var states = []failover.State{
	failover.Stable, failover.Draining, failover.Fencing, failover.Fenced, failover.Cutover, failover.CaughtUp, failover.Open,
}

// WatchStatus lets the gauges about shares, sites and flows follow latest,
// which is asked at every scrape. False: nothing was observed yet.
func (t *Telemetry) WatchStatus(latest func() (status.Status, bool)) {
	t.registry.MustRegister(statusCollector{latest})
}

type statusCollector struct {
	latest func() (status.Status, bool)
}

func (c statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range statusMetrics {
		ch <- m.desc()
	}
}

func (c statusCollector) Collect(ch chan<- prometheus.Metric) {
	s, ok := c.latest()
	if !ok {
		return
	}
	set := func(m Metric, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc(), prometheus.GaugeValue, value, labels...)
	}
	set(statusAge, time.Since(s.At).Seconds())
	set(coordinatorUp, number(s.Coordinator.Up))
	set(automation, number(s.Automation.Paused))
	for _, site := range s.Sites {
		if site.Witness {
			continue
		}
		if site.State != "unknown" {
			set(siteUp, number(site.State != string(failover.Down)), site.Name)
		}
		set(siteGateways, float64(len(site.Gateways)), site.Name)
		set(siteMirrors, float64(len(site.Mirrors)), site.Name)
	}
	for _, g := range s.Groups {
		collectGroup(set, g)
	}
	for _, f := range s.Flows {
		if f.Behind >= 0 {
			set(flowLag, float64(f.Behind), f.Group, f.Source, f.Target)
		}
		set(flowUp, number(f.Level != status.Bad), f.Group, f.Source, f.Target)
		if f.Silent >= 0 {
			set(flowSilent, f.Silent, f.Group, f.Source, f.Target)
		}
	}
}

func collectDrill(set func(m Metric, value float64, labels ...string), g status.Group) {
	set(drillOverdue, number(g.Drill.Overdue), g.Name)
	if g.Drill.Outcome != "" {
		set(drillPassed, number(g.Drill.Outcome == string(history.DrillPassed)), g.Name)
	}
	if !g.Drill.PassedAt.IsZero() {
		set(drillRecovery, g.Drill.Recovery, g.Name)
		set(drillLost, float64(g.Drill.Lost), g.Name)
	}
}

func collectGroup(set func(m Metric, value float64, labels ...string), g status.Group) {
	set(shareLossMax, float64(g.LossMax), g.Name)
	if g.Drill != nil {
		collectDrill(set, g)
	}
	if g.Epoch == 0 {
		return // no record could be read
	}
	set(shareEpoch, float64(g.Epoch), g.Name)
	for _, state := range states {
		set(shareState, number(g.State == string(state)), g.Name, string(state))
	}
	for _, site := range g.Sites {
		set(shareActive, number(site.Active), g.Name, site.Site)
	}
	set(shareDegraded, number(g.Degraded), g.Name)
	if g.Unreplicated >= 0 {
		set(shareUnreplicated, float64(g.Unreplicated), g.Name)
	}
	set(shareSafe, number(g.Safe), g.Name)
}
