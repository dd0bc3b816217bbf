package dashboards

import (
	"fmt"
	"strconv"
	"strings"
)

// row is a titled group of panels, of which each line is filled from the left.
type row struct {
	title  string
	panels []picture
}

// picture is what an author says of a panel.
type picture struct {
	kind       string // stat, timeseries or state-timeline
	title      string
	help       string // what it shows, and what high or red means
	unit       string // a unit of Grafana
	queries    []query
	thresholds []step
	words      map[string]word // texts of values
	stack      bool
	width      int // of 24; 0 means a third of the line, a tile a sixth
}

type query struct{ expr, legend string }

const (
	stat       = "stat"
	timeseries = "timeseries"
	timeline   = "state-timeline"

	green, yellow, red, blue = "green", "yellow", "red", "blue"
)

// badFrom is green below and red from a value on; warnFrom has yellow between.
func badFrom(bad float64) []step { return []step{{green, nil}, {red, &bad}} }

func warnFrom(warn, bad float64) []step { return []step{{green, nil}, {yellow, &warn}, {red, &bad}} }

// plain has nothing that is bad by itself.
func plain() []step { return []step{{blue, nil}} }

// wrongIf are the words for 0 and 1 where 1 is good.
func goodBad(good, bad string) map[string]word {
	return map[string]word{"1": {good, green, 0}, "0": {bad, red, 1}}
}

// assemble lays the rows out and adds what all dashboards have in common.
func assemble(d Dashboard, rows []row) Dashboard {
	d.Tags, d.GraphTooltip, d.SchemaVersion, d.Timezone, d.Refresh = []string{"spillway"}, 1, 39, "utc", "10s"
	d.Time = timeRange{"now-1h", "now"}
	d.Templating.List = variables()
	d.Links = []link{{Title: "Spillway", Type: "dashboards", Tags: []string{"spillway"}, IncludeVars: true, KeepTime: true}}
	id, y := 0, 0
	place := func(p Panel) { id++; p.ID = id; d.Panels = append(d.Panels, p) }
	for _, r := range rows {
		place(Panel{Type: "row", Title: r.title, GridPos: gridPos{H: 1, W: 24, Y: y}})
		y++
		x, tall := 0, 0
		for _, p := range r.panels {
			w, h := p.size()
			if x+w > 24 {
				x, y, tall = 0, y+tall, 0
			}
			panel := p.panel()
			panel.GridPos = gridPos{H: h, W: w, X: x, Y: y}
			place(panel)
			x, tall = x+w, max(tall, h)
		}
		y += tall
	}
	return d
}

// variables are the same on all pages, so that links can carry them.
func variables() []Variable {
	choice := func(name, label, metric string) Variable {
		definition := fmt.Sprintf("label_values(%s, %s)", metric, name)
		return Variable{
			Name: name, Label: label, Type: "query", Datasource: source, Definition: definition,
			Query:   map[string]string{"query": definition, "refId": "StandardVariableQuery"},
			Refresh: 2, Multi: true, IncludeAll: true, AllValue: ".+", Sort: 1,
			Current: map[string]any{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
		}
	}
	return []Variable{
		{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus", Refresh: 1},
		choice("job", "Virtual cluster (job)", "spillway_build_info"),
		choice("failover_group", "Failover group", "spillway_share_epoch"),
	}
}

func (p picture) size() (w, h int) {
	switch {
	case p.width > 0:
		w = p.width
	case p.kind == stat:
		w = 4
	default:
		w = 8
	}
	if p.kind == stat {
		return w, 4
	}
	return w, 8
}

func (p picture) panel() Panel {
	zero := 0.0
	out := Panel{Type: p.kind, Title: p.title, Description: p.help, Datasource: source, FieldConfig: &field{Overrides: []any{}}}
	f := &out.FieldConfig.Defaults
	f.Unit, f.Thresholds, f.Color = p.unit, thresholds{"absolute", p.thresholds}, color{"thresholds"}
	if len(p.words) > 0 {
		f.Mappings = []mapping{{"value", p.words}}
	}
	for i, q := range p.queries {
		out.Targets = append(out.Targets, Target{
			RefID: string(rune('A' + i)), Datasource: source, Expr: q.expr, LegendFormat: q.legend,
			Instant: p.kind == stat, Range: p.kind != stat,
		})
	}
	switch p.kind {
	case stat:
		out.Options = map[string]any{
			"colorMode": "background", "graphMode": "none", "textMode": "value",
			"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
	case timeline:
		out.Options = map[string]any{"showValue": "auto", "mergeValues": true, "rowHeight": 0.8, "legend": map[string]any{"showLegend": false}}
	case timeseries:
		f.Min, f.Color = &zero, color{"palette-classic"}
		custom := map[string]any{"lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false}
		if len(p.thresholds) > 1 {
			custom["thresholdsStyle"] = map[string]any{"mode": "line"}
		}
		if p.stack {
			custom["stacking"] = map[string]any{"mode": "normal", "group": "A"}
			custom["fillOpacity"] = 40
		}
		f.Custom = custom
		out.Options = map[string]any{
			"legend":  map[string]any{"displayMode": "table", "placement": "bottom", "calcs": []string{"lastNotNull", "max"}},
			"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
		}
	}
	return out
}

// The pieces that queries are made of.

// of selects a metric of the chosen virtual clusters; more are matchers.
func of(metric string, more ...string) string {
	return metric + "{" + strings.Join(append([]string{`job=~"$job"`}, more...), ", ") + "}"
}

// shared is of, for the chosen failover groups.
func shared(metric string, more ...string) string {
	return of(metric, append([]string{`failover_group=~"$failover_group"`}, more...)...)
}

// fresh leaves out processes that cannot read the coordinator store: what they
// say of groups is what they saw last.
func fresh(selector string) string {
	return selector + ` and on (job, instance) spillway_coordinator_up{job=~"$job"} == 1`
}

func per(aggregate, by, expr string) string {
	return fmt.Sprintf("%s by (%s) (%s)", aggregate, by, expr)
}

// number counts series, and none is 0.
func number(expr string) string { return "count(" + expr + ") or vector(0)" }

func rate(selector string) string { return "rate(" + selector + "[$__rate_interval])" }

func rise(selector string) string { return "increase(" + selector + "[$__rate_interval])" }

func quantile(q float64, by, selector string) string {
	return fmt.Sprintf("histogram_quantile(%s, sum by (%s, le) (%s))", strconv.FormatFloat(q, 'g', -1, 64), by, rate(selector))
}
