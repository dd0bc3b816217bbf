//go:build e2e

package watch

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"spillway/dashboards"
)

// promtool runs the rules against made-up series: too early, firing, resolved,
// and the teller vanishes.
func TestRulesByPromtool(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "rules.yml"}, {"test", "rules", "testdata/rules_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Dir = filepath.Join("..", "..", "dashboards")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	// A copy in which each alert waits longer must fail, or the tests time nothing.
	dir := t.TempDir()
	lame := strings.ReplaceAll(string(dashboards.Rules()), "for: ", "for: 1")
	tests, err := os.ReadFile("../../dashboards/testdata/rules_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(tests), "../rules.yml", "rules.yml", 1)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "rules.yml"), []byte(lame), 0o600), os.WriteFile(filepath.Join(dir, "t.yml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", "test", "rules", filepath.Join(dir, "t.yml")).CombinedOutput(); err == nil {
		t.Errorf("alerts that come too late pass:\n%s", out)
	}
}
