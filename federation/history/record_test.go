package history

import (
	"testing"

	"spillway"
	"spillway/federation/failover"
)

// A partition that no survivor knew began at the offset base of its group, not at 0.
func TestLossOfANewPartitionBeginsAtTheOffsetBase(t *testing.T) {
	last := failover.Share{Group: "orders", State: failover.Open, Kind: failover.Failover, Terms: []failover.Term{{Epoch: 1, Site: "east"}, {Epoch: 2, Site: "west"}},
		Prefix: failover.PartitionOffsets{"orders": {1020}}, Start: failover.PartitionOffsets{"orders": {1050, 1040}}}
	if r := Of(last, failover.Share{}, spillway.Offset(1000)); r.LostMost != 30+40 || r.From != "east" {
		t.Errorf("%+v", r)
	}
}
