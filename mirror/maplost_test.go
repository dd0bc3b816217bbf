package mirror

import (
	"errors"
	"testing"

	"spillway"
)

// A site that serves in a later epoch has a map. Where it was lost, the site
// does not number its records anew: others had those numbers (C14, promise D).
func TestLostMapIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	east := embeddedSite(t, "east", map[string]int32{"orders": 1})
	m := testMirror(t, east)
	a := ordersAssignment("", 3)
	if err := m.Assign(testContext(t), a); !errors.Is(err, ErrMapLost) {
		t.Fatalf("got %v", err)
	}
	if v := m.reader.View(spillway.TopicPartition{Topic: "orders"}); !v.Empty() {
		t.Errorf("the map was begun anew: %v", v.Ranges())
	}
	// The first epoch needs none, and a partition that comes later finds one.
	a.Epoch = 1
	assign(t, m, a)
	a.Epoch = 3
	assign(t, m, a)
}
