package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEachLineOfTheStagesIsChecked(t *testing.T) {
	for line, want := range map[string]string{
		"a | 1 | 3 | | go test ./...":                                    "",
		"a | 1 | - | maven gcc | make lint":                              "",
		"a | 1 | 3 | go test ./...":                                      "4 columns",
		"a | 0 | 3 | | go test ./...":                                    "minutes",
		"a | 1 | - | | go test ./...":                                    "tests \"-\"",
		"a | 1 | 3 | | make lint":                                        "want -",
		"a | 1 | - | | ":                                                 "no command",
		"a | 1 | - | | make lint\nb | 1 | - | | x\na | 1 | - | | make x": "tests/stages:3: there are two stages a",
	} {
		t.Run(line, func(t *testing.T) {
			_, err := parseStages(line)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

func TestChooseKeepsTheOrderOfTheFile(t *testing.T) {
	stages := []stage{{name: "a"}, {name: "b"}, {name: "c"}}
	chosen, err := choose(stages, []string{"c", "a"})
	if err != nil || len(chosen) != 2 || chosen[0].name != "a" || chosen[1].name != "c" {
		t.Errorf("got %v, %v", chosen, err)
	}
	if _, err := choose(stages, []string{"d"}); err == nil {
		t.Error("an unknown stage was taken")
	}
}

// The lines are what go test -json prints, shortened.
func TestCount(t *testing.T) {
	for name, row := range map[string]struct {
		lines          string
		passed, failed int
		faults         string
	}{
		"subtests count, their parent does not": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"T/a"}
			{"Action":"run","Package":"p","Test":"T/b"}
			{"Action":"pass","Package":"p","Test":"T/a"}
			{"Action":"pass","Package":"p","Test":"T/b"}
			{"Action":"pass","Package":"p","Test":"T"}
			{"Action":"pass","Package":"p"}`, 2, 0, ""},
		"a failed subtest is one failure": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"T/a"}
			{"Action":"fail","Package":"p","Test":"T/a"}
			{"Action":"fail","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"U"}
			{"Action":"pass","Package":"p","Test":"U"}
			{"Action":"fail","Package":"p"}`, 1, 1, ""},
		"a parent that fails by itself": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"T/a"}
			{"Action":"pass","Package":"p","Test":"T/a"}
			{"Action":"run","Package":"p","Test":"T/b"}
			{"Action":"pass","Package":"p","Test":"T/b"}
			{"Action":"fail","Package":"p","Test":"T"}
			{"Action":"fail","Package":"p"}`, 2, 1, ""},
		"a skip": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"skip","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"U"}
			{"Action":"pass","Package":"p","Test":"U"}
			{"Action":"run","Package":"p","Test":"V"}
			{"Action":"pass","Package":"p","Test":"V"}
			{"Action":"pass","Package":"p"}`, 2, 0, "p.T was skipped"},
		"too few": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"pass","Package":"p","Test":"T"}
			{"Action":"pass","Package":"p"}`, 1, 0, "1 tests ran, tests/stages wants at least 2"},
		"a package that does not build": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"pass","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"U"}
			{"Action":"pass","Package":"p","Test":"U"}
			{"Action":"fail","Package":"q"}`, 2, 0, "q failed outside of its tests"},
		"a test that never ended": {
			`{"Action":"run","Package":"p","Test":"T"}
			{"Action":"pass","Package":"p","Test":"T"}
			{"Action":"run","Package":"p","Test":"U"}`, 1, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCount()
			for line := range strings.Lines(row.lines) {
				c.add([]byte(line))
			}
			if c.passed() != row.passed || c.failed() != row.failed || strings.Join(c.faults(2), ";") != row.faults {
				t.Errorf("got %d passed, %d failed, faults %q", c.passed(), c.failed(), c.faults(2))
			}
		})
	}
}

func TestTheReportEndsWithWhyTestsFailed(t *testing.T) {
	c := newCount()
	for _, line := range []string{
		`{"Action":"run","Package":"p","Test":"T"}`,
		`{"Action":"output","Package":"p","Test":"T","Output":"    a_test.go:7: 3 records are missing\n"}`,
		`{"Action":"output","Package":"p","Test":"T","Output":"    process.go:9: end of the log:\n"}`,
		`{"Action":"output","Package":"p","Test":"T","Output":"        INFO [Broker id=1] went\n"}`,
		`{"Action":"output","Package":"p","Test":"T","Output":"    a_test.go:8: ` + strings.Repeat("x", 1000) + `\n"}`,
		`{"Action":"fail","Package":"p","Test":"T"}`,
		`{"Action":"run","Package":"p","Test":"U"}`,
		`{"Action":"output","Package":"p","Test":"U","Output":"    a_test.go:9: by the way\n"}`,
		`{"Action":"pass","Package":"p","Test":"U"}`,
	} {
		c.add([]byte(line))
	}
	if len(c.reasons) != 2 || c.reasons[0] != "p.T: a_test.go:7: 3 records are missing" || len(c.reasons[1]) > 2*reasonMax {
		t.Errorf("got %q", c.reasons)
	}
}

func TestOnlyFiguresAndFailuresAreShown(t *testing.T) {
	c := newCount()
	for line, want := range map[string]bool{
		`{"Action":"output","Package":"p","Test":"T","Output":"| 3.9.2 | yes |\n"}`:    true,
		`{"Action":"output","Package":"p","Test":"T","Output":"measured: 12 ms\n"}`:    true,
		`{"Action":"output","Package":"p","Test":"T","Output":"    a_test.go:1: x\n"}`: false,
		`{"Action":"build-output","ImportPath":"p","Output":"a.go:1: undefined: x\n"}`: true,
		`{"Action":"pass","Package":"p","Test":"U"}`:                                   false,
		"go: cannot find main module\n":                                                true,
	} {
		if _, show := c.add([]byte(line)); show != want {
			t.Errorf("%s: shown %v", line, show)
		}
	}
}

func TestARunHasALimitAndAnExitStatus(t *testing.T) {
	t.Chdir(t.TempDir())
	for command, want := range map[string]string{"true": "", "false": "exit status 1", "sleep 60": "ended after"} {
		t.Run(command, func(t *testing.T) {
			s := stage{name: "x", limit: time.Minute, command: strings.Fields(command)}
			if command == "sleep 60" {
				s.limit = 100 * time.Millisecond
			}
			r := run(context.Background(), s)
			if want == "" {
				if r.passed != 1 || r.failed() != 0 {
					t.Errorf("got %+v", r)
				}
				return
			}
			if r.passed != 0 || !slices.ContainsFunc(r.faults, func(f string) bool { return strings.Contains(f, want) }) {
				t.Errorf("got %+v, want %q", r, want)
			}
		})
	}
}
