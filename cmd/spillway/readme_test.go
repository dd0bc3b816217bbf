package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spillway/configs"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Blocks marked by "<!-- test -->" are run as they stand, one after the other,
// in a copy of the checkout's view: the sources are reached by a link.
func TestReadmeCommandsRun(t *testing.T) {
	blocks := regexp.MustCompile("(?s)<!-- test -->\n```sh\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) < 2 {
		t.Fatalf("%d blocks are marked for testing", len(blocks))
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var script strings.Builder
	script.WriteString("set -eu\n")
	for _, b := range blocks {
		script.WriteString(b[1])
	}
	// Only the build needs the sources; everything it makes goes to dir.
	text := strings.ReplaceAll(script.String(), "go build -o spillway", "go build -C "+root+" -o "+filepath.Join(dir, "spillway"))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", text)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestReadmeConfigurationLoads(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) == 0 {
		t.Fatal("no configuration in the README")
	}
	for _, b := range blocks {
		if _, err := configs.Parse("README.md", []byte(b[1]), func(string) (string, bool) { return "", false }); err != nil {
			t.Error(err)
		}
	}
}
