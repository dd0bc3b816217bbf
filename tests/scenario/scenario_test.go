// Package scenario runs the scenario files in testdata: what an operator does and
// what happens to the sites, and below it what the control loop decides and why.
// The sites are a simulation in virtual time; the decisions are failover.Step's.
//
//	go test ./tests/scenario -update     writes what happens now into the files
//
// Commands, one a line:
//
//	group east west north [ack=2] [onshortfall=degrade] [after=5s] [loss=500] [block=1000] [drain=3s] [hold=8s]
//	witness                      one more observer, at a place without records
//	gateway NAME SITE            a gateway
//	produce N                    N records are acknowledged at the active site
//	hold mirror SITE, release mirror SITE
//	pause gateway NAME, resume gateway NAME
//	silence SITE                 everything at the site stops at once
//	brokers down SITE            only its brokers stop
//	return SITE                  all of it is back
//	switchover SITE, failover SITE|- LOSS, abort
//	pause automation, resume automation
//	advance DURATION
//
// Transitions are printed with their epoch; lines that begin with dots say what a
// state waits for, and "ask:" that a person must decide.
package scenario

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what happens into the files")

func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scenario files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := play(string(text))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			switch {
			case got == string(text):
			case *update:
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			default:
				t.Errorf("%s says:\n%s\nwhat happens:\n%s", file, text, got)
			}
		})
	}
}

// play runs the commands of each block and returns the file with what happened
// below each.
func play(text string) (string, error) {
	world := newWorld()
	var out []string
	for _, block := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		var kept []string
		commands := false
		for _, line := range strings.Split(block, "\n") {
			if line == "----" {
				break
			}
			kept = append(kept, line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			commands = true
			if err := world.do(strings.Fields(line)); err != nil {
				return "", err
			}
		}
		if commands {
			kept = append(append(kept, "----"), world.take()...)
		}
		out = append(out, strings.Join(kept, "\n"))
	}
	return strings.Join(out, "\n\n") + "\n", nil
}
