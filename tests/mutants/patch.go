package mutants

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"spillway/tests/orders/check"
)

// Mutant is one fault.
type Mutant struct {
	Name   string
	About  string
	Expect []check.Kind // the demo must name one of these
	files  []filePatch
}

type filePatch struct {
	path  string // from the module's root
	hunks []hunk
}

// hunk replaces lines by others.
type hunk struct {
	old, new []string
}

// Load reads all mutants of a folder, by name.
func Load(dir string) ([]Mutant, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var out []Mutant
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m, err := parse(strings.TrimSuffix(filepath.Base(path), ".patch"), string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		out = append(out, m)
	}
	return out, nil
}

func parse(name, text string) (Mutant, error) {
	m := Mutant{Name: name}
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		if err := m.line(lines.Text()); err != nil {
			return m, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if len(m.Expect) == 0 || len(m.files) == 0 || m.About == "" {
		return m, fmt.Errorf("a mutant says what it is for, has a line \"# expect: ANOMALY, …\", and a diff")
	}
	return m, lines.Err()
}

func (m *Mutant) line(s string) error {
	switch {
	case strings.HasPrefix(s, "# expect:"):
		for word := range strings.SplitSeq(strings.TrimPrefix(s, "# expect:"), ",") {
			k := check.Kind(strings.TrimSpace(word))
			if !slices.Contains(check.Kinds, k) {
				return fmt.Errorf("%q is no anomaly", k)
			}
			m.Expect = append(m.Expect, k)
		}
		return nil
	case strings.HasPrefix(s, "#"):
		m.About = strings.TrimSpace(m.About + " " + strings.TrimSpace(s[1:]))
		return nil
	case strings.HasPrefix(s, "--- "), strings.HasPrefix(s, "diff "), strings.HasPrefix(s, "index "):
		return nil
	case strings.HasPrefix(s, "+++ b/"):
		m.files = append(m.files, filePatch{path: strings.TrimPrefix(s, "+++ b/")})
		return nil
	case len(m.files) == 0:
		return fmt.Errorf("%q stands before any file", s)
	}
	f := &m.files[len(m.files)-1]
	if strings.HasPrefix(s, "@@") {
		f.hunks = append(f.hunks, hunk{})
		return nil
	}
	if len(f.hunks) == 0 {
		return fmt.Errorf("%q stands before any hunk", s)
	}
	h := &f.hunks[len(f.hunks)-1]
	if s == "" {
		s = " " // an empty line of context whose space an editor cut off
	}
	rest := s[1:]
	switch s[0] {
	case ' ':
		h.old, h.new = append(h.old, rest), append(h.new, rest)
	case '-':
		h.old = append(h.old, rest)
	case '+':
		h.new = append(h.new, rest)
	default:
		return fmt.Errorf("%q is neither context nor change", s)
	}
	return nil
}

// apply changes the text of a file.
func (f filePatch) apply(text string) (string, error) {
	for i, h := range f.hunks {
		from := strings.Join(h.old, "\n") + "\n"
		if n := strings.Count(text, from); n != 1 {
			return "", fmt.Errorf("%s: hunk %d does not apply any more: its text is there %d times, not once; write the patch anew for the present code", f.path, i+1, n)
		}
		text = strings.Replace(text, from, strings.Join(h.new, "\n")+"\n", 1)
	}
	return text, nil
}
