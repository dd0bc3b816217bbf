package dashboards

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"spillway/telemetry"
)

var update = flag.Bool("update", false, "write the JSON files anew")

func TestFilesAreCurrent(t *testing.T) {
	for _, d := range []Dashboard{groups(), flows()} {
		want, err := d.Render()
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(d.File, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(d.File)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the panels say (%v); run go test ./dashboards -update", d.File, err)
		}
	}
}

func TestDashboards(t *testing.T) {
	all, err := All()
	if err != nil || len(all) != 2 {
		t.Fatal(len(all), err)
	}
	uids := map[string]bool{}
	for _, d := range all {
		t.Run(d.UID, func(t *testing.T) {
			if d.UID == "" || uids[d.UID] || d.Editable || d.SchemaVersion == 0 || len(d.Links) == 0 || d.Description == "" {
				t.Error("uid, schema version, links or description are not as they should be, or it is editable")
			}
			uids[d.UID] = true
			ids, titles := map[int]bool{}, map[string]bool{}
			for _, p := range d.Panels {
				if ids[p.ID] || p.ID == 0 || titles[p.Title] || p.Title == "" {
					t.Errorf("panel %d %q: id or title stands twice or is empty", p.ID, p.Title)
				}
				ids[p.ID], titles[p.Title] = true, true
				if p.Type != "row" {
					checkPanel(t, p)
				}
			}
			checkLayout(t, d.Panels)
			checkVariables(t, d)
		})
	}
}

// units that panels may have, all of them Grafana's.
var units = []string{"short", "none", "s", "bytes", "Bps", "recps", "reqps", "ops"}

func checkPanel(t *testing.T, p Panel) {
	t.Helper()
	bad := func(format string, args ...any) { t.Errorf("panel %q: %s", p.Title, fmt.Sprintf(format, args...)) }
	if !slices.Contains(units, p.FieldConfig.Defaults.Unit) {
		bad("unit %q", p.FieldConfig.Defaults.Unit)
	}
	if !strings.HasSuffix(p.Description, ".") || len(p.Targets) == 0 || len(p.FieldConfig.Defaults.Thresholds.Steps) == 0 {
		bad("no description, no query, or no thresholds")
	}
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if refs[q.RefID] || q.LegendFormat == "" || q.Datasource == nil || q.Datasource.UID != "${datasource}" {
			bad("query %s: no reference of its own, no legend, or another data source", q.RefID)
		}
		refs[q.RefID] = true
		e, err := parse(Scope{Range: "1h", RateInterval: "1m"}.Fill(q.Expr))
		if err != nil {
			bad("%v", err)
			continue
		}
		for _, fault := range e.faults(false) {
			bad("%s: %s", q.Expr, fault)
		}
		for _, label := range regexp.MustCompile(`{{(\w+)}}`).FindAllStringSubmatch(q.LegendFormat, -1) {
			if !slices.Contains(e.grouping, label[1]) {
				bad("the legend names %s, by which the query does not group", label[1])
			}
		}
		if !strings.Contains(q.Expr, `job=~"$job"`) {
			bad("query %s mixes virtual clusters", q.RefID)
		}
	}
}

// checkLayout: panels lie within 24 columns and do not overlap.
func checkLayout(t *testing.T, panels []Panel) {
	t.Helper()
	taken := map[[2]int]string{}
	for _, p := range panels {
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q overlaps %q or the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

func checkVariables(t *testing.T, d Dashboard) {
	t.Helper()
	if d.Templating.List[0].Name != "datasource" || d.Templating.List[0].Type != "datasource" {
		t.Error("the first variable is not the data source")
	}
	known := catalogue
	for _, v := range d.Templating.List[1:] {
		m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Definition)
		if m == nil {
			t.Fatalf("variable %s: %q", v.Name, v.Definition)
		}
		if labels, ok := known[m[1]]; !ok || m[2] != "job" && !slices.Contains(labels.labels, m[2]) {
			t.Errorf("variable %s: %s has no label %s", v.Name, m[1], m[2])
		}
		used := false
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				used = used || strings.Contains(q.Expr, "$"+v.Name)
			}
		}
		if !used {
			t.Errorf("nobody uses variable %s", v.Name)
		}
	}
}

type known struct {
	labels  []string
	counter bool
}

// knownMetrics are those of the catalogue as Prometheus stores them, and the
// few of client_golang and of Prometheus itself that panels use.
func knownMetrics() map[string]known {
	all := map[string]known{
		"up": {}, "process_cpu_seconds_total": {counter: true}, "process_resident_memory_bytes": {}, "go_goroutines": {},
	}
	for _, m := range telemetry.Catalogue() {
		if m.Kind != telemetry.Histogram {
			all[m.Name] = known{m.Labels, m.Kind == telemetry.Counter}
			continue
		}
		all[m.Name+"_bucket"] = known{append(slices.Clone(m.Labels), "le"), true}
		all[m.Name+"_sum"], all[m.Name+"_count"] = known{m.Labels, true}, known{m.Labels, true}
	}
	return all
}

var catalogue = knownMetrics()

