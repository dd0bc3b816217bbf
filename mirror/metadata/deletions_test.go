package metadata

import "testing"

func TestDeletions(t *testing.T) {
	for name, test := range map[string]struct {
		deletion Deletion
		deleted  bool
	}{
		"the mirror's own":           {Deletion{true, &Created{"src", "id"}, "src", "id"}, true},
		"not followed":               {Deletion{false, &Created{"src", "id"}, "src", "id"}, false},
		"created by somebody":        {Deletion{true, nil, "src", "id"}, false},
		"created by nobody knows":    {Deletion{true, &Created{From: "src"}, "src", "id"}, false},
		"created anew here":          {Deletion{true, &Created{"src", "id"}, "src", "other"}, false},
		"from another cluster":       {Deletion{true, &Created{"old", "id"}, "src", "id"}, false},
		"gone here, and not created": {Deletion{true, &Created{From: "src"}, "src", ""}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if deleted, why := test.deletion.Verdict(); deleted != test.deleted || why == "" {
				t.Errorf("%v: %s", deleted, why)
			}
		})
	}
}
