package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// command runs a command in this process and returns what it printed.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestConfigExampleIsGood(t *testing.T) {
	text, err := command(t, "config", "example", "three-sites")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spillway.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, "config", "check", file)
	if err != nil || !strings.HasSuffix(out, "good: 3 sites, 0 witnesses, 2 failover groups\n") {
		t.Errorf("%q, %v", out, err)
	}
	if err := os.WriteFile(file, []byte(text+"\nconsole: {lisen: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = command(t, "config", "check", file); err == nil || !strings.Contains(err.Error(), "did you mean console.listen?") {
		t.Errorf("a wrong file: %v", err)
	}
	schema, err := command(t, "config", "schema")
	if err != nil || !json.Valid([]byte(schema)) {
		t.Errorf("schema: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	t.Setenv("SPILLWAY_CONFIG", "")
	for _, c := range []struct {
		args string
		code int
	}{
		{"config schema", 0},
		{"config example nothing", 1},
		{"config check /does/not/exist.yaml", 1},
		{"config schema --nothing", 2},
	} {
		if code := run(strings.Fields(c.args)); code != c.code {
			t.Errorf("spillway %s: exit %d, want %d", c.args, code, c.code)
		}
	}
}
