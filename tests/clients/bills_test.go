package clients

import (
	"slices"
	"testing"
)

func TestBillsAreJudged(t *testing.T) {
	orders := []Order{{0, 10, "c1", 0}, {1, 5, "c1", 1}, {2, 7, "c2", 0}, {3, 1, "c1", 0}}
	right := []string{"c1 1 10 0", "c2 1 7 2", "c1 2 15 1", "c1 3 16 3"}
	for _, c := range []struct {
		name                  string
		bills                 []string
		wrong, missing, twice int
	}{
		{"all is right", right, 0, 0, 0},
		{"another order of two partitions", []string{"c1 1 5 1", "c1 2 15 0", "c2 1 7 2", "c1 3 16 3"}, 0, 0, 0},
		{"one is missing", right[:3], 0, 1, 0},
		{"one is missing, and state has it", []string{right[0], right[1], right[3]}, 1, 1, 0},
		{"one twice, as it was", append(slices.Clone(right), right[3]), 2, 0, 1},
		{"one twice, and in the state", append(slices.Clone(right), "c1 4 17 3"), 1, 0, 1},
		{"a state that was lost", []string{right[0], right[1], "c1 1 5 1", "c1 2 6 3"}, 2, 0, 0},
		{"a partition out of order", []string{"c1 1 1 3", "c1 2 11 0", "c2 1 7 2", "c1 3 16 1"}, 1, 0, 0},
		{"another customer", []string{right[0], "c1 2 17 2", right[2], right[3]}, 1, 1, 0},
		{"of no order", append(slices.Clone(right), "c1 4 20 9", "x"), 2, 0, 0},
	} {
		if v := JudgeBills(orders, c.bills); len(v.Wrong) != c.wrong || v.Missing != c.missing || v.Twice != c.twice {
			t.Errorf("%s: %+v, want %d wrong, %d missing, %d twice", c.name, v, c.wrong, c.missing, c.twice)
		}
	}
	if missing, beyond := Compare([]string{"a", "b", "b"}, []string{"b", "c", "c", "a"}); missing != 1 || beyond != 2 {
		t.Errorf("%d missing, %d beyond", missing, beyond)
	}
}
