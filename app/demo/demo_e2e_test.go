//go:build e2e

package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spillway/app/demo"
)

// demoMax is what the issue allows on two cores.
const demoMax = 2 * time.Minute

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "spillway")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "spillway/cmd/spillway")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// processes that run a program, by what the kernel says.
func processes(t *testing.T, binary string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && strings.HasPrefix(exe, binary) {
			found = append(found, l)
		}
	}
	return found
}

// The demo as a user starts it: every promise that it can test holds, in time,
// and nothing is left behind.
func TestDemoHoldsItsPromises(t *testing.T) {
	binary := build(t)
	ctx, cancel := context.WithTimeout(t.Context(), demoMax)
	defer cancel()
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "demo", "-o", "json")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	started := time.Now()
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s\n%.4000s", err, stderr.String(), stdout.String())
	}
	var r demo.Result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v: %.400s", err, stdout.String())
	}
	t.Logf("%s; %d moves; %+v", time.Since(started).Round(time.Second), len(r.Moves), r.Report.Figures)
	if !r.OK || len(r.Moves) < 2 || r.Report == nil || r.Report.Figures.Acked < 1000 || len(r.Untested) == 0 {
		t.Errorf("result %+v", r)
	}
	if left := processes(t, binary); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// A demo that is killed takes its children with it.
func TestKilledDemoLeavesNoProcess(t *testing.T) {
	binary := build(t)
	cmd := exec.CommandContext(t.Context(), binary, "demo", "--sites", "2")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await := func(what string, ok func(n int) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(len(processes(t, binary))); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %v", what, processes(t, binary))
			}
		}
	}
	await("children start", func(n int) bool { return n >= 5 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	await("children end", func(n int) bool { return n == 0 })
}
