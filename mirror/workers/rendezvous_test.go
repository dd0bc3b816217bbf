package workers

import (
	"fmt"
	"slices"
	"testing"
)

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("host-%d-%d", i, 4000+i)
	}
	return all
}

func keys(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("p/orders>orders/%d", i)
	}
	return all
}

// Each worker gets its part: with so many keys the fifth part more or less is far
// outside of what chance does.
func TestKeysAreSpread(t *testing.T) {
	t.Parallel()
	const perWorker = 2000
	for _, n := range []int{2, 3, 5, 16} {
		count := make(map[string]int)
		for _, key := range keys(n * perWorker) {
			count[Owner(names(n), key)]++
		}
		for _, name := range names(n) {
			if c := count[name]; c < perWorker*8/10 || c > perWorker*12/10 {
				t.Errorf("%d workers: %s has %d keys of %d", n, name, c, n*perWorker)
			}
		}
	}
}

// B: who comes takes keys, who goes leaves keys, and nobody else's move.
func TestOnlyKeysOfWhoComesOrGoesMove(t *testing.T) {
	t.Parallel()
	all := keys(3000)
	for n := 1; n < 8; n++ {
		few, many := names(n), names(n+1)
		coming := many[n]
		moved := 0
		for _, key := range all {
			before, after := Owner(few, key), Owner(many, key)
			if before != after && after != coming {
				t.Fatalf("%s moved from %s to %s when %s came", key, before, after, coming)
			}
			if before != after {
				moved++
			}
		}
		if want := len(all) / (n + 1); moved < want*8/10 || moved > want*12/10 {
			t.Errorf("%d of %d keys moved to the one that came to %d others", moved, len(all), n)
		}
	}
}

// A: the order in which a worker knows the others says nothing.
func TestOwnerIsTheSameForAll(t *testing.T) {
	t.Parallel()
	some := names(5)
	turned := slices.Clone(some)
	slices.Reverse(turned)
	for _, key := range keys(500) {
		if Owner(some, key) != Owner(turned, key) {
			t.Fatalf("%s belongs to %s, or to %s", key, Owner(some, key), Owner(turned, key))
		}
	}
	if got := Owner(nil, "p/orders>orders/0"); got != "" {
		t.Errorf("a key of nobody belongs to %q", got)
	}
	// Processes of another version must come to the same.
	if got := Owner(names(3), "p/orders>orders/7"); got != "host-2-4002" {
		t.Errorf("the key belongs to %s now", got)
	}
}
