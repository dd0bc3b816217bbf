package kafka

import (
	"fmt"
	"testing"

	"spillway/broker"
)

// Clients may ask for the coordinators of as many names as they like.
func TestCoordinatorsAreBounded(t *testing.T) {
	t.Parallel()
	c := &Cluster{}
	c.mu.coordinators = make(map[coordinatorKey]int32)
	for n := range coordinatorsMax + 10 {
		c.remember(coordinatorKey{broker.TransactionCoordinator, fmt.Sprint(n)}, int32(n))
	}
	if n := len(c.mu.coordinators); n != coordinatorsMax {
		t.Errorf("%d are kept, at most %d", n, coordinatorsMax)
	}
	newest := coordinatorKey{broker.TransactionCoordinator, fmt.Sprint(coordinatorsMax + 9)}
	if c.mu.coordinators[newest] != coordinatorsMax+9 {
		t.Error("the newest one is not kept")
	}
	before := len(c.mu.coordinators)
	if c.remember(newest, 1); c.mu.coordinators[newest] != 1 || len(c.mu.coordinators) != before {
		t.Error("a known one takes another's place")
	}
}
