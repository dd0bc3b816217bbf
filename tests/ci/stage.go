package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stage is one line of tests/stages.
type stage struct {
	name     string
	limit    time.Duration // of the whole stage, and of each test binary in it
	testsMin int           // 0 for a command that is no "go test"
	packages []string
	command  []string
}

func (s stage) isGoTest() bool {
	return len(s.command) > 1 && s.command[0] == "go" && s.command[1] == "test"
}

func parseStages(text string) ([]stage, error) {
	var stages []stage
	for number, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		s, err := parseStage(line)
		if err != nil {
			return nil, fmt.Errorf("tests/stages:%d: %w", number+1, err)
		}
		if slices.ContainsFunc(stages, func(other stage) bool { return other.name == s.name }) {
			return nil, fmt.Errorf("tests/stages:%d: there are two stages %s", number+1, s.name)
		}
		stages = append(stages, s)
	}
	return stages, nil
}

func parseStage(line string) (stage, error) {
	fields := strings.SplitN(line, "|", 5)
	if len(fields) != 5 {
		return stage{}, fmt.Errorf("%d columns instead of 5: name | minutes | tests | packages | command", len(fields))
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	minutes, err := strconv.Atoi(fields[1])
	if err != nil || minutes < 1 {
		return stage{}, fmt.Errorf("minutes %q: not a number above 0", fields[1])
	}
	s := stage{
		name:     fields[0],
		limit:    time.Duration(minutes) * time.Minute,
		packages: strings.Fields(fields[3]),
		command:  strings.Fields(fields[4]),
	}
	if s.name == "" || len(s.command) == 0 {
		return stage{}, fmt.Errorf("no name or no command")
	}
	if !s.isGoTest() {
		if fields[2] != "-" {
			return stage{}, fmt.Errorf("tests %q: only what go test runs can be counted, want -", fields[2])
		}
		return s, nil
	}
	if s.testsMin, err = strconv.Atoi(fields[2]); err != nil || s.testsMin < 1 {
		return stage{}, fmt.Errorf("tests %q: not a number above 0", fields[2])
	}
	return s, nil
}

// choose keeps the stages with these names, in the order of the file; all if
// there are no names.
func choose(stages []stage, names []string) ([]stage, error) {
	if len(names) == 0 {
		return stages, nil
	}
	var chosen []stage
	for _, s := range stages {
		if slices.Contains(names, s.name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) != len(names) {
		var known []string
		for _, s := range stages {
			known = append(known, s.name)
		}
		return nil, fmt.Errorf("no such stage among %s; there are %s", strings.Join(names, ", "), strings.Join(known, ", "))
	}
	return chosen, nil
}

func packages(stages []stage) []string {
	var all []string
	for _, s := range stages {
		all = append(all, s.packages...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
