package federation

import (
	"testing"

	"spillway"
	"spillway/federation/router"
)

// A mirror says a mark again once it knows where its map tells what lies below it, and that
// counts. One that is late, or is said without it, takes nothing back.
func TestAMarkThatIsSaidAgainWithItsMap(t *testing.T) {
	m := newMarks(&Gateway{})
	defer m.close()
	line := mark{Site: "west", Topic: "orders", Epoch: 1, Session: 1, End: 12, Compared: true}
	for _, step := range []struct{ said, want int64 }{{0, 0}, {7, 7}, {0, 7}, {5, 7}, {9, 9}} {
		line.Map = step.said
		m.take(line)
		if got, ok := m.siteMark(router.Term{Epoch: 1, Site: "east"}, "west", spillway.TopicPartition{Topic: "orders"}); !ok || got.Map != step.want || got.End != 12 {
			t.Errorf("said at %d: %+v, want %d", step.said, got, step.want)
		}
	}
}