// faults names metrics and labels that no process has, and counters that are
// not taken as counters. Rules may compare one with its own past.
func (e expression) faults(rule bool) []string {
	var faults []string
	labels := []string{"job", "instance"}
	for _, s := range e.selectors {
		m, ok := catalogue[s.metric]
		if !ok {
			faults = append(faults, "there is no metric "+s.metric)
			continue
		}
		labels = append(labels, m.labels...)
		for _, l := range s.labels {
			if !slices.Contains(append([]string{"job", "instance"}, m.labels...), l) {
				faults = append(faults, fmt.Sprintf("%s has no label %s", s.metric, l))
			}
		}
		switch counts := slices.Contains([]string{"rate", "irate", "increase"}, s.ranged); {
		case m.counter && !counts && !rule:
			faults = append(faults, s.metric+" is a counter; take its rate")
		case !m.counter && s.ranged != "" && counts:
			faults = append(faults, s.metric+" is no counter")
		}
	}
	for _, l := range e.grouping {
		if !slices.Contains(labels, l) {
			faults = append(faults, "nothing in it has the label "+l)
		}
	}
	return faults
}

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr, For    string
			Labels, Annotations map[string]string
		}
	}
}

func TestRules(t *testing.T) {
	var f ruleFile
	d := yaml.NewDecoder(bytes.NewReader(Rules()))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			t.Run(r.Alert, func(t *testing.T) {
				if seen[r.Alert] {
					t.Error("stands twice")
				}
				seen[r.Alert] = true
				e, err := parse(r.Expr)
				if err != nil {
					t.Fatal(err)
				}
				for _, fault := range e.faults(true) {
					t.Error(fault)
				}
				if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
					t.Errorf("severity %q", r.Labels["severity"])
				}
				if s := r.Annotations["summary"]; !strings.HasSuffix(s, ".") || strings.Contains(s, "{{") || r.Annotations["description"] == "" {
					t.Errorf("the summary %q is no sentence that is always the same, or there is no description", s)
				}
				for _, l := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(r.Annotations["description"], -1) {
					if !slices.Contains(append(e.grouping, "instance"), l[1]) {
						t.Errorf("the description names %s, which the alert has not", l[1])
					}
				}
				checkRunbook(t, r.Alert, r.Annotations["runbook_url"])
			})
		}
	}
	pages, err := filepath.Glob("../docs/operate/alerts/[A-Z]*.md")
	if err != nil || len(pages) < len(seen) {
		t.Errorf("%d pages for %d alerts: %v", len(pages), len(seen), err)
	}
	for _, page := range pages {
		if name := strings.TrimSuffix(filepath.Base(page), ".md"); !seen[name] && name != "README" {
			t.Errorf("%s explains an alert that does not exist", page)
		}
	}
}

func checkRunbook(t *testing.T, alert, path string) {
	t.Helper()
	if path != "docs/operate/alerts/"+alert+".md" {
		t.Fatalf("runbook_url %q", path)
	}
	text, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"# " + alert + "\n", "\n## What it means\n", "\n## What to look at\n", "\n## What to do\n"} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s lacks %q", path, strings.TrimSpace(part))
		}
	}
}

// What a runbook calls a dashboard or a panel is one.
func TestRunbooksNamePanels(t *testing.T) {
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	titles := map[string]bool{}
	for _, d := range all {
		titles[strings.TrimPrefix(d.Title, "Spillway / ")] = true
		for _, p := range d.Panels {
			titles[p.Title] = true
		}
	}
	files, err := filepath.Glob("../docs/operate/alerts/*.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:^|[^*])\*([A-Z][^*\n]*)\*`).FindAllStringSubmatch(string(text), -1) {
			count++
			if !titles[m[1]] {
				t.Errorf("%s: there is no dashboard or panel %q", filepath.Base(file), m[1])
			}
		}
	}
	if count < 15 {
		t.Errorf("only %d names were found", count)
	}
}

// Each kind of mistake is found: a check that finds none proves nothing.
func TestMistakesAreFound(t *testing.T) {
	for expr, want := range map[string]string{
		`sum(spillway_sites_up)`:                                       "there is no metric spillway_sites_up",
		`spillway_site_up{cluster="x"}`:                                "spillway_site_up has no label cluster",
		`max by (topic) (spillway_site_up)`:                            "nothing in it has the label topic",
		`sum by (site) (spillway_mirror_marks_total)`:                  "spillway_mirror_marks_total is a counter; take its rate",
		`rate(spillway_site_up[5m])`:                                   "spillway_site_up is no counter",
		`sum(rate(spillway_gateway_hold_seconds_bucket{le="1"}[5m]))`:  "",
		`a / on (job) b`:                                               "there is no metric a",
		`spillway_site_up{site=~"a{2}"} unless spillway_site_up == 0`:  "",
		`min by (site) (spillway_site_up{site="a"} and spillway_x{})`:  "there is no metric spillway_x",
		`avg without (site) (spillway_gateway_connections offset 15m)`: "nothing in it has the label site",
	} {
		e, err := parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(e.faults(false), "; "); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
	for _, expr := range []string{`sum(up`, `sum up)`, `{job="x"}`, `max by site (up)`, `up ; up`} {
		if _, err := parse(expr); err == nil {
			t.Errorf("%s passes", expr)
		}
	}
}
