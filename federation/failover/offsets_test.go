package failover

import (
	"testing"

	"spillway"
)

// A partition of which no survivor knows anything may have lost what was
// reserved of it, not all offsets from 0 on.
func TestLossIsCountedFromWhereOffsetsBegin(t *testing.T) {
	t.Parallel()
	reserved := PartitionOffsets{"orders": {spillway.Offset(701_000), spillway.Offset(702_000)}}
	least, most := lossBetween(PartitionOffsets{"orders": {700_900}}, reserved, 700_000, 500)
	if least != 1500 || most != 2100 {
		t.Errorf("between %d and %d records, want 1500 and 2100", least, most)
	}
}
