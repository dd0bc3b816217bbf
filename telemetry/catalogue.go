// Package telemetry turns events into metrics, traces and health. It listens;
// nobody on the data path imports it. All names of metrics stand in the
// catalogue, from which docs/metrics.md is made and against which dashboards
// and rules are checked.
package telemetry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of metrics.
const (
	Counter   = "counter"
	Gauge     = "gauge"
	Histogram = "histogram"
)

// Metric is one entry of the catalogue.
type Metric struct {
	Name    string
	Kind    string
	Unit    string
	Labels  []string
	Help    string // what it says, and what high means
	buckets []float64
}

func (m Metric) desc() *prometheus.Desc {
	return prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)
}

// catalogue grows by the definitions in metrics.go.
var catalogue []Metric

func define(m Metric) Metric {
	catalogue = append(catalogue, m)
	return m
}

func counter(name, unit, help string, labels ...string) Metric {
	return define(Metric{Name: name, Kind: Counter, Unit: unit, Help: help, Labels: labels})
}

func gauge(name, unit, help string, labels ...string) Metric {
	return define(Metric{Name: name, Kind: Gauge, Unit: unit, Help: help, Labels: labels})
}

func histogram(name, help string, buckets []float64, labels ...string) Metric {
	return define(Metric{Name: name, Kind: Histogram, Unit: "seconds", Help: help, Labels: labels, buckets: buckets})
}

// Catalogue lists all metrics by name.
func Catalogue() []Metric {
	out := slices.Clone(catalogue)
	slices.SortFunc(out, func(a, b Metric) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Reference is docs/metrics.md.
func Reference() []byte {
	var b strings.Builder
	b.WriteString("# Metrics\n\nMade from the catalogue of package `telemetry`; `go test ./telemetry -update` writes it anew.\n\n")
	b.WriteString("Every process serves them at `/metrics`. States are one series per state with 0 or 1. `failover_group` is a failover group,\n")
	b.WriteString("`site` a site, `source` and `target` are sites of a replication flow. What is unknown has no series and is never shown as zero.\n")
	b.WriteString("Moves are also told as [traces](traces.md).\n\n")
	b.WriteString("| metric | kind | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n")
	for _, m := range Catalogue() {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", m.Name, m.Kind, m.Unit, labels, m.Help)
	}
	return []byte(b.String())
}
