package failover

import (
	"slices"
	"testing"

	"spillway"
)

// What may be lost is said by partition; sums would let one that is ahead of the
// reserved ends hide another that is behind.
func TestLossesAreByPartition(t *testing.T) {
	t.Parallel()
	k := Known{
		Order: []spillway.SiteID{"west", "north"},
		Ends: map[spillway.SiteID]PartitionOffsets{
			"west":  {"orders": {1010, 1500, 1020, 1030}},
			"north": {"orders": {1012, 1500, 1020}},
		},
		Reserved: PartitionOffsets{"orders": {1050, -1, 1020, 1080}, "new": {-1, 1050}},
		LogEnds:  PartitionOffsets{"orders": {1015, 1503, 1020, 1030}},
	}
	losses, least, most := k.Losses(Limits{Group: spillway.FailoverGroup{OffsetBase: 1000, ReservedBlock: 30}})
	want := []Loss{
		{Topic: "new", Partition: 1, From: 1000, To: 1050, LogEnd: -1, Records: -1},                     // no survivor knows it
		{Topic: "orders", Partition: 0, Site: "north", From: 1012, To: 1050, LogEnd: 1015, Records: -1}, // to be counted
		{Topic: "orders", Partition: 1, Site: "west", From: 1500, To: 1503, LogEnd: 1503, Records: -1},  // nothing reserved, yet the log has it
		{Topic: "orders", Partition: 3, Site: "west", From: 1030, To: 1080, LogEnd: 1030, Records: 0},   // all there was then
	}
	if !slices.Equal(losses, want) {
		t.Errorf("losses:\n%+v\nwant\n%+v", losses, want)
	}
	if most != 38+50+50 || least != 8+20+20 {
		t.Errorf("between %d and %d", least, most)
	}
}
