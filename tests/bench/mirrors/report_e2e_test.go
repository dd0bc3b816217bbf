//go:build e2e

package mirrors

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

var out = flag.String("out", "", "folder for mirrors.json and mirrors.md, besides what is printed")

// row is one figure of one shape of data, for each contender that was measured.
type row struct {
	Shape  string             `json:"shape"`
	Figure string             `json:"figure"`
	Unit   string             `json:"unit"`
	Values map[string]float64 `json:"values"` // by contender
	Ratios []ratioTo          `json:"ratios"`
}

// ratioTo is Spillway's value by that of another contender, or, of nobody, the value.
type ratioTo struct {
	Of    string  `json:"of,omitempty"`
	Value float64 `json:"value"`
	// Goal of the ratio: at least so much if AtLeast, else at most; 0: none.
	Goal    float64 `json:"goal,omitempty"`
	AtLeast bool    `json:"atLeast,omitempty"`
}

func (r ratioTo) String() string {
	switch {
	case r.Of == "":
		return fmt.Sprintf("goal: ≤ %s, %s", number(r.Goal), met(r.Value <= r.Goal))
	case r.Goal == 0:
		return fmt.Sprintf("%.2f × %s", r.Value, r.Of)
	case r.AtLeast:
		return fmt.Sprintf("%.2f × %s (goal: ≥ %.2f, %s)", r.Value, r.Of, r.Goal, met(r.Value >= r.Goal))
	default:
		return fmt.Sprintf("%.2f × %s (goal: ≤ %.2f, %s)", r.Value, r.Of, r.Goal, met(r.Value <= r.Goal))
	}
}

func met(yes bool) string {
	if yes {
		return "met"
	}
	return "not met"
}

// Names of the contenders.
const (
	plainCopy = "plain copy"
	ours      = "spillway"
	theirs    = "MirrorMaker 2"
)

// goal is the ratio that is wanted of Spillway's value to another's.
type goal struct {
	of      string
	value   float64
	atLeast bool
}

func atLeast(value float64, of string) goal { return goal{of, value, true} }
func atMost(value float64, of string) goal  { return goal{of, value, false} }

// below is a goal for the value itself.
func below(value float64) goal { return goal{value: value} }

// none is the goal of a count that has to be 0.
var none = below(0)

// report collects the rows of all tests of one run.
var report struct {
	sync.Mutex
	rows []row
}

// tell adds a row and prints it.
func tell(shape, figure, unit string, values map[string]float64, goals ...goal) {
	r := row{Shape: shape, Figure: figure, Unit: unit, Values: values}
	for _, g := range goals {
		if g.of == "" {
			r.Ratios = append(r.Ratios, ratioTo{Value: values[ours], Goal: g.value})
		} else if other := values[g.of]; other > 0 {
			r.Ratios = append(r.Ratios, ratioTo{g.of, values[ours] / other, g.value, g.atLeast})
		}
	}
	report.Lock()
	defer report.Unlock()
	report.rows = append(report.rows, r)
	fmt.Printf("measured: %s\n", r.line())
}

func (r row) line() string {
	cells := []string{r.Shape, r.Figure}
	for _, name := range []string{plainCopy, ours, theirs} {
		if v, ok := r.Values[name]; ok {
			cells = append(cells, fmt.Sprintf("%s %s %s", name, number(v), r.Unit))
		}
	}
	for _, ratio := range r.Ratios {
		cells = append(cells, ratio.String())
	}
	return strings.Join(cells, " | ")
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

// writeReport writes what was told, for programs and for people.
func writeReport(folder string) error {
	if folder == "" || len(report.rows) == 0 {
		return nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	load, _ := os.ReadFile("/proc/loadavg") // empty where there is none
	machine := fmt.Sprintf("%d processors, load at the end %s", runtime.NumCPU(), strings.Join(strings.Fields(string(load))[:min(3, len(strings.Fields(string(load))))], " "))
	text, err := json.MarshalIndent(struct {
		At      time.Time `json:"at"`
		Machine string    `json:"machine"`
		Rows    []row     `json:"rows"`
	}{time.Now().UTC().Truncate(time.Second), machine, report.rows}, "", "  ")
	if err != nil {
		return err
	}
	var page strings.Builder
	fmt.Fprintf(&page, "Measured on %s: %s.\n\n| data | figure | %s | %s | %s | spillway by others |\n| --- | --- | ---: | ---: | ---: | --- |\n", time.Now().UTC().Format(time.DateOnly), machine, plainCopy, ours, theirs)
	for _, r := range report.rows {
		cells := []string{r.Shape, r.Figure + ", " + r.Unit}
		for _, name := range []string{plainCopy, ours, theirs} {
			if v, ok := r.Values[name]; ok {
				cells = append(cells, number(v))
			} else {
				cells = append(cells, "")
			}
		}
		var ratios []string
		for _, ratio := range r.Ratios {
			ratios = append(ratios, ratio.String())
		}
		fmt.Fprintf(&page, "| %s | %s |\n", strings.Join(cells, " | "), strings.Join(ratios, "; "))
	}
	if err := os.WriteFile(filepath.Join(folder, "mirrors.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "mirrors.md"), []byte(page.String()), 0o644)
}
