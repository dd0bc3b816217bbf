// Package dashboards holds what watches a virtual cluster: two Grafana
// dashboards and the rules of the alerts. The JSON files are made from the
// panels listed in groups.go and flows.go by `go test ./dashboards -update`;
// the tests here and in tests/watch read the files, as Grafana does.
package dashboards

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed *.json rules.yml
var files embed.FS

// Rules is the file of Prometheus rules.
func Rules() []byte {
	text, err := files.ReadFile("rules.yml")
	if err != nil {
		panic(err) // it is embedded
	}
	return text
}

// All reads the dashboards' JSON files.
func All() ([]Dashboard, error) {
	names, err := fs.Glob(files, "*.json")
	if err != nil {
		return nil, err
	}
	var all []Dashboard
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		d := Dashboard{File: name}
		if err := json.Unmarshal(text, &d); err != nil {
			return nil, fmt.Errorf("dashboard %s: %w", name, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// Scope is what a viewer chose in Grafana.
type Scope struct {
	Range        string // of the page, such as 5m
	RateInterval string // at least four scrapes, such as 1m
}

// Fill puts values in the place of a query's variables; all groups and jobs
// are chosen.
func (s Scope) Fill(expr string) string {
	r := strings.NewReplacer("$__rate_interval", s.RateInterval, "$__range", s.Range, "$job", ".+", "$failover_group", ".+")
	return r.Replace(expr)
}
