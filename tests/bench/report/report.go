// Package report prints what benchmarks have measured of several contenders, as ratios
// and beside the goals, and writes it for programs and for people.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Report collects the figures of all tests of one run. Its methods may be called by any
// goroutine.
type Report struct {
	Name       string   // of the files
	Contenders []string // in the order of the columns
	Ours       string   // whose values goals are about

	mu   sync.Mutex
	rows []row
}

// row is one figure of one shape of data, for each contender that was measured.
type row struct {
	Shape  string             `json:"shape"`
	Figure string             `json:"figure"`
	Unit   string             `json:"unit"`
	Values map[string]float64 `json:"values"` // by contender
	Ratios []ratioTo          `json:"ratios"`
}

// ratioTo is our value by that of another contender, or, of nobody, the value.
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

// Goal is the ratio that is wanted of our value to another's.
type Goal struct {
	of      string
	value   float64
	atLeast bool
}

// AtLeast wants our value to be at least so many times another's.
func AtLeast(value float64, of string) Goal { return Goal{of, value, true} }

// AtMost wants our value to be at most so many times another's.
func AtMost(value float64, of string) Goal { return Goal{of, value, false} }

// Beside wants nothing, and shows the ratio.
func Beside(of string) Goal { return Goal{of: of} }

// Below is a goal for our value itself.
func Below(value float64) Goal { return Goal{value: value} }

// Tell adds a figure, in a unit, by contender, and prints it.
func (r *Report) Tell(shape, figure, unit string, values map[string]float64, goals ...Goal) {
	line := row{Shape: shape, Figure: figure, Unit: unit, Values: values}
	for _, g := range goals {
		if _, measured := values[r.Ours]; !measured {
			continue
		}
		if g.of == "" {
			line.Ratios = append(line.Ratios, ratioTo{Value: values[r.Ours], Goal: g.value})
		} else if other := values[g.of]; other > 0 {
			line.Ratios = append(line.Ratios, ratioTo{g.of, values[r.Ours] / other, g.value, g.atLeast})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, line)
	fmt.Printf("measured: %s\n", r.line(line))
}

func (r *Report) line(of row) string {
	cells := []string{of.Shape, of.Figure}
	for _, name := range r.Contenders {
		if v, ok := of.Values[name]; ok {
			cells = append(cells, fmt.Sprintf("%s %s %s", name, number(v), of.Unit))
		}
	}
	for _, ratio := range of.Ratios {
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

// Write leaves NAME.json and NAME.md in a folder; without a folder, or figures, nothing.
func (r *Report) Write(folder string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if folder == "" || len(r.rows) == 0 {
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
	}{time.Now().UTC().Truncate(time.Second), machine, r.rows}, "", "  ")
	if err != nil {
		return err
	}
	var page strings.Builder
	fmt.Fprintf(&page, "Measured on %s: %s.\n\n| data | figure | %s | %s by others |\n| --- | --- |%s --- |\n", time.Now().UTC().Format(time.DateOnly), machine,
		strings.Join(r.Contenders, " | "), r.Ours, strings.Repeat(" ---: |", len(r.Contenders)))
	for _, of := range r.rows {
		cells := []string{of.Shape, of.Figure + ", " + of.Unit}
		for _, name := range r.Contenders {
			if v, ok := of.Values[name]; ok {
				cells = append(cells, number(v))
			} else {
				cells = append(cells, "")
			}
		}
		var ratios []string
		for _, ratio := range of.Ratios {
			ratios = append(ratios, ratio.String())
		}
		fmt.Fprintf(&page, "| %s | %s |\n", strings.Join(cells, " | "), strings.Join(ratios, "; "))
	}
	if err := os.WriteFile(filepath.Join(folder, r.Name+".json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, r.Name+".md"), []byte(page.String()), 0o644)
}
