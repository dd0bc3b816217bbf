package selection

import (
	"regexp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestPrefixes(t *testing.T) {
	for pattern, want := range map[string][]string{
		".*":                  {""},
		"orders":              nil,
		"orders.*":            {"orders"},
		"orders-.*|carts.*|x": {"orders-", "carts"},
		"(a|b).*":             nil, // missed
		"(?i)orders.*":        nil,
		"orders.*x":           nil,
		".+":                  nil,
		"a(b.*|c)":            {"ab"},
	} {
		r, err := Pattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := Prefixes(r); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
}

// Whatever the pattern: it matches all names that begin with one of its prefixes.
func TestPrefixesPromiseNothingFalse(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "b", ".*", ".", "b*", "(a|b.*)", "|", "a?", "[ab]", ".+"})
	rapid.Check(t, func(t *rapid.T) {
		pattern := ""
		for range rapid.IntRange(1, 5).Draw(t, "pieces") {
			pattern += piece.Draw(t, "piece")
		}
		r, err := regexp.Compile("^(?:" + pattern + ")$")
		if err != nil {
			return
		}
		for _, prefix := range Prefixes(r) {
			name := prefix + rapid.StringMatching("[abc]{0,5}").Draw(t, "rest")
			if !r.MatchString(name) {
				t.Fatalf("%s is said to match all with prefix %q, and does not match %q", pattern, prefix, name)
			}
		}
	})
}
