package demo

import (
	"strings"
	"testing"

	"spillway/tests/orders/check"
)

// Each promise is told with what it was tested on, and what embedded sites
// cannot show is said (C39).
func TestPromisesHaveNumbers(t *testing.T) {
	report := &check.Report{
		OK: true, Counts: map[check.Kind]int64{check.ReRead: 3}, Promises: map[string]string{"A": "held", "B": "held", "C": "held", "D": "broken", "E": "held"},
		Figures: check.Figures{Acked: 5592, Read: 11184, Records: map[string]int64{"east": 5592, "west": 5590}, MoveGaps: make([]check.MoveGap, 3)},
	}
	s := &story{world: &world{}, dead: map[string]bool{"north": true}}
	var text strings.Builder
	s.result(report).Text(&text)
	for _, want := range []string{
		"held: 0 split of 5592 acknowledged, over 3 moves", "held: 0 lost of 5592 acknowledged; 0 missing as announced",
		"held: 0 duplicated, 0 reordered, 0 effect-before-cause of 11184 read", "broken: 0 skipped, 3 re-read, 0 misplaced of 11184 read, over 3 moves",
		"of 11182 in the logs of 2 sites", "held: 1 sites killed under load",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("lacks %q:\n%s", want, text.String())
		}
	}
	for _, want := range untestable {
		if !strings.Contains(text.String(), want) {
			t.Errorf("does not say that it cannot test %q", want)
		}
	}
}
