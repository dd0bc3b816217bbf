package watch

import (
	"slices"
	"strings"
	"testing"

	"spillway/dashboards"
)

// queries are all queries of a dashboard by title and, from the second on, letter.
func queries(d dashboards.Dashboard) map[string]dashboards.Target {
	all := map[string]dashboards.Target{}
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all[strings.TrimSuffix(p.Title+" "+q.RefID, " A")] = q
		}
	}
	return all
}

// expectations by the dashboard's uid.
var expectations = map[string]map[string]expected{
	"spillway-failover-groups":   groupPanels,
	"spillway-flows-and-gateway": flowPanels,
}

func TestEveryQueryHasAnExpectation(t *testing.T) {
	all, err := dashboards.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		want, asked := expectations[d.UID], queries(d)
		for name := range asked {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: nothing is expected of %q", d.UID, name)
			}
		}
		for name := range want {
			if _, ok := asked[name]; !ok {
				t.Errorf("%s has no %q", d.UID, name)
			}
		}
	}
}

func TestConditions(t *testing.T) {
	samples := []sample{{map[string]string{"site": "east"}, 1}, {map[string]string{"site": "west"}, 0}}
	for _, c := range []struct {
		want     string
		sometime bool
		good     bool
	}{
		{"site=east =1; site=west =0", false, true},
		{"=1", false, false}, {"=1", true, true}, {">1", true, false},
		{"site=north =0", true, false}, {"none", false, false}, {"any", false, true},
	} {
		if err := holds(samples, c.want, c.sometime); (err == nil) != c.good {
			t.Errorf("%q: %v", c.want, err)
		}
	}
	if holds(nil, "none", false) != nil || holds(nil, "=0", false) == nil {
		t.Error("no series is none, and is not 0")
	}
}

// The copy differs from the rules in durations alone.
func TestHastened(t *testing.T) {
	before, after := strings.Split(string(dashboards.Rules()), "\n"), strings.Split(string(hasten(dashboards.Rules())), "\n")
	if len(before) != len(after) {
		t.Fatal("lines were lost")
	}
	var changed []string
	for i := range before {
		if before[i] != after[i] {
			changed = append(changed, strings.TrimSpace(after[i]))
			if !durations.MatchString(before[i]) {
				t.Errorf("%q became %q", before[i], after[i])
			}
		}
	}
	if !slices.Contains(changed, "for: 500ms") || !slices.ContainsFunc(changed, func(s string) bool { return strings.Contains(s, "[15000ms]") }) {
		t.Errorf("%q", changed)
	}
}
