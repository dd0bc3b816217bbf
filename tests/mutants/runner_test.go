package mutants

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// The runner itself, on a toy: caught mutants are caught, survivors, misnamed
// ones and patches that no longer apply are told apart.
func TestRunnerOnAToy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	toy := Product{Root: root(t), Package: "./tests/mutants/testdata/toy"}
	try := func(m Mutant) error {
		dir := t.TempDir()
		binary, err := toy.Build(ctx, m, dir)
		if err != nil {
			return err
		}
		o, err := toy.Run(ctx, binary, dir)
		if err != nil {
			return err
		}
		if m.Name == "" {
			if o.Exit != 0 || !o.Report.OK {
				t.Errorf("the sound toy fails: %+v", o)
			}
			return nil
		}
		return m.Judge(o)
	}
	if err := try(Mutant{}); err != nil {
		t.Fatal(err)
	}
	mutants, err := Load("testdata/toypatches")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"drop":     "",
		"swap":     "",
		"harmless": "mutant harmless survives",
		"misnamed": "is not named: want one of [duplicated phantom], got \"1 lost\"",
		"stale":    "hunk 1 does not apply any more: its text is there 0 times",
	}
	for _, m := range mutants {
		err := try(m)
		switch w, ok := want[m.Name]; {
		case !ok:
			t.Errorf("nobody knows what %s should give", m.Name)
		case w == "" && err != nil, w != "" && (err == nil || !strings.Contains(err.Error(), w)):
			t.Errorf("%s: %v, want %q", m.Name, err, w)
		}
		delete(want, m.Name)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}

func TestBadPatchesAreRefused(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"# about\n# expect: nonsense\n", `line 2: "nonsense" is no anomaly`},
		{"# about\n", "a mutant says what it is for"},
		{"x", `"x" stands before any file`},
		{"+++ b/f\nx", `"x" stands before any hunk`},
		{"+++ b/f\n@@\nx", `"x" is neither context nor change`},
	} {
		if _, err := parse("bad", c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}
