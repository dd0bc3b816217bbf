package mutants

import (
	"slices"
	"testing"
)

// every mutant that there must be, so that none gets lost.
var every = []string{"drop-batch", "expired-lease", "repeat-batch", "shift-offset", "stale-epoch", "swap-batches"}

// Each patch applies to the product as it is. This is cheap, so whoever changes
// the patched code hears of it at once.
func TestPatchesApply(t *testing.T) {
	mutants := load(t)
	for _, m := range mutants {
		if _, err := (Product{Root: root(t)}).overlay(m, t.TempDir()); err != nil {
			t.Error(err)
		}
	}
}

// load reads the product's mutants.
func load(t *testing.T) []Mutant {
	t.Helper()
	mutants, err := Load("testdata/patches")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range mutants {
		names = append(names, m.Name)
	}
	if !slices.Equal(names, every) {
		t.Fatalf("mutants %v, want %v", names, every)
	}
	return mutants
}
