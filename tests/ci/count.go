package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// event is one line of go test -json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

type test struct{ pkg, name string }

// count collects what became of every test of a stage.
type count struct {
	outcome map[test]string   // run, pass, fail, skip
	parents map[test]bool     // tests with subtests; only the subtests count
	output  map[test][]string // shown if the test fails
	faulty  []string          // packages that failed, though none of their tests did
	reasons []string          // what failed tests say themselves, without the logs of their servers
}

func newCount() *count {
	return &count{outcome: map[test]string{}, parents: map[test]bool{}, output: map[test][]string{}}
}

// add takes one line and says what to write to the log, and whether to show it.
func (c *count) add(line []byte) (text string, show bool) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		return string(line), true // the go command itself speaks
	}
	t := test{e.Package, e.Test}
	switch e.Action {
	case "run":
		c.outcome[t] = "run"
		for name := e.Test; strings.Contains(name, "/"); {
			name = name[:strings.LastIndex(name, "/")]
			c.parents[test{e.Package, name}] = true
		}
	case "output", "build-output":
		c.output[t] = append(c.output[t], e.Output)
		return e.Output, e.Action == "build-output" || isFigure(e.Output)
	case "pass", "skip":
		if e.Test != "" {
			c.outcome[t] = e.Action
		}
		delete(c.output, t)
	case "fail":
		return c.fail(t), true
	}
	return "", false
}

func (c *count) fail(t test) string {
	shown := strings.Join(c.output[t], "")
	c.reasons = append(c.reasons, reasons(t, c.output[t])...)
	delete(c.output, t)
	if t.name != "" {
		c.outcome[t] = "fail"
		return shown
	}
	if !c.anyFailed(t.pkg) {
		c.faulty = append(c.faulty, t.pkg)
		return shown
	}
	return ""
}

// A test that fails shows the logs of its servers, and may fail at a hundred places.
const (
	reasonsMax = 5 // of a test
	reasonMax  = 400
)

// said is the beginning of what testing.T.Error prints, and of a panic.
var said = regexp.MustCompile(`^(\s+\w+_test\.go:\d+: |panic: )`)

// reasons picks the lines in which a test tells why it failed: the report ends with them,
// where whoever sees only the end of a long output finds them.
func reasons(t test, output []string) (picked []string) {
	for _, line := range output {
		if !said.MatchString(line) {
			continue
		}
		line = strings.TrimSpace(line)
		if len(line) > reasonMax {
			line = strings.ToValidUTF8(line[:reasonMax], "") + "…"
		}
		if picked = append(picked, t.pkg+"."+t.name+": "+line); len(picked) == reasonsMax {
			break
		}
	}
	return picked
}

func (c *count) anyFailed(pkg string) bool {
	for t, outcome := range c.outcome {
		if t.pkg == pkg && outcome == "fail" {
			return true
		}
	}
	return false
}

// isFigure picks the lines that tests print for people: rows of tables and
// measurements.
func isFigure(output string) bool {
	return strings.HasPrefix(output, "| ") || strings.HasPrefix(output, "measured: ")
}

func (c *count) passed() int { return len(c.with("pass")) }

// failed counts also a test that began and never ended, and a parent that
// failed though all its subtests passed.
func (c *count) failed() int {
	failed := len(c.with("fail")) + len(c.with("run"))
	for t := range c.parents {
		if c.outcome[t] == "fail" && !c.childFailed(t) {
			failed++
		}
	}
	return failed
}

func (c *count) childFailed(parent test) bool {
	for t, outcome := range c.outcome {
		if t.pkg == parent.pkg && strings.HasPrefix(t.name, parent.name+"/") && (outcome == "fail" || outcome == "run") {
			return true
		}
	}
	return false
}

// with lists the tests without subtests that have this outcome.
func (c *count) with(outcome string) []string {
	var names []string
	for t, o := range c.outcome {
		if o == outcome && !c.parents[t] {
			names = append(names, t.pkg+"."+t.name)
		}
	}
	slices.Sort(names)
	return names
}

// faults says why a stage fails although none of its tests may have.
func (c *count) faults(testsMin int) []string {
	var faults []string
	for _, pkg := range c.faulty {
		faults = append(faults, pkg+" failed outside of its tests")
	}
	for _, name := range c.with("skip") {
		faults = append(faults, name+" was skipped")
	}
	if ran := c.passed() + c.failed(); ran < testsMin {
		faults = append(faults, fmt.Sprintf("%d tests ran, tests/stages wants at least %d", ran, testsMin))
	}
	return faults
}
