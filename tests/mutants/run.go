package mutants

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"spillway/tests/orders/check"
)

// Product is what the mutants are built of.
type Product struct {
	Root    string   // the module's folder
	Package string   // the command, as in "./cmd/spillway"
	Args    []string // that make it judge itself and print a report as JSON
}

// Outcome is what became of one run.
type Outcome struct {
	Exit   int
	Report *check.Report
	Stderr string
}

// Build compiles the product, with the mutant's fault in it, into dir. The zero
// mutant gives the product as it is.
func (p Product) Build(ctx context.Context, m Mutant, dir string) (binary string, err error) {
	overlay, err := p.overlay(m, dir)
	if err != nil {
		return "", err
	}
	binary = filepath.Join(dir, "product")
	cmd := exec.CommandContext(ctx, "go", "build", "-p", "2", "-overlay", overlay, "-o", binary, p.Package)
	cmd.Dir = p.Root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mutant %s does not build: %w\n%s", m.Name, err, out)
	}
	return binary, nil
}

// overlay writes the patched copies and the list of them that go build takes.
func (p Product) overlay(m Mutant, dir string) (path string, err error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, f := range m.files {
		path := filepath.Join(p.Root, filepath.FromSlash(f.path))
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		changed, err := f.apply(string(text))
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		replacement := filepath.Join(dir, fmt.Sprintf("%d-%s", i, filepath.Base(path)))
		if err := os.WriteFile(replacement, []byte(changed), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = replacement
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o600)
}

// Run runs a built product and reads the report that it prints.
func (p Product) Run(ctx context.Context, binary, dir string) (Outcome, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, p.Args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // a failed demo keeps its logs
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := Outcome{Stderr: tail(stderr.String())}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out.Exit = exit.ExitCode()
	} else if err != nil {
		return out, err
	}
	if err := ctx.Err(); err != nil {
		return out, fmt.Errorf("the run did not end in time: %w\n%s", err, out.Stderr)
	}
	report, err := findReport(stdout.Bytes())
	if err != nil {
		return out, fmt.Errorf("exit %d: %w\n%s", out.Exit, err, out.Stderr)
	}
	out.Report = report
	return out, nil
}

// tail keeps the end of what a failed run said.
func tail(s string) string {
	const bytesMax = 4096
	return s[max(0, len(s)-bytesMax):]
}

// findReport finds the checker's report in what a demo printed: the whole
// document, or its field "report".
func findReport(stdout []byte) (*check.Report, error) {
	var document struct {
		Report json.RawMessage `json:"report"`
	}
	if err := json.Unmarshal(stdout, &document); err != nil {
		return nil, fmt.Errorf("no report on standard output: %w: %.300q", err, stdout)
	}
	if document.Report == nil {
		document.Report = stdout
	}
	report := &check.Report{}
	if err := json.Unmarshal(document.Report, report); err != nil {
		return nil, fmt.Errorf("no report on standard output: %w: %.300q", err, stdout)
	}
	if len(report.Counts) == 0 {
		return nil, fmt.Errorf("the report counts no anomalies: %.300q", stdout)
	}
	return report, nil
}

// Judge tells whether the demo noticed the mutant. nil means that it did.
func (m Mutant) Judge(o Outcome) error {
	var named []string
	for _, k := range check.Kinds {
		if o.Report.Counts[k] > 0 {
			named = append(named, fmt.Sprintf("%d %s", o.Report.Counts[k], k))
		}
	}
	got := strings.Join(named, ", ")
	if o.Exit == 0 {
		return fmt.Errorf("mutant %s survives (%s): exit 0, anomalies named: %q", m.Name, m.About, got)
	}
	for _, k := range m.Expect {
		if o.Report.Counts[k] > 0 {
			return nil
		}
	}
	return fmt.Errorf("mutant %s (%s) is not named: want one of %v, got %q\n%s", m.Name, m.About, m.Expect, got, o.Stderr)
}
