package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"spillway"
)

// What is done with partitions while clients are held takes a moment, however many there
// are: each is looked at once.
func TestManyPartitionsAreLookedAtOnce(t *testing.T) {
	t.Parallel()
	const many = 200_000
	var here, there []spillway.TopicPartition
	for i := range many {
		tp := spillway.TopicPartition{Topic: fmt.Sprintf("orders-%06d", i), Partition: int32(i % 7)}
		if there = append(there, tp); i%1000 > 0 {
			here = append(here, tp)
		}
	}
	slices.Reverse(here)
	begun := time.Now()
	only := without(slices.Clone(there), here)
	topics := topicsOf(append(slices.Clone(there), there...))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if len(only) != many/1000 || only[1] != there[1000] || len(topics) != many || topics[5] != there[5].Topic {
		t.Errorf("%d partitions are only there, such as %v; %d topics", len(only), only[1], len(topics))
	}
}
